"""What became of secret values that are not kept: told by their names and fingerprints, which a registry has beside the
contents."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from registry.formats.model import SecretChange, Sign
from registry.formats.secrets.redact import PLACEHOLDER

Prints = Mapping[str, str]  # name -> fingerprint of a value that was left out of the content
NO_PRINTS: Prints = MappingProxyType({})


def secret_changes(old: bytes, new: bytes, prints_old: Prints, prints_new: Prints) -> list[SecretChange]:
    """By name. A placeholder without a fingerprint stands for any value: beside one, whether a value was added or
    removed is not known, and not said."""
    known_old, known_new = _all_known(old, prints_old), _all_known(new, prints_new)
    changes = []
    for name in sorted({*prints_old, *prints_new}):
        sign: Sign = "+" if name not in prints_old else "-" if name not in prints_new else "~"
        is_known = (sign != "+" or known_old) and (sign != "-" or known_new)
        if is_known and prints_old.get(name) != prints_new.get(name):
            changes.append(SecretChange(name=name, sign=sign))
    return changes


def _all_known(content: bytes, prints: Prints) -> bool:
    return content.count(PLACEHOLDER.encode()) <= len(prints)

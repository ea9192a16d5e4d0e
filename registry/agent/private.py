"""Files of keys, passwords and secrets."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from registry.agent import limits
from registry.formats.secrets.masking import HIDDEN


class Unusable(Exception):
    """A file of keys or secrets cannot be used; the message says why and what to do."""


def private_text(path: Path) -> str:
    """What a file holds that nobody else may read. Raises Unusable."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & 0o077:
                raise Unusable(f"{path} can be read by others than its owner; chmod 600 it")
            data = file.read(limits.PRIVATE_BYTES + 1)
    except OSError as problem:
        raise Unusable(f"{path} cannot be read: {problem.strerror}") from None
    if len(data) > limits.PRIVATE_BYTES:
        raise Unusable(f"{path} has more than {limits.PRIVATE_BYTES:,} bytes")
    try:
        return data.decode().strip()
    except UnicodeDecodeError:
        raise Unusable(f"{path} is not text") from None


def without(text: str, secrets: Iterable[str]) -> str:
    """With HIDDEN in place of each of them, also as JSON writes it. To be called before `text` is cut: a part of a
    secret is not found."""
    forms = {form for secret in secrets if secret for form in (secret, json.dumps(secret)[1:-1])}
    if not forms:
        return text
    longest_first = sorted(forms, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), HIDDEN, text)

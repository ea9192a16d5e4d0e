"""What policies say, and which one decides: for every field the narrowest scope that says something."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Protocol

from msgspec import structs

from registry.core import keeping, limits, names
from registry.core.errors import Invalid, Reason
from registry.core.model import Policy

EVERYWHERE = "*"
VERDICTS = ("ok", "warn", "confirm", "block")  # from harmless to worst
DEFAULTS = Policy(unchanged="allow", checks="warn", literals="warn", verdict="block")
ALLOWED = {
    "unchanged": ("allow", "warn", "refuse"),
    "checks": ("warn", "refuse"),
    "literals": ("warn", "refuse"),
    "verdict": VERDICTS,
}
FIELDS = Policy.__struct_fields__
_PATTERN = re.compile(rf"[A-Za-z0-9._*?-]{{1,{limits.NAME_CHARS}}}", re.ASCII)


class Lookup(Protocol):
    def policy(self, scope: str) -> Policy | None: ...


def said(lookup: Lookup, scope: str) -> list[tuple[str, Policy]]:
    """The scopes that say something about `scope` (`*`, `ns/*` or `ns/name`), from the widest to the narrowest."""
    return [(each, policy) for each in _scopes(scope) if (policy := lookup.policy(each)) is not None]


@lru_cache(limits.NAMES_REMEMBERED)
def _scopes(scope: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((EVERYWHERE, f"{scope.partition('/')[0]}/*", scope)))


def effective(lookup: Lookup, scope: str) -> Policy:
    """What holds in `scope`: every field filled in."""
    found = said(lookup, scope)
    if not found:
        return DEFAULTS
    fields = structs.asdict(DEFAULTS)
    for _, policy in found:
        fields |= {field: value for field, value in structs.asdict(policy).items() if value}
    return Policy(**fields)


def source(lookup: Lookup, scope: str, field: str) -> str:
    """The scope that decides a field; empty: none, it is the default."""
    return next((each for each, policy in reversed(said(lookup, scope)) if getattr(policy, field)), "")


def is_immutable(policy: Policy, label: str) -> bool:
    """Patterns hold `*` and `?` only (see `check`): nothing else means something to fnmatch."""
    return any(fnmatchcase(label, pattern) for pattern in policy.immutable_labels.split(",") if pattern)


def check(fields: Mapping[str, str]) -> None:
    """Fields to be set. Raises Invalid."""
    if not fields:
        raise Invalid(Reason.INVALID_REQUEST, "no field of a policy is named", hint=f"one of {', '.join(FIELDS)}")
    for field, value in fields.items():
        if field not in FIELDS:
            raise Invalid(
                Reason.INVALID_REQUEST, f"not a field of a policy: {field[:80]!a}", hint=f"one of {', '.join(FIELDS)}"
            )
        if field == "immutable_labels":
            _check_patterns(value)
        elif field in keeping.PARSERS:
            if value:
                keeping.PARSERS[field](value)
        elif value and value not in ALLOWED[field]:
            raise Invalid(
                Reason.INVALID_REQUEST,
                f"not a value of {field}: {value[:80]!a}",
                hint=f"one of {', '.join(ALLOWED[field])}; empty takes it back",
            )


def _check_patterns(patterns: str) -> None:
    names.check_text(patterns, "immutable_labels", limits.PATTERNS_CHARS)
    for pattern in patterns.split(",") if patterns else ():
        if not _PATTERN.fullmatch(pattern):
            raise Invalid(
                Reason.INVALID_REQUEST,
                f"not a pattern of label keys: {pattern[:80]!a}",
                hint="write release-*,approved: label keys in which * stands for any characters and ? for one",
            )

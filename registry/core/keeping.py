"""What the policy fields `keep_last`, `keep_days` and `agents_expire_days` say."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from registry.core import limits
from registry.core.errors import Invalid, Reason
from registry.core.model import SNAPSHOTS, Policy

ALL = "all"
LAST_HINT = f"write 10 (of each class), published=10,periodic=3 (classes: {', '.join(SNAPSHOTS)}), or {ALL}"
DAYS_HINT = f"write a number of days up to {limits.KEEP_DAYS}, or {ALL}"
NEVER = "never"
EXPIRE_HINT = f"write a number of days from 1 to {limits.KEEP_DAYS}, or {NEVER}"
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
_NOTHING: Mapping[str, int | None] = MappingProxyType(dict.fromkeys(SNAPSHOTS, 0))


@dataclass(frozen=True)
class Keep:
    """What these two rules keep, beside all others."""

    everything: bool
    last: Mapping[str, int | None]  # newest versions of each class; None: all of it
    days: int  # younger than this


def of(policy: Policy) -> Keep:
    """Of a policy in force. One that says neither keeps everything."""
    last = parse_last(policy.keep_last) if policy.keep_last else _NOTHING
    days = parse_days(policy.keep_days) if policy.keep_days else 0
    silent = not policy.keep_last and not policy.keep_days
    return Keep(everything=silent or last is None or days is None, last=last or _NOTHING, days=days or 0)


def parse_last(text: str) -> Mapping[str, int | None] | None:
    """How many versions of each class; one that is not named is kept whole. None: all of all. Raises Invalid."""
    if len(text) > limits.KEEP_CHARS:
        raise _invalid("keep_last", text, LAST_HINT)
    if text == ALL:
        return None
    if _NUMBER.fullmatch(text):
        return dict.fromkeys(SNAPSHOTS, _number("keep_last", text, limits.KEEP_LAST, LAST_HINT))
    counts: dict[str, int | None] = {}
    for part in text.split(","):
        name, _, count = part.partition("=")
        if name not in SNAPSHOTS or name in counts:
            raise _invalid("keep_last", text, LAST_HINT)
        counts[name] = None if count == ALL else _number("keep_last", count, limits.KEEP_LAST, LAST_HINT)
    return dict.fromkeys(SNAPSHOTS, None) | counts


def parse_days(text: str) -> int | None:
    """None: all. Raises Invalid."""
    return None if text == ALL else _number("keep_days", text, limits.KEEP_DAYS, DAYS_HINT)


def parse_expiry(text: str) -> int | None:
    """None: never. Raises Invalid."""
    if text == NEVER:
        return None
    days = _number("agents_expire_days", text, limits.KEEP_DAYS, EXPIRE_HINT)
    if not days:
        raise _invalid("agents_expire_days", text, EXPIRE_HINT)
    return days


def agents_expire_days(policy: Policy) -> int | None:
    """Of a policy in force: after how many silent days agents are forgotten. None: never."""
    return parse_expiry(policy.agents_expire_days) if policy.agents_expire_days else None


def _number(field: str, text: str, most: int, hint: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise _invalid(field, text, hint)
    if int(text) > most:
        raise Invalid(
            Reason.TOO_LARGE, f"{field} is {text}", hint=f"at most {most}; {hint}", metadata={"limit": str(most)}
        )
    return int(text)


def _invalid(field: str, text: str, hint: str) -> Invalid:
    return Invalid(Reason.INVALID_REQUEST, f"not a value of {field}: {text[:80]!a}", hint=hint)


PARSERS: Mapping[str, Callable[[str], object]] = {
    "keep_last": parse_last,
    "keep_days": parse_days,
    "agents_expire_days": parse_expiry,
}

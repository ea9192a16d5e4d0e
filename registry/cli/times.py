"""Moments as people type them: past ones as `2026-11-01`, `2026-11-01T08:30`, or an age such as `2d`; those to come as
`2026-11-01T08:30Z`, or `+10m` from now."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

import click

_AGE = re.compile(r"([0-9]{1,6})([smhdw])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def moment(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """Callback of an option: unix milliseconds; 0 if it was not given."""
    if not value:
        return 0
    found = parse(value, time.time_ns() // 1_000_000)
    if found is None:
        hint = "2026-11-01, 2026-11-01T08:30Z, or 2d for two days ago"
        raise click.BadParameter(f"{value!r} is not a time: {hint}", context, parameter)
    return found


def parse(text: str, now_ms: int) -> int | None:
    """Unix milliseconds, without a time zone of UTC; None: not a time."""
    if age := _AGE.fullmatch(text):
        return max(now_ms - int(age[1]) * _SECONDS[age[2]] * 1000, 0)
    try:
        found = datetime.fromisoformat(text)
        return max(int(found.replace(tzinfo=found.tzinfo or UTC).timestamp() * 1000), 0)
    except (ValueError, OverflowError):
        return None


def moment_ahead(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """The same for a moment to come."""
    if not value:
        return 0
    found = parse_ahead(value, time.time_ns() // 1_000_000)
    if found is None:
        hint = "2026-11-01T08:30Z or 2026-11-01T09:30+01:00, with its zone, or +10m from now"
        raise click.BadParameter(f"{value!r} is not a time: {hint}", context, parameter)
    return found


def parse_ahead(text: str, now_ms: int) -> int | None:
    """Unix milliseconds; None: not a time, or one without its zone: whose morning is meant must not be guessed."""
    if age := _AGE.fullmatch(text.removeprefix("+")) if text.startswith("+") else None:
        return now_ms + int(age[1]) * _SECONDS[age[2]] * 1000
    try:
        found = datetime.fromisoformat(text)
        return max(int(found.timestamp() * 1000), 0) if found.tzinfo else None
    except (ValueError, OverflowError):
        return None

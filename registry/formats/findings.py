"""Lists of findings: bounded, worst first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TypeVar

from registry.core.limits import FINDING_CHARS
from registry.formats.limits import FINDINGS, FINDINGS_ALIKE
from registry.formats.model import LEVELS, Finding, Level

T = TypeVar("T")


def finding(code: str, level: Level, text: str, where: str = "") -> Finding:
    return Finding(code=code, level=level, text=text[:FINDING_CHARS], where=where[:FINDING_CHARS])


def alike(code: str, level: Level, found: Iterable[T], say: Callable[[T], tuple[str, str]]) -> list[Finding]:
    """The first FINDINGS_ALIKE of one code, put in words (text, where) by `say`; one more counts the rest."""
    rest = iter(found)
    out = [finding(code, level, *said) for said in map(say, islice(rest, FINDINGS_ALIKE))]
    more = sum(1 for _ in rest)
    return [*out, finding(code, level, f"{more} more like these")] if more else out


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """At most FINDINGS; past them the last one counts what is left out, at the worst level among it."""
    ordered = sorted(findings, key=lambda each: -LEVELS.index(each.level))
    if len(ordered) <= FINDINGS:
        return ordered
    kept, rest = ordered[: FINDINGS - 1], ordered[FINDINGS - 1 :]
    return [*kept, finding("findings_omitted", rest[0].level, f"{len(rest)} more, not listed")]

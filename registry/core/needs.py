"""What a version needs of the machines that install it, and whether what a machine says of itself meets that. Pure.

A need is `NAME` (there is such a fact, whatever its version) or `NAME OP VERSION`, without spaces: `cap:gpu`,
`plugin:langgenius/openai`, `dify>=1.9`, `dsl<0.6`, `agent>=0.2`. OP is one of == != >= <= > <. Facts are names with a
version, or with none.

Versions are numbers between dots, of any count (1.9 is 1.9.0), then what tells builds of the same numbers apart:
pre-releases come before them (1.9.0rc1, 1.9-beta.2, 1.9.dev3), anything else (1.9-2, 1.9.post1) behind them, and what
follows a + does not count. A leading v does not either.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from registry.core import limits
from registry.core.errors import Invalid, Reason

HINT = "write NAME or NAME>=VERSION without spaces: dify>=1.9, plugin:langgenius/openai, cap:gpu"
_NEED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._:/@-]*)(?:(==|!=|>=|<=|>|<)([^<>=!]+))?", re.ASCII)
_VERSION = re.compile(
    r"v?([0-9]{1,18}(?:\.[0-9]{1,18})*)((?:[.-]?[A-Za-z]|-[0-9])[A-Za-z0-9.-]*)?(?:\+[A-Za-z0-9.-]*)?", re.ASCII
)
_TAIL = re.compile(r"[0-9]{1,18}|[A-Za-z]+", re.ASCII)
_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_BEFORE = {"dev": -4, "a": -3, "alpha": -3, "b": -2, "beta": -2, "rc": -1, "c": -1, "pre": -1, "preview": -1}
_Key = tuple[tuple[int, ...], tuple[tuple[int, int, str], ...]]


class Need(NamedTuple):
    """operator and version empty: the fact has to be stated, whatever its version."""

    name: str
    operator: str = ""
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name}{self.operator}{self.version}"


def parse(text: str) -> Need:
    """Raises Invalid."""
    found = _NEED.fullmatch(text)
    if len(text) > limits.NEED_CHARS or found is None:
        raise _invalid(text)
    need = Need(found[1], found[2] or "", found[3] or "")
    if need.operator and _key(need.version) is None:
        raise _invalid(text)
    return need


def unmet(needs: Iterable[str], facts: Mapping[str, str]) -> list[str]:
    """Those that `facts` (name -> version, or empty) do not meet, in words: what is needed, and what is there. A need
    about a fact that is not stated, or whose version cannot be compared, is unmet; so is one of a newer release."""
    words = []
    for text in needs:
        try:
            need = parse(text)
        except Invalid:
            words.append(f"needs {text[: limits.NEED_CHARS]!a}, which this release cannot judge")
            continue
        if why := _unmet(need, facts.get(need.name)):
            words.append(f"needs {need}, {why}")
    return words


def _unmet(need: Need, fact: str | None) -> str:
    """Why it is not met; empty: it is."""
    if fact is None:
        return f"and nothing is known of {need.name} here"
    if not need.operator:
        return ""
    if not fact:
        return f"and which version of {need.name} is here is not known"
    have, want = _key(fact), _key(need.version)
    if have is None or want is None:
        return f"and {fact[: limits.NEED_CHARS]!a} is no version that can be compared"
    return "" if _OPERATORS[need.operator](have, want) else f"and {fact} is here"


def _key(version: str) -> _Key | None:
    """In the order of versions; None: it is none."""
    found = _VERSION.fullmatch(version)
    if found is None:
        return None
    numbers = [int(part) for part in found[1].split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    tail = [_part(part) for part in _TAIL.findall(found[2] or "")]
    return tuple(numbers), (*tail, (0, 0, ""))  # the end: behind pre-releases, before anything else


def _part(text: str) -> tuple[int, int, str]:
    if text.isdigit():
        return 1, int(text), ""
    word = text.lower()
    return (_BEFORE[word], 0, "") if word in _BEFORE else (2, 0, word)


def _invalid(text: str) -> Invalid:
    return Invalid(Reason.INVALID_REQUEST, f"not a need: {text[: limits.NEED_CHARS]!a}", hint=HINT)

"""Bounded reading of JSON, YAML and TOML into plain values: dicts with text keys, lists, text, numbers, booleans, None.

YAML is read as PyYAML's safe loader reads it, which is what Dify uses, with these differences: dates stay text, keys
become text, unknown tags become `{tag: value}`, and several documents become a list. Each is said in a warning.
"""

from __future__ import annotations

import datetime
import json
import re
import tomllib
from collections import Counter
from typing import Any, NamedTuple, NoReturn

from registry.core import limits
from registry.core.errors import Invalid, Reason
from registry.formats.limits import NUMBER_CHARS, WARNINGS
from registry.formats.secrets.masking import short
from registry.formats.values.canonical import canonical, number


class Parsed(NamedTuple):
    value: Any
    warnings: tuple[str, ...] = ()
    repeated: bool = False  # a key stands twice in one mapping: what the earlier one held is not in the value


def refuse(message: str, *, line: int = 0, column: int = 0, hint: str = "") -> NoReturn:
    """Raises Invalid(INVALID_CONTENT), with the place (counted from 1) if it is known."""
    if not line:
        raise Invalid(Reason.INVALID_CONTENT, message, hint=hint)
    place = {"line": str(line), "column": str(column)}
    raise Invalid(Reason.INVALID_CONTENT, f"{message} (line {line}, column {column})", hint=hint, metadata=place)


def too_deep() -> NoReturn:
    _past("PARSE_DEPTH", f"nested deeper than {limits.PARSE_DEPTH} levels")


def too_many() -> NoReturn:
    _past("PARSE_NODES", f"more than {limits.PARSE_NODES} values, aliases expanded")


def too_long() -> NoReturn:
    _past("PARSE_CHARS", f"more than {limits.PARSE_CHARS} characters, aliases expanded")


def _past(limit: str, message: str) -> NoReturn:
    raise Invalid(Reason.INVALID_CONTENT, f"{message} ({limit})", metadata={"limit": limit})


def read_json(text: str) -> Parsed:
    """Raises Invalid: not JSON, NaN or Infinity, a lone surrogate, past a bound."""
    repeated: dict[str, None] = {}

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs) and len(repeated) < WARNINGS:
            counts = Counter(key for key, _ in pairs)
            repeated.update(dict.fromkeys(key for key, count in counts.items() if count > 1))
        return value

    def constant(name: str) -> NoReturn:
        refuse(f"{name} is not JSON")

    def real(digits: str) -> int | float:
        value = float(digits)
        if value in (float("inf"), float("-inf")):
            refuse(f"a number of {len(digits)} characters is too large")
        return number(value)

    try:
        value = json.loads(text, object_pairs_hook=mapping, parse_constant=constant, parse_float=real)
    except json.JSONDecodeError as error:
        refuse(f"not JSON: {error.msg}", line=error.lineno, column=error.colno)
    except RecursionError:
        too_deep()
    except ValueError as error:
        refuse(f"not JSON: {error}")
    _bound(value)
    if "\\u" in text:
        try:
            canonical(value).encode()
        except UnicodeEncodeError:
            refuse("a lone surrogate (half of a \\u pair) is not text")
    twice = list(repeated)[:WARNINGS]
    return Parsed(
        value,
        tuple(f"key {short(key)!r} appears twice in one object; the last one counts" for key in twice),
        bool(twice),
    )


# What matters for the length of a TOML key: dots, what ends a key, and what hides either. An open end reads to where
# TOML itself would give up.
_TOML_PARTS = re.compile(
    r'''"""(?:[^"\\]|\\.|"(?!""))*+(?:"{3,5})?|"(?:[^"\\\n]|\\.)*+"?'''
    r"""|'{3}(?:[^']|'(?!''))*+(?:'{3,5})?|'[^'\n]*+'?|#[^\n]*+|\.|[=,\[\]{}\n]""",
    re.DOTALL,
)
_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def read_toml(text: str) -> Parsed:
    """Raises Invalid: not TOML, past a bound. Dates and times become their ISO text."""
    if any(line.count(".") > limits.PARSE_DEPTH for line in text.split("\n")):
        _bound_keys(text)
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = _TOML_PLACE.search(str(error))
        message = f"not TOML: {short(_TOML_PLACE.sub('', str(error)))}"
        if place is None or place[1] is None:
            refuse(message, line=text.count("\n") + 1, column=1)
        refuse(message, line=int(place[1]), column=int(place[2]))
    except RecursionError:
        too_deep()
    except ValueError as error:
        refuse(f"not TOML: {error}")
    _bound(value)
    return Parsed(_plain(value))


def _bound_keys(text: str) -> None:
    """Before tomllib looks: its time grows with the square of the parts of a key."""
    dots = 0
    for found in _TOML_PARTS.finditer(text):
        if found[0] == ".":
            dots += 1
            if dots > limits.PARSE_DEPTH:
                too_deep()
        elif found[0] in "=,[]{}\n":
            dots = 0


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return number(value)
    if isinstance(value, int) and value.bit_length() > 4 * NUMBER_CHARS:
        refuse(f"a number of more than {NUMBER_CHARS} digits")  # 0xfff...: text of it would raise later
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    return value


def _bound(value: Any) -> None:
    """Depth and count of a value, without recursion."""
    count, depth, level = 1, 0, [value]
    while level:
        depth += 1
        if depth > limits.PARSE_DEPTH and any(isinstance(item, (dict, list)) for item in level):
            too_deep()
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        count += len(below)
        if count > limits.PARSE_NODES:
            too_many()
        level = below

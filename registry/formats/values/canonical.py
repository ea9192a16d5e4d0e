"""One text for one value: JSON with keys sorted by code point, no blanks, UTF-8. Digests are made of it."""

from __future__ import annotations

import hashlib
import json
import marshal
from typing import Any

_encoder = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))
_EXACT = 2**53
_PLAIN = 2  # the version of marshal that writes values only, without references between them


def number(value: float) -> int | float:
    """The same number in its one spelling: 1.0 and 1 are equal, as in JSON."""
    return int(value) if value.is_integer() and abs(value) < _EXACT else value


def canonical(value: Any) -> str:
    """`value` holds dicts with text keys, lists, text, numbers as `number` gives them, booleans and None."""
    return _encoder.encode(value)


def value_digest(value: Any) -> str:
    return "v1:" + hashlib.sha256(canonical(value).encode()).hexdigest()


def semantic_digest(value: Any) -> str:
    return "s1:" + hashlib.sha256(canonical(value).encode()).hexdigest()


def same(old: Any, new: Any) -> bool:
    """Equal as canonical values: 1 is not true, and NaN is NaN."""
    if not isinstance(old, (dict, list)) and type(old) is type(new):
        return bool(old == new) or (isinstance(old, float) and repr(old) == repr(new))
    return surely_same(old, new) or canonical(old) == canonical(new)


def surely_same(old: Any, new: Any) -> bool:
    """Quick, and right when it says yes. No: different, or NaN somewhere, or mappings in another order of keys."""
    if not isinstance(old, (dict, list)):
        return type(old) is type(new) and bool(old == new)
    return bool(old == new) and marshal.dumps(old, _PLAIN) == marshal.dumps(new, _PLAIN)  # 1 == true, but not there

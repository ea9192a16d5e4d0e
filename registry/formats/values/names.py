"""A small number for each value, so that large ones are compared again and again for nothing."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any


class Names:
    """Equal numbers: equal canonical values. Each list and mapping is looked at once; it must not change meanwhile."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._known: dict[int, tuple[int, Any]] = {}  # by identity; the value is kept, so that its id stays its own
        self._chars: list[int] = []

    def of(self, value: Any) -> int:
        kind = type(value)
        if kind is not dict and kind is not list:
            return self._number((kind, repr(value) if kind is float else value), _scalar_chars(value))
        known = self._known.get(id(value))
        if known is not None:
            return known[0]
        if kind is dict:
            keys = sorted(value)
            parts = [self.of(value[key]) for key in keys]
            chars = 2 + sum([len(key) + 4 for key in keys])
            number = self._number((*keys, *parts), chars + sum([self._chars[part] for part in parts]))
        else:
            parts = [self.of(item) for item in value]
            number = self._number((list, *parts), 2 + len(parts) + sum([self._chars[part] for part in parts]))
        self._known[id(value)] = number, value
        return number

    def chars(self, value: Any) -> int:
        """About the length of its JSON."""
        return self._chars[self.of(value)]

    def _number(self, key: Hashable, chars: int) -> int:
        number = self._numbers.setdefault(key, len(self._chars))
        if number == len(self._chars):
            self._chars.append(chars)
        return number


def _scalar_chars(value: Any) -> int:
    if isinstance(value, str):
        return len(value) + 2
    return value.bit_length() // 3 + 1 if type(value) is int else 5

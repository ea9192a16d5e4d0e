"""What differs between two plain values, by path."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from registry.formats.limits import CHANGES, CHANGES_CHARS, KEY_CHARS
from registry.formats.model import Change, Sign
from registry.formats.secrets.masking import child_is_secret, declares_secret, mask, short, shown_pair
from registry.formats.values.align import Work, stretches
from registry.formats.values.canonical import canonical, same, surely_same
from registry.formats.values.names import Names
from registry.formats.values.words import text_changes

T = TypeVar("T")

# What names an item of a list, the first that does for all items of both lists.
_NAMES = ("id", "case_id", "variable", "name", "key", "role")
_PLAIN_KEY = re.compile(r"[\w-]+")
_LOOK_AHEAD = 5  # levels


class Listing:
    """What one comparison may still list; the rest is counted."""

    def __init__(self, changes: int = CHANGES, chars: int = CHANGES_CHARS) -> None:
        self._changes = changes
        self._chars = chars
        self.omitted = 0
        self.work = Work()

    @property
    def full(self) -> bool:
        return self._changes <= 0 or self._chars <= 0

    def within(self, items: list[T], chars: int = 2 * KEY_CHARS) -> list[T]:
        """As many items, of about so many characters each, as may still be listed."""
        kept = items[: max(0, min(self._changes, -(-self._chars // chars)))]
        self._changes -= len(kept)
        self._chars -= len(kept) * chars
        self.omitted += len(items) - len(kept)
        return kept


def differences(
    old: Any, new: Any, listing: Listing, *, path: str = "", where: str = "", secret: bool = False
) -> list[Change]:
    """Every difference, in order of path. `secret`: the values themselves are secret."""
    if surely_same(old, new):
        return []
    walk = _Walk(listing, where)
    walk.compare(old, new, path, secret)
    return walk.changes


def added(value: Any, listing: Listing, *, path: str, where: str = "", secret: bool = False) -> list[Change]:
    walk = _Walk(listing, where)
    walk.note("+", path, None, value, secret)
    return walk.changes


def removed(value: Any, listing: Listing, *, path: str, where: str = "", secret: bool = False) -> list[Change]:
    walk = _Walk(listing, where)
    walk.note("-", path, value, None, secret)
    return walk.changes


def join(path: str, key: str) -> str:
    """`path` and a key below it, as `a.b["odd key"]`."""
    key = short(key)
    if not _PLAIN_KEY.fullmatch(key):
        return f"{path}[{canonical(key)}]"
    return f"{path}.{key}" if path else key


class _Walk:
    def __init__(self, listing: Listing, where: str) -> None:
        self.changes: list[Change] = []
        self._listing = listing
        self._where = where
        self._names = Names()
        self._depth = 0

    def compare(self, old: Any, new: Any, path: str, secret: bool) -> None:
        self._depth += 1
        if isinstance(old, dict) and isinstance(new, dict):
            self._mappings(old, new, path, secret)
        elif isinstance(old, list) and isinstance(new, list):
            self._lists(old, new, path, secret)
        elif not same(old, new):
            # What one side declares secret may be written bare on the other.
            self.note("~", path, old, new, secret or declares_secret(old) or declares_secret(new))
        self._depth -= 1

    def _equal(self, old: Any, new: Any) -> bool:
        """Saves a walk where nothing changed. Not further down: each level would look at what is below it again."""
        return surely_same(old, new) if self._depth < _LOOK_AHEAD or not isinstance(old, (dict, list)) else False

    def note(self, sign: Sign, path: str, old: Any, new: Any, secret: bool) -> None:
        if self._listing.full:
            self._listing.omitted += 1
            return
        hidden_old, hidden_new = mask(old, secret), mask(new, secret)
        masked = not (same(old, hidden_old) and same(new, hidden_new))
        before, after = shown_pair(hidden_old, hidden_new)
        change = Change(sign=sign, path=path, old=before, new=after, where=self._where, masked=masked)
        if isinstance(hidden_old, str) and isinstance(hidden_new, str):
            change.diff, change.words = text_changes(hidden_old, hidden_new, self._listing.work)
        chars = len(path) + len(canonical([before, after])) + sum(map(len, change.diff))
        chars += sum(len(text) for _, text in change.words)
        self.changes += self._listing.within([change], chars)

    def _mappings(self, old: dict[str, Any], new: dict[str, Any], path: str, secret: bool) -> None:
        for key in sorted(old.keys() | new.keys()):
            if key in old and key in new and self._equal(old[key], new[key]):
                continue
            below = join(path, key)
            if key not in new:
                self.note("-", below, old[key], None, secret or child_is_secret(old, key))
            elif key not in old:
                self.note("+", below, None, new[key], secret or child_is_secret(new, key))
            else:
                hide = secret or child_is_secret(old, key) or child_is_secret(new, key)
                self.compare(old[key], new[key], below, hide)

    def _lists(self, old: list[Any], new: list[Any], path: str, secret: bool) -> None:
        name = common_name(old, new)
        if name is None:
            self._sequences(old, new, path, secret)
            return
        before = {str(item[name]): item for item in old}
        after = {str(item[name]): item for item in new}
        for key in [*before, *(key for key in after if key not in before)]:
            below = f"{path}[{short(key)}]"
            if key not in after:
                self.note("-", below, before[key], None, secret)
            elif key not in before:
                self.note("+", below, None, after[key], secret)
            elif not self._equal(before[key], after[key]):
                self.compare(before[key], after[key], below, secret)
        kept_before = [key for key in before if key in after]
        kept_after = [key for key in after if key in before]
        if kept_before != kept_after:
            self.note("~", f"{path}[order]", kept_before, kept_after, secret)

    def _sequences(self, old: list[Any], new: list[Any], path: str, secret: bool) -> None:
        name = self._names.of
        found = stretches([name(item) for item in old], [name(item) for item in new], self._listing.work)
        for start_old, end_old, start_new, end_new in found:
            paired = min(end_old - start_old, end_new - start_new)
            for offset in range(paired):
                index = start_new + offset
                self.compare(old[start_old + offset], new[index], f"{path}[{index}]", secret)
            for index in range(start_old + paired, end_old):
                self.note("-", f"{path}[{index}]", old[index], None, secret)
            for index in range(start_new + paired, end_new):
                self.note("+", f"{path}[{index}]", None, new[index], secret)


def common_name(old: list[Any], new: list[Any]) -> str | None:
    """The key whose text names each item of both lists, and some item in both. None: they go by place and content."""
    items = old + new
    if not items or not all(isinstance(item, dict) for item in items):
        return None
    for name in _NAMES:
        if not all(isinstance(item.get(name), (str, int)) for item in items):
            continue
        before, after = [str(item[name]) for item in old], [str(item[name]) for item in new]
        unique = len(set(before)) == len(before) and len(set(after)) == len(after)
        if unique and (not old or not new or set(before) & set(after)):
            return name
    return None

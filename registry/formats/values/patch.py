"""JSON Patch (RFC 6902) between two canonical values.

A patch holds whole values, secrets too, for masked it could not be applied: give it only to those who may read both
contents, and never log it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from registry.formats.limits import ALIGN_WORK, PATCH_MOVE_CHARS, PATCH_POINTER_CHARS, PATCH_STEP_CHARS
from registry.formats.values.align import Stretch, Work, stretches
from registry.formats.values.canonical import number, same
from registry.formats.values.compare import common_name
from registry.formats.values.names import Names

Operation: TypeAlias = dict[str, Any]


def patch(old: Any, new: Any) -> list[Operation]:
    """Operations that turn `old` into `new`: add, remove, replace and move. None if they are equal.

    What changed in most of its parts is replaced as a whole, so a patch stays in proportion to `new`. Items of lists
    are found by their ids where they have some, else by content. The values in it are those of `new`, not copies.
    """
    return [step.operation() for step in _Patching().between(old, new, _Place(None, "", 0))[0]]


class _Place(NamedTuple):
    """A JSON Pointer. Written out only where it is needed: there may be a long one for each of very many values."""

    parent: _Place | None
    token: str
    chars: int

    def below(self, token: str | int) -> _Place:
        escaped = _escaped(str(token))
        return _Place(self, escaped, self.chars + 1 + len(escaped))

    def pointer(self) -> str:
        tokens: list[str] = []
        place = self
        while place.parent is not None:
            tokens.append(place.token)
            place = place.parent
        return "".join(f"/{token}" for token in reversed(tokens))


class _Step(NamedTuple):
    op: str
    place: _Place
    value: Any = None
    source: _Place | None = None

    def operation(self) -> Operation:
        path = self.place.pointer()
        if self.source is not None:
            return {"op": self.op, "from": self.source.pointer(), "path": path}
        return {"op": self.op, "path": path} | ({} if self.op == "remove" else {"value": self.value})


_Steps: TypeAlias = tuple[list[_Step], int]  # and what they cost, in characters, ordinary pointers not counted


class _Patching:
    def __init__(self) -> None:
        self._names = Names()
        self._work = Work()

    def between(self, old: Any, new: Any, at: _Place) -> _Steps:
        if self._names.of(old) == self._names.of(new):
            return [], 0
        replaced = [_Step("replace", at, new)], self._cost(at) + self._names.chars(new)
        if isinstance(old, dict) and isinstance(new, dict):
            steps = self._mappings(old, new, at)
        elif isinstance(old, list) and isinstance(new, list):
            steps = self._lists(old, new, at, replaced[1])
        else:
            return replaced
        return steps if steps[1] <= replaced[1] else replaced

    def _cost(self, at: _Place) -> int:
        return PATCH_STEP_CHARS + max(0, at.chars - PATCH_POINTER_CHARS)

    def _mappings(self, old: dict[str, Any], new: dict[str, Any], at: _Place) -> _Steps:
        steps: list[_Step] = []
        cost = 0
        gone: dict[int, list[str]] = defaultdict(list)
        for key in sorted(old.keys() - new.keys()):
            gone[self._names.of(old[key])].append(key)
        come: list[_Step] = []
        for key in sorted(new.keys() - old.keys()):
            value, place = new[key], at.below(key)
            same_value = gone.get(self._names.of(value))
            if same_value and self._names.chars(value) >= PATCH_MOVE_CHARS:
                come.append(_Step("move", place, source=at.below(same_value.pop(0))))
                cost += self._cost(place)
            else:
                come.append(_Step("add", place, value))
                cost += self._cost(place) + self._names.chars(value)
        for key in sorted(key for keys in gone.values() for key in keys):
            steps.append(_Step("remove", at.below(key)))
            cost += self._cost(steps[-1].place)
        steps += come
        for key in sorted(old.keys() & new.keys()):
            inner, inner_cost = self.between(old[key], new[key], at.below(key))
            steps += inner
            cost += inner_cost
        return steps, cost

    def _lists(self, old: list[Any], new: list[Any], at: _Place, limit: int) -> _Steps:
        origin, moved = self._origins(old, new)
        kept = {index for index in origin if index is not None}
        steps = [_Step("remove", at.below(index)) for index in range(len(old) - 1, -1, -1) if index not in kept]
        cost = self._cost(at) * (len(steps) + len(moved))
        cost += sum(self._cost(at) + self._names.chars(new[j]) for j, i in enumerate(origin) if i is None)
        if cost > limit:
            return [], cost
        steps += _arranged(sorted(kept), origin, moved, new, at)
        for index, source in enumerate(origin):
            if source is not None:
                inner, inner_cost = self.between(old[source], new[index], at.below(index))
                steps += inner
                cost += inner_cost
        return steps, cost

    def _origins(self, old: list[Any], new: list[Any]) -> tuple[list[int | None], set[int]]:
        """Of each new item, the index of the old one it is made of; and the new indexes of those that moved."""
        name = common_name(old, new)
        before: list[Any] = [str(item[name]) if name else self._names.of(item) for item in old]
        after: list[Any] = [str(item[name]) if name else self._names.of(item) for item in new]
        found = stretches(before, after, self._work)
        origin: list[int | None] = [None] * len(new)
        at_old = at_new = 0
        for a, b, c, d in [*found, (len(old), len(old), len(new), len(new))]:
            origin[at_new:c] = range(at_old, a)
            at_old, at_new = b, d
        moved = _moved(before, after, found)
        if name is None:  # an item of another name is another item
            _paired(found, moved, origin)
        for index, source in moved.items():
            origin[index] = source
        return origin, set(moved)


def _paired(found: list[Stretch], moved: Mapping[int, int], origin: list[int | None]) -> None:
    """What is left in a stretch, old and new in order, as changed items."""
    gone = set(moved.values())
    for a, b, c, d in found:
        left = (index for index in range(a, b) if index not in gone)
        for index, source in zip((index for index in range(c, d) if index not in moved), left, strict=False):
            origin[index] = source


def _moved(before: Sequence[Any], after: Sequence[Any], found: list[Stretch]) -> dict[int, int]:
    """New index -> old index of items that are in both lists at different places. None if there are too many."""
    gone: dict[Any, list[int]] = defaultdict(list)
    for a, b, _, _ in reversed(found):
        for index in range(b - 1, a - 1, -1):
            gone[before[index]].append(index)
    moved: dict[int, int] = {}
    for _, _, c, d in found:
        for index in range(c, d):
            if gone.get(after[index]):
                moved[index] = gone[after[index]].pop()
    come = sum(d - c for _, _, c, d in found)
    return moved if come * (len(before) + len(after)) <= ALIGN_WORK else {}


def _arranged(current: list[int], origin: list[int | None], moved: set[int], new: list[Any], at: _Place) -> list[_Step]:
    """Add and move, from the front: each item goes behind the one before it.

    `current`: the old items that are left, by index.
    """
    if not moved:
        return [_Step("add", at.below(j), new[j]) for j, source in enumerate(origin) if source is None]
    steps: list[_Step] = []
    last = -1  # the place of the item before
    for index, source in enumerate(origin):
        if source is None:
            last += 1
            current.insert(last, -1)
            steps.append(_Step("add", at.below(last), new[index]))
        elif index not in moved:
            last = current.index(source, last + 1)
        else:
            place = current.index(source)
            target = last if place <= last else last + 1
            if place != target:
                current.insert(target, current.pop(place))
                steps.append(_Step("move", at.below(target), source=at.below(place)))
            last = target
    return steps


def apply(value: Any, operations: Sequence[Mapping[str, Any]]) -> Any:
    """A copy of `value` after RFC 6902 operations (add, remove, replace, move, copy, test), all or nothing.

    Raises ValueError that names the operation and the pointer that failed.
    """
    holder: list[Any] = [_copied(value)]  # so that the whole value is replaced like any other
    for position, operation in enumerate(operations):
        try:
            if not isinstance(operation, Mapping):
                raise _FailedError("not an object")
            _operate(holder, operation)
        except _FailedError as error:
            raise ValueError(f"operation {position}: {error}") from None
    return holder[0]


class _FailedError(Exception):
    pass


def _operate(holder: list[Any], operation: Mapping[str, Any]) -> None:
    name = _member(operation, "op")
    target = _tokens(operation, "path")
    if name in ("add", "replace", "test"):
        value = _copied(_member(operation, "value"))
        if name == "add":
            _add(holder, target, value)
            return
        parent, key = _find(holder, target)
        if name == "replace":
            parent[key] = value
        elif not same(parent[key], value):
            raise _FailedError(f"{_pointer(target)} is not the value it is tested for")
    elif name == "remove":
        _remove(holder, target)
    elif name in ("move", "copy"):
        source = _tokens(operation, "from")
        parent, key = _find(holder, source)
        value = parent[key]
        if name == "copy":
            _add(holder, target, _copied(value))
        elif source != target:
            if target[: len(source)] == source:
                raise _FailedError(f"{_pointer(source)} cannot move into itself, to {_pointer(target)}")
            _remove(holder, source)
            _add(holder, target, value)
    else:
        raise _FailedError(f"{name!r:.40} is not an operation")


def _add(holder: list[Any], target: list[str], value: Any) -> None:
    parent, key = _find(holder, target, adds=True)
    if isinstance(parent, list) and parent is not holder:
        parent.insert(key, value)
    else:
        parent[key] = value


def _remove(holder: list[Any], target: list[str]) -> None:
    if not target:
        raise _FailedError("the whole value cannot be removed")
    parent, key = _find(holder, target)
    del parent[key]


def _member(operation: Mapping[str, Any], name: str) -> Any:
    if name not in operation:
        raise _FailedError(f"it has no member {name!r}")
    return operation[name]


_BAD_TILDE = re.compile(r"~(?![01])")
_INDEX = re.compile(r"0|[1-9][0-9]{0,17}")


def _tokens(operation: Mapping[str, Any], name: str) -> list[str]:
    pointer = _member(operation, name)
    if not isinstance(pointer, str) or (pointer and pointer[0] != "/") or _BAD_TILDE.search(pointer):
        raise _FailedError(f"{name} {pointer!r:.200} is not a JSON Pointer")
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]


def _pointer(tokens: list[str]) -> str:
    return "".join(f"/{_escaped(token)}" for token in tokens) or "the whole value"


def _escaped(token: str) -> str:
    return token.replace("~", "~0").replace("/", "~1")


def _find(holder: list[Any], tokens: list[str], *, adds: bool = False) -> tuple[Any, Any]:
    """What holds the value at a pointer, and its key or index in there. `adds`: the last one need not be there yet."""
    parent: Any = holder
    key: str | int = 0
    for depth, token in enumerate(tokens, 1):
        parent = parent[key]
        new = adds and depth == len(tokens)
        if isinstance(parent, dict):
            key = token
            found = new or token in parent
        elif isinstance(parent, list):
            key = len(parent) if new and token == "-" else int(token) if _INDEX.fullmatch(token) else -1
            found = 0 <= key < len(parent) + new
        else:
            found = False
        if not found:
            raise _FailedError(f"{_pointer(tokens[:depth])} is not there")
    return parent, key


def _copied(value: Any) -> Any:
    """Nothing shared with the original: what YAML repeats by an alias may change in one place only."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return number(value) if isinstance(value, float) else value

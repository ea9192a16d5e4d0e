"""Whether what clients saw can have happened one at a time, each call at some moment between its beginning and its end.

A register is a pointer: every write raises its generation by one, so the generations that clients were told order all
writes, and checking is a sort (`violations`). What became of the writes with an unknown outcome is read from the audit
log, which is checked at the same time: each acknowledged write stands there once, what was refused does not.

`linearizable` knows no generations' order and no audit log: it searches for an order, after Wing and Gong, and is the
oracle of the other one on small histories.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["done", "refused", "unknown", "unavailable"]
Value = tuple[int, int]  # generation, version
FIRST: Value = (0, 0)  # never switched


@dataclass(frozen=True, slots=True)
class Operation:
    """One call. Times are of one monotonic clock.

    generation, version: of the reply: what was written, what was read, or the record that a refusal carries (0: none).
    target: the version asked for; 0: the registry picks. expected: the generation it was to be done at.
    `unknown`: it may have happened or may still happen; `refused`, `unavailable`: it has not and will not.
    """

    register: str
    name: str  # of this call alone; writes stand under it in the audit log
    kind: Literal["write", "read"]
    began: float
    ended: float
    outcome: Outcome
    generation: int = 0
    version: int = 0
    target: int = 0
    expected: int | None = None

    @property
    def written(self) -> bool:
        return self.kind == "write" and self.outcome == "done"

    @property
    def seen(self) -> bool:
        """It tells the state of the register at some moment, and changed nothing."""
        if self.kind == "read":
            return self.outcome == "done"
        return self.outcome == "refused" and (self.generation, self.version) != FIRST


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the audit log of a register."""

    generation: int
    version: int
    name: str


@dataclass(frozen=True, slots=True)
class Violation:
    what: str
    operations: tuple[Operation, ...]

    def __str__(self) -> str:
        return "\n    ".join([self.what, *map(str, self.operations)])


def violations(operations: Iterable[Operation], audit: Mapping[str, Sequence[Entry]]) -> list[Violation]:
    """Everything that cannot be. `audit`: all entries of each register, oldest first."""
    by_register: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        by_register[operation.register].append(operation)
    found: list[Violation] = []
    for register in sorted(by_register.keys() | audit.keys()):
        found += _violations(by_register[register], audit.get(register, ()))
    return found


def _violations(operations: list[Operation], entries: Sequence[Entry]) -> list[Violation]:
    by_name = {entry.name: entry for entry in entries}
    found = [
        Violation(f"generation {entry.generation} stands in the audit log in place {place}: {entry}", ())
        for place, entry in enumerate(entries, 1)
        if entry.generation != place
    ]
    if len(by_name) < len(entries):
        found.append(Violation("a call took effect more than once", ()))
    writes = {operation.name: operation for operation in operations if operation.kind == "write"}
    found += [Violation(f"nobody asked for {entry}", ()) for name, entry in by_name.items() if name not in writes]
    for write in writes.values():
        found += [Violation(what, (write,)) for what in _misreported(write, by_name.get(write.name))]
    versions = {entry.generation: entry.version for entry in entries} | {FIRST[0]: FIRST[1]}
    for each in operations:
        if each.seen and versions.get(each.generation) != each.version:
            found.append(Violation("saw what was never there", (each,)))
        elif each.seen and each.kind == "write" and each.expected == each.generation:
            found.append(Violation("refused at the very generation it expected", (each,)))
    return found + list(_out_of_order(operations, by_name))


def _misreported(write: Operation, entry: Entry | None) -> Iterator[str]:
    if entry is None:
        if write.outcome == "done":
            yield "acknowledged and lost"
        return
    if write.outcome in ("refused", "unavailable"):
        yield f"told that it did not happen, but it did: {entry}"
    if write.outcome == "done" and (write.generation, write.version) != (entry.generation, entry.version):
        yield f"told otherwise than it happened: {entry}"
    if write.target not in (0, entry.version):
        yield f"did not do what it was asked for: {entry}"
    if write.expected is not None and write.expected + 1 != entry.generation:
        yield f"happened at another generation than it expected: {entry}"


def _out_of_order(operations: list[Operation], by_name: Mapping[str, Entry]) -> Iterator[Violation]:
    """By generation, the write first: whoever comes later there must not have ended before an earlier one began."""
    order: list[tuple[int, bool, float, float, Operation]] = []
    for each in operations:
        if each.seen:
            order.append((each.generation, True, each.began, each.ended, each))
        elif each.kind == "write" and (entry := by_name.get(each.name)):
            order.append((entry.generation, False, each.began, each.ended if each.written else math.inf, each))
    order.sort(key=lambda item: item[:3])
    latest: Operation | None = None
    for _, _, began, ended, each in order:
        if latest is not None and ended < latest.began:
            yield Violation("the second ended before the first began, and yet comes after it", (latest, each))
        if latest is None or began > latest.began:
            latest = each


def linearizable(operations: Iterable[Operation]) -> bool:
    """Whether some order of one register's calls explains every reply, by trying. Exponential: for a dozen calls."""
    calls = [each for each in operations if each.seen or each.written or each.outcome == "unknown"]
    ends = [math.inf if each.outcome == "unknown" else each.ended for each in calls]
    picks = sorted({version for each in calls for version in (each.version, each.target)})
    dead: set[tuple[frozenset[int], Value]] = set()

    def explains(left: frozenset[int], state: Value) -> bool:
        if all(calls[number].outcome == "unknown" for number in left):
            return True
        if (left, state) in dead:
            return False
        first_end = min(ends[number] for number in left)
        for number in left:
            if calls[number].began <= first_end:
                for after in _after(calls[number], state, picks):
                    if explains(left - {number}, after):
                        return True
        dead.add((left, state))
        return False

    return explains(frozenset(range(len(calls))), FIRST)


def _after(call: Operation, state: Value, picks: Iterable[int]) -> Iterator[Value]:
    """The states that this call can leave behind if it takes effect now; none: it cannot."""
    generation, _ = state
    if call.seen:
        if state == (call.generation, call.version) and not (call.kind == "write" and call.expected == generation):
            yield state
        return
    if call.expected not in (None, generation):
        return
    told = {call.version} if call.written else {call.target} if call.target else {*picks}
    for version in told:
        if call.target in (0, version) and (not call.written or call.generation == generation + 1):
            yield generation + 1, version

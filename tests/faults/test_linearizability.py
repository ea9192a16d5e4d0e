"""The checker of histories finds what is wrong with them, and nothing else: hand-made ones, and small random ones
against the search for an order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.linearizability import Entry, Operation, linearizable, violations

REGISTER = "faults/a active"


def write(name: str, began: float, ended: float, generation: int, version: int = 1, **more: object) -> Operation:
    done = Operation(REGISTER, name, "write", began, ended, "done", generation, version, target=version)
    return replace(done, **more)  # type: ignore[arg-type]


def unknown(name: str, began: float, ended: float, target: int = 1, expected: int | None = None) -> Operation:
    return Operation(REGISTER, name, "write", began, ended, "unknown", target=target, expected=expected)


def read(began: float, ended: float, generation: int, version: int = 1) -> Operation:
    return Operation(REGISTER, f"read at {began}", "read", began, ended, "done", generation, version)


def refused(began: float, ended: float, expected: int, generation: int, version: int = 1) -> Operation:
    return Operation(
        REGISTER, f"refused at {began}", "write", began, ended, "refused", generation, version, 1, expected
    )


def entries(*names: str, versions: tuple[int, ...] = ()) -> list[Entry]:
    numbers = versions or (1,) * len(names)
    return [Entry(place, version, name) for place, (name, version) in enumerate(zip(names, numbers, strict=True), 1)]


def found(operations: list[Operation], audit: list[Entry]) -> list[str]:
    return [violation.what.split(":")[0] for violation in violations(operations, {REGISTER: audit})]


GOOD = {
    "one after the other": (
        [write("a", 0, 1, 1), read(2, 3, 1), write("b", 4, 5, 2, 2)], entries("a", "b", versions=(1, 2))),
    "a read beside a write sees the old value": ([write("a", 0, 5, 1), read(1, 2, 0, 0), read(3, 4, 1)], entries("a")),
    "writes beside each other in either order": ([write("a", 0, 9, 2), write("b", 0, 9, 1)], entries("b", "a")),
    "an unknown write that never happened": ([unknown("a", 0, 1), read(2, 3, 0, 0)], []),
    "an unknown write that happened late": ([unknown("a", 0, 1), read(2, 3, 0, 0), read(4, 5, 1)], entries("a")),
    "a refusal carries the current record": ([write("a", 0, 1, 1), refused(2, 3, 0, 1)], entries("a")),
}  # fmt: skip
BAD = {
    "the second ended before the first began, and yet comes after it": (
        [write("a", 0, 1, 1), write("b", 2, 3, 2), read(4, 5, 1)], entries("a", "b")),
    "acknowledged and lost": ([write("a", 0, 1, 1), read(2, 3, 0, 0)], []),
    "saw what was never there": ([write("a", 0, 1, 1), read(2, 3, 1, 2)], entries("a")),
    "refused at the very generation it expected": ([write("a", 0, 1, 1), refused(2, 3, 1, 1)], entries("a")),
    "happened at another generation than it expected": (
        [write("a", 0, 1, 1), write("b", 2, 3, 2, expected=0)], entries("a", "b")),
    "did not do what it was asked for": ([write("a", 0, 1, 1, version=2, target=1)], entries("a", versions=(2,))),
}  # fmt: skip


@pytest.mark.parametrize("what", GOOD)
def test_a_history_that_can_have_happened(what: str) -> None:
    operations, audit = GOOD[what]
    assert found(operations, audit) == []
    assert linearizable(operations)


@pytest.mark.parametrize("what", BAD)
def test_a_history_that_cannot_have_happened(what: str) -> None:
    operations, audit = BAD[what]
    assert what in found(operations, audit)
    assert not linearizable(operations)


def test_a_stale_read_beside_writes_is_found() -> None:
    history = [write("a", 0, 1, 1), write("b", 2, 9, 2, 2), read(3, 4, 2, 2), read(5, 6, 1)]
    assert found(history, entries("a", "b", versions=(1, 2))) != []
    assert not linearizable(history)


def test_two_writes_with_one_generation_are_found() -> None:
    history = [write("a", 0, 9, 1), write("b", 0, 9, 1)]
    assert found(history, entries("a")) == ["acknowledged and lost"]
    assert not linearizable(history)


def test_what_only_the_audit_log_can_tell() -> None:
    once = write("a", 0, 1, 1)
    assert "a call took effect more than once" in found([once], entries("a", "a"))
    assert found([once], entries("a", "b")) == ["nobody asked for Entry(generation=2, version=1, name='b')"]
    assert "told that it did not happen, but it did" in found([replace(once, outcome="unavailable")], entries("a"))
    assert found([once], [Entry(2, 1, "a")])[0].startswith("generation 2 stands in the audit log in place 1")


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    """Calls that happened one at a time at 10, 20, 30...; each began and ended around its moment. Then, perhaps, some
    reply is falsified."""
    calls: list[Operation] = []
    generation, version = 0, 0
    for place in range(draw(st.integers(1, 6))):
        now = place * 10
        began, ended = now - draw(st.integers(0, 25)), now + draw(st.integers(0, 25))
        kind = draw(st.sampled_from(["write", "unknown", "lost", "read", "refused"]))
        target = draw(st.integers(1, 2))
        picked = draw(st.sampled_from([0, target]))
        expected = draw(st.sampled_from([None, generation, generation + 1]))
        if kind == "write" or kind == "unknown":
            generation, version = generation + 1, target
            expected = None if expected is None else generation - 1
            if kind == "write":
                calls.append(write(str(place), began, ended, generation, target, target=picked, expected=expected))
        if kind == "unknown" or kind == "lost":
            calls.append(unknown(str(place), began, began + (ended - began) // 2, picked, expected))
        if kind == "read":
            calls.append(read(began, ended, generation, version))
        if kind == "refused" and version:
            calls.append(refused(began, ended, generation + draw(st.sampled_from([-1, 1])), generation, version))
    for _ in range(draw(st.integers(0, 1))):
        victim = draw(st.integers(0, len(calls) - 1)) if calls else None
        if victim is not None and calls[victim].outcome != "unknown":
            told = {"generation": draw(st.integers(1, 4)), "version": draw(st.integers(1, 2))}
            calls[victim] = replace(calls[victim], **told)  # type: ignore[arg-type]
    return [replace(call, name=f"call {number}") for number, call in enumerate(calls)]


def audits(operations: list[Operation]) -> Iterator[list[Entry]]:
    """Every audit log that these calls may have left: of the unknown ones any, in any order, between those that are
    known."""
    known = {each.generation: Entry(each.generation, each.version, each.name) for each in operations if each.written}
    unknowns = [each for each in operations if each.outcome == "unknown"]
    for count in range(len(unknowns) + 1):
        free = [place for place in range(1, len(known) + count + 1) if place not in known]
        if len(free) != count:
            continue
        for chosen in permutations(unknowns, count):
            for versions in product(*([each.target] if each.target else [1, 2] for each in chosen)):
                late = {
                    place: Entry(place, version, each.name)
                    for place, version, each in zip(free, versions, chosen, strict=True)
                }
                yield [entry for _, entry in sorted((known | late).items())]


@settings(max_examples=600, deadline=None)
@given(histories())
def test_the_sort_and_the_search_agree(operations: list[Operation]) -> None:
    explained = any(not violations(operations, {REGISTER: audit}) for audit in audits(operations))
    assert explained == linearizable(operations)

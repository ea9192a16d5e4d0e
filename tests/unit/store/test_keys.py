"""Rows under the bytes of a digest, and those that feature level 1 wrote under its text."""

from __future__ import annotations

from msgspec import structs

from registry.core.model import Content, Digest, Workflow
from registry.store import tables
from registry.store.content import digest as digest_of
from registry.store.state import Rows, StoreState
from tests.unit.core.kit import Machine

NAME = "support/triage"
DATA = [b"%d" % number for number in range(40)]


def content(data: bytes) -> Content:
    return Content(encoding="raw", data=data, size_bytes=len(data))


def raised() -> tuple[Machine, list[bytes]]:
    """Half of it written at feature level 1, half at 2; and which half was the first."""
    machine = Machine()
    transaction = machine.environment.transaction()
    for number, data in enumerate(DATA):
        state = StoreState(transaction, level=1 + number % 2)
        state.put_content(digest_of(data), content(data))
        state.put_digest(NAME, digest_of(data), Digest(newest=number + 1))
    StoreState(transaction, level=1).put_workflow(Workflow(name=NAME, kind="text", versions=40, created_ms=5))
    machine.environment.commit()
    return machine, DATA[::2]


def keys(machine: Machine, table: str) -> set[bytes]:
    with machine.environment.snapshot() as reader:
        return {key for key, _ in reader.scan(table)}


def test_both_are_read() -> None:
    machine, _ = raised()
    rows = machine.rows
    assert dict(rows.contents()) == {digest_of(data): content(data) for data in DATA}
    assert all(rows.has_content(digest_of(data)) and rows.content(digest_of(data)) for data in DATA)
    assert [rows.digest(NAME, digest_of(data)) for data in DATA] == [Digest(newest=at) for at in range(1, 41)]
    assert rows.workflow(NAME) == next(rows.workflows()) == Workflow(name=NAME, kind="text", versions=40, created_ms=5)
    assert not rows.has_content(digest_of(b"unknown"))


def test_any_prefix_finds_both() -> None:
    machine, _ = raised()
    for number, data in enumerate(DATA, 1):
        whole = digest_of(data)
        for digits in (6, 7, 63, 64):
            found = dict(machine.rows.digests(NAME, whole[: len("sha256:") + digits]))
            assert found == {whole: Digest(newest=number)}


def test_a_row_that_is_written_again_is_there_once() -> None:
    machine, first = raised()
    state = StoreState(machine.environment.transaction(), level=2)
    for data in first:
        state.put_content(digest_of(data), structs.replace(content(data), settled=True))
        state.put_digest(NAME, digest_of(data), Digest(newest=1, fenced=(1,)))
    machine.environment.commit()
    assert keys(machine, tables.CONTENTS) == {tables.raw(digest_of(data)) for data in DATA}
    assert keys(machine, tables.DIGESTS) == {tables.within(NAME) + tables.raw(digest_of(data)) for data in DATA}
    rows: Rows = machine.rows
    assert all(rows.digest(NAME, digest_of(data)) == Digest(newest=1, fenced=(1,)) for data in first)


def test_both_are_deleted() -> None:
    machine, _ = raised()
    state = StoreState(machine.environment.transaction(), level=2)
    for data in DATA:
        state.delete_content(digest_of(data))
    machine.environment.commit()
    assert not keys(machine, tables.CONTENTS)

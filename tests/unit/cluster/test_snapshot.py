"""States on their way: whole and equal at the other end, or refused."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import snapshot
from cluster.kv.api import Environment
from cluster.kv.lmdb_env import LmdbEnvironment
from cluster.kv.memory_env import MemoryEnvironment
from cluster.limits import CHUNK_BYTES, FRAME_BYTES, LOAD_COMMIT_BYTES
from cluster.snapshot import Chunk, Header, Loader, Position, SnapshotError

TABLES = ("log", "a", "empty", "b")
SENT = ("a", "empty", "b")
State = dict[str, dict[bytes, bytes]]

SMALL: State = {"a": {b"1": b"one", b"2": b"", b"3": b"three"}, "empty": {}, "b": {b"1": b"other", b"\xff": b"x" * 9}}


def filled(state: State) -> MemoryEnvironment:
    environment = MemoryEnvironment(TABLES)
    environment.transaction().put("log", b"own", b"vote")
    for table, rows in state.items():
        for key, value in rows.items():
            environment.transaction().put(table, key, value)
    environment.commit()
    return environment


def contents(environment: Environment) -> State:
    with environment.snapshot() as reader:
        return {table: dict(reader.scan(table)) for table in environment.tables}


def taken(state: State, size_bytes: int) -> tuple[Header, list[Chunk]]:
    environment = filled(state)
    tables = snapshot.streamed_tables(environment, ("log",))
    with environment.snapshot() as reader:
        return snapshot.header_of(reader, tables, b"index 7"), list(snapshot.read_chunks(reader, tables, size_bytes))


def load(header: Header, chunks: Iterable[Chunk], environment: Environment | None = None) -> State:
    environment = environment or MemoryEnvironment(TABLES)
    incoming = environment.incoming()
    loader = Loader(incoming, header)
    for chunk in chunks:
        loader.add(chunk)
    loader.finish()
    environment.replace(incoming)
    return contents(environment)


def as_file(header: Header, chunks: Iterable[Chunk]) -> bytes:
    return b"".join(snapshot.encode_file(header, chunks))


def from_file(data: bytes) -> tuple[Header, list[Chunk]]:
    header, chunks = snapshot.decode_file(io.BytesIO(data).read)
    return header, list(chunks)


def resealed(chunk: Chunk, **changes: object) -> Chunk:
    """With a checksum that fits: what a faulty sender would send."""
    changed = msgspec.structs.replace(chunk, **changes)
    sum_of = snapshot._checksum(changed.after, changed.rows, changed.last)
    return msgspec.structs.replace(changed, checksum=sum_of)


_STATES = st.fixed_dictionaries(
    {table: st.dictionaries(st.binary(min_size=1, max_size=4), st.binary(max_size=60), max_size=12) for table in SENT}
)


@settings(deadline=None)
@given(state=_STATES, size_bytes=st.integers(1, 400), pieces=st.integers(1, 50))
def test_whatever_is_sent_arrives_through_chunks_and_through_a_file(state: State, size_bytes: int, pieces: int) -> None:
    header, chunks = taken(state, size_bytes)
    assert header.rows == {table: len(rows) for table, rows in state.items()}
    assert load(header, chunks) == state | {"log": {}}
    data = io.BytesIO(as_file(header, chunks))
    again, read = snapshot.decode_file(lambda size: data.read(min(size, pieces)))
    assert (again, list(read)) == (header, chunks)


@pytest.mark.parametrize("size_bytes", [1, 40, 100, 1000])
def test_chunks_are_bounded_and_hold_at_least_one_row(size_bytes: int) -> None:
    _, chunks = taken(SMALL | {"a": {b"%03d" % number: b"x" * (number % 70) for number in range(100)}}, size_bytes)
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    for chunk in chunks:
        size = sum(len(key) + len(value) for _, key, value in chunk.rows)
        assert len(chunk.rows) == 1 or 0 < size <= size_bytes
    for one, two in pairwise(chunks):
        assert two.after == one.end


def test_the_same_question_has_the_same_answer_while_commits_go_on() -> None:
    environment = filled(SMALL)
    with environment.snapshot() as reader:
        first = snapshot.read_chunk(reader, SENT, None, 60)
        second = snapshot.read_chunk(reader, SENT, first.end, 60)
        environment.transaction().put("a", b"11", b"new")
        environment.transaction().delete("a", b"3")
        environment.commit()
        assert snapshot.read_chunk(reader, SENT, None, 60) == first
        assert snapshot.read_chunk(reader, SENT, first.end, 60) == second


def test_behind_the_last_row_comes_an_empty_last_chunk() -> None:
    environment = filled(SMALL)
    with environment.snapshot() as reader:
        end = Position(2, b"\xff")
        chunk = snapshot.read_chunk(reader, SENT, end)
        assert (chunk.rows, chunk.last, chunk.end) == ([], True, end)
        with pytest.raises(SnapshotError, match="no table 3"):
            snapshot.read_chunk(reader, SENT, Position(3, b"k"))


def test_keys_of_the_greatest_length_are_passed(tmp_path: Path) -> None:
    environment = LmdbEnvironment(tmp_path / "kv", TABLES)
    rows = {b"\xff" * 511: b"1", b"k" * 511: b"2", b"k" * 510: b"3"}
    for key, value in rows.items():
        environment.transaction().put("a", key, value)
    environment.commit()
    with environment.snapshot() as reader:
        header, chunks = snapshot.header_of(reader, SENT, b""), list(snapshot.read_chunks(reader, SENT, 1))
    environment.close()
    assert load(header, chunks)["a"] == rows


def test_an_lmdb_environment_is_loaded_and_replaced(tmp_path: Path) -> None:
    environment = LmdbEnvironment(tmp_path / "kv", TABLES)
    environment.transaction().put("a", b"0", b"before")
    environment.commit()
    assert load(*taken(SMALL, 30), environment) == SMALL | {"log": {}}
    environment.close()


def test_excluded_tables_must_exist() -> None:
    with pytest.raises(AssertionError):
        snapshot.streamed_tables(MemoryEnvironment(TABLES), ("lgo",))


def test_what_is_loaded_is_committed_every_few_mib() -> None:
    header, chunks = taken({"a": {b"%d" % number: bytes(CHUNK_BYTES) for number in range(50)}}, CHUNK_BYTES)
    incoming = MemoryEnvironment(TABLES)
    loader = Loader(incoming, header)
    for added, chunk in enumerate(chunks, 1):
        loader.add(chunk)
        with incoming.snapshot() as reader:
            assert (added - reader.count("a")) * CHUNK_BYTES <= LOAD_COMMIT_BYTES
    assert 0 < len(contents(incoming)["a"]) < 50
    loader.finish()
    assert len(contents(incoming)["a"]) == 50


Change = Callable[[list[Chunk]], list[Chunk]]
SPOILED: dict[str, tuple[Change, str]] = {
    "first one missing": (lambda chunks: chunks[1:], "does not follow"),
    "one missing": (lambda chunks: chunks[:1] + chunks[2:], "does not follow"),
    "last one missing": (lambda chunks: chunks[:-1], "before its last"),
    "none": (lambda chunks: [], "before its last"),
    "one twice": (lambda chunks: chunks[:2] + chunks[1:], "does not follow"),
    "last one twice": (lambda chunks: [*chunks, chunks[-1]], "follows the last"),
    "two exchanged": (lambda chunks: [chunks[1], chunks[0], *chunks[2:]], "does not follow"),
    "a value changed": (
        lambda chunks: [msgspec.structs.replace(chunks[0], rows=[(0, b"1", b"two")]), *chunks[1:]],
        "checksum",
    ),
    "the end forged": (lambda chunks: [msgspec.structs.replace(chunks[0], last=True)], "checksum"),
    "ended early": (lambda chunks: [resealed(chunks[0], last=True)], "1 rows where 3"),
    "a row left out": (
        lambda chunks: [chunks[0], resealed(chunks[2], after=chunks[0].end), *chunks[3:]],
        "2 rows where 3",
    ),
    "a row again": (lambda chunks: [resealed(chunks[0], rows=chunks[0].rows * 2)], "out of order"),
    "a table going back": (
        lambda chunks: [resealed(chunks[0], rows=[(2, b"1", b""), (0, b"2", b"")])],
        "out of order",
    ),
    "a row of no table": (lambda chunks: [resealed(chunks[0], rows=[(3, b"1", b"")])], "3 tables"),
    "an empty one between": (lambda chunks: [resealed(chunks[0], rows=[]), *chunks], "not the last"),
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_spoiled_state_is_refused(spoiled: str) -> None:
    header, chunks = taken(SMALL, 1)
    change, says = SPOILED[spoiled]
    with pytest.raises(SnapshotError, match=says):
        load(header, change(chunks))


def test_a_refused_chunk_may_be_asked_for_again() -> None:
    header, chunks = taken(SMALL, 1)
    incoming = MemoryEnvironment(TABLES)
    loader = Loader(incoming, header)
    loader.add(chunks[0])
    for wrong in (chunks[0], chunks[2], resealed(chunks[1], rows=[(0, b"2", b"wrong"), (0, b"2", b"order")])):
        with pytest.raises(SnapshotError):
            loader.add(wrong)
    assert (loader.position, loader.complete) == (chunks[0].end, False)
    for chunk in chunks[1:]:
        loader.add(chunk)
    assert loader.complete
    loader.finish()
    assert contents(incoming) == SMALL | {"log": {}}


def test_what_this_release_cannot_read_is_refused_at_once() -> None:
    header, _ = taken(SMALL, 100)
    with pytest.raises(SnapshotError, match=r"unknown here \(b\)"):
        Loader(MemoryEnvironment(("a", "empty")), header)
    newer = msgspec.structs.replace(header, format=2)
    with pytest.raises(SnapshotError, match="format 2"):
        Loader(MemoryEnvironment(TABLES), newer)
    with pytest.raises(SnapshotError, match="format 2"):
        from_file(as_file(newer, taken(SMALL, 100)[1]))


def test_any_changed_byte_of_a_file_is_refused() -> None:
    data = as_file(*taken(SMALL, 60))
    for place, byte in enumerate(data):
        for other in {*(byte ^ 1 << bit for bit in range(8)), 0, 255, (byte + 1) % 256} - {byte}:
            with pytest.raises(SnapshotError):
                from_file(data[:place] + bytes([other]) + data[place + 1 :])


def test_a_cut_or_lengthened_file_is_refused() -> None:
    data = as_file(*taken(SMALL, 60))
    for size in range(len(data)):
        with pytest.raises(SnapshotError, match=r"cut off|no backup file"):
            from_file(data[:size])
    with pytest.raises(SnapshotError, match="follows its end"):
        from_file(data + b"\0")


@given(data=st.binary(max_size=200), headed=st.booleans())
def test_garbage_is_refused(data: bytes, headed: bool) -> None:
    with pytest.raises(SnapshotError):
        from_file((snapshot.FILE_MAGIC if headed else b"") + data)


def test_the_last_chunk_comes_only_once_the_file_is_verified() -> None:
    header, chunks = taken(SMALL, 1)
    data = as_file(header, chunks)
    _, read = snapshot.decode_file(io.BytesIO(data[:-1] + bytes([data[-1] ^ 1])).read)
    assert [next(read) for _ in chunks[:-1]] == chunks[:-1]
    with pytest.raises(SnapshotError, match="checksum"):
        next(read)


def test_frames_are_bounded() -> None:
    header, chunks = taken({"a": {b"k": bytes(FRAME_BYTES)}}, CHUNK_BYTES)
    with pytest.raises(SnapshotError, match="too large"):
        as_file(header, chunks)
    with pytest.raises(SnapshotError, match="announces"):
        from_file(snapshot.FILE_MAGIC + (FRAME_BYTES + 1).to_bytes(4, "big"))


def test_a_backup_that_stops_early_never_gets_an_end() -> None:
    header, chunks = taken(SMALL, 1)
    with pytest.raises(SnapshotError, match="before its last"):
        as_file(header, chunks[:-1])


def test_chunks_travel_as_messages() -> None:
    header, chunks = taken(SMALL, 60)
    decoder = msgspec.msgpack.Decoder(Header | Chunk)
    assert [decoder.decode(msgspec.msgpack.encode(each)) for each in (header, *chunks)] == [header, *chunks]
    with pytest.raises(msgspec.ValidationError):
        decoder.decode(msgspec.msgpack.encode(resealed(chunks[0], rows=[(0, b"", b"no key")])))

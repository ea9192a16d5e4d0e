"""What contents rest on: other contents, chunks; and how they are packed again."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from registry.core import limits
from registry.core.commands import Collect, PutChunk, Repack, Retain
from registry.core.encoding import fingerprint
from registry.core.errors import Reason
from registry.core.model import Content
from registry.core.outcomes import ChunkKept, Collected, Outcome, Published, Repacked, Retained
from registry.store import content
from registry.store.tables import CHUNK_USES, CHUNKS, CONTENTS, DELTAS, HOLDERS
from tests.unit.core.kit import WORKFLOW, Machine, assert_rejected

ONE, TWO, THREE = (content.digest(data) for data in (b"1", b"2", b"3"))
SIZE_BYTES = limits.CHUNK_BYTES + 1  # of two chunks


def delta(base: str, depth: int = 1) -> Content:
    return Content(encoding="delta", data=b"x", size_bytes=1, base=base, depth=depth)


def chunked(*chunks: bytes, size_bytes: int = 0) -> Content:
    """Of chunks whose data stands for much more."""
    size_bytes = size_bytes or (len(chunks) - 1) * limits.CHUNK_BYTES + 1
    return Content(
        encoding="chunks", data=b"", size_bytes=size_bytes, chunks=tuple(content.digest(chunk) for chunk in chunks)
    )


def put_chunks(machine: Machine, *chunks: bytes) -> None:
    for chunk in chunks:
        assert isinstance(
            machine.order(PutChunk, digest=content.digest(chunk), content=content.encode(chunk)), ChunkKept
        )


def uses(machine: Machine) -> dict[str, int]:
    return dict(machine.rows.chunks())


def published(outcome: Outcome) -> None:
    assert isinstance(outcome, Published), outcome
    assert outcome.created


# ---- deltas
def test_a_delta_lies_over_a_content_that_is_there(machine: Machine) -> None:
    machine.published(b"1")
    published(machine.publish(b"2", content=delta(ONE)))
    published(machine.publish(b"3", content=delta(TWO, 2)))
    assert list(machine.rows.deltas(ONE)) == [TWO]
    assert machine.rows.content(THREE) == delta(TWO, 2)
    assert list(machine.rows.holders(THREE)) == [(WORKFLOW, 3)]


OVER_ONE = content.digest(b"over one")


@pytest.mark.parametrize(
    "stale", [delta(THREE), delta(ONE, 2), delta(OVER_ONE, 1), delta(OVER_ONE, 3), delta(content.digest(b"large"))]
)
def test_one_whose_base_is_not_so_any_more_is_packed_again(machine: Machine, stale: Content) -> None:
    machine.published(b"1")
    put_chunks(machine, b"a")
    published(machine.publish(b"over one", content=delta(ONE)))
    published(machine.publish(b"large", content=chunked(b"a")))
    command = machine.publish_command(b"2", content=stale)
    before = machine.dump()
    for _ in range(2):
        assert_rejected(machine.apply(command), Reason.BASE_OUTDATED)
        assert machine.dump() == before
    published(machine.apply(structs.replace(command, content=delta(ONE))))


def test_bytes_that_are_there_need_no_base(machine: Machine) -> None:
    machine.published(b"1", b"2")
    published(machine.publish(b"1", content=delta(THREE)))
    assert machine.rows.content(ONE) == content.encode(b"1")


# ---- chunks
def test_chunks_come_first_and_are_counted(machine: Machine) -> None:
    put_chunks(machine, b"a", b"b", b"a")
    assert set(uses(machine).values()) == {0}
    published(machine.publish(b"large", content=chunked(b"a", b"b", b"a")))
    published(machine.publish(b"other", content=chunked(b"a", b"a"), workflow="a/b"))
    published(machine.publish(b"large", content=chunked(b"a", b"b", b"a"), workflow="a/b"))
    assert uses(machine) == {content.digest(b"a"): 2, content.digest(b"b"): 1}
    put_chunks(machine, b"a")
    assert uses(machine)[content.digest(b"a")] == 2


def test_missing_chunks_are_named_and_may_come_later(machine: Machine) -> None:
    many = [b"%d" % number for number in range(limits.MISSING_SHOWN + 5)]
    put_chunks(machine, b"0")
    command = machine.publish_command(b"large", content=chunked(*many))
    before = machine.dump()
    outcome = assert_rejected(machine.apply(command), Reason.CHUNKS_MISSING)
    assert machine.dump() == before
    assert outcome.metadata["missing"] == str(limits.MISSING_SHOWN + 4)
    assert outcome.metadata["digests"].split(",") == [
        content.digest(data) for data in many[1 : limits.MISSING_SHOWN + 1]
    ]
    put_chunks(machine, *many)
    published(machine.apply(command))
    assert set(uses(machine).values()) == {1}


def test_chunks_go_with_the_last_content_that_names_them(machine: Machine) -> None:
    put_chunks(machine, b"a", b"b", b"c", b"unused")
    for data, chunks in ((b"1", [b"a", b"b"]), (b"2", [b"b", b"c", b"b"]), (b"3", [b"c"])):
        published(machine.publish(data, content=chunked(*chunks)))
    machine.indexed()
    machine.set_policy("*", keep_last="0")
    machine.retain(1)
    assert uses(machine) == {content.digest(chunk): count for chunk, count in ((b"b", 1), (b"c", 2), (b"unused", 0))}
    machine.retain(2)
    assert uses(machine) == {content.digest(chunk): count for chunk, count in ((b"c", 1), (b"unused", 0))}
    assert len(machine.dump()[CHUNKS]) == 2


def test_one_retain_lets_go_of_so_many_chunks(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RETENTION_CHUNKS", 2)
    put_chunks(machine, b"a", b"b", b"c")
    for data, chunks in ((b"1", [b"a", b"b"]), (b"2", [b"b", b"c"]), (b"3", [b"c"])):
        published(machine.publish(data, content=chunked(*chunks)))
    machine.published(b"small", b"newest")
    machine.indexed()
    machine.set_policy("*", keep_last="0")
    outcome = machine.order(Retain, versions=(1, 2, 3, 4))
    assert isinstance(outcome, Retained)
    assert len(outcome.removed) == 2
    assert set(outcome.kept.values()) == {"removed next time: this was enough for one"}
    assert len(machine.retain(1, 2, 3, 4).removed) == 1
    assert len(machine.retain(1, 2, 3, 4).removed) == 1
    assert uses(machine) == {}


def test_unused_chunks_are_collected(machine: Machine) -> None:
    put_chunks(machine, b"a", b"b")
    published(machine.publish(b"1", content=chunked(b"a")))
    digests = tuple(content.digest(chunk) for chunk in (b"a", b"b", b"b", b"never"))
    revision = machine.registry.revision
    assert machine.order(Collect, digests=digests) == Collected(revision=revision, deleted=1)
    assert uses(machine) == {content.digest(b"a"): 1}
    assert machine.order(Collect, digests=digests) == Collected(revision=revision, deleted=0)


# ---- packing again
def repack(machine: Machine, digest: str, after: Content, was: bytes | None = None) -> bool:
    row = machine.rows.content(digest)
    was = was if was is not None else fingerprint(row) if row else bytes(16)
    outcome = machine.order(Repack, digest=digest, was=was, content=after)
    assert isinstance(outcome, Repacked)
    assert outcome.revision == machine.registry.revision
    return outcome.done


def test_a_content_is_packed_again(machine: Machine) -> None:
    machine.published(b"1", b"2")
    settled = Content(encoding="raw", data=b"2", size_bytes=1, settled=True)
    assert repack(machine, TWO, delta(ONE))
    assert list(machine.rows.deltas(ONE)) == [TWO]
    assert repack(machine, TWO, settled)
    assert list(machine.rows.deltas(ONE)) == []
    assert machine.rows.content(TWO) == settled


def test_not_if_anything_is_otherwise(machine: Machine) -> None:
    machine.published(b"1", b"2", b"3")
    put_chunks(machine, b"a")
    published(machine.publish(b"4", content=chunked(b"a")))
    large = content.digest(b"4")
    before = machine.dump()
    raw = Content(encoding="raw", data=b"2", size_bytes=1, settled=True)
    assert not repack(machine, TWO, raw, was=bytes(16)), "was packed otherwise"
    assert not repack(machine, TWO, structs.replace(raw, size_bytes=2)), "has another size"
    assert not repack(machine, TWO, delta(content.digest(b"none"))), "its base is gone"
    assert not repack(machine, TWO, delta(ONE, 2)), "its base is not so deep"
    assert not repack(machine, TWO, delta(large)), "its base is in chunks"
    assert not repack(machine, content.digest(b"none"), raw), "is gone"
    assert not repack(machine, large, raw), "is in chunks"
    assert machine.dump() == before


def test_what_deltas_rest_on_never_becomes_deeper(machine: Machine) -> None:
    machine.published(b"1", b"2", b"3")
    assert repack(machine, TWO, delta(ONE))
    assert not repack(machine, ONE, delta(TWO, 2)), "a circle"
    assert not repack(machine, ONE, delta(THREE)), "its delta would be no deeper than it"
    assert repack(machine, THREE, delta(TWO, 2))
    assert not repack(machine, TWO, delta(THREE, 3)), "a circle"
    raw = content.encode(b"2")
    assert repack(machine, TWO, raw)
    assert machine.rows.content(THREE) == delta(TWO, 2), "deeper than it need be, and still right"


# ---- what is malformed
@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (delta("sha256:x"), Reason.INVALID_REFERENCE),
        (delta(TWO), Reason.INVALID_REQUEST),
        (delta(ONE, 0), Reason.INVALID_REQUEST),
        (delta(ONE, limits.DELTA_DEPTH + 1), Reason.INVALID_REQUEST),
        (Content(encoding="zstd", data=b"x", size_bytes=1, base=ONE), Reason.INVALID_REQUEST),
        (Content(encoding="raw", data=b"x", size_bytes=1, depth=1), Reason.INVALID_REQUEST),
        (Content(encoding="raw", data=b"x", size_bytes=1, chunks=(ONE,)), Reason.INVALID_REQUEST),
        (structs.replace(delta(ONE), chunks=(ONE,)), Reason.INVALID_REQUEST),
        (structs.replace(delta(ONE), size_bytes=limits.CONTENT_BYTES_CEILING + 1), Reason.TOO_LARGE),
        (Content(encoding="chunks", data=b"", size_bytes=1), Reason.INVALID_REQUEST),
        (Content(encoding="chunks", data=b"x", size_bytes=1, chunks=(ONE,)), Reason.INVALID_REQUEST),
        (Content(encoding="chunks", data=b"", size_bytes=1, chunks=("one",)), Reason.INVALID_REFERENCE),
        (chunked(b"a", b"b", size_bytes=limits.CHUNK_BYTES), Reason.INVALID_REQUEST),
        (chunked(b"a", size_bytes=limits.CHUNK_BYTES + 1), Reason.INVALID_REQUEST),
        (chunked(*[b"a"] * (limits.CHUNKS + 1), size_bytes=1), Reason.TOO_LARGE),
        (chunked(b"a", size_bytes=limits.LARGE_CONTENT_BYTES_CEILING + 1), Reason.TOO_LARGE),
    ],
)
def test_a_packing_that_cannot_be_is_refused(machine: Machine, packed: Content, reason: Reason) -> None:
    machine.published(b"1")
    before = machine.dump()
    assert_rejected(machine.publish(b"2", content=packed), reason)
    assert_rejected(machine.order(Repack, digest=TWO, was=bytes(16), content=packed), reason)
    assert machine.dump() == before


@pytest.mark.parametrize(
    ("kind", "fields", "reason"),
    [
        (Repack, {"digest": "x", "was": bytes(16), "content": content.encode(b"1")}, Reason.INVALID_REFERENCE),
        (Repack, {"digest": ONE, "was": bytes(15), "content": content.encode(b"1")}, Reason.INVALID_REQUEST),
        (Repack, {"digest": ONE, "was": bytes(16), "content": chunked(b"a")}, Reason.INVALID_REQUEST),
        (PutChunk, {"digest": "x", "content": content.encode(b"1")}, Reason.INVALID_REFERENCE),
        (PutChunk, {"digest": ONE, "content": delta(TWO)}, Reason.INVALID_REQUEST),
        (PutChunk, {"digest": ONE, "content": chunked(b"a")}, Reason.INVALID_REQUEST),
        (PutChunk, {"digest": ONE, "content": content.encode(b"")}, Reason.INVALID_REQUEST),
        (PutChunk, {"digest": ONE, "content": content.encode(bytes(limits.CHUNK_BYTES + 1))}, Reason.TOO_LARGE),
        (Collect, {"digests": ()}, Reason.INVALID_REQUEST),
        (Collect, {"digests": ("x",)}, Reason.INVALID_REFERENCE),
        (Collect, {"digests": (ONE,) * (limits.COLLECTED + 1)}, Reason.TOO_LARGE),
        (Collect, {"digests": (ONE,), "request_id": "x"}, Reason.INVALID_REQUEST),
    ],
)
def test_a_malformed_one_is_refused(machine: Machine, kind: type, fields: dict[str, Any], reason: Reason) -> None:
    before = machine.dump()
    assert_rejected(machine.order(kind, **fields), reason)
    assert machine.dump() == before


# ---- below feature level 2
def test_below_level_2_none_of_it_is_taken(machine: Machine) -> None:
    machine.level = 1
    machine.published(b"1")
    for packed in (delta(ONE), chunked(b"a")):
        assert_rejected(machine.publish(b"2", content=packed), Reason.LEVEL_TOO_LOW)
    assert_rejected(machine.order(PutChunk, digest=ONE, content=content.encode(b"1")), Reason.LEVEL_TOO_LOW)
    settled = Content(encoding="raw", data=b"2", size_bytes=1, settled=True)
    published(machine.publish(b"2", content=settled, snapshot="periodic"))
    assert machine.rows.content(TWO) == content.encode(b"2")
    assert machine.version(2).snapshot == "published"
    dump = machine.dump()
    assert [dump[table] for table in (HOLDERS, DELTAS, CHUNKS, CHUNK_USES)] == [[], [], [], []]
    assert len(dump[CONTENTS]) == 2

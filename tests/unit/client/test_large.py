"""Large content: what is sent and asked for, over real sockets, to and from a member that keeps chunks in memory."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import grpc
import pytest

from registry.client import Client, large, limits
from registry.core.errors import Invalid, Reason, Refused
from registry.core.limits import CHUNK_BYTES
from registry.v1 import registry_pb2
from tests.unit.client.member import Fail, Member

DATA = b"".join(bytes([number]) * CHUNK_BYTES for number in (1, 2, 3, 2)) + b"the rest"
TOO_LARGE = Fail(
    grpc.StatusCode.INVALID_ARGUMENT, Reason.TOO_LARGE, metadata={"limit": "1000", "size_bytes": str(len(DATA))}
)


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


CHUNKS = [DATA[at : at + CHUNK_BYTES] for at in range(0, len(DATA), CHUNK_BYTES)]
DIGESTS = [digest(each) for each in CHUNKS]


class Keeper:
    """The part of a registry that knows chunks, behind a scripted member. Inline content is refused for its size."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.chunks: dict[str, bytes] = {}
        member.script["Publish"].append(TOO_LARGE)
        member.answers |= {
            "FindChunks": self.find,
            "PutChunk": self.put,
            "GetChunk": self.get,
            "Publish": self.publish,
            "GetContent": self.content,
        }

    def find(self, request: Any) -> registry_pb2.FindChunksResponse:
        missing = [each for each in request.digests if each not in self.chunks]
        if missing:  # a publish would say so
            self.member.script["Publish"].append(
                Fail(grpc.StatusCode.FAILED_PRECONDITION, Reason.CHUNKS_MISSING, metadata={"missing": "some"})
            )
        return registry_pb2.FindChunksResponse(info=self.member.info(), missing=missing)

    def put(self, request: Any) -> registry_pb2.PutChunkResponse:
        assert digest(request.data) == request.digest
        self.chunks[request.digest] = request.data
        return registry_pb2.PutChunkResponse(info=self.member.info())

    def get(self, request: Any) -> registry_pb2.GetChunkResponse:
        return registry_pb2.GetChunkResponse(info=self.member.info(), data=self.chunks[request.digest])

    def publish(self, request: Any) -> registry_pb2.PublishResponse:
        assert list(request.large.chunks) == DIGESTS
        assert (request.large.digest, request.large.size_bytes) == (digest(DATA), len(DATA))
        assert not request.content
        version = registry_pb2.Version(workflow=request.workflow, number=1, digest=request.large.digest)
        return registry_pb2.PublishResponse(info=self.member.info(), version=version, created=True)

    def content(self, request: Any) -> registry_pb2.GetContentResponse:
        version = registry_pb2.Version(workflow="a/b", number=1, digest=digest(DATA), size_bytes=len(DATA))
        return registry_pb2.GetContentResponse(info=self.member.info(), version=version, chunks=DIGESTS)

    def sent(self) -> list[str]:
        return [request.digest for rpc, request in self.member.calls if rpc == "PutChunk"]

    def asked(self) -> list[str]:
        return [request.digest for rpc, request in self.member.calls if rpc == "GetChunk"]


@pytest.fixture
async def keeper(members) -> Keeper:
    (member,) = await members(1)
    return Keeper(member)


async def test_what_is_refused_for_its_size_goes_in_chunks_each_once(keeper):
    heard: list[tuple[int, int]] = []
    async with Client(keeper.member.address) as client:
        made = await client.publish("a/b", DATA, progress=lambda *far: heard.append(far))
    assert made.created
    assert sorted(keeper.sent()) == sorted(set(DIGESTS)), "a chunk that stands there twice is sent once"
    assert b"".join(keeper.chunks[each] for each in DIGESTS) == DATA
    assert [far for far, _ in heard] == sorted(far for far, _ in heard)
    assert heard[-1] == (len(DATA), len(DATA))
    ids = {request.request_id for rpc, request in keeper.member.calls if rpc == "Publish"}
    assert len(ids) == 1, "one intended change, however often it is asked for"


async def test_only_what_is_missing_is_sent(keeper):
    keeper.chunks = dict.fromkeys(DIGESTS[:2], b"")
    async with Client(keeper.member.address) as client:
        await client.publish("a/b", DATA)
    assert sorted(keeper.sent()) == sorted({DIGESTS[2], DIGESTS[4]})


async def test_what_is_refused_otherwise_costs_no_chunk(keeper):
    refusal = Fail(grpc.StatusCode.FAILED_PRECONDITION, Reason.KIND_MISMATCH)
    keeper.member.answers["FindChunks"] = lambda request: registry_pb2.FindChunksResponse(
        info=keeper.member.info(), missing=request.digests
    )
    keeper.member.script["Publish"].append(refusal)
    async with Client(keeper.member.address) as client:
        with pytest.raises(Refused) as caught:
            await client.publish("a/b", DATA)
    assert caught.value.reason is Reason.KIND_MISMATCH
    assert keeper.sent() == []


async def test_chunks_collected_meanwhile_are_sent_again_but_not_for_ever(keeper):
    keeper.member.answers["PutChunk"] = lambda request: registry_pb2.PutChunkResponse(info=keeper.member.info())
    keeper.member.always["Publish"] = Fail(grpc.StatusCode.FAILED_PRECONDITION, Reason.CHUNKS_MISSING)
    async with Client(keeper.member.address) as client:
        with pytest.raises(Refused) as caught:
            await client.publish("a/b", DATA)
    assert caught.value.reason is Reason.CHUNKS_MISSING
    assert len(keeper.sent()) == limits.UPLOAD_ROUNDS * len(set(DIGESTS))


async def test_a_chunk_that_cannot_be_sent_ends_the_upload(keeper):
    keeper.member.always["PutChunk"] = Fail(grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_CONTENT)
    async with Client(keeper.member.address) as client:
        with pytest.raises(Invalid) as caught:
            await client.publish("a/b", DATA)
    assert caught.value.reason is Reason.INVALID_CONTENT
    assert len(keeper.sent()) <= limits.CHUNKS_IN_FLIGHT


@pytest.mark.parametrize("how", ["path", "file", "pipe"])
async def test_files_of_any_kind_are_read_twice_and_not_as_a_whole(keeper, how, tmp_path):
    path = tmp_path / "content"
    path.write_bytes(b"before" + DATA if how == "file" else DATA)
    async with Client(keeper.member.address) as client:
        if how == "path":
            await client.publish("a/b", path)
        elif how == "file":
            with path.open("rb") as file:
                file.seek(len(b"before"))
                await client.publish("a/b", file)
        else:
            with piped(DATA) as pipe:
                await client.publish("a/b", pipe)
    assert b"".join(keeper.chunks[each] for each in DIGESTS) == DATA


@contextmanager
def piped(data: bytes) -> Iterator[BinaryIO]:
    reading, writing = os.pipe()

    def feed() -> None:
        with os.fdopen(writing, "wb") as into:
            into.write(data)

    feeding = threading.Thread(target=feed)
    feeding.start()
    with os.fdopen(reading, "rb") as out:
        yield out
    feeding.join()


def test_more_than_memory_should_hold_of_a_pipe_goes_to_disk(monkeypatch):
    monkeypatch.setattr(large, "CONTENT_BYTES_CEILING", CHUNK_BYTES)
    with piped(DATA) as pipe, large.opened(pipe) as source:
        assert source.size_bytes == len(DATA)


async def test_the_largest_is_refused_before_it_is_read(monkeypatch, tmp_path):
    path = tmp_path / "content"
    path.write_bytes(b"")
    os.truncate(path, large.LARGE_CONTENT_BYTES_CEILING + 1)
    with large.opened(path) as source, pytest.raises(Invalid) as caught:
        await large.summed(source)
    assert caught.value.reason is Reason.TOO_LARGE


async def test_content_is_put_together(keeper):
    keeper.chunks = dict(zip(DIGESTS, CHUNKS, strict=True))
    async with Client(keeper.member.address) as client:
        assert await client.content("a/b", 1) == DATA
        with pytest.raises(Invalid) as caught:
            await client.content("a/b", 1, max_bytes=len(DATA) - 1)
        assert caught.value.reason is Reason.TOO_LARGE
        out = io.BytesIO()
        version = await client.download("a/b", 1, out)
    assert out.getvalue() == DATA
    assert version.digest == digest(DATA)


@pytest.mark.parametrize(
    ("there", "kept"),
    [
        (b"", 0),
        (DATA[: CHUNK_BYTES - 1], 0),
        (DATA[:CHUNK_BYTES], 1),
        (DATA[: 2 * CHUNK_BYTES + 100], 2),
        (DATA[:CHUNK_BYTES] + bytes(3 * CHUNK_BYTES), 1),
        (DATA, 5),
        (DATA + b"and more", 4),
    ],
)
async def test_a_download_goes_on_after_what_is_right(keeper, there, kept, tmp_path):
    keeper.chunks = dict(zip(DIGESTS, CHUNKS, strict=True))
    path, partial = tmp_path / "content", tmp_path / "content.partial"
    partial.write_bytes(there)
    async with Client(keeper.member.address) as client:
        await client.download("a/b", 1, path)
    assert path.read_bytes() == DATA
    assert keeper.asked() == DIGESTS[kept:]
    assert not partial.exists()


async def test_a_download_that_breaks_off_leaves_what_it_has_and_the_file_as_it_was(keeper, tmp_path):
    keeper.chunks = dict(zip(DIGESTS, CHUNKS, strict=True)) | {DIGESTS[2]: b"other bytes"}
    path = tmp_path / "content"
    path.write_bytes(b"as it was")
    async with Client(keeper.member.address) as client:
        with pytest.raises(Refused) as caught:
            await client.download("a/b", 1, path)
    assert caught.value.reason is Reason.CORRUPT_CONTENT
    assert path.read_bytes() == b"as it was"
    assert (tmp_path / "content.partial").read_bytes() == DATA[: 2 * CHUNK_BYTES]


async def test_right_chunks_of_another_content_are_refused_at_the_end(keeper, tmp_path):
    keeper.chunks = dict(zip(DIGESTS, CHUNKS, strict=True))
    reply = keeper.content(None)
    reply.version.digest = digest(b"another")
    keeper.member.answers["GetContent"] = lambda request: reply
    async with Client(keeper.member.address) as client:
        with pytest.raises(Refused) as caught:
            await client.download("a/b", 1, tmp_path / "content")
    assert caught.value.reason is Reason.CORRUPT_CONTENT
    assert not (tmp_path / "content").exists()


@pytest.mark.parametrize("count", [4, 6])
async def test_another_number_of_chunks_than_there_are_bytes_for_is_not_asked_for(keeper, count, tmp_path):
    keeper.chunks = dict(zip(DIGESTS, CHUNKS, strict=True))
    reply = keeper.content(None)
    del reply.chunks[:]
    reply.chunks.extend((DIGESTS * 2)[:count])
    keeper.member.answers["GetContent"] = lambda request: reply
    async with Client(keeper.member.address) as client:
        with pytest.raises(Refused) as caught:
            await client.download("a/b", 1, tmp_path / "content")
    assert caught.value.reason is Reason.CORRUPT_CONTENT
    assert keeper.asked() == []


async def test_chunks_larger_than_the_content_are_not_written(keeper, tmp_path):
    longer = bytes(2 * CHUNK_BYTES)
    keeper.chunks = dict(zip(DIGESTS, CHUNKS, strict=True)) | {digest(longer): longer}
    reply = keeper.content(None)
    del reply.chunks[:]
    reply.chunks.extend([digest(longer)] * len(DIGESTS))
    keeper.member.answers["GetContent"] = lambda request: reply
    async with Client(keeper.member.address) as client:
        with pytest.raises(Refused) as caught:
            await client.download("a/b", 1, tmp_path / "content")
    assert caught.value.reason is Reason.CORRUPT_CONTENT
    assert (tmp_path / "content.partial").stat().st_size <= len(DATA)


def test_two_downloads_into_one_file_do_not_mix(tmp_path):
    path, partial = tmp_path / "content", tmp_path / "content.partial"
    with large.file_to_be(path) as first:
        first.write(b"the first")
        with pytest.raises(BlockingIOError), large.file_to_be(path):
            pass
    assert path.read_bytes() == b"the first"
    assert not partial.exists()
    with large.file_to_be(path) as second:
        second.write(b"second")
    assert path.read_bytes() == b"second"


def test_a_link_in_place_of_a_partial_file_is_not_followed(tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    (tmp_path / "content.partial").symlink_to(other)
    with pytest.raises(OSError, match="symbolic links"), large.file_to_be(tmp_path / "content"):
        pass
    assert other.read_bytes() == b"precious"


async def test_a_member_that_dies_between_chunks_is_replaced_by_another(members):
    one, two = await members(2)
    keeper, other = Keeper(one), Keeper(two)
    other.chunks = keeper.chunks
    two.always["PutChunk"] = Fail()

    def die_soon(request: Any) -> registry_pb2.PutChunkResponse:
        if keeper.chunks:
            one.always["PutChunk"] = Fail()
            two.always.clear()
        return keeper.put(request)

    one.answers["PutChunk"] = die_soon
    async with Client([one.address, two.address]) as client:
        source = large.Source(io.BytesIO(DATA))
        content = await large.summed(source)
        await large.Chunks(client._run, limits.CHUNK_TIMEOUT_S).send(source, content, set(DIGESTS), None)
    assert set(keeper.chunks) == set(DIGESTS)


def test_a_file_is_whole_or_partial(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with suppress(ZeroDivisionError), large.file_to_be(path) as out:
        out.write(b"some")
        raise ZeroDivisionError
    assert not path.exists()
    with large.file_to_be(path) as out:
        assert out.read() == b"some"
    assert path.read_bytes() == b"some"

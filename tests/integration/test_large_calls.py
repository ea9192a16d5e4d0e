"""Content in chunks on one real member: what its calls answer, and how they say no."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from registry.core.limits import CHUNK_BYTES
from registry.v1 import registry_pb2
from tests.integration.server_kit import RPC_S, Peer, failed, members, new_request_id

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT_BYTES = 8 * CHUNK_BYTES
SNOWMAN = "☃".encode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def peer(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Peer]:
    path = tmp_path_factory.mktemp("member")
    async with members(path, content_limit=1000, large_content_limit=LIMIT_BYTES) as (only,):
        yield only


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def cut(data: bytes) -> list[bytes]:
    return [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]


def described(data: bytes) -> registry_pb2.LargeContent:
    return registry_pb2.LargeContent(
        digest=digest(data), size_bytes=len(data), chunks=[digest(each) for each in cut(data)]
    )


def call(peer: Peer, name: str, request: Any) -> Any:
    return getattr(peer.registry, name)(request, timeout=RPC_S)


async def put(peer: Peer, *chunks: bytes) -> None:
    for each in chunks:
        await call(peer, "PutChunk", registry_pb2.PutChunkRequest(digest=digest(each), data=each))


async def publish(peer: Peer, workflow: str, data: bytes, **fields: Any) -> registry_pb2.PublishResponse:
    await put(peer, *cut(data))
    return await peer.publish(workflow, b"", large=described(data), **fields)


async def test_chunks_make_a_version_and_come_back(peer: Peer) -> None:
    data = os.urandom(CHUNK_BYTES + 10)
    reply = await publish(peer, "large/one", data, message="models", labels={"semver": "1.0.0"}, principal="ann")
    version = reply.version
    assert reply.created
    assert (version.number, version.kind, version.size_bytes, version.digest) == (1, "binary", len(data), digest(data))
    assert (version.author, version.message, version.snapshot) == ("ann", "models", "published")
    assert "not read, checked or compared" in reply.notes[0]
    got = await call(peer, "GetContent", registry_pb2.GetContentRequest(workflow="large/one", compact=True))
    assert not got.content
    assert list(got.chunks) == [digest(each) for each in cut(data)]
    chunks = [await call(peer, "GetChunk", registry_pb2.GetChunkRequest(digest=each)) for each in got.chunks]
    assert b"".join(each.data for each in chunks) == data
    again = await publish(peer, "large/one", data)
    assert (again.created, again.version) == (False, version)


async def test_a_retry_gets_the_first_answer(peer: Peer) -> None:
    data, request_id = os.urandom(2000), new_request_id()
    first = await publish(peer, "large/retry", data, request_id=request_id)
    await publish(peer, "large/retry", os.urandom(2000))
    again = await publish(peer, "large/retry", data, request_id=request_id)
    assert again.version == first.version
    error = await failed(publish(peer, "large/retry", os.urandom(2000), request_id=request_id))
    assert error.reason == "REQUEST_REUSED"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"a" * (CHUNK_BYTES - 1) + SNOWMAN + b"b" * 100, "text"),
        (b"a" * 2000 + SNOWMAN[:2], "binary"),
        (SNOWMAN[1:] + b"a" * 2000, "binary"),
        (b"a" * 2000 + b"\0" + b"b" * CHUNK_BYTES, "binary"),
        (b"app:\n  mode: workflow\n" * 100, "text"),
    ],
)
async def test_it_is_text_or_binary(peer: Peer, data: bytes, kind: str) -> None:
    reply = await publish(peer, f"large/kind-{digest(data)[7:15]}", data)
    assert reply.version.kind == kind
    same = {"value_digest": f"v1:{digest(data)[7:]}", "semantic_digest": f"s1:{digest(data)[7:]}"}
    assert {name: getattr(reply.version, name) for name in same} == same
    assert (await publish(peer, f"large/as-binary-{digest(data)[7:15]}", data, kind="binary")).version.kind == "binary"
    if kind == "binary":
        error = await failed(publish(peer, "large/as-text", data, kind="text"))
        assert (error.reason, "not text" in error.message) == ("INVALID_CONTENT", True)


async def test_digests_are_the_same_as_of_content_that_was_read(peer: Peer) -> None:
    """So that a registry that reads more than before takes the same bytes for the same."""
    small = await peer.publish("large/small", b"plain words", kind="text")
    large = await publish(peer, "large/chunked", b"plain words", kind="text")
    assert large.version.semantic_digest == small.version.semantic_digest
    assert large.version.value_digest == small.version.value_digest
    assert large.notes[0].startswith("sent in chunks")


async def test_find_chunks_names_what_is_missing_once(peer: Peer) -> None:
    here, missing = os.urandom(100), digest(os.urandom(100))
    await put(peer, here)
    found = await call(peer, "FindChunks", registry_pb2.FindChunksRequest(digests=[missing, digest(here), missing]))
    assert list(found.missing) == [missing]
    error = await failed(call(peer, "FindChunks", registry_pb2.FindChunksRequest(digests=[missing] * 2049)))
    assert error.reason == "TOO_LARGE"
    error = await failed(call(peer, "FindChunks", registry_pb2.FindChunksRequest(digests=["sha256:1"])))
    assert error.reason == "INVALID_REFERENCE"


async def test_a_chunk_is_what_its_digest_says_and_no_larger(peer: Peer) -> None:
    data = os.urandom(CHUNK_BYTES + 1)
    for request, reason in (
        (registry_pb2.PutChunkRequest(digest=digest(b"other"), data=b"these"), "INVALID_CONTENT"),
        (registry_pb2.PutChunkRequest(digest=digest(b""), data=b""), "INVALID_CONTENT"),
        (registry_pb2.PutChunkRequest(digest=digest(data), data=data), "TOO_LARGE"),
        (registry_pb2.PutChunkRequest(digest="sha256:ab", data=b"these"), "INVALID_REFERENCE"),
    ):
        assert (await failed(call(peer, "PutChunk", request))).reason == reason
    error = await failed(call(peer, "GetChunk", registry_pb2.GetChunkRequest(digest=digest(data))))
    assert error.reason == "CHUNK_NOT_FOUND"


async def test_a_missing_chunk_is_named(peer: Peer) -> None:
    data = os.urandom(2 * CHUNK_BYTES)
    await put(peer, cut(data)[0])
    error = await failed(peer.publish("large/missing", b"", large=described(data)))
    assert (error.reason, error.metadata["missing"]) == ("CHUNKS_MISSING", "1")
    assert error.metadata["digests"] == digest(cut(data)[1])
    await put(peer, *cut(data))
    assert (await peer.publish("large/missing", b"", large=described(data))).created


async def test_what_is_announced_must_be_true(peer: Peer) -> None:
    data = os.urandom(CHUNK_BYTES + 100)
    await put(peer, *cut(data))
    first, second = [digest(each) for each in cut(data)]

    async def refused(**changes: Any) -> str:
        large = described(data)
        for name, value in changes.items():
            if name == "chunks":
                del large.chunks[:]
                large.chunks.extend(value)
            else:
                setattr(large, name, value)
        error = await failed(peer.publish("large/untrue", b"", large=large))
        assert "nothing was stored" in error.message or error.reason == "INVALID_REFERENCE"
        return error.reason

    assert await refused(digest=digest(b"another")) == "INVALID_CONTENT"
    assert await refused(chunks=[second, first]) == "INVALID_CONTENT"
    assert await refused(chunks=[first]) == "INVALID_CONTENT"
    assert await refused(chunks=[first, second, second]) == "INVALID_CONTENT"
    assert await refused(size_bytes=len(data) - 1) == "INVALID_CONTENT"
    assert await refused(size_bytes=0, chunks=[]) == "INVALID_CONTENT"
    assert await refused(chunks=[first, "sha256:x"]) == "INVALID_REFERENCE"
    assert await refused(size_bytes=LIMIT_BYTES + 1) == "TOO_LARGE"
    error = await failed(peer.publish("large/untrue", b"both", large=described(data)))
    assert error.reason == "INVALID_REQUEST"
    error = await failed(call(peer, "GetVersion", registry_pb2.GetVersionRequest(workflow="large/untrue")))
    assert error.reason == "WORKFLOW_NOT_FOUND"


async def test_what_no_format_has_read_is_of_no_format(peer: Peer) -> None:
    await peer.publish("large/json", b'{"a": 1}')
    data = b'{"a": "' + b"x" * 2000 + b'"}'
    error = await failed(peer.publish("large/json", b"", large=described(data)))  # before a chunk was sent
    assert error.reason == "KIND_MISMATCH"
    assert "larger than 1,000 bytes" in error.message
    assert "--content-limit" in error.metadata["hint"]
    error = await failed(publish(peer, "large/json", data, kind="json"))
    assert error.reason == "INVALID_CONTENT"
    error = await failed(peer.publish("large/json", data))
    assert (error.reason, error.metadata["size_bytes"]) == ("TOO_LARGE", str(len(data)))


async def test_it_is_switched_to_and_rolled_back_from_without_a_comparison(peer: Peer) -> None:
    workflow = "large/live"
    small, large = b"few words", b"many words " * 1000
    await peer.publish(workflow, small)
    await publish(peer, workflow, large)
    after = await peer.publish(workflow, b"few words again")
    assert any("not compared with version 2" in note for note in after.notes)
    for number in (1, 2, 3):
        await peer.switch(workflow, number)
    move = registry_pb2.Move(workflow=workflow)
    back = await call(peer, "Rollback", registry_pb2.RollbackRequest(moves=[move], reason="5xx"))
    assert back.pointers[0].version == 2
    compare = registry_pb2.CompareRequest(from_workflow=workflow, from_reference="1", to_reference="2")
    error = await failed(call(peer, "Compare", compare))
    assert error.reason == "COMPARE_LIMIT"


async def test_a_policy_that_takes_only_what_is_fine_does_not_take_what_nobody_knows(peer: Peer) -> None:
    workflow = "large/judged"
    await peer.publish(workflow, b"few words")
    await publish(peer, workflow, b"many words " * 1000)

    async def policy(verdict: str) -> None:
        request = registry_pb2.SetPolicyRequest(scope=workflow, fields={"verdict": verdict}, reason="test")
        await call(peer, "SetPolicy", request)

    await policy("ok")
    await peer.switch(workflow, 1)
    error = await failed(peer.switch(workflow, 2))
    assert error.reason == "VERDICT_REFUSED"
    assert "not compared" in error.metadata["reasons"]
    await policy("warn")
    assert (await peer.switch(workflow, 2)).pointers[0].version == 2


async def test_labels_and_parents_hold_as_for_any_content(peer: Peer) -> None:
    data = os.urandom(2000)
    await publish(peer, "large/rules", data, labels={"semver": "1.0.0"})
    error = await failed(publish(peer, "large/rules", os.urandom(2000), labels={"semver": "1.0.0"}))
    assert error.reason == "LABEL_TAKEN"
    error = await failed(publish(peer, "large/rules", os.urandom(2000), parents=["7"]))
    assert error.reason == "VERSION_NOT_FOUND"
    reply = await publish(peer, "large/rules", os.urandom(2000), parents=["1"], requires=["large/one"])
    assert (list(reply.version.parents), list(reply.version.requires)) == ([1], ["large/one"])
    error = await failed(publish(peer, "large/rules", os.urandom(2000), snapshot="sometimes"))
    assert error.reason == "INVALID_REQUEST"

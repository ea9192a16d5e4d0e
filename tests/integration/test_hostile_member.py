"""A member that lies, floods or dawdles: the real agent and follow() install nothing of it, in bounded memory, and go
on when an honest one answers."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from msgspec import structs

from registry.agent import FollowState, connected, follow, last_good, limits
from registry.client import limits as client_limits
from registry.core import frames
from registry.core.delivery import Instruction
from registry.core.limits import LARGE_CONTENT_BYTES_CEILING, MIB
from tests.integration.agent_bench import Edge, shorten_waits
from tests.integration.http_face import WORKFLOW, Face, digest_of, faces
from tests.integration.lying_member import Request, Say, polled, reply, saying

TIMEOUT_S = 15.0
MEMORY_BYTES = 16 * MIB  # past what the lie itself takes in this process
EVIL = b"evil " * 100
ANNOUNCED = digest_of(b"what was announced")
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_waits(monkeypatch)
    monkeypatch.setattr(limits, "POLL_WAIT_S", 0.1)
    monkeypatch.setattr(limits, "POLL_SLACK_S", 0.05)
    monkeypatch.setattr(limits, "FETCH_TIMEOUT_S", 0.2)
    monkeypatch.setattr(client_limits, "HTTP_RETRY_S", (0.001, 0.01))
    monkeypatch.setattr(client_limits, "HTTP_CALL_S", 0.05)


class Lie(NamedTuple):
    """`poll`, `content`: what is said in their stead, made of the honest instruction of generation 2. `code`: of the
    nack; empty: it is ignored, or there is nobody to send it to."""

    poll: Callable[[Instruction], Say | bytes]
    content: Say | bytes = b""
    code: str = ""


def told(**changes: Any) -> Callable[[Instruction], bytes]:
    """An instruction for other bytes than were published."""
    reply_changes = {name: changes.pop(name) for name in ("cluster_id", "epoch", "frames") if name in changes}

    def make(honest: Instruction) -> bytes:
        lie = structs.replace(honest, digest=ANNOUNCED, size_bytes=len(EVIL))
        return polled(structs.replace(lie, **changes), **reply_changes)

    return make


def endless(start: bytes, more: bytes, delay_s: float = 0) -> Say:
    async def say(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(more)
            await writer.drain()
            await asyncio.sleep(delay_s)

    return say


def always(said: Say | bytes) -> Callable[[Instruction], Say | bytes]:
    return lambda _: said


def content(data: bytes, *headers: str) -> bytes:
    return reply(data, *(headers or ("x-registry-encoding: raw",)), f"x-registry-digest: {ANNOUNCED}")


BOMB = frames.pack(bytes(64 * MIB), 3)
FRAME = frames.pack(EVIL, 3)
LIES = {
    # what it names and what it gives
    "a wrong digest": Lie(told(), content(EVIL), "DIGEST_MISMATCH"),
    "a wrong digest inside the reply": Lie(
        told(how="full", content_bytes=len(FRAME), frames=FRAME), content(EVIL), "DIGEST_MISMATCH"
    ),
    "a wrong length": Lie(told(size_bytes=7), content(EVIL), "DIGEST_MISMATCH"),
    "no content": Lie(told(), reply(b"", status="404 Not Found"), "FETCH_FAILED"),
    "a bomb": Lie(told(), content(BOMB, "x-registry-encoding: zstd"), "DIGEST_MISMATCH"),
    "a bomb inside the reply": Lie(
        told(how="full", content_bytes=len(BOMB), frames=BOMB),
        content(BOMB, "x-registry-encoding: zstd"),
        "DIGEST_MISMATCH",
    ),
    "a truncated frame": Lie(
        told(how="full", content_bytes=len(FRAME) - 3, frames=FRAME[:-3]), content(EVIL), "DIGEST_MISMATCH"
    ),
    "endless content": Lie(told(), endless(CHUNKED, b"10000\r\n" + bytes(65536) + b"\r\n"), "FETCH_FAILED"),
    "content a byte at a time": Lie(
        told(),
        endless(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n", b"a", 0.01),
        "FETCH",
    ),
    "more than a gigabyte": Lie(told(size_bytes=LARGE_CONTENT_BYTES_CEILING + 1)),
    "no digest": Lie(told(digest="md5:1")),
    "no version": Lie(told(version=0)),
    "numbers past all numbers": Lie(told(not_before_ms=10**400, deadline_ms=10**400)),
    "a time before all times": Lie(told(deadline_ms=-(10**400))),
    "the last of all generations": Lie(told(generation=10**30)),
    # whom and when it speaks for
    "a lower generation": Lie(told(generation=0)),
    "the generation that runs": Lie(told(generation=1)),
    "an older epoch": Lie(told(epoch=0)),
    "the last of all epochs": Lie(told(epoch=10**30)),
    "another cluster": Lie(told(cluster_id="c2"), code="CLUSTER_MISMATCH"),
    "another pointer": Lie(told(pointer="canary")),
    # how it says it
    "bytes that are not here": Lie(told(how="have")),
    "over another base": Lie(told(how="delta", delta_base=ANNOUNCED, content_bytes=9, frames=bytes(9))),
    "frames that were cut off": Lie(told(how="full", content_bytes=5000, frames=bytes(9))),
    "broken JSON": Lie(always(reply(b'{"cluster_id": "c1", "epoch": 1, "instructions": [{"work'))),
    "deep JSON": Lie(always(reply(b'{"x":' + b"[" * 60_000))),
    "no HTTP": Lie(always(b"\x16\x03\x01\x00\xa5\x01\x00\x00")),
    "a huge length": Lie(always(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n")),
    "a huge head": Lie(always(endless(b"HTTP/1.1 200 OK\r\nx: ", bytes([97]) * 65536))),
    "an endless body": Lie(always(endless(CHUNKED, b"10000\r\n" + bytes(65536) + b"\r\n"))),
    "a byte at a time": Lie(always(endless(b"HTTP/1.1 200 OK\r\nx: ", b"a", 0.01))),
    "nothing": Lie(always(endless(b"", b"", 0.05))),
}


class Liar:
    """One endpoint: an honest face until `lies`, and after `repents`. Acknowledgements always arrive."""

    def __init__(self, face: Face) -> None:
        self.face = face
        self.told = asyncio.Event()

    def lies(self, lie: Lie, honest: Instruction) -> None:
        poll, said = lie.poll(honest), lie.content

        async def say(request: Request, writer: asyncio.StreamWriter) -> None:
            if request.path == "/v1/acks":
                await self.face.honestly(request, writer)
                return
            self.told.set()
            what = poll if request.path == "/v1/poll" else said
            await (saying(what) if isinstance(what, bytes) else what)(request, writer)

        self.face.lie = say

    async def repents(self) -> None:
        self.face.lie = None
        self.face.member.hang_up()
        await self.face.wake()


@asynccontextmanager
async def liar() -> AsyncIterator[Liar]:
    async with faces() as [face]:
        await face.live(b"one")
        yield Liar(face)


@contextmanager
def bounded_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES
    finally:
        tracemalloc.stop()


async def has_lied(member: Liar, code: str) -> None:
    """The lie was told several times, and refused with its code."""
    before = len(member.face.member.requests)
    await member.told.wait()
    while len(member.face.member.requests) < before + 3:
        await asyncio.sleep(0.002)
    if code:
        async with asyncio.timeout(TIMEOUT_S):
            while not [ack for ack in member.face.acks if ack.phase == "refused" and ack.code.startswith(code)]:
                await asyncio.sleep(0.002)
    else:
        assert [ack for ack in member.face.acks if ack.phase == "refused"] == []


@pytest.mark.parametrize("name", LIES)
async def test_an_agent_installs_nothing_of_a_lie(name: str, tmp_path: Path) -> None:
    lie = LIES[name]
    async with liar() as member, connected([member.face.endpoint], name="edge-1") as api:
        edge = Edge(tmp_path, api)
        async with edge.running():
            await member.face.until_acked("confirmed", 1)
            with bounded_memory():
                member.lies(lie, member.face.prepared(1))
                await member.face.wake()
                await has_lied(member, lie.code)
            assert edge.shown() == b"one"
            assert sorted(path.parent.name for path in edge.state_dir.glob("objects/*/content")) == [
                digest_of(b"one").replace(":", "-")
            ]
            await member.face.live(b"two")
            await member.repents()
            await member.face.until_acked("confirmed", 2)
            assert edge.shown() == b"two"


@pytest.mark.parametrize("name", LIES)
async def test_follow_yields_nothing_of_a_lie(name: str, tmp_path: Path) -> None:
    lie, cache = LIES[name], tmp_path / "triage.last-good"
    async with asyncio.timeout(TIMEOUT_S), liar() as member:
        triage = follow(WORKFLOW, endpoints=member.face.endpoint, name="worker-7", cache=cache)
        current = await anext(triage)
        coming = asyncio.ensure_future(anext(triage))
        await member.face.until_acked("confirmed", 1)
        with bounded_memory():
            member.lies(lie, member.face.prepared(1))
            await member.face.wake()
            await has_lied(member, lie.code)
        assert not coming.done()
        assert current.problem.startswith(lie.code) if lie.code else current.state is not FollowState.ERROR
        kept = last_good.read(cache, WORKFLOW, "active")
        assert kept is not None
        assert kept.data == b"one"
        await member.face.live(b"two")
        await member.repents()
        assert (await coming).data == b"two"
        assert (current.state, current.problem) == (FollowState.LIVE, "")
        await triage.aclose()


@pytest.mark.parametrize("name", LIES)
async def test_an_honest_member_beside_a_liar_is_found(name: str, tmp_path: Path) -> None:
    """Whichever of them is asked first."""
    lie, cache = LIES[name], tmp_path / "triage.last-good"
    async with asyncio.timeout(TIMEOUT_S), liar() as member, faces() as [honest]:
        async with follow_of(member.face, cache) as triage:
            await anext(triage)
        for data in (b"one", b"two"):
            await honest.live(data)
        member.lies(lie, member.face.prepared(1))
        async with follow_of(member.face, cache, honest) as triage:
            assert (await anext(triage)).data == b"one"
            assert (await anext(triage)).data == b"two"


@asynccontextmanager
async def follow_of(face: Face, cache: Path, *others: Face) -> AsyncIterator[Any]:
    endpoints = [each.endpoint for each in (face, *others)]
    triage = follow(WORKFLOW, endpoints=endpoints, name="worker-7", cache=cache)
    try:
        yield triage
    finally:
        await triage.aclose()

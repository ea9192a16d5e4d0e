"""Polls by HTTP, which the hub, the clock and the client may each end first."""

from __future__ import annotations

import asyncio
import random
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator

import pytest
from msgspec import json

from registry.core import commands, frames
from registry.core.delivery import Holding, Poll, PollReply
from registry.core.limits import INLINE_BYTES
from registry.server import limits
from registry.server.config import Address
from registry.server.delivery import Delivery
from registry.server.http import HttpServer
from registry.server.http_api import AgentsApi
from registry.server.http_errors import failures
from registry.server.hub import Hub
from registry.server.reports import Reports
from tests.unit.server.lone_cluster import Member, near

FLOW = "a/b"
WAIT_S = 5.0
LONG = {f"long/{number}": random.Random(number).randbytes(INLINE_BYTES - 1000) for number in range(limits.INLINED)}


class Site:
    """A member with a version of FLOW that is not live yet, and its agents' API on a socket."""

    def __init__(self) -> None:
        self.member, self.hub = Member(), Hub()
        delivery = Delivery(
            environment=self.member.cluster.environment,
            feed=self.member.cluster.feed,
            hub=self.hub,
            contents=self.member.reads.contents,
            repairs=self.member.repairs,
        )
        reports = Reports(self.member.proposer)
        self.api = AgentsApi(delivery=delivery, hub=self.hub, reports=reports, check=lambda _: None)
        self.server = HttpServer(self.api.routes)
        self.server.serve({}, failures(self.member.repairs))
        self._port = 0

    async def start(self) -> None:
        await self.member.apply(commands.Found(**self.member.stamp(), cluster_id="c1"))
        await self.member.chain(FLOW, near(1))
        self._port = await self.server.start(Address("127.0.0.1", 0), None)

    async def switch(self, workflow: str = FLOW) -> None:
        move = commands.Move(workflow=workflow, pointer="active", target=1)
        await self.member.apply(
            commands.Switch(**self.member.stamp(), principal="ada", moves=(move,), reason="because")
        )

    async def ask_for_all(self) -> tuple[StreamReader, StreamWriter]:
        """Content of every one of LONG comes along."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**16)
        follows = tuple(Holding(workflow=workflow) for workflow in LONG)
        body = json.encode(Poll(agent="edge-1", epoch=1, follows=follows, inline_bytes=INLINE_BYTES, wait_ms=60_000))
        writer.write(b"POST /v1/poll HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        return reader, writer

    async def poll(self, wait_ms: int = 60_000) -> tuple[StreamReader, StreamWriter]:
        """Once it waits."""
        before = self.hub.waiting
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        body = json.encode(Poll(agent="edge-1", epoch=1, follows=(Holding(workflow=FLOW),)))
        body = body[:-1] + b',"wait_ms":%d}' % wait_ms
        writer.write(b"POST /v1/poll HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        async with asyncio.timeout(WAIT_S):
            while self.hub.waiting == before:
                await asyncio.sleep(0)
        return reader, writer


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    await made.start()
    yield made
    await made.server.stop()


async def test_a_client_that_leaves_while_its_answer_is_made_is_taken_off_once(site: Site) -> None:
    _, writer = await site.poll()
    (leaving,) = site.server.connections
    assert leaving._transport is not None
    end = leaving._transport.close  # of the client; between the wake-up and the look
    site.member.cluster.feed.follow(lambda _: end())
    await site.switch()
    async with asyncio.timeout(WAIT_S):
        while site.server.connections:
            await asyncio.sleep(0)
    writer.close()
    assert site.hub.waiting == 0
    assert site.hub._kept_bytes == 0


async def test_a_wait_of_ages_is_as_long_as_there_is(site: Site) -> None:
    reader, writer = await site.poll(wait_ms=10**400)
    await site.switch()
    assert await asyncio.wait_for(reader.readline(), WAIT_S) == b"HTTP/1.1 200 OK\r\n"
    writer.close()


async def read_all(reader: StreamReader) -> None:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)
    assert head.startswith(b"HTTP/1.1 200 ")
    (size,) = [int(line.split()[1]) for line in head.splitlines() if line.startswith(b"content-length:")]
    body = await asyncio.wait_for(reader.readexactly(size), WAIT_S)
    document, _, content = body.partition(b"\n")
    at = 0
    for told in json.decode(document, type=PollReply).instructions:
        frame = content[at : at + told.content_bytes]
        assert frames.unpack(frame, len(LONG[told.workflow])) == LONG[told.workflow]
        at += len(frame)
    assert at == len(content) > limits.HTTP_WHOLE_BYTES


async def test_what_slow_readers_of_long_answers_hold_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """With little room in the system, so that what they do not read stays here."""
    for workflow, data in LONG.items():
        await site.member.chain(workflow, [data])
        await site.switch(workflow)
    sockets = site.server._server.sockets if site.server._server else ()
    for each in sockets:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
    monkeypatch.setattr(limits, "HTTP_SENDING_BYTES", 3_500_000)
    readers = [await site.ask_for_all() for _ in range(3)]
    async with asyncio.timeout(WAIT_S):
        while site.api._sending_bytes < 3_000_000:
            await asyncio.sleep(0)
    held = [each._transport.get_write_buffer_size() for each in site.server.connections if each._transport]
    assert max(held) < 4 * INLINE_BYTES, "frames are shared until they are written"
    refused = [await site.ask_for_all() for _ in range(2)]
    for reader, writer in refused:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: " in head
        writer.close()
    _, leaving = readers.pop()
    leaving.transport.abort()
    async with asyncio.timeout(WAIT_S):
        while site.api._sending_bytes > 2_500_000:
            await asyncio.sleep(0)
    readers.append(await site.ask_for_all())
    for reader, writer in readers:
        await read_all(reader)
        writer.close()
    async with asyncio.timeout(WAIT_S):
        while site.api._sending_bytes:
            await asyncio.sleep(0)


async def test_a_long_answer_to_a_poll_that_waits(site: Site) -> None:
    for workflow, data in LONG.items():
        await site.member.chain(workflow, [data])
    reader, writer = await site.ask_for_all()
    async with asyncio.timeout(WAIT_S):
        while not site.hub.waiting:
            await asyncio.sleep(0)
    moves = tuple(commands.Move(workflow=workflow, pointer="active", target=1) for workflow in LONG)
    await site.member.apply(commands.Switch(**site.member.stamp(), principal="ada", moves=moves, reason="because"))
    await read_all(reader)
    assert (site.hub.waiting, site.api._sending_bytes) == (0, 0)
    writer.close()

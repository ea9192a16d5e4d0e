from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from registry.core.model import Registry
from registry.server.limits import LINK_MESSAGE_BYTES
from registry.server.workers import link as links
from registry.server.workers import messages as m
from registry.server.workers.link import Link


@dataclass
class End:
    """One end of a link, what it has heard, and the bare socket at the other end."""

    other: socket.socket
    heard: list[m.Down] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def receive(self, message: m.Down) -> None:
        self.heard.append(message)
        self.news.set()

    def lose(self, why: str) -> None:
        self.lost.append(why)
        self.news.set()

    async def until(self, heard: int = 0, lost: int = 0) -> None:
        async with asyncio.timeout(5):
            while len(self.heard) < heard or len(self.lost) < lost:
                self.news.clear()
                await self.news.wait()


@asynccontextmanager
async def end() -> AsyncIterator[tuple[End, Link[m.Down]]]:
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    ours.setblocking(False)
    theirs.setblocking(False)
    made = End(theirs)
    link: Link[m.Down] = Link(m.decode_down, made.receive, made.lose)
    await loop.create_unix_connection(lambda: link, sock=ours)
    try:
        yield made, link
    finally:
        link.close("")
        theirs.close()
        await asyncio.sleep(0)


def framed(*messages: object) -> bytes:
    return b"".join(len(data).to_bytes(4, "big") + data for data in map(m.encode, messages))


async def test_messages_come_whole_however_their_bytes_trickle() -> None:
    sent = [m.Done(1, b"x" * 300), m.Purged(), m.Commit(Registry(revision=7), [("a/b", "active")], None), m.Drain()]
    data = framed(*sent)
    async with end() as (made, _):
        for at in range(0, len(data), 3):
            await asyncio.get_running_loop().sock_sendall(made.other, data[at : at + 3])
            await asyncio.sleep(0)
        await made.until(heard=len(sent))
        assert made.heard == sent


async def test_what_is_sent_in_one_turn_goes_out_together_news_first() -> None:
    async with end() as (made, link):
        link.send(m.Done(1, b"one"))
        link.tell(m.Purged())
        link.send(m.Done(2, b"two"))
        link.tell(m.Drain())
        loop = asyncio.get_running_loop()
        data = await asyncio.wait_for(loop.sock_recv(made.other, 2**20), 5)
        assert data == framed(m.Purged(), m.Drain(), m.Done(1, b"one"), m.Done(2, b"two"))
        link.send(m.Done(3))
        assert await asyncio.wait_for(loop.sock_recv(made.other, 2**20), 5) == framed(m.Done(3))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "a message of 1,195,725,856 bytes"),
        ((LINK_MESSAGE_BYTES + 1).to_bytes(4, "big"), "a message of"),
        (framed([1, 2, 3]), "no message"),
        (framed(m.Propose(1, b"not from a member", 1.0)), "no message"),
        (b"\0\0\0\0", "no message"),
        (b"\0\0\0\4\xc1\xc1\xc1\xc1", "no message"),
    ],
)
async def test_what_is_no_message_ends_the_link(data: bytes, why: str) -> None:
    async with end() as (made, _):
        await asyncio.get_running_loop().sock_sendall(made.other, framed(m.Purged()) + data + framed(m.Drain()))
        await made.until(lost=1)
        assert made.lost[0].startswith(why)
        assert made.heard == [m.Purged()]


async def test_random_bytes_are_never_heard_as_more_than_messages() -> None:
    async with end() as (made, _):
        for _ in range(20):
            body = os.urandom(40)
            if made.lost:
                break
            await asyncio.get_running_loop().sock_sendall(made.other, len(body).to_bytes(4, "big") + body)
            await asyncio.sleep(0.001)
        await made.until(lost=1)
        assert made.heard == []


async def test_half_a_message_and_the_end_is_an_end() -> None:
    async with end() as (made, link):
        await asyncio.get_running_loop().sock_sendall(made.other, framed(m.Done(1, b"whole"), m.Done(2, b"half"))[:-2])
        made.other.close()
        await made.until(lost=1)
        assert made.heard == [m.Done(1, b"whole")]
        assert made.lost == ["the other side closed it"]
        link.send(m.Done(3))
        await asyncio.sleep(0)  # to nobody


async def test_a_side_that_reads_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "LINK_UNREAD_BYTES", 1024 * 1024)
    async with end() as (made, link):
        for call in range(100):
            link.send(m.Done(call, bytes(64 * 1024)))
            await asyncio.sleep(0)
            if made.lost:
                break
        await made.until(lost=1)
        assert made.lost == ["the other side reads nothing"]


async def test_an_end_comes_after_all_that_was_sent() -> None:
    async with end() as (made, link):
        link.send(m.Done(1, bytes(2**20)))
        link.end()
        loop, received = asyncio.get_running_loop(), b""
        while data := await asyncio.wait_for(loop.sock_recv(made.other, 2**20), 5):
            received += data
        assert received == framed(m.Done(1, bytes(2**20)))
        await made.until(lost=1)

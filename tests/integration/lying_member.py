"""A member's HTTP face that says whatever a test wants it to say, on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import msgspec

from registry.core.delivery import Instruction, PollReply

OTHER_KIND = "application/vnd.registry.poll"


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Say = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


class LyingMember:
    """`say` answers every request: it writes what it likes; the connection stays open until it closes it."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.requests: list[Request] = []
        self.connections = 0
        self.endpoint = ""
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def asked(self) -> list[str]:
        return [request.path.partition("?")[0] for request in self.requests]

    def hang_up(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        try:
            while True:
                request = await _read(reader)
                self.requests.append(request)
                await self.say(request, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            return
        finally:
            self._open.discard(writer)
            writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    return Request(method, path, headers, await reader.readexactly(int(headers.get("content-length", "0"))))


@asynccontextmanager
async def lying(say: Say) -> AsyncIterator[LyingMember]:
    member = LyingMember(say)
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(member.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    member.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield member
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def reply(body: bytes, *headers: str, status: str = "200 OK", kind: str = "application/json") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def refused(status: int, reason: str, *headers: str, **metadata: object) -> bytes:
    told = {"error": f"no: {reason}", "reason": reason, "hint": "do otherwise"} | metadata
    return reply(msgspec.json.encode(told), *headers, status=f"{status} No")


def polled(
    *instructions: Instruction,
    cluster_id: str = "c1",
    epoch: int = 1,
    revision: int = 0,
    age_ms: int = 0,
    frames: bytes = b"",
) -> bytes:
    told = PollReply(cluster_id=cluster_id, epoch=epoch, revision=revision, instructions=instructions, age_ms=age_ms)
    document = msgspec.json.encode(told)
    return reply(document + b"\n" + frames, kind=OTHER_KIND) if frames else reply(document)


def saying(data: bytes) -> Say:
    """The same to everybody."""

    async def say(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return say

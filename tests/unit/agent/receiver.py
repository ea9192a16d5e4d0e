"""What http targets send to: a real server that fails, hangs up and keeps silent as told."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any


class Receiver:
    """Answers with the next of `script`, then with 204. A number is a status; "cut": reads all and hangs up; "early":
    answers 413 after the head and reads no more; "silent": never answers."""

    def __init__(self) -> None:
        self.script: list[int | str] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.url = ""
        self.refused = asyncio.Event()  # let go of a connection that was answered early
        self._tasks: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook?x=1"
        try:
            yield self
        finally:
            server.close()
            await server.wait_closed()
            await asyncio.gather(*self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            self._tasks.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._answer(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        told = self.script.pop(0) if self.script else 204
        if told == "early":
            writer.write(b"HTTP/1.1 413 Too large\r\nContent-Length: 0\r\n\r\n")
            writer.transport.pause_reading()
            await self.refused.wait()
            return
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append((head[0], headers, body))
        if told == "silent":
            await reader.read()
        elif told != "cut":
            text = "" if told == 204 else f"because {told}"
            writer.write(f"HTTP/1.1 {told} X\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())

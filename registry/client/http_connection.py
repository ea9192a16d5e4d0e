"""One HTTP/1.1 connection to a member: one request at a time, and a bound on everything that comes back."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections import deque
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple, cast

import httptools

from registry.client import limits

# a member whose machine or line is gone without a word is noticed while a poll waits: (level, option, value)
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPIDLE", 0), limits.HTTP_KEEPALIVE_S),
    (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPINTVL", 0), limits.HTTP_KEEPALIVE_PROBE_S),
    (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPCNT", 0), limits.HTTP_KEEPALIVE_PROBES),
)


# Looking up a name may take far longer than anybody waits for it, and cannot be ended: here it fills no other threads.
_resolver = ThreadPoolExecutor(limits.HTTP_LOOKUPS, thread_name_prefix="lookup")


class BrokenConnection(Exception):
    """It ended, or what came is not an HTTP reply within the limits; the message says what happened."""


class Head(NamedTuple):
    status: int
    headers: dict[str, str]  # names in lower case
    length: int | None  # bytes of the body; None: it comes in chunks, and ends when it ends


async def connect(host: str, port: int, context: ssl.SSLContext | None) -> Connection:
    """Raises BrokenConnection; the time is limited by the caller."""
    loop = asyncio.get_running_loop()
    name = host if context else None  # that the certificate is held against, not the address
    problem: Exception = OSError(f"{host} has no address")
    try:
        found = [host] if _is_address(host) else await loop.run_in_executor(_resolver, _addresses, host, port)
        for address in found:
            try:
                made = await loop.create_connection(Connection, address, port, ssl=context, server_hostname=name)
                return made[1]
            except OSError as refused:  # an ssl.SSLError is one
                problem = refused
    except (OSError, UnicodeError) as unknown:  # UnicodeError: of a name that cannot be one
        problem = unknown
    raise BrokenConnection(f"cannot connect: {getattr(problem, 'strerror', None) or problem}") from None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Connection(asyncio.Protocol):
    """`ask`, then `read` or `parts` to the end; after anything else it is closed, since nobody knows what comes next.

    Reading stops while HTTP_BUFFER_BYTES wait to be taken, so a reply costs no more memory than whoever takes it wants.
    """

    def __init__(self) -> None:
        self.used = False  # has answered a request
        self._transport: asyncio.Transport | None = None
        self._problem = ""  # why nothing more comes
        self._news = asyncio.Event()
        self._asked = False
        self._forget()

    def _forget(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._head: Head | None = None
        self._head_bytes = 0
        self._bodies = 0  # pieces of the body that came
        self._bare_bytes = 0  # in a row, without any of it
        self._headers: dict[str, str] = {}
        self._header_count = 0
        self._parts: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._paused = False
        self._complete = False
        self._keep = False

    @property
    def open(self) -> bool:
        return not self._problem and self._transport is not None and not self._transport.is_closing()

    @property
    def free(self) -> bool:
        """Whether it may be asked."""
        return self.open and not self._asked

    @property
    def heard(self) -> bool:
        """Whether anything came since it was asked."""
        return self._head_bytes > 0

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # For the caller

    async def ask(self, request: bytes) -> Head:
        """Sends a whole request and returns when the head of its reply is there. Raises BrokenConnection."""
        if self._transport is None or not self.free:
            raise BrokenConnection(self._problem or "the connection is not free")
        self._forget()
        self._asked = True
        self._transport.write(request)
        while self._head is None:
            await self._wait()
        return self._head

    async def parts(self, most_bytes: int) -> AsyncGenerator[bytes, None]:
        """The body as it comes. Raises BrokenConnection, before most_bytes are exceeded."""
        arrived = 0
        while True:
            if self._parts:
                part = b"".join(self._parts)
                self._parts.clear()
                self._waiting_bytes = 0
                arrived += len(part)
                if arrived > most_bytes:
                    self._fail(f"a body of more than {most_bytes:,} bytes came")
                    raise BrokenConnection(self._problem)
                self._go_on()
                yield part
            elif self._complete:
                break
            else:
                await self._wait()
        self._finish()

    async def read(self, most_bytes: int) -> bytes:
        """The whole body. Raises BrokenConnection."""
        length = self._head.length if self._head is not None else None
        if length is not None and length > most_bytes:
            self._fail(f"a body of {length:,} bytes was announced, at most {most_bytes:,} are taken")
            raise BrokenConnection(self._problem)
        body = bytearray()
        async for part in self.parts(most_bytes):
            body += part
        return bytes(body)

    async def _wait(self) -> None:
        if self._problem:
            raise BrokenConnection(self._problem)
        self._news.clear()
        await self._news.wait()

    def _go_on(self) -> None:
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def _finish(self) -> None:
        self.used = True
        self._asked = False
        if not self._keep:
            self.close()

    def _fail(self, problem: str) -> None:
        self._problem = self._problem or problem
        self._news.set()
        self.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by shape, not by class
        sock = transport.get_extra_info("socket")
        with suppress(OSError):
            for level, option, value in _KEEPALIVE:
                if option:
                    sock.setsockopt(level, option, value)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._complete:
            self._fail("the member closed the connection")
        self._problem = self._problem or "the member closed the connection"
        self._news.set()

    def data_received(self, data: bytes) -> None:
        if self._problem or not self.open:
            return
        if not self._asked or self._complete:
            self._fail("something came that nobody asked for")
            return
        if self._head is None:
            self._head_bytes += len(data)
        bodies = self._bodies
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self._complete:
                self._fail("what came is not an HTTP/1.1 reply")
            self._keep = False
        else:
            if self._head is None and self._head_bytes > limits.HTTP_HEAD_BYTES:
                self._fail(f"the head of the reply has more than {limits.HTTP_HEAD_BYTES:,} bytes")
            self._bare_bytes = 0 if self._bodies > bodies else self._bare_bytes + len(data)
            if self._bare_bytes > limits.HTTP_HEAD_BYTES and not self._complete:
                self._fail(f"what frames the body has more than {limits.HTTP_HEAD_BYTES:,} bytes")
        if self._waiting_bytes > limits.HTTP_BUFFER_BYTES and not self._paused and self.open:
            self._paused = True
            cast(asyncio.Transport, self._transport).pause_reading()
        self._news.set()

    # httptools callbacks, in order of a reply

    def on_message_begin(self) -> None:
        if self._complete:
            raise ValueError("a second reply")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_count += 1  # those after the chunks too
        if self._header_count > limits.HTTP_HEADERS:
            self._fail(f"the reply has more than {limits.HTTP_HEADERS} headers")
            raise ValueError(self._problem)
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        headers = dict(self._headers)
        chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        if status < 200 or status in (204, 304) or headers.get("content-encoding", "identity") != "identity":
            self._fail(f"a reply of a kind that nobody asked for came, status {status}")
            raise ValueError(self._problem)
        if not chunked and not headers.get("content-length", "").isdecimal():
            self._fail("the reply does not say where it ends")
            raise ValueError(self._problem)
        self._head = Head(status, headers, None if chunked else int(headers["content-length"]))

    def on_body(self, body: bytes) -> None:
        self._bodies += 1
        self._parts.append(body)
        self._waiting_bytes += len(body) + limits.HTTP_PART_BYTES

    def on_message_complete(self) -> None:
        self._complete = True
        self._keep = self._parser.should_keep_alive()

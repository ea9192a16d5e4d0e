"""One HTTP/1.1 request on a connection of its own, with a bound on everything that comes back."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

import httptools

from registry.agent import limits
from registry.agent.files import off_loop


class NoReply(Exception):
    """No whole reply within the limits. `sent`: the request may have reached the server."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Reply(NamedTuple):
    status: int
    body: bytes  # at most what was asked for; the rest is not read
    headers: dict[str, str]  # names in lower case
    cookies: dict[str, str]


def check_url(url: str) -> SplitResult:
    """An http(s) address with a host. Raises ValueError, which says what to write."""
    problem = f"{url[:200]!r}: write http(s)://HOST[:PORT]/PATH, in ASCII and without spaces"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(problem) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii() or not url.isprintable():
        raise ValueError(problem)
    if " " in url or "@" in parts.netloc:
        raise ValueError(f"{problem}, and without a user")
    return parts


async def request(
    method: str,
    url: str,
    *,
    timeout_s: float,
    headers: Mapping[str, str] | None = None,
    content: Path | bytes | None = None,
    body_bytes: int = 0,
    ca_file: Path | None = None,
) -> Reply:
    """Redirects are not followed. `content`: the request's body, or the file that holds it. `body_bytes`: how much of
    the reply's body is wanted. TLS is verified, against `ca_file` where there is one. Raises NoReply."""
    parts = check_url(url)
    secure = parts.scheme == "https"
    sent = False
    try:
        async with asyncio.timeout(timeout_s):
            context = await off_loop(_context, ca_file) if secure else None
            reader, writer = await asyncio.open_connection(
                parts.hostname, parts.port or (443 if secure else 80), ssl=context, limit=limits.HTTP_HEAD_BYTES
            )
            sent = True
            try:
                head = _head(method, parts, headers or {}, content)
                return await _exchange(_send(writer, head, content), _read(reader, body_bytes))
            finally:
                writer.transport.abort()
    except TimeoutError:
        raise NoReply(f"no answer within {timeout_s:g} s", sent=sent) from None
    except (httptools.HttpParserError, httptools.HttpParserUpgrade) as problem:
        raise NoReply(f"not an HTTP reply: {problem}", sent=sent) from None
    except (OSError, ValueError) as problem:
        raise NoReply(str(problem) or type(problem).__name__, sent=sent) from None


def _context(ca_file: Path | None) -> ssl.SSLContext:
    """Read each time: authorities are rotated."""
    return _of_system() if ca_file is None else ssl.create_default_context(cafile=ca_file)


@cache
def _of_system() -> ssl.SSLContext:
    return ssl.create_default_context()


def _head(method: str, parts: SplitResult, headers: Mapping[str, str], content: Path | bytes | None) -> bytes:
    place = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = {"Host": parts.netloc, "User-Agent": "registry-agent", "Connection": "close", **headers}
    if content is not None:
        lines["Content-Length"] = str(len(content) if isinstance(content, bytes) else content.stat().st_size)
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {place} HTTP/1.1\r\n{text}\r\n".encode("latin-1")


async def _exchange(send: Coroutine[None, None, None], read: Coroutine[None, None, Reply]) -> Reply:
    """A server may answer before it has read everything; then the rest is not sent."""
    sending, reading = asyncio.ensure_future(send), asyncio.ensure_future(read)
    try:
        await asyncio.wait({sending, reading}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            with suppress(ConnectionError):
                await sending
        return await reading
    finally:
        for task in (sending, reading):
            task.cancel()
        await asyncio.gather(sending, reading, return_exceptions=True)


async def _send(writer: asyncio.StreamWriter, head: bytes, content: Path | bytes | None) -> None:
    writer.write(head)
    if isinstance(content, bytes):
        writer.write(content)
    elif content is not None:
        with content.open("rb") as file:
            while block := await off_loop(file.read, limits.HTTP_BLOCK_BYTES):
                writer.write(block)
                await writer.drain()
    await writer.drain()


class _Parser:
    """httptools calls these in the order of a reply. Interim ones (1xx) are passed over, and what follows the final one
    does not count."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._start()

    def _start(self) -> None:
        self.status = 0  # until the head is complete
        self.body = bytearray()
        self.headers: dict[str, str] = {}
        self.cookies: dict[str, str] = {}
        self.framed = False
        self.complete = False

    @property
    def headed(self) -> bool:
        return self.status >= 200

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.complete:
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.framed |= key in ("content-length", "transfer-encoding")
        if key == "set-cookie":
            cookie, _, said = text.partition(";")[0].partition("=")
            self.cookies[cookie.strip()] = said.strip()
        else:
            self.headers[key] = text

    def on_headers_complete(self) -> None:
        if not self.complete:
            self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if not self.complete:
            self.body += body

    def on_message_complete(self) -> None:
        if self.headed:
            self.complete = True
        else:
            self._start()


async def _read(reader: asyncio.StreamReader, body_bytes: int) -> Reply:
    """What comes without any of the body is bounded: heads, interim replies, framing, trailers."""
    found = _Parser()
    around = 0
    while not (found.complete or (found.headed and len(found.body) >= body_bytes)):
        data = await reader.read(limits.HTTP_HEAD_BYTES)
        if not data:
            break
        before = len(found.body)
        found.feed(data)
        around = 0 if len(found.body) > before else around + len(data)
        if around > limits.HTTP_HEAD_BYTES and not found.complete:
            where = "what frames the body" if found.headed else "the head of the reply"
            raise ValueError(f"{where} has more than {limits.HTTP_HEAD_BYTES:,} bytes")
    if not found.headed:
        raise ValueError("the connection ended before a reply came")
    if found.framed and not found.complete and len(found.body) < body_bytes:
        raise ValueError("the connection ended before the reply did")
    return Reply(found.status, bytes(found.body[:body_bytes]), found.headers, found.cookies)

"""Plain HTTP/1.1 for probes and scrapers: /livez, /readyz, /metrics. Sans frameworks: one protocol over httptools."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast

import httptools

from registry.server import limits
from registry.server.config import Address


@dataclass(frozen=True)
class Response:
    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Routes = Mapping[str, Callable[[], Response]]


class HttpServer:
    """Serves `routes` by path to GET and HEAD; anything else is a short, clear no."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    async def start(self, address: Address, tls: ssl.SSLContext | None) -> int:
        """Listen; the bound port. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self._routes, self._connections), address.host, address.port, ssl=tls
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._connections):
            connection.close()
        await self._server.wait_closed()


class _Connection(asyncio.Protocol):
    """One client. Requests are answered in order, as they are parsed; what has no end in bounds is cut off."""

    def __init__(self, routes: Routes, connections: set[_Connection]) -> None:
        self._routes = routes
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._received = 0  # bytes of the current request
        self._body_bytes = 0

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by shape, not by class
        if len(self._connections) >= limits.HTTP_CONNECTIONS:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections")
            return
        self._connections.add(self)
        self._restart_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._idle is not None:
            self._idle.cancel()

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._transport.close()  # answered as what it was without the upgrade
        except httptools.HttpParserError:
            self._refuse(HTTPStatus.BAD_REQUEST, "not an HTTP/1.1 request")
        else:
            if self._received > limits.HTTP_HEAD_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "request too large")

    # httptools callbacks, in order of a request

    def on_message_begin(self) -> None:
        self._url = b""
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)

    def on_message_complete(self) -> None:
        self._received = 0
        if self._transport is None or self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > limits.HTTP_UNREAD_BYTES:  # asks on and on, reads nothing
            self._transport.abort()
            return
        self._restart_idle()
        if self._body_bytes > limits.HTTP_BODY_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "no request body is taken here")
            return
        method = self._parser.get_method()
        keep = self._parser.should_keep_alive()
        self._write(self._answer(method), keep_alive=keep, head=method == b"HEAD")
        if not keep:
            self._transport.close()

    def _answer(self, method: bytes) -> Response:
        route = self._routes.get(self._url.partition(b"?")[0].decode("latin-1"))
        if route is None:
            known = ", ".join(self._routes)
            return Response(HTTPStatus.NOT_FOUND, f"not found; here are {known}\n".encode())
        if method not in (b"GET", b"HEAD"):
            return Response(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET and HEAD\n")
        return route()

    def _write(self, response: Response, *, keep_alive: bool, head: bool = False) -> None:
        assert self._transport is not None
        status = response.status
        lines = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            f"content-type: {response.content_type}\r\n"
            f"content-length: {len(response.body)}\r\n"
            f"cache-control: no-store\r\n"
            f"connection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
        )
        self._transport.write(lines.encode("latin-1") + (b"" if head else response.body))

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            self._write(Response(status, f"{text}\n".encode()), keep_alive=False)
            self._transport.close()

    def _restart_idle(self) -> None:
        """From here on one whole request must arrive in time, however its bytes trickle."""
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(limits.HTTP_IDLE_S, self.close)

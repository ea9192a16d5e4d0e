"""HTTP/1.1 of a member: one lean protocol over httptools, made for very many connections that mostly wait.

A handler answers at once, or keeps the exchange and answers later: then the connection costs neither task nor timer.
Requests of one connection are answered in their order; what has no end in bounds is cut off.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple, cast

import httptools

from registry.server import limits
from registry.server.config import Address
from registry.server.feed import busy
from registry.server.http_connection import Connection, after
from registry.server.http_messages import Failed, Request, Response, Work, encoded, refusal

_KEPT_HEADERS = frozenset({b"content-length", b"expect", b"range", b"if-range"})
_NO_HEADERS: dict[bytes, bytes] = {}


# Bytes are a whole reply, status 200. None: `Exchange.later` or `Exchange.run` was called.
Handler = Callable[[Request, "Exchange"], Response | bytes | None]


class Route(NamedTuple):
    """`private`: under TLS for clients with a certificate only."""

    handle: Handler
    methods: tuple[bytes, ...] = (b"GET", b"HEAD")
    takes_body: bool = False
    private: bool = False


class HttpServer:
    """Serves `routes` by path; one that ends in a slash serves what is below it. `answered`: replies by route and
    status."""

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self.answered: Counter[tuple[str, int]] = Counter()
        self.connections: set[Exchange] = set()
        self.bodies_bytes = 0  # of requests under way
        self.failed: Failed = lambda _, error: refusal(HTTPStatus.INTERNAL_SERVER_ERROR, type(error).__name__)
        self._routes = dict(routes)
        self.keep_until_s = math.inf  # of a connection without a next request, as of the last sweep
        self._is_serving = False
        self._server: asyncio.Server | None = None
        self._sweeping: asyncio.TimerHandle | None = None

    def serve(self, routes: Mapping[str, Route], failed: Failed) -> None:
        """From now on these too; `failed` makes replies of what handlers raise."""
        self._routes |= routes
        self._is_serving = True
        self.failed = failed

    async def start(self, address: Address, tls: ssl.SSLContext | None, *, shared: bool = False) -> int:
        """Listen; the bound port. `shared`: other processes listen there too. Raises OSError."""
        loop = asyncio.get_running_loop()
        is_private = tls is not None
        self._server = await loop.create_server(
            lambda: Exchange(self, tls=is_private),
            address.host,
            address.port,
            ssl=tls,
            ssl_handshake_timeout=limits.HTTP_HANDSHAKE_S if is_private else None,
            backlog=limits.HTTP_BACKLOG,
            reuse_port=shared or None,
        )
        self._sweep()
        return int(self._server.sockets[0].getsockname()[1])

    def _sweep(self) -> None:
        """One timer for all connections: a look at each is less than a timer for each."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        self.keep_until_s = now_s + limits.HTTP_KEEP_S
        for connection in [each for each in self.connections if each.deadline_s <= now_s]:
            connection.late()
        self._sweeping = loop.call_later(limits.HTTP_SWEEP_S, self._sweep)

    async def finish(self, timeout_s: float) -> None:
        """Let what is being answered end, at most timeout_s."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while any(each.is_busy for each in self.connections) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(limits.HTTP_FINISH_LOOK_S)

    async def stop(self) -> None:
        if self._server is None:
            return
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._server.close()
        for connection in list(self.connections):
            connection.close()
        await self._server.wait_closed()

    def find(self, path: str) -> tuple[str, Route | None]:
        route = self._routes.get(path)
        if route is not None:
            return path, route
        for prefix, route in self._routes.items():
            if prefix.endswith("/") and path.startswith(prefix):
                return prefix, route
        return "", None

    def unknown(self) -> Response:
        if not self._is_serving:
            return refusal(HTTPStatus.SERVICE_UNAVAILABLE, "this member is starting", metadata=busy("").metadata)
        return refusal(HTTPStatus.NOT_FOUND, "not found", hint=f"here are {', '.join(self._routes)}")


class Exchange(Connection):
    """One connection, and the request of it that is being answered."""

    __slots__ = (
        "_body", "_body_bytes", "_has_certificate", "_head_bytes", "_headers", "_is_due", "_is_head", "_is_in_body",
        "_is_partial", "_is_streaming", "_keep", "_left", "_parser", "_queue", "_route", "_server", "_stash", "_tls",
        "_unread_bytes", "_url", "_work",
    )  # fmt: skip

    def __init__(self, server: HttpServer, *, tls: bool) -> None:
        super().__init__()
        self._server = server
        self._tls = tls
        self._has_certificate = False
        self._parser: Any = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers = _NO_HEADERS
        self._body: bytes | bytearray = b""
        self._body_bytes = 0  # of the request that is being read
        self._head_bytes = 0  # of its head, parsed
        self._unread_bytes = 0  # of its head, or around its body, come in in a row
        self._is_head = False  # the one being answered gets no body
        self._is_in_body = False
        self._is_partial = False  # its beginning has come, and its deadline runs
        self._work: Work | None = None
        self._keep = True  # the connection, after the answer under way
        self._route = ""
        self._is_streaming = False
        self._queue: deque[Request] | None = None  # came with an earlier one
        self._stash = b""  # came while that was answered
        self._left = 0  # requests that are still served in this turn of the loop
        self._is_due = False  # the next turn

    # For handlers

    @property
    def is_busy(self) -> bool:
        return self._work is not None

    def later(self, work: Work) -> None:
        """`work` will call `answer`, unless it is cancelled."""
        self._work = work

    def run(self, answering: Coroutine[Any, Any, Response | None]) -> None:
        """Answer with what it returns; None: it has streamed everything."""
        self._work = asyncio.get_running_loop().create_task(self._run(answering))

    def answer(self, response: Response | bytes, *, close: bool = False) -> None:
        """Once for each request."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        keep = self._keep and not close
        if isinstance(response, bytes):
            transport.write(response)
            status = 200
        else:
            bodiless = len(response.body) if self._is_head else None
            transport.write(encoded(response, keep_alive=keep, size_bytes=bodiless))
            status = response.status.value
        self._server.answered[self._route, status] += 1
        self._keep = keep
        self._end_request()

    def fail(self, error: Exception) -> None:
        """Answer with what `failed` makes of it."""
        self.answer(self._server.failed(self._route, error))

    def begin(self, response: Response, size_bytes: int) -> None:
        """The head of a reply whose body follows by `write`."""
        assert self._transport is not None
        self._is_streaming = True
        self._server.answered[self._route, response.status.value] += 1
        self._transport.write(encoded(response, keep_alive=self._keep, size_bytes=size_bytes))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by shape, not by class
        if self._tls:
            self._has_certificate = bool(transport.get_extra_info("peercert"))
            self._transport.set_write_buffer_limits(limits.HTTP_AHEAD_BYTES)
        if len(self._server.connections) >= limits.HTTP_CONNECTIONS:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections", busy("").metadata)
            return
        self._server.connections.add(self)
        self.deadline_s = after(limits.HTTP_IDLE_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._drop_body()
        work, self._work, self._transport = self._work, None, None
        self._parser = None  # it refers to this, and this to it
        if work is not None:
            work.cancel()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._left = limits.HTTP_SERVED
        if self._stash:
            self._put_by(data)
        else:
            self._take(self._transport, data)

    # httptools callbacks, in order of a request

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = _NO_HEADERS
        self._is_partial = True

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))
        name = name.lower()
        if name in _KEPT_HEADERS:
            self._headers = {**self._headers, name: value}

    def on_headers_complete(self) -> None:
        self._is_in_body = True
        if not self._headers:
            return
        length = self._headers.get(b"content-length", b"0")
        if len(length) > 18 or int(length) > limits.HTTP_BODY_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {limits.HTTP_BODY_BYTES} bytes are taken")
        elif self._headers.get(b"expect", b"").lower() == b"100-continue" and self._work is None and not self._queue:
            assert self._transport is not None
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._unread_bytes = 0
        self._body_bytes += len(body)
        self._server.bodies_bytes += len(body)
        if self._body_bytes > limits.HTTP_BODY_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {limits.HTTP_BODY_BYTES} bytes are taken")
        elif self._server.bodies_bytes > limits.HTTP_BODIES_BYTES:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too much is being sent", busy("").metadata)
        elif not self._body:
            self._body = body
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += body

    def on_message_complete(self) -> None:
        self._is_in_body = self._is_partial = False
        self._head_bytes = self._unread_bytes = 0
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if transport.get_write_buffer_size() > limits.HTTP_UNREAD_BYTES:  # asks on and on, reads nothing
            transport.abort()
            return
        path, _, query = self._url.decode("latin-1").partition("?")
        is_new = self._parser.get_http_version() != "1.0"  # an older client gets its answer, and nothing after it
        keep = is_new and self._parser.should_keep_alive()
        request = Request(self._parser.get_method(), path, query, self._headers, bytes(self._body), keep)
        self._drop_body()
        if self._work is None and not self._queue:
            self._serve(request)
        else:
            self._queue = self._queue or deque()
            self._queue.append(request)
            self._soon()

    # Inside

    def _take(self, transport: asyncio.Transport, data: bytes) -> None:
        """In parts, so that what follows a request that waits, or the last one of this turn, is not parsed yet."""
        for start in range(0, len(data), limits.HTTP_PARSED_BYTES):
            if self._work is not None or self._queue or self._left <= 0:
                self._put_by(data[start:])
                return
            self._parse(data[start : start + limits.HTTP_PARSED_BYTES])
            if transport.is_closing():
                return

    def _put_by(self, data: bytes) -> None:
        """Until its turn. More is still read, for a while: that is how a client is seen to leave."""
        self._stash += data
        if self._transport is not None and len(self._stash) > limits.HTTP_PIPELINED_BYTES:
            self._transport.pause_reading()
        self._soon()

    def _parse(self, data: bytes) -> None:
        was_partial = self._is_partial
        self._unread_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # answered as what it was without the upgrade
            self._keep = False
            if self._work is None:
                self.close()
        except httptools.HttpParserCallbackError as error:  # a defect of ours
            cause = error.__context__
            self._end_with(self._server.failed(self._route, cause if isinstance(cause, Exception) else error))
        except httptools.HttpParserError:
            self._refuse(HTTPStatus.BAD_REQUEST, "not an HTTP/1.1 request")
        else:
            if self._unread_bytes > limits.HTTP_HEAD_BYTES and self._is_partial:
                self._refuse_head()
            elif self._is_partial and not was_partial and self._work is None:
                self.deadline_s = after(limits.HTTP_IDLE_S)  # for the whole of it, however its bytes trickle

    def _serve(self, request: Request) -> None:
        self._left -= 1
        self._keep, self._is_head = request.keep_alive, request.is_head
        path, route = self._server.find(request.path)
        self._route = path
        response: Response | bytes | None
        if route is None:
            response = self._server.unknown()
        elif request.method not in route.methods:
            methods = b", ".join(route.methods).decode()
            response = refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"taken here: {methods}")
        elif request.body and not route.takes_body:
            self._keep = False
            response = refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "no request body is taken here")
        elif route.private and self._tls and not self._has_certificate:
            response = refusal(HTTPStatus.FORBIDDEN, "a client certificate is needed here", reason="NO_CERTIFICATE")
        else:
            try:
                response = route.handle(request, self)
            except Exception as error:  # noqa: BLE001 - the edge: nothing but a reply leaves
                response = self._server.failed(path, error)
        if response is None:
            self.deadline_s = math.inf
        else:
            self.answer(response)

    async def _run(self, answering: Coroutine[Any, Any, Response | None]) -> None:
        try:
            response = await answering
        except Exception as error:  # noqa: BLE001
            left = self._is_streaming and isinstance(error, ConnectionError)  # by the client: no defect
            response = None if left else self._server.failed(self._route, error)
            if self._is_streaming:
                if self._transport is not None:
                    self._transport.abort()
                return
        if response is not None:
            self.answer(response)
        elif self._transport is not None:
            self._end_request()

    def _end_request(self) -> None:
        self._work = None
        self._is_streaming = False
        if not self._keep:
            self.close()
            return
        self.deadline_s = self._server.keep_until_s
        if self._queue or self._stash:
            self._soon()

    def _soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """What came before the answer to an earlier request was out, or was too much for one turn."""
        self._is_due, self._left = False, limits.HTTP_SERVED
        while self._work is None and self._transport is not None and not self._transport.is_closing():
            if self._queue and self._left > 0:
                self._serve(self._queue.popleft())
                continue
            if self._queue:
                self._soon()
            elif self._stash:
                data, self._stash = self._stash, b""
                self._transport.resume_reading()
                self._take(self._transport, data)
            break

    def _count_head(self, size_bytes: int) -> None:
        self._head_bytes += size_bytes
        if self._head_bytes > limits.HTTP_HEAD_BYTES:
            self._refuse_head()

    def _refuse_head(self) -> None:
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"at most {limits.HTTP_HEAD_BYTES} bytes of head")

    def _drop_body(self) -> None:
        self._server.bodies_bytes -= self._body_bytes
        self._body, self._body_bytes = b"", 0

    def _refuse(self, status: HTTPStatus, text: str, metadata: Mapping[str, str] | None = None) -> None:
        """What came is no request that is answered, and neither is what follows it."""
        self._end_with(refusal(status, text, metadata=metadata))

    def _end_with(self, response: Response) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        work, self._work = self._work, None
        if work is not None:
            work.cancel()
        transport.write(encoded(response, keep_alive=False))
        self._server.answered["", response.status.value] += 1
        self.close()

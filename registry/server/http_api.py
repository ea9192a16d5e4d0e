"""The agents' API over HTTP: polls and reports. JSON as in core.delivery and core.commands; see docs/api.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from registry.core import limits as core_limits
from registry.core.commands import Ack
from registry.core.delivery import Poll
from registry.core.errors import Invalid, Reason
from registry.server import limits
from registry.server.delivery import Ask, Build, Delivery, Piece
from registry.server.feed import PointerKey, busy
from registry.server.http import Exchange, Route
from registry.server.http_messages import JSON, Request, Response
from registry.server.hub import Hub
from registry.server.reports import Reports

WITH_FRAMES = "application/vnd.registry.poll"
Check = Callable[[str], None]  # the call; raises Unavailable while this process answers none
_poll = msgspec.json.Decoder(Poll)
_acks = msgspec.json.Decoder(list[Ack])


class AgentsApi:
    def __init__(self, *, delivery: Delivery, hub: Hub, reports: Reports, check: Check) -> None:
        self.delivery, self.hub, self._reports, self._check = delivery, hub, reports, check
        self._sending_bytes = 0  # of answers that go out piece by piece
        self.routes: Mapping[str, Route] = {
            "/v1/poll": Route(self._poll, (b"POST",), takes_body=True, private=True),
            "/v1/acks": Route(self._acks, (b"POST",), takes_body=True, private=True),
        }

    def _poll(self, request: Request, exchange: Exchange) -> bytes | None:
        self._check("Poll")
        poll = _decoded(_poll, request.body, "core.delivery.Poll")
        ask = self.delivery.ask(poll)
        self._reports.contact(poll.agent, poll.session)
        found = self.delivery.answer(ask)
        wait_s = min(max(poll.wait_ms, 0), core_limits.POLL_WAIT_S * 1000) / 1000
        if isinstance(found, Build):
            waiter = _Waiting(self, exchange, ask)
            self.hub.add(waiter, max(wait_s, limits.BUILD_S))
            found.waiters.append(waiter)
        elif found or not wait_s:
            return self.reply(found, exchange)
        else:
            waiter = _Waiting(self, exchange, ask)
            self.hub.add(waiter, wait_s)
        exchange.later(waiter)
        return None

    def _acks(self, request: Request, exchange: Exchange) -> None:
        self._check("Acknowledge")
        acks = _decoded(_acks, request.body, "an array of core.commands.Ack")
        exchange.run(self._acknowledge(acks))

    async def _acknowledge(self, acks: Sequence[Ack]) -> Response:
        revision = await self._reports.acknowledge(acks, limits.CALL_S)
        return Response(HTTPStatus.OK, msgspec.json.encode({"revision": revision}), JSON)

    def reply(self, pieces: list[Piece], exchange: Exchange) -> bytes | None:
        """A whole reply; the one of a single instruction is made once. None: it is long, and being sent."""
        if len(pieces) == 1:
            (piece,) = pieces
            if not isinstance(piece.reply, bytes):
                piece.reply = _http(self.delivery.reply(pieces), piece.frame)
            return piece.reply
        document, frames = self.delivery.reply(pieces), [piece.frame for piece in pieces if piece.frame]
        if len(document) + sum(map(len, frames)) <= limits.HTTP_WHOLE_BYTES:
            return _http(document, b"".join(frames))
        exchange.run(self._send(exchange, document, frames))
        return None

    async def _send(self, exchange: Exchange, document: bytes, frames: Sequence[bytes]) -> None:
        """As it is read: the frames are shared by all who need them, and what was written is a copy for each."""
        parts = [document, b"\n", *frames] if frames else [document]
        size_bytes = sum(map(len, parts))
        if self._sending_bytes + size_bytes > limits.HTTP_SENDING_BYTES:
            raise busy(f"{self._sending_bytes} bytes of answers wait to be read, as many as this member keeps")
        self._sending_bytes += size_bytes
        try:
            exchange.begin(Response(HTTPStatus.OK, b"", WITH_FRAMES if frames else JSON), size_bytes)
            for part in parts:
                await exchange.write(part)
        finally:
            self._sending_bytes -= size_bytes


class _Waiting:
    """hub.Waiter and http.Work: one poll that waits."""

    __slots__ = ("_api", "_ask", "_exchange", "keys", "size_bytes", "slot")

    def __init__(self, api: AgentsApi, exchange: Exchange, ask: Ask) -> None:
        self._api = api
        self._exchange: Exchange | None = exchange
        self._ask = ask
        self.keys: tuple[PointerKey, ...] = ask.keys
        self.size_bytes = ask.size_bytes
        self.slot = 0

    def look(self) -> None:
        api, exchange = self._api, self._exchange
        if exchange is None:
            return
        if api.hub.closed:
            self.late()
            return
        known = api.delivery.known(self._ask)
        if known is not None and isinstance(known.reply, bytes):  # as nearly all: told in the fewest steps
            self._exchange = None
            api.hub.remove(self)
            exchange.answer(known.reply)
            return
        try:
            found = api.delivery.answer(self._ask)
        except Exception as error:  # noqa: BLE001 - nobody else would tell the agent
            self._fail(error)
            return
        if isinstance(found, Build):
            found.waiters.append(self)
        elif found:
            self._end(found)

    def late(self) -> None:
        if self._exchange is None:
            return
        try:
            found = self._api.delivery.answer_now(self._ask)
        except Exception as error:  # noqa: BLE001
            self._fail(error)
        else:
            self._end(found)

    def cancel(self) -> None:
        """Also of one that was answered while its client left."""
        if self._exchange is not None:
            self._exchange = None
            self._api.hub.remove(self)

    def _end(self, found: list[Piece]) -> None:
        exchange = self._exchange
        if exchange is not None:
            self.cancel()
            reply = self._api.reply(found, exchange)
            if reply is not None:
                exchange.answer(reply, close=self._api.hub.closed)

    def _fail(self, error: Exception) -> None:
        exchange = self._exchange
        if exchange is not None:
            self.cancel()
            exchange.fail(error)


def _http(document: bytes, frames: bytes) -> bytes:
    body = document + b"\n" + frames if frames else document
    kind = WITH_FRAMES if frames else JSON
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (kind.encode(), len(body), body)


def _decoded(decoder: msgspec.json.Decoder[Any], body: bytes, what: str) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise Invalid(
            Reason.INVALID_REQUEST, f"the body is not {what} as JSON: {error}", hint="docs/api.md, HTTP, shows one"
        ) from error

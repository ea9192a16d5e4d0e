"""The HTTP protocol of a member, against clients of every kind, over loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from http import HTTPStatus

import pytest

from registry.server import limits
from registry.server.config import Address
from registry.server.http import Exchange, HttpServer, Route
from registry.server.http_messages import Request, Response, refusal

WAIT_S = 5.0


class Later:
    """http.Work: answers when told to."""

    def __init__(self, exchange: Exchange, request: Request) -> None:
        self.exchange, self.request = exchange, request
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Site:
    """A server with a few routes, and what it was asked."""

    def __init__(self) -> None:
        self.later: list[Later] = []
        self.echoed = 0
        self.came = asyncio.Event()
        self.server = HttpServer(
            {
                "/echo": Route(self._echo, (b"POST",), takes_body=True),
                "/later": Route(self._later, (b"GET", b"POST"), takes_body=True),
                "/stream/": Route(self._stream),
                "/broken": Route(self._broken),
                "/unsayable": Route(lambda *_: Response(HTTPStatus.OK, b"", headers=(("x-name", "\u2026"),))),
                "/awaited": Route(lambda _, exchange: exchange.run(self._awaited(is_broken=False))),
                "/awaited/broken": Route(lambda _, exchange: exchange.run(self._awaited(is_broken=True))),
                "/size": Route(self._size, (b"POST",), takes_body=True),
                "/hello": Route(lambda *_: Response(HTTPStatus.OK, b"hello\n")),
            },
        )
        self.port = 0

    def _echo(self, request: Request, _: Exchange) -> bytes:
        self.echoed += 1
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(request.body), request.body)

    def _size(self, request: Request, _: Exchange) -> Response:
        return Response(HTTPStatus.OK, b"%d\n" % len(request.body))

    def _later(self, request: Request, exchange: Exchange) -> None:
        work = Later(exchange, request)
        self.later.append(work)
        exchange.later(work)
        self.came.set()

    def _broken(self, *_: object) -> Response:
        raise KeyError("a defect")

    async def _awaited(self, *, is_broken: bool) -> Response:
        await asyncio.sleep(0)
        if is_broken:
            raise KeyError("a defect")
        return Response(HTTPStatus.OK, b"awaited\n")

    def _stream(self, request: Request, exchange: Exchange) -> None:
        exchange.run(self._pieces(int(request.path.removeprefix("/stream/")), exchange))

    async def _pieces(self, count: int, exchange: Exchange) -> None:
        exchange.begin(Response(HTTPStatus.OK, b""), count * 65_536)
        for number in range(count):
            if number == 900:
                raise OSError("the disk broke")
            await exchange.write(bytes([number % 251]) * 65_536)

    async def ask(self, data: bytes) -> bytes:
        """All that comes until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            return await asyncio.wait_for(reader.read(), WAIT_S)
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(limits, "HTTP_SWEEP_S", 0.01)
    made = Site()
    made.server.serve({}, made.server.failed)
    made.port = await made.server.start(Address("127.0.0.1", 0), None)
    yield made
    await made.server.stop()


def request(path: str, body: bytes = b"", *, method: str = "", close: bool = True, more: str = "") -> bytes:
    lines = [f"{method or ('POST' if body else 'GET')} {path} HTTP/1.1", "host: m", *([more] if more else [])]
    lines += ["connection: close"] if close else []
    lines += [f"content-length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode() + body


async def test_bodies_arrive_whole_however_they_are_cut(site: Site) -> None:
    body = bytes(range(256)) * 400
    data = request("/echo", body)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    for start in range(0, len(data), 7001):
        writer.write(data[start : start + 7001])
        await writer.drain()
        await asyncio.sleep(0)
    assert (await asyncio.wait_for(reader.read(), WAIT_S)).endswith(b"\r\n\r\n" + body)
    writer.close()
    chunked = b"POST /echo HTTP/1.1\r\nhost: m\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    assert (await site.ask(chunked + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")).endswith(b"\r\n\r\nabcde")
    assert site.server.bodies_bytes == 0


async def test_a_client_that_asks_first_is_told_to_go_on(site: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    head, _, body = request("/echo", b"abc", more="expect: 100-continue").partition(b"\r\n\r\n")
    writer.write(head + b"\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert (await reader.read()).endswith(b"abc")
    writer.close()


async def test_requests_sent_at_once_are_answered_in_order(site: Site) -> None:
    bodies = [b"%d" % number for number in range(10)]
    data = b"".join(request("/echo", body, close=False) for body in bodies) + request("/hello")
    assert (await site.ask(data)).split(b"\r\n\r\n")[1:] == [
        *(body + b"HTTP/1.1 200 OK\r\ncontent-length: 1" for body in bodies[:-1]),
        *((await site.ask(data)).split(b"\r\n\r\n")[10:]),
    ]


async def test_what_comes_behind_a_waiting_request_waits_too(site: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(request("/later", close=False) + request("/echo", b"one", close=False))
    await asyncio.wait_for(site.came.wait(), WAIT_S)
    writer.write(request("/echo", b"two", close=False))
    (waiting,) = site.later
    async with asyncio.timeout(WAIT_S):
        while not waiting.exchange._stash:
            await asyncio.sleep(0)
    waiting.exchange.answer(Response(HTTPStatus.OK, b"first"))
    waiting.exchange.data_received(request("/echo", b"three"))  # came before the others had their turn
    reply = await asyncio.wait_for(reader.read(), WAIT_S)
    places = [reply.index(text) for text in (b"first", b"one", b"two", b"three")]
    assert places == sorted(places)
    writer.close()


async def test_a_client_that_leaves_while_it_waits_is_noticed_at_once(site: Site) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(request("/later", close=False))
    await asyncio.wait_for(site.came.wait(), WAIT_S)
    assert any(each.is_busy for each in site.server.connections)
    writer.close()
    async with asyncio.timeout(WAIT_S):
        while site.server.connections:
            await asyncio.sleep(0)
    assert site.later[0].is_cancelled
    site.later[0].exchange.answer(b"nobody is there")


async def test_a_body_past_the_limit_is_refused_before_it_is_sent(site: Site) -> None:
    head = b"POST /echo HTTP/1.1\r\nhost: m\r\ncontent-length: %d\r\n\r\n" % (limits.HTTP_BODY_BYTES + 1)
    assert (await site.ask(head)).startswith(b"HTTP/1.1 413 ")
    assert (await site.ask(head.replace(b"content-length: ", b"content-length: 9999999999"))).startswith(
        b"HTTP/1.1 413 "
    )


async def test_a_body_without_an_end_is_refused_at_the_limit(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_BODY_BYTES", 100_000)
    data = (
        b"POST /echo HTTP/1.1\r\nhost: m\r\ntransfer-encoding: chunked\r\n\r\n" + b"2710\r\n%b\r\n" % bytes(10_000) * 12
    )
    assert (await site.ask(data)).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("start", [b"0\r\nx: ", b"1;", b"2\r\nok\r\n0\r\nx: "])
async def test_what_frames_a_body_is_bounded(site: Site, start: bytes) -> None:
    head = b"POST /echo HTTP/1.1\r\nhost: m\r\ntransfer-encoding: chunked\r\n\r\n"
    reply = await site.ask(head + start + b"a" * (limits.HTTP_BODY_BYTES // 4))
    assert reply == b"" or reply.startswith(b"HTTP/1.1 431 ")  # empty: it was still sending


async def test_bodies_of_all_together_are_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_BODIES_BYTES", 1000)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(request("/echo", bytes(900))[:-100])
    async with asyncio.timeout(WAIT_S):
        while not site.server.bodies_bytes:
            await asyncio.sleep(0)
    reply = await site.ask(request("/echo", bytes(900)))
    assert reply.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: " in reply
    writer.write(bytes(100))
    assert (await asyncio.wait_for(reader.read(), WAIT_S)).startswith(b"HTTP/1.1 200 ")
    writer.close()
    assert site.server.bodies_bytes == 0


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request("/nowhere"), 404),
        (request("/hello", b"x"), 405),
        (request("/hello", b"x", method="GET"), 413),
        (request("/echo", method="DELETE"), 405),
        (b"GET /" + b"a" * (limits.HTTP_HEAD_BYTES + 1), 431),
        (request("/hello", more=f"x: {'y' * limits.HTTP_HEAD_BYTES}"), 431),
        (request("/hello", more="\r\n".join(f"x{n}: y" for n in range(limits.HTTP_HEAD_BYTES // 5))), 431),
        (b"\x00\x01\x02", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nhost: m\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nhost: m\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd", 400),
        (b"POST /echo HTTP/1.1\r\nhost: m\r\ncontent-length: -3\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nhost: m\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (request("/broken"), 500),
    ],
)
async def test_odd_requests_get_a_short_no(site: Site, data: bytes, status: int) -> None:
    reply = await site.ask(data)
    assert reply.startswith(b"HTTP/1.1 %d " % status)
    assert len(reply) < 1000
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["error"]


async def test_garbage_behind_a_waiting_request_ends_both(site: Site) -> None:
    reply = await site.ask(request("/later", close=False) + b"\x00garbage")
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert reply.count(b"\r\n\r\n") == 1
    assert site.later[0].is_cancelled


async def test_a_flood_behind_a_waiting_request_is_not_looked_at_yet(site: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    count = 3 * limits.HTTP_PARSED_BYTES
    writer.write(request("/later", close=False) + b"GET /hello HTTP/1.1\r\n\r\n" * count + request("/hello"))
    await asyncio.wait_for(site.came.wait(), WAIT_S)
    (connection,) = site.server.connections
    assert len(connection._queue or ()) <= limits.HTTP_PARSED_BYTES // len(b"GET / HTTP/1.1\r\n\r\n")
    site.later[0].exchange.answer(Response(HTTPStatus.OK, b"first"))
    reply = await asyncio.wait_for(reader.read(), WAIT_S)
    assert reply.count(b"hello\n") == count + 1
    writer.close()


async def test_requests_sent_at_once_leave_the_loop_time_for_others(site: Site) -> None:
    """However small they are, and whatever is behind them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    bodies = [b"%04d" % number for number in range(2000)]
    most = [0]

    async def watch() -> None:
        before = 0
        while site.echoed < len(bodies):
            before = site.echoed
            await asyncio.sleep(0)
            most.append(site.echoed - before)

    watching = asyncio.ensure_future(watch())
    writer.write(b"".join(b"POST /echo HTTP/1.1\r\ncontent-length: 4\r\n\r\n" + body for body in bodies))
    writer.write(request("/hello"))
    reply = await asyncio.wait_for(reader.read(), WAIT_S)
    await watching
    assert [part[:4] for part in reply.split(b"\r\n\r\n")[1:-1]] == bodies
    assert reply.endswith(b"hello\n")
    assert max(most) <= 2 * limits.HTTP_SERVED, "of what came and of what was left, in one turn"
    writer.close()


async def test_a_defect_met_while_a_request_is_parsed_is_not_blamed_on_the_client(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    defects: list[Exception] = []
    told = site.server.failed

    def failed(route: str, error: Exception) -> Response:
        defects.append(error)
        return told(route, error)

    monkeypatch.setattr(site.server, "failed", failed)
    assert (await site.ask(request("/unsayable", close=False))).startswith(b"HTTP/1.1 500 ")
    assert [type(error) for error in defects] == [UnicodeEncodeError]
    assert (await site.ask(b"\x00\x01")).startswith(b"HTTP/1.1 400 ")
    assert len(defects) == 1


async def test_no_more_is_read_than_there_is_room_for_behind_a_waiting_request(site: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(request("/later", close=False))
    await asyncio.wait_for(site.came.wait(), WAIT_S)
    body = bytes(1_000_000)
    for _ in range(20):
        writer.write(request("/size", body, close=False))
    writer.write(request("/hello"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(writer.drain(), 0.2)
    (connection,) = site.server.connections
    assert len(connection._stash) < 1_000_000
    site.later[0].exchange.answer(Response(HTTPStatus.OK, b"first"))
    reply = await asyncio.wait_for(reader.read(), WAIT_S)
    assert (reply.count(b"HTTP/1.1 200 OK"), reply[-6:]) == (22, b"hello\n")
    writer.close()


async def test_whoever_trickles_is_let_go(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a byte comes: the whole request has to be there in time."""
    monkeypatch.setattr(limits, "HTTP_IDLE_S", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    gone = asyncio.ensure_future(reader.read())
    for byte in request("/echo", bytes(10_000))[:-1]:
        writer.write(bytes([byte]))
        await asyncio.wait([gone], timeout=0.01)
        if gone.done():
            break
    assert isinstance(gone.exception(), ConnectionResetError) or gone.result() == b""
    writer.close()


async def test_a_connection_without_a_next_request_is_closed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_KEEP_S", 0.05)
    async with asyncio.timeout(WAIT_S):
        while site.server.keep_until_s > asyncio.get_running_loop().time() + 1:
            await asyncio.sleep(0)
    assert (await site.ask(request("/hello", close=False))).endswith(b"hello\n")
    assert not site.server.connections


async def test_head_shows_the_head(site: Site) -> None:
    reply = await site.ask(request("/hello", method="HEAD"))
    assert b"content-length: 6\r\n" in reply
    assert reply.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("path", ["/awaited", "/awaited/broken"])
async def test_head_shows_the_head_of_what_is_made_later_too(site: Site, path: str) -> None:
    reply = await site.ask(request(path, method="HEAD", close=False) + request("/hello"))
    heads = reply.split(b"HTTP/1.1 ")[1:]
    assert len(heads) == 2
    assert heads[0].endswith(b"\r\n\r\n"), "whatever follows is taken for the next answer"
    assert heads[1].endswith(b"hello\n")


async def test_an_old_client_gets_its_answer_and_the_end(site: Site) -> None:
    assert (await site.ask(b"GET /hello HTTP/1.0\r\n\r\n")).endswith(b"hello\n")


async def test_streams_go_as_fast_as_they_are_read(site: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(request("/stream/800"))
    async with asyncio.timeout(WAIT_S):
        while not (site.server.connections and next(iter(site.server.connections))._writable):
            await asyncio.sleep(0)
    (connection,) = site.server.connections
    assert connection._transport is not None
    assert connection._transport.get_write_buffer_size() < 1_000_000
    reply = await asyncio.wait_for(reader.read(), WAIT_S)
    assert len(reply.partition(b"\r\n\r\n")[2]) == 800 * 65_536
    writer.close()


async def test_a_stream_that_breaks_is_seen_to_be_short(site: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(request("/stream/1000"))
    received = 0
    with suppress(ConnectionResetError):
        while part := await asyncio.wait_for(reader.read(1 << 20), WAIT_S):
            received += len(part)
    assert 0 < received < 1000 * 65_536
    writer.close()


async def test_whoever_takes_nothing_is_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_STALL_S", 0.05)
    defects: list[Exception] = []
    monkeypatch.setattr(site.server, "failed", lambda _, error: defects.append(error))
    _, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(request("/stream/800"))
    async with asyncio.timeout(WAIT_S):
        while not site.server.connections:
            await asyncio.sleep(0)
        while site.server.connections:
            await asyncio.sleep(0.01)
    writer.close()
    assert not defects, "no defect of ours: the log is spared"


async def test_connections_are_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_CONNECTIONS", 0)
    reply = await site.ask(b"")
    assert reply.startswith(b"HTTP/1.1 503 ")
    assert int(json.loads(reply.partition(b"\r\n\r\n")[2])["retry_ms"]) > 0


async def test_answers_are_counted_by_route_and_status(site: Site) -> None:
    for path in ("/hello", "/hello", "/stream/1", "/broken", "/nowhere"):
        await site.ask(request(path))
    assert site.server.answered == {("/hello", 200): 2, ("/stream/", 200): 1, ("/broken", 500): 1, ("", 404): 1}


async def test_a_server_that_is_not_complete_yet_says_so(site: Site) -> None:
    starting = HttpServer({})
    starting_port = await starting.start(Address("127.0.0.1", 0), None)
    site.port, port = starting_port, site.port
    reply = await site.ask(request("/v1/poll", b"{}"))
    assert reply.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: " in reply
    site.port = port
    await starting.stop()


async def test_finishing_waits_for_answers_and_not_for_ever(site: Site) -> None:
    waiting = asyncio.ensure_future(site.ask(request("/later")))
    await asyncio.wait_for(site.came.wait(), WAIT_S)
    await site.server.finish(0.0)
    finishing = asyncio.ensure_future(site.server.finish(WAIT_S))
    await asyncio.sleep(0)
    assert not finishing.done()
    site.later[0].exchange.answer(Response(HTTPStatus.OK, b"done"))
    assert (await waiting).endswith(b"done")
    await finishing


def test_a_refusal_says_when_to_come_back() -> None:
    made = refusal(HTTPStatus.SERVICE_UNAVAILABLE, "full", reason="BUSY", metadata={"retry_ms": "1500"})
    assert json.loads(made.body) == {"error": "full", "reason": "BUSY", "retry_ms": "1500"}
    assert made.headers == (("retry-after", "2"),)

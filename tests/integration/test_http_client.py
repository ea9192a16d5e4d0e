"""The HTTP client against sockets that behave, and that do not."""

from __future__ import annotations

import asyncio
import socket
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

import pytest
from msgspec import structs

from registry.client import limits
from registry.client.http import HttpClient
from registry.core import frames
from registry.core.commands import Ack
from registry.core.delivery import Holding, Instruction, Poll
from registry.core.errors import Conflict, Invalid, NotFound, Reason, RegistryError, Unavailable
from registry.core.limits import MIB
from tests.integration.lying_member import LyingMember, Request, Say, lying, polled, refused, reply, saying

WORKFLOW = "support/triage"
DIGEST = "sha256:" + "a" * 64
POLL = Poll(agent="edge-1", cluster_id="c1", epoch=1, follows=(Holding(workflow=WORKFLOW, generation=3),))


def instruction(**changes: object) -> Instruction:
    fields = {"workflow": WORKFLOW, "pointer": "active", "generation": 4, "version": 2, "digest": DIGEST}
    return Instruction(**(fields | {"size_bytes": 3} | changes))  # type: ignore[arg-type]


@asynccontextmanager
async def client_of(*members: LyingMember, seed: int = 0) -> AsyncIterator[HttpClient]:
    async with HttpClient([member.endpoint for member in members], random=Random(seed)) as client:
        yield client


async def failure(say: Say, poll: Poll = POLL, *, timeout_s: float = 5) -> RegistryError:
    """How a poll at this one member fails."""
    async with lying(say) as member, client_of(member) as client:
        with pytest.raises(RegistryError) as caught:
            await client.poll(poll, timeout_s=timeout_s)
        return caught.value


async def test_polls_and_acknowledgements_use_one_connection_again() -> None:
    async def say(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(polled(instruction()) if request.path == "/v1/poll" else reply(b'{"revision": 7}'))

    async with lying(say) as member, client_of(member) as client:
        for _ in range(3):
            told, content = await client.poll(POLL, timeout_s=5)
            assert told.instructions[0].generation == 4
            assert content == {}
        ack = Ack(agent="a", incarnation="i", sequence=1, workflow=WORKFLOW, pointer="active", generation=4, phase="x")
        await client.acknowledge([ack])
        assert member.connections == 1
        assert member.asked == ["/v1/poll"] * 3 + ["/v1/acks"]
        assert member.requests[0].body.startswith(b'{"agent":"edge-1"')


async def test_an_acknowledgement_does_not_wait_for_the_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_SPARE_S", 0.0)
    polling = asyncio.Event()

    async def say(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.path == "/v1/poll":
            polling.set()
            await asyncio.Event().wait()
        writer.write(reply(b'{"revision": 7}'))

    async with lying(say) as member, client_of(member) as client:
        waiting = asyncio.create_task(client.poll(POLL, timeout_s=5))
        await polling.wait()
        await client.acknowledge([])
        assert member.connections == 2
        while len(member._open) > 1:  # the second one is not kept for long
            await asyncio.sleep(0.001)
        waiting.cancel()


async def test_frames_come_with_the_reply() -> None:
    other = instruction(workflow="support/router", how="full", content_bytes=5)
    told = polled(instruction(how="delta", delta_base=DIGEST, content_bytes=3), other, frames=b"onethree")
    follows = (Holding(workflow=WORKFLOW, digest=DIGEST), Holding(workflow="support/router"))
    async with lying(saying(told)) as member, client_of(member) as client:
        poll = Poll(agent="a", follows=follows, inline_bytes=1024)
        _, content = await client.poll(poll, timeout_s=5)
        assert content == {(WORKFLOW, "active"): b"one", ("support/router", "active"): b"three"}


async def test_who_refuses_or_hangs_up_is_left_for_another() -> None:
    async def hang_up(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    busy = saying(refused(503, "BUSY", retry_ms=20_000))
    async with lying(hang_up) as first, lying(busy) as second, lying(saying(polled())) as third:
        gone = LyingMember(hang_up)
        gone.endpoint = "http://127.0.0.1:1"
        for seed in range(6):
            async with client_of(gone, first, second, third, seed=seed) as client:
                for _ in range(3):
                    assert (await client.poll(POLL, timeout_s=5))[0].cluster_id == "c1"
        assert len(second.requests) <= 6, "who is busy is not asked again before its time"
        assert len(third.requests) == 18


async def test_a_kept_connection_that_was_closed_meanwhile_is_no_failure() -> None:
    async with lying(saying(polled())) as member:
        told: list[str] = []
        async with HttpClient(member.endpoint, on_failed_attempt=lambda *what: told.append(str(what))) as client:
            await client.poll(POLL, timeout_s=5)
            member.hang_up()
            await client.poll(POLL, timeout_s=5)
        assert told == []
        assert member.connections == 2


async def test_nobody_stays_at_a_member_that_is_behind_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_TURN", 0.0)
    monkeypatch.setattr(limits, "HTTP_RETRY_S", (0.0, 0.0))
    monkeypatch.setattr(limits, "HTTP_SPREAD_S", 0.0)
    away = False

    async def fresh(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(refused(503, "NO_QUORUM") if away else polled(revision=10))

    waits = structs.replace(POLL, wait_ms=1)
    async with lying(fresh) as ahead, lying(saying(polled(revision=9))) as cut_off:
        async with client_of(ahead, cut_off) as client:
            while client.teller != ahead.endpoint:
                client._members.turn()
                await client.poll(waits, timeout_s=5)
            away = True
            await client.poll(waits, timeout_s=5)
            assert client.teller == cut_off.endpoint
            away = False
            for _ in range(3):
                await client.poll(waits, timeout_s=5)
                assert client.teller == ahead.endpoint


async def test_nobody_stays_at_a_member_that_has_not_heard_the_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_TURN", 0.0)
    cut_off = polled(age_ms=round(limits.POLL_AGE_S * 1000) + 1)
    async with lying(saying(cut_off)) as first, lying(saying(cut_off)) as second, client_of(first, second) as client:
        tellers = []
        for _ in range(3):
            await client.poll(POLL, timeout_s=5)
            tellers.append(client.teller)
    assert tellers[0] == tellers[2] != tellers[1]


async def test_names_that_are_looked_up_for_long_hold_up_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else leaves the event loop, such as the writes of an agent, does not wait behind them."""
    released = threading.Event()

    def looks(*_: object, **__: object) -> None:
        released.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "no name server answers")

    monkeypatch.setattr(socket, "getaddrinfo", looks)
    monkeypatch.setattr(limits, "HTTP_CONNECT_S", 0.01)
    try:
        async with HttpClient([f"http://member-{number}.example:7402" for number in range(40)]) as client:
            with pytest.raises(Unavailable, match="no connection within"):
                await client.poll(POLL, timeout_s=5)
        async with asyncio.timeout(5):
            await asyncio.to_thread(released.is_set)
    finally:
        released.set()


async def test_a_host_that_cannot_be_one_is_a_member_that_cannot_be_reached() -> None:
    async with lying(saying(polled())) as honest:
        async with HttpClient(["http://a..b:7402"]) as client:
            with pytest.raises(Unavailable, match="cannot connect"):
                await client.poll(POLL, timeout_s=5)
        async with HttpClient(["http://a..b:7402", honest.endpoint]) as client:
            assert (await client.poll(POLL, timeout_s=5))[0].instructions == ()


async def test_errors_are_those_of_the_member() -> None:
    problem = await failure(saying(refused(404, "WORKFLOW_NOT_FOUND", workflow=WORKFLOW)))
    assert isinstance(problem, NotFound)
    assert (problem.reason, problem.hint) == (Reason.WORKFLOW_NOT_FOUND, "do otherwise")
    assert problem.metadata == {"workflow": WORKFLOW}
    problem = await failure(saying(refused(503, "BUSY", "retry-after: 3")))
    assert isinstance(problem, Unavailable)
    assert problem.reason is Reason.BUSY
    for status, reason in ((400, "INVALID_REQUEST"), (404, "VERSION_NOT_FOUND"), (504, "OUTCOME_UNKNOWN")):
        problem = await failure(saying(reply(b'{"reason": "OF_A_LATER_RELEASE"}', status=f"{status} No")))
        assert problem.reason == reason
    for status, reason in (
        (400, "NO_MEMBER"),
        (404, "NO_MEMBER"),
        (413, "NO_MEMBER"),
        (429, "BUSY"),
        (502, "NO_MEMBER"),
    ):
        for body in (b"", b"<html>", b"{}", b"[" * 50_000):  # said by something that stands in between
            problem = await failure(saying(reply(body, status=f"{status} No")))
            assert isinstance(problem, Unavailable)
            assert problem.reason == reason
    assert (await failure(saying(reply(b"", status="302 Found")))).reason is Reason.NO_MEMBER


LIES: dict[str, tuple[bytes, str]] = {
    "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "not an HTTP"),
    "a request": (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", "not an HTTP"),
    "no end": (b"HTTP/1.1 200 OK\r\n\r\n{}", "where it ends"),
    "an interim reply": (b"HTTP/1.1 100 Continue\r\n\r\n", "nobody asked for"),
    "an upgrade": (b"HTTP/1.1 101 Switching\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n", "nobody asked for"),
    "compressed": (reply(b"{}", "content-encoding: gzip"), "nobody asked for"),
    "two lengths": (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}", "not an HTTP"),
    "length and chunks": (
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "not an HTTP",
    ),
    "a negative length": (b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\n{}", "not an HTTP"),
    "a length past all numbers": (b"HTTP/1.1 200 OK\r\ncontent-length: " + b"9" * 40 + b"\r\n\r\n{}", "not an HTTP"),
    "a huge length": (b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n{", "10,000,000,000 bytes"),
    "bad chunks": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "not an HTTP"),
    "too many headers": (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 100 + b"\r\n", "headers"),
    "a huge head": (b"HTTP/1.1 200 OK\r\nx: " + b"a" * 100_000, "head of the reply"),
    "a short body": (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\n{}", "closed"),
    "no JSON": (reply(b"<html></html>"), "not a reply to a poll"),
    "deep JSON": (reply(b'{"x":' + b"[" * 60_000), "not a reply to a poll"),
    "half of it": (reply(b'{"cluster_id": "c1", "epo'), "not a reply to a poll"),
    "other types": (reply(b'{"cluster_id": 7, "epoch": 1}'), "not a reply to a poll"),
    "not UTF-8": (reply(b'{"cluster_id": "\xff\xfe", "epoch": 1}'), "not a reply to a poll"),
    "no cluster": (polled(cluster_id=""), "belongs to c1"),
    "an older epoch": (polled(instruction(), epoch=0), "older"),
    "a lower generation": (polled(instruction(generation=2)), "not above 3"),
    "the same generation": (polled(instruction(generation=3)), "not above 3"),
    "another pointer": (polled(instruction(pointer="canary")), "nobody asked"),
    "twice": (polled(instruction(), instruction(generation=5)), "nobody asked"),
    "another how": (polled(instruction(how="magic")), "not a reply to a poll"),
    "bytes that are not here": (polled(instruction(how="have")), "not here"),
    "another base": (polled(instruction(how="delta", delta_base="x", content_bytes=1), frames=b"x"), "not here"),
    "too much inside": (polled(instruction(how="full", content_bytes=200_000), frames=bytes(200_000)), "200,"),
    "a frame that is cut off": (polled(instruction(how="full", content_bytes=9), frames=b"1234"), "4 bytes of content"),
    "more than the frames": (polled(instruction(how="full", content_bytes=2), frames=b"1234"), "4 bytes of content"),
    "frames of nothing": (polled(instruction(), frames=b"1234"), "4 bytes of content"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_what_a_member_may_not_send(lie: str) -> None:
    data, says = LIES[lie]

    async def say(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        if b"connection: close" in data:
            await writer.drain()
            writer.close()

    poll = Poll(agent="a", cluster_id="c1", epoch=1, follows=POLL.follows, inline_bytes=1024)
    async with lying(say) as liar, lying(saying(polled())) as honest:
        async with client_of(liar) as client:
            with pytest.raises(RegistryError, match=says):
                await client.poll(poll, timeout_s=5)
        for seed in (0, 1):
            async with client_of(liar, honest, seed=seed) as client:
                assert (await client.poll(poll, timeout_s=5))[0].instructions == ()


async def test_another_cluster_is_told_as_such() -> None:
    problem = await failure(saying(polled(cluster_id="c2")))
    assert isinstance(problem, Conflict)
    assert problem.reason is Reason.CLUSTER_MISMATCH


def _endless(start: bytes, more: bytes, delay_s: float = 0) -> Say:
    async def say(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(more)
            await writer.drain()
            await asyncio.sleep(delay_s)

    return say


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
ENDLESS: dict[str, Callable[[], Say]] = {
    "a body in chunks": lambda: _endless(CHUNKED, b"10000\r\n" + bytes(0x10000) + b"\r\n"),
    "tiny chunks": lambda: _endless(CHUNKED, b"1\r\nx\r\n" * 10_000),
    "headers after the chunks": lambda: _endless(CHUNKED + b"0\r\n", b"a: b\r\n" * 1000),
    "one header after the chunks": lambda: _endless(CHUNKED + b"0\r\nx: ", b"a" * 65536),
    "an extension of a chunk": lambda: _endless(CHUNKED + b"0;", b"a" * 65536),
    "a head": lambda: _endless(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 1000),
    "a status": lambda: _endless(b"HTTP/1.1 200 ", b"O" * 65536),
    "interim replies": lambda: _endless(b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 1000),
    "a huge body": lambda: _endless(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", bytes(65536)),
}


@pytest.mark.parametrize("what", ENDLESS)
async def test_endless_replies_end(what: str) -> None:
    tracemalloc.start()
    try:
        problem = await failure(ENDLESS[what]())
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()
    assert isinstance(problem, Unavailable)


async def test_slow_replies_end() -> None:
    for start in (b"HTTP/1.1 200 OK\r\nx: ", b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n", CHUNKED + b"0;"):
        problem = await failure(_endless(start, b"a", 0.01), timeout_s=0.1)
        assert "no answer in time" in problem.message


async def test_unasked_bytes_end_a_connection() -> None:
    async with lying(saying(polled() + polled(cluster_id="c2"))) as member, client_of(member) as client:
        for _ in range(2):
            assert (await client.poll(POLL, timeout_s=5))[0].cluster_id == "c1"
        assert member.connections == 2


async def test_a_bomb_in_a_frame_takes_no_memory() -> None:
    bombs = frames.pack(bytes(64 * MIB), 3), frames.pack_over(b"base", bytes(7 * MIB), 3)
    tracemalloc.start()
    try:
        assert frames.unpack(bombs[0], 1000) is None
        assert frames.unpack_over(b"base", bombs[1], 1000) is None
        assert tracemalloc.get_traced_memory()[1] < 1 * MIB
    finally:
        tracemalloc.stop()


def test_endpoints_are_http_addresses() -> None:
    wrong = ("127.0.0.1:7400", "http://", "ftp://a:1", "http://a:99999", "http://a:1/path", "http://u:p@a:1", "")
    for endpoint in wrong:
        with pytest.raises(Invalid, match="endpoint"):
            HttpClient(endpoint)
    with pytest.raises(Invalid, match="no endpoint"):
        HttpClient([])

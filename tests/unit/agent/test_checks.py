"""Each kind of question against a real server or process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from registry.agent import http, limits
from registry.agent.checks import ask, check_target
from registry.agent.probe import ProbeSpec, probe
from registry.agent.runner import Result

Status = health_pb2.HealthCheckResponse


@asynccontextmanager
async def health_server(**services: int) -> AsyncIterator[str]:
    """`HOST:PORT` of a gRPC server whose services are as healthy as said."""
    servicer = health.aio.HealthServicer()
    for service, status in services.items():
        await servicer.set("" if service == "whole" else service, status)
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def server_of(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """`HOST:PORT`. Ends when every connection has."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await answer(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    serving: list[asyncio.Task[None] | None] = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()
        await asyncio.gather(*(task for task in serving if task))


@asynccontextmanager
async def web_server(reply: bytes) -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)

    async with server_of(answer) as address:
        yield address


async def test_grpc_health_of_a_server_and_of_a_service() -> None:
    async with health_server(whole=Status.SERVING, triage=Status.NOT_SERVING) as address:
        assert (await ask(f"grpc://{address}", {}, timeout_s=5)).succeeded
        assert (await ask(f"grpc://{address}/triage", {}, timeout_s=5)).detail == "health is NOT_SERVING"
        assert (await ask(f"grpc://{address}/other", {}, timeout_s=5)).detail.startswith("NOT_FOUND")
    gone = await ask(f"grpc://{address}", {}, timeout_s=5)
    assert gone.detail.startswith("UNAVAILABLE")


async def test_grpc_of_something_that_never_answers_ends_in_time() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with server_of(silent) as address:
        result = await ask(f"grpc://{address}", {}, timeout_s=0.2)
    assert result.detail.startswith(("DEADLINE_EXCEEDED", "UNAVAILABLE"))


async def test_a_port_is_open_or_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        target = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        assert (await ask(target, {}, timeout_s=5)).succeeded
    result = await ask(target, {}, timeout_s=5)
    assert not result.succeeded
    assert "Connect call failed" in result.detail


@pytest.mark.parametrize(
    ("head", "body", "succeeded", "detail"),
    [
        ("HTTP/1.1 200 OK\r\nContent-Length: 12", b"state: ready", True, ""),
        ("HTTP/1.1 200 OK", b"state: ready", True, ""),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", b"6\r\nstate:\r\n6\r\n ready\r\n0\r\n\r\n", True, ""),
        ("HTTP/1.1 200 OK\r\nContent-Length: 11", b"state: busy", False, "without 'ready' in it: state: busy"),
        ("HTTP/1.1 500 No\r\nContent-Length: 12", b"state: ready", False, "HTTP status 500: state: ready"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99", b"state: ready", False, "ended before the reply did"),
        ("HTTP/1.1 200 OK", b"." * limits.PROBE_BODY_BYTES + b"ready", False, "without 'ready'"),
    ],
)
async def test_what_an_http_reply_must_hold(head: str, body: bytes, succeeded: bool, detail: str) -> None:
    async with web_server(f"{head}\r\n\r\n".encode() + body) as address:
        result = await ask(f"http://{address}/health", {}, timeout_s=5, contains="ready")
    assert result.succeeded is succeeded
    assert detail in result.detail
    assert len(result.detail) < limits.OUTPUT_BYTES + 100


ENDLESS = {
    "trailers": (b"0\r\n", b"x-%d: 1\r\n"),
    "one trailer": (b"0\r\nx: ", b"%d"),
    "an extension of a chunk": (b"1;", b"%d"),
    "digits of a length": (b"", b"%08d"),
}


@pytest.mark.parametrize("what", ENDLESS)
async def test_what_frames_a_body_is_bounded(what: str) -> None:
    first, more = ENDLESS[what]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + first)
        for number in range(100_000):
            writer.write(more % number)
            await writer.drain()

    async with server_of(answer) as address:
        result = await ask(f"http://{address}/", {}, timeout_s=30.0)
    assert not result.succeeded
    assert "what frames the body has more than 16,384 bytes" in result.detail or "not an HTTP reply" in result.detail


@pytest.mark.parametrize("interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"])
async def test_interim_replies_are_passed_over(interim: bytes) -> None:
    stream = asyncio.StreamReader()
    reading = asyncio.ensure_future(http._read(stream, 100))
    for part in (interim, interim, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"ready"):
        stream.feed_data(part)
        for _ in range(3):
            await asyncio.sleep(0)
    assert await reading == http.Reply(200, b"ready", {"content-length": "5"}, {})


async def test_what_follows_a_reply_is_not_of_it() -> None:
    stream = asyncio.StreamReader()
    stream.feed_data(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 500 No\r\nContent-Length: 2\r\nx: y\r\n\r\nno"
    )
    assert await http._read(stream, 100) == http.Reply(200, b"ok", {"content-length": "2"}, {})


async def test_a_server_that_answers_byte_by_byte_for_ever_ends_in_time() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.001)

    async with server_of(drip) as address:
        result = await ask(f"http://{address}/", {}, timeout_s=0.2, contains="x")
    assert result.detail == "no answer within 0.2 s"


@pytest.mark.parametrize(
    "target",
    ["grpc://host", "grpc://:7", "tcp://host:7/x", "tcp://host:port", "http://", "https://a b/", "http://u:p@host/"],
)
def test_what_is_no_address_says_how_to_write_one(target: str) -> None:
    with pytest.raises(ValueError, match=r"write (grpc|tcp|http\(s\))://\[?HOST"):
        check_target(target)


@pytest.mark.parametrize("target", ["curl -f http://x", "true", "grpcs://[::1]:7/a.B", "tcp://h:1", "http://h/x?y#z"])
def test_what_is_an_address_or_a_command_is_taken(target: str) -> None:
    check_target(target)


async def test_smoke_tests_follow_the_probe_and_all_must_pass(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    spec = ProbeSpec(f"echo probe >> {calls}", smoke=(f"echo one >> {calls}", f"echo $N >> {calls}"))
    assert (await probe(spec, {"N": "two"})).succeeded
    assert calls.read_text().split() == ["probe", "one", "two"]
    failing = ProbeSpec(smoke=("true", f"echo {'x' * 200} broke; exit 1", f"echo never >> {calls}"))
    result = await probe(failing, {})
    assert not result.succeeded
    assert result.detail.startswith("smoke test 2 of 3 (echo xxx")
    assert result.detail.endswith("broke")
    assert len(result.detail) < limits.OUTPUT_BYTES + limits.SMOKE_NAME_CHARS + 100
    assert "never" not in calls.read_text()


async def test_smoke_tests_wait_for_the_probe(tmp_path: Path) -> None:
    spec = ProbeSpec("exit 1", interval_s=0.001, failures=2, smoke=(f"touch {tmp_path}/smoked",))
    assert await probe(spec, {}) == Result(False, "2 failures in a row, the last: exit code 1")
    assert not (tmp_path / "smoked").exists()

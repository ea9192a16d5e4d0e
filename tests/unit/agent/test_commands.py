from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from registry.agent import limits, runner
from registry.agent.backoff import delay_s
from registry.agent.probe import ProbeSpec, Tally, probe


async def test_a_command_succeeds_with_exit_code_0_and_sees_its_environment(tmp_path: Path) -> None:
    place = tmp_path / "out"
    result = await runner.run(f'echo "$REGISTRY_VERSION $HOME" > {place}', {"REGISTRY_VERSION": "3"}, timeout_s=10)
    assert result.succeeded
    assert place.read_text() == f"3 {os.environ['HOME']}\n"


async def test_a_failure_says_exit_code_and_the_end_of_the_output() -> None:
    result = await runner.run("seq 1 20000; echo it broke >&2; exit 3", {}, timeout_s=10)
    assert not result.succeeded
    assert result.detail.startswith("exit code 3: ")
    assert result.detail.endswith("19999 20000 it broke")
    assert len(result.detail) < limits.OUTPUT_BYTES + 50


async def test_a_command_killed_by_a_signal_says_so() -> None:
    result = await runner.run("kill -TERM $$", {}, timeout_s=10)
    assert result == runner.Result(False, "killed by signal 15")


async def test_the_whole_group_is_killed_at_the_time_limit(tmp_path: Path) -> None:
    place = tmp_path / "pid"
    result = await runner.run(f"sleep 100 & echo $! > {place}; wait", {}, timeout_s=0.5)
    assert not result.succeeded
    assert "not finished within 0.5 s" in result.detail
    await _until(lambda: not _lives(int(place.read_text())))


async def test_a_background_child_neither_holds_up_the_result_nor_is_killed(tmp_path: Path) -> None:
    place = tmp_path / "pid"
    result = await runner.run(f"sleep 100 & echo $! > {place}", {}, timeout_s=50)
    child = int(place.read_text())
    assert result.succeeded
    assert _lives(child)
    os.kill(child, 9)


async def test_cancelling_kills_the_group(tmp_path: Path) -> None:
    place = tmp_path / "pid"
    task = asyncio.create_task(runner.run(f"sleep 100 & echo $! > {place}; wait", {}, timeout_s=50))
    await _until(lambda: place.exists() and bool(place.read_text()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await _until(lambda: not _lives(int(place.read_text())))


def test_the_tally_counts_in_a_row() -> None:
    spec = ProbeSpec("true", failures=3, successes=2)
    verdicts = []
    tally = Tally()
    for succeeded in (False, False, True, False, True, True):
        tally = tally.add(succeeded)
        verdicts.append(tally.verdict(spec))
    assert verdicts == [None, None, None, None, None, True]
    for _ in range(3):
        tally = tally.add(False)
    assert tally.verdict(spec) is False


async def test_a_probe_that_recovers_in_time_confirms(tmp_path: Path) -> None:
    count = tmp_path / "count"
    spec = ProbeSpec(f"echo x >> {count}; test $(wc -l < {count}) -ge 3", interval_s=0.001)
    assert (await probe(spec, {})).succeeded
    assert count.read_text().count("x") == 3


async def test_three_failures_in_a_row_are_the_end(tmp_path: Path) -> None:
    count = tmp_path / "count"
    result = await probe(ProbeSpec(f"echo x >> {count}; echo no; exit 1", interval_s=0.001), {})
    assert result == runner.Result(False, "3 failures in a row, the last: exit code 1: no")
    assert count.read_text().count("x") == 3


@pytest.mark.parametrize(
    ("reply", "succeeded", "detail"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True, ""),
        (b"HTTP/1.1 302 Found\r\n\r\n", True, ""),
        (b"HTTP/1.1 503 Busy\r\n\r\n", False, "HTTP status 503"),
        (b"SSH-2.0-OpenSSH\r\n", False, "not an HTTP reply"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"x" * 100_000, False, "the head of the reply has more than 16,384 bytes"),
        (b"HTTP/1.1 200 OK\r\n", False, "ended before a reply came"),
        (b"", False, "ended before a reply came"),
    ],
)
async def test_http(reply: bytes, succeeded: bool, detail: str) -> None:
    async with _server(reply) as (port, requests):
        result = await probe(ProbeSpec(f"http://127.0.0.1:{port}/health?deep=1", failures=1), {})
    assert result.succeeded is succeeded
    assert succeeded or detail in result.detail
    assert requests[0].startswith(b"GET /health?deep=1 HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % port)


async def test_http_that_nobody_answers() -> None:
    async with _server(b"") as (port, _):
        pass
    result = await probe(ProbeSpec(f"http://127.0.0.1:{port}/", failures=1), {})
    assert not result.succeeded
    assert "Connect call failed" in result.detail


def test_delays_double_up_to_the_longest_with_chance_in_the_upper_half() -> None:
    random = Random(1)
    for failures, full_s in [(1, 0.2), (2, 0.4), (3, 0.8), (7, 10.0), (10_000, 10.0)]:
        for _ in range(50):
            assert full_s / 2 <= delay_s(failures, (0.2, 10.0), random) <= full_s


@asynccontextmanager
async def _server(reply: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(reply)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], requests
    finally:
        server.close()
        await server.wait_closed()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def _lives(pid: int) -> bool:
    """Zombies do not count: nobody may have waited for them yet."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

"""registryd as operators meet it: a process with flags, signals, exit codes and a disk that can fail."""

from __future__ import annotations

import asyncio
import json
import random
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner

from cluster import journal
from cluster.configuration import NOBODY
from cluster.kv.lmdb_env import LmdbEnvironment
from registry.server.main import EXIT_FAILED, EXIT_START, EXIT_USAGE, main
from registry.store import tables
from registry.v1 import (
    agent_pb2,
    agent_pb2_grpc,
    cluster_pb2,
    cluster_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)
from tests.integration.server_kit import RPC_S, answer, failed, free_port, get, small_disk

ENDS_S = 20.0
CORES_ALLOWED = ("sh", "-c", 'ulimit -S -c "$(ulimit -H -c)"; exec "$@"', "sh")


class Daemon:
    """A registryd process and its log."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []

    async def until(self, event: str) -> dict[str, Any]:
        """The first log line of this event from here on."""
        assert self.process.stderr is not None
        while line := await asyncio.wait_for(self.process.stderr.readline(), ENDS_S):
            self.lines.append(json.loads(line))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]
        raise AssertionError(f"ended before {event}: {self.lines}")

    async def ended(self) -> int:
        """The exit code."""
        return await asyncio.wait_for(self.process.wait(), ENDS_S)


def flags(path: Path, **changes: str) -> list[str]:
    options = {
        "name": "n1",
        "data-dir": str(path),
        "listen": "127.0.0.1:0",
        "http-listen": "127.0.0.1:0",
        "peer-listen": f"127.0.0.1:{free_port()}",
    } | changes
    return [word for name, value in options.items() for word in (f"--{name}", value)]


@asynccontextmanager
async def daemon(path: Path, prefix: tuple[str, ...] = (), **changes: str) -> AsyncIterator[Daemon]:
    process = await asyncio.create_subprocess_exec(
        *prefix,
        *(sys.executable, "-m", "registry.server.main", *flags(path, **changes)),
        stderr=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    try:
        yield Daemon(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def refused(path: Path, **changes: str) -> tuple[int, str]:
    """Exit code and what a start that cannot work says."""
    async with daemon(path, **changes) as started:
        _, said = await asyncio.wait_for(started.process.communicate(), ENDS_S)
        assert started.process.returncode is not None
        return started.process.returncode, said.decode()


@asynccontextmanager
async def calls(address: str) -> AsyncIterator[tuple[Any, Any]]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield registry_pb2_grpc.RegistryServiceStub(channel), agent_pb2_grpc.AgentServiceStub(channel)  # type: ignore[no-untyped-call]


async def test_sigterm_lets_calls_end_and_exits_0_and_a_restart_has_everything(tmp_path: Path) -> None:
    async with daemon(tmp_path, CORES_ALLOWED) as first:
        address = (await first.until("started"))["api"]
        await first.until("ready")
        assert resource.prlimit(first.process.pid, resource.RLIMIT_CORE) == (0, 0), "memory holds secrets"
        async with calls(address) as (registry, agents):
            published = await registry.Publish(registry_pb2.PublishRequest(workflow="a/b", content=b"x"), timeout=RPC_S)
            poll = asyncio.ensure_future(
                agents.Poll(agent_pb2.PollRequest(agent="edge-1", wait_ms=60_000), timeout=ENDS_S)
            )
            version = registry_pb2.GetVersionRequest(workflow="a/b", stale=True)
            await registry.GetVersion(version, timeout=RPC_S)  # the poll went before it on the same connection
            first.process.send_signal(signal.SIGTERM)
            assert not (await poll).instructions
            await first.until("stopped")
            assert await first.ended() == 0
    async with daemon(tmp_path) as second:
        address = (await second.until("started"))["api"]
        await second.until("ready")
        async with calls(address) as (registry, _):
            again = await registry.GetVersion(registry_pb2.GetVersionRequest(workflow="a/b"), timeout=RPC_S)
        assert again.version == published.version
        assert again.info.cluster_id == published.info.cluster_id
        second.process.send_signal(signal.SIGINT)
        await second.until("stopped")
        assert await second.ended() == 0


@pytest.mark.parametrize("port", ["listen", "peer-listen", "http-listen"])
async def test_a_port_in_use_is_named(tmp_path: Path, port: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, said = await refused(tmp_path, **{port: address})
    assert code == EXIT_START
    hint = "stop what listens there, or choose another address"
    assert said == f"error: --{port} {address}: cannot bind: Address already in use; {hint}\n"


async def test_the_data_directory_of_another_member_is_refused(tmp_path: Path) -> None:
    async with daemon(tmp_path) as running:
        await running.until("ready")
        code, said = await refused(tmp_path)
        assert (code, "in use by another process" in said) == (EXIT_USAGE, True)
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
    code, said = await refused(tmp_path, name="n2")
    assert (code, "belongs to member 'n1'" in said) == (EXIT_USAGE, True)
    code, said = await refused(tmp_path, cluster="n1=127.0.0.1:1,n2=127.0.0.1:2")
    assert (code, "belongs to another cluster" in said) == (EXIT_USAGE, True)
    assert said.count("\n") == 1


async def test_a_process_that_waits_to_be_admitted_says_what_to_type_and_founds_nothing(tmp_path: Path) -> None:
    async with daemon(tmp_path, join="127.0.0.1:1") as waiting:
        started = await waiting.until("started")
        assert started["id"].startswith("n1/")
        assert "regctl cluster add n1" in (await waiting.until("waiting to be admitted"))["advice"]
        ready = await answer(started["http"], get("/readyz"))
        assert ready.endswith(b"not ready: waiting to be admitted: regctl cluster add n1\n")
        async with calls(started["api"]) as (registry, _):
            error = await failed(registry.GetPointer(registry_pb2.GetPointerRequest(workflow="a/b", stale=True)))
            assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_ADMITTED")
        async with grpc.aio.insecure_channel(started["api"]) as channel:
            stub: Any = cluster_pb2_grpc.ClusterServiceStub(channel)  # type: ignore[no-untyped-call]
            status = await stub.GetStatus(cluster_pb2.GetStatusRequest(), timeout=RPC_S)
        assert (status.role, status.leader_id, list(status.waiting)) == ("waiting", "", [])
        waiting.process.send_signal(signal.SIGTERM)
        assert await waiting.ended() == 0


async def test_flags_that_contradict_each_other_or_the_directory_are_refused(tmp_path: Path) -> None:
    code, said = await refused(tmp_path / "both", join="127.0.0.1:1", cluster="n1=127.0.0.1:2,n2=127.0.0.1:3")
    assert (code, "give one of them" in said) == (EXIT_USAGE, True)
    new = tmp_path / "new"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "registry.server.main", *flags(new), "--observer"), stderr=asyncio.subprocess.PIPE
    )
    _, err = await asyncio.wait_for(process.communicate(), ENDS_S)
    assert (process.returncode, b"add --join HOST:PORT" in err) == (EXIT_USAGE, True)
    assert not (new / "member.json").exists()


async def test_a_state_that_differs_from_the_others_is_not_served_again(tmp_path: Path) -> None:
    async with daemon(tmp_path) as started:
        await started.until("ready")
        started.process.terminate()
        assert await started.ended() == 0
    environment = LmdbEnvironment(tmp_path / "db", (*tables.TABLES, *journal.TABLES))
    environment.transaction()
    journal.Journal(environment, NOBODY).set_diverged(7)
    environment.commit()
    environment.close()
    code, said = await refused(tmp_path)
    assert code == EXIT_USAGE
    assert "regctl cluster replace n1" in said
    assert said.count("\n") == 1


DISK = small_disk(3 * 1024 * 1024)


async def fill(registry: Any, acknowledged: list[bytes]) -> None:
    """Publish more than DISK takes."""
    for number in range(100):
        content = random.Random(number).randbytes(200_000)
        request = registry_pb2.PublishRequest(workflow="full/disk", content=content, kind="binary")
        await registry.Publish(request, timeout=RPC_S, wait_for_ready=True)
        acknowledged.append(content)


async def test_a_disk_that_is_full_stops_the_member_and_loses_nothing_acknowledged(tmp_path: Path) -> None:
    acknowledged: list[bytes] = []
    async with daemon(tmp_path, DISK) as full:
        address = (await full.until("started"))["api"]
        await full.until("ready")
        async with calls(address) as (registry, _):
            with pytest.raises(grpc.aio.AioRpcError):
                await fill(registry, acknowledged)
        failure = await full.until("failed hard")
        assert failure["advice"]
        assert await full.ended() == EXIT_FAILED
    assert acknowledged
    async with daemon(tmp_path) as repaired:
        address = (await repaired.until("started"))["api"]
        await repaired.until("ready")
        async with calls(address) as (registry, _):
            for number, content in enumerate(acknowledged, start=1):
                request = registry_pb2.GetContentRequest(workflow="full/disk", reference=str(number))
                assert (await registry.GetContent(request, timeout=RPC_S)).content == content


async def test_a_member_whose_log_cannot_be_written_serves_and_stops_when_its_disk_is_full(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    acknowledged: list[bytes] = []
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'exec "$@" 2>/dev/full', "sh"),
        *DISK,
        *(sys.executable, "-m", "registry.server.main", *flags(tmp_path, listen=address)),
    )
    try:
        async with calls(address) as (registry, _):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await fill(registry, acknowledged)
        assert acknowledged, refused.value
        assert await asyncio.wait_for(process.wait(), ENDS_S) == EXIT_FAILED
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_flags_come_before_the_environment_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "member.toml"
    file.write_text(f'data_dir = "{tmp_path}"\nlisten = "of-the-file"\n')
    runner = CliRunner()

    def said(*arguments: str, **environment: str) -> str:
        result = runner.invoke(main, ["--config", str(file), *arguments], env=environment)
        assert result.exit_code == EXIT_USAGE
        return result.output

    assert "'of-the-file'" in said()
    assert "'of-the-environment'" in said(REGISTRY_LISTEN="of-the-environment")
    assert "'of-the-flag'" in said("--listen", "of-the-flag", REGISTRY_LISTEN="of-the-environment")
    file.write_text("typo = 1\n")
    assert "unknown options: typo" in said()


def test_help_and_missing_options_are_plain() -> None:
    runner = CliRunner()
    assert "--data-dir" in runner.invoke(main, ["--help"]).output
    result = runner.invoke(main, [])
    assert (result.exit_code, "--data-dir" in result.output) == (EXIT_USAGE, True)


async def test_a_damaged_database_is_said_in_one_line(tmp_path: Path) -> None:
    """Whatever a broken page makes of reading the log: no traceback, and what to do."""
    async with daemon(tmp_path) as started:
        await started.until("started")
        started.process.terminate()
        assert await started.ended() == 0
    environment = LmdbEnvironment(tmp_path / "db", (*tables.TABLES, *journal.TABLES))
    environment.transaction().put(journal.LOG, b"short", b"row")
    environment.commit()
    environment.close()
    code, said = await refused(tmp_path)
    assert code == EXIT_START
    assert "the file is damaged" in said
    assert said.count("\n") == 1

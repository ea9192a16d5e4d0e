"""regctl source against a real member: files that are published when they have changed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from registry.cli.local_cluster import LocalCluster
from registry.cli.main import run
from registry.client import Client
from registry.core.errors import Invalid, NotFound
from registry.core.model import Version
from tests.integration.cli_kit import REGCTL, Result, in_terminal, ok, refused

WAIT_S = 30.0
Regctl = Callable[..., Result]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    made = LocalCluster(tmp_path_factory.mktemp("cluster"), nodes=1)
    try:
        asyncio.run(made.start())
        yield made
    finally:
        asyncio.run(made.stop())


@pytest.fixture
def regctl(cluster, monkeypatch, capfdbinary, tmp_path) -> Regctl:
    """Runs one command in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("REGCTL_ENDPOINTS", ",".join(cluster.endpoints))
    monkeypatch.setenv("REGCTL_SOURCES", str(tmp_path / "config" / "sources.toml"))

    def call(*arguments: str) -> Result:
        code = run(arguments)
        out, err = capfdbinary.readouterr()
        return code, out, err.decode()

    return call


@pytest.fixture
async def client(cluster) -> AsyncIterator[Client]:
    async with Client(cluster.endpoints) as made:
        yield made


@pytest.fixture
async def running(regctl) -> AsyncIterator[Callable[..., Any]]:
    """Starts `regctl source run`; what still runs at the end is killed."""
    started: list[asyncio.subprocess.Process] = []

    async def start(*arguments: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *REGCTL, "source", "run", *arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def line(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    async with asyncio.timeout(WAIT_S):
        return json.loads(await process.stdout.readline())


async def versions(client: Client, workflow: str) -> list[Version]:
    """Oldest first; none: there is no such workflow."""
    try:
        return [each async for each in client.versions(workflow)][::-1]
    except NotFound:
        return []


def events(result: Result) -> list[tuple[str, str, int]]:
    code, out, err = result
    assert code == 0, err
    lines = [json.loads(each) for each in out.splitlines()]
    return [(each["event"], each.get("workflow", ""), each.get("version", 0)) for each in lines]


def test_runs_of_cron_publish_what_has_changed_and_nothing_twice(regctl, tmp_path):
    flow, flows = tmp_path / "flow.yml", tmp_path / "flows"
    flows.mkdir()
    flow.write_text("a: 1\n")
    (flows / "x.json").write_text('{"b": 1}')
    (flows / "notes.txt").write_text("not a workflow")
    ok(regctl("source", "add", "cron/flow", str(flow), "-l", "team=support"))
    ok(regctl("source", "add", "cron-flows", str(flows), "--every", "1h"))
    assert sorted(events(regctl("source", "run", "--once"))) == [
        ("published", "cron-flows/x", 1),
        ("published", "cron/flow", 1),
    ]
    assert events(regctl("source", "run", "--once")) == []
    flow.write_text("a: 2\n")
    assert events(regctl("source", "run", "--once")) == [("published", "cron/flow", 2)]
    newest = ok(regctl("show", "cron/flow"))
    assert newest["snapshot"] == "periodic"
    assert newest["labels"] == {"team": "support"}
    assert newest["message"] == f"changed on {os.uname().nodename}: {flow}"
    assert regctl("cat", "cron/flow")[1] == b"a: 2\n"
    one, many = ok(regctl("source", "list"))
    assert (one["source"], one["every_s"], one["files"][0]["version"]) == ("cron/flow", 600, 2)
    assert (many["glob"], [each["workflow"] for each in many["files"]]) == ("*.yml,*.yaml,*.json", ["cron-flows/x"])
    ok(regctl("source", "remove", "cron/flow"))
    flow.write_text("a: 3\n")
    assert events(regctl("source", "run", "--once")) == []
    assert ok(regctl("show", "cron/flow"))["version"] == 2


def test_what_a_policy_refuses_is_said_with_its_exit_code_and_not_again(regctl, tmp_path):
    flow = tmp_path / "flow.json"
    flow.write_text('{"a": 1}')
    ok(regctl("source", "add", "strict/flow", str(flow)))
    assert events(regctl("source", "run", "--once")) == [("published", "strict/flow", 1)]
    ok(regctl("policy", "set", "strict/*", "unchanged=refuse", "--reason", "noise"))
    flow.write_text('{ "a": 1 }')
    code, out, _ = regctl("source", "run", "--once")
    (event,) = map(json.loads, out.splitlines())
    assert (code, event["event"], event["reason"]) == (6, "refused", "SAME_SEMANTICS")
    assert events(regctl("source", "run", "--once")) == []
    (listed,) = ok(regctl("source", "list"))
    assert "SAME" in event["reason"]
    assert "policy unchanged of strict/*" in listed["files"][0]["refused"]
    flow.write_text('{"a": 2}')
    assert events(regctl("source", "run", "--once")) == [("published", "strict/flow", 2)]


def test_without_a_member_a_run_says_so_and_the_next_one_catches_up(regctl, tmp_path):
    flow = tmp_path / "flow.yml"
    flow.write_text("a: 1\n")
    ok(regctl("source", "add", "late/flow", str(flow)))
    code, out, _ = regctl("source", "run", "--once", "--endpoints", "127.0.0.1:9", "--timeout", "0.2")
    assert (code, json.loads(out)["event"]) == (5, "waits")
    assert ok(regctl("source", "list"))[0]["files"][0]["asked"] is True
    assert events(regctl("source", "run", "--once")) == [("published", "late/flow", 1)]


async def test_a_run_follows_files_and_its_own_sources_until_sigterm(regctl, running, tmp_path):
    one, two = tmp_path / "one.yml", tmp_path / "two.yml"
    one.write_text("a: 1\n")
    two.write_text("b: 1\n")
    ok(await asyncio.to_thread(regctl, "source", "add", "service/one", str(one), "--every", "1s"))
    process = await running()
    assert (await line(process))["version"] == 1
    one.write_text("a: 2\n")
    assert (await line(process))["version"] == 2
    code, error = refused(await asyncio.to_thread(regctl, "source", "run", "-o", "json"))
    assert (code, error["reason"]) == (1, "FILE")
    assert "another regctl source run" in error["error"]
    ok(await asyncio.to_thread(regctl, "source", "add", "service/two", str(two), "--every", "1s"))
    assert (await line(process))["workflow"] == "service/two"
    toml = tmp_path / "config" / "sources.toml"
    toml.write_text(toml.read_text() + "[[source]\n")
    assert (await line(process))["event"] == "problem"
    two.write_text("b: 2\n")
    assert (await line(process))["version"] == 2
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(WAIT_S):
        assert await process.wait() == 0


async def test_killed_after_the_publish_and_before_the_note_it_makes_one_version(
    cluster, regctl, client, running, tmp_path
):
    flow = tmp_path / "flow.yml"
    flow.write_text("a: 1\n")
    ok(await asyncio.to_thread(regctl, "source", "add", "killed/flow", str(flow)))
    async with deaf(cluster.endpoints[0], b"killed/flow") as address:
        process = await running("--endpoints", address)
        async with asyncio.timeout(WAIT_S):
            while not await versions(client, "killed/flow"):
                await asyncio.sleep(0.02)
        process.kill()
        await process.wait()
    state = json.loads((tmp_path / "config" / "sources.state.json").read_bytes())["files"]["killed/flow"]
    assert "version" not in state
    await client.publish("killed/flow", b"a: somebody else\n")
    again = await running("--once")
    event = await line(again)
    assert (event["event"], event["version"], await again.wait()) == ("published", 1, 0)
    assert [each.message.split(" ")[0] for each in await versions(client, "killed/flow")] == ["changed", ""]
    first = (await anext(aiter(client.watch(["killed/flow"], from_revision=1)))).request_id
    assert first == state["request_id"]


@asynccontextmanager
async def deaf(endpoint: str, word: bytes) -> AsyncIterator[str]:
    """A way to a member on which every call arrives, and no answer that holds `word`, nor any after it."""
    host, _, port = endpoint.rpartition(":")

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, until: bytes | None) -> None:
        heard = b""
        while data := await reader.read(65_536):
            heard += data
            if until is None or until not in heard:
                writer.write(data)

    open_now: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        ways = {asyncio.create_task(carry(reader, back, None)), asyncio.create_task(carry(there, writer, word))}
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (writer, back):
            end.close()
            await asyncio.gather(end.wait_closed(), return_exceptions=True)

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(accept(reader, writer))
        open_now.add(task)
        task.add_done_callback(open_now.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    await asyncio.gather(*open_now)


def test_sources_that_cannot_be_are_refused_with_what_to_write(regctl, tmp_path):
    def usage(*arguments: str) -> str:
        code, error = refused(regctl(*arguments, "-o", "json"))
        assert code == 2, error
        return str(error["error"])

    assert "name a namespace" in usage("source", "add", "a/b", str(tmp_path))
    assert "no directory" in usage("source", "add", "a", str(tmp_path / "x.yml"))
    assert "workflow name" in usage("source", "add", "a b/c", str(tmp_path / "x.yml"))
    assert "there is no such file" in usage("source", "run")
    assert not (tmp_path / "config" / "sources.toml").exists()
    ok(regctl("source", "add", "a/b", str(tmp_path / "x.yml")))
    assert "has a source already" in usage("source", "add", "a/b", str(tmp_path / "y.yml"))
    (tmp_path / "config" / "sources.toml").write_text("[[source]]\nworkflow = \n")
    for arguments in (["run"], ["list"], ["remove", "a/b"], ["add", "a/c", "x"]):
        assert "line 2" in usage("source", *arguments)


async def test_key_points_are_snapshots_of_their_own_class(cluster, regctl, client, tmp_path):
    flow = tmp_path / "flow.yml"
    flow.write_text("a: 1\n")
    publish = ("publish", "points/flow", str(flow))
    await asyncio.to_thread(regctl, *publish)
    flow.write_text("a: 2\n")
    ok(await asyncio.to_thread(regctl, *publish, "--snapshot", "terminal", "-m", "run 7 failed"))
    await client.publish("points/flow", b"a: 3\n", snapshot="manual")
    found = await versions(client, "points/flow")
    assert [each.snapshot for each in found] == ["published", "terminal", "manual"]
    with pytest.raises(Invalid, match="one of published, manual, periodic, terminal"):
        await client.publish("points/flow", b"a: 4\n", snapshot="hourly")
    endpoints = ["--endpoints", ",".join(cluster.endpoints)]
    _, shown = await asyncio.to_thread(in_terminal, ["versions", "points/flow", *endpoints], b"")
    assert "terminal" in shown
    assert "manual" in shown
    assert "published;" not in shown

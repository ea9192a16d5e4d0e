"""Waiting for agents, on real sockets: the service, the SDK and regctl."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from registry.agent import Agent, AgentConfig, ClientApi, FileSpec, FollowSpec
from registry.client import Client, Confirmations
from registry.core import commands
from registry.core.model import Phase, Pointer
from tests.integration.cli_kit import REGCTL, in_terminal
from tests.integration.server_kit import Peer, answer, get, members, until

WORKFLOW, BESIDE = "fleet/triage", "fleet/beside"
SITE = "eu-1"


async def regctl(address: str, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *REGCTL, *arguments, env=os.environ | {"REGCTL_ENDPOINTS": address},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


class Reporter:
    """Agents that only report."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._sequence = 0

    async def report(self, pointer: Pointer, *agents: str, phase: Phase = "confirmed", code: str = "") -> None:
        self._sequence += 1
        is_there = phase == "confirmed"
        await self._client.acknowledge(
            commands.Ack(
                agent=agent,
                incarnation="i",
                sequence=self._sequence,
                site=SITE,
                workflow=pointer.workflow,
                pointer=pointer.pointer,
                generation=pointer.generation,
                phase=phase,
                code=code,
                running_generation=pointer.generation if is_there else pointer.generation - 1,
                running_version=pointer.version if is_there else pointer.previous_version,
                running_digest=pointer.digest,
            )
            for agent in agents
        )


async def publish(client: Client, *workflows: str) -> None:
    for workflow in workflows:
        for number in (1, 2):
            await client.publish(workflow, b"name: v%d\n" % number, kind="yaml")


@asynccontextmanager
async def running(directory: Path, api: Any, count: int) -> AsyncIterator[list[Agent]]:
    """Real agents on files."""
    agents = []
    for number in range(count):
        home = directory / f"edge-{number}"
        follow = FollowSpec(WORKFLOW, "active", FileSpec(home / "live.yml"))
        agents.append(
            Agent(AgentConfig(name=f"edge-{number}", site=SITE, state_dir=home / "state", follows=(follow,)), api)
        )
    tasks = [asyncio.create_task(agent.run()) for agent in agents]
    try:
        yield agents
    finally:
        for agent in agents:
            agent.stop()
        await asyncio.gather(*tasks)


async def test_a_switch_and_a_rollback_wait_for_real_agents(tmp_path: Path) -> None:
    async with members(tmp_path) as [peer], AsyncExitStack() as stack:
        address = peer.member.api_address
        client = await stack.enter_async_context(Client(address))
        await publish(client, WORKFLOW)
        await client.switch(WORKFLOW, 1, reason="go live")
        agents = await stack.enter_async_context(running(tmp_path, ClientApi(client), 4))
        async for found in client.confirmations(WORKFLOW, wait_s=20.0):
            if found.agents == 4:
                break
        code, out, err = await regctl(address, "switch", f"{WORKFLOW}@2", "--reason", "next", "--wait")
        assert (code, json.loads(out)["wait"]["complete"]) == (0, True), err
        agents[0].stop()
        back = ("rollback", WORKFLOW, "--reason", "5xx", "--yes", "--wait", "--timeout", "1.5")
        code, out, err = await regctl(address, *back)
        said = json.loads(out)
        assert (code, said["version"], said["wait"]["complete"]) == (8, 1, False), err
        assert sorted(said["wait"]["confirmed_by"]) == ["edge-1", "edge-2", "edge-3"]
        assert [(row["agent"], row["state"]) for row in said["wait"]["behind"]] == [("edge-0", "behind")]
        listed = json.loads((await regctl(address, "agents", "--behind"))[1])
        assert [row["agent"] for row in listed] == ["edge-0"]
        code, out, err = await regctl(address, "agents", "forget", "edge-0", "-o", "table")
        assert (code, out) == (0, "edge-0 is forgotten; it had reported for 1 pointer\n"), err
        (site,) = json.loads((await regctl(address, "agents", "summary"))[1])
        assert (site["site"], site["agents"], site["on_target"], site["behind"]) == (SITE, 3, 3, 0)


async def test_a_switch_of_several_pointers_waits_for_all_of_them(tmp_path: Path) -> None:
    async with members(tmp_path) as [peer], Client(peer.member.api_address) as client:
        await publish(client, WORKFLOW, BESIDE)
        reporter = Reporter(client)
        for workflow in (WORKFLOW, BESIDE):
            await reporter.report(await client.switch(workflow, 1, reason="go"), "edge-1", "edge-2")
        references = (f"{WORKFLOW}@2", f"{BESIDE}@2")
        waiting = asyncio.create_task(
            regctl(peer.member.api_address, "switch", *references, "--reason", "both", "--wait", "-o", "table")
        )
        moved = await _until_generation(client, 2, WORKFLOW, BESIDE)
        await reporter.report(moved[0], "edge-1", "edge-2")
        await reporter.report(moved[1], "edge-1")
        await reporter.report(moved[1], "edge-2", phase="reverted", code="PROBE_FAILED")
        async for found in client.confirmations(BESIDE, wait_s=20.0):
            if found.nacked:
                break
        assert not waiting.done()
        await reporter.report(moved[1], "edge-2")
        code, out, err = await waiting
        assert code == 0, err
        lines = out.splitlines()
        assert lines[:2] == [f"{name} active 1 -> 2 (generation 2)" for name in (WORKFLOW, BESIDE)]
        assert [line.partition(" in ")[0] for line in lines[2:]] == [
            f"{name} active: confirmed by all 2 agents" for name in (WORKFLOW, BESIDE)
        ]


async def _until_generation(client: Client, generation: int, *workflows: str) -> list[Pointer]:
    while (await client.pointer(workflows[0])).generation < generation:
        await asyncio.sleep(0.01)
    return [await client.pointer(workflow) for workflow in workflows]


async def test_a_rollback_on_a_terminal_shows_how_far_it_is(tmp_path: Path) -> None:
    async with members(tmp_path) as [peer], Client(peer.member.api_address) as client:
        await publish(client, WORKFLOW)
        reporter = Reporter(client)
        for number in (1, 2):
            await reporter.report(await client.switch(WORKFLOW, number, reason="go"), "edge-1", "edge-2")
        arguments = ["rollback", WORKFLOW, "--reason", "5xx", "--wait", "--endpoints", peer.member.api_address]
        rolling = asyncio.create_task(asyncio.to_thread(in_terminal, arguments, b"y\n"))
        (pointer,) = await _until_generation(client, 3, WORKFLOW)
        await until(lambda: _watches(peer))
        await reporter.report(pointer, "edge-1", "edge-2")
        code, shown = await rolling
        assert code == 0, shown
        assert "\x1b[Kconfirmed 0/2, behind: edge-1, edge-2" in shown
        assert "confirmed by all 2 agents" in shown.splitlines()[-1]


async def test_who_stops_waiting_still_hears_what_was_done(tmp_path: Path) -> None:
    async with members(tmp_path) as [peer], Client(peer.member.api_address) as client:
        await publish(client, WORKFLOW)
        await Reporter(client).report(await client.switch(WORKFLOW, 1, reason="go"), "edge-1")
        process = await asyncio.create_subprocess_exec(
            *REGCTL, "switch", f"{WORKFLOW}@2", "--reason", "next", "--wait", "--endpoints", peer.member.api_address,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        await until(lambda: _watches(peer))
        process.send_signal(signal.SIGINT)
        out, _ = await process.communicate()
        assert (process.returncode, json.loads(out)["generation"]) == (130, 2)
        await until(lambda: not _watches(peer))


def _watches(peer: Peer) -> int:
    return peer.member._parts.fleet.watching


async def test_a_wait_survives_its_member_and_followers_serve_it(tmp_path: Path) -> None:
    async with members(tmp_path, 3) as peers:
        by_address = {peer.member.api_address: peer for peer in peers}
        leader = next(peer for peer in peers if peer.leads)
        followers = [address for address, peer in by_address.items() if peer is not leader]
        async with Client([*by_address]) as client, Client(followers) as watcher:
            await publish(client, WORKFLOW)
            reporter = Reporter(client)
            pointer = await client.switch(WORKFLOW, 1, reason="go")
            await reporter.report(pointer, "edge-1", "edge-2", phase="installed")
            watch = watcher.confirmations(WORKFLOW, "active", 1, wait_s=20.0, min_revision=pointer.revision)
            async with aclosing(watch):
                found = await _until_agents(watch, 2)
                assert (found.confirmed, [row.state for row in found.behind]) == (0, ["installing", "installing"])
                serving = next(peer for address, peer in by_address.items() if address in followers and _watches(peer))
                await reporter.report(pointer, "edge-1")
                while found.confirmed < 1:
                    found = await anext(watch)
                await serving.member.stop()
                await reporter.report(pointer, "edge-2")
                while not found.done:
                    found = await anext(watch)
                assert (found.agents, found.confirmed) == (2, 2)


async def _until_agents(watch: AsyncIterator[Confirmations], count: int) -> Confirmations:
    async for found in watch:
        if found.agents == count:
            return found
    raise AssertionError("the watch ended")


async def test_the_leader_shows_agents_in_its_metrics(tmp_path: Path) -> None:
    async with members(tmp_path) as [peer], Client(peer.member.api_address) as client:
        await publish(client, WORKFLOW)
        pointer = await client.switch(WORKFLOW, 1, reason="go")
        await Reporter(client).report(pointer, "edge-1", "edge-2")
        wanted = (
            f'registry_agents{{pointer="active",site="{SITE}",state="on_target",workflow="{WORKFLOW}"}} 2.0'.encode()
        )
        async with asyncio.timeout(20.0):
            while wanted not in await answer(peer.member.http_address, get("/metrics")):
                await asyncio.sleep(0.05)

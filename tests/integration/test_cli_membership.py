"""Who belongs to the cluster, changed over real processes: join, add, promote, remove, replace, transfer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from registry.cli import joining
from registry.cli.local_cluster import LocalCluster, LocalMember
from registry.cli.main import run
from registry.client import Client, Follow, PollRequest
from registry.core.errors import NotFound, Unavailable
from registry.server.main import EXIT_REMOVED
from tests.integration.cli_kit import REGCTL, in_terminal

WAIT_S = 30.0
NAME = "members/load"


async def until(condition: Callable[[], Awaitable[Any]]) -> None:
    """Return once the condition holds."""
    async with asyncio.timeout(WAIT_S):
        while not await condition():
            await asyncio.sleep(0.02)


async def regctl(cluster: LocalCluster, *arguments: str, at: LocalMember | None = None) -> tuple[int, Any, str]:
    """Exit code, JSON on stdout, stderr. `at`: ask this member and no other."""
    endpoints = cluster.endpoints if at is None else (at.address,)
    process = await asyncio.create_subprocess_exec(
        *(*REGCTL, *arguments, "--endpoints", ",".join(endpoints)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert process.returncode is not None
    return process.returncode, json.loads(out) if out else None, err.decode()


async def ok(cluster: LocalCluster, *arguments: str) -> Any:
    code, out, err = await regctl(cluster, *arguments)
    assert code == 0, err
    return out


async def ended(member: LocalMember) -> int:
    """The exit code of a process that ends by itself."""

    async def gone() -> bool:
        return not member.running

    await until(gone)
    assert member.process is not None
    assert member.process.returncode is not None
    return member.process.returncode


async def roles(cluster: LocalCluster) -> dict[str, str]:
    status = await ok(cluster, "cluster", "status")
    return {each["name"]: "voter" if each["role"] == "leader" else each["role"] for each in status["members"]}


class Load:
    """Switches one pointer on and on; every one has to be acknowledged."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.generation = 0

    async def run(self) -> None:
        while True:
            moved = await self.client.switch(NAME, 1 + self.generation % 2, reason="load")
            assert moved.generation == self.generation + 1, "a switch was lost or repeated"
            self.generation = moved.generation

    async def goes_on(self) -> None:
        """Ten more switches."""
        target = self.generation + 10

        async def reached() -> bool:
            return self.generation >= target

        await until(reached)


@asynccontextmanager
async def under_load(cluster: LocalCluster) -> AsyncIterator[Load]:
    founders = [member.address for member in cluster.members.values() if member.ports.founder]
    async with Client(founders, timeout_s=20.0) as client:
        for content in (b"1", b"2"):
            await client.publish(NAME, content)
        load = Load(client)
        running = asyncio.create_task(load.run())
        try:
            await load.goes_on()
            yield load
            await load.goes_on()
        finally:
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running


async def test_a_process_joins_votes_and_is_removed_under_load(tmp_path: Path) -> None:
    async with LocalCluster(tmp_path, 3) as cluster, under_load(cluster) as load:
        fourth = cluster.join("n4", via="n2")
        await until(fourth.waits)
        async with Client(fourth.address, timeout_s=1.0) as client:
            with pytest.raises(Unavailable, match="not admitted"):
                await client.pointer(NAME, stale=True)
        (waiting,) = (await ok(cluster, "cluster", "status"))["waiting"]
        assert (waiting["name"], waiting["role"], waiting["command"]) == ("n4", "voter", "regctl cluster add n4")

        added = await ok(cluster, "cluster", "add", "n4")
        assert (added["name"], added["role"], added["voters"], added["may_fail"]) == ("n4", "voter", 4, 1)
        assert added["notes"] == ["4 voters tolerate no more failures than 3: 1 may fail"]
        assert await ok(cluster, "cluster", "add", "n4") == added
        await cluster.wait_ready(["n4"])
        await load.goes_on()
        async with Client(fourth.address) as client:
            assert (await client.pointer(NAME)).generation >= load.generation - 10
            assert client.info is not None
            assert client.info.served_by == "n4"

        removed = await ok(cluster, "cluster", "remove", "n4", "--yes")
        assert (removed["id"], removed["voters"], removed["notes"]) == (added["id"], 3, [])
        assert await ended(fourth) == EXIT_REMOVED
        assert "regctl cluster add n4" in fourth.log_tail()
        fourth.start()
        assert await ended(fourth) == EXIT_REMOVED
        assert await roles(cluster) == {"n1": "voter", "n2": "voter", "n3": "voter"}


async def test_a_wiped_member_is_refused_as_founder_and_replaced_under_load(tmp_path: Path) -> None:
    async with LocalCluster(tmp_path, 3) as cluster, under_load(cluster) as load:
        cluster.wipe("n3")
        cluster["n3"].start()

        async def refused() -> bool:
            return "regctl cluster replace n3" in cluster["n3"].log_tail()

        await until(refused)
        assert not await cluster["n3"].ready()
        code, _, err = await regctl(cluster, "cluster", "replace", "n3")
        assert code == 3
        assert "no process waits" in err

        cluster.wipe("n3")
        await until(cluster.join("n3").waits)
        code, _, err = await regctl(cluster, "cluster", "add", "n3")
        assert code == 4
        assert "regctl cluster replace n3" in err
        replaced = await ok(cluster, "cluster", "replace", "n3")
        assert (replaced["name"], replaced["role"], replaced["voters"]) == ("n3", "voter", 3)
        await cluster.wait_ready(["n3"])
        assert await roles(cluster) == {"n1": "voter", "n2": "voter", "n3": "voter"}
        await load.goes_on()
        cluster["n2"].kill()  # the new one is half of the majority now
        await load.goes_on()


async def test_leadership_is_transferred_under_load(tmp_path: Path) -> None:
    async with LocalCluster(tmp_path, 3) as cluster, under_load(cluster) as load:
        for name in ("n1", "n3"):
            passed = await ok(cluster, "cluster", "transfer", name)
            assert (passed["name"], passed["role"]) == (name, "leader")
            await load.goes_on()
            assert (await load.client.status()).leader == name
        assert (await ok(cluster, "cluster", "transfer"))["name"] in ("n1", "n2")


async def test_a_leader_that_is_removed_hands_over_first(tmp_path: Path) -> None:
    async with LocalCluster(tmp_path, 3) as cluster, under_load(cluster) as load:
        leader = (await ok(cluster, "cluster", "status"))["leader"]
        await ok(cluster, "cluster", "remove", leader, "--yes")
        assert await ended(cluster[leader]) == EXIT_REMOVED
        await load.goes_on()
        left = await roles(cluster)
        assert leader not in left
        assert len(left) == 2


async def test_an_observer_serves_what_it_knows_when_it_is_cut_off(tmp_path: Path) -> None:
    async with LocalCluster(tmp_path, 1) as cluster:
        async with Client(cluster["n1"].address) as client:
            await client.publish("site/one", b"1")
            await client.switch("site/one", 1, reason="go")
        edge = cluster.join("edge", observer=True)
        await until(edge.waits)
        added = await ok(cluster, "cluster", "add", "edge")
        assert (added["role"], added["voters"]) == ("observer", 1)
        await cluster.wait_ready(["edge"])
        async with Client(edge.address, timeout_s=5.0) as client:
            assert (await client.pointer("site/one")).generation == 1  # through the leader
            await client.switch("site/one", 1, reason="handed on")
            cluster["n1"].pause()
            try:
                ages = []
                while len(ages) < 2 or ages[-1] < ages[0] + 100:
                    assert (await client.pointer("site/one", stale=True)).generation in (1, 2)
                    assert client.info is not None
                    ages.append(client.info.age_ms)
                    await asyncio.sleep(0.02)
                polled = await client.poll(
                    PollRequest(agent="a", site="s", epoch=1, follows=(Follow(workflow="site/one"),))
                )
                assert polled.instructions[0].version.number == 1
                assert (polled.info.served_by, polled.info.stale) == ("edge", True)
                assert polled.info.age_ms >= ages[0]
                assert await edge.ready()
                code, shown, err = await regctl(cluster, "pointer", "site/one", "--stale", at=edge)
                assert (code, shown["version"]) == (0, 1)
                assert "as edge knew it; it had heard the leader" in err
            finally:
                cluster["n1"].resume()
        promoted = await ok(cluster, "cluster", "promote", "edge")
        assert (promoted["role"], promoted["voters"]) == ("voter", 2)
        assert promoted["notes"] == ["2 voters tolerate no more failures than 1: none may fail"]


async def test_a_cluster_with_a_member_that_joined_starts_again(tmp_path: Path) -> None:
    async with LocalCluster(tmp_path, 1) as cluster:
        await until(cluster.join("n2").waits)
        await ok(cluster, "cluster", "add", "n2")
        async with Client(cluster.endpoints) as client:
            await client.publish("again/one", b"1")
    async with LocalCluster(tmp_path) as again:
        assert again.endpoints == cluster.endpoints
        async with Client(again["n2"].address) as client:
            assert (await client.version("again/one")).number == 1
            with pytest.raises(NotFound):
                await client.version("again/two")
        assert "--join is ignored" in again["n2"].log.read_text()


async def test_what_is_refused_has_its_exit_code_and_a_way_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "APPEAR_S", 0.0)

    async def regctl(cluster: LocalCluster, *arguments: str) -> tuple[int, Any, str]:
        """In this process: a dozen of them."""
        code = await asyncio.to_thread(run, [*arguments, "--endpoints", ",".join(cluster.endpoints)])
        out, err = capfd.readouterr()
        return code, json.loads(out) if out else None, err

    async def ok(cluster: LocalCluster, *arguments: str) -> Any:
        code, out, err = await regctl(cluster, *arguments)
        assert code == 0, err
        return out

    async with LocalCluster(tmp_path, 3) as cluster:
        code, _, err = await regctl(cluster, "cluster", "add", "n9", "-o", "json")
        assert (code, json.loads(err)["reason"]) == (3, "NOT_WAITING")
        for command in (["remove", "n9", "--yes"], ["promote", "n9"], ["transfer", "n9"], ["replace", "n9"]):
            code, _, err = await regctl(cluster, "cluster", *command, "-o", "json")
            assert (code, json.loads(err)["reason"]) == (3, "UNKNOWN_MEMBER"), command
        code, _, err = await regctl(cluster, "cluster", "remove", "n3")
        assert code == 2
        assert "--yes" in err

        leader = (await ok(cluster, "cluster", "status"))["leader"]
        dead, alive = (name for name in ("n1", "n2", "n3") if name != leader)
        cluster[dead].kill()

        async def noticed() -> bool:
            return f"{dead} is not heard" in (await ok(cluster, "cluster", "status"))["warnings"]

        await until(noticed)
        warnings = (await ok(cluster, "cluster", "status"))["warnings"]
        assert "no further voter may fail: 2 of 3 voters alive, 2 must be" in warnings
        code, _, err = await regctl(cluster, "cluster", "transfer", dead, "-o", "json")
        assert (code, json.loads(err)["reason"]) == (6, "TRANSFER_REFUSED")
        code, _, err = await regctl(cluster, "cluster", "remove", alive, "--yes")
        assert code == 6
        assert "then 2 members would vote, 2 of them must agree, and 1 of them would be alive" in err
        assert "--force" in err
        removed = await ok(cluster, "cluster", "remove", dead, "--yes")
        assert removed["notes"] == ["2 voters tolerate no more failures than 1: none may fail"]
        await ok(cluster, "cluster", "remove", alive, "--yes")
        code, _, err = await regctl(cluster, "cluster", "remove", leader, "--yes", "-o", "json")
        assert (code, json.loads(err)["reason"]) == (6, "LAST_VOTER")


async def test_on_a_terminal_a_removal_shows_what_it_means_and_asks(tmp_path: Path) -> None:
    async with LocalCluster(tmp_path, 3) as cluster:
        removal = ["cluster", "remove", "n3", "--endpoints", ",".join(cluster.endpoints)]
        code, shown = await asyncio.to_thread(in_terminal, removal, b"n\n")
        assert code == 1
        assert "voters: 3 -> 2; may fail: 1 -> 0" in shown
        assert "nothing was changed" in shown
        assert len(await roles(cluster)) == 3
        code, shown = await asyncio.to_thread(in_terminal, removal, b"y\n")
        assert code == 0
        assert "n3 is removed" in shown
        assert sorted(await roles(cluster)) == ["n1", "n2"]

"""Backup, restore and forced recovery over real processes, with an agent that lives through it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from registry.agent import Agent, AgentConfig, ClientApi, FileSpec, FollowSpec
from registry.agent import limits as agent_limits
from registry.cli.local_cluster import LocalCluster, LocalMember, Ports, free_ports
from registry.client import Client
from registry.client import limits as client_limits
from registry.core.errors import Unavailable
from registry.server.main import EXIT_REMOVED, EXIT_USAGE
from tests.integration.server_kit import small_disk

REGCTL = (sys.executable, "-m", "registry.cli.main")
REGISTRYD = (sys.executable, "-m", "registry.server.main")
WAIT_S = 30.0
NAME = "support/triage"
LOADED = tuple(f"load/w{number}" for number in range(4))


async def until(condition: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await condition():
            await asyncio.sleep(0.02)


async def said(*command: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def done(*command: object) -> Any:
    code, out, err = await said(*command, "-o", "json")
    assert code == 0, err
    return json.loads(out)


async def heard(by: LocalMember, joins: LocalMember) -> None:
    """Until a process that wants to join is known to that member."""
    async with Client([by.address]) as client:

        async def known() -> bool:
            return joins.name in [each.name for each in (await client.status()).waiting]

        try:
            await until(known)
        except TimeoutError:
            pytest.fail(f"{joins.name} is not heard\n{by.log_tail()}\n{joins.log_tail()}")


async def back_up(file: Path, endpoints: tuple[str, ...] | list[str], *flags: str) -> Any:
    return await done(*REGCTL, "cluster", "backup", file, *flags, "--endpoints", ",".join(endpoints))


def successor(directory: Path, name: str, *, api: int = 0, peer: int = 0, join: str = "") -> LocalMember:
    """A member outside of the LocalCluster, over directory/name; at the ports of another one where they are given."""
    free = free_ports(3)
    directory.mkdir(parents=True, exist_ok=True)
    ports = Ports(name, api or free[0], peer or free[1], free[2], founder=False, join=join)
    return LocalMember(ports, directory, "", (), None)


async def restored(file: Path, member: LocalMember) -> Any:
    return await done(
        *(*REGISTRYD, "restore", file, "--data-dir", member.data_dir, "--name", member.name),
        *("--peer-listen", member.ports.peer_address),
    )


@asynccontextmanager
async def running(*members: LocalMember) -> AsyncIterator[None]:
    """Those that join wait to be admitted."""
    try:
        for member in members:
            member.start()
            await until(member.waits if member.ports.join else member.ready)
        yield
    finally:
        for member in members:
            member.resume()
            member.kill()


async def ended(member: LocalMember) -> int:
    async def gone() -> bool:
        return not member.running

    await until(gone)
    assert member.process is not None
    assert member.process.returncode is not None
    return member.process.returncode


# ---- backup and restore


class Load:
    """Switches its pointers between two versions; what was acknowledged counts."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.acknowledged = dict.fromkeys(LOADED, 0)

    async def run(self) -> None:
        async def switch(workflow: str) -> None:
            while True:
                generation = self.acknowledged[workflow]
                moved = await self._client.switch(workflow, 1 + generation % 2, reason="load")
                self.acknowledged[workflow] = moved.generation

        await asyncio.gather(*map(switch, LOADED))

    async def goes_on(self) -> None:
        target = {workflow: generation + 10 for workflow, generation in self.acknowledged.items()}

        async def reached() -> bool:
            return all(self.acknowledged[workflow] >= target[workflow] for workflow in LOADED)

        await until(reached)


async def test_everything_acknowledged_before_a_backup_under_load_is_in_what_is_restored(tmp_path: Path) -> None:
    async with LocalCluster(tmp_path / "old", 3) as cluster, Client(cluster.endpoints, timeout_s=20) as client:
        for workflow in LOADED:
            for content in (b"1", b"2"):
                await client.publish(workflow, content)
        load = Load(client)
        loading = asyncio.create_task(load.run())
        await load.goes_on()
        before = dict(load.acknowledged)
        made = await back_up(tmp_path / "file", cluster.endpoints)
        await load.goes_on()
        loading.cancel()
    assert made["size_bytes"] == (tmp_path / "file").stat().st_size
    assert (tmp_path / "file").stat().st_mode & 0o077 == 0
    assert (made["linearizable"], made["epoch"]) == (True, 1)
    checked = await done(*REGISTRYD, "verify", tmp_path / "file")
    same = ("index", "revision", "epoch", "cluster_id", "size_bytes", "sha256", "member", "taken")
    assert {key: checked[key] for key in same} == {key: made[key] for key in same}
    n1 = successor(tmp_path / "new", "n1")
    await restored(tmp_path / "file", n1)
    n2 = successor(tmp_path / "new", "n2", join=n1.ports.peer_address)
    async with running(n1, n2), Client([n1.address]) as client:
        for workflow in LOADED:
            pointer = await client.pointer(workflow)
            assert pointer.generation >= before[workflow]
            assert pointer.version == 1 + (pointer.generation - 1) % 2
        status = await client.status()
        assert (status.info.cluster_id, status.info.epoch) == (made["cluster_id"], 2)
        (change,) = [each async for each in _changes(client, made["revision"] + 1, 1)]
        assert (change.action, change.epoch, change.reason) == ("restore", 2, "from the backup file")
        moved = await client.switch(LOADED[0], 1, reason="goes on")
        assert moved.revision > change.revision
        await done(*REGCTL, "cluster", "add", "n2", "--endpoints", n1.address)
        async with Client([n2.address]) as at_n2:
            found = await at_n2.pointer(LOADED[0], stale=True)
            assert found == moved
            assert at_n2.info is not None
            assert (at_n2.info.served_by, at_n2.info.epoch) == ("n2", 2)


async def _changes(client: Client, revision: int, count: int) -> AsyncIterator[Any]:
    async for change in client.watch(from_revision=revision):
        yield change
        count -= 1
        if not count:
            return


async def test_any_member_gives_a_backup_once_it_knows_something(tmp_path: Path) -> None:
    async with LocalCluster(tmp_path / "c", 1) as cluster, Client(cluster.endpoints) as client:
        await client.publish(NAME, b"1")
        observer = cluster.join("o1", observer=True)
        await until(observer.waits)
        with pytest.raises(Unavailable, match="not admitted to a cluster yet"):
            async with Client([observer.address], timeout_s=1) as waiting:
                await waiting.backup(BytesIO())
        await done(*REGCTL, "cluster", "add", "o1", "--endpoints", cluster["n1"].address)
        made = await back_up(tmp_path / "file", [observer.address])
        assert (made["member"], made["linearizable"]) == ("o1", True)
        code, _, err = await said(*REGCTL, "cluster", "backup", tmp_path / "file", "--endpoints", observer.address)
        assert (code, "file exists" in err) == (1, True), err
        cluster["n1"].kill()
        refused = (*REGCTL, "cluster", "backup", tmp_path / "none", "--endpoints", observer.address, "--timeout", "2")
        code, _, err = await said(*refused)
        assert code == 5, err
        assert not list(tmp_path.glob("none*"))
        made = await back_up(tmp_path / "file", [observer.address], "--stale", "--force")
        assert (made["linearizable"], made["revision"]) == (False, 2)
        assert made["age_s"] > 0


async def test_a_full_disk_leaves_no_file_and_no_directory(tmp_path: Path) -> None:
    small = small_disk(100 * 1024)
    async with LocalCluster(tmp_path / "c", 1) as cluster, Client(cluster.endpoints) as client:
        await client.publish(NAME, os.urandom(300_000), kind="binary")
        command = (*REGCTL, "cluster", "backup", tmp_path / "file", "--endpoints", *cluster.endpoints)
        code, _, err = await said(*small, *command)
        assert code == 1
        assert "cannot write" in err
        assert "nothing was kept of it" in err
        assert not list(tmp_path.glob("file*"))
        await back_up(tmp_path / "file", cluster.endpoints)
    target = tmp_path / "target"
    command = (*REGISTRYD, "restore", tmp_path / "file", "--data-dir", target, "--name", "n1")
    code, _, err = await said(*small, *command)
    assert code == EXIT_USAGE
    assert "is as it was: make room" in err
    assert not target.exists()


async def test_a_restore_that_is_killed_is_refused_at_start_and_begun_anew(tmp_path: Path) -> None:
    async with LocalCluster(tmp_path / "c", 1) as cluster, Client(cluster.endpoints) as client:
        await client.publish(NAME, os.urandom(300_000), kind="binary")
        await back_up(tmp_path / "file", cluster.endpoints)
    data, slow = (tmp_path / "file").read_bytes(), tmp_path / "slow"
    os.mkfifo(slow)
    n1 = successor(tmp_path / "new", "n1")
    process = await asyncio.create_subprocess_exec(
        *(*REGISTRYD, "restore", slow, "--data-dir", n1.data_dir, "--name", "n1")
    )
    with await asyncio.to_thread(slow.open, "wb", 0) as half:
        await asyncio.to_thread(half.write, data[: len(data) // 2])  # returns once it was taken

        async def begun() -> bool:
            return (n1.data_dir / "db").exists()

        await until(begun)
        process.kill()
        await process.wait()
    code, _, err = await said(*REGISTRYD, "--name", "n1", "--data-dir", n1.data_dir)
    assert code == EXIT_USAGE
    assert "was not finished; type the same `registryd restore` again" in err
    await restored(tmp_path / "file", n1)
    async with running(n1), Client([n1.address]) as client:
        assert len(await client.content(NAME, 1)) == 300_000


# ---- forced recovery


async def test_a_lone_survivor_goes_on_and_the_others_are_ended(tmp_path: Path) -> None:
    async with LocalCluster(tmp_path / "c", 3) as cluster:
        async with Client(cluster.endpoints) as client:
            await client.publish(NAME, b"1")
            moved = await client.switch(NAME, 1, reason="go live")
            cluster_id = (await client.status()).info.cluster_id
        n1, n2, n3 = cluster.members.values()
        asked = (*REGISTRYD, "recover", "--data-dir", n1.data_dir, "--reason", "fire")
        code, _, err = await said(*asked, "--yes", "--accept-data-loss")
        assert (code, "in use by another process" in err) == (EXIT_USAGE, True)
        for member in (n1, n3):
            member.kill()
        code, _, err = await said(*asked, "--yes", "--accept-data-loss")
        assert (code, "n2 at" in err) == (6, True), err
        n2.kill()
        assert await _typed("not the id", asked) == EXIT_USAGE
        assert await _typed(cluster_id, asked) == 0
        await cluster.restart("n1")
        async with Client([n1.address]) as client:
            assert await client.pointer(NAME) == moved
            status = await client.status()
            assert (status.info.cluster_id, status.info.epoch) == (cluster_id, 2)
            assert [member.name for member in status.members] == ["n1"]
            assert (await client.switch(NAME, 1, reason="goes on")).generation == 2
        n2.start()
        assert await ended(n2) == EXIT_REMOVED
        assert "n2 was removed from this cluster" in n2.log_tail()
        cluster.wipe("n2")
        n2 = cluster.join("n2", via="n1")
        await heard(n1, n2)
        await done(*REGCTL, "cluster", "add", "n2", "--endpoints", n1.address)
        async with Client([cluster["n2"].address]) as client:
            assert (await client.pointer(NAME)).generation == 2


async def _typed(answer: str, command: tuple[object, ...]) -> int:
    """The exit code of a command that asks on its terminal."""
    leader, follower = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdin=follower, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    os.close(follower)
    os.write(leader, f"{answer}\n".encode())
    try:
        return await asyncio.wait_for(process.wait(), WAIT_S)
    finally:
        os.close(leader)


# ---- agents


async def test_an_agent_notices_a_restore_and_runs_what_the_backup_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_limits, "POLL_WAIT_S", 1.0)
    monkeypatch.setattr(agent_limits, "POLL_SLACK_S", 1.0)
    monkeypatch.setattr(client_limits, "POLL_GRACE_S", 0.3)  # shorter than the slack, as in production
    path = tmp_path / "shown"
    config = AgentConfig(
        name="edge-1", state_dir=tmp_path / "edge", follows=(FollowSpec(NAME, "active", FileSpec(path)),)
    )

    async def shows(content: bytes, epoch: int, generation: int) -> None:
        async def so() -> bool:
            if not path.exists() or path.read_bytes() != content:
                return False
            now = agent.status()
            (follow,) = now["follows"]
            return (now["epoch"], follow["generation"], follow["state"]) == (epoch, generation, "current")

        await until(so)

    async with LocalCluster(tmp_path / "old", 3) as cluster, Client(cluster.endpoints) as edge:
        n1, n2, n3 = cluster.members.values()
        async with Client(cluster.endpoints) as client:
            for content in (b"v1", b"v2", b"v3"):
                await client.publish(NAME, content)
            await client.switch(NAME, 1, reason="go live")
            await client.switch(NAME, 2, reason="better")
            agent = Agent(config, ClientApi(edge))
            runs = asyncio.create_task(agent.run())
            await _exists(tmp_path / "edge" / "agent.json")
            await shows(b"v2", 1, 2)
            await back_up(tmp_path / "file", cluster.endpoints)
            await client.switch(NAME, 3, reason="after the backup")
            await client.switch(NAME, 3, reason="and again")
            await shows(b"v3", 1, 4)

        for member in (n1, n2):
            member.kill()
        n3.pause()
        # at n1's API address, but not at its peer address: n3 does not meet it, and goes on in the old epoch
        new = successor(tmp_path / "new", "n1", api=n1.ports.api)
        await restored(tmp_path / "file", new)
        async with running(new):
            await shows(b"v2", 2, 2)
            async with Client([new.address]) as client:
                await client.switch(NAME, 1, reason="goes on")
            await shows(b"v1", 2, 3)
            n3.resume()
            new.kill()
            with structlog.testing.capture_logs() as logs:

                async def ignored() -> bool:
                    return any(line["event"] == "member of an older epoch ignored" for line in logs)

                await until(ignored)
            await shows(b"v1", 2, 3)
        agent.stop()
        await runs
        # and where n3 does meet one of the new epoch, it is ended
        ports = msgspec.structs.replace(new.ports, peer=n1.ports.peer)
        at_home = LocalMember(ports, tmp_path / "new", "", (), None)
        async with running(at_home):
            assert await ended(n3) == EXIT_REMOVED


async def _exists(path: Path) -> None:
    async def so() -> bool:
        return path.exists()

    await until(so)

"""What members do about their disks: damage that is found, free pages that are given back, room that runs out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cluster.api import CompactionRefused, DataDamaged, NotAttempted
from cluster.limits import RESERVE_BYTES, Flow
from tests.integration.cluster_members import Cluster, until


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path, flow=Flow(log_entries=5))
    await cluster.start()
    yield cluster
    await cluster.stop()


async def written(cluster: Cluster, commands: list[bytes]) -> None:
    name = next(iter(cluster.members))
    for command in commands:
        await cluster.propose(name, command)
    await until(
        lambda: all(cluster.commands(name)[-len(commands) :] == commands for name in cluster.members),
        f"{len(commands)} commands",
    )


async def started_again(cluster: Cluster, name: str) -> DataDamaged:
    """After it has failed; why."""
    error = await asyncio.wait_for(cluster.members[name].failure(), 10.0)
    assert isinstance(error, DataDamaged)
    await cluster.stop(name)
    await cluster.start(name)
    return error


def file_of(tmp_path: Path, name: str) -> Path:
    (path,) = (tmp_path / name).glob("*/data.mdb")
    return path


# ---- damage
async def test_a_flipped_byte_ends_the_member_and_its_next_life_gets_a_state(cluster: Cluster, tmp_path: Path) -> None:
    commands = [b"needle %d in the hay" % number for number in range(10)]
    await written(cluster, commands)
    await cluster.stop("c")
    data = file_of(tmp_path, "c").read_bytes()
    assert commands[-1] in data
    file_of(tmp_path, "c").write_bytes(data.replace(commands[-1], commands[-1].replace(b"needle", b"nettle")))
    await cluster.start("c")
    if not cluster.members["c"].status().repairing:  # it was met in the log already
        await cluster.propose("a", b"one more")
        await asyncio.wait_for(cluster.members["c"].failure(), 10.0)
        await cluster.stop("c")
        await cluster.start("c")
        commands.append(b"one more")
    assert "table " in cluster.members["c"].status().repairing
    await until(lambda: not cluster.members["c"].status().repairing, "the repair")
    assert cluster.commands("c") == commands
    await cluster.propose("c", b"at last")
    await until(lambda: cluster.commands("c") == [*commands, b"at last"], "its own write")


async def test_a_leader_that_is_told_of_damage_hands_over_and_is_repaired(cluster: Cluster) -> None:
    commands = [b"%d" % number for number in range(10)]
    await written(cluster, commands)
    leader = await cluster.leader()
    term = cluster.members[leader].status().term
    assert await cluster.members[leader].damaged("a scrub found row x")
    assert "a scrub found row x. Started again" in str(await started_again(cluster, leader))
    assert cluster.members[leader].status().repairing == "a scrub found row x"
    await until(lambda: not cluster.members[leader].status().repairing, "the repair")
    assert cluster.commands(leader) == commands
    other = next(name for name in cluster.members if name != leader)
    status = cluster.members[other].status()
    assert (status.term, status.leader != leader) == (term + 1, True)


async def test_the_only_voter_that_is_told_of_damage_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(tmp_path, "a")
    await cluster.start()
    await cluster.propose("a", b"x")
    assert not await cluster.members["a"].damaged("a scrub found row x")
    assert "nobody can give it a state" in caplog.text
    assert await cluster.propose("a", b"y") == 2
    await cluster.stop()


async def test_a_member_in_repair_attempts_nothing_and_says_so(cluster: Cluster) -> None:
    await written(cluster, [b"x"])
    assert await cluster.members["c"].damaged("a scrub found row x")
    await cluster.stop()
    await cluster.start("c")
    status = cluster.members["c"].status()
    assert (status.repairing, status.leader) == ("a scrub found row x", None)
    await until(lambda: "a state at " in cluster.members["c"].status().fetching, "what it fetches")
    for call in (
        cluster.members["c"].propose(b"y", timeout_s=0.2),
        cluster.members["c"].barrier(timeout_s=0.2),
    ):
        with pytest.raises(NotAttempted):
            await call
    assert await cluster.members["c"].damaged("again")
    await cluster.start("a", "b")
    await until(lambda: not cluster.members["c"].status().repairing, "the repair")


# ---- compaction
async def test_a_compaction_gives_back_what_was_deleted_while_writes_go_on(cluster: Cluster, tmp_path: Path) -> None:
    for number in range(40):
        await cluster.propose("a", b"%d" % number * 40_000)
    await cluster.propose("a", b"clear")
    for number in range(20):
        await cluster.propose("a", b"%d" % number)
    await until(lambda: len(cluster.commands("c")) == 20, "all commands at c")
    cluster.members["c"].checkpoint()
    await until(
        lambda: file_of(tmp_path, "c").stat().st_size > RESERVE_BYTES + 2_000_000, "the file, and what is set aside"
    )
    before_bytes = file_of(tmp_path, "c").stat().st_size
    compacting = asyncio.create_task(cluster.members["c"].compact())
    await asyncio.sleep(0)
    with pytest.raises(CompactionRefused, match="going on already"):
        await cluster.members["c"].compact()
    for number in range(20, 60):
        await cluster.propose("c", b"%d" % number)
    compacted = await compacting
    assert compacted.before_bytes - compacted.after_bytes > 1_000_000
    assert before_bytes - sum(path.stat().st_size for path in (tmp_path / "c").glob("*/data.mdb")) > 1_000_000
    await until(lambda: len(cluster.commands("c")) == 60, "all commands at c")
    await cluster.stop("c")
    await cluster.start("c")
    assert cluster.commands("c") == [b"%d" % number for number in range(60)]


async def test_a_member_that_stops_ends_its_compaction(cluster: Cluster) -> None:
    await written(cluster, [b"x" * 100_000 for _ in range(20)])
    compacting = asyncio.create_task(cluster.members["c"].compact())
    await asyncio.sleep(0)
    await cluster.stop("c")
    with pytest.raises(CompactionRefused):
        await compacting
    await cluster.start("c")
    await until(lambda: len(cluster.commands("c")) == 20, "what it had")


async def test_no_compaction_begins_while_a_state_is_fetched(cluster: Cluster) -> None:
    await written(cluster, [b"x"])
    assert await cluster.members["c"].damaged("a scrub found row x")
    await cluster.stop()
    await cluster.start("c")
    await until(lambda: bool(cluster.members["c"].status().fetching), "what it fetches")
    with pytest.raises(CompactionRefused, match="fetching a state"):
        await cluster.members["c"].compact()


# ---- room
async def test_the_status_says_how_much_room_there_is(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    status = cluster.members["a"].status()
    assert status.has_room
    assert status.headroom_bytes > RESERVE_BYTES
    for environment in cluster.environments.values():
        monkeypatch.setattr(environment, "headroom_bytes", lambda: RESERVE_BYTES // 2)

    def of_all(has_room: bool) -> Callable[[], bool]:
        def all_alike() -> bool:
            statuses = [member.status() for member in cluster.members.values()]
            rooms = [peer.has_room for status in statuses for peer in status.peers]
            return all(status.has_room == has_room for status in statuses) and set(rooms) == {has_room}

        return all_alike

    await until(of_all(False), "all without room")
    assert await cluster.propose("a", b"a deletion") == 1
    monkeypatch.undo()
    await until(of_all(True), "all with room")

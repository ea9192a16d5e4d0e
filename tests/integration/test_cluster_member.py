"""Three real members in one process: loopback sockets, LMDB, the machine's clock."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import msgpack, structs

from cluster import messages as m
from cluster.api import CommandTooLarge, NotAttempted, OutcomeUnknown
from cluster.configuration import founding
from cluster.journal import TABLES
from cluster.kv.lmdb_env import LmdbEnvironment
from cluster.limits import COMMAND_BYTES, LOCAL
from cluster.member import Member, MemberConfig
from cluster.peers import PeerTls
from tests.integration.cluster_members import STATE, Cluster, Log, until
from tests.integration.test_cluster_peers import HELLO, authority_of, certified


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path)
    await cluster.start()
    yield cluster
    await cluster.stop()


async def agreed(cluster: Cluster, commands: list[bytes]) -> None:
    await until(
        lambda: all(cluster.commands(name) == commands for name in cluster.members), f"{len(commands)} commands"
    )


async def test_any_member_proposes_and_all_apply_alike(cluster: Cluster) -> None:
    commands = [b"%s %d" % (name.encode(), number) for number in range(5) for name in "abc"]
    results = [await cluster.propose(command[:1].decode(), command) for command in commands]
    assert results == list(range(1, 16))
    await agreed(cluster, commands)


async def test_many_at_once_through_every_member(cluster: Cluster) -> None:
    commands = [b"%d" % number for number in range(600)]
    names = [*cluster.members]
    results = await asyncio.gather(
        *(cluster.propose(names[number % 3], command) for number, command in enumerate(commands))
    )
    assert sorted(results) == list(range(1, 601))
    ordered = [command for _, command in sorted(zip(results, commands, strict=True))]
    await agreed(cluster, ordered)
    assert cluster.members["a"].status().last_index < 600  # what arrived together shared entries


async def test_a_snapshot_of_whoever_was_told_a_result_shows_it(cluster: Cluster) -> None:
    leader = await cluster.leader()
    for number in range(60):
        await cluster.propose(leader, b"%d" % number)
        assert len(cluster.commands(leader)) == number + 1


async def test_a_snapshot_after_a_barrier_holds_every_write_acknowledged_before(cluster: Cluster) -> None:
    for number in range(60):
        await cluster.propose("abc"[number % 3], b"%d" % number)
        reader = "abc"[(number + 1) % 3]
        await cluster.members[reader].barrier(timeout_s=5.0)
        assert len(cluster.commands(reader)) == number + 1


async def test_status_names_the_leader_and_what_is_known_of_each_member(cluster: Cluster) -> None:
    leader = await cluster.leader()
    await cluster.propose("a", b"x")
    await agreed(cluster, [b"x"])
    for name, member in cluster.members.items():
        await until(lambda member=member: len({p.applied_index for p in member.status().peers}) == 1, "reports")  # type: ignore[misc]
        status = member.status()
        assert (status.name, status.leader) == (name, leader)
        assert status.commit_index == status.applied_index == status.last_index >= 3
        assert status.leader_contact_s < 1.0
        assert [peer.member.name for peer in status.peers] == ["a", "b", "c"]
        assert [peer.member.api_address for peer in status.peers] == ["api of a", "api of b", "api of c"]
        assert all(peer.alive for peer in status.peers)


async def test_a_leader_that_vanishes_is_replaced_and_comes_back(cluster: Cluster) -> None:
    await cluster.propose("a", b"1")
    leader = await cluster.leader()
    await cluster.stop(leader)
    assert await cluster.leader() != leader
    assert await cluster.propose(next(iter(cluster.members)), b"2") == 2
    await cluster.start(leader)
    assert await cluster.propose(leader, b"3") == 3
    await agreed(cluster, [b"1", b"2", b"3"])


async def test_one_of_three_alone_takes_nothing_and_says_so(cluster: Cluster) -> None:
    leader = await cluster.leader()
    await cluster.stop(*[name for name in "abc" if name != leader])
    with pytest.raises(OutcomeUnknown, match=r"within 0\.2 s"):
        await cluster.propose(leader, b"x", timeout_s=0.2)
    with pytest.raises(NotAttempted, match="no majority confirmed"):
        await cluster.members[leader].barrier(timeout_s=0.2)
    await until(lambda: cluster.members[leader].status().leader is None, "the step-down")
    with pytest.raises(NotAttempted, match="no leader"):
        await cluster.propose(leader, b"y", timeout_s=0.2)


async def test_a_hand_over_fails_no_call(cluster: Cluster) -> None:
    leader = await cluster.leader()
    await cluster.propose(leader, b"0")
    others = [name for name in "abc" if name != leader]
    term = cluster.members[leader].status().term
    stopping, done = asyncio.Event(), list[int]()

    async def write(name: str) -> None:
        while not stopping.is_set() or await cluster.leader() == leader:
            done.append(await cluster.propose(name, b"x"))

    writers = [asyncio.create_task(write(name)) for name in others * 8]
    await until(lambda: len(done) > 50, "some writes")
    await cluster.stop(leader, handover_s=2.0)
    stopping.set()
    await asyncio.gather(*writers)
    successor = await cluster.leader()
    assert successor in others
    assert cluster.members[successor].status().term == term + 1
    assert sorted(done) == list(range(2, len(done) + 2))


async def test_a_member_that_has_stopped_takes_nothing(cluster: Cluster) -> None:
    member = cluster.members["a"]
    await member.stop(handover_s=0.0)
    with pytest.raises(NotAttempted, match="stopping"):
        await member.propose(b"x", timeout_s=1.0)
    with pytest.raises(NotAttempted, match="stopping"):
        await member.barrier(timeout_s=1.0)
    await member.stop(handover_s=0.0)


async def test_all_stop_and_start_again_on_what_they_had(cluster: Cluster) -> None:
    for number in range(10):
        await cluster.propose("a", b"%d" % number)
    await cluster.stop()
    await cluster.start()
    assert await cluster.propose("b", b"after") == 11
    await agreed(cluster, [*[b"%d" % number for number in range(10)], b"after"])


async def test_the_largest_command_is_taken_and_a_larger_one_refused(cluster: Cluster) -> None:
    leader = await cluster.leader()
    follower = next(name for name in "abc" if name != leader)
    with pytest.raises(CommandTooLarge, match=str(COMMAND_BYTES)):
        await cluster.propose(follower, bytes(COMMAND_BYTES + 1))
    assert await cluster.propose(follower, bytes(COMMAND_BYTES)) == 1
    await agreed(cluster, [bytes(COMMAND_BYTES)])


async def test_callers_that_give_up_leave_nothing_behind(cluster: Cluster) -> None:
    leader = await cluster.leader()
    await cluster.stop(*[name for name in "abc" if name != leader])
    member = cluster.members[leader]
    await until(lambda: member.status().leader is None, "the step-down")
    calls = [asyncio.create_task(member.propose(b"x", timeout_s=0.05)) for _ in range(50)]
    calls += [asyncio.create_task(member.barrier(timeout_s=0.05)) for _ in range(50)]  # type: ignore[arg-type]
    hung = asyncio.create_task(member.barrier(timeout_s=60.0))
    assert {type(outcome) for outcome in await asyncio.gather(*calls, return_exceptions=True)} == {NotAttempted}
    hung.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await hung
    replica = member._replica
    assert (replica._proposals.waiting, replica._reads.waiting, replica._reads._asked) == (False, False, {})
    assert (replica._proposals._forwarded, member._proposals, member._reads) == ({}, 0, 0)


async def test_garbage_on_the_peer_ports_does_not_disturb(cluster: Cluster) -> None:
    hello = structs.replace(HELLO, cluster="ours", incarnation="of b", to="a")
    old = msgpack.encode(["hello", 1, "foundation", "b", "of b", "a", "", ""])  # of the first release
    waits = structs.replace(hello, cluster="", id="x/1", name="x", incarnation="1")
    votes = m.frame(m.RequestVote(2**60, 2**60, 2**60, True)) + m.frame(m.Append(1, 2**60, 9, 1, 0, [(1, b"\xff")]))
    shots = [
        b"\x00" * 64,
        b"GET / HTTP/1.1\r\n\r\n",
        m.MAGIC,  # and then nothing: a slow handshake
        m.MAGIC + b"\xff\xff\xff\xff",
        m.MAGIC + m.frame(hello)[:-3],
        m.MAGIC + (100).to_bytes(4, "big") + b"\xc1" * 100,
        m.MAGIC + len(old).to_bytes(4, "big") + old,
        m.MAGIC + m.frame(structs.replace(hello, incarnation="other")) + votes,
        m.MAGIC + m.frame(structs.replace(hello, cluster="theirs")) + votes,
        *[m.MAGIC + m.frame(structs.replace(waits, to=to)) + votes for to in "abc"],
    ]
    term = cluster.members[await cluster.leader()].status().term
    writers = []
    for number in range(30):
        host, port = cluster.addresses["abc"[number % 3]].split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(shots[number % len(shots)])
        writers.append(writer)
        if number % 3 == 0:
            assert await cluster.propose("abc"[number % 3], b"%d" % number, timeout_s=2.0)
    terms = {member.status().term for member in cluster.members.values()}
    assert terms == {term}
    refused = [member.status().refused for member in cluster.members.values()]
    assert all(each["garbage"] > 0 for each in refused)
    assert sum(each.get("refused", 0) for each in refused) > 0
    for writer in writers:
        writer.transport.abort()
    await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


async def test_a_member_founded_otherwise_is_kept_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(tmp_path)
    await cluster.start("a", "b")
    await cluster.start("c", cluster="another")
    try:
        assert await cluster.propose("a", b"x", timeout_s=5.0) == 1
        with pytest.raises(NotAttempted):
            await cluster.propose("c", b"y", timeout_s=0.3)
        assert "refused this member: it belongs to another cluster" in caplog.text
        assert cluster.commands("c") == []
    finally:
        await cluster.stop()


async def test_a_member_whose_directory_was_replaced_is_refused(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    leader = await cluster.leader()
    follower = next(name for name in "abc" if name != leader)
    await until(lambda: follower in cluster.members[leader]._peers.heard, "the first handshake")
    await cluster.stop(follower)
    await cluster.start(follower, incarnation="another directory")
    await until(lambda: "has another data directory than before" in caplog.text, "the refusal")
    with pytest.raises(NotAttempted):
        await cluster.members[follower].barrier(timeout_s=0.2)
    assert await cluster.propose(leader, b"x") == 1


async def test_an_apply_that_raises_ends_the_member_and_says_why(cluster: Cluster) -> None:
    await cluster.propose("a", b"fine")
    reasons = [asyncio.create_task(member.failure()) for member in cluster.members.values()]
    proposal = asyncio.create_task(cluster.propose("a", b"!", timeout_s=1.0))
    done, _ = await asyncio.wait(reasons, timeout=10.0, return_when=asyncio.FIRST_COMPLETED)
    assert "fell over" in str(done.pop().result())
    with pytest.raises((OutcomeUnknown, NotAttempted)):
        await proposal
    for reason in reasons:
        reason.cancel()
    assert all(cluster.commands(name) == [b"fine"] for name in "abc")
    await cluster.stop()
    for address in cluster.addresses.values():
        host, port = address.split(":")
        with pytest.raises(OSError):  # no port is left open
            await asyncio.open_connection(host, int(port))


async def test_a_lone_member_is_ready_within_an_election(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "a")
    started = time.monotonic()
    await cluster.start()
    try:
        assert await cluster.propose("a", b"x") == 1
        await cluster.members["a"].barrier(timeout_s=1.0)
        assert time.monotonic() - started < 5 * LOCAL.election_max_s
    finally:
        await cluster.stop(handover_s=1.0)


async def test_an_address_in_use_is_an_error_at_start(cluster: Cluster, tmp_path: Path) -> None:
    environment = LmdbEnvironment(tmp_path / "second", [*TABLES, STATE], map_size_bytes=1 << 24)
    address = cluster.addresses["a"]
    config = MemberConfig(
        "a", "a", "x", listen=address, peer_address=address, founding=founding("ours", {"a": address})
    )
    with pytest.raises(OSError):
        await Member(config, environment, Log()).start()
    environment.close()


async def test_a_peer_address_where_nobody_listens_is_no_obstacle(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    await cluster.start("a", "b")
    try:
        assert await cluster.propose("a", b"x") == 1
        assert {p.member.name: p.alive for p in cluster.members["a"].status().peers}["c"] is False
    finally:
        await cluster.stop()


async def test_members_replicate_over_tls(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command")
    (tmp_path / "ca").mkdir()
    ca = authority_of(tmp_path / "ca")

    def tls(name: str) -> PeerTls:
        (tmp_path / f"tls of {name}").mkdir()
        return certified(tmp_path / f"tls of {name}", ca, name)

    cluster = Cluster(tmp_path, tls=tls)
    await cluster.start()
    try:
        assert [await cluster.propose(name, name.encode()) for name in "abc"] == [1, 2, 3]
        await agreed(cluster, [b"a", b"b", b"c"])
    finally:
        await cluster.stop()

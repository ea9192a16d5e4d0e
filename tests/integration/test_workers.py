"""registryd --workers: processes that serve one member's API, as callers, agents and operators meet them."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from msgspec import json

from registry.core.delivery import Holding, Poll, PollReply
from registry.server import limits
from registry.server.config import Tls
from registry.server.main import EXIT_START
from registry.server.workers.supervisor import SharedEnvironment
from registry.v1 import agent_pb2, cluster_pb2, registry_pb2
from tests.integration.server_kit import RPC_S, answer, connect, failed, free_port, get, members, new_request_id, until
from tests.integration.test_client_tls import certificates
from tests.integration.test_server_process import refused
from tests.integration.workers_kit import (
    OWN_CONNECTION,
    Member,
    Served,
    children,
    command,
    member,
    runs,
    through_each,
    until_ready,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
Pair = tuple[Served, Served]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Member, Pair]]:
    async with member(tmp_path_factory.mktemp("member")) as running:
        await running.ready()
        async with through_each(running) as pair:
            yield running, pair


async def live(pair: Pair, workflow: str) -> None:
    """A workflow with two versions, the first one live."""
    for content in (b"one", b"two"):
        await pair[0].publish(workflow, content)
    await pair[0].switch(workflow, 1)


async def test_what_one_worker_acknowledged_is_read_through_the_other(served: tuple[Member, Pair]) -> None:
    _, pair = served
    for number in range(1, 31):
        writer, reader = pair if number % 2 else pair[::-1]
        version = (await writer.publish("w/read", b"%d" % number)).version
        switched = await writer.switch("w/read", version.number, expected_generation=number - 1)
        assert switched.pointers[0].generation == number
        pointer = await reader.pointer("w/read")
        assert (pointer.generation, pointer.version) == (number, number)
        content = registry_pb2.GetContentRequest(workflow="w/read", reference="active")
        assert (await reader.registry.GetContent(content, timeout=RPC_S)).content == b"%d" % number


async def test_a_worker_knows_what_it_has_acknowledged_without_asking_again(served: tuple[Member, Pair]) -> None:
    """The answer to a write comes after the news of its commit."""
    _, pair = served
    await live(pair, "w/known")
    stale = registry_pb2.GetPointerRequest(workflow="w/known", stale=True)
    follow = agent_pb2.Follow(workflow="w/known")
    for generation in range(2, 62):
        worker = pair[generation % 2]
        await worker.switch("w/known", 1 + generation % 2)
        assert (await worker.registry.GetPointer(stale, timeout=RPC_S)).pointer.generation == generation
        poll = agent_pb2.PollRequest(agent="edge-1", epoch=1, follows=[follow])
        assert (await worker.agents.Poll(poll, timeout=RPC_S)).instructions[0].generation == generation


async def test_of_switches_that_expect_the_same_one_wins_whichever_worker_took_it(served: tuple[Member, Pair]) -> None:
    _, pair = served
    await live(pair, "w/race")
    for generation in range(1, 6):
        results = await asyncio.gather(
            *(pair[n % 2].switch("w/race", 1 + n % 2, expected_generation=generation) for n in range(12)),
            return_exceptions=True,
        )
        assert sum(not isinstance(result, BaseException) for result in results) == 1
        assert {(await each.pointer("w/race")).generation for each in pair} == {generation + 1}


async def test_a_retry_through_another_worker_takes_effect_once(served: tuple[Member, Pair]) -> None:
    _, pair = served
    await live(pair, "w/once")
    move = registry_pb2.Move(workflow="w/once", target="2")
    request = registry_pb2.SwitchRequest(moves=[move], reason="test", request_id=new_request_id())
    first, second = [await each.registry.Switch(request, timeout=RPC_S) for each in pair]
    assert first.info.revision == second.info.revision
    assert (await pair[0].pointer("w/once")).generation == 2


async def test_a_poll_at_one_worker_wakes_for_a_switch_through_the_other(served: tuple[Member, Pair]) -> None:
    running, pair = served
    await live(pair, "w/wake")
    follow = agent_pb2.Follow(workflow="w/wake", generation=1)
    request = agent_pb2.PollRequest(agent="edge-1", epoch=1, follows=[follow], wait_ms=20_000)
    polls = [asyncio.ensure_future(each.agents.Poll(request, timeout=RPC_S)) for each in pair]
    poll = Poll(agent="edge-2", epoch=1, follows=(Holding(workflow="w/wake", generation=1),), wait_ms=20_000)
    body = json.encode(poll)
    head = b"POST /v1/poll HTTP/1.1\r\nhost: m\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    http = [asyncio.ensure_future(answer(running.http, head + body)) for _ in range(4)]
    await running.until_metric("registry_polls_waiting", 6)
    await pair[1].switch("w/wake", 2)
    assert [reply.instructions[0].generation for reply in await asyncio.gather(*polls)] == [2, 2]
    for reply in await asyncio.gather(*http):
        told = json.decode(reply.partition(b"\r\n\r\n")[2].partition(b"\n")[0], type=PollReply)
        assert [each.generation for each in told.instructions] == [2]


async def test_a_watch_at_one_worker_shows_each_change_through_the_other(served: tuple[Member, Pair]) -> None:
    _, pair = served
    await live(pair, "w/watch")
    watch = pair[0].registry.Watch(registry_pb2.WatchRequest(workflows=["w/watch"]), timeout=RPC_S)
    await watch.read()
    seen: list[int] = []
    for generation in range(2, 12):
        await pair[1].switch("w/watch", 1 + generation % 2)
        while len(seen) < generation - 1:
            seen += [change.revision for change in (await watch.read()).changes]
    watch.cancel()
    assert seen == sorted(set(seen))


async def test_acks_and_what_the_fleet_shows_of_them(served: tuple[Member, Pair]) -> None:
    _, pair = served
    await live(pair, "w/acks")
    acks = [
        agent_pb2.Ack(
            agent=f"edge-{n}",
            incarnation="i1",
            sequence=1,
            workflow="w/acks",
            pointer="active",
            generation=1,
            phase="confirmed",
        )
        for n in range(40)
    ]
    requests = [agent_pb2.AcknowledgeRequest(acks=[ack]) for ack in acks]
    await asyncio.gather(*(pair[n % 2].agents.Acknowledge(each, timeout=RPC_S) for n, each in enumerate(requests)))
    listed = registry_pb2.ListAgentsRequest(workflow="w/acks")
    for each in pair:
        assert len((await each.registry.ListAgents(listed, timeout=RPC_S)).agents) == 40


async def test_what_only_the_member_can_do_is_passed_on(served: tuple[Member, Pair], tmp_path: Path) -> None:
    running, pair = served
    for each in pair:
        status = await each.cluster.GetStatus(cluster_pb2.GetStatusRequest(), timeout=RPC_S)
        assert (status.role, status.leader_name, len(status.members)) == ("leader", "n1", 1)
        error = await failed(each.cluster.RemoveMember(cluster_pb2.RemoveMemberRequest(member="n9"), timeout=RPC_S))
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MEMBER")
        size_bytes = 0
        async for message in each.cluster.Backup(cluster_pb2.BackupRequest(), timeout=RPC_S):
            size_bytes += len(message.data)
        assert message.end.size_bytes == size_bytes > 0
        scrubbed = [message async for message in each.cluster.Scrub(cluster_pb2.ScrubRequest(), timeout=RPC_S)]
        assert (scrubbed[-1].done, list(scrubbed[-1].damage)) == (True, [])
    await running.until_metric('registry_call_seconds_count{code="OK",method="GetStatus"}', 2)


async def test_a_compaction_while_both_serve(served: tuple[Member, Pair]) -> None:
    running, pair = served
    await live(pair, "w/compact")
    stop = asyncio.Event()

    async def goes_on(writer: Served, reader: Served, workflow: str) -> int:
        number = 0
        while not stop.is_set():
            number += 1
            await writer.publish(workflow, b"%d" % number)
            await writer.switch(workflow, number)
            assert (await reader.pointer(workflow)).version == number
        return number

    going = [
        asyncio.ensure_future(goes_on(pair[0], pair[1], "w/going-1")),
        asyncio.ensure_future(goes_on(pair[1], pair[0], "w/going-2")),
    ]
    for each in (*pair, pair[0]):
        replies = [reply async for reply in each.cluster.Compact(cluster_pb2.CompactRequest(), timeout=RPC_S)]
        assert replies[-1].done
    stop.set()
    assert min(await asyncio.gather(*going)) > 1
    assert (await pair[1].pointer("w/compact")).generation == 1
    await until(lambda: not any(holds_deleted(pid) for pid in running.workers))


async def test_a_purge_is_forgotten_by_every_worker(served: tuple[Member, Pair]) -> None:
    _, pair = served
    for content in (b"one", b"a key"):
        await pair[0].publish("w/purge", content)
    wanted = registry_pb2.GetContentRequest(workflow="w/purge", reference="2")
    for each in pair:
        assert (await each.registry.GetContent(wanted, timeout=RPC_S)).content == b"a key"
    parsers = [pid for each in pair for pid in children(each.pid) if b"inspect_worker" in command(pid)]
    assert len(parsers) == 2
    purge = registry_pb2.PurgeRequest(workflow="w/purge", reference="2", reason="a key was in it")
    await pair[0].registry.Purge(purge, timeout=RPC_S)
    for each in pair:
        assert (await failed(each.registry.GetContent(wanted, timeout=RPC_S))).reason == "CONTENT_REMOVED"
    await until(lambda: not any(map(runs, parsers)))  # what they have parsed is in their memory
    assert (await pair[1].publish("w/purge", b"three")).version.number == 3


async def test_each_process_says_the_same_of_all_of_them(served: tuple[Member, Pair]) -> None:
    running, pair = served
    count = 'registry_call_seconds_count{code="OK",method="Mark"}'
    assert await running.metric(count) == 0
    await live(pair, "w/metrics")
    for status in ("stable", "candidate", "stable", "candidate", "stable"):
        mark = registry_pb2.MarkRequest(workflow="w/metrics", reference="2", status=status, reason="test")
        await pair[status == "stable"].registry.Mark(mark, timeout=RPC_S)
    for _ in range(6):  # whichever answers; the other one's are added within a beat
        await running.until_metric(count, 5)
        assert await running.metric("registry_workers") == 2
        assert (await answer(running.http, get("/livez"))).endswith(b"\r\n\r\nalive\n")


async def test_workers_keep_secrets_off_the_disk_and_end_with_a_killed_member(tmp_path: Path) -> None:
    async with member(tmp_path) as running:
        await running.ready()
        pids = running.workers
        assert len(pids) == 2
        assert {resource.prlimit(pid, resource.RLIMIT_CORE) for pid in pids} == {(0, 0)}
        running.process.kill()
        await running.process.wait()
        await until(lambda: not any(map(runs, pids)))


async def test_sigterm_lets_the_calls_of_workers_end_and_exits_0(tmp_path: Path) -> None:
    async with member(tmp_path) as running:
        await running.ready()
        pids = running.workers
        async with through_each(running) as pair:
            await live(pair, "a/b")
            poll = agent_pb2.PollRequest(agent="edge-1", wait_ms=60_000)
            polls = [asyncio.ensure_future(each.agents.Poll(poll, timeout=RPC_S)) for each in pair]
            stale = registry_pb2.GetVersionRequest(workflow="a/b", stale=True)
            await asyncio.gather(*(each.registry.GetVersion(stale, timeout=RPC_S) for each in pair))
            switches = [asyncio.ensure_future(pair[n % 2].switch("a/b", 1 + n % 2)) for n in range(20)]
            await switches[0]
            running.process.send_signal(signal.SIGTERM)
            assert [list((await each).instructions) for each in polls] == [[], []]
            results = await asyncio.gather(*switches, return_exceptions=True)
        assert await running.ended() == 0
        assert not any(map(runs, pids))
        assert running.said("worker ended, another one is started") == []
    done = [result for result in results if isinstance(result, registry_pb2.SwitchResponse)]
    async with member(tmp_path, workers="0") as again:
        await again.ready()
        async with connect(again.api, None) as channel:
            assert (await Served(channel, 0).pointer("a/b")).generation >= 1 + len(done)


async def test_sigterm_while_a_worker_does_not_come_up_exits_0(tmp_path: Path) -> None:
    async with member(tmp_path) as running:
        await until(lambda: len(running.workers) == 2)
        pids = running.workers
        os.kill(pids[0], signal.SIGSTOP)
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
        assert not any(map(runs, pids))
        assert (running.said("started"), len(running.said("stopped"))) == ([], 1)


async def test_a_worker_killed_under_load_costs_its_clients_one_reconnect(tmp_path: Path) -> None:
    async with member(tmp_path) as running:
        await running.ready()
        victim, other = running.workers
        clients = 8
        async with through_each(running) as pair:
            for n in range(clients):
                await live(pair, f"load/{n}")
        losses, acknowledged = [0] * clients, [1] * clients
        stop = asyncio.Event()

        async def load(number: int) -> None:
            options = (*OWN_CONNECTION, ("grpc.min_reconnect_backoff_ms", 50))
            async with grpc.aio.insecure_channel(running.api, options=options) as channel:
                client = Served(channel, 0)
                while not stop.is_set():
                    move = registry_pb2.Move(workflow=f"load/{number}", target=str(1 + acknowledged[number] % 2))
                    request = registry_pb2.SwitchRequest(moves=[move], reason="test", request_id=new_request_id())
                    while True:
                        try:
                            reply = await client.registry.Switch(request, timeout=RPC_S, wait_for_ready=True)
                            break
                        except grpc.aio.AioRpcError as error:
                            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                                raise
                            losses[number] += 1
                    acknowledged[number] = reply.pointers[0].generation

        loads = [asyncio.ensure_future(load(number)) for number in range(clients)]
        await until(lambda: min(acknowledged) > 5)
        os.kill(victim, signal.SIGKILL)
        at = list(acknowledged)
        await until(lambda: all(now > then + 5 for now, then in zip(acknowledged, at, strict=True)))
        stop.set()
        await asyncio.gather(*loads)
        await running.until("worker started", times=3)  # a process that starts needs its share of the cores
        # Who comes back while the kernel still closes the victim's sockets may reach the one that listens once more.
        assert max(losses) <= 2
        assert sum(losses) <= clients
        assert other in running.workers
        async with through_each(running) as pair:
            for each in pair:
                generations = [(await each.pointer(f"load/{n}")).generation for n in range(clients)]
                assert generations == acknowledged, "each took effect once, and none is lost"
        assert await running.metric('registry_workers_ended_total{reason="signal"}') == 1
        (said,) = running.said("worker ended, another one is started")
        assert (said["why"], said["worker"]) == ("signal 9", 1 if victim < other else 2)


async def test_a_worker_that_hangs_is_killed_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WORKER_SILENT_S", 0.7)
    async with members(tmp_path, workers=1) as (peer,):
        workers = peer.member._workers
        assert workers is not None
        (hung,) = workers._running
        os.kill(hung.process.pid, signal.SIGSTOP)
        await until(lambda: workers.ended["killed"] == 1 and workers.gauges()["registry_workers"][1] == 1)
        await until_ready(peer.member.http_address)
        assert hung.why == "it gives no sign of life"
        environment = peer.member._environment
        assert isinstance(environment, SharedEnvironment)
        assert environment.free_readers() == 0, "what it held of the file is free again"


async def test_a_port_that_is_in_use_is_named_also_where_workers_share_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, said = await refused(tmp_path, listen=address, workers="2")
        hint = "stop what listens there, or choose another address"
        assert (code, said) == (EXIT_START, f"error: --listen {address}: cannot bind: Address already in use; {hint}\n")


async def test_a_state_that_is_fetched_while_the_worker_serves(tmp_path: Path) -> None:
    """It waits to be admitted, says so, then knows everything: its worker has followed it to the fetched file."""
    first = {"listen": f"127.0.0.1:{free_port()}", "peer-listen": f"127.0.0.1:{free_port()}", "workers": "1"}
    async with member(tmp_path / "n1", **first) as leader:
        await leader.ready()
        async with connect(leader.api, None) as channel:
            client = Served(channel, 0)
            await live((client, client), "a/b")
            join = {"name": "edge", "join": first["peer-listen"], "workers": "1"}
            async with member(tmp_path / "edge", "--observer", **join) as edge:
                api = (await edge.until("started"))["api"]
                edge.http = edge.said("started")[0]["http"]
                assert b"waiting to be admitted" in await answer(edge.http, get("/readyz"))
                async with connect(api, None) as its:
                    observer = Served(its, 0)
                    refusal = await failed(observer.pointer("a/b"))
                    assert refusal.reason == "NOT_ADMITTED"
                    add = cluster_pb2.AddMemberRequest(member="edge")
                    await client.cluster.AddMember(add, timeout=RPC_S)
                    await until_ready(edge.http)
                    assert (await observer.pointer("a/b")).generation == 1
                    for target in (2, 1, 2):
                        generation = (await observer.switch("a/b", target)).pointers[0].generation
                        assert (await client.pointer("a/b")).generation == generation
                        assert (await observer.pointer("a/b")).generation == generation


async def test_over_tls(tmp_path: Path) -> None:
    made = certificates(tmp_path)
    assert made.cert is not None
    assert made.key is not None
    assert made.ca is not None
    files = Tls(Path(made.cert), Path(made.key), Path(made.ca))
    flags = {"tls-cert": made.cert, "tls-key": made.key, "tls-ca": made.ca}
    async with member(tmp_path / "n1", workers="1", **flags) as running:
        await running.until("started")
        await running.until("ready")
        api = running.said("started")[0]["api"].replace("127.0.0.1", "localhost")
        async with connect(api, files) as channel:
            client = Served(channel, 0)
            await live((client, client), "a/b")
            assert (await client.pointer("a/b")).generation == 1


def holds_deleted(pid: int) -> bool:
    """Whether a process has a database mapped that is not there any more."""
    return any("data.mdb (deleted)" in line for line in Path(f"/proc/{pid}/maps").read_text().splitlines())

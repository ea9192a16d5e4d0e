"""Three real members: any of them serves any call, and says so when it cannot."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from registry.core import request_ids
from registry.server.inspector import Inspector
from registry.v1 import agent_pb2, cluster_pb2, registry_pb2
from tests.integration.server_kit import RPC_S, Peer, answer, failed, free_port, get, members, start_member, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def three(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Peer]]:
    async with members(tmp_path_factory.mktemp("three"), 3) as peers:
        await until(lambda: all(each.alive for peer in peers for each in peer.member.cluster.status().peers))
        yield peers


def leader_of(peers: list[Peer]) -> Peer:
    return next(peer for peer in peers if peer.leads)


def followers_of(peers: list[Peer]) -> list[Peer]:
    return [peer for peer in peers if not peer.leads]


async def test_they_found_one_cluster(three: list[Peer]) -> None:
    assert len({peer.member.feed.registry.cluster_id for peer in three}) == 1
    assert {peer.member.feed.registry.revision for peer in three} == {1}


async def test_a_follower_hands_writes_to_the_leader(three: list[Peer]) -> None:
    for number, peer in enumerate(three, start=1):
        reply = await peer.publish("any/member", b"%d" % number)
        assert reply.version.number == number
        assert reply.info.served_by == f"n{number}"
        assert reply.info.leader == leader_of(three).member.api_address


async def test_reads_through_a_follower_show_the_newest_switch(three: list[Peer]) -> None:
    leader, follower = leader_of(three), followers_of(three)[0]
    await leader.publish("fresh/one", b"1")
    await leader.publish("fresh/one", b"2")
    for number in range(50):
        moved = (await leader.switch("fresh/one", 1 + number % 2)).pointers[0]
        assert await follower.pointer("fresh/one") == moved


async def test_a_poll_at_a_follower_wakes_when_the_leader_switches(three: list[Peer]) -> None:
    leader, follower = leader_of(three), followers_of(three)[0]
    await leader.publish("fresh/poll", b"1")
    request = agent_pb2.PollRequest(
        agent="edge-1", epoch=1, wait_ms=20_000, follows=[agent_pb2.Follow(workflow="fresh/poll")]
    )
    poll = asyncio.ensure_future(follower.agents.Poll(request, timeout=30))
    await until(lambda: follower.member.hub.waiting == 1)
    switched = await leader.switch("fresh/poll", 1)
    instruction = (await poll).instructions[0]
    assert instruction.generation == 1
    content = await followers_of(three)[1].registry.GetContent(
        registry_pb2.GetContentRequest(workflow="fresh/poll", stale=True, min_revision=instruction.min_revision),
        timeout=RPC_S,
    )
    assert content.content == b"1"
    assert content.info.revision >= switched.info.revision


async def test_status_shows_every_member(three: list[Peer]) -> None:
    addresses = {f"n{number}": peer.member.api_address for number, peer in enumerate(three, start=1)}
    for peer in three:
        status = await peer.cluster.GetStatus(cluster_pb2.GetStatusRequest(), timeout=RPC_S)
        assert {member.name: member.address for member in status.members} == addresses
        assert sorted(member.role for member in status.members) == ["leader", "voter", "voter"]
        assert all(member.alive for member in status.members)


async def test_a_leader_that_stops_hands_over_and_the_others_go_on(tmp_path: Path) -> None:
    async with members(tmp_path, 3) as peers:
        leader, others = leader_of(peers), followers_of(peers)
        await leader.publish("hand/over", b"1")
        await leader.member.stop()
        moved = await others[0].switch("hand/over", 1)
        assert moved.pointers[0].generation == 1
        assert any(peer.leads for peer in others)
        status = await others[0].cluster.GetStatus(cluster_pb2.GetStatusRequest(), timeout=RPC_S)
        assert status.info.leader in {peer.member.api_address for peer in others}


async def test_a_member_alone_of_three_says_no_quorum(tmp_path: Path) -> None:
    cluster = {name: f"127.0.0.1:{free_port()}" for name in ("n1", "n2", "n3")}
    async with AsyncExitStack() as stack:
        inspector = await stack.enter_async_context(Inspector())
        alone = await start_member(stack, tmp_path, "n1", cluster, inspector)
        assert not alone.member.ready
        assert (await answer(alone.member.http_address, get("/readyz"))).startswith(b"HTTP/1.1 503 ")
        assert (await answer(alone.member.http_address, get("/livez"))).startswith(b"HTTP/1.1 200 ")
        request = registry_pb2.PublishRequest(workflow="no/quorum", content=b"{}")
        error = await failed(alone.registry.Publish(request, timeout=0.5))
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_QUORUM")
        assert "nothing was done" in error.message
        read = registry_pb2.GetPointerRequest(workflow="no/quorum")
        assert (await failed(alone.registry.GetPointer(read, timeout=0.5))).reason == "NO_QUORUM"
        read.stale = True
        assert (await failed(alone.registry.GetPointer(read, timeout=0.5))).reason == "WORKFLOW_NOT_FOUND"
        status = await alone.cluster.GetStatus(cluster_pb2.GetStatusRequest(), timeout=RPC_S)
        assert (status.leader_name, status.info.leader) == ("", "")
        assert [(member.role, member.alive) for member in status.members] == [
            ("voter", True),
            ("voter", False),
            ("voter", False),
        ]


async def test_without_a_majority_a_taken_write_is_unknown_and_stale_reads_show_their_age(tmp_path: Path) -> None:
    async with members(tmp_path, 3) as peers:
        leader, others = leader_of(peers), followers_of(peers)
        await leader.publish("cut/off", b"1")
        await leader.switch("cut/off", 1)
        for other in others:
            await other.member.cluster.stop(handover_s=0)
        move = registry_pb2.Move(workflow="cut/off", target="1")
        error = await failed(leader.registry.Switch(registry_pb2.SwitchRequest(moves=[move], reason="x"), timeout=0.5))
        assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "OUTCOME_UNKNOWN")
        request_ids.check(error.metadata["request_id"])
        await until(lambda: not leader.member.ready)
        read = registry_pb2.GetPointerRequest(workflow="cut/off", stale=True)
        ages = []
        while not ages or ages[-1] == 0:
            reply = await leader.registry.GetPointer(read, timeout=RPC_S)
            assert (reply.pointer.generation, reply.info.stale) == (1, True)
            ages.append(reply.info.age_ms)
        read.stale = False
        assert (await failed(leader.registry.GetPointer(read, timeout=0.5))).reason == "NO_QUORUM"


def certificates(path: Path) -> dict[str, str]:
    """An authority and one certificate of it, for every member and client of a test."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=path, check=True, capture_output=True)

    path.mkdir()
    (path / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=authority")
    openssl("req", *key, "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=member")
    openssl(
        *("x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-days", "2", "-extfile", "names", "-out", "cert.pem"),
    )
    return {
        "tls_cert": str(path / "cert.pem"),
        "tls_key": str(path / "key.pem"),
        "tls_ca": str(path / "ca.pem"),
    }


async def test_with_tls_members_and_clients_prove_themselves(tmp_path: Path) -> None:
    files = certificates(tmp_path / "tls")
    async with members(tmp_path, 3, **files) as peers:
        for peer in peers:
            await peer.publish("tls/one", peer.member.api_address.encode())
        address = peers[0].member.api_address
        authority = grpc.ssl_channel_credentials((tmp_path / "tls" / "ca.pem").read_bytes())
        for channel in (grpc.aio.insecure_channel(address), grpc.aio.secure_channel(address, authority)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/registry.v1.ClusterService/GetStatus")(b"", timeout=2)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            await channel.close()
        probe = await asyncio.create_subprocess_exec(
            *("openssl", "s_client", "-connect", peers[0].member.http_address, "-CAfile", files["tls_ca"]),
            *("-verify_return_error", "-quiet"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        output, _ = await probe.communicate(b"GET /readyz HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n")
        assert output.startswith(b"HTTP/1.1 200 OK")

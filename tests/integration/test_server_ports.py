"""What anybody can send to a member's ports, and what operators read there."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from registry.server import limits
from registry.v1 import agent_pb2
from tests.integration.server_kit import RPC_S, Peer, answer, failed, get, members, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def peer(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Peer]:
    async with members(tmp_path_factory.mktemp("member")) as (only,):
        yield only


async def test_probes_and_metrics(peer: Peer) -> None:
    http = peer.member.http_address
    assert (await answer(http, get("/livez"))).startswith(b"HTTP/1.1 200 OK\r\n")
    assert (await answer(http, get("/readyz?verbose"))).endswith(b"\r\n\r\nready\n")
    await peer.publish("ports/metrics", b"{}")
    text = (await answer(http, get("/metrics"))).decode()
    assert 'registry_peer_connections_closed_total{reason="tls"} 0.0' in text
    for line in (
        'registry_call_seconds_count{code="OK",method="Publish"} 1.0',
        'registry_proposals_total{kind="publish",result="done"} 1.0',
        "registry_raft_is_leader 1.0",
        "registry_ready 1.0",
        f"registry_revision {float(peer.revision)}",
    ):
        assert line in text
    assert "registry_database_bytes" in text


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (get("/"), 404),
        (get("/livez", "POST"), 405),
        (b"\x16\x03\x01\x00\xf4 tls", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nhost: m\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n", 200),
        (b"GET /livez HTTP/1.1\r\nhost: m\r\ncontent-length: 3\r\n\r\nabc", 413),
        (b"GET /" + b"a" * (limits.HTTP_HEAD_BYTES + 1), 431),
        (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * limits.HTTP_HEAD_BYTES, 431),
    ],
)
async def test_odd_requests_get_a_short_no(peer: Peer, data: bytes, status: int) -> None:
    reply = await answer(peer.member.http_address, data)
    assert reply.startswith(f"HTTP/1.1 {status} ".encode())
    assert len(reply) < 1000


async def test_requests_follow_each_other_on_one_connection(peer: Peer) -> None:
    head = get("/livez", "HEAD").replace(b"connection: close\r\n", b"")
    reply = await answer(peer.member.http_address, head + get("/livez"))
    assert reply.count(b"HTTP/1.1 200 OK") == 2
    assert reply.count(b"alive\n") == 1


async def test_a_client_that_says_nothing_is_let_go(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_IDLE_S", 0.05)
    assert await answer(peer.member.http_address, b"GET /li") == b""


async def test_a_client_that_reads_nothing_is_cut_off(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_UNREAD_BYTES", 10_000)
    host, _, port = peer.member.http_address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    request = get("/metrics").replace(b"connection: close\r\n", b"")

    async def ask_on_and_on() -> None:
        while True:
            writer.write(request * 20)
            await writer.drain()

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(ask_on_and_on(), RPC_S)
    writer.close()


async def test_connections_are_bounded(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_CONNECTIONS", 0)
    assert (await answer(peer.member.http_address, b"")).startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("port", ["api", "peer", "http"])
async def test_random_bytes_do_not_hurt(peer: Peer, port: str) -> None:
    addresses = {
        "api": peer.member.api_address,
        "http": peer.member.http_address,
        "peer": peer.member.cluster.status().peers[0].member.peer_address,
    }
    rng = random.Random(7)
    for size in (1, 9, 100, 5000, 100_000):
        host, _, number = addresses[port].rpartition(":")
        _, writer = await asyncio.open_connection(host, int(number))
        try:
            writer.write(rng.randbytes(size))
            await writer.drain()
        except ConnectionError:
            pass
        writer.close()
    version = (await peer.publish("ports/alive", b"%d" % rng.randrange(10**9), kind="text")).version
    assert version.number > 0
    assert peer.member.ready


async def test_garbage_instead_of_a_message_is_refused(peer: Peer) -> None:
    call = peer.channel.unary_unary("/registry.v1.RegistryService/Publish")
    error = await failed(call(b"\xff\xff\xff", timeout=RPC_S))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await peer.channel.unary_unary("/registry.v1.RegistryService/Nothing")(b"", timeout=RPC_S)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert peer.member.ready


async def test_health_and_reflection(peer: Peer) -> None:
    health = health_pb2_grpc.HealthStub(peer.channel)
    for service in ("", "registry.v1.RegistryService", "registry.v1.AgentService", "registry.v1.ClusterService"):
        request = health_pb2.HealthCheckRequest(service=service)
        watch = health.Watch(request, timeout=RPC_S)  # it follows readiness, a moment later
        async for told in watch:
            if told.status == health_pb2.HealthCheckResponse.SERVING:
                break
        watch.cancel()
        reply = await health.Check(request, timeout=RPC_S)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    stream = reflection_pb2_grpc.ServerReflectionStub(peer.channel).ServerReflectionInfo()
    await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = {service.name for service in (await stream.read()).list_services_response.service}
    stream.cancel()
    assert {"registry.v1.RegistryService", "registry.v1.AgentService", "registry.v1.ClusterService"} <= listed


async def test_stopping_refuses_new_calls_and_lets_waiting_ones_go(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with members(tmp_path_factory.mktemp("stopping")) as (leaving,):
        poll = asyncio.ensure_future(
            leaving.agents.Poll(agent_pb2.PollRequest(agent="edge-1", wait_ms=60_000), timeout=60)
        )
        await until(lambda: leaving.member.hub.waiting == 1)
        health = health_pb2_grpc.HealthStub(leaving.channel).Watch(health_pb2.HealthCheckRequest())
        while (await health.read()).status != health_pb2.HealthCheckResponse.SERVING:
            pass
        stopping = asyncio.ensure_future(leaving.member.stop())
        assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not leaving.member.ready
        assert not (await poll).instructions
        await stopping

"""Real members on real sockets, in the test's own process, and what tests say to them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from cluster import journal
from cluster.kv.lmdb_env import LmdbEnvironment
from registry.cli.local_cluster import free_ports
from registry.core import request_ids
from registry.server import config as configs
from registry.server import tls
from registry.server.identity import DataDirectory
from registry.server.inspector import Inspector
from registry.server.main import _open_cluster
from registry.server.member import RegistryMember
from registry.store import tables
from registry.v1 import agent_pb2_grpc, cluster_pb2_grpc, registry_pb2, registry_pb2_grpc

WAIT_S = 20.0
RPC_S = 10.0
WORKERS = int(
    os.environ.get("REGISTRY_WORKERS", "0")
)  # of members in the test's process: the same tests pass with some


def small_disk(size_bytes: int) -> tuple[str, ...]:
    """What starts a command whose files may not grow past this: the same writes fail as on a full disk. Through a
    shell, since a function to run in the child would make it fork, and gRPC's threads do not survive that."""
    return ("sh", "-c", f'ulimit -f {size_bytes // 512}; exec "$@"', "sh")


def free_port() -> int:
    (port,) = free_ports(1)
    return port


async def until(condition: Callable[[], Any], timeout_s: float = WAIT_S) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition never came"
        await asyncio.sleep(0.005)


def connect(address: str, files: configs.Tls | None) -> grpc.aio.Channel:
    if files is None:
        return grpc.aio.insecure_channel(address)
    credentials = grpc.ssl_channel_credentials(files.ca.read_bytes(), files.key.read_bytes(), files.cert.read_bytes())
    return grpc.aio.secure_channel(address, credentials)


class Peer:
    """A member and stubs that talk to it over its port."""

    def __init__(self, member: RegistryMember, channel: grpc.aio.Channel) -> None:
        self.member = member
        self.channel = channel
        self.registry: Any = registry_pb2_grpc.RegistryServiceStub(channel)  # type: ignore[no-untyped-call]
        self.agents: Any = agent_pb2_grpc.AgentServiceStub(channel)  # type: ignore[no-untyped-call]
        self.cluster: Any = cluster_pb2_grpc.ClusterServiceStub(channel)  # type: ignore[no-untyped-call]

    @property
    def leads(self) -> bool:
        status = self.member.cluster.status()
        return status.leader == status.id

    @property
    def revision(self) -> int:
        """With everything that callers were told."""
        self.member.cluster.show()
        return self.member.feed.registry.revision

    async def publish(self, workflow: str, content: bytes, **fields: Any) -> registry_pb2.PublishResponse:
        reply: registry_pb2.PublishResponse = await self.registry.Publish(
            registry_pb2.PublishRequest(workflow=workflow, content=content, **fields), timeout=RPC_S
        )
        return reply

    async def switch(
        self, workflow: str, target: int | str, *, expect: int | None = None, pointer: str = "", reason: str = "test"
    ) -> registry_pb2.SwitchResponse:
        move = registry_pb2.Move(workflow=workflow, target=str(target), pointer=pointer, expected_generation=expect)
        reply: registry_pb2.SwitchResponse = await self.registry.Switch(
            registry_pb2.SwitchRequest(moves=[move], reason=reason), timeout=RPC_S
        )
        return reply

    async def pointer(self, workflow: str, pointer: str = "", *, stale: bool = False) -> registry_pb2.Pointer:
        reply = await self.registry.GetPointer(
            registry_pb2.GetPointerRequest(workflow=workflow, pointer=pointer, stale=stale), timeout=RPC_S
        )
        answer: registry_pb2.Pointer = reply.pointer
        return answer


async def start_member(
    stack: AsyncExitStack, path: Path, name: str, cluster: dict[str, str], inspector: Inspector, **options: Any
) -> Peer:
    config = configs.build(
        **{
            "name": name,
            "data_dir": str(path / name),
            "listen": "127.0.0.1:0",
            "peer_listen": cluster[name],
            "http_listen": "127.0.0.1:0",
            "cluster": ",".join(f"{each}={address}" for each, address in cluster.items()),
            "workers": WORKERS,
        }
        | options
    )
    directory = DataDirectory(config.data_dir)
    stack.callback(directory.close)
    identity = directory.identify(
        name=name, founding=config.founding, own_peer_address=cluster[name], incarnation=os.urandom(8).hex()
    )
    environment = LmdbEnvironment(config.data_dir / "db", (*tables.TABLES, *journal.TABLES))
    stack.callback(environment.close)
    peer_tls = None if config.tls is None else tls.peers(config.tls)
    member = RegistryMember(
        config,
        environment=environment,
        inspector=inspector,
        open_cluster=partial(_open_cluster, config, identity, peer_tls, environment),
    )
    await member.start()
    stack.push_async_callback(member.stop)
    channel = connect(member.api_address, config.tls)
    stack.push_async_callback(channel.close)
    return Peer(member, channel)


@asynccontextmanager
async def members(path: Path, count: int = 1, **options: Any) -> AsyncIterator[list[Peer]]:
    """So many members of one cluster, ready."""
    cluster = {f"n{number}": f"127.0.0.1:{free_port()}" for number in range(1, count + 1)}
    async with AsyncExitStack() as stack:
        inspector = await stack.enter_async_context(Inspector())
        peers = [await start_member(stack, path, name, cluster, inspector, **options) for name in cluster]
        await until(lambda: all(peer.member.ready for peer in peers))
        yield peers


async def answer(address: str, data: bytes) -> bytes:
    """All that comes back until the other side closes."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(), RPC_S)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n".encode()


class Failed:
    """A failed call: its code and its ErrorInfo."""

    def __init__(self, code: grpc.StatusCode | int, status: status_pb2.Status) -> None:
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        assert info.domain == "workflow-registry"
        self.code = code
        self.message = status.message
        self.reason = info.reason
        self.metadata = dict(info.metadata)


async def failed(call: Awaitable[Any]) -> Failed:
    """How the call failed; a call that succeeds fails the test."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    details = dict(caught.value.trailing_metadata() or ())
    status = status_pb2.Status.FromString(details["grpc-status-details-bin"])
    assert status.message == caught.value.details()
    return Failed(caught.value.code(), status)


def new_request_id(ahead_ms: int = 0) -> str:
    return request_ids.make(time.time_ns() // 1_000_000 + ahead_ms, os.urandom(request_ids.RANDOM_BYTES))

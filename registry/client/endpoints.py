"""The members a client knows: given, learned from replies and from GetStatus. Which one to ask next."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from registry.client import limits, values
from registry.client.coalesce import Batcher
from registry.client.failures import AttemptError, Failure
from registry.core.errors import Invalid, Reason, Unavailable
from registry.core.limits import MESSAGE_BYTES
from registry.v1 import (
    agent_pb2_grpc,
    cluster_pb2,
    cluster_pb2_grpc,
    fleet_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    # a dead member must be noticed, and its return too, far sooner than by gRPC's defaults
    ("grpc.initial_reconnect_backoff_ms", limits.RECONNECT_FIRST_MS),
    ("grpc.min_reconnect_backoff_ms", limits.CONNECT_TIMEOUT_MS),  # in fact the time a connection may take
    ("grpc.max_reconnect_backoff_ms", limits.RECONNECT_MAX_MS),
    ("grpc.keepalive_time_ms", limits.KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", limits.KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.max_pings_without_data", 0),  # unbounded: a waiting poll carries no data
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),  # members are reached directly, whatever the shell's environment says
    ("grpc.enable_retries", 0),  # retries are ours: with request ids, on other members
)
_SETTLED = frozenset(
    {
        grpc.ChannelConnectivity.READY,
        grpc.ChannelConnectivity.TRANSIENT_FAILURE,
        grpc.ChannelConnectivity.SHUTDOWN,
    }
)


class Endpoint:
    """One member's API address: its connection, made on first use, and its batches."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None) -> None:
        self.address = address
        self.failed_at = -math.inf  # monotonic time of the newest failure; -inf: none since the newest success
        self._channel = (
            grpc.aio.insecure_channel(address, options=_OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, options=_OPTIONS)
        )
        self.registry: Any = registry_pb2_grpc.RegistryServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self.agents: Any = agent_pb2_grpc.AgentServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self.cluster: Any = cluster_pb2_grpc.ClusterServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self.fleet: Any = fleet_pb2_grpc.FleetServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self.batcher = Batcher(self.registry)
        self._connecting: asyncio.Task[None] | None = None

    async def connect(self, timeout_s: float) -> float:
        """The seconds left once it is connected, or known to refuse: then the call itself fails at once and says
        why. Raises AttemptError, certain that nothing was sent, when timeout_s passes without either."""
        if self._connecting is None or self._connecting.done():
            if self._channel.get_state(try_to_connect=True) in _SETTLED:
                return timeout_s
            self._connecting = asyncio.get_running_loop().create_task(self._settle())
        deadline = time.monotonic() + timeout_s
        await asyncio.wait({self._connecting}, timeout=timeout_s)
        if (left_s := deadline - time.monotonic()) <= 0:
            silent = Unavailable(Reason.NO_MEMBER, f"no connection within {timeout_s:.1f} s")
            raise AttemptError(Failure(silent, executed=False))
        return left_s

    async def _settle(self) -> None:
        while (state := self._channel.get_state(try_to_connect=True)) not in _SETTLED:
            await self._channel.wait_for_state_change(state)

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        await self.batcher.close()
        await self._channel.close(None)


class Endpoints:
    """Addresses in the order to try them: the leader first where that saves a hop, else the least recently failed.

    Raises Invalid for an address that is not HOST:PORT.
    """

    def __init__(self, addresses: Sequence[str], *, tls: values.TlsConfig | None, rng: random.Random) -> None:
        if not addresses:
            raise Invalid(Reason.INVALID_REQUEST, "no endpoint given", hint="name at least one member as HOST:PORT")
        self._credentials = None if tls is None else _credentials(tls)
        self._given = list(dict.fromkeys(check_address(address) for address in addresses))
        rng.shuffle(self._given)  # so that many clients do not all read from the first
        self._known: dict[str, Endpoint] = {}
        self._rotation = self._given
        self._leader = ""
        self._learn_at = -math.inf
        self._learning: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(self._rotation)

    @property
    def leader(self) -> str:
        """Address of the leader as the newest reply named it; empty: not known."""
        return self._leader

    def next(self, tried: set[str], *, leader_first: bool) -> Endpoint | None:
        """The best member that is not in `tried`; None: all were. Raises Unavailable once closed."""
        if self._closed:
            raise Unavailable(Reason.NO_MEMBER, "this client is closed", hint="make a new one")
        now = time.monotonic()
        if leader_first and self._leader and self._leader not in tried:
            leader = self.at(self._leader)
            if now - leader.failed_at > limits.LEADER_DISTRUST_S:
                return leader
        left = [self.at(address) for address in self._rotation if address not in tried]
        return min(left, key=lambda endpoint: endpoint.failed_at, default=None)

    def at(self, address: str) -> Endpoint:
        if address not in self._known:
            self._known[address] = Endpoint(address, self._credentials)
        return self._known[address]

    def answered(self, endpoint: Endpoint, info: registry_pb2.ReplyInfo) -> None:
        endpoint.failed_at = -math.inf
        if info.leader:
            self._leader = info.leader
            if info.leader not in self._rotation:
                self._learn([info.leader])
        if time.monotonic() >= self._learn_at:
            self._learn_at = math.inf
            self._learning = asyncio.get_running_loop().create_task(self._ask_for_members(endpoint))

    def failed(self, endpoint: Endpoint) -> None:
        now = time.monotonic()
        endpoint.failed_at = now
        self._learn_at = min(self._learn_at, now + limits.LEARN_AGAIN_S)
        if self._leader == endpoint.address:
            self._leader = ""

    async def _ask_for_members(self, endpoint: Endpoint) -> None:
        try:
            status = await endpoint.cluster.GetStatus(cluster_pb2.GetStatusRequest(), timeout=limits.STATUS_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            self._learn_at = time.monotonic() + limits.LEARN_AGAIN_S
            return
        self._rotation = self._given
        self._learn([member.address for member in status.members if member.address])

    def _learn(self, addresses: list[str]) -> None:
        merged = dict.fromkeys([*self._rotation, *addresses])
        self._rotation = list(merged)[: max(limits.MEMBERS, len(self._given))]

    async def close(self) -> None:
        self._closed = True
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.gather(self._learning, return_exceptions=True)
        await asyncio.gather(*(endpoint.close() for endpoint in self._known.values()))


def check_address(address: str) -> str:
    """`address` without surrounding blanks, if it is HOST:PORT."""
    host, _, port = address.strip().rpartition(":")
    if not host or "/" in host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise Invalid(
            Reason.INVALID_REQUEST,
            f"not an endpoint: {address[:200]!a}",
            hint="write HOST:PORT, e.g. 127.0.0.1:7400",
        )
    return address.strip()


def _credentials(tls: values.TlsConfig) -> grpc.ChannelCredentials:
    def read(path: str | None) -> bytes | None:
        try:
            return None if path is None else Path(path).read_bytes()
        except OSError as error:
            raise Invalid(
                Reason.INVALID_REQUEST, f"cannot read {path}: {error.strerror}", hint="TLS needs PEM files"
            ) from None

    if (tls.cert is None) != (tls.key is None):
        raise Invalid(Reason.INVALID_REQUEST, "a TLS certificate and its key go together", hint="give both or none")
    return grpc.ssl_channel_credentials(
        root_certificates=read(tls.ca), private_key=read(tls.key), certificate_chain=read(tls.cert)
    )

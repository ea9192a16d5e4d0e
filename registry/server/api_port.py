"""The gRPC port of one process: the member's own, or one that its workers share."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from registry.core import limits as core_limits
from registry.server import limits, tls
from registry.server.config import Address, Tls
from registry.server.health import Health

Handler: TypeAlias = "grpc.GenericRpcHandler[object, object]"
_ANY = ("0.0.0.0", "::")
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
BIND_HINT = "stop what listens there, or choose another address"

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 1),
    ("grpc.max_receive_message_length", core_limits.MESSAGE_BYTES),
    ("grpc.max_send_message_length", core_limits.MESSAGE_BYTES),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", limits.PING_MIN_MS),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", limits.PING_MIN_MS),
    ("grpc.http2.max_ping_strikes", 0),
    # else gRPC drops some of more than 1000 calls that arrive together, as CANCELLED and without a reason
    ("grpc.server.max_pending_requests", limits.CONCURRENT_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", limits.CONCURRENT_CALLS),
)


class StartError(Exception):
    """What could not be had at start: a port, mostly."""


class ApiPort:
    """Several servers of gRPC share the port. A server of grpc.aio takes one call in a turn of the loop, and a turn may
    hold a commit: with one server, clients with a connection each would be served one call per commit."""

    def __init__(self, services: Sequence[ServiceDescriptor], *, shared: bool = False) -> None:
        """`shared`: with other processes, for whom somebody holds the port."""
        self._shared = shared
        self._services = [service.full_name for service in services]
        self._servers = [
            grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=limits.CONCURRENT_CALLS)
            for _ in range(limits.ACCEPTORS)
        ]
        self._health = Health(self._services)

    def bind(self, address: Address, files: Tls | None) -> Address:
        """Take it; with the port that was found for port 0. Raises StartError."""
        try:
            credentials = None if files is None else tls.api(files)
            if not self._shared:
                _probe(address)  # those who share a port are not refused
            for server in self._servers:
                if credentials is None:
                    port = server.add_insecure_port(str(address))
                else:
                    port = server.add_secure_port(str(address), credentials)
                address = Address(address.host, port)
        except OSError as error:
            raise StartError(f"--listen {address}: {said(error)}") from error
        except RuntimeError as error:
            raise StartError(f"--listen {address}: cannot bind; {BIND_HINT}") from error
        return address

    async def start(self, handlers: Iterable[Handler]) -> None:
        """Answer calls."""
        names = [*self._services, "grpc.health.v1.Health", reflection.SERVICE_NAME]
        served = tuple(handlers)
        for server in self._servers:
            server.add_generic_rpc_handlers(served)
            health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
            reflection.enable_server_reflection(names, server)
            await server.start()

    async def tell(self, *, serving: bool) -> None:
        await self._health.tell(serving=serving)

    async def leave(self) -> None:
        """Not serving, for good."""
        await self._health.leave()

    async def stop(self) -> None:
        """Once running calls have ended, or after the grace."""
        await asyncio.gather(*(server.stop(limits.GRACE_S) for server in self._servers))


async def look(address: Address, flag: str) -> None:
    """Raises StartError, with `flag` in its text, where anybody listens there, also who would share the port. Workers
    of a member that was killed a moment ago are on their way out."""
    deadline_s = time.monotonic() + limits.PORT_WAIT_S
    while True:
        try:
            _probe(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline_s:
                raise StartError(f"{flag} {address}: {said(error)}") from error
            await asyncio.sleep(limits.PORT_LOOK_S)
        else:
            return


def _probe(address: Address) -> None:
    """Raises OSError where anybody listens on an address that gRPC would take: on any of a name's that this machine
    has, and in both families where it is any address."""
    if address.host in _ANY and socket.has_dualstack_ipv6():
        socket.create_server(("::", address.port), family=socket.AF_INET6, dualstack_ipv6=True).close()
        return
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    places = {(family, str(place[0])) for family, _, _, _, place in found}
    absent = []
    for family, host in places:
        try:
            socket.create_server((host, address.port), family=family).close()
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            absent.append(error)  # localhost is ::1 too in many a container that has no IPv6
    if len(absent) == len(places):
        raise absent[0]


def said(error: OSError) -> str:
    return f"cannot bind: {os.strerror(error.errno) if error.errno else error}; {BIND_HINT}"


class SharedPort:
    """A port held for those who share it, while none of them listens: no other program gets it. Nothing is accepted
    here."""

    def __init__(self, address: Address, flag: str) -> None:
        """Raises StartError, with `flag` in its text."""
        try:
            self._socket = socket.socket(_family(address), socket.SOCK_STREAM)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._socket.bind((address.host, address.port))
            # Set it lets us bind beside connections of before; left so it would let in whoever sets it too.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except OSError as error:
            raise StartError(f"{flag} {address}: {said(error)}") from error
        self.address = Address(address.host, int(self._socket.getsockname()[1]))

    def close(self) -> None:
        self._socket.close()


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address.host else socket.AF_INET

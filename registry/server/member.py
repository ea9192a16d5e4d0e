"""One member, assembled: store, state machine, cluster, services, ports. `main` gives it a process."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, TypeAlias

import grpc
import msgspec
import structlog
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cluster.api import Cluster, StateMachine
from cluster.kv.api import Damaged, Environment
from registry.core import commands
from registry.core import limits as core_limits
from registry.core.errors import RegistryError
from registry.core.model import Registry
from registry.server import limits, repair, space, tls
from registry.server.config import Address, Config
from registry.server.feed import Feed
from registry.server.health import Health
from registry.server.http import HttpServer, Response
from registry.server.inspector import Inspector
from registry.server.metrics import CONTENT_TYPE, Metrics
from registry.server.parts import SERVICES, Parts
from registry.server.repair import Repairs
from registry.server.rpc import Rpc, not_admitted
from registry.server.state_machine import RegistryStateMachine
from registry.store import queries

OpenCluster = Callable[[str, StateMachine], Cluster]  # this member's API address, what it applies to
Handler: TypeAlias = "grpc.GenericRpcHandler[Any, Any]"
BIND_HINT = "stop what listens there, or choose another address"
log = structlog.get_logger()

_OPTIONS: list[tuple[str, int]] = [
    ("grpc.so_reuseport", 0),  # a port in use is an error, not a second owner
    ("grpc.max_receive_message_length", core_limits.MESSAGE_BYTES),
    ("grpc.max_send_message_length", core_limits.MESSAGE_BYTES),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", limits.PING_MIN_MS),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", limits.PING_MIN_MS),
    ("grpc.http2.max_ping_strikes", 0),
    # else gRPC drops some of more than 1000 calls that arrive together, as CANCELLED and without a reason
    ("grpc.server.max_pending_requests", limits.CONCURRENT_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", limits.CONCURRENT_CALLS),
]


class StartError(Exception):
    """What could not be had at start: a port, mostly."""


class RegistryMember:
    """`environment` must have the tables of the store and of the cluster's journal. `founder`: this member may found
    the cluster; one that joined waits until it is admitted instead."""

    def __init__(
        self,
        config: Config,
        *,
        environment: Environment,
        inspector: Inspector,
        open_cluster: OpenCluster,
        founder: bool = True,
    ) -> None:
        self._config = config
        self._founder = founder
        self._environment = environment
        self._inspector = inspector
        self._open_cluster = open_cluster
        self._repairs = Repairs()
        self.feed = Feed(self._known())
        self.metrics = Metrics()
        self.rpc = Rpc(self.metrics, self._repairs)
        self._http = HttpServer({"/livez": self._livez, "/readyz": self._readyz, "/metrics": self._metrics})
        self._grpc = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=limits.CONCURRENT_CALLS)
        self._health = Health([service.full_name for service in SERVICES])
        self._tasks: list[asyncio.Task[None]] = []
        self._caught_up = False
        self._stopping = False
        self.api_address = ""
        self.http_address = ""
        self.cluster: Cluster

    async def start(self) -> None:
        """Take the ports, serve, and take part. Raises StartError."""
        config = self._config
        self.http_address = await self._bind_http(config.http_listen)
        bound = self._bind_api(config.listen)
        self.api_address = str(config.advertise or bound)
        machine = RegistryStateMachine(
            self.feed, self._environment, lambda cause, versions: self._parts.removed(cause, versions)
        )
        self.cluster = self._open_cluster(self.api_address, machine)
        self._serve()
        self._hold()
        try:
            await self.cluster.start()
        except OSError as error:
            raise StartError(f"--peer-listen {config.peer_listen}: {_said(error)}") from error
        await self._grpc.start()
        for work in (self._become_ready, self._report_health, *self._parts.background):
            self._run(work())
        self._run(self._repairs.run(self.cluster))

    async def stop(self) -> None:
        """Not ready, no new calls, running ones finish, leadership handed over, everything closed."""
        self._stopping = True
        await self._health.leave()
        self.rpc.drain()
        self.feed.close()
        await self._grpc.stop(limits.GRACE_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.cluster.stop(handover_s=limits.HANDOVER_S)
        await self._http.stop()

    async def failure(self) -> BaseException:
        """Wait until the cluster or background work has failed hard, and return why. The process must end."""
        cluster = asyncio.create_task(self.cluster.failure())
        running: set[asyncio.Future[Any]] = {cluster, *self._tasks}
        while not (cluster.done() or self._stopping):
            ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in () if self._stopping else ended - {cluster}:
                if isinstance(error := task.exception(), Damaged):
                    self._repairs.note(str(error))  # the member ends for it once the others can go on without it
                else:
                    return error or RuntimeError("background work ended")
        return await cluster

    @property
    def ready(self) -> bool:
        return self.unready_because == ""

    @property
    def unready_because(self) -> str:
        """Empty: ready to serve."""
        if self._stopping:
            return "stopping"
        status = self.cluster.status()
        if status.role == "waiting":
            if self._founder or self._caught_up:
                return "no member of the cluster any more"
            return f"waiting to be admitted: regctl cluster add {self._config.name}"
        if status.repairing:
            return f"repairing, fetches its data from another member: {status.fetching or status.repairing}"
        if not self._caught_up and status.refused_by:
            by, why = next(iter(sorted(status.refused_by.items())))
            return f"{by} refuses this member: {why}"
        if not self._caught_up and (status.leader or status.fetching):
            return f"catching up with the cluster{f': {status.fetching}' if status.fetching else ''}"
        # an observer is there to serve what it knows, marked with its age, when its datacenter is cut off
        return "" if status.leader or (status.role == "observer" and self._caught_up) else "no leader is known"

    # Parts

    def _serve(self) -> None:
        self._parts = Parts(
            self._config,
            cluster=self.cluster,
            environment=self._environment,
            inspector=self._inspector,
            feed=self.feed,
            repairs=self._repairs,
            metrics=self.metrics,
            rpc=self.rpc,
        )
        self._proposer = self._parts.proposer
        self._grpc.add_generic_rpc_handlers(self._parts.handlers)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        names = [service.full_name for service in SERVICES]
        reflection.enable_server_reflection([*names, "grpc.health.v1.Health", reflection.SERVICE_NAME], self._grpc)
        self.metrics.gauges(lambda: self._parts.gauges(ready=self.ready))

    def _bind_api(self, address: Address) -> Address:
        try:
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            with socket.create_server((address.host, address.port), family=family):
                pass  # gRPC would not say why it failed
            if self._config.tls is None:
                port = self._grpc.add_insecure_port(str(address))
            else:
                port = self._grpc.add_secure_port(str(address), tls.api(self._config.tls))
        except OSError as error:
            raise StartError(f"--listen {address}: {_said(error)}") from error
        except RuntimeError as error:
            raise StartError(f"--listen {address}: cannot bind; {BIND_HINT}") from error
        return Address(address.host, port)

    async def _bind_http(self, address: Address) -> str:
        context = None if self._config.tls is None else tls.http(self._config.tls)
        try:
            return str(Address(address.host, await self._http.start(address, context)))
        except OSError as error:
            raise StartError(f"--http-listen {address}: {_said(error)}") from error

    def _known(self) -> Registry:
        """As committed here."""
        try:
            with self._environment.snapshot() as reader:
                return queries.registry(reader)
        except Damaged as damage:
            self._repairs.note(str(damage))
            return Registry()

    def _hold(self) -> None:
        """Calls, while there is nothing to answer them with."""
        if why := self.cluster.status().repairing:
            self.rpc.hold(repair.damaged(f"this member repairs its data: {why}"))
        elif not self._founder and not self.feed.registry.cluster_id:
            self.rpc.hold(not_admitted())
        else:
            self.rpc.hold(None)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    # Background

    async def _become_ready(self) -> None:
        """Found the cluster if nobody has, or be admitted to one; catch up once. Then nothing, for ever: tasks that
        end are failures."""
        while self.cluster.status().repairing:
            await asyncio.sleep(limits.READINESS_INTERVAL_S)
        self._hold()
        if self._founder:
            await self._found()
        else:
            await self._be_admitted()
        while not self._caught_up:
            try:
                await self._proposer.barrier(limits.FOUND_TIMEOUT_S)
            except RegistryError as error:
                log.info("waiting for a leader", reason=error.reason)
                await asyncio.sleep(limits.READINESS_INTERVAL_S)
            else:
                self._caught_up = True
        log.info("caught up", cluster_id=self.feed.registry.cluster_id, revision=self.feed.registry.revision)
        await asyncio.Event().wait()

    async def _found(self) -> None:
        while not self.feed.registry.cluster_id:
            cluster_id = os.urandom(8).hex()
            found = commands.Found(
                request_id=self._proposer.new_request_id(),
                time_ms=self._proposer.clock_ms(),
                cluster_id=cluster_id,
            )
            try:
                await self._proposer.propose(found, limits.FOUND_TIMEOUT_S)
                await self.feed.revision(1, limits.FOUND_TIMEOUT_S)
            except RegistryError as error:
                log.info("waiting for a majority to found the cluster", reason=error.reason, error=error.message)
                await asyncio.sleep(limits.READINESS_INTERVAL_S)  # it may have been refused at once

    async def _be_admitted(self) -> None:
        name = self._config.name
        if self.cluster.status().role == "waiting":
            advice = f"type: regctl cluster add {name} (or replace {name}, to take the place of a member of that name)"
            log.info("waiting to be admitted", advice=advice)
            while self.cluster.status().role == "waiting":
                await asyncio.sleep(limits.READINESS_INTERVAL_S)
            log.info("admitted", role=self.cluster.status().role)
        elif self._config.join:
            log.info("--join is ignored: this data directory belongs to a cluster already")
        while not self.feed.registry.cluster_id:  # of the founding, or of a state that is fetched
            await asyncio.sleep(limits.READINESS_INTERVAL_S)
        self._hold()

    async def _report_health(self) -> None:
        """Health follows readiness within READINESS_INTERVAL_S."""
        told: bool | None = None
        had_room = True
        while True:
            if had_room is not (status := self.cluster.status()).has_room:
                had_room = status.has_room
                if had_room:
                    log.info("there is room again: writes are taken", headroom_bytes=status.headroom_bytes)
                else:
                    log.warning("writes are refused", no_room=space.lacking(status), advice=space.WHAT_TO_DO)
            if told is not (ready := self.ready):
                told = ready
                await self._health.tell(serving=ready)
                log.info("ready" if ready else "not ready", because=self.unready_because)
            await asyncio.sleep(limits.READINESS_INTERVAL_S)

    # HTTP

    def _livez(self) -> Response:
        return Response(HTTPStatus.OK, b"alive\n")

    def _readyz(self) -> Response:
        because = self.unready_because
        if because:
            return Response(HTTPStatus.SERVICE_UNAVAILABLE, f"not ready: {because}\n".encode())
        return Response(HTTPStatus.OK, b"ready\n")

    def _metrics(self) -> Response:
        return Response(HTTPStatus.OK, self.metrics.text(), CONTENT_TYPE)


def foundation(founding: dict[str, str]) -> str:
    """Digest of a founding configuration: what members of one cluster agree on before they have met."""
    return hashlib.sha256(msgspec.json.encode(founding, order="sorted")).hexdigest()[:32]


def _said(error: OSError) -> str:
    return f"cannot bind: {os.strerror(error.errno) if error.errno else error}; {BIND_HINT}"

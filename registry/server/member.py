"""One member, assembled: store, state machine, cluster, services, ports. `main` gives it a process."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import msgspec
import structlog
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cluster.api import Cluster, StateMachine
from cluster.kv.api import Environment
from registry.core import commands
from registry.core import limits as core_limits
from registry.core.errors import RegistryError
from registry.server import limits, tls
from registry.server.config import Address, Config
from registry.server.feed import Feed
from registry.server.health import Health
from registry.server.http import HttpServer, Response
from registry.server.inspector import Inspector
from registry.server.metrics import CONTENT_TYPE, Gauges, Metrics
from registry.server.proposer import Proposer
from registry.server.replies import Replies
from registry.server.reports import Reports
from registry.server.rpc import Rpc
from registry.server.services.agents import Agents
from registry.server.services.backup import Backups
from registry.server.services.batch import Batch
from registry.server.services.cluster import ClusterView
from registry.server.services.publish import Publish
from registry.server.services.reads import Reads
from registry.server.services.watch import Watch
from registry.server.services.writes import Writes
from registry.server.state_machine import RegistryStateMachine
from registry.store import queries
from registry.v1 import agent_pb2, cluster_pb2, registry_pb2

OpenCluster = Callable[[str, StateMachine], Cluster]  # this member's API address, what it applies to
Handler: TypeAlias = "grpc.GenericRpcHandler[Any, Any]"
BIND_HINT = "stop what listens there, or choose another address"
log = structlog.get_logger()

_SERVICES = [file.DESCRIPTOR.services_by_name[name] for file, name in (
    (registry_pb2, "RegistryService"), (agent_pb2, "AgentService"), (cluster_pb2, "ClusterService"),
)]  # fmt: skip
_REGISTRY, _AGENTS, _CLUSTER = _SERVICES
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
        with environment.snapshot() as reader:
            self.feed = Feed(queries.registry(reader))
        self.metrics = Metrics()
        self.rpc = Rpc(self.metrics)
        self._http = HttpServer({"/livez": self._livez, "/readyz": self._readyz, "/metrics": self._metrics})
        self._grpc = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=limits.CONCURRENT_CALLS)
        self._health = Health([service.full_name for service in _SERVICES])
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
        self.cluster = self._open_cluster(self.api_address, RegistryStateMachine(self.feed, self._environment))
        self._serve()
        self.rpc.hold(not self._founder and not self.feed.registry.cluster_id)
        try:
            await self.cluster.start()
        except OSError as error:
            raise StartError(f"--peer-listen {config.peer_listen}: {_said(error)}") from error
        await self._grpc.start()
        for work in (self._become_ready(), self._report_health(), self._reports.run()):
            self._run(work)

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
        either: list[asyncio.Future[Any]] = [cluster, *self._tasks]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not cluster.done() and not self._stopping:
            ended = next(task for task in self._tasks if task.done())
            return ended.exception() or RuntimeError("background work ended")
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
        if not self._caught_up and status.refused_by:
            by, why = next(iter(sorted(status.refused_by.items())))
            return f"{by} refuses this member: {why}"
        if not self._caught_up and (status.leader or status.fetching):
            return f"catching up with the cluster{f': {status.fetching}' if status.fetching else ''}"
        # an observer is there to serve what it knows, marked with its age, when its datacenter is cut off
        return "" if status.leader or (status.role == "observer" and self._caught_up) else "no leader is known"

    # Parts

    def _serve(self) -> None:
        self._proposer = Proposer(self.cluster, self.metrics)
        replies = Replies(self._config.name, self.cluster, self.feed)
        handlers = (self._registry(replies), self._agents(replies), self._members(replies))
        self._grpc.add_generic_rpc_handlers(handlers)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        names = [service.full_name for service in _SERVICES]
        reflection.enable_server_reflection([*names, "grpc.health.v1.Health", reflection.SERVICE_NAME], self._grpc)
        self.metrics.gauges(self._gauges)

    def _registry(self, replies: Replies) -> Handler:
        proposer, feed, inspector = self._proposer, self.feed, self._inspector
        reads = Reads(proposer=proposer, environment=self._environment, feed=feed, replies=replies, inspector=inspector)
        publish = Publish(
            proposer=proposer,
            reads=reads,
            replies=replies,
            inspector=inspector,
            content_limit_bytes=self._config.content_limit_bytes,
        ).publish
        writes = Writes(proposer=proposer, reads=reads, replies=replies, inspector=inspector)
        batch = Batch(
            {
                "publish": publish,
                "switch": writes.switch,
                "rollback": writes.rollback,
                "mark": writes.mark,
                "label": writes.label,
                "get_pointer": reads.get_pointer,
                "get_version": reads.get_version,
            }
        )
        watch = Watch(proposer=proposer, reads=reads, feed=feed, replies=replies)
        return self.rpc.handler(
            _REGISTRY,
            {
                "Publish": publish,
                "Switch": writes.switch,
                "Rollback": writes.rollback,
                "Mark": writes.mark,
                "Label": writes.label,
                "SetPolicy": writes.set_policy,
                "GetPolicy": reads.get_policy,
                "GetImpact": reads.get_impact,
                "Batch": batch.batch,
                "GetPointer": reads.get_pointer,
                "GetVersion": reads.get_version,
                "GetContent": reads.get_content,
                "ListWorkflows": reads.list_workflows,
                "ListVersions": reads.list_versions,
                "Compare": reads.compare,
                "GetHistory": reads.get_history,
                "Watch": watch.watch,
                "ListAgents": reads.list_agents,
            },
        )

    def _agents(self, replies: Replies) -> Handler:
        self._reports = Reports(self._proposer)
        agents = Agents(environment=self._environment, feed=self.feed, replies=replies, reports=self._reports)
        return self.rpc.handler(
            _AGENTS, {"Poll": agents.poll, "Acknowledge": agents.acknowledge}, default_s=limits.CALL_MAX_S
        )

    def _members(self, replies: Replies) -> Handler:
        view = ClusterView(cluster=self.cluster, feed=self.feed, replies=replies)
        backups = Backups(
            member=self._config.name,
            environment=self._environment,
            proposer=self._proposer,
            feed=self.feed,
            replies=replies,
        )
        return self.rpc.handler(
            _CLUSTER,
            {
                "GetStatus": view.get_status,
                "AddMember": view.add_member,
                "PromoteMember": view.promote_member,
                "RemoveMember": view.remove_member,
                "TransferLeadership": view.transfer_leadership,
                "Backup": backups.backup,
            },
        )

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

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    # Background

    async def _become_ready(self) -> None:
        """Found the cluster if nobody has, or be admitted to one; catch up once. Then nothing, for ever: tasks that
        end are failures."""
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
                request_id=self._proposer.new_request_id(), time_ms=self._proposer.clock_ms(), cluster_id=cluster_id
            )
            try:
                await self._proposer.propose(found, limits.FOUND_TIMEOUT_S)
                await self.feed.revision(1, limits.FOUND_TIMEOUT_S)
            except RegistryError as error:
                log.info("waiting for a majority to found the cluster", reason=error.reason)
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
        self.rpc.hold(False)

    async def _report_health(self) -> None:
        """Health follows readiness within READINESS_INTERVAL_S."""
        told: bool | None = None
        while True:
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

    def _gauges(self) -> Gauges:
        status = self.cluster.status()
        return {
            "registry_revision": ("Newest revision committed here", self.feed.registry.revision),
            "registry_ready": ("1 if this member serves", self.ready),
            "registry_polls_waiting": ("Agents' polls waiting", self.feed.pollers),
            "registry_watches_open": ("Watch streams open", self.feed.watchers),
            "registry_raft_term": ("Raft term", status.term),
            "registry_raft_commit_index": ("Newest log entry known to be committed", status.commit_index),
            "registry_raft_applied_index": ("Newest log entry applied", status.applied_index),
            "registry_raft_is_leader": ("1 on the leader", status.leader == status.id),
            "registry_raft_is_voter": ("1 if this member votes", status.role == "voter"),
            "registry_raft_log_entries": ("Log entries kept", status.last_index - status.first_index + 1),
            "registry_raft_fetching": ("1 while this member fetches a state", bool(status.fetching)),
            "registry_raft_waiting_processes": ("Processes that ask to be admitted", len(status.waiting)),
            "registry_peer_connections_closed": ("Connections of other processes ended by this side", status.refused),
            "registry_feature_level": ("Feature level in force", status.level),
            "registry_raft_leader_contact_seconds": ("Since the leader was heard", status.leader_contact_s),
            "registry_database_bytes": ("Size of the data directory's files", _size_bytes(self._config.data_dir)),
        }


def foundation(founding: dict[str, str]) -> str:
    """Digest of a founding configuration: what members of one cluster agree on before they have met."""
    return hashlib.sha256(msgspec.json.encode(founding, order="sorted")).hexdigest()[:32]


def _size_bytes(path: Path) -> int:
    """A generation of the database may be deleted meanwhile."""
    total = 0
    for file in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def _said(error: OSError) -> str:
    return f"cannot bind: {os.strerror(error.errno) if error.errno else error}; {BIND_HINT}"

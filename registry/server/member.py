"""One member, assembled: store, state machine, cluster, services, ports. `main` gives it a process."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Coroutine
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import msgspec
import structlog

from cluster.api import Cluster, StateMachine
from cluster.kv.api import Damaged, Environment
from registry.core import commands
from registry.core.errors import RegistryError
from registry.core.model import Registry
from registry.server import limits, repair, space, tls
from registry.server.api_port import ApiPort, SharedPort, StartError, look, said
from registry.server.config import Address, Config
from registry.server.delivery_metrics import DeliveryMetrics
from registry.server.http import HttpServer, Route
from registry.server.http_errors import failures
from registry.server.http_messages import Response
from registry.server.hub import Hub
from registry.server.inspector import Inspector
from registry.server.member_parts import MemberParts
from registry.server.metrics import CONTENT_TYPE, Gauges, Metrics
from registry.server.parts import CLUSTER, SERVICES
from registry.server.repair import Repairs
from registry.server.rpc import Rpc, not_admitted
from registry.server.state_machine import RegistryStateMachine
from registry.server.workers import passing
from registry.server.workers.supervisor import Condition, Counters, SharedEnvironment, SharedFeed, Workers
from registry.store import queries

OpenCluster = Callable[[str, StateMachine], Cluster]  # this member's API address, what it applies to
log = structlog.get_logger()


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
        self.feed = SharedFeed(self._known())
        self.metrics = Metrics()
        self.rpc = Rpc(self.metrics, self._repairs)
        self.hub = Hub()
        probes = {"/livez": self._livez, "/readyz": self._readyz, "/metrics": self._metrics}
        self._http = HttpServer({path: Route(handle) for path, handle in probes.items()})
        self._api = None if config.workers else ApiPort(SERVICES)
        self._shared: list[SharedPort] = []  # ports held for the workers
        self._workers: Workers | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._caught_up = False
        self._stopping = False
        self.api_address = ""
        self.http_address = ""
        self.cluster: Cluster

    async def start(self, asked: asyncio.Future[Any] | None = None) -> None:
        """Take the ports, serve, and take part. `asked` to stop meanwhile, it waits for no workers. Raises
        StartError."""
        config = self._config
        await self._bind()
        machine = RegistryStateMachine(self.feed, self._environment, self._removed)
        self.cluster = self._open_cluster(self.api_address, machine)
        self.rpc.show = self.cluster.show
        self._serve()
        self._hold()
        try:
            await self.cluster.start()
        except OSError as error:
            raise StartError(f"--peer-listen {config.peer_listen}: {said(error)}") from error
        if self._api is not None:
            await self._api.start(self._parts.handlers)
        if self._workers is not None:
            self._run(self._workers.run())
            await self._workers.started(asked)
        for work in (self._become_ready, self._report_health, *self._parts.background):
            self._run(work())
        self._run(self._repairs.run(self.cluster))

    async def stop(self) -> None:
        """Not ready, no new calls, running ones finish, leadership handed over, everything closed."""
        self._stopping = True
        if self._api is not None:
            await self._api.leave()
        self.rpc.drain()
        self.feed.close()
        if self._workers is not None:
            await self._workers.stop(limits.GRACE_S + limits.WORKER_STOP_S)
        if self._api is not None:
            await asyncio.gather(self._api.stop(), self._http.finish(limits.GRACE_S))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.cluster.stop(handover_s=limits.HANDOVER_S)
        await self._http.stop()
        for port in self._shared:
            port.close()

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
        self._parts = MemberParts(
            self._config,
            cluster=self.cluster,
            environment=self._environment,
            inspector=self._inspector,
            feed=self.feed,
            hub=self.hub,
            repairs=self._repairs,
            metrics=self.metrics,
            rpc=self.rpc,
        )
        self._proposer = self._parts.proposer
        self._http.serve(self._parts.routes, failures(self._repairs))
        self._delivery_metrics = DeliveryMetrics(self.hub, self._parts.delivery, self._http)
        self.metrics.collect(self._delivery_metrics)
        self.metrics.gauges(self._gauges)
        if self._config.workers:
            self._workers = self.feed.workers = self._with_workers()

    def _with_workers(self) -> Workers:
        assert isinstance(self._environment, SharedEnvironment), "others can read an environment on a disk only"
        unary, streams = passing.answered(CLUSTER, self._parts.members)
        return Workers(
            replace(self._config, listen=self._shared[0].address, http_listen=self._shared[1].address),
            cluster=self.cluster,
            environment=self._environment,
            feed=self.feed,
            repairs=self._repairs,
            counters=Counters(self.metrics, self._delivery_metrics),
            condition=lambda: Condition(self.unready_because, self.rpc.held),
            unary={**unary, passing.METRICS: self._text},
            streams=streams,
        )

    def _gauges(self) -> Gauges:
        self.cluster.show()
        gauges = self._parts.gauges(ready=self.ready)
        return gauges if self._workers is None else gauges | self._workers.gauges()

    async def _text(self, _request: bytes, _timeout_s: float) -> bytes:
        return self.metrics.text()

    def _removed(self, cause: str, versions: int) -> None:
        self._parts.removed(cause, versions)
        if cause == "purge" and self._workers is not None:
            self._workers.purged()

    async def _bind(self) -> None:
        config = self._config
        await look(config.listen, "--listen")
        await look(config.http_listen, "--http-listen")
        if self._api is None:
            api, http = SharedPort(config.listen, "--listen"), SharedPort(config.http_listen, "--http-listen")
            self._shared = [api, http]
            bound, self.http_address = api.address, str(http.address)
        else:
            self.http_address = await self._bind_http(config.http_listen)
            bound = self._api.bind(config.listen, config.tls)
        self.api_address = str(config.advertise or bound)

    async def _bind_http(self, address: Address) -> str:
        context = None if self._config.tls is None else tls.http(self._config.tls)
        try:
            return str(Address(address.host, await self._http.start(address, context)))
        except OSError as error:
            raise StartError(f"--http-listen {address}: {said(error)}") from error

    def _known(self) -> Registry:
        """As committed here."""
        try:
            with self._environment.peek() as reader:
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
        self._tell_workers()

    def _tell_workers(self) -> None:
        """What calls and probes are answered with may have changed."""
        if self._workers is not None:
            self._workers.look()

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
                self._tell_workers()
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
                self._tell_workers()
                if self._api is not None:
                    await self._api.tell(serving=ready)
                log.info("ready" if ready else "not ready", because=self.unready_because)
            await asyncio.sleep(limits.READINESS_INTERVAL_S)

    # HTTP

    def _livez(self, *_: object) -> Response:
        return Response(HTTPStatus.OK, b"alive\n")

    def _readyz(self, *_: object) -> Response:
        because = self.unready_because
        if because:
            return Response(HTTPStatus.SERVICE_UNAVAILABLE, f"not ready: {because}\n".encode())
        return Response(HTTPStatus.OK, b"ready\n")

    def _metrics(self, *_: object) -> Response:
        return Response(HTTPStatus.OK, self.metrics.text(), CONTENT_TYPE)


def foundation(founding: dict[str, str]) -> str:
    """Digest of a founding configuration: what members of one cluster agree on before they have met."""
    return hashlib.sha256(msgspec.json.encode(founding, order="sorted")).hexdigest()[:32]

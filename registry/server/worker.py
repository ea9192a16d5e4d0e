"""A worker: a process that serves a member's API, polls and content beside it, on the same ports.

It reads what the member has committed, and has everything else done by the member, over the socket that is its
standard input (`registry.server.workers`). The member starts it, starts another one when it ends, and it never outlives
the member.

Exit codes: 0 stopped as asked, or with its member; 1 could not start; 70 failed hard.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import resource
import signal
import socket
import sys
from http import HTTPStatus
from typing import NoReturn

import structlog
import uvloop

from cluster.kv.lmdb_view import LmdbView
from registry.core.errors import Unavailable
from registry.server import limits, logs, tls
from registry.server.api_port import ApiPort, StartError, said
from registry.server.config import Config
from registry.server.delivery_metrics import DeliveryMetrics
from registry.server.feed import Feed
from registry.server.http import Exchange, HttpServer, Route
from registry.server.http_errors import failures
from registry.server.http_messages import Request, Response
from registry.server.hub import Hub
from registry.server.identity import DATABASE
from registry.server.inspector import Inspector
from registry.server.metrics import CONTENT_TYPE, Metrics
from registry.server.parts import CLUSTER, SERVICES, Parts
from registry.server.repair import Repairs
from registry.server.rpc import Rpc
from registry.server.workers import messages as m
from registry.server.workers import passing
from registry.server.workers.link import Link
from registry.server.workers.remote import RemoteCluster, error_of
from registry.server.workers.setup import EXIT_START, RELEASE, decode_config

EXIT_FAILED = 70
_PR_SET_PDEATHSIG = 1
log = structlog.get_logger()


class TellingRepairs(Repairs):
    """The member repairs itself; a worker tells it what it has met."""

    def __init__(self, link: Link[m.Down]) -> None:
        super().__init__()
        self._link = link

    def note(self, why: str) -> None:
        super().note(why)
        self._link.send(m.Damage(why))


class Serving:
    """All that serves, as of the member's first word; `hear` takes what follows it."""

    def __init__(self, hello: m.Hello, link: Link[m.Down], inspector: Inspector) -> None:
        self.config: Config = decode_config(hello.config)
        self.member = RemoteCluster(link, hello.state)
        self._state = hello.state
        self._link, self._inspector = link, inspector
        self._view = LmdbView(self.config.data_dir / DATABASE, hello.place)
        self._feed = Feed(hello.registry)
        self._metrics = Metrics()
        repairs = TellingRepairs(link)
        self._rpc = Rpc(self._metrics, repairs)
        self._hub = Hub()
        self.parts = Parts(
            self.config,
            cluster=self.member,
            environment=self._view,
            inspector=inspector,
            feed=self._feed,
            hub=self._hub,
            repairs=repairs,
            metrics=self._metrics,
            rpc=self._rpc,
        )
        probes = {"/livez": Route(self._livez), "/readyz": Route(self._readyz), "/metrics": Route(self._ask_metrics)}
        self._http = HttpServer(probes)
        self._http.serve(self.parts.routes, failures(repairs))
        self._delivered = DeliveryMetrics(self._hub, self.parts.delivery, self._http)
        self._api = ApiPort(SERVICES, shared=True)
        self._told: bool | None = None
        self._draining = False
        self._forgetting: asyncio.Task[None] | None = None
        self._show()

    # ---- what the member says
    def hear(self, message: m.Down) -> None:
        match message:
            case m.Commit(registry=registry, touched=None):
                self._feed.replaced(registry)
            case m.Commit(registry=registry, touched=touched, reported=reported):
                agents = {(workflow, pointer): names for workflow, pointer, names in reported or ()}
                self._feed.publish(registry, touched or (), agents)
            case m.Place(place=place):
                self._view.follow(place)
            case m.State():
                self._state = message
                self.member.state(message)
                self._show()
            case m.Purged():
                self.parts.reads.contents.clear()
                self._forgetting = asyncio.ensure_future(self._inspector.forget())
            case m.Done() | m.Undone() | m.Item() | m.Failed():
                self.member.answer(message)

    def _show(self) -> None:
        held = self._state.held and error_of(self._state.held)
        assert held is None or isinstance(held, Unavailable), "calls are refused for a while only"
        self._rpc.hold(held)

    @property
    def unready_because(self) -> str:
        """Empty: ready to serve."""
        return "stopping" if self._draining else self._silence or self._state.unready

    @property
    def _silence(self) -> str:
        silent_s = self.member.silent_s
        return f"the member's process was not heard for {silent_s:.0f} s" if silent_s > limits.MEMBER_SILENT_S else ""

    # ---- its life
    async def start(self) -> None:
        """Raises StartError."""
        config = self.config
        try:
            context = None if config.tls is None else tls.http(config.tls)
            await self._http.start(config.http_listen, context, shared=True)
        except OSError as error:
            raise StartError(f"--http-listen {config.http_listen}: {said(error)}") from error
        self._api.bind(config.listen, config.tls)
        operations = passing.passed_on(CLUSTER, self.member)
        await self._api.start([*self.parts.handlers, self._rpc.handler(CLUSTER, operations)])

    async def beat(self) -> NoReturn:
        while True:
            self._tell_vitals()
            if self._told is not (ready := not self.unready_because):
                self._told = ready
                await self._api.tell(serving=ready)
            await asyncio.sleep(limits.LINK_BEAT_S)

    async def drain(self) -> None:
        """No new calls; running ones finish."""
        self._draining = True
        await self._api.leave()
        self._rpc.drain()
        self._feed.close()
        await asyncio.gather(self._api.stop(), self._http.finish(limits.GRACE_S))
        await self._http.stop()
        self._tell_vitals()

    def _tell_vitals(self) -> None:
        self._link.tell(m.Vitals(self._metrics.take(), self._delivered.take(), self._hub.waiting, self._feed.watchers))

    # ---- probes
    def _livez(self, *_: object) -> Response:
        if silence := self._silence:
            return Response(HTTPStatus.SERVICE_UNAVAILABLE, f"{silence}\n".encode())
        return Response(HTTPStatus.OK, b"alive\n")

    def _readyz(self, *_: object) -> Response:
        if because := self.unready_because:
            return Response(HTTPStatus.SERVICE_UNAVAILABLE, f"not ready: {because}\n".encode())
        return Response(HTTPStatus.OK, b"ready\n")

    def _ask_metrics(self, _request: Request, exchange: Exchange) -> None:
        exchange.run(self._member_metrics())

    async def _member_metrics(self) -> Response:
        """Of the member, in which those of its workers are added up: this one's as of now."""
        self._tell_vitals()
        text = await self.member.ask(passing.METRICS, b"", limits.CALL_S)
        return Response(HTTPStatus.OK, text, CONTENT_TYPE)


class Worker:
    """From the first word of the member until it is asked to stop."""

    def __init__(self, inspector: Inspector) -> None:
        loop = asyncio.get_running_loop()
        self.link: Link[m.Down] = Link(m.decode_down, self._receive, self._lost)
        self.asked: asyncio.Future[None] = loop.create_future()
        self._inspector = inspector
        self._serving: asyncio.Future[Serving] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._is_stopping = False

    async def run(self) -> None:
        """Raises StartError, and whatever ends it hard."""
        serving = await self._serving
        await serving.start()
        gc.collect()
        gc.freeze()  # as the member does
        log.info("worker started", release=RELEASE, pid=os.getpid())
        work = [asyncio.ensure_future(each()) for each in (serving.beat, *serving.parts.background)]
        ended, _ = await asyncio.wait([self.asked, *work], return_when=asyncio.FIRST_COMPLETED)
        for task in ended - {self.asked}:
            raise task.exception() or RuntimeError("background work ended")
        await serving.drain()
        for task in work:
            task.cancel()
        self._is_stopping = True
        self.link.end()
        await self._ended

    def ask(self) -> None:
        if not self.asked.done():
            self.asked.set_result(None)

    def _receive(self, message: m.Down) -> None:
        try:
            if isinstance(message, m.Hello):
                self._serving.set_result(self._greeted(message))
            elif isinstance(message, m.Drain):
                self.ask()
            else:
                self._serving.result().hear(message)
        except Exception as error:  # noqa: BLE001 - what the member said is lost: nothing here is right any more
            _fail(error)

    def _greeted(self, hello: m.Hello) -> Serving:
        if hello.release != RELEASE:
            raise StartError(f"the member runs release {hello.release}, installed is {RELEASE}: start the member again")
        return Serving(hello, self.link, self._inspector)

    def _lost(self, why: str) -> None:
        if self._is_stopping:
            self._ended.set_result(None)
            return
        try:
            log.warning("worker ends: its member is gone", why=why)
        finally:  # nothing can be answered any more
            os._exit(0)


async def _run(link: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    async with Inspector() as inspector:
        worker = Worker(inspector)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, worker.ask)
        await loop.create_unix_connection(lambda: worker.link, sock=link)
        worker.link.send(m.Ready())
        await worker.run()


def _fail(error: BaseException) -> NoReturn:
    is_start = isinstance(error, StartError)
    try:
        if is_start:
            log.error("worker cannot start", error=str(error))
        else:
            log.critical("worker failed hard", error=str(error), exc_info=error)
        sys.stderr.flush()
    finally:
        os._exit(EXIT_START if is_start else EXIT_FAILED)


def _own_link() -> socket.socket:
    """Standard input. Nobody else finds it there afterwards."""
    link = socket.socket(fileno=os.dup(0))
    link.setblocking(False)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return link


def main() -> None:
    """`python -m registry.server.worker MEMBER NUMBER`, with a socket to the member as standard input."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # as the member's: secrets are in memory
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # also where the end of the socket is not noticed
    logs.configure(sys.argv[1], worker=int(sys.argv[2]))
    try:
        uvloop.run(_run(_own_link()))
    except Exception as error:  # noqa: BLE001
        _fail(error)


if __name__ == "__main__":
    main()

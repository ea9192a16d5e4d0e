"""A member's workers: started, told what happens, answered, watched, started again, and stopped with it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import structlog

from cluster.api import Cluster
from registry.core.errors import Unavailable
from registry.core.model import Registry
from registry.server import limits
from registry.server.api_port import StartError
from registry.server.config import Config
from registry.server.delivery_metrics import DeliveryMetrics
from registry.server.feed import Feed, PointerKey, Reported
from registry.server.metrics import Gauges, Metrics
from registry.server.repair import Repairs
from registry.server.workers import messages as m
from registry.server.workers.answering import Answering, Stream, Unary
from registry.server.workers.link import Link
from registry.server.workers.remote import failure_of
from registry.server.workers.setup import EXIT_START, RELEASE, encode_config

CANNOT_START = f"exit code {EXIT_START}"
_NOT_STARTED = "its member stops before it has started"
log = structlog.get_logger()


@runtime_checkable
class SharedEnvironment(Protocol):
    """As LmdbEnvironment."""

    @property
    def place(self) -> str: ...

    def free_readers(self) -> int: ...


class Counters(NamedTuple):
    """Where the workers' are added up."""

    calls: Metrics
    delivery: DeliveryMetrics


class Condition(NamedTuple):
    """Of the member, as its workers are to show it."""

    unready: str
    held: Unavailable | None  # what calls are refused with


class SharedFeed(Feed):
    """Of a member: its workers hear of the same."""

    workers: Workers | None = None

    def publish(self, registry: Registry, touched: Iterable[PointerKey], reported: Reported | None = None) -> None:
        if self.workers is not None:
            agents = [(*key, list(names)) for key, names in (reported or {}).items()]
            self.workers.committed(m.Commit(registry, list(touched), agents))
        super().publish(registry, touched, reported)

    def replaced(self, registry: Registry) -> None:
        if self.workers is not None:
            self.workers.committed(m.Commit(registry, None, None))
        super().replaced(registry)


class Workers:
    """`ended`: lives so far, by how they ended. `unary` and `streams`: what only the member can do, by method."""

    def __init__(
        self,
        config: Config,
        *,
        cluster: Cluster,
        environment: SharedEnvironment,
        feed: Feed,
        repairs: Repairs,
        counters: Counters,
        condition: Callable[[], Condition],
        unary: Mapping[str, Unary],
        streams: Mapping[str, Stream],
    ) -> None:
        self.ended: Counter[str] = Counter()
        self._config, self._cluster, self._environment, self._feed = config, cluster, environment, feed
        self._repairs, self._counters, self._condition = repairs, counters, condition
        self._unary, self._streams = unary, streams
        self._place = environment.place
        self._alive: list[_Worker] = []
        self._running: list[_Worker] = []  # of them, those that have been told all
        self._lives: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._up: set[int] = set()  # numbers of those that have served
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def gauges(self) -> Gauges:
        running = self._running
        return {
            "registry_workers": ("Workers running", len(running)),
            "registry_workers_ended": ("Lives of workers that ended, by how", self.ended),
            "registry_polls_waiting": ("Agents' polls waiting", sum(worker.polls for worker in running)),
            "registry_watches_open": ("Watch streams open", sum(worker.watches for worker in running)),
        }

    # ---- what happens
    def committed(self, commit: m.Commit) -> None:
        self._follow()
        self._tell(commit)

    def purged(self) -> None:
        self._tell(m.Purged())

    def look(self) -> None:
        """What is true of the member now may differ from what was said last."""
        self._follow()
        self._tell(self._state())

    def _follow(self) -> None:
        """Their snapshots show what this process knows, from here on."""
        self._cluster.checkpoint()
        if self._place != (place := self._environment.place):
            self._place = place
            self._tell(m.Place(place))

    def _tell(self, message: m.Down) -> None:
        for worker in self._running:
            worker.link.tell(message)

    def _state(self) -> m.State:
        now = self._condition()
        held = None if now.held is None else failure_of(now.held)
        return m.State(self._cluster.status(), self._cluster.leader_address(), now.unready, held)

    # ---- their lives
    async def run(self) -> None:
        """Keep as many running as are configured, until `stop`. For ever."""
        numbers = range(1, self._config.workers + 1)
        self._lives = [asyncio.create_task(self._keep(number)) for number in numbers]
        try:
            await asyncio.gather(self._beat(), *self._lives)
        finally:
            for life in self._lives:
                life.cancel()
            await asyncio.gather(*self._lives, return_exceptions=True)

    async def started(self, asked: asyncio.Future[Any] | None = None) -> None:
        """Wait until all serve, or `asked` to stop. Raises StartError if one ends before it does."""
        await asyncio.wait([self._first, *([asked] if asked else [])], return_when=asyncio.FIRST_COMPLETED)
        if self._first.done():
            self._first.result()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(limits.LINK_BEAT_S)
            self.look()
            for worker in self._alive:
                worker.check()

    async def _keep(self, number: int) -> None:
        pause_s, lives = limits.WORKER_AGAIN_MIN_S, 0
        while not self._stopping.is_set():
            began_s = time.monotonic()
            try:
                how, why = await self._live(number)
            except OSError as error:  # no process to be had, no memory, no file descriptor
                how, why = "start", str(error)
            self._environment.free_readers()
            if self._stopping.is_set():
                return
            self.ended[how] += 1
            if number not in self._up:
                lives += 1
                self._despair(number, why, is_hopeless=why == CANNOT_START or lives == limits.WORKER_STARTS)
            if time.monotonic() - began_s > limits.WORKER_SETTLED_S:
                pause_s = limits.WORKER_AGAIN_MIN_S
            log.warning("worker ended, another one is started", worker=number, why=why, pause_s=pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
            pause_s = min(2 * pause_s, limits.WORKER_AGAIN_MAX_S)

    def _despair(self, number: int, why: str, *, is_hopeless: bool) -> None:
        """Of a worker that has never served: nobody would serve here, or fewer than was asked for."""
        if is_hopeless and not self._first.done():
            self._first.set_exception(StartError(f"worker {number} does not start ({why}); its own lines say more"))

    async def _live(self, number: int) -> tuple[str, str]:
        """One life; how it ended, in one word and in some."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs, contextlib.ExitStack() as undone:
            undone.callback(ours.close)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "registry.server.worker", self._config.name, str(number)),
                stdin=theirs.fileno(),
            )
            undone.pop_all()
        worker = _Worker(number, process, self)
        self._alive.append(worker)
        if self._stopping.is_set():
            worker.kill(_NOT_STARTED)
        try:
            ours.setblocking(False)
            await asyncio.get_running_loop().create_unix_connection(lambda: worker.link, sock=ours)
            code = await process.wait()
        finally:
            self._alive.remove(worker)
            if worker in self._running:
                self._running.remove(worker)
            worker.end()
        if worker.why:
            return "killed", worker.why
        return ("signal", f"signal {-code}") if code < 0 else ("exit", f"exit code {code}")

    def greet(self, worker: _Worker) -> None:
        self._follow()
        hello = m.Hello(RELEASE, encode_config(self._config), self._place, self._feed.registry, self._state())
        worker.link.tell(hello)
        self._running.append(worker)

    async def stop(self, timeout_s: float) -> None:
        """Let them end their calls; those that have not ended in time are killed, and those that have no calls yet at
        once."""
        self._stopping.set()
        for worker in self._alive:
            if worker in self._running:
                worker.link.send(m.Drain())
            else:
                worker.kill(_NOT_STARTED)
        if self._lives:
            await asyncio.wait(self._lives, timeout=timeout_s)

    # ---- what they say
    def heard(self, number: int, message: m.Vitals | m.Damage) -> None:
        match message:
            case m.Vitals():
                self._up.add(number)
                if len(self._up) == self._config.workers and not self._first.done():
                    self._first.set_result(None)
                self._counters.calls.grow(message.growth)
                self._counters.delivery.grow(message.delivered)
            case m.Damage(what=what):
                self._repairs.note(what)

    def answering(self, link: Link[m.Up]) -> Answering:
        return Answering(link, cluster=self._cluster, unary=self._unary, streams=self._streams, repairs=self._repairs)


class _Worker:
    """One process. What it says besides what it asks goes to `workers`."""

    def __init__(self, number: int, process: asyncio.subprocess.Process, workers: Workers) -> None:
        self.process = process
        self.polls = self.watches = 0
        self.why = ""
        self.link: Link[m.Up] = Link(m.decode_up, self._receive, self._lost)
        self._number, self._workers = number, workers
        self._answering = workers.answering(self.link)
        self._beats_left = _beats(limits.WORKER_START_S)

    def check(self) -> None:
        """At every beat. A member that stood still itself counts no time: what was said meanwhile is not read yet."""
        self._beats_left -= 1
        if self._beats_left < 0:
            self.kill("it gives no sign of life")

    def kill(self, why: str) -> None:
        if self.process.returncode is None:
            self.why = self.why or why
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()

    def end(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        self.link.close("")
        self._answering.close()

    def _receive(self, message: m.Up) -> None:
        match message:
            case m.Vitals():
                self._beats_left = _beats(limits.WORKER_SILENT_S)
                self.polls, self.watches = message.polls, message.watches
                self._workers.heard(self._number, message)
            case m.Ready():
                self._workers.greet(self)
            case m.Damage():
                self._workers.heard(self._number, message)
            case _:
                self._answering.receive(message)

    def _lost(self, why: str) -> None:
        """It ends by itself when its socket is closed; if not, it cannot be reached any more."""
        asyncio.get_running_loop().call_later(limits.LINK_MARGIN_S, self.kill, f"its socket was closed: {why}")


def _beats(seconds: float) -> int:
    return round(seconds / limits.LINK_BEAT_S)

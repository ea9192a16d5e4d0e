"""One machine with one agent, its disk, its commands, and the registry it follows, in virtual time."""

from __future__ import annotations

import asyncio
import os
import re
import traceback
from collections import Counter
from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import structlog

from registry.agent import runner
from registry.agent.agent import Agent
from registry.agent.config import AgentConfig, FollowSpec, HookSpec
from registry.agent.home import HomeError
from registry.agent.probe import ProbeSpec
from registry.agent.targets.directory import DirectorySpec
from registry.agent.targets.exec_ import ExecSpec
from registry.agent.targets.file import FileSpec
from tests.simulation.agent.checkers import Checkers
from tests.simulation.agent.disk import Crash, Disk
from tests.simulation.agent.loop import VirtualLoop
from tests.simulation.agent.machine import Machine
from tests.simulation.agent.network import Network
from tests.simulation.agent.registry import Key, Registry

START_MS = 1_700_000_000_000
_KEY = re.compile("directories/[0-9a-f]{16}")
BLOCK_S = 0.02  # the longest that a call of the disk takes
FACTS = {"dify": "1.9.2", "cap:gpu": ""}


def config_of(rng: Random, root: Path) -> AgentConfig:
    places = root / "disk" / "srv"

    def target(number: int) -> FileSpec | DirectorySpec | ExecSpec:
        specs: list[FileSpec | DirectorySpec | ExecSpec] = [
            FileSpec(places / f"w{number}.yml"),
            FileSpec(places / f"w{number}.yml"),
            DirectorySpec(places / "all", f"w{number}.yml"),
            ExecSpec("install", shows=rng.choice(["", "shows"]), timeout_s=20),
        ]
        return rng.choice(specs)

    def hooks() -> HookSpec:
        return HookSpec(
            reload=rng.choice(["", "reload"]),
            probe=rng.choice(
                [None, ProbeSpec("probe", failures=2), ProbeSpec("probe", start_delay_s=1, smoke=("smoke",))]
            ),
            pre_check=rng.choice(["", "", "pre-check"]),
            post=rng.choice(["", "", "post"]),
        )

    follows = tuple(
        FollowSpec(f"team/w{number}", "active", target(number), hooks()) for number in range(rng.choice([1, 2, 2, 4]))
    )
    return AgentConfig(
        name="edge-1",
        site="eu-1",
        state_dir=root / "disk" / "state",
        follows=follows,
        facts=FACTS,
        namespaces=rng.choice([(), ("team",)]),
    )


class World:
    def __init__(self, seed: int, root: Path) -> None:
        self.rng = Random(f"agent {seed}")
        self.loop = VirtualLoop(Random(f"loop {seed}"), BLOCK_S)
        self.disk = Disk(root, Random(f"disk {seed}"))
        self.config = config_of(Random(f"config {seed}"), root)
        self.skew_ms = 0
        self.registry = Registry(Random(f"registry {seed}"))
        self.machine = Machine(Random(f"machine {seed}"), self.disk, self.crash)
        self.checkers = Checkers(self.config, self.registry, self.machine, self.disk, self.wall_ms, self.loop.time)
        self.network = Network(Random(f"network {seed}"), self.registry, self.disk, self.checkers)
        self.trace: list[tuple[float, str]] = []
        self.faults: Counter[str] = Counter()
        self.crashes = 0
        self._ids = self._refused = 0
        self._root = root
        self._agent: Agent | None = None
        self._task: asyncio.Task[None] | None = None
        self.disk.at_change = self.checkers.changed
        self.disk.at_sync = self.checkers.synced
        self.disk.at_crash = lambda what: self.note(f"stops at {what}")
        self.machine.at_command = self.checkers.commanded
        self.machine.note = self.note

    @property
    def now_s(self) -> float:
        return self.loop.time()

    @property
    def keys(self) -> list[Key]:
        return [(spec.workflow, spec.pointer) for spec in self.config.follows]

    @property
    def runs(self) -> bool:
        return self._task is not None

    def wall_ms(self) -> int:
        return START_MS + round(self.loop.time() * 1000) + self.skew_ms

    def note(self, what: str) -> None:
        """Without what differs between two runs of a seed: the directory, and names that are made of it."""
        self.trace.append((self.now_s, _KEY.sub("directories/KEY", what.replace(str(self._root), ""))))

    def jump(self, by_ms: int) -> None:
        self.skew_ms += by_ms
        self.checkers.jumped(by_ms)
        self.checkers.latest_ms = max(self.checkers.latest_ms, self.wall_ms())
        self.note(f"the clock is set by {by_ms / 1000:.0f} s")

    # The agent's lives

    def start(self) -> None:
        self.disk.is_dead = False
        self.checkers.restarted()
        random = Random(self.rng.random())
        self._agent = Agent(self.config, self.network, random=random, clock_ms=self._read_clock, new_id=self._new_id)
        self._refused = self.disk.refused
        self._task = self.loop.create_task(self._agent.run())
        self.note("starts")

    async def stop(self) -> None:
        """As SIGTERM does."""
        if self._agent is not None and self._task is not None:
            self.note("is stopped")
            self._agent.stop()
            await asyncio.wait([self._task])
            await asyncio.sleep(BLOCK_S)  # asyncio.run waits for its threads
            await self.buried()

    def crash(self, what: str) -> None:
        """Right now."""
        self.disk.is_dead = True
        self.note(f"stops at {what}")

    async def advance(self, seconds: float) -> None:
        """Lets it run; an agent that ended is buried and started again a while later."""
        end_s = self.now_s + seconds
        while self.now_s < end_s and not self.checkers.violation:
            if self._task is None:
                await asyncio.sleep(min(self.rng.choice([0.1, 2.0]), end_s - self.now_s))
                self.start()
                continue
            await self._while_running(end_s)
            if self.disk.is_dead or self._task.done():
                await self.buried()

    async def _while_running(self, end_s: float) -> None:
        """In small steps while it may crash, so that a dead process does nothing for long."""
        if self._task is None:
            return
        await asyncio.wait([self._task], timeout=min(3.0, end_s - self.now_s))
        self.checkers.latest_ms = max(self.checkers.latest_ms, self.wall_ms())
        if not self.disk.is_dead and not self.checkers.violation:
            self.checkers.look()

    async def buried(self) -> None:
        """Nothing of the process is left; after a loss of power, nothing that was not synced."""
        task, self._task = self._task, None
        if task is None:
            return
        crashed, self.disk.is_dead = self.disk.is_dead, True
        mine = asyncio.current_task()
        others = sorted((each for each in asyncio.all_tasks() if each is not mine), key=asyncio.Task.get_name)
        for each in others:
            each.cancel()
        await asyncio.gather(task, *others, return_exceptions=True)
        await asyncio.sleep(2 * BLOCK_S)  # what its threads still wanted meets a dead disk
        if crashed:
            self.crashes += 1
            if self.rng.random() < 0.5:
                self.note(f"power is lost, and {self.disk.lose_power()} changes with it")
            return
        problem = task.exception() if not task.cancelled() else None
        if problem is not None:
            self._explain(problem)

    def _explain(self, problem: BaseException) -> None:
        """The agent ended by itself: only a damaged file of the state directory is a reason."""
        problem = _innermost(problem)
        if isinstance(problem, HomeError) and self.checkers.damaged_records:
            self.note(f"refuses to start: {problem}")
            for path in sorted(self.checkers.damaged_records):
                self.note(f"somebody moves {path.name} away")
                with self.disk.aside():
                    path.unlink(missing_ok=True)
            self.checkers.damaged_records.clear()
            return
        if isinstance(problem, HomeError | OSError) and self.disk.refused > self._refused:
            self.note(f"ends: {problem!r}")
            self.faults["ended by the disk"] += 1
            return
        if not self.checkers.violation:
            at = " < ".join(
                f"{each.name}:{each.lineno}" for each in reversed(traceback.extract_tb(problem.__traceback__))
            )
            self.checkers.violation = f"the agent ends by itself: {problem!r} at {at}"

    def _new_id(self) -> str:
        self._ids += 1
        return f"id{self._ids}"

    def _read_clock(self) -> int:
        self.checkers.latest_ms = max(self.checkers.latest_ms, self.wall_ms())
        return self.wall_ms()

    # What stands where the real machine stands

    @contextmanager
    def in_place(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self.disk.in_place())
            stack.enter_context(self._logging())
            real, runner.run = runner.run, self.machine.run
            stack.callback(setattr, runner, "run", real)
            self.loop.set_exception_handler(self._unhandled)
            yield

    @contextmanager
    def _logging(self) -> Iterator[None]:
        """What the agent logs goes into the trace."""
        before = structlog.get_config()
        structlog.configure(
            processors=[self._logged], wrapper_class=structlog.BoundLogger, cache_logger_on_first_use=False
        )
        try:
            yield
        finally:
            structlog.configure(**before)

    def _logged(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> Any:
        text = " ".join(f"{name}={value}" for name, value in event.items() if name != "event")
        self.note(f"  {method}: {event['event']} {text}")
        raise structlog.DropEvent

    def _unhandled(self, loop: object, context: dict[str, Any]) -> None:
        problem = context.get("exception")
        if not isinstance(problem, Crash) and not self.disk.is_dead and not self.checkers.violation:
            self.checkers.violation = f"unhandled in the event loop: {context['message']} {problem!r}"


def _innermost(problem: BaseException) -> BaseException:
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    return problem


def scratch() -> str | None:
    """Where directories of seeds are: in memory, where there is such a place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

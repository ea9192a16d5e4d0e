"""One seed: faults while the registry's pointers move, then healing, convergence, and a last switch of each."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from registry.agent.home import Home
from registry.agent.journal import Failure
from registry.agent.transitions import Code, State
from registry.core import needs
from tests.simulation.agent import faults
from tests.simulation.agent.checkers import Violation
from tests.simulation.agent.faults import Fault
from tests.simulation.agent.registry import Key, Switch
from tests.simulation.agent.world import World, scratch

FAULTS_S, SETTLE_S = 200.0, 900.0
EVERY_S = 6.0  # between two faults, and between two switches
TELLS_OF_A_FAILED_COMMAND = frozenset({Code.PROBE_FAILED, Code.RELOAD_FAILED, Code.CHECK_FAILED, Code.TARGET_FAILED})


@dataclass
class Report:
    seed: int
    violation: str = ""
    steps: int = 0  # of the disk
    crashes: int = 0
    swaps: int = 0
    confirmations: int = 0
    reverts: int = 0
    refusals: Counter[str] = field(default_factory=Counter)  # by code, of what pointers named at the end
    faults: Counter[str] = field(default_factory=Counter)
    trace: list[tuple[float, str]] = field(default_factory=list)  # virtual seconds, what happened
    digest: str = ""  # of the trace


def mix_of(seed: int) -> dict[Fault, float]:
    """Some faults are frequent in a seed and others do not occur: together they would hide each other."""
    rng = Random(f"mix {seed}")
    return {fault: rate * rng.choice([0.0, 0.5, 1.0, 3.0]) for fault, rate in faults.RATES.items()}


class Run:
    def __init__(self, seed: int, *, knob: Callable[[World], None] = lambda world: None) -> None:
        self.report = Report(seed)
        self._mix = mix_of(seed)
        self._knob = knob

    def play(self) -> Report:
        with tempfile.TemporaryDirectory(dir=scratch(), prefix="agent-sim-") as directory:
            world = World(self.report.seed, Path(directory))
            self._knob(world)
            asyncio.set_event_loop(None)
            with world.in_place():
                try:
                    world.loop.run_until_complete(self._play(world))
                except Violation as violation:
                    world.checkers.violation = world.checkers.violation or str(violation)
                finally:
                    world.loop.run_until_complete(world.buried())
                    world.loop.close()
            self._conclude(world)
        return self.report

    def _conclude(self, world: World) -> None:
        report, checkers = self.report, world.checkers
        report.violation, report.trace = checkers.violation, world.trace
        report.steps, report.crashes = world.disk.steps, world.crashes
        report.swaps, report.confirmations, report.reverts = checkers.swaps, checkers.confirmations, checkers.reverts
        report.faults = world.faults + world.network.counts
        report.digest = hashlib.sha256("\n".join(f"{at_s} {what}" for at_s, what in world.trace).encode()).hexdigest()

    async def _play(self, world: World) -> None:
        for key in world.keys:
            faults.switch(world, key)
        world.start()
        await self._trouble(world)
        faults.heal(world)
        await self._until(world, lambda: all(self._settled(world, key) for key in world.keys), "not settled")
        for key in world.keys:
            world.registry.publish(key[0])
            faults.switch_to_newest(world, key)
        await self._until(world, lambda: all(_at_target(world, key) for key in world.keys), "not converged")
        await world.stop()
        with world.disk.aside():
            _check_home(world)

    async def _trouble(self, world: World) -> None:
        kinds, rates = list(self._mix), list(self._mix.values())
        while world.now_s < FAULTS_S:
            await self._advance(world, world.rng.expovariate(1 / EVERY_S))
            if world.rng.random() < 0.4:
                faults.switch(world, world.rng.choice(world.keys))
            if sum(rates):
                (fault,) = world.rng.choices(kinds, rates)
                world.faults[fault.__name__] += 1
                await fault(world)

    async def _until(self, world: World, holds: Callable[[], bool], otherwise: str) -> None:
        end_s = world.now_s + SETTLE_S
        while not holds():
            if world.now_s >= end_s:
                raise Violation(f"{otherwise} after {SETTLE_S:.0f} s: {describe(world)}")
            await self._advance(world, 5.0)

    async def _advance(self, world: World, seconds: float) -> None:
        await world.advance(seconds)
        if world.checkers.violation:
            world.note(f"VIOLATION {world.checkers.violation}")
            raise Violation(world.checkers.violation)

    def _settled(self, world: World, key: Key) -> bool:
        """It shows what the pointer names, or there is a reason why not."""
        if _at_target(world, key, told=False):
            return True
        seen, switch = world.checkers.follows[key], world.registry.now.pointers[key]
        record = seen.record
        if record.state is State.HOLD and world.wall_ms() < switch.not_before_ms:
            return True
        failure = seen.refused.get((switch.epoch, switch.generation))
        if record.state is not State.IDLE or failure is None or not _justified(world, key, switch, failure):
            return False
        self.report.refusals[str(failure.code)] += 1
        return True


def _at_target(world: World, key: Key, *, told: bool = True) -> bool:
    """`told`: the registry knows it, too."""
    seen, switch = world.checkers.follows[key], world.registry.now.pointers[key]
    running, live = seen.record.running, world.checkers.live(seen)
    here = (
        seen.record.state is State.IDLE
        and seen.record.fence == (switch.epoch, switch.generation)
        and running is not None
        and running.digest == switch.digest == live
        and switch.digest not in world.checkers.damaged
    )
    ack = world.checkers.acks.get(key)
    knows = ack is not None and (ack.phase, ack.generation, ack.running_digest) == (
        "confirmed",
        switch.generation,
        switch.digest,
    )
    return here and (knows or not told)


def _justified(world: World, key: Key, switch: Switch, failure: Failure) -> bool:
    if failure.code is Code.EXPIRED:
        return bool(switch.deadline_ms) and world.checkers.latest_ms > switch.deadline_ms
    if failure.code is Code.INCOMPATIBLE:
        return bool(needs.unmet(switch.needs, world.config.facts))
    if failure.code is Code.RESTARTS_EXCEEDED:
        return world.crashes >= 10
    if failure.code is Code.REVERT_FAILED:
        return bool(world.faults["fill"] + world.faults["fail"] + world.machine.failed.total())
    return failure.code in TELLS_OF_A_FAILED_COMMAND and world.machine.failed[key, switch.digest] > 0


def _check_home(world: World) -> None:
    """After an orderly stop with nothing left to say."""
    home = Home(world.config.state_dir)
    if left := home.load_outbox():
        raise Violation(f"{len(left)} acknowledgements are left: {left[0]}")
    for key, seen in world.checkers.follows.items():
        switch = world.registry.now.pointers[key]
        if not home.has_content(switch.digest) or world.checkers.live(seen) != switch.digest:
            raise Violation(f"{key[0]} does not show what it confirmed")


def describe(world: World) -> str:
    told = []
    for key, seen in world.checkers.follows.items():
        switch, record = world.registry.now.pointers[key], seen.record
        told.append(
            f"{key[0]} wants {(switch.epoch, switch.generation)} {switch.digest[7:15]}, is {record.state} at "
            f"{record.fence} running {record.running and record.running.digest[7:15]}, shows "
            f"{(world.checkers.live(seen) or 'nothing')[7:15]}, {record.failure and record.failure.code}, told "
            f"{(ack.phase, ack.generation) if (ack := world.checkers.acks.get(key)) else None}"
        )
    return "; ".join(told)

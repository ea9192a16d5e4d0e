"""One seed: faults under load, then healing, convergence and writes again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random

from cluster.limits import FLOW, LOCAL
from tests.simulation.checkers import Violation
from tests.simulation.faults import RATES, Fault
from tests.simulation.network import between
from tests.simulation.state import Counting, Purging, read_state
from tests.simulation.world import NARROW, SHORT, Setting, World

FAULTS_S, HEAL_S, WRITE_S = 20.0, 10.0, 10.0  # with faults, to converge without load, and again with it
WRITE_EVERY_S = 0.05
NEAR = between(0.0001, 0.003)


@dataclass
class Report:
    seed: int
    voters: int
    violation: str = ""
    writes: int = 0
    reads: int = 0
    terms: int = 0
    ticks: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)  # of membership, by outcome
    installs: int = 0
    trace: list[tuple[float, str]] = field(default_factory=list)  # virtual seconds, what happened
    digest: str = ""  # of every frame delivered and of the state at the end


@dataclass
class Mix:
    """How often, in a second: calls at the members, and each fault."""

    calls: float
    faults: dict[Fault, float]


def setting_of(seed: int, voters: int) -> Setting:
    """Half of the seeds near each other with the production periods, half far apart; half with appends and windows
    that some dozens of entries fill."""
    rng = Random(f"setting {seed}")
    setting = Setting(voters=voters, flow=rng.choice([NARROW, SHORT, FLOW]), sync_s=rng.choice([0.0005, 0.002, 0.01]))
    if rng.random() >= 0.5:
        setting = replace(setting, delay=NEAR, timing=LOCAL)
    return replace(setting, machine=rng.choice([Counting, Counting, Purging]))


def mix_of(seed: int) -> Mix:
    """Some faults are frequent in a seed and others do not occur: together they would hide each other."""
    rng = Random(f"mix {seed}")
    faults = {fault: rate * rng.choice([0.0, 0.5, 1.0, 3.0]) for fault, rate in RATES.items()}
    return Mix(rng.choice([10.0, 30.0, 60.0]), faults)


class Run:
    def __init__(self, seed: int, voters: int = 3, *, setting: Setting | None = None, mix: Mix | None = None) -> None:
        self._mix = mix or mix_of(seed)
        self.world = World(seed, setting or setting_of(seed, voters))
        self.report = Report(seed, self.world.setting.voters)

    def play(self, faults_s: float = FAULTS_S) -> Report:
        world, report = self.world, self.report
        try:
            self._trouble(faults_s)
            world.heal()
            self._recover()
        except Violation as violation:
            report.violation = str(violation)
            world.note(f"VIOLATION {violation}")
        report.writes, report.reads = world.checkers.writes, world.checkers.reads
        report.terms, report.ticks = max(world.checkers.leaders, default=0), world.ticks
        report.changes, report.installs = self.world.clients.changes, world.checkers.installs
        report.failures, report.trace = world.checkers.failures, list(world.trace)
        report.digest = world.network.trace.hexdigest()
        return report

    def _trouble(self, for_s: float) -> None:
        world, rng = self.world, self.world.rng
        faults, rates = list(self._mix.faults), list(self._mix.faults.values())
        end_s, all_s = world.now_s + for_s, sum(rates)
        next_call, next_fault = rng.expovariate(self._mix.calls), rng.expovariate(all_s) if all_s else end_s
        while (now := min(next_call, next_fault)) < end_s:
            world.advance(now - world.now_s)
            if now == next_call:
                next_call += rng.expovariate(self._mix.calls)
                self._call()
            else:
                next_fault += rng.expovariate(all_s)
                (fault,) = rng.choices(faults, rates)
                self.report.faults[fault.__name__] += 1
                fault(world)

    def _call(self) -> None:
        """Some callers give up soon; some calls come together."""
        world, rng = self.world, self.world.rng
        if world.live:
            name = rng.choice(sorted(world.live))
            timeout_s = rng.choice([None, None, rng.uniform(0.01, 3.0)])
            if rng.random() < 0.4:
                self.world.clients.read(name, timeout_s=timeout_s)
            else:
                for _ in range(rng.choice([1, 1, 1, 8])):
                    self.world.clients.write(name, timeout_s=timeout_s)

    def _recover(self) -> None:
        """All converge; writes go on, which settles what a deposed leader still had in its log, until every call made
        before has its answer; all converge again."""
        world, clients, checkers = self.world, self.world.clients, self.world.checkers
        world.until(world.converged, HEAL_S, "not converged")
        end_s = world.now_s + WRITE_S
        before, waiting = checkers.writes, clients.unanswered()
        while checkers.writes < before + len(world.members()) or waiting & clients.unanswered():
            if world.now_s >= end_s:
                clients.check_answered(waiting)
                raise Violation(f"no writes in {WRITE_S:.0f} s: {world.describe()}")
            clients.write(world.rng.choice(world.members()))
            clients.read(world.rng.choice(world.members()))
            world.advance(WRITE_EVERY_S)
        world.until(lambda: world.converged() and not clients.unanswered(), end_s - world.now_s, "not at rest again")
        for name in world.members():
            if world.live[name].replica.journal.forgetting:
                raise Violation(f"{name} still holds what is to be forgotten: {world.describe()}")
            with world.disks[name].snapshot() as snapshot:
                generation, digest = read_state(snapshot)
                checkers.survivors(generation)
                world.network.trace.update(digest)

"""Run seeds: faults, then healing, then convergence and writes again.

python -m tests.simulation.run [--seeds N] [--first SEED] [--seed SEED] [--voters N]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from cluster.api import StateMachine
from cluster.limits import FLOW
from tests.simulation.checkers import Checkers, Violation
from tests.simulation.world import NARROW, STEP_S, Counting, Disk, World, read_state

FAULTS_S, CONVERGE_S, WRITE_S = 20.0, 20.0, 10.0
DELAYS_S = [0.001, 0.002, 0.01, 0.05, 0.3]


@dataclass
class Report:
    seed: int
    violation: str = ""
    writes: int = 0
    reads: int = 0
    terms: int = 0
    events: Counter[str] = field(default_factory=Counter)
    trace: list[str] = field(default_factory=list)
    digest: str = ""  # of every frame delivered and of the state at the end


class Run:
    """One seed; every other one with appends and windows that some dozens of entries fill."""

    def __init__(
        self,
        seed: int,
        voters: int = 3,
        *,
        disk: Callable[[], Disk] = Disk,
        machine: Callable[[str, Checkers], StateMachine] = Counting,
    ) -> None:
        flow = NARROW if seed % 2 else FLOW
        self.world = World(seed, voters, delays_s=DELAYS_S, flow=flow, disk=disk, machine=machine)
        self.report = Report(seed)
        self._written = 0

    def play(self, faults_s: float = FAULTS_S) -> Report:
        world, report = self.world, self.report
        try:
            for _ in range(int(faults_s / STEP_S)):
                world.advance()
                self._load()
                self._fault()
            world.heal()
            self._note("healed")
            self._until(world.converged, CONVERGE_S, "not converged")
            before = world.checkers.writes
            self._until(lambda: world.checkers.writes > before and world.converged(), WRITE_S, "no writes", write=True)
            for name in world.names:
                with world.disks[name].snapshot() as snapshot:
                    generation, digest = read_state(snapshot)
                    world.checkers.survivors(generation)
                    world.network.trace.update(digest)
        except Violation as violation:
            report.violation = str(violation)
        report.writes, report.reads = world.checkers.writes, world.checkers.reads
        report.terms = max(world.checkers.leaders, default=0)
        report.digest = world.network.trace.hexdigest()
        return report

    def _until(self, reached: Callable[[], bool], limit_s: float, what: str, *, write: bool = False) -> None:
        for step in range(int(limit_s / STEP_S)):
            self.world.advance()
            if write and step % 50 == 0:
                self._write(self.world.rng.choice(self.world.names))
            if step % 20 == 19 and reached():
                return
        raise Violation(f"{what} in {limit_s:.0f} s: {self.world.describe()}")

    def _write(self, name: str) -> None:
        self._written += 1
        self.world.write(name, b"%d" % self._written)

    def _load(self) -> None:
        world, rng = self.world, self.world.rng
        for name in sorted(world.live):
            if rng.random() < 0.25:
                self._write(name)
            if rng.random() < 0.15:
                world.read(name)

    def _fault(self) -> None:
        world, rng = self.world, self.world.rng
        names, network = world.names, world.network
        dice = rng.random()
        if dice < 0.004:
            victim = rng.choice(names)
            if victim in world.live:
                world.disks[victim].crash_at = rng.choice(["before", "after"])
                self._note(f"{victim} crashes {world.disks[victim].crash_at} a commit")
        elif dice < 0.014:
            pair = rng.sample(names, 2)
            network.cut(*pair)
            self._note(f"cut {pair}")
        elif dice < 0.034:
            network.mend(*rng.sample(names, 2))
        elif dice < 0.036:
            a, b = rng.sample(names, 2)
            network.one_way.add((a, b))
            self._note(f"{a} to {b} drops")
        elif dice < 0.044:
            network.one_way.clear()
        elif dice < 0.0445:
            for name in list(world.live):
                world.stop(name)
            self._note("power loss of all")
        elif dice < 0.046 and world.leaders():
            leader = rng.choice(world.leaders())
            leader.hand_over(world.clock.now_s + 0.8)
            self._note(f"{leader.name} hands over")
        down = [name for name in names if name not in world.live]
        if down and rng.random() < 0.02:
            world.start(down[0])
            self._note(f"{down[0]} starts")

    def _note(self, event: str) -> None:
        self.report.events[event.split()[-1]] += 1
        self.report.trace.append(f"{self.world.clock.now_s - 1000:7.2f} s  {event}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--voters", type=int, default=3)
    options = parser.parse_args()
    seeds = [options.seed] if options.seed is not None else range(options.first, options.first + options.seeds)
    started, failed, totals = time.monotonic(), 0, Counter[str]()
    for seed in seeds:
        report = Run(seed, options.voters).play()
        totals.update(writes=report.writes, reads=report.reads, terms=report.terms)
        if report.violation:
            failed += 1
            print(f"seed {seed}, {options.voters} voters: {report.violation}")
            print("\n".join(report.trace[-20:]))
    took_s = time.monotonic() - started
    print(
        f"{len(seeds)} seeds, {options.voters} voters: {failed} violated; {totals['writes']} acknowledged writes, "
        f"{totals['reads']} reads, {totals['terms'] / len(seeds):.1f} terms a seed; {took_s:.1f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

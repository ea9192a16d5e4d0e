"""Voters in three datacenters: how long do writes take, and does a leader stay while the network jitters?

80 ms of round trip and 20 ms of jitter on it; with disconnects, each link loses its connections once a minute.

python -m tests.simulation.wide_area [--minutes N] [--seed SEED]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations

from cluster.limits import WIDE_AREA, Timing
from tests.simulation.clients import Clients
from tests.simulation.network import between
from tests.simulation.world import Setting, World

ROUND_TRIP_S, JITTER_S = 0.080, 0.020
DELAY = between((ROUND_TRIP_S - JITTER_S) / 2, (ROUND_TRIP_S + JITTER_S) / 2)
DISCONNECTED_S = (0.2, 1.0)  # until a connection stands again: dialling, TLS and the handshake are some round trips
WRITE_EVERY_S = 0.5
SETTLE_S = 10.0


@dataclass
class Report:
    minutes: float
    elections: int = 0  # after the first
    disconnects: int = 0
    at_leader_s: list[float] = field(default_factory=list)
    at_follower_s: list[float] = field(default_factory=list)
    failed: int = 0

    def describe(self) -> str:
        return (
            f"{self.minutes:.0f} virtual minutes, {self.disconnects} disconnects: {self.elections} elections; writes "
            f"{_percentiles(self.at_leader_s)} at the leader, {_percentiles(self.at_follower_s)} at a follower; "
            f"{self.failed} writes failed"
        )


def _percentiles(latencies_s: list[float]) -> str:
    cuts = statistics.quantiles(latencies_s, n=100)
    return f"p50 {cuts[49] * 1000:.0f} ms, p99 {cuts[98] * 1000:.0f} ms"


class WideArea:
    def __init__(self, seed: int, timing: Timing = WIDE_AREA) -> None:
        self.world = World(seed, Setting(voters=3, delay=DELAY, timing=timing))
        self._clients = Clients(self.world)

    def play(self, minutes: float, *, disconnects: bool) -> Report:
        world, report = self.world, Report(minutes)
        world.until(lambda: bool(world.leaders()), SETTLE_S, "no leader")
        world.advance(SETTLE_S)
        end_s, first_term = world.now_s + 60.0 * minutes, max(world.checkers.leaders)
        if disconnects:
            for pair in combinations(world.names, 2):
                world.after(world.rng.expovariate(1 / 60.0), partial(self._disconnect, *pair, end_s, report))
        while world.now_s < end_s:
            for name in world.names:
                told = report.at_leader_s if name in world.leaders() else report.at_follower_s
                self._clients.write(name, told=told.append)
            world.advance(WRITE_EVERY_S)
        report.elections = max(world.checkers.leaders) - first_term
        report.failed = sum(world.checkers.failures.values())
        return report

    def _disconnect(self, a: str, b: str, end_s: float, report: Report) -> None:
        world = self.world
        if world.now_s < end_s:
            report.disconnects += 1
            world.network.cut(a, b)
            world.after(world.rng.uniform(*DISCONNECTED_S), partial(world.network.mend, a, b))
            world.after(world.rng.expovariate(1 / 60.0), partial(self._disconnect, a, b, end_s, report))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for disconnects in (False, True):
        started = time.monotonic()
        report = WideArea(options.seed).play(options.minutes, disconnects=disconnects)
        print(f"{report.describe()} ({time.monotonic() - started:.0f} s)", flush=True)
        if not disconnects and (report.elections or report.failed):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

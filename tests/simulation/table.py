"""PySyncObj as shipped and under the guards, in the same network: in how many seeds do all members converge?

Cuts and restarts for a virtual minute under load, no lost writes; then healed, and 20 seconds to converge.

python -m tests.simulation.table [--seeds N] [--base SEED] [--jobs N]
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from cluster.limits import Flow
from tests.simulation.checkers import Violation
from tests.simulation.clients import Clients
from tests.simulation.faults import cut, restart
from tests.simulation.network import Delay, between
from tests.simulation.shipped import PerfectDisk, ShippedProcess
from tests.simulation.world import TIGHT, Setting, World

FAULTS_S, CONVERGE_S = 60.0, 20.0
WRITES_A_SECOND, CUTS_A_SECOND, RESTARTS_A_SECOND = 25.0, 1.0, 0.3
NEAR, FAR = between(0.001, 0.01), between(0.001, 0.3)


@dataclass(frozen=True)
class Row:
    title: str
    voters: int
    delay: Delay
    batch_bytes: int


ROWS = (
    Row("3 nodes, delay 1-300 ms, 64 KiB batches", 3, FAR, 65536),
    Row("5 nodes, delay 1-300 ms, 400-byte batches", 5, FAR, 400),
    Row("5 nodes, delay 1-10 ms, 400-byte batches", 5, NEAR, 400),
)


def shipped(row: Row, seed: int) -> str:
    """Empty: it converged."""
    logging.disable(logging.CRITICAL)  # it logs each truncation of what it has applied
    try:
        setting = Setting(voters=row.voters, delay=row.delay, shared_connections=True, disk=PerfectDisk)
        world = World(seed, setting, partial(_start_shipped, row.batch_bytes))
        return _play(world, lambda name: world.live[name].write())
    finally:
        logging.disable(logging.NOTSET)


def _start_shipped(batch_bytes: int, world: World, name: str) -> ShippedProcess:
    return ShippedProcess(world, name, batch_bytes=batch_bytes)


def guarded(row: Row, seed: int) -> str:
    flow = Flow(append_bytes=row.batch_bytes)
    world = World(seed, Setting(voters=row.voters, delay=row.delay, timing=TIGHT, flow=flow))
    return _play(world, Clients(world).write)


def _play(world: World, write: Callable[[str], None]) -> str:
    rng = world.rng
    rates = {write: WRITES_A_SECOND, cut: CUTS_A_SECOND, restart: RESTARTS_A_SECOND}
    try:
        while world.now_s < FAULTS_S:
            world.advance(rng.expovariate(sum(rates.values())))
            (what,) = rng.choices(list(rates), list(rates.values()))
            if what is not write:
                what(world)
            elif world.live:
                write(rng.choice(sorted(world.live)))
        world.heal()
        world.until(world.converged, CONVERGE_S, "not converged")
    except Violation as violation:
        return str(violation)
    return ""


def _fails(job: tuple[str, int, int]) -> bool:
    engine, row, seed = job
    return bool((shipped if engine == "shipped" else guarded)(ROWS[row], seed))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200, help="under the guards")
    parser.add_argument("--shipped", type=int, default=60, help="as shipped; one takes longer and most fail alike")
    parser.add_argument("--base", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    print(f"seeds from {options.base} on that did not converge within {CONVERGE_S:.0f} s")
    print(f"{'setting':<44}{'as shipped':>14}{'guarded':>14}{'seconds':>9}")
    failed = 0
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for number, row in enumerate(ROWS):
            started = time.monotonic()
            told = []
            for engine, seeds in (("shipped", options.shipped), ("guarded", options.seeds)):
                jobs = [(engine, number, options.base + seed) for seed in range(seeds)]
                told.append(sum(pool.imap_unordered(_fails, jobs, chunksize=2)))
            failed += told[1]
            columns = f"{f'{told[0]} of {options.shipped}':>14}{f'{told[1]} of {options.seeds}':>14}"
            print(f"{row.title:<44}{columns}{time.monotonic() - started:>9.0f}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

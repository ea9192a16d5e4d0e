"""Seeds that keep every promise, and break one without a rule. Which seed shows it changes with cluster/ and with the
simulator: look for another one with

python -m tests.simulation.necessary RULE [--seeds N] [--base SEED] [--jobs N]
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass

from tests.simulation import faults, rules
from tests.simulation.play import Mix, Run
from tests.simulation.run import pool_of
from tests.simulation.world import NARROW, Setting

STALLS = Mix(60.0, {faults.stall: 2.0, faults.drop: 1.0, faults.hand_over: 0.3, faults.swallow: 0.5})


@dataclass(frozen=True)
class Shown:
    """By a seed of three voters: `violation` is how it begins."""

    seed: int
    violation: str
    stalls: bool = False  # far apart, with small windows, and hardly a fault but frames that are late or lost


SHOWN = {
    "sync": Shown(24, "two leaders"),
    "clamp": Shown(57, "states diverge"),
    "readnoop": Shown(4, "stale read"),
    "readround": Shown(42, "stale read"),
    "heartbeat": Shown(69, "states diverge"),
    "withdraw": Shown(0, "not attempted, and applied"),
    "unanswered": Shown(0, "not attempted, and applied"),
    "appended": Shown(59, "not converged"),
    "barrier": Shown(213, "not converged"),
    "skip": Shown(5, "not converged", stalls=True),
    "progress": Shown(4, "not converged", stalls=True),
}


def play(rule: str, seed: int, *, without: bool) -> str:
    run = Run(seed, setting=Setting(flow=NARROW), mix=STALLS) if SHOWN[rule].stalls else Run(seed)
    if not without:
        return run.play().violation
    with rules.without(rule):
        return run.play().violation


def both(rule: str, seed: int | None = None) -> tuple[str, int, str, str]:
    """The rule, the seed, and the violations with and without."""
    seed = SHOWN[rule].seed if seed is None else seed
    return rule, seed, play(rule, seed, without=False), play(rule, seed, without=True)


def _both(job: tuple[str, int]) -> tuple[str, int, str, str]:
    return both(*job)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rule", choices=SHOWN)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--base", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    found = 0
    with pool_of(options.jobs) as pool:
        jobs = [(options.rule, options.base + seed) for seed in range(options.seeds)]
        for _, seed, kept, violated in pool.imap(_both, jobs):
            if violated and not kept:
                found += 1
                print(f"{seed}: {violated[:100]}", flush=True)
    print(f"{found} of {options.seeds} seeds show it")
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())

"""Play fresh seeds of the agent, or replay one with its whole trace. A seed that fails is kept in failed_seeds.txt.

python -m tests.simulation.agent.run [--seeds N] [--base SEED] [--seed SEED] [--jobs N]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.simulation.agent.play import Report, Run
from tests.simulation.run import commit, fresh_base, pool_of

FAILED = Path(__file__).with_name("failed_seeds.txt")
LAST_EVENTS = 60


def play(seed: int) -> Report:
    report = Run(seed).play()
    if not report.violation:
        report.trace.clear()  # long, and nobody reads it
    return report


def play_all(seeds: Iterable[int], jobs: int) -> Iterator[Report]:
    """In any order."""
    with pool_of(jobs) as pool:
        yield from pool.imap_unordered(play, seeds, chunksize=4)


def explain(report: Report, events: int = LAST_EVENTS) -> str:
    """What failed, how it came to it, and how to see it again."""
    lines = [f"{at_s:9.4f} s  {event}" for at_s, event in report.trace[-events:]]
    return "\n".join(
        [
            f"agent seed {report.seed}, commit {commit()}: {report.violation or 'no violation'}",
            f"last {len(lines)} events, in virtual seconds:" if report.violation else "events, in virtual seconds:",
            *lines,
            f"replay: make sim-agent SEED={report.seed}",
        ]
    )


def keep(report: Report, path: Path = FAILED) -> None:
    if report.seed not in failed_seeds(path):
        violation = report.violation.split("\n")[0][:200]
        with path.open("a") as file:
            file.write(f"{report.seed} {commit()} {violation}\n")


def failed_seeds(path: Path = FAILED) -> list[int]:
    return [int(line.split()[0]) for line in path.read_text().splitlines() if line and not line.startswith("#")]


def replay(seed: int) -> int:
    report = Run(seed).play()
    print(explain(report, events=len(report.trace)))
    if report.violation:
        keep(report)
    return 1 if report.violation else 0


def search(base: int, seeds: int, jobs: int) -> int:
    print(f"base seed {base}, commit {commit()}, {jobs} processes", flush=True)
    started, totals, faults, failed = time.monotonic(), Counter[str](), Counter[str](), 0
    for done, report in enumerate(play_all(range(base, base + seeds), jobs), 1):
        faults.update(report.faults)
        totals.update(
            steps=report.steps,
            crashes=report.crashes,
            swaps=report.swaps,
            confirmations=report.confirmations,
            reverts=report.reverts,
            refused=sum(report.refusals.values()),
        )
        if report.violation:
            failed += 1
            keep(report)
            print(f"\n{explain(report)}\n", flush=True)
        took_s = time.monotonic() - started
        if sys.stdout.isatty():
            print(f"\r{done} of {seeds} seeds, {failed} failed, {done / took_s:.1f} a second ", end="", flush=True)
    took_s = time.monotonic() - started
    print(
        f"\r{seeds} seeds in {took_s:.1f} s, {seeds / took_s:.1f} a second: {failed} failed; {totals['steps']} steps "
        f"of the disk, {totals['crashes']} crashes, {totals['swaps']} swaps, {totals['confirmations']} confirmations, "
        f"{totals['reverts']} reverts, {totals['refused']} refused for good\n"
        f"faults: {', '.join(f'{faults[name]} {name}' for name in sorted(faults))}"
    )
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="replay this one and print its whole trace")
    parser.add_argument("--seeds", type=int, default=500, help="how many fresh ones")
    parser.add_argument("--base", type=int, help="the first of them; taken from the system without it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.seed is not None:
        return replay(options.seed)
    base = fresh_base() if options.base is None else options.base
    return search(base, options.seeds, options.jobs)


if __name__ == "__main__":
    sys.exit(main())

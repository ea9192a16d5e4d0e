"""Play fresh seeds, or replay one with its whole trace. A seed that fails is kept in failed_seeds.txt.

python -m tests.simulation.run [--seeds N] [--base SEED] [--seed SEED] [--voters N] [--jobs N]
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing.pool
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.simulation.play import Report, Run

FAILED = Path(__file__).with_name("failed_seeds.txt")
LAST_EVENTS = 40
VOTERS = (3, 3, 3, 5, 4)  # of the seeds in turn, unless it is given
Played = tuple[int, int]  # seed, voters


def play(played: Played) -> Report:
    report = Run(*played).play()
    if not report.violation:
        report.trace.clear()  # long, and nobody reads it
    return report


def play_all(seeds: Iterable[Played], jobs: int) -> Iterator[Report]:
    """In any order."""
    with pool_of(jobs) as pool:
        yield from pool.imap_unordered(play, seeds, chunksize=4)


@contextmanager
def pool_of(jobs: int) -> Iterator[multiprocessing.pool.Pool]:
    """Every worker is a process of its own, since an engine's clock belongs to its process."""
    quiet = (logging.CRITICAL,)  # faults make members log; the trace of a seed says more
    pool = multiprocessing.get_context("spawn").Pool(jobs, logging.disable, quiet)
    try:
        yield pool
        pool.close()
    except BaseException:
        pool.terminate()
        raise
    finally:
        pool.join()


def fresh_base() -> int:
    return int.from_bytes(os.urandom(5), "big")


def fresh(base: int, seeds: int, voters: int | None = None) -> list[Played]:
    return [(base + number, voters or VOTERS[number % len(VOTERS)]) for number in range(seeds)]


def commit() -> str:
    """The commit that plays, `-dirty` with changes of its own; a seed means the same only there."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return told.stdout.strip() or "unknown"


def explain(report: Report, events: int = LAST_EVENTS) -> str:
    """What failed, how it came to it, and how to see it again."""
    lines = [f"{at_s:9.4f} s  {event}" for at_s, event in report.trace[-events:]]
    return "\n".join(
        [
            f"seed {report.seed}, {report.voters} voters, commit {commit()}: {report.violation or 'no violation'}",
            f"last {len(lines)} events, in virtual seconds:" if report.violation else "events, in virtual seconds:",
            *lines,
            f"replay: make sim SEED={report.seed} VOTERS={report.voters}",
        ]
    )


def keep(report: Report, path: Path = FAILED) -> None:
    if (report.seed, report.voters) not in failed_seeds(path):
        violation = report.violation.split("\n")[0][:200]
        with path.open("a") as file:
            file.write(f"{report.seed} {report.voters} {commit()} {violation}\n")


def failed_seeds(path: Path = FAILED) -> list[Played]:
    rows = [line.split() for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return [(int(seed), int(voters)) for seed, voters, *_ in rows]


def replay(seed: int, voters: int) -> int:
    report = Run(seed, voters).play()
    print(explain(report, events=len(report.trace)))
    if report.violation:
        keep(report)
    return 1 if report.violation else 0


def search(base: int, seeds: int, voters: int | None, jobs: int) -> int:
    print(f"base seed {base}, commit {commit()}, {jobs} processes")
    started, totals, changes, failed = time.monotonic(), Counter[str](), Counter[str](), 0
    for done, report in enumerate(play_all(fresh(base, seeds, voters), jobs), 1):
        changes.update(report.changes)
        totals.update(writes=report.writes, reads=report.reads, terms=report.terms, installs=report.installs)
        totals.update(report.faults)
        if report.violation:
            failed += 1
            keep(report)
            print(f"\n{explain(report)}\n")
        took_s = time.monotonic() - started
        if sys.stdout.isatty():
            print(f"\r{done} of {seeds} seeds, {failed} failed, {done / took_s:.1f} a second ", end="", flush=True)
    took_s = time.monotonic() - started
    faults = _told(totals, but={"writes", "reads", "terms", "installs"})
    print(
        f"\r{seeds} seeds in {took_s:.1f} s, {seeds / took_s:.1f} a second: {failed} failed; {totals['writes']} "
        f"acknowledged writes, {totals['reads']} reads, {totals['installs']} states installed, "
        f"{totals['terms'] / seeds:.1f} terms a seed\nfaults: {faults}\nchanges: {_told(changes)}"
    )
    return 1 if failed else 0


def _told(counts: Counter[str], but: frozenset[str] | set[str] = frozenset()) -> str:
    return ", ".join(f"{counts[name]} {name}" for name in sorted(counts.keys() - but))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="replay this one and print its whole trace")
    parser.add_argument("--seeds", type=int, default=500, help="how many fresh ones")
    parser.add_argument("--base", type=int, help="the first of them; taken from the system without it")
    parser.add_argument("--voters", type=int, help="3 for a replay; fresh seeds have 3, 4 and 5 in turn")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.seed is not None:
        return replay(options.seed, options.voters or 3)
    base = fresh_base() if options.base is None else options.base
    return search(base, options.seeds, options.voters, options.jobs)


if __name__ == "__main__":
    sys.exit(main())

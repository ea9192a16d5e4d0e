"""Every claim about speed and size, each beside a peer in the same run where there is one.

    python -m bench [NAME ...] [--rounds N] [--write]        (make bench: all of them)
    python -m bench --check                                  (make bench-check: two minutes)

`--write` keeps what was found in bench/RESULTS.md and results.jsonl; `--check` compares a few ratios with the newest of
those. What each question measures stands in its file, what profilers said in PROFILES.md.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from bench import calls, check, report
from bench.catch_up import catch_up
from bench.cold_start import cold_start
from bench.compare import compare
from bench.confirm import confirm
from bench.failover import failover
from bench.fan_out import fan_out
from bench.growth import growth
from bench.idle import idle
from bench.long_log import long_log
from bench.member_death import member_death
from bench.report import Row
from bench.resources import load_average
from bench.rounds import ROUNDS
from bench.storage import storage

Question = Callable[[Path, int], Coroutine[Any, Any, list[Row]]]  # (an empty directory, rounds)

QUESTIONS: dict[str, Question] = {
    "switch": calls.switch,
    "read": calls.read,
    "publish": calls.publish,
    "fan_out": fan_out,
    "confirm": confirm,
    "failover": failover,
    "cold_start": cold_start,
    "storage": storage,
    "compare": compare,
    "growth": growth,
    "idle": idle,
    "long_log": long_log,
    "catch_up": catch_up,
    "member_death": member_death,
}


def ask(name: str, question: Question, rounds: int) -> list[Row]:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as directory:  # a real disk, not /tmp in memory
        rows = asyncio.run(question(Path(directory), rounds))
    print(f"\n{name}, {time.monotonic() - began:.0f} s, {load_average()}\n\n{report.table(rows)}", flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", choices=[[], *QUESTIONS], default=[])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each side, default %(default)s")
    parser.add_argument("--write", action="store_true", help="keep what was found")
    parser.add_argument("--check", action="store_true", help="compare a few ratios with the newest that were kept")
    given = parser.parse_args()
    if given.check:
        return check.check()
    rows: list[Row] = []
    for name in given.which or QUESTIONS:
        rows += ask(name, QUESTIONS[name], given.rounds)
    if given.write:
        report.keep(report.section(rows, time.strftime("%Y-%m-%d")))
    return 0


if __name__ == "__main__":
    sys.exit(main())

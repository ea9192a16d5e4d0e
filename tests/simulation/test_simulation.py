"""Fixed and fresh seeds through the production replica; that a seed replays; that every fault happens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.faults import RATES
from tests.simulation.play import Report, Run
from tests.simulation.run import Played, explain, failed_seeds, fresh, fresh_base, play_all

ROOT = Path(__file__).parents[2]
JOBS = os.cpu_count() or 1
FIXED = [
    *((seed, 3) for seed in range(40)),
    *((seed, 5) for seed in range(100, 110)),
    *((seed, 4) for seed in range(5)),
]
FRESH = 200


def kept(seeds: list[Played]) -> list[Report]:
    """Plays them; a violation is explained with its trace."""
    reports = list(play_all(seeds, JOBS))
    violated = [report for report in reports if report.violation]
    assert not violated, "\n\n".join(explain(report) for report in violated)
    return reports


@pytest.mark.timeout(600)
def test_fixed_seeds_keep_every_promise() -> None:
    reports = kept(FIXED)
    assert len(reports) == len(FIXED)
    assert sum(report.writes for report in reports) > 100 * len(FIXED)
    assert sum(report.reads for report in reports) > 50 * len(FIXED)
    faults = {name for report in reports for name in report.faults}
    assert faults == {fault.__name__ for fault in RATES}


@pytest.mark.timeout(600)
def test_fresh_seeds_keep_every_promise() -> None:
    """Other seeds in every run: what fails says how to play it again."""
    kept(fresh(fresh_base(), FRESH))


@pytest.mark.timeout(600)
def test_seeds_that_failed_once_keep_every_promise() -> None:
    kept(failed_seeds())


def test_what_was_planned_is_seen_to_happen() -> None:
    events = [event for seed in (3, 4, 5, 6, 7) for _, event in Run(seed).play().trace]
    for seen in ("crashes in a tick", "its disk is full", "starts", "leads in term", "leads no more", "goes on"):
        assert any(seen in event for event in events), seen


def test_a_seed_replays_bit_by_bit() -> None:
    first, again, other = (Run(seed).play(faults_s=5.0) for seed in (7, 7, 8))
    assert first == again
    assert first.digest != other.digest


def test_a_seed_replays_in_another_process() -> None:
    """Nothing depends on the order of a set or on the seed of str's hash."""
    script = "from tests.simulation.play import Run; print(Run(7).play(faults_s=5.0).digest)"
    told = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == Run(7).play(faults_s=5.0).digest

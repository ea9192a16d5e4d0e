"""Fresh seeds through the production agent; that a seed replays; that every fault happens."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.simulation.agent import run
from tests.simulation.agent.faults import NETWORK, RATES
from tests.simulation.agent.network import LIES
from tests.simulation.agent.play import Report, Run
from tests.simulation.run import fresh_base

ROOT = Path(__file__).parents[3]
JOBS = os.cpu_count() or 1
FRESH = 200


def kept(seeds: Iterable[int]) -> list[Report]:
    """Plays them; a violation is explained with its trace."""
    reports = list(run.play_all(seeds, JOBS))
    violated = [report for report in reports if report.violation]
    assert not violated, "\n\n".join(run.explain(report) for report in violated)
    return reports


@pytest.mark.timeout(300)
def test_fresh_seeds_keep_every_promise() -> None:
    """Other seeds in every run: what fails says how to play it again. All of it together is seen to happen."""
    base = fresh_base()
    reports = kept(range(base, base + FRESH))
    faults = sum((report.faults for report in reports), Counter[str]())
    expected = {*(fault.__name__ for fault in RATES), *NETWORK, *(f"told {lie}" for lie in LIES)}
    assert expected <= faults.keys()
    assert sum(report.crashes for report in reports) > FRESH
    assert sum(report.confirmations for report in reports) > 5 * FRESH
    assert sum(report.reverts for report in reports) > FRESH / 4
    assert sum(report.refusals.total() for report in reports) > FRESH / 20


@pytest.mark.timeout(300)
def test_seeds_that_failed_once_keep_every_promise() -> None:
    kept(run.failed_seeds())


def test_a_seed_replays_bit_by_bit() -> None:
    first, again, other = (Run(seed).play() for seed in (7, 7, 8))
    assert first == again
    assert first.digest != other.digest


def test_a_seed_replays_in_another_process() -> None:
    """Nothing depends on the order of a set or on the seed of str's hash."""
    script = "from tests.simulation.agent.play import Run; print(Run(7).play().digest)"
    told = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == Run(7).play().digest


def test_a_failure_says_what_and_how_to_see_it_again_and_is_kept_once(tmp_path: Path) -> None:
    report = Report(7, violation="w0 shows other bytes", trace=[(0.5, "starts"), (1.0, "stops")])
    told = run.explain(report)
    assert told.startswith("agent seed 7, commit ")
    assert "   0.5000 s  starts\n" in told
    assert told.endswith("replay: make sim-agent SEED=7")
    path = tmp_path / "failed_seeds.txt"
    path.write_text("# a comment\n")
    run.keep(report, path)
    run.keep(report, path)
    assert run.failed_seeds(path) == [7]

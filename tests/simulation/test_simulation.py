"""Fixed seeds through the production replica; that a seed replays; and that the checkers can fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from cluster.kv.api import Transaction
from tests.simulation.checkers import Checkers, Violation
from tests.simulation.run import Report, Run
from tests.simulation.world import Counting, Disk

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_three_members_keep_their_promises(first: int) -> None:
    reports = [Run(seed).play() for seed in range(first, first + 10)]
    assert [f"{report.seed}: {report.violation}" for report in reports if report.violation] == []
    assert sum(report.writes for report in reports) > 3000
    assert sum(report.reads for report in reports) > 2000


@pytest.mark.parametrize("first", range(0, 20, 5))
def test_five_members_keep_their_promises(first: int) -> None:
    reports = [Run(seed, voters=5).play() for seed in range(first, first + 5)]
    assert [f"{report.seed}: {report.violation}" for report in reports if report.violation] == []
    assert sum(report.writes for report in reports) > 2000


def test_the_faults_happen() -> None:
    events = Run(2).play().events + Run(3).play().events
    assert {"commit", "drops", "starts", "healed"} <= events.keys()
    assert events["commit"] > 3  # crashes before or after one


def test_a_seed_replays_bit_by_bit() -> None:
    first, again, other = (Run(seed).play(faults_s=5.0) for seed in (7, 7, 8))
    assert first == again
    assert first.digest != other.digest


def test_a_seed_replays_in_another_process() -> None:
    """Nothing depends on the order of a set or on the seed of str's hash."""
    script = "from tests.simulation.run import Run; print(Run(7).play(faults_s=5.0).digest)"
    told = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == Run(7).play(faults_s=5.0).digest


# ---- the checkers can fail: each of these worlds breaks one promise
class Forgetful(Disk):
    """Says that a commit is durable when it mostly is not: a crash takes back what was not really synced."""

    _random = Random(0)

    def __init__(self) -> None:
        super().__init__()
        self._synced = self._copy()

    def commit(self) -> None:
        super().commit()
        if self._random.random() < 0.02:
            self._synced = self._copy()

    def crash(self) -> None:
        super().crash()
        for name, rows in self._synced.items():
            table = self._tables[name]
            for key in list(table.keys):
                table.delete(key)
            for key, value in rows.items():
                table.put(key, value)

    def _copy(self) -> dict[str, dict[bytes, bytes]]:
        return {name: dict(table.rows) for name, table in self._tables.items()}


class Differing(Counting):
    """One member reads a command in its own way."""

    def apply(self, transaction: Transaction, command: bytes) -> bytes:
        return super().apply(transaction, command + b"!" if self._name == "n1" else command)


class Twice(Counting):
    """Every hundredth write takes effect a second time, and tells of the first."""

    def apply(self, transaction: Transaction, command: bytes) -> bytes:
        result = super().apply(transaction, command)
        if int(command) % 100 == 0:
            super().apply(transaction, command)
        return result


def violations(reports: list[Report]) -> list[str]:
    return [report.violation.split(":")[0] for report in reports if report.violation]


@pytest.mark.parametrize(("seed", "promise"), [(0, "states diverge"), (144, "two leaders in term 5")])
def test_a_disk_that_loses_what_it_synced_is_caught(seed: int, promise: str) -> None:
    Forgetful._random = Random(0)
    assert violations([Run(seed, disk=Forgetful).play()]) == [promise]
    assert violations([Run(seed).play()]) == []


def test_a_state_machine_that_differs_is_caught() -> None:
    report = Run(1, machine=Differing).play(faults_s=2.0)
    assert report.violation.startswith("states diverge")


def test_a_write_that_takes_effect_twice_is_caught() -> None:
    assert violations([Run(1, machine=Twice).play()]) == ["applied twice"]


def test_each_checker_fails_on_what_it_checks() -> None:
    checkers = Checkers()
    checkers.leads("a", 1)
    checkers.leads("a", 1)
    with pytest.raises(Violation, match="two leaders in term 1: b and a"):
        checkers.leads("b", 1)
    checkers.applied("a", 1, b"x", b"d")
    checkers.applied("b", 1, b"x", b"d")
    with pytest.raises(Violation, match="states diverge"):
        checkers.applied("c", 1, b"y", b"d")
    with pytest.raises(Violation, match="states diverge"):
        checkers.applied("c", 1, b"x", b"other history")
    with pytest.raises(Violation, match="applied twice"):
        checkers.applied("a", 2, b"x", b"another digest")
    checkers.write_done(0, 5)
    with pytest.raises(Violation, match="write lost or repeated"):
        checkers.write_done(5, 5)
    checkers.read_done(5, 5)
    with pytest.raises(Violation, match="stale read"):
        checkers.read_done(5, 4)
    checkers.survivors(5)
    with pytest.raises(Violation, match="acknowledged writes are gone"):
        checkers.survivors(4)

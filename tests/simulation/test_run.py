"""What `make sim` tells and keeps when a seed fails."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.simulation import run
from tests.simulation.play import Report


@pytest.fixture
def report() -> Report:
    return Report(7, 5, violation="two leaders in term 2: n0 and n1", trace=[(0.5, "n0 leads in term 2"), (1.0, "x")])


def test_a_failure_says_what_where_and_how_to_see_it_again(report: Report) -> None:
    told = run.explain(report)
    assert re.match(r"seed 7, 5 voters, commit \S+: two leaders in term 2: n0 and n1\n", told)
    assert "   0.5000 s  n0 leads in term 2\n" in told
    assert told.endswith("replay: make sim SEED=7 VOTERS=5")


def test_a_failed_seed_is_kept_once(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "failed_seeds.txt"
    path.write_text("# a comment\n")
    run.keep(report, path)
    run.keep(report, path)
    assert run.failed_seeds(path) == [(7, 5)]
    assert path.read_text().splitlines()[1].endswith("two leaders in term 2: n0 and n1")


def test_a_replay_prints_its_whole_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.replay(7, 3) == 0
    told = capsys.readouterr().out.splitlines()
    assert "no violation" in told[0]
    assert any("leads in term 1" in line for line in told)
    assert any("healed" in line for line in told)


def test_fresh_seeds_are_fresh_and_their_base_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    assert run.fresh_base() != run.fresh_base()
    assert run.search(10**6, 4, 3, 1) == 0
    told = capfd.readouterr().out
    assert told.startswith("base seed 1000000, commit ")
    assert "4 seeds in" in told

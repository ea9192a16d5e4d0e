"""What `make bench-check` calls worse."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest

from bench import check, report
from bench.check import TOLERANCE, judge
from bench.report import Row

PER_SECOND = Row(
    question="switch", shape="64", unit="/s", ours=(90.0,), peer=(100.0,), peer_name="etcd", more_is_better=True
)
MS = Row(question="compare", shape="CPU", unit="ms", ours=(8.0,), peer=(100.0,), peer_name="deepdiff")


def test_only_a_change_for_the_worse_beyond_the_tolerance_counts() -> None:
    @dataclass
    class Case:
        kept: Row
        times: float  # of what is kept
        worse: bool

    within, beyond = TOLERANCE * 0.99, TOLERANCE * 1.01
    cases = (
        *(Case(PER_SECOND, times, False) for times in (1 - within, 1.0, 3.0)),
        Case(PER_SECOND, 1 - beyond, True),
        *(Case(MS, times, False) for times in (0.1, 1.0, 1 + within)),
        Case(MS, 1 + beyond, True),
    )
    for case in cases:
        now = msgspec.structs.replace(case.kept, ours=(case.kept.ours[0] * case.times,))
        said, worse = judge(now, {case.kept.key: case.kept})
        assert worse is case.worse, case
        assert ("WORSE" in said) is case.worse, said


def test_a_machine_that_is_slower_on_both_sides_is_no_worse() -> None:
    now = msgspec.structs.replace(PER_SECOND, ours=(9.0,), peer=(10.0,))
    assert judge(now, {PER_SECOND.key: PER_SECOND})[1] is False


@pytest.mark.parametrize(
    ("now", "kept", "because"),
    [
        (PER_SECOND, MS, "no ratio is kept"),
        (PER_SECOND, msgspec.structs.replace(PER_SECOND, peer=()), "no ratio is kept"),
        (msgspec.structs.replace(PER_SECOND, peer=()), PER_SECOND, "etcd is absent"),
        (msgspec.structs.replace(MS, peer=(), peer_name=""), MS, "no peer"),
    ],
)
def test_what_has_no_ratio_on_one_side_is_skipped_with_the_reason(now: Row, kept: Row, because: str) -> None:
    said, worse = judge(now, {kept.key: kept})
    assert worse is None
    assert because in said


def test_it_fails_where_nothing_was_ever_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "ROWS", report.HERE / "none.jsonl")
    assert check.check() == 1

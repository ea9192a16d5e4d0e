"""Feature levels: members of two releases apply alike, because the log says from where on the newer rules hold."""

from __future__ import annotations

from msgspec import structs

from cluster import messages as m
from cluster.entries import NO_OP, pack, pack_configuration
from cluster.limits import REPORT_S, REPORTS_ALIVE
from cluster.membership import Add
from tests.unit.cluster.replica_bench import ReplicaBench, configured, of_type

X = pack([b"x"])


def test_the_level_is_raised_once_every_member_can_apply_it() -> None:
    bench = ReplicaBench("abc", "d", level=3).lead()
    bench.hear("b", "c", level=3)
    bench.hear("d", level=1)
    assert (bench.configuration.level, bench.last) == (1, 2)
    bench.hear("d", level=2)
    assert (bench.configuration.level, bench.last) == (2, 3)
    bench.acknowledge("b")
    bench.hear("b", "c", "d", level=2)
    assert (bench.configuration.level, bench.last) == (2, 3)
    bench.hear("b", "c", "d", level=3)
    assert (bench.configuration.level, bench.last) == (3, 4)


def test_a_member_that_was_never_heard_keeps_the_level_down() -> None:
    bench = ReplicaBench(level=2).lead()
    bench.hear("b", level=2)
    assert bench.configuration.level == 1
    bench.hear("c", level=2)
    assert bench.configuration.level == 2


def test_a_member_that_is_not_heard_any_more_keeps_the_level_down() -> None:
    """It may come back with an older release."""
    bench = ReplicaBench("abc", "d", level=2).lead()
    bench.hear("d", level=2)
    bench.pass_s(REPORTS_ALIVE * REPORT_S + 0.1, "b", "c")
    bench.hear("b", "c", level=2)
    assert bench.configuration.level == 1
    bench.hear("d", level=2)
    assert bench.configuration.level == 2


def test_an_older_leader_raises_nothing() -> None:
    bench = ReplicaBench(level=1).lead()
    bench.hear("b", "c", level=2)
    assert (bench.configuration.level, bench.last) == (1, 2)


def test_entries_are_applied_at_the_level_of_their_place_in_the_log() -> None:
    bench = ReplicaBench(level=2)
    bench.follow(NO_OP, X, pack_configuration(configured(level=2)), X, X, commit_index=3)
    assert (bench.configuration.level, bench.machine.levels) == (2, [1])  # in the log, and not applied yet
    bench.follow(commit_index=6)
    assert bench.machine.levels == [1, 2, 2]
    bench.disk.crash()
    again = ReplicaBench(disk=bench.disk, level=2)
    again.answers(m.Append(2, 1, 7, 6, 1, [(1, X)]))
    assert again.machine.levels == [2]


def test_what_is_appended_together_with_a_raise_is_applied_before_it() -> None:
    bench = ReplicaBench(level=2).lead()
    bench.propose(b"x")
    bench.tick()
    bench.hear("b", "c", level=2)
    bench.propose(b"y")
    bench.tick()
    bench.acknowledge("b")
    assert (bench.machine.levels, bench.state()) == ([1, 2], b"xy")


def test_a_process_that_knows_less_is_not_admitted() -> None:
    bench = ReplicaBench(founding=configured(level=2), level=2).lead()
    bench.introduce("d/1", level=1)
    bench.change(Add("d"))
    assert bench.changed.reason == "RELEASE_TOO_OLD"
    bench.introduce("d/1", level=2)
    bench.change(Add("d"))
    assert bench.roles()["d/1"] == "observer"


def test_everybody_is_told_what_this_member_can_apply() -> None:
    bench = ReplicaBench(level=3)
    bench.tick(after_s=1.0)
    assert {report.level for report in bench.reported.values()} == {3}
    assert structs.asdict(bench.reported["b"])["applied_index"] == 1
    assert of_type(m.Report, bench.tick()) == []

"""Voters 80 ms of round trip apart: writes take two round trips at most, and jitter deposes nobody. `make sim-wide`
plays an hour."""

from __future__ import annotations

import statistics

import pytest

from cluster.limits import LOCAL, WIDE_AREA, Timing
from tests.simulation.wide_area import ROUND_TRIP_S, WideArea


def test_jitter_alone_causes_no_election_and_writes_take_two_round_trips_at_most() -> None:
    report = WideArea(1).play(4.0, disconnects=False)
    assert (report.elections, report.failed) == (0, 0)
    assert len(report.at_leader_s) > 400
    assert statistics.median(report.at_leader_s) <= 2 * ROUND_TRIP_S
    assert statistics.median(report.at_follower_s) <= 2.5 * ROUND_TRIP_S


def test_disconnects_are_survived() -> None:
    report = WideArea(2).play(4.0, disconnects=True)
    assert report.disconnects > 4
    assert len(report.at_leader_s) > 400
    assert statistics.median(report.at_leader_s) <= 2 * ROUND_TRIP_S


@pytest.mark.parametrize(("timing", "deposed"), [(WIDE_AREA, False), (LOCAL, True)])
def test_a_late_second_deposes_nobody_under_the_wide_profile(timing: Timing, deposed: bool) -> None:
    """The local one is the counter-example: elections are counted where there are any."""
    wide = WideArea(1, timing)

    def stall() -> None:
        (leader,) = wide.world.leaders()
        for name in wide.world.names:
            wide.world.network.stall(leader, name, 1.0)

    wide.world.after(30.0, stall)
    assert (wide.play(1.0, disconnects=False).elections > 0) == deposed

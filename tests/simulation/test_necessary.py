"""Every rule of rules.py is needed: without it a named seed, a schedule made by hand, or a unit test fails as told
here, and with it that passes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.simulation import necessary, rules, scenarios
from tests.simulation.necessary import SHOWN
from tests.simulation.run import pool_of
from tests.simulation.scenarios import SCENARIOS
from tests.unit.cluster import (
    test_catchup,
    test_governor,
    test_guards,
    test_proposals,
    test_repair,
    test_room,
    test_tail,
)
from tests.unit.cluster.replica_bench import ReplicaBench

# The unit test is the schedule: a replica under the messages that need the rule.
UNITS: dict[str, Callable[[], None]] = {
    "calls": test_proposals.test_an_answer_to_a_previous_life_meets_no_call_of_this_one,
    "committed": lambda: test_guards.test_what_lies_below_the_commit_index_is_known_to_match(ReplicaBench()),
    "silence": test_guards.test_after_silence_a_held_peer_is_tried_again_from_what_it_has,
    "floor": test_guards.test_a_rejection_never_moves_below_what_is_matched,
    "dedupe": test_guards.test_a_voter_counts_once_a_term,
    "votersonly": test_governor.test_votes_of_who_does_not_vote_are_not_counted,
    "novote": partial(test_governor.test_who_has_no_vote_never_campaigns_and_does_not_spin, "an observer"),
    "leave": test_governor.test_a_leader_to_be_removed_hands_over_first_and_its_successor_removes_it,
    "retain": test_catchup.test_a_log_that_holds_the_states_last_entry_is_kept,
    "installterm": test_catchup.test_the_senders_term_is_adopted_with_its_state,
    "installnewer": test_catchup.test_a_state_from_before_the_start_of_the_log_is_dropped,
    "torn": test_repair.test_nothing_else_of_the_tick_that_met_damage_is_kept,
    "inrepair": partial(test_repair.test_a_member_in_repair_takes_no_part, test_repair.ASKED[0]),
    "atrest": test_repair.test_a_member_in_repair_never_campaigns_and_does_not_spin,
    "asnew": test_repair.test_an_older_state_than_the_own_is_not_taken_in_repair,
    "room": test_room.test_a_follower_without_room_takes_no_entries_and_answers_that_it_lives,
    "source": test_tail.test_an_answer_of_another_or_that_nobody_asked_for_is_not_taken,
    "tailed": test_tail.test_an_answer_that_comes_when_it_votes_already_is_not_taken,
}


def test_every_rule_is_shown() -> None:
    assert SHOWN.keys() | SCENARIOS.keys() | UNITS.keys() == rules.RULES.keys()
    assert len(SHOWN) + len(SCENARIOS) + len(UNITS) == len(rules.RULES)


@pytest.fixture(scope="module")
def played() -> Iterator[dict[str, tuple[str, str]]]:
    """By rule: the violations with and without it."""
    with pool_of(os.cpu_count() or 1) as pool:
        yield {rule: (kept, violated) for rule, _, kept, violated in pool.imap_unordered(necessary.both, SHOWN)}


@pytest.mark.parametrize("rule", SHOWN)
def test_a_seed_needs_the_rule(rule: str, played: dict[str, tuple[str, str]]) -> None:
    kept, violated = played[rule]
    assert kept == ""
    assert violated.startswith(SHOWN[rule].violation), (
        f"{violated or 'no violation'}: look for another seed with python -m tests.simulation.necessary {rule}"
    )


@pytest.mark.parametrize("rule", SCENARIOS)
def test_a_scenario_needs_the_rule(rule: str) -> None:
    assert scenarios.violation(SCENARIOS[rule]) == ""
    with rules.without(rule):
        assert scenarios.violation(SCENARIOS[rule]).startswith(SCENARIOS[rule].violation)


@pytest.mark.parametrize("rule", UNITS)
def test_a_unit_test_needs_the_rule(rule: str) -> None:
    UNITS[rule]()
    with rules.without(rule), pytest.raises(AssertionError):
        UNITS[rule]()

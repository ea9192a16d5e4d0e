from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from registry.agent.diagram import refreshed
from registry.agent.transitions import (
    INTERRUPTIBLE,
    JOURNALED,
    LEFT_BEFORE,
    LEFT_WHEN_DONE,
    PERMANENT,
    POSSIBLE,
    RESUMED,
    STANDING,
    TRANSITIONS,
    Act,
    Event,
    Facts,
    Guard,
    ImpossibleTransition,
    State,
    decide,
)

ALL_FACTS = [Facts(*flags) for flags in itertools.product((False, True), repeat=7)]
EXHAUSTED = Facts(
    shown=True,
    early=True,
    has_reload=True,
    has_probe=True,
    has_post=True,
    attempts_left=False,
    restarts_left=False,
)
DOCUMENT = Path(__file__).parents[3] / "docs" / "agent.md"


def test_every_state_handles_every_event_or_says_that_it_cannot_happen() -> None:
    assert set(POSSIBLE) == set(State)
    for state, event in itertools.product(State, Event):
        for facts in ALL_FACTS:
            if event in POSSIBLE[state]:
                assert decide(state, event, facts).state is state
            else:
                with pytest.raises(ImpossibleTransition):
                    decide(state, event, facts)


def test_the_last_row_of_a_pair_holds_always_and_no_other_does() -> None:
    for _, rows in itertools.groupby(TRANSITIONS, key=lambda row: (row.state, row.event)):
        guards = [row.guard for row in rows]
        assert guards[-1] is Guard.ALWAYS
        assert Guard.ALWAYS not in guards[:-1]


def test_every_state_that_can_be_on_disk_survives_a_restart() -> None:
    assert {state for state in State if Event.RESTARTED in POSSIBLE[state]} == JOURNALED


def test_every_state_is_reached_and_left_and_every_act_is_used() -> None:
    assert {row.next for row in TRANSITIONS} == set(State)
    assert {row.state for row in TRANSITIONS} == set(State)
    assert {row.act for row in TRANSITIONS} == set(Act)


def ways_into(state: State) -> set[tuple[State, Event]]:
    return {(row.state, row.event) for row in TRANSITIONS if row.next is state and row.state is not state}


def test_only_bytes_that_were_verified_are_installed_and_only_after_the_check() -> None:
    assert ways_into(State.INSTALL) == {(State.CHECK, Event.DONE)}
    assert ways_into(State.CHECK) == {
        (State.STAGE, Event.DONE),
        (State.GUARD, Event.KEPT),  # verified when it was written, and read again now
    }
    assert ways_into(State.STAGE) == {(State.VERIFY, Event.DONE), (State.UNPACK, Event.DONE)}


def test_what_came_with_the_reply_and_is_of_no_use_is_fetched_once() -> None:
    assert ways_into(State.UNPACK) == {(State.GUARD, Event.CARRIED)}
    assert {decide(State.UNPACK, Event.FAILED, facts).next for facts in ALL_FACTS} == {State.FETCH}
    assert State.UNPACK not in {row.next for row in TRANSITIONS if row.state in (State.FETCH, State.VERIFY)}


def test_what_is_too_early_is_fetched_and_then_held_and_judged_anew_before_it_is_installed() -> None:
    for facts in ALL_FACTS:
        for state, event in ((State.GUARD, Event.KEPT), (State.STAGE, Event.DONE)):
            assert decide(state, event, facts).next is (State.HOLD if facts.early else State.CHECK)
        assert decide(State.GUARD, Event.MISSING, facts).next is State.FETCH
        assert decide(State.HOLD, Event.DONE, facts).next is State.GUARD
        assert decide(State.HOLD, Event.RESTARTED, facts).next is State.HOLD


def test_the_pre_check_hook_is_asked_for_as_long_as_it_wants_and_a_target_is_not() -> None:
    for facts in ALL_FACTS:
        waits = Act.SWAP_BACK if facts.shown else Act.CHECK_LATER  # nothing unproven stays meanwhile
        assert decide(State.CHECK, Event.NOT_YET, facts).act is waits
        for state in (State.CHECK, State.INSTALL, State.RELOAD):
            again = decide(state, Event.LATER, facts).next is state
            assert again is facts.attempts_left


def test_a_post_hook_changes_nothing() -> None:
    ends = {decide(State.POST, event, facts).next for event in POSSIBLE[State.POST] for facts in ALL_FACTS}
    assert ends == {State.IDLE, State.POST}
    assert Event.FAILED not in POSSIBLE[State.POST]


def test_what_may_be_left_for_a_newer_instruction_can_be() -> None:
    between_attempts = {row.next for row in TRANSITIONS if row.act in LEFT_BEFORE}
    left = INTERRUPTIBLE | LEFT_WHEN_DONE | between_attempts
    assert {state for state in State if Event.SUPERSEDED in POSSIBLE[state]} == left


def test_what_was_tried_is_gone_on_with_and_the_rest_is_offered_again() -> None:
    dropped = {State.IDLE, State.FETCH, State.STAGE}
    assert JOURNALED - dropped == RESUMED


def test_a_code_is_for_good_or_until_this_machine_changes_or_may_pass() -> None:
    assert not PERMANENT & STANDING


def test_whatever_goes_wrong_while_something_unproven_is_shown_ends_in_revert() -> None:
    failing = {
        (row.state, row.event)
        for row in TRANSITIONS
        if row.next is State.REFUSE and row.state not in (State.REVERT, State.RESTORE, State.REFUSE)
    }
    assert failing
    for state, event in failing:
        assert decide(state, event, EXHAUSTED).next is State.REVERT


def test_a_probe_or_reload_that_fails_reverts_whatever_the_facts() -> None:
    for state in (State.RELOAD, State.PROBE):
        assert {decide(state, Event.FAILED, facts).next for facts in ALL_FACTS} == {State.REVERT}


def test_reverting_and_restarting_end() -> None:
    for state in JOURNALED - {State.HOLD}:
        seen = [state]
        while seen[-1] is not State.IDLE:
            at = seen[-1]
            event = Event.RESTARTED if at not in (State.CONFIRM, State.REFUSE) else Event.DONE
            seen.append(decide(at, event, EXHAUSTED).next)
            assert len(seen) <= len(State)


def test_the_document_shows_the_table() -> None:
    text = DOCUMENT.read_text()
    assert refreshed(text) == text, "run: python -m registry.agent.diagram docs/agent.md"

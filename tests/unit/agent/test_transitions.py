from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from registry.agent.diagram import refreshed
from registry.agent.transitions import (
    JOURNALED,
    POSSIBLE,
    TRANSITIONS,
    Act,
    Event,
    Facts,
    Guard,
    ImpossibleTransition,
    State,
    decide,
)

ALL_FACTS = [Facts(*flags) for flags in itertools.product((False, True), repeat=5)]
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


def test_path_is_only_swapped_by_bytes_that_were_verified() -> None:
    into_install = {(row.state, row.event) for row in TRANSITIONS if row.next is State.INSTALL}
    assert into_install == {
        (State.STAGE, Event.DONE),
        (State.GUARD, Event.KEPT),  # verified when it was written, and read again now
        (State.INSTALL, Event.RESTARTED),
    }
    assert {(row.state, row.event) for row in TRANSITIONS if row.next is State.STAGE} == {(State.VERIFY, Event.DONE)}


def test_whatever_goes_wrong_while_something_unproven_is_shown_ends_in_revert() -> None:
    failing = {
        (row.state, row.event)
        for row in TRANSITIONS
        if row.next is State.REFUSE and row.state not in (State.REVERT, State.RESTORE, State.REFUSE)
    }
    unproven = Facts(shown=True, has_reload=True, has_probe=True, attempts_left=False, restarts_left=False)
    for state, event in failing:
        assert decide(state, event, unproven).next is State.REVERT


def test_a_probe_or_reload_that_fails_reverts_whatever_the_facts() -> None:
    for state in (State.RELOAD, State.PROBE):
        assert {decide(state, Event.FAILED, facts).next for facts in ALL_FACTS} == {State.REVERT}


def test_reverting_and_restarting_end() -> None:
    exhausted = Facts(shown=True, has_reload=True, has_probe=True, attempts_left=False, restarts_left=False)
    for state in JOURNALED:
        seen = [state]
        while seen[-1] is not State.IDLE:
            at = seen[-1]
            event = Event.RESTARTED if at not in (State.CONFIRM, State.REFUSE) else Event.DONE
            seen.append(decide(at, event, exhausted).next)
            assert len(seen) <= len(State)


def test_the_document_shows_the_table() -> None:
    text = DOCUMENT.read_text()
    assert refreshed(text) == text, "run: python -m registry.agent.diagram docs/agent.md"

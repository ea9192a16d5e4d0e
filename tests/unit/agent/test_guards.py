from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from registry.agent import guards
from registry.agent.guards import Identity, Trust
from registry.agent.journal import Outcome, Record, of_target
from registry.agent.transitions import Code, Event
from registry.core import limits
from tests.unit.agent.samples import WORKFLOW, instruction

OWN = Identity(cluster_id="c1", epoch=2)
RECORD = Record(
    workflow=WORKFLOW,
    pointer="active",
    path="/srv/x",
    epoch=1,
    generation=5,
    running=of_target(instruction(5)),
    last_good=of_target(instruction(5)),
)


@pytest.mark.parametrize(
    ("own", "cluster_id", "epoch", "trust"),
    [
        (OWN, "c1", 2, Trust.SAME),
        (OWN, "c1", 3, Trust.RESYNC),
        (OWN, "c1", 1, Trust.OLD_EPOCH),
        (OWN, "c2", 2, Trust.FOREIGN),
        (OWN, "c2", 3, Trust.FOREIGN),
        (OWN, "", 2, Trust.FOREIGN),
        (Identity(), "c1", 1, Trust.ADOPT),
        (Identity(), "", 0, Trust.SAME),
    ],
)
def test_who_is_trusted(own: Identity, cluster_id: str, epoch: int, trust: Trust) -> None:
    assert guards.judge_reply(own, cluster_id, epoch) is trust


@pytest.mark.parametrize(
    ("epoch", "generation", "newer"), [(1, 6, True), (1, 5, False), (1, 4, False), (2, 1, True), (0, 9, False)]
)
def test_epoch_then_generation_only_rises(epoch: int, generation: int, newer: bool) -> None:
    offered = instruction(generation, b"other", epoch=epoch)
    assert guards.is_newer(RECORD, offered) is newer
    assert (guards.judge_instruction(RECORD, offered) != Outcome(Event.STALE)) is newer


def test_a_higher_generation_of_an_older_version_is_accepted() -> None:
    assert guards.judge_instruction(RECORD, instruction(6, b"old", version=1, rollback=True)) is None


def test_an_unknown_base_is_no_obstacle_to_full_content() -> None:
    offered = instruction(6, b"new", base_digest=guards.digest_of(b"never seen"))
    assert guards.judge_instruction(RECORD, offered) is None


def test_the_same_bytes_are_shown_already_only_if_they_are_proven() -> None:
    again = instruction(6)
    assert guards.judge_instruction(RECORD, again) == Outcome(Event.SHOWN)
    assert guards.judge_instruction(structs.replace(RECORD, shown=True), again) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "sha256:../../../etc/passwd"},
        {"digest": "sha256:" + "A" * 64},
        {"digest": ""},
        {"digest": "md5:" + "a" * 64},
        {"version": 0},
        {"size_bytes": -1},
        {"size_bytes": limits.LARGE_CONTENT_BYTES_CEILING + 1},
    ],
)
def test_senseless_instructions_are_refused(changes: dict[str, Any]) -> None:
    outcome = guards.judge_instruction(RECORD, instruction(6, **changes))
    assert outcome is not None
    assert (outcome.event, outcome.code) == (Event.FAILED, Code.INVALID_INSTRUCTION)


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"one", None), (b"onf", Code.DIGEST_MISMATCH), (b"on", Code.LENGTH_MISMATCH), (b"", Code.LENGTH_MISMATCH)],
)
def test_only_exactly_the_named_bytes_pass(data: bytes, code: Code | None) -> None:
    outcome = guards.judge_bytes(instruction(1, b"one"), len(data), guards.digest_of(data))
    assert outcome.code is code
    assert outcome.event is (Event.FAILED if code else Event.DONE)

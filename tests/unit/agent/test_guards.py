from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from registry.agent import guards
from registry.agent import limits as agent_limits
from registry.agent.guards import Identity, Machine, Trust
from registry.agent.journal import Outcome, Record, of_target
from registry.agent.transitions import Code, Event
from registry.core import frames, limits
from tests.unit.agent.samples import WORKFLOW, instruction

OWN = Identity(cluster_id="c1", epoch=2)
HERE = Machine(now_ms=1_000_000, facts={"agent": "0.2.0", "dify": "1.9.2"}, namespaces=("support",))
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
    assert (guards.judge_instruction(RECORD, offered, HERE) != Outcome(Event.STALE)) is newer


def test_a_higher_generation_of_an_older_version_is_accepted() -> None:
    assert guards.judge_instruction(RECORD, instruction(6, b"old", version=1, rollback=True), HERE) is None


def test_an_unknown_base_is_no_obstacle_to_full_content() -> None:
    offered = instruction(6, b"new", base_digest=guards.digest_of(b"never seen"))
    assert guards.judge_instruction(RECORD, offered, HERE) is None


def test_the_same_bytes_are_shown_already_only_if_they_are_proven() -> None:
    again = instruction(6)
    assert guards.judge_instruction(RECORD, again, HERE) == Outcome(Event.SHOWN)
    assert guards.judge_instruction(structs.replace(RECORD, shown=True), again, HERE) is None


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
        {"needs": ("dify",) * (limits.NEEDS + 1)},
        {"generation": 2**63},
        {"version": 2**63},
        {"min_revision": 2**63},
        {"not_before_ms": 10**400},
        {"deadline_ms": -(10**400)},
    ],
)
def test_senseless_instructions_are_refused(changes: dict[str, Any]) -> None:
    outcome = guards.judge_instruction(RECORD, structs.replace(instruction(6), **changes), HERE)
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


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({}, None, ""),
        ({"deadline_ms": 1_000_000, "not_before_ms": 2_000_000}, None, ""),
        ({"deadline_ms": 999_999}, Code.EXPIRED, "switch again, or correct the clock"),
        ({"needs": ("dify>=1.9", "agent")}, None, ""),
        ({"needs": ("dify>=1.10", "cap:gpu")}, Code.INCOMPATIBLE, "needs cap:gpu"),
        ({"needs": ("of a newer release?",)}, Code.INCOMPATIBLE, "cannot judge"),
        ({"workflow": "billing/triage"}, Code.NOT_PINNED, "only what is in support"),
    ],
)
def test_what_this_machine_refuses_and_why(changes: dict[str, Any], code: Code | None, words: str) -> None:
    outcome = guards.judge_instruction(RECORD, instruction(6, b"new", **changes), HERE)
    assert (outcome and outcome.code) == code
    assert words in (outcome.detail if outcome else "")


def test_what_runs_and_is_proven_is_confirmed_however_late_it_is() -> None:
    again = instruction(6, b"one", deadline_ms=1, needs=("cap:gpu",))
    assert guards.judge_instruction(RECORD, again, HERE) == Outcome(Event.SHOWN)


def test_without_namespaces_every_one_may_tell() -> None:
    offered = instruction(6, b"new", workflow="billing/triage")
    assert guards.judge_instruction(RECORD, offered, replace(HERE, namespaces=())) is None


@pytest.mark.parametrize(
    ("shown", "not_before_ms", "may"), [(False, 2000, True), (True, 2000, False), (True, 1000, True), (True, 0, True)]
)
def test_nothing_unproven_stays_while_a_newer_instruction_waits_for_its_time(
    shown: bool, not_before_ms: int, may: bool
) -> None:
    record = structs.replace(RECORD, shown=shown)
    assert guards.may_take_over(record, instruction(6, not_before_ms=not_before_ms), 1000) is may


def test_a_poll_says_no_more_facts_than_members_take() -> None:
    facts = {"agent": "0.2", "odd": "a\nb", "long": "x" * (limits.FACT_CHARS + 1), "cap:gpu": ""}
    assert guards.stated(facts) == {"agent": "0.2", "cap:gpu": ""}
    many = {f"plugin:{number}": "1" for number in range(limits.FACTS + 9)}
    assert list(guards.stated({"agent": "0.2"} | many)) == ["agent", *many][: limits.FACTS]


BASE, DATA = b"one", b"one and some more"
FULL, DELTA = frames.pack(DATA, 3), frames.pack_over(BASE, DATA, 3)


@pytest.mark.parametrize(
    ("how", "frame", "whole", "delta_base", "carried"),
    [
        ("full", FULL, False, "", True),
        ("full", FULL, True, "", True),
        ("full", b"", False, "", False),
        ("full", b"x" * (agent_limits.FRAME_BYTES + 1), False, "", False),
        ("delta", DELTA, False, guards.digest_of(BASE), True),
        ("delta", DELTA, False, guards.digest_of(b"before"), True),
        ("delta", DELTA, True, guards.digest_of(BASE), False),
        ("delta", DELTA, False, guards.digest_of(b"other"), False),
        ("have", FULL, False, "", False),
        ("fetch", FULL, False, "", False),
    ],
)
def test_what_comes_with_a_reply_is_used_where_it_can_be(
    how: Any, frame: bytes, whole: bool, delta_base: str, carried: bool
) -> None:
    record = structs.replace(RECORD, whole=whole, kept=(of_target(instruction(4, b"before")),))
    assert guards.is_carried(record, instruction(6, DATA, how=how, delta_base=delta_base), frame) is carried


@pytest.mark.parametrize(
    ("how", "frame", "base", "size_bytes", "data"),
    [
        ("full", FULL, BASE, len(DATA), DATA),
        ("full", FULL, BASE, len(DATA) - 1, None),
        ("full", b"no frame", BASE, len(DATA), None),
        ("full", frames.pack(b"0" * limits.MIB, 3), BASE, len(DATA), None),
        ("delta", DELTA, BASE, len(DATA), DATA),
        ("delta", DELTA, BASE, 2, None),
        ("delta", frames.pack_over(BASE, b"0" * limits.MIB, 3), BASE, len(DATA), None),
        ("delta", FULL, BASE, len(DATA), None),
    ],
)
def test_a_frame_gives_so_many_bytes_or_nothing(
    how: Any, frame: bytes, base: bytes, size_bytes: int, data: bytes | None
) -> None:
    offered = instruction(6, DATA, how=how, size_bytes=size_bytes)
    assert guards.unpack(offered, frame, lambda: base) == data

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import json

from registry.agent import guards, limits
from registry.agent.api import Instruction
from registry.agent.journal import Installed, Outcome, Record, evolve, of_target
from registry.agent.transitions import JOURNALED, POSSIBLE, Code, Event, State, decide
from tests.unit.agent.samples import WORKFLOW, instruction

EMPTY = Record(workflow=WORKFLOW, pointer="active", path="/srv/triage.yml")
DONE = Outcome(Event.DONE)


def step(record: Record, outcome: Outcome, offered: Instruction | None = None, *, reload: bool = False) -> Record:
    row = decide(record.state, outcome.event, record.facts(has_reload=reload, has_probe=True))
    return evolve(record, row, outcome, offered)


def steps(record: Record, *outcomes: Outcome, reload: bool = False) -> Record:
    for outcome in outcomes:
        record = step(record, outcome, reload=reload)
    return record


def probing(record: Record, target: Instruction) -> Record:
    record = step(record, Outcome(Event.OFFERED), target)
    return steps(record, Outcome(Event.MISSING), DONE, DONE, DONE, DONE)


def confirmed(record: Record, target: Instruction) -> Record:
    return steps(probing(record, target), DONE, DONE)


def failed(code: Code) -> Outcome:
    return Outcome(Event.FAILED, code, "because")


def test_a_confirmed_version_is_last_good_and_raises_the_fence() -> None:
    record = confirmed(EMPTY, instruction(4))
    assert record.state is State.IDLE
    assert record.running == record.last_good == of_target(instruction(4))
    assert record.fence == (1, 4)
    assert record.target is None
    assert not record.shown


def test_a_failed_probe_returns_to_last_good_and_is_remembered() -> None:
    good = confirmed(EMPTY, instruction(1))
    reverting = step(probing(good, instruction(2, b"two")), failed(Code.PROBE_FAILED))
    assert reverting.state is State.REVERT
    assert reverting.running == of_target(instruction(2, b"two"))
    refusing = step(reverting, DONE)
    assert refusing.reverted
    assert refusing.running == good.last_good
    idle = step(refusing, DONE)
    assert idle.fence == (1, 2), "never tried again"
    assert idle.failure is not None
    assert idle.failure.code is Code.PROBE_FAILED
    assert guards.judge_instruction(idle, instruction(2, b"two")) == Outcome(Event.STALE)
    assert guards.judge_instruction(idle, instruction(3, b"two")) is None


def test_what_may_pass_does_not_raise_the_fence() -> None:
    record = step(step(EMPTY, Outcome(Event.OFFERED), instruction(1)), Outcome(Event.MISSING))
    for _ in range(limits.FETCH_ATTEMPTS - 1):
        record = step(record, failed(Code.FETCH_FAILED))
        assert record.state is State.FETCH
    record = step(record, failed(Code.FETCH_FAILED))
    assert record.state is State.REFUSE
    assert record.fence == (0, 0)


def test_attempts_count_through_verify() -> None:
    record = step(step(EMPTY, Outcome(Event.OFFERED), instruction(1)), Outcome(Event.MISSING))
    for _ in range(limits.FETCH_ATTEMPTS - 1):
        record = steps(record, DONE, failed(Code.DIGEST_MISMATCH))
        assert record.state is State.FETCH
    assert steps(record, DONE, failed(Code.DIGEST_MISMATCH)).state is State.REFUSE


def test_the_first_version_that_fails_leaves_nothing() -> None:
    record = steps(probing(EMPTY, instruction(1)), failed(Code.PROBE_FAILED), DONE, DONE)
    assert record.running is None
    assert record.last_good is None


def test_a_superseded_probe_keeps_the_way_back_to_last_good() -> None:
    good = confirmed(EMPTY, instruction(1))
    record = step(probing(good, instruction(2, b"two")), Outcome(Event.SUPERSEDED), instruction(3, b"three"))
    assert record.state is State.GUARD
    record = step(record, Outcome(Event.MISSING))
    for _ in range(limits.FETCH_ATTEMPTS):
        record = step(record, failed(Code.FETCH_FAILED))
    assert record.state is State.REVERT, "two is shown and not proven"
    record = steps(record, DONE, DONE)
    assert record.running == good.last_good
    assert record.fence == (1, 1)


def test_a_version_that_takes_the_agent_down_again_and_again_is_reverted() -> None:
    record = probing(confirmed(EMPTY, instruction(1)), instruction(2, b"two"))
    for _ in range(limits.RESTARTS):
        record = step(record, Outcome(Event.RESTARTED))
        assert record.state is State.PROBE
    record = step(record, Outcome(Event.RESTARTED))
    assert record.state is State.REVERT
    record = steps(record, DONE, DONE)
    assert record.failure is not None
    assert record.failure.code is Code.RESTARTS_EXCEEDED
    assert record.fence == (1, 2)


def test_a_revert_that_never_works_ends_and_says_what_is_shown() -> None:
    record = step(probing(confirmed(EMPTY, instruction(1)), instruction(2, b"two")), failed(Code.PROBE_FAILED))
    for _ in range(limits.REVERT_ATTEMPTS):
        record = step(record, failed(Code.REVERT_FAILED))
    record = step(record, DONE)
    assert record.state is State.IDLE
    assert record.running == of_target(instruction(2, b"two"))
    assert record.shown
    assert record.failure is not None
    assert record.failure.code is Code.REVERT_FAILED


def test_a_failed_reload_after_the_revert_is_said() -> None:
    record = step(probing(confirmed(EMPTY, instruction(1)), instruction(2, b"two")), failed(Code.PROBE_FAILED))
    record = step(record, DONE, reload=True)
    assert record.state is State.RESTORE
    for _ in range(limits.REVERT_ATTEMPTS):
        record = step(record, failed(Code.RELOAD_FAILED), reload=True)
    assert record.state is State.REFUSE
    assert record.failure is not None
    assert record.failure.code is Code.PROBE_FAILED
    assert "reload of the last good version failed" in record.failure.detail


def test_the_newest_versions_are_kept_once_each() -> None:
    record = EMPTY
    for generation in range(1, limits.KEPT_VERSIONS + 4):
        record = confirmed(record, instruction(generation, b"%d" % generation))
    record = confirmed(record, instruction(90, b"%d" % (limits.KEPT_VERSIONS + 1)))
    digests = [kept.digest for kept in record.kept]
    assert len(digests) == len(set(digests)) == limits.KEPT_VERSIONS
    assert record.kept[0].generation == 90
    assert record.digests() == set(digests)


def test_repairing_damage_does_not_lower_the_fence_nor_forget_what_was_refused() -> None:
    good = confirmed(EMPTY, instruction(1))
    refused = steps(probing(good, instruction(2, b"two")), failed(Code.PROBE_FAILED), DONE, DONE)
    assert refused.fence == (1, 2)
    assert refused.running is not None
    repaired = step(refused, Outcome(Event.DAMAGED), _as_instruction(refused.running, refused.epoch))
    while repaired.state is not State.IDLE:
        repaired = step(repaired, DONE)
    assert repaired.running == good.running
    assert repaired.fence == (1, 2)
    assert repaired.failure == refused.failure
    assert guards.judge_instruction(repaired, instruction(2, b"two")) == Outcome(Event.STALE)


@settings(max_examples=300)
@given(st.data())
def test_whatever_happens_a_record_stays_sound(data: st.DataObject) -> None:
    """A random walk over all events, restarts at any durable step among them."""
    record = disk = EMPTY
    reload = data.draw(st.booleans())
    for number in range(data.draw(st.integers(1, 40))):
        outcome, offered = _drawn(data, record, number)
        if outcome.event is Event.RESTARTED:
            record = disk
        before = record
        row = decide(record.state, outcome.event, record.facts(has_reload=reload, has_probe=True))
        record = evolve(record, row, outcome, offered)
        if row.next in JOURNALED:
            disk = record
            assert json.decode(json.encode(record), type=Record) == record
        _check(before, record)


def _drawn(data: st.DataObject, record: Record, number: int) -> tuple[Outcome, Instruction | None]:
    target = instruction(number + 1, data.draw(st.sampled_from([b"a", b"b", b"c"])))
    if record.state is State.GUARD:
        assert record.target is not None
        judged = guards.judge_instruction(record, record.target)
        return judged or Outcome(data.draw(st.sampled_from([Event.KEPT, Event.MISSING]))), None
    events = set(POSSIBLE[record.state])
    if record.running is None or record.shown:
        events.discard(Event.DAMAGED)
    if record.state is State.VERIFY:
        events.add(Event.RESTARTED)
    event = data.draw(st.sampled_from(sorted(events)))
    if event is Event.DAMAGED:
        return Outcome(event), _as_instruction(record.running, record.epoch)
    if event is Event.FAILED:
        return failed(data.draw(st.sampled_from(list(Code)))), None
    return Outcome(event), target if event in (Event.OFFERED, Event.SUPERSEDED) else None


def _as_instruction(running: Installed | None, epoch: int) -> Instruction:
    assert running is not None
    return instruction(running.generation, epoch=epoch, digest=running.digest, version=running.version)


def _check(before: Record, after: Record) -> None:
    assert after.fence >= before.fence
    assert (after.target is None) == (after.state is State.IDLE)
    if before.last_good:
        assert after.last_good is not None, "the way back is never lost"
        assert after.running is not None, "once something is good, something is shown"
    if not after.shown and after.running:
        assert after.running == after.last_good
    if after.last_good:
        assert after.last_good in after.kept
    if after.state in (State.REVERT, State.RESTORE, State.REFUSE):
        assert after.failure is not None

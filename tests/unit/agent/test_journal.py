from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import json, structs

from registry.agent import guards, limits
from registry.agent.api import Instruction
from registry.agent.backoff import delay_s
from registry.agent.guards import Machine
from registry.agent.journal import Installed, Outcome, Record, evolve, of_target
from registry.agent.transitions import JOURNALED, POSSIBLE, Code, Event, State, decide
from tests.unit.agent.samples import WORKFLOW, instruction

EMPTY = Record(workflow=WORKFLOW, pointer="active", path="/srv/triage.yml")
HERE = Machine(now_ms=1000)
DONE = Outcome(Event.DONE)


def step(record: Record, outcome: Outcome, offered: Instruction | None = None, *, reload: bool = False) -> Record:
    row = decide(record.state, outcome.event, record.facts(now_ms=HERE.now_ms, has_reload=reload, has_probe=True))
    return evolve(record, row, outcome, offered, now_ms=HERE.now_ms)


def steps(record: Record, *outcomes: Outcome, reload: bool = False) -> Record:
    for outcome in outcomes:
        record = step(record, outcome, reload=reload)
    return record


def probing(record: Record, target: Instruction) -> Record:
    record = step(record, Outcome(Event.OFFERED), target)
    return steps(record, Outcome(Event.MISSING), DONE, DONE, DONE, DONE, DONE)


def confirmed(record: Record, target: Instruction) -> Record:
    return steps(probing(record, target), DONE, DONE)


def failed(code: Code) -> Outcome:
    return Outcome(Event.FAILED, code, "because")


def test_a_confirmed_version_is_last_good_and_raises_the_fence() -> None:
    record = confirmed(EMPTY, instruction(4))
    assert record.state is State.IDLE
    assert record.running == record.last_good == of_target(instruction(4), HERE.now_ms)
    assert record.fence == (1, 4)
    assert record.target is None
    assert not record.shown


def test_a_failed_probe_returns_to_last_good_and_is_remembered() -> None:
    good = confirmed(EMPTY, instruction(1))
    reverting = step(probing(good, instruction(2, b"two")), failed(Code.PROBE_FAILED))
    assert reverting.state is State.REVERT
    assert reverting.running == of_target(instruction(2, b"two"), HERE.now_ms)
    refusing = step(reverting, DONE)
    assert refusing.reverted
    assert refusing.running == good.last_good
    idle = step(refusing, DONE)
    assert idle.fence == (1, 2), "never tried again"
    assert idle.failure is not None
    assert idle.failure.code is Code.PROBE_FAILED
    assert guards.judge_instruction(idle, instruction(2, b"two"), HERE) == Outcome(Event.STALE)
    assert guards.judge_instruction(idle, instruction(3, b"two"), HERE) is None


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
    assert record.running == of_target(instruction(2, b"two"), HERE.now_ms)
    assert record.shown
    assert record.failure is not None
    assert record.failure.code is Code.REVERT_FAILED


def test_a_step_back_is_tried_for_two_minutes_at_least() -> None:
    """A target that the bad version has made restart is back by then."""
    certain = [delay_s(failures, limits.REVERT_BACKOFF_S, Shortest()) for failures in range(1, limits.REVERT_ATTEMPTS)]
    assert sum(certain) >= 120


class Shortest(Random):
    def uniform(self, a: float, b: float) -> float:
        return a


def stuck() -> Record:
    record = step(probing(confirmed(EMPTY, instruction(1)), instruction(2, b"two")), failed(Code.PROBE_FAILED))
    for _ in range(limits.REVERT_ATTEMPTS):
        record = step(record, failed(Code.REVERT_FAILED))
    record = step(record, DONE)
    assert record.is_stuck
    return record


def test_a_step_back_that_was_given_up_is_tried_again_and_the_version_is_not() -> None:
    given_up = stuck()
    again = step(given_up, Outcome(Event.STUCK))
    assert again.state is State.REVERT
    assert again.target is not None
    assert (again.target.epoch, again.target.generation) == given_up.fence
    in_vain = steps(again, failed(Code.REVERT_FAILED), DONE)
    assert in_vain == given_up, "one try at a time, and nothing new to tell"
    undone = steps(again, DONE, DONE)
    assert undone.running == undone.last_good == confirmed(EMPTY, instruction(1)).last_good
    assert (undone.fence, undone.shown, undone.is_stuck) == ((1, 2), False, False)
    assert undone.failure is not None
    assert (undone.failure.code, undone.failure.detail) == (Code.PROBE_FAILED, "because")


def test_a_step_back_from_another_epoch_raises_no_fence() -> None:
    """The registry was restored: its generations count from lower ones, and those are to be looked at."""
    restored = structs.replace(stuck(), epoch=2, generation=1)
    in_vain = steps(restored, Outcome(Event.STUCK), failed(Code.REVERT_FAILED), DONE)
    assert in_vain.fence == (2, 1)


def test_a_step_back_that_takes_the_machine_down_is_not_tried_for_ever() -> None:
    record = stuck()
    assert step(record, Outcome(Event.RESTARTED)) == record, "a restart with nothing under way does not count"
    restarts = 0
    while record.is_stuck:
        record = step(record, Outcome(Event.STUCK))
        while record.state is State.REVERT:
            restarts += 1
            record = step(record, Outcome(Event.RESTARTED))
        record = step(record, DONE)
    assert restarts == limits.RESTARTS + 1
    assert record.failure is not None
    assert record.failure.code is Code.REVERT_FAILED
    offered = step(record, Outcome(Event.OFFERED), instruction(3, b"three"))
    assert offered.restarts == 0


def test_what_a_half_done_installation_left_is_not_trusted_by_the_one_that_takes_over() -> None:
    installing = steps(held(confirmed(EMPTY, instruction(1)), instruction(2, b"two")), DONE)
    assert installing.state is State.INSTALL
    reverting = steps(installing, failed(Code.TARGET_FAILED), failed(Code.REVERT_FAILED))
    assert not guards.may_take_over(reverting, instruction(3, not_before_ms=HERE.now_ms + 1), HERE.now_ms)
    record = step(reverting, Outcome(Event.SUPERSEDED), instruction(3))
    assert (record.state, record.shown) == (State.GUARD, True)
    assert guards.judge_instruction(record, instruction(3), HERE) is None, "the last good one is installed again"
    assert step(record, failed(Code.INCOMPATIBLE)).state is State.REVERT


def test_a_failed_reload_after_the_revert_is_said() -> None:
    record = step(probing(confirmed(EMPTY, instruction(1)), instruction(2, b"two")), failed(Code.PROBE_FAILED))
    record = step(record, DONE, reload=True)
    assert record.state is State.RESTORE
    for _ in range(limits.RESTORE_ATTEMPTS):
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
    assert guards.judge_instruction(repaired, instruction(2, b"two"), HERE) == Outcome(Event.STALE)


def test_repairing_damage_takes_back_the_word_about_it() -> None:
    refused = steps(probing(confirmed(EMPTY, instruction(1)), instruction(2, b"two")), failed(Code.PROBE_FAILED))
    refused = steps(refused, DONE, DONE)
    assert refused.running is not None
    damaged = step(refused, Outcome(Event.DAMAGED), _as_instruction(refused.running, refused.epoch))
    damaged = step(damaged, failed(Code.FETCH_FAILED))
    assert damaged.failure is not None
    assert damaged.failure.generation == 1
    while damaged.state is not State.IDLE:
        damaged = step(damaged, DONE)
    assert damaged.failure is None


def held(record: Record, target: Instruction) -> Record:
    return steps(step(record, Outcome(Event.OFFERED), target), Outcome(Event.KEPT))


def test_an_instruction_is_held_until_its_time_and_reboots_meanwhile_do_not_count() -> None:
    target = instruction(2, b"two", not_before_ms=HERE.now_ms + 1)
    record = held(confirmed(EMPTY, instruction(1)), target)
    assert record.state is State.HOLD
    for _ in range(2 * limits.RESTARTS):
        record = step(record, Outcome(Event.RESTARTED))
    assert (record.state, record.restarts, record.target) == (State.HOLD, 0, target)
    assert target.digest in record.digests(), "what was fetched stays on disk"
    assert step(record, DONE).state is State.GUARD
    assert held(EMPTY, instruction(2, not_before_ms=HERE.now_ms)).state is State.CHECK


def test_what_a_target_says_may_pass_is_tried_a_few_times_and_not_refused_for_good() -> None:
    record = held(confirmed(EMPTY, instruction(1)), instruction(2, b"two"))
    later = Outcome(Event.LATER, Code.TARGET_FAILED, "no answer")
    for _ in range(limits.CHECK_ATTEMPTS - 1):
        record = step(record, later)
        assert record.state is State.CHECK
    record = step(record, later)
    assert record.state is State.REFUSE
    assert record.failure is not None
    assert not record.failure.is_final
    assert record.fence == (1, 1)
    final = step(held(EMPTY, instruction(2, b"two")), failed(Code.TARGET_FAILED))
    assert final.fence == (1, 2)


def test_the_pre_check_hook_may_ask_to_wait_as_often_as_it_likes() -> None:
    record = held(EMPTY, instruction(2))
    for _ in range(100):
        record = step(record, Outcome(Event.NOT_YET, Code.CHECK_FAILED, "busy"))
        assert record.state is State.CHECK
    assert record.failure is None
    assert step(record, DONE).state is State.INSTALL


def test_an_installation_that_may_pass_ends_in_a_revert_that_is_not_for_good() -> None:
    record = step(held(confirmed(EMPTY, instruction(1)), instruction(2, b"two")), DONE)
    for _ in range(limits.INSTALL_ATTEMPTS):
        assert record.state is State.INSTALL
        record = step(record, Outcome(Event.LATER, Code.TARGET_FAILED, "503"))
    assert record.state is State.REVERT
    record = steps(record, DONE, DONE)
    assert (record.fence, record.running) == ((1, 1), record.last_good)


def test_a_reload_that_never_gets_its_turn_is_a_failed_one() -> None:
    record = steps(held(confirmed(EMPTY, instruction(1)), instruction(2, b"two")), DONE, DONE, reload=True)
    for _ in range(limits.RELOAD_ATTEMPTS):
        assert record.state is State.RELOAD
        record = step(record, Outcome(Event.LATER, Code.RELOAD_FAILED, "exit code 75"), reload=True)
    record = steps(record, DONE, DONE, DONE, reload=True)
    assert record.state is State.IDLE
    assert record.fence == (1, 2)


def test_full_content_is_taken_on_another_base_and_after_something_wrong_arrived() -> None:
    good = confirmed(EMPTY, instruction(1))
    assert good.running is not None
    based = instruction(2, b"two", base_digest=good.running.digest)
    assert step(EMPTY, Outcome(Event.OFFERED), based).whole
    assert step(good, Outcome(Event.OFFERED), instruction(2, b"two", base_digest=guards.digest_of(b"x"))).whole
    record = step(good, Outcome(Event.OFFERED), based)
    assert not record.whole
    unpacked = steps(record, Outcome(Event.CARRIED), failed(Code.DIGEST_MISMATCH))
    assert (unpacked.state, unpacked.whole, unpacked.failure) == (State.FETCH, True, None)
    fetched = steps(record, Outcome(Event.MISSING), failed(Code.FETCH_FAILED))
    assert not fetched.whole, "the network is no reason for more bytes"
    assert steps(fetched, DONE, failed(Code.DIGEST_MISMATCH)).whole
    assert not confirmed(EMPTY, instruction(1)).whole


def test_a_failure_keeps_the_time_of_the_first_with_its_code() -> None:
    record = step(step(EMPTY, Outcome(Event.OFFERED), instruction(1)), Outcome(Event.MISSING))
    for now_ms, code, since_ms in ((5, Code.FETCH_FAILED, 5), (6, Code.FETCH_FAILED, 5), (7, Code.STAGE_FAILED, 7)):
        facts = record.facts(has_reload=False, has_probe=False)
        record = evolve(record, decide(record.state, Event.FAILED, facts), failed(code), now_ms=now_ms)
        assert record.failure is not None
        assert record.failure.since_ms == since_ms


@settings(max_examples=300, deadline=None)
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
        facts = record.facts(now_ms=number, has_reload=reload, has_probe=True, has_post=reload)
        row = decide(record.state, outcome.event, facts)
        record = evolve(record, row, outcome, offered, now_ms=number)
        if row.next in JOURNALED:
            disk = record
            assert json.decode(json.encode(record), type=Record) == record
        _check(before, record)


def _drawn(data: st.DataObject, record: Record, number: int) -> tuple[Outcome, Instruction | None]:
    target = instruction(
        number + 1, data.draw(st.sampled_from([b"a", b"b", b"c"])), not_before_ms=data.draw(st.sampled_from([0, 20]))
    )
    if record.state is State.GUARD:
        assert record.target is not None
        judged = guards.judge_instruction(record, record.target, HERE)
        return judged or Outcome(data.draw(st.sampled_from([Event.KEPT, Event.CARRIED, Event.MISSING]))), None
    events = set(POSSIBLE[record.state])
    if record.running is None or record.shown:
        events.discard(Event.DAMAGED)
    if not record.is_stuck:
        events.discard(Event.STUCK)
    if record.state not in JOURNALED:
        events.add(Event.RESTARTED)
    event = data.draw(st.sampled_from(sorted(events)))
    if event is Event.DAMAGED:
        return Outcome(event), _as_instruction(record.running, record.epoch)
    if event in (Event.FAILED, Event.LATER, Event.NOT_YET):
        return Outcome(event, data.draw(st.sampled_from(list(Code))), "because"), None
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

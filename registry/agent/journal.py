"""The record of one follow: what is on disk before every act, and how a transition changes it. Pure."""

from __future__ import annotations

from msgspec import Struct, structs

from registry.agent import limits
from registry.agent.api import Instruction
from registry.agent.transitions import PERMANENT, Code, Event, Facts, Row, State

_RETRIED = {State.FETCH: limits.FETCH_ATTEMPTS, State.VERIFY: limits.FETCH_ATTEMPTS}
_BOUNDED = {State.REVERT: limits.REVERT_ATTEMPTS, State.RESTORE: limits.RESTORE_ATTEMPTS}
_LATER = {
    State.CHECK: limits.CHECK_ATTEMPTS,
    State.INSTALL: limits.INSTALL_ATTEMPTS,
    State.RELOAD: limits.RELOAD_ATTEMPTS,
}
_ATTEMPTS = _RETRIED | _BOUNDED | _LATER
_UNDONE = "; and the swap back failed: "


class Installed(Struct, frozen=True, kw_only=True):
    """`epoch`, `generation`: that it came in; epoch 0 where an older release wrote it down."""

    epoch: int = 0
    generation: int
    version: int
    digest: str
    size_bytes: int
    since_ms: int = 0  # unix time of the swap, then of the confirmation; 0: not known


class Failure(Struct, frozen=True, kw_only=True):
    """Why `generation` is not what runs. `later`: the target said that it may pass, whatever the code. `cause`: the
    code it had until the step back failed; the generation is refused for good, the step back is tried again."""

    generation: int
    version: int
    code: Code
    detail: str
    later: bool = False
    cause: Code | None = None
    since_ms: int = 0  # unix time of the first in a row with this code

    @property
    def is_final(self) -> bool:
        """Only a higher generation is looked at again."""
        return self.code in PERMANENT and not self.later


class Outcome(Struct, frozen=True):
    """How an act ended. `code` and `detail` belong to FAILED and LATER."""

    event: Event
    code: Code | None = None
    detail: str = ""


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`epoch` and `generation` are the newest acted on: confirmed, or refused for good. They only rise."""

    workflow: str
    pointer: str
    path: str = ""  # that showed it last; empty: the target is no path
    state: State = State.IDLE
    epoch: int = 0
    generation: int = 0
    target: Instruction | None = None
    whole: bool = False  # full content is to be fetched for `target`, not what differs from what runs
    running: Installed | None = None  # what the target shows; in doubt while INSTALL or REVERT is under way
    last_good: Installed | None = None
    kept: tuple[Installed, ...] = ()  # confirmed before, newest first, one for each digest
    shown: bool = False  # `running` is not proven
    reverted: bool = False  # the failure on its way to REFUSE has been answered by a swap back
    attempt: int = 1  # at the act of this state
    restarts: int = 0  # of the agent since `target` was taken up
    failure: Failure | None = None  # the newest, until something is confirmed

    @property
    def fence(self) -> tuple[int, int]:
        return (self.epoch, self.generation)

    @property
    def is_stuck(self) -> bool:
        """The step back was given up, and may be tried again: not for ever where it takes the machine down."""
        return self.state is State.IDLE and self.shown and self.restarts < limits.RESTARTS

    def facts(self, *, has_reload: bool, has_probe: bool, has_post: bool = False, now_ms: int = 0) -> Facts:
        return Facts(
            shown=self.shown,
            early=self.target is not None and now_ms < self.target.not_before_ms,
            has_reload=has_reload,
            has_probe=has_probe,
            has_post=has_post,
            attempts_left=self.attempt < _ATTEMPTS.get(self.state, 0),
            restarts_left=self.restarts < limits.RESTARTS,
        )

    def digests(self) -> set[str]:
        """Content that must stay on disk."""
        return {installed.digest for installed in self._on_disk()} | ({self.target.digest} if self.target else set())

    def with_digest(self, digest: str) -> Installed | None:
        """What was installed here and has this content; it is on disk, if nothing happened to it."""
        return next((installed for installed in self._on_disk() if installed.digest == digest), None)

    def _on_disk(self) -> tuple[Installed, ...]:
        return (*(installed for installed in (self.running, self.last_good) if installed), *self.kept)


def of_target(target: Instruction, now_ms: int = 0) -> Installed:
    return Installed(
        epoch=target.epoch,
        generation=target.generation,
        version=target.version,
        digest=target.digest,
        size_bytes=target.size_bytes,
        since_ms=now_ms,
    )


def evolve(
    record: Record, row: Row, outcome: Outcome, offered: Instruction | None = None, *, now_ms: int = 0
) -> Record:
    """The record after `row`, as it is written before the row's act starts. `offered`: taken up when GUARD or, for
    damaged content, FETCH is entered from outside. `now_ms`: information only."""
    changes = structs.asdict(record) | {"state": row.next, "attempt": _attempt(record, row)}
    if outcome.event in (Event.OFFERED, Event.SUPERSEDED, Event.DAMAGED):
        if offered is None:
            raise ValueError(f"{outcome.event} without an instruction")
        based = record.running is not None and record.running.digest == offered.base_digest
        changes |= {"target": offered, "restarts": 0, "reverted": False, "attempt": 1, "whole": not based}
    if outcome.event is Event.STUCK:
        changes |= {"target": _unproven(record), "reverted": False, "attempt": limits.REVERT_ATTEMPTS}
    elif row.next is State.REVERT and row.state is not State.REVERT:
        changes["restarts"] = 0
    if outcome.event is Event.RESTARTED:
        changes |= _restarted(record, row, now_ms)
    if row.state in (State.UNPACK, State.VERIFY) and outcome.event is Event.FAILED:
        changes["whole"] = True
    if row.state not in (State.UNPACK, State.REVERT, State.RESTORE) and outcome.event in (Event.FAILED, Event.LATER):
        later = outcome.event is Event.LATER and row.state is not State.RELOAD
        changes["failure"] = _failure(record, outcome.code, outcome.detail, now_ms, later=later)
    if outcome.event is Event.STALE and row.next is State.REVERT:
        detail = "superseded by an instruction that is not newer"
        changes["failure"] = _failure(record, Code.INTERRUPTED, detail, now_ms)
    if outcome.event is Event.NOT_YET and row.next is State.REVERT:
        detail = f"waits for the pre-check hook, and an unproven version was shown: {outcome.detail}"
        changes["failure"] = _failure(record, Code.INTERRUPTED, detail, now_ms)
    if row.state is State.INSTALL and outcome.event is Event.DONE:
        changes |= {"running": of_target(_target(record), now_ms), "shown": True}
    if row.next is State.CONFIRM and row.state is not State.CONFIRM:
        changes |= _confirmed(record, now_ms)
    if row.state is State.REVERT and row.next is not State.REVERT:
        changes |= _reverted(record, outcome, now_ms)
    if row.state is State.RESTORE and row.next is State.REFUSE and outcome.event is not Event.DONE:
        changes["failure"] = _worse(record, f"; and the reload of the last good version failed: {outcome.detail}")
    after = Record(**changes)
    if row.next is State.REFUSE and row.state is not State.REFUSE:
        after = _refused(after)
    if row.next is State.IDLE:
        restarts = after.restarts if after.shown else 0  # within the step back, which is not over
        after = structs.replace(after, target=None, attempt=1, restarts=restarts, reverted=False, whole=False)
    return after


def _attempt(record: Record, row: Row) -> int:
    again = row.next is row.state or (row.state is State.VERIFY and row.next is State.FETCH)
    if again:
        return record.attempt + 1
    return record.attempt if row.next is State.VERIFY else 1


def _restarted(record: Record, row: Row, now_ms: int) -> dict[str, object]:
    if row.state in (State.HOLD, State.IDLE):  # nothing is being tried
        return {}
    if row.next is State.REVERT and row.state is not State.REVERT:
        if row.state in (State.FETCH, State.STAGE):
            why = Code.INTERRUPTED, "the agent stopped while an unproven version was shown"
        else:
            why = Code.RESTARTS_EXCEEDED, f"the agent stopped {record.restarts} times during this installation"
        return {"failure": _failure(record, *why, now_ms)}
    return {"restarts": record.restarts + 1}


def _confirmed(record: Record, now_ms: int) -> dict[str, object]:
    """What is put back after damage is older than a generation that was refused since: the fence stays, and so does
    the word about that one."""
    target = _target(record)
    good = of_target(target, now_ms)
    epoch, generation = max(record.fence, (target.epoch, target.generation))
    is_newest = (target.epoch, target.generation) > record.fence
    about_another = record.failure is not None and record.failure.generation != target.generation
    others = tuple(kept for kept in record.kept if kept.digest != good.digest)
    return {
        "epoch": epoch,
        "generation": generation,
        "running": good,
        "last_good": good,
        "kept": (good, *others)[: limits.KEPT_VERSIONS],
        "shown": False,
        "failure": record.failure if not is_newest and about_another else None,
    }


def _reverted(record: Record, outcome: Outcome, now_ms: int) -> dict[str, object]:
    failure = record.failure
    if failure is None:
        raise ValueError("a revert without a failure")
    why = failure.detail.partition(_UNDONE)[0]
    if outcome.event is Event.DONE:
        failure = structs.replace(failure, code=failure.cause or failure.code, detail=why, cause=None)
        return {"running": record.last_good, "shown": False, "reverted": record.shown, "failure": failure}
    in_doubt: dict[str, object] = {}
    if not record.shown:  # an installation failed half way, who knows what it left
        in_doubt = {"running": of_target(_target(record), now_ms), "shown": True}
    if outcome.event is Event.SUPERSEDED:
        return in_doubt
    detail = outcome.detail or "the agent was stopped again and again"
    undone = structs.replace(failure, detail=why + _UNDONE + detail)
    if not failure.is_final:  # `target` may still be good, and is tried again
        return {"failure": undone}
    return in_doubt | {"failure": structs.replace(undone, code=Code.REVERT_FAILED, cause=failure.cause or failure.code)}


def _unproven(record: Record) -> Instruction:
    if record.running is None:
        raise ValueError("nothing is shown, and something unproven")
    return as_instruction(record, record.running)


def as_instruction(record: Record, installed: Installed) -> Instruction:
    """To have it again, or to step back from it."""
    return Instruction(
        workflow=record.workflow,
        pointer=record.pointer,
        epoch=installed.epoch,
        generation=installed.generation,
        version=installed.version,
        digest=installed.digest,
        size_bytes=installed.size_bytes,
    )


def _refused(record: Record) -> Record:
    target, failure = _target(record), record.failure
    newer = (target.epoch, target.generation) > record.fence
    if failure and failure.is_final and newer:
        return structs.replace(record, epoch=target.epoch, generation=target.generation)
    return record


def _failure(record: Record, code: Code | None, detail: str, now_ms: int, *, later: bool = False) -> Failure:
    if code is None:
        raise ValueError("a failure without a code")
    target, before = _target(record), record.failure
    again = before is not None and (before.generation, before.code) == (target.generation, code)
    return Failure(
        generation=target.generation,
        version=target.version,
        code=code,
        detail=detail,
        later=later,
        since_ms=before.since_ms if before and again else now_ms,
    )


def _worse(record: Record, detail: str) -> Failure:
    if record.failure is None:
        raise ValueError("a revert without a failure")
    return structs.replace(record.failure, detail=record.failure.detail + detail)


def _target(record: Record) -> Instruction:
    if record.target is None:
        raise ValueError(f"{record.state} without a target")
    return record.target

"""The record of one follow: what is on disk before every act, and how a transition changes it. Pure."""

from __future__ import annotations

from msgspec import Struct, structs

from registry.agent import limits
from registry.agent.api import Instruction
from registry.agent.transitions import PERMANENT, Code, Event, Facts, Row, State

_RETRIED = {State.FETCH: limits.FETCH_ATTEMPTS, State.VERIFY: limits.FETCH_ATTEMPTS}
_BOUNDED = {State.REVERT: limits.REVERT_ATTEMPTS, State.RESTORE: limits.REVERT_ATTEMPTS}
_ATTEMPTS = _RETRIED | _BOUNDED


class Installed(Struct, frozen=True, kw_only=True):
    generation: int
    version: int
    digest: str
    size_bytes: int


class Failure(Struct, frozen=True, kw_only=True):
    """Why `generation` is not what runs."""

    generation: int
    version: int
    code: Code
    detail: str


class Outcome(Struct, frozen=True):
    """How an act ended. `code` and `detail` belong to FAILED."""

    event: Event
    code: Code | None = None
    detail: str = ""


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`epoch` and `generation` are the newest acted on: confirmed, or refused for good. They only rise."""

    workflow: str
    pointer: str
    path: str
    state: State = State.IDLE
    epoch: int = 0
    generation: int = 0
    target: Instruction | None = None
    running: Installed | None = None  # what PATH shows; in doubt while INSTALL or REVERT is under way
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

    def facts(self, *, has_reload: bool, has_probe: bool) -> Facts:
        return Facts(
            shown=self.shown,
            has_reload=has_reload,
            has_probe=has_probe,
            attempts_left=self.attempt < _ATTEMPTS.get(self.state, 0),
            restarts_left=self.restarts < limits.RESTARTS,
        )

    def digests(self) -> set[str]:
        """Content that must stay on disk."""
        used = {installed.digest for installed in self.kept}
        used |= {installed.digest for installed in (self.running, self.last_good) if installed}
        return used | ({self.target.digest} if self.target else set())


def of_target(target: Instruction) -> Installed:
    return Installed(
        generation=target.generation, version=target.version, digest=target.digest, size_bytes=target.size_bytes
    )


def evolve(record: Record, row: Row, outcome: Outcome, offered: Instruction | None = None) -> Record:
    """The record after `row`, as it is written before the row's act starts. `offered`: taken up when GUARD or, for
    damaged content, FETCH is entered from outside."""
    changes = structs.asdict(record) | {"state": row.next, "attempt": _attempt(record, row)}
    if outcome.event in (Event.OFFERED, Event.SUPERSEDED, Event.DAMAGED):
        if offered is None:
            raise ValueError(f"{outcome.event} without an instruction")
        changes |= {"target": offered, "restarts": 0, "reverted": False, "attempt": 1}
    if outcome.event is Event.RESTARTED:
        changes |= _restarted(record, row)
    if outcome.event is Event.FAILED and (row.state not in (State.REVERT, State.RESTORE)):
        changes["failure"] = _failure(record, outcome.code, outcome.detail)
    if outcome.event is Event.STALE and row.next is State.REVERT:
        changes["failure"] = _failure(record, Code.INTERRUPTED, "superseded by an instruction that is not newer")
    if row.state is State.INSTALL and outcome.event is Event.DONE:
        changes |= {"running": of_target(_target(record)), "shown": True}
    if row.next is State.CONFIRM and row.state is not State.CONFIRM:
        changes |= _confirmed(record)
    if row.state is State.REVERT and row.next is not State.REVERT:
        changes |= _reverted(record, outcome)
    if row.state is State.RESTORE and row.next is State.REFUSE and outcome.event is not Event.DONE:
        changes["failure"] = _worse(record, f"; and the reload of the last good version failed: {outcome.detail}")
    after = Record(**changes)
    if row.next is State.REFUSE and row.state is not State.REFUSE:
        after = _refused(after)
    if row.next is State.IDLE:
        after = structs.replace(after, target=None, attempt=1, restarts=0, reverted=False)
    return after


def _attempt(record: Record, row: Row) -> int:
    again = row.next is row.state or (row.state is State.VERIFY and row.next is State.FETCH)
    if again:
        return record.attempt + 1
    return record.attempt if row.next is State.VERIFY else 1


def _restarted(record: Record, row: Row) -> dict[str, object]:
    if row.next is State.REVERT and row.state is not State.REVERT:
        if row.state in (State.FETCH, State.STAGE):
            why = Code.INTERRUPTED, "the agent stopped while an unproven version was shown"
        else:
            why = Code.RESTARTS_EXCEEDED, f"the agent stopped {record.restarts} times during this installation"
        return {"failure": _failure(record, *why)}
    return {"restarts": record.restarts + 1}


def _confirmed(record: Record) -> dict[str, object]:
    """What is put back after damage is older than a generation that was refused since: the fence stays, and so does
    the word about that one."""
    target = _target(record)
    good = of_target(target)
    epoch, generation = max(record.fence, (target.epoch, target.generation))
    is_newest = (epoch, generation) == (target.epoch, target.generation)
    others = tuple(kept for kept in record.kept if kept.digest != good.digest)
    return {
        "epoch": epoch,
        "generation": generation,
        "running": good,
        "last_good": good,
        "kept": (good, *others)[: limits.KEPT_VERSIONS],
        "shown": False,
        "failure": None if is_newest else record.failure,
    }


def _reverted(record: Record, outcome: Outcome) -> dict[str, object]:
    if outcome.event is Event.DONE:
        return {"running": record.last_good, "shown": False, "reverted": record.shown}
    detail = outcome.detail or "the agent was stopped again and again"
    return {"failure": _worse(record, f"; and the swap back failed: {detail}", Code.REVERT_FAILED)}


def _refused(record: Record) -> Record:
    target, failure = _target(record), record.failure
    newer = (target.epoch, target.generation) > record.fence
    if failure and failure.code in PERMANENT and newer:
        return structs.replace(record, epoch=target.epoch, generation=target.generation)
    return record


def _failure(record: Record, code: Code | None, detail: str) -> Failure:
    if code is None:
        raise ValueError("a failure without a code")
    target = _target(record)
    return Failure(generation=target.generation, version=target.version, code=code, detail=detail)


def _worse(record: Record, detail: str, code: Code | None = None) -> Failure:
    if record.failure is None:
        raise ValueError("a revert without a failure")
    return structs.replace(record.failure, code=code or record.failure.code, detail=record.failure.detail + detail)


def _target(record: Record) -> Instruction:
    if record.target is None:
        raise ValueError(f"{record.state} without a target")
    return record.target

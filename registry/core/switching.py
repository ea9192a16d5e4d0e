"""Moving pointers, forward and back: decide every move, then write all of them or none.

Which version a rollback without a target picks: walk the pointer's switches back from the newest. The newest `stable`
version that was live before; if there is none, the newest that is not failed, fenced or archived. Never one that

- a pointer of the same workflow names and this command moves away from (the current one, first of all), or
- was rolled away from in the unbroken run of rollbacks that led to the current one, or
- lost its content (retention, a purge).

The second rule makes a rollback with `keep_status` choose as if the versions it left had been marked failed: however
often it is repeated, each rollback of a run picks a version that the run has not tried yet, and the run ends with
NO_ROLLBACK_TARGET instead of going round. A switch by hand starts afresh.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import NamedTuple

from msgspec import structs

from registry.core import fences, limits, verdicts
from registry.core.commands import Move, Switch
from registry.core.decisions import accept, content_removed, find_version, no_workflow, reject
from registry.core.errors import Reason
from registry.core.model import Change, Pointer, StatusChange, Version
from registry.core.outcomes import Rejected, Switched
from registry.core.state import State, View

_UNUSABLE = {
    "failed": Reason.VERSION_FAILED,
    "fenced": Reason.VERSION_FENCED,
    "archived": Reason.VERSION_ARCHIVED,
}


class _Step(NamedTuple):
    """One move, decided."""

    move: Move
    current: Pointer | None
    target: Version
    notes: tuple[str, ...]


def switch(state: State, command: Switch, *, level: int) -> Switched | Rejected:
    """Decide the command and write it. `command` is well-formed (validation.check)."""
    currents = [state.pointer(move.workflow, move.pointer) for move in command.moves]
    steps: list[_Step] = []
    for move, current in zip(command.moves, currents, strict=True):
        step = _decide(state, command, move, current, currents, level)
        if isinstance(step, Rejected):
            return step
        steps.append(step)
    return _too_many_pointers(state, steps) or _write(state, command, steps, level)


def way_back(view: View, current: Pointer, *, most: int) -> Version | None:
    """What a rollback of one pointer would pick now, after a look at `most` of its switches; None: there is nothing."""
    return _walk_back(view, current, {current.version}, level=2, most=most)[0]


def _decide(
    state: State, command: Switch, move: Move, current: Pointer | None, currents: list[Pointer | None], level: int
) -> _Step | Rejected:
    if current is None and state.workflow(move.workflow) is None:  # what has a pointer is there
        return no_workflow(state, move.workflow)
    generation = current.generation if current else 0
    if move.expected_generation is not None and move.expected_generation != generation:
        return _mismatch(state, move, current)
    if command.rollback and current is None:
        return reject(
            state,
            Reason.POINTER_NOT_FOUND,
            f"{move.workflow} has no pointer {move.pointer}: there is nothing to roll back",
            hint="its pointers: " + (", ".join(row.pointer for row in state.pointers(move.workflow)) or "none yet"),
            metadata={"workflow": move.workflow, "pointer": move.pointer},
        )
    if current is not None and not move.target:
        leaving = {other.version for other in currents if other is not None and other.workflow == move.workflow}
        return _pick(state, move, current, leaving, level)
    return _named(state, command, move, current, level)


def _named(state: State, command: Switch, move: Move, current: Pointer | None, level: int) -> _Step | Rejected:
    """The target that the command names."""
    target = find_version(state, move.workflow, move.target)
    if isinstance(target, Rejected):
        return target
    if target.removed is not None:
        return content_removed(state, target, target.removed, "nothing was moved")
    notes: list[str] = []
    status, why = _standing(state, target, level)
    if status in _UNUSABLE:
        if not command.force:
            return reject(
                state,
                _UNUSABLE[status],
                f"version {target.number} of {target.workflow} {why}; nothing was moved",
                hint="choose another version, or repeat with --force",
                metadata={"workflow": target.workflow, "version": str(target.number), "status": status},
            )
        notes.append(f"{target.workflow}: version {target.number} {why}; switched by force")
    if level >= 2 and not command.force:
        refused = (verdicts.refuse_rollback if command.rollback else verdicts.refuse)(state, move, current)
        if refused is not None:
            return refused
    if current is not None and current.version == target.number:
        notes.append(
            f"{target.workflow}: {move.pointer} named version {target.number} already; it has a new generation"
        )
    return _Step(move, current, target, tuple(notes))


def _pick(state: State, move: Move, current: Pointer, leaving: set[int], level: int) -> _Step | Rejected:
    """The target of a rollback that names none; see the top of this file."""
    picked, twins = _walk_back(state, current, leaving, level=level, most=limits.ROLLBACK_SWITCHES)
    if picked is not None and picked.status == "stable":
        return _Step(move, current, picked, _same_bytes(current, picked))
    if picked is not None:
        note = (
            f"{move.workflow}: no stable version was live before; picked version {picked.number} "
            f"({picked.status}), the newest that is not failed, fenced or archived"
        )
        return _Step(move, current, picked, (note, *_same_bytes(current, picked)))
    return reject(
        state,
        Reason.NO_ROLLBACK_TARGET,
        f"{move.workflow}: {move.pointer} has no earlier version to go back to that is not failed, fenced, archived "
        f"or rolled back from already{_counted(twins)}; it still names version {current.version}",
        hint=f"choose one from regctl versions {move.workflow} and name it with --to",
        metadata=_record(current),
    )


def _walk_back(
    state: View, current: Pointer, leaving: set[int], *, level: int, most: int
) -> tuple[Version | None, list[str]]:
    """The version to go back to, and why some on the way that are not marked so count as fenced."""
    tried = set(leaving)
    in_run = True
    fallback: Version | None = None
    twins: list[str] = []
    for past in islice(state.switches(current.workflow, current.pointer), most):
        if in_run and past.rollback:
            tried.add(past.previous_version)
            continue
        in_run = False
        if past.version in tried:
            continue
        tried.add(past.version)
        version = state.version(current.workflow, past.version)
        if version is None:
            raise KeyError(f"{current.workflow} was switched to version {past.version}, which is missing")
        if version.removed is not None:
            continue
        status, why = _standing(state, version, level)
        if level >= 2 and status != version.status:
            twins.append(f"version {version.number} {why}")
        if status == "stable":
            return version, twins
        if status not in _UNUSABLE and fallback is None:
            fallback = version
    return fallback, twins


def _standing(state: View, version: Version, level: int) -> tuple[str, str]:
    """The status that counts, fenced if any version with the same bytes or meaning is; and why, as a predicate."""
    if version.status != "fenced":
        fence = fences.find(state, version.workflow, version.digest, version.semantic_digest, level=level)
        if fence is not None:
            return "fenced", f"{fence.how}, which is fenced"
    return version.status, f"is {version.status}"


def _counted(twins: list[str]) -> str:
    """The newest of the versions that count as fenced and are not marked so."""
    more = f", and {len(twins) - 1} more" if len(twins) > 1 else ""
    return f" ({twins[0]}{more})" if twins else ""


def _same_bytes(current: Pointer, target: Version) -> tuple[str, ...]:
    if current.digest != target.digest:
        return ()
    return (f"{target.workflow}: version {target.number} has the same bytes as version {current.version}",)


def _too_many_pointers(state: State, steps: list[_Step]) -> Rejected | None:
    created = [step.move.workflow for step in steps if step.current is None]
    for workflow, count in Counter(created).items() if created else ():
        if sum(1 for _ in state.pointers(workflow)) + count > limits.POINTERS:
            return reject(
                state,
                Reason.TOO_LARGE,
                f"{workflow} would have more than {limits.POINTERS} pointers; nothing was moved",
                hint="use a pointer it has",
                metadata={"workflow": workflow, "limit": str(limits.POINTERS)},
            )
    return None


def _mismatch(state: State, move: Move, current: Pointer | None) -> Rejected:
    record = _record(
        current or Pointer(workflow=move.workflow, pointer=move.pointer, version=0, digest="", generation=0, revision=0)
    )
    if current is None:
        now = f"{move.pointer} of {move.workflow} was never switched (generation 0)"
    else:
        now = (
            f"{move.pointer} of {move.workflow} is at generation {current.generation}, version {current.version}, "
            f"since {current.principal or 'someone'} wrote: {current.reason}"
        )
    return reject(
        state,
        Reason.GENERATION_MISMATCH,
        f"expected generation {move.expected_generation}, but {now}; nothing was moved",
        hint=f"look at the current record, and if you still want it, repeat with --expect {record['generation']}",
        metadata=record | {"expected": str(move.expected_generation)},
    )


def _record(pointer: Pointer) -> dict[str, str]:
    """All of a pointer's record, as metadata; without times that were not set, which level 1 does not know."""
    values = structs.asdict(pointer)
    for name in ("not_before_ms", "deadline_ms"):
        if not values[name]:
            del values[name]
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in values.items()}


def _write(state: State, command: Switch, steps: list[_Step], level: int) -> Switched:
    revision = state.registry().revision + 1
    pointers = tuple([_moved(step, command, revision) for step in steps])
    status_changes = _failures(state, steps) if command.rollback and not command.keep_status else ()
    for pointer in pointers:
        state.put_pointer(pointer)
    for change in status_changes:
        version = state.version(change.workflow, change.version)
        if version is None:
            raise KeyError(f"version {change.version} of {change.workflow} is missing")
        state.put_version(structs.replace(version, status=change.status))
    accept(
        state,
        Change(
            revision=revision,
            time_ms=command.time_ms,
            principal=command.principal,
            action="rollback" if command.rollback else "switch",
            reason=command.reason,
            request_id=command.request_id,
            workflows=tuple(dict.fromkeys([pointer.workflow for pointer in pointers])),
            pointers=pointers,
            status_changes=status_changes,
            forced=command.force and level >= 2,
        ),
    )
    notes = tuple([note for step in steps for note in step.notes])
    return Switched(revision=revision, pointers=pointers, status_changes=status_changes, notes=notes)


def _moved(step: _Step, command: Switch, revision: int) -> Pointer:
    return Pointer(
        workflow=step.move.workflow,
        pointer=step.move.pointer,
        version=step.target.number,
        digest=step.target.digest,
        previous_version=step.current.version if step.current else 0,
        generation=(step.current.generation if step.current else 0) + 1,
        revision=revision,
        reason=command.reason,
        principal=command.principal,
        time_ms=command.time_ms,
        rollback=command.rollback,
        not_before_ms=command.not_before_ms,
        deadline_ms=command.deadline_ms,
    )


def _failures(state: State, steps: list[_Step]) -> tuple[StatusChange, ...]:
    """The versions rolled away from that become failed: not those that the command moves a pointer to."""
    targets = {(step.target.workflow, step.target.number) for step in steps}
    left = dict.fromkeys((step.current.workflow, step.current.version) for step in steps if step.current)
    changes = []
    for workflow, number in left:
        version = state.version(workflow, number)
        if (workflow, number) not in targets and version is not None and version.status in ("candidate", "stable"):
            changes.append(
                StatusChange(workflow=workflow, version=number, previous_status=version.status, status="failed")
            )
    return tuple(changes)

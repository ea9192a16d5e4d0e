"""Whether a move is good enough for the policy: its verdict was found before the log, and is held against it here.

A verdict is of going from one version to another, and what a pointer names may have changed since: then it is
outdated, the member that proposed makes another, and proposes again with the same request id.

The way back is open: a rollback to what the pointer has named is not judged. To anything else it is no way back.
"""

from __future__ import annotations

from itertools import islice

from registry.core import limits, policies
from registry.core.commands import Move
from registry.core.decisions import reject
from registry.core.errors import Reason
from registry.core.model import Pointer
from registry.core.outcomes import Rejected
from registry.core.state import State


def refuse(state: State, move: Move, current: Pointer | None) -> Rejected | None:
    worst = policies.effective(state, move.workflow).verdict
    if worst == policies.VERDICTS[-1]:
        return None
    named = current.version if current else 0
    metadata = _metadata(state, move, named, worst)
    if not move.verdict or move.verdict_from != named:
        found = f"was found from version {move.verdict_from}" if move.verdict else "is not known"
        return reject(
            state,
            Reason.VERDICT_OUTDATED,
            f"{move.pointer} of {move.workflow} names {f'version {named}' if named else 'nothing yet'}, and the "
            f"verdict of going to version {move.target} {found}; nothing was moved",
            hint="repeat it: the verdict is found again",
            metadata=metadata,
        )
    if policies.VERDICTS.index(move.verdict) <= policies.VERDICTS.index(worst):
        return None
    start = f"from version {named} " if named else ""
    return reject(
        state,
        Reason.VERDICT_REFUSED,
        f"the verdict of going {start}to version {move.target} of {move.workflow} is {move.verdict}, and policy "
        f"verdict of {metadata['scope']} takes {worst} at worst; nothing was moved",
        hint="publish a corrected version, or repeat with --force"
        + (f"; see why with: regctl compare {move.workflow}@{named} {move.workflow}@{move.target}" if named else ""),
        metadata=metadata | {"verdict": move.verdict},
    )


def refuse_rollback(state: State, move: Move, current: Pointer | None) -> Rejected | None:
    """To a version that the move names."""
    worst = policies.effective(state, move.workflow).verdict
    if worst == policies.VERDICTS[-1]:
        return None
    switches = islice(state.switches(move.workflow, move.pointer), limits.ROLLBACK_SWITCHES)
    if any(past.version == move.target for past in switches):
        return None
    metadata = _metadata(state, move, current.version if current else 0, worst)
    return reject(
        state,
        Reason.VERDICT_REFUSED,
        f"{move.pointer} of {move.workflow} never named version {move.target}, so that is no way back, and policy "
        f"verdict of {metadata['scope']} takes {worst} at worst; nothing was moved",
        hint=f"regctl switch {move.workflow}@{move.target} --pointer {move.pointer} --reason WHY, which is judged, "
        "or repeat with --force",
        metadata=metadata,
    )


def _metadata(state: State, move: Move, named: int, worst: str) -> dict[str, str]:
    return {
        "workflow": move.workflow,
        "pointer": move.pointer,
        "version": str(named),
        "target": str(move.target),
        "policy": worst,
        "scope": policies.source(state, move.workflow, "verdict"),
    }

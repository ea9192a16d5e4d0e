"""Verdicts of switches: found by the member that proposes, held against the pointer and the policy in apply."""

from __future__ import annotations

import asyncio

from msgspec import structs

from registry.core import errors, policies
from registry.core.commands import Move, Switch
from registry.core.errors import RegistryError
from registry.formats.model import Finding, Verdict
from registry.server.budget import Budget
from registry.server.feed import PointerKey, busy
from registry.server.inspect_worker import JudgeJob
from registry.server.inspector import Inspector
from registry.server.limits import REFUSAL_REASONS
from registry.server.services.reads import Reads
from registry.store import tables
from registry.store.state import Rows

NOT_COMPARED = Verdict(
    level="warn",
    change="major",
    reasons=[
        Finding(
            code="not_compared", level="warn", text="large content, kept in chunks: it is not read, and not compared"
        )
    ],
)
_Step = tuple[str, int, int]  # workflow, the version a pointer names (0: none), the target


class Verdicts:
    """Of one switch. What was found stays known: a pointer that comes back to a version is not judged again."""

    def __init__(self, *, reads: Reads, inspector: Inspector) -> None:
        self._reads = reads
        self._inspector = inspector
        self._found: dict[_Step, Verdict | None] = {}
        self._of: dict[PointerKey, Verdict] = {}  # of the moves as they were returned last

    async def judged(self, command: Switch, budget: Budget) -> Switch:
        """With verdicts of the moves where a policy asks for one. They are of what the pointers name here as this
        returns: where that is outdated, apply says so. Raises COMPARE_LIMIT, BUSY."""
        # a version that was not here before may be by now
        self._found = {step: verdict for step, verdict in self._found.items() if verdict is not None}
        while True:
            steps = self._asked(command)
            if not any(steps):
                return command
            unknown = [step for step in steps if step is not None and step not in self._found]
            if not unknown:
                moves = tuple(self._judged(move, step) for move, step in zip(command.moves, steps, strict=True))
                return structs.replace(command, moves=moves)
            for step in unknown:
                self._found[step] = await self._judge(step, budget)

    def explain(self, error: RegistryError) -> RegistryError:
        """A refusal by verdict, with the reasons that apply does not know."""
        verdict = self._of.get((error.metadata.get("workflow", ""), error.metadata.get("pointer", "")))
        worst = verdict.reasons[:REFUSAL_REASONS] if verdict else []
        reasons = "\n".join(f"{each.level}: {each.text}{f' ({each.where})' if each.where else ''}" for each in worst)
        metadata = error.metadata | ({"reasons": reasons} if reasons else {})
        return errors.error(error.reason, error.message, hint=error.hint, metadata=metadata)

    def _asked(self, command: Switch) -> list[_Step | None]:
        """Of each move the step to judge; None: no policy asks. Empty where there are no policies, and of a retry:
        apply answers it with the first outcome, whatever the verdict would be by now."""
        with self._reads.peek() as reader:
            rows = Rows(reader)
            steps = [_step(rows, move) for move in command.moves] if reader.count(tables.POLICIES) else []
            is_retry = any(steps) and rows.remembered(command.request_id) is not None
        return [] if is_retry else steps

    def _judged(self, move: Move, step: _Step | None) -> Move:
        verdict = self._found[step] if step is not None else None
        if step is None or verdict is None:
            return move
        self._of[move.workflow, move.pointer] = verdict
        return structs.replace(move, verdict=verdict.level, verdict_from=step[1])

    async def _judge(self, step: _Step, budget: Budget) -> Verdict | None:
        """None: there is no such version here; apply decides whether there is one at all."""
        workflow, current, number = step
        target = await self._reads.stored(workflow, number)
        before = await self._reads.stored(workflow, current) if current else None
        if target is None:
            return None
        new, data = target
        if not data or (before is not None and not before[1]):
            return NOT_COMPARED
        job = JudgeJob(data, new.kind, secrets_new=new.secrets)
        if before is not None:
            old, base = before
            job = structs.replace(job, old=base, kind_old=old.kind, secrets_old=old.secrets)
        try:
            async with asyncio.timeout(budget.left_s()):
                return await self._inspector.judge(job)
        except TimeoutError:
            raise busy("the versions could not be judged in time; nothing was moved") from None


def _step(rows: Rows, move: Move) -> _Step | None:
    """None: no policy asks."""
    worst = (policy.verdict for _, policy in reversed(policies.said(rows, move.workflow)) if policy.verdict)
    if next(worst, policies.DEFAULTS.verdict) == policies.VERDICTS[-1]:
        return None
    pointer = rows.pointer(move.workflow, move.pointer)
    return move.workflow, pointer.version if pointer else 0, move.target

"""Writes beside publish: checked here, decided in apply, on every member alike."""

from __future__ import annotations

import asyncio
import random
from typing import cast

from msgspec import structs

from registry.core import commands, limits, model, outcomes, references, validation
from registry.core.errors import Conflict, Invalid, Reason, Refused
from registry.server import convert, trial
from registry.server.budget import Budget
from registry.server.inspector import Inspector
from registry.server.limits import VERDICT_ATTEMPTS, VERDICT_BACKOFF_S
from registry.server.proposer import Proposer
from registry.server.replies import Replies
from registry.server.services.reads import Reads
from registry.server.services.verdicts import Verdicts
from registry.server.status import rejection
from registry.store import queries
from registry.store.state import Rows
from registry.v1 import registry_pb2


class Writes:
    def __init__(self, *, proposer: Proposer, reads: Reads, replies: Replies, inspector: Inspector) -> None:
        self._proposer = proposer
        self._reads = reads
        self._replies = replies
        self._inspector = inspector

    async def switch(self, request: registry_pb2.SwitchRequest, timeout_s: float) -> registry_pb2.SwitchResponse:
        return await self._move(request, timeout_s)

    async def rollback(self, request: registry_pb2.RollbackRequest, timeout_s: float) -> registry_pb2.SwitchResponse:
        return await self._move(request, timeout_s)

    async def preview_rollback(
        self, request: registry_pb2.RollbackRequest, timeout_s: float
    ) -> registry_pb2.SwitchResponse:
        """What rollback would answer now."""
        budget = Budget(timeout_s)
        command = await self._switch_command(request, self._proposer.new_request_id(), budget)
        await self._proposer.barrier(budget.left_s())
        with self._reads.peek() as reader:
            outcome = trial.switch(reader, command, level=self._proposer.level)
            revision = queries.registry(reader).revision
        if isinstance(outcome, outcomes.Rejected):
            raise rejection(outcome)
        return convert.switched(outcome, self._replies.info(revision))

    async def mark(self, request: registry_pb2.MarkRequest, timeout_s: float) -> registry_pb2.MarkResponse:
        request_id = self._proposer.request_id(request.request_id)
        budget = Budget(timeout_s)
        number = await self._number(request.workflow, request.reference, budget)
        command = commands.Mark(
            request_id=request_id,
            time_ms=self._proposer.clock_ms(),
            principal=request.principal,
            workflow=request.workflow,
            version=number,
            status=cast(model.Status, request.status),  # checked with the command
            reason=request.reason,
            reference=request.reference,
        )
        outcome = await self._proposer.propose(command, budget.left_s())
        assert isinstance(outcome, outcomes.Marked)
        return registry_pb2.MarkResponse(
            info=self._replies.info(outcome.revision),
            version=convert.version(outcome.version),
            previous_status=outcome.previous_status,
        )

    async def label(self, request: registry_pb2.LabelRequest, timeout_s: float) -> registry_pb2.LabelResponse:
        request_id = self._proposer.request_id(request.request_id)
        budget = Budget(timeout_s)
        await self._proposer.require_level_2("labelling a version", budget.left_s())
        command = commands.Label(
            request_id=request_id,
            time_ms=self._proposer.clock_ms(),
            principal=request.principal,
            workflow=request.workflow,
            version=await self._number(request.workflow, request.reference, budget),
            labels=dict(request.labels),
            remove=tuple(request.remove),
            reason=request.reason,
            reference=request.reference,
        )
        outcome = await self._proposer.propose(command, budget.left_s())
        assert isinstance(outcome, outcomes.Labelled)
        return registry_pb2.LabelResponse(
            info=self._replies.info(outcome.revision), version=convert.version(outcome.version)
        )

    async def set_policy(
        self, request: registry_pb2.SetPolicyRequest, timeout_s: float
    ) -> registry_pb2.SetPolicyResponse:
        command = commands.SetPolicy(
            request_id=self._proposer.request_id(request.request_id),
            time_ms=self._proposer.clock_ms(),
            principal=request.principal,
            scope=request.scope,
            fields=dict(request.fields),
            reason=request.reason,
        )
        outcome = await self._proposer.propose(command, timeout_s)
        assert isinstance(outcome, outcomes.PolicySet)
        return registry_pb2.SetPolicyResponse(
            info=self._replies.info(outcome.revision), scope=outcome.scope, policy=convert.policy(outcome.policy)
        )

    async def _move(
        self, request: registry_pb2.SwitchRequest | registry_pb2.RollbackRequest, timeout_s: float
    ) -> registry_pb2.SwitchResponse:
        request_id = self._proposer.request_id(request.request_id)
        budget = Budget(timeout_s)
        outcome = await self._switched(await self._switch_command(request, request_id, budget), budget)
        return convert.switched(outcome, self._replies.info(outcome.revision))

    async def _switch_command(
        self, request: registry_pb2.SwitchRequest | registry_pb2.RollbackRequest, request_id: str, budget: Budget
    ) -> commands.Switch:
        rollback = isinstance(request, registry_pb2.RollbackRequest)
        if len(request.moves) > limits.MOVES:
            raise Invalid(
                Reason.TOO_LARGE,
                f"{len(request.moves)} pointers in one switch; nothing was moved",
                hint=f"at most {limits.MOVES} move together",
                metadata={"limit": str(limits.MOVES)},
            )
        moves = []
        for move in request.moves:
            picked = rollback and not move.target
            moves.append(
                commands.Move(
                    workflow=move.workflow,
                    pointer=move.pointer or model.DEFAULT_POINTER,
                    target=0 if picked else await self._number(move.workflow, move.target, budget),
                    reference=move.target,
                    expected_generation=move.expected_generation if move.HasField("expected_generation") else None,
                )
            )
        command = commands.Switch(
            request_id=request_id,
            time_ms=self._proposer.clock_ms(),
            principal=request.principal,
            moves=tuple(moves),
            reason=request.reason,
            rollback=rollback,
            force=request.force,
            keep_status=isinstance(request, registry_pb2.RollbackRequest) and request.keep_status,
        )
        if isinstance(request, registry_pb2.SwitchRequest) and (request.not_before_ms or request.deadline_ms):
            await self._proposer.require_level_2("a switch with times", budget.left_s())
            command = structs.replace(command, not_before_ms=request.not_before_ms, deadline_ms=request.deadline_ms)
            await self._check_deadline(command, budget)
        validation.check(command)  # before anything is looked up by its names
        return command

    async def _switched(self, command: commands.Switch, budget: Budget) -> outcomes.Switched:
        """With verdicts where a policy asks for them; found anew when a pointer has moved meanwhile."""
        verdicts = Verdicts(reads=self._reads, inspector=self._inspector)
        attempts = VERDICT_ATTEMPTS
        while True:
            attempts -= 1
            judged = command if command.rollback or command.force else await verdicts.judged(command, budget)
            try:
                outcome = await self._proposer.propose(judged, budget.left_s(), checked=True)
            except Conflict as error:
                pause_s = random.uniform(0, VERDICT_BACKOFF_S)
                if error.reason is not Reason.VERDICT_OUTDATED or not attempts or budget.left_s() <= pause_s:
                    raise
                await asyncio.sleep(pause_s)
                await self._proposer.barrier(budget.left_s())
            except Refused as error:
                if error.reason is not Reason.VERDICT_REFUSED:
                    raise
                raise verdicts.explain(error) from None
            else:
                assert isinstance(outcome, outcomes.Switched)
                return outcome

    async def _check_deadline(self, command: commands.Switch, budget: Budget) -> None:
        """By this member's clock, and only here: apply has none. A retry gets the first outcome, however late it is."""
        late_ms = command.time_ms - command.deadline_ms
        if not command.deadline_ms or late_ms < 0:
            return
        await self._proposer.barrier(budget.left_s())  # the first try may have gone through another member
        if not self._remembered(command.request_id):
            raise Invalid(
                Reason.INVALID_REQUEST,
                f"the deadline passed {late_ms / 1000:,.1f} s ago: no agent would install it; nothing was moved",
                hint="give a later one, or none",
            )

    def _remembered(self, request_id: str) -> bool:
        """A retry: apply answers with the first outcome, whatever the verdict would be by now."""
        with self._reads.peek() as reader:
            return Rows(reader).remembered(request_id) is not None

    async def _number(self, workflow: str, reference: str, budget: Budget) -> int:
        return await self._reads.number(workflow, references.parse_target(reference), budget.left_s())

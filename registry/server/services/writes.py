"""Writes: checked here, decided in apply, on every member alike."""

from __future__ import annotations

import asyncio
from typing import cast

from registry.core import commands, limits, model, names, outcomes, references
from registry.core.errors import Invalid, Reason
from registry.server import convert
from registry.server.feed import busy
from registry.server.inspector import Inspector
from registry.server.limits import INLINE_BYTES
from registry.server.proposer import Proposer
from registry.server.replies import Replies
from registry.server.services.reads import Reads
from registry.store import content
from registry.v1 import registry_pb2


class Writes:
    """content_limit_bytes: of one publish, set by the operator."""

    def __init__(
        self,
        *,
        proposer: Proposer,
        reads: Reads,
        replies: Replies,
        inspector: Inspector,
        content_limit_bytes: int,
    ) -> None:
        self._proposer = proposer
        self._reads = reads
        self._replies = replies
        self._inspector = inspector
        self._content_limit_bytes = content_limit_bytes

    async def publish(self, request: registry_pb2.PublishRequest, timeout_s: float) -> registry_pb2.PublishResponse:
        request_id = self._proposer.request_id(request.request_id)
        self._check_content(request.content)
        names.check_workflow(request.workflow)
        budget = Budget(timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                inspection = await self._inspector.inspect(request.content, request.kind)
        except TimeoutError:
            raise busy("the content could not be inspected in time; nothing was stored") from None
        digest, stored = await _packed(request.content)
        command = commands.Publish(
            request_id=request_id,
            time_ms=self._proposer.clock_ms(),
            principal=request.principal,
            workflow=request.workflow,
            kind=inspection.kind,
            digest=digest,
            value_digest=inspection.value_digest,
            semantic_digest=inspection.semantic_digest,
            content=stored,
            message=request.message,
            labels=dict(request.labels),
            facts=inspection.facts,
        )
        outcome = await self._proposer.propose(command, budget.left_s())
        assert isinstance(outcome, outcomes.Published)
        return registry_pb2.PublishResponse(
            info=self._replies.info(outcome.revision),
            version=convert.version(outcome.version),
            created=outcome.created,
        )

    async def switch(self, request: registry_pb2.SwitchRequest, timeout_s: float) -> registry_pb2.SwitchResponse:
        return await self._move(request, timeout_s, rollback=False, keep_status=False)

    async def rollback(self, request: registry_pb2.RollbackRequest, timeout_s: float) -> registry_pb2.SwitchResponse:
        return await self._move(request, timeout_s, rollback=True, keep_status=request.keep_status)

    async def mark(self, request: registry_pb2.MarkRequest, timeout_s: float) -> registry_pb2.MarkResponse:
        request_id = self._proposer.request_id(request.request_id)
        budget = Budget(timeout_s)
        number = await self._number(request.workflow, references.parse_target(request.reference), budget)
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

    async def _move(
        self,
        request: registry_pb2.SwitchRequest | registry_pb2.RollbackRequest,
        timeout_s: float,
        *,
        rollback: bool,
        keep_status: bool,
    ) -> registry_pb2.SwitchResponse:
        request_id = self._proposer.request_id(request.request_id)
        budget = Budget(timeout_s)
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
            target = references.parse_target(move.target)
            moves.append(
                commands.Move(
                    workflow=move.workflow,
                    pointer=move.pointer or model.DEFAULT_POINTER,
                    target=0 if picked else await self._number(move.workflow, target, budget),
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
            keep_status=keep_status,
        )
        outcome = await self._proposer.propose(command, budget.left_s())
        assert isinstance(outcome, outcomes.Switched)
        return convert.switched(outcome, self._replies.info(outcome.revision))

    async def _number(self, workflow: str, target: references.Target, budget: Budget) -> int:
        """A number needs no look: whether it exists is decided in apply."""
        if isinstance(target, references.Number):
            return target.number
        return (await self._reads.resolve(workflow, target, budget.left_s())).number

    def _check_content(self, data: bytes) -> None:
        if not data:
            raise Invalid(
                Reason.INVALID_CONTENT, "the content has zero bytes; nothing was stored", hint="check the file"
            )
        if len(data) > self._content_limit_bytes:
            raise Invalid(
                Reason.TOO_LARGE,
                f"the content has {len(data):,} bytes, {self._content_limit_bytes:,} are allowed; nothing was stored",
                hint=f"start the members with a higher --content-limit BYTES, up to {limits.CONTENT_BYTES_CEILING}",
                metadata={"limit": str(self._content_limit_bytes), "size_bytes": str(len(data))},
            )


class Budget:
    """What is left of a call's time, over its steps."""

    def __init__(self, timeout_s: float) -> None:
        self._deadline = asyncio.get_running_loop().time() + timeout_s

    def left_s(self) -> float:
        return max(self._deadline - asyncio.get_running_loop().time(), 0.0)


async def _packed(data: bytes) -> tuple[str, model.Content]:
    """Digest and stored form. Large content is packed beside the loop: the codecs let go of the interpreter."""
    if len(data) <= INLINE_BYTES:
        return content.digest(data), content.encode(data)
    return await asyncio.to_thread(lambda: (content.digest(data), content.encode(data)))

"""AgentService: state, not events. A poll says what the agent has, the reply what it should have."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cluster.kv.api import Snapshots
from registry.core import limits
from registry.core.delivery import Holding, Poll
from registry.core.model import DEFAULT_POINTER
from registry.server import convert
from registry.server.delivery import Ask, Build, Delivery, Piece
from registry.server.feed import Feed, PointerKey
from registry.server.hub import Hub
from registry.server.limits import BUILD_S
from registry.server.replies import Replies
from registry.server.reports import Reports
from registry.store.state import Rows
from registry.v1 import agent_pb2


class Agents:
    def __init__(
        self,
        *,
        environment: Snapshots,
        feed: Feed,
        delivery: Delivery,
        hub: Hub,
        replies: Replies,
        reports: Reports,
    ) -> None:
        self._environment, self._feed = environment, feed
        self._delivery, self._hub = delivery, hub
        self._replies, self._reports = replies, reports

    async def poll(self, request: agent_pb2.PollRequest, timeout_s: float) -> agent_pb2.PollResponse:
        ask = self._delivery.ask(_poll(request))
        self._reports.contact(request.agent, request.session)
        wait_s = min(request.wait_ms / 1000, limits.POLL_WAIT_S, timeout_s)
        found = self._delivery.answer(ask)
        if isinstance(found, Build) or (not found and wait_s > 0):
            waiter = _Waiting(self._delivery, self._hub, ask)
            self._hub.add(waiter, max(wait_s, BUILD_S) if isinstance(found, Build) else wait_s)
            if isinstance(found, Build):
                found.waiters.append(waiter)
            found = await waiter.found()
        return self._response(found)

    async def acknowledge(
        self, request: agent_pb2.AcknowledgeRequest, timeout_s: float
    ) -> agent_pb2.AcknowledgeResponse:
        revision = await self._reports.acknowledge([convert.ack(message) for message in request.acks], timeout_s)
        return agent_pb2.AcknowledgeResponse(info=self._replies.info(revision))

    def _response(self, pieces: Sequence[Piece]) -> agent_pb2.PollResponse:
        info = self._replies.info(self._feed.registry.revision, stale=True)
        return agent_pb2.PollResponse(info=info, instructions=[self._instruction(piece) for piece in pieces])

    def _instruction(self, piece: Piece) -> agent_pb2.Instruction:
        """With the whole version as it is now: others than the pointer's moves may have changed its row."""
        told = piece.instruction
        with self._environment.peek() as reader:
            version = Rows(reader).version(told.workflow, told.version)
        if version is None:
            raise KeyError(f"version {told.version} of {told.workflow} is missing")
        return agent_pb2.Instruction(
            workflow=told.workflow,
            pointer=told.pointer,
            generation=told.generation,
            version=convert.version(version),
            base_digest=told.base_digest,
            reason=told.reason,
            rollback=told.rollback,
            min_revision=told.min_revision,
            how=told.how,
            content=piece.frame,
            delta_base=told.delta_base,
            not_before_ms=told.not_before_ms,
            deadline_ms=told.deadline_ms,
        )


class _Waiting:
    """hub.Waiter of one call."""

    def __init__(self, delivery: Delivery, hub: Hub, ask: Ask) -> None:
        self.keys: tuple[PointerKey, ...] = ask.keys
        self.size_bytes = ask.size_bytes
        self.slot = 0
        self._delivery, self._hub, self._ask = delivery, hub, ask
        self._found: asyncio.Future[list[Piece]] = asyncio.get_running_loop().create_future()

    async def found(self) -> list[Piece]:
        try:
            return await self._found
        finally:
            self._hub.remove(self)

    def look(self) -> None:
        if self._found.done():
            return
        if self._hub.closed:
            self.late()
            return
        try:
            found = self._delivery.answer(self._ask)
        except Exception as error:  # noqa: BLE001 - for the call, which tells the agent
            self._found.set_exception(error)
            return
        if isinstance(found, Build):
            found.waiters.append(self)
        elif found:
            self._found.set_result(found)

    def late(self) -> None:
        if self._found.done():
            return
        try:
            self._found.set_result(self._delivery.answer_now(self._ask))
        except Exception as error:  # noqa: BLE001
            self._found.set_exception(error)


def _poll(request: agent_pb2.PollRequest) -> Poll:
    return Poll(
        agent=request.agent,
        cluster_id=request.cluster_id,
        epoch=request.epoch,
        session=request.session,
        site=request.site,
        labels=dict(request.labels),
        facts=dict(request.facts),
        follows=tuple(
            Holding(
                workflow=each.workflow,
                pointer=each.pointer or DEFAULT_POINTER,
                generation=each.generation,
                digest=each.digest,
                kept=tuple(each.kept),
            )
            for each in request.follows
        ),
        wait_ms=request.wait_ms,
        inline_bytes=request.inline_bytes,
    )

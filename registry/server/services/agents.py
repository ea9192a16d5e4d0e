"""AgentService: state, not events. A poll says what the agent has, the reply what it should have."""

from __future__ import annotations

import asyncio

from cluster.kv.api import Environment
from registry.core import limits, names
from registry.core.errors import Conflict, Invalid, Reason
from registry.core.model import DEFAULT_POINTER, Pointer
from registry.server import convert
from registry.server.feed import Feed, PointerKey
from registry.server.replies import Replies
from registry.server.reports import Reports
from registry.store.state import Rows
from registry.v1 import agent_pb2


class Agents:
    def __init__(self, *, environment: Environment, feed: Feed, replies: Replies, reports: Reports) -> None:
        self._environment = environment
        self._feed = feed
        self._replies = replies
        self._reports = reports

    async def poll(self, request: agent_pb2.PollRequest, timeout_s: float) -> agent_pb2.PollResponse:
        has = self._has(request)
        self._check_cluster(request.cluster_id)
        self._reports.contact(request.agent)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(request.wait_ms / 1000, limits.POLL_WAIT_S, timeout_s)
        while True:
            reply = self._answer(request.epoch, has)
            left_s = deadline - loop.time()
            if reply.instructions or left_s <= 0 or self._feed.closed:
                return reply
            await self._feed.pointers(has, left_s)

    async def acknowledge(
        self, request: agent_pb2.AcknowledgeRequest, timeout_s: float
    ) -> agent_pb2.AcknowledgeResponse:
        revision = await self._reports.acknowledge([convert.ack(message) for message in request.acks], timeout_s)
        return agent_pb2.AcknowledgeResponse(info=self._replies.info(revision))

    def _has(self, request: agent_pb2.PollRequest) -> dict[PointerKey, int]:
        """The generation the agent has, by pointer it follows."""
        names.check_agent(request.agent)
        names.check_site(request.site)
        if len(request.follows) > limits.FOLLOWS:
            raise Invalid(
                Reason.TOO_LARGE,
                f"{len(request.follows)} pointers in one poll",
                hint=f"follow at most {limits.FOLLOWS}",
                metadata={"limit": str(limits.FOLLOWS)},
            )
        return {
            (
                names.check_workflow(follow.workflow),
                names.check_pointer(follow.pointer or DEFAULT_POINTER),
            ): follow.generation
            for follow in request.follows
        }

    def _check_cluster(self, cluster_id: str) -> None:
        ours = self._feed.registry.cluster_id
        if cluster_id and ours and cluster_id != ours:
            raise Conflict(
                Reason.CLUSTER_MISMATCH,
                f"this is cluster {ours}, the agent follows cluster {cluster_id}",
                hint="correct the agent's endpoints, or give it a new state directory to follow this cluster",
                metadata={"cluster_id": ours},
            )

    def _answer(self, epoch: int, has: dict[PointerKey, int]) -> agent_pb2.PollResponse:
        """What differs, from this member's own state. A member behind the agent's epoch has nothing to say."""
        with self._environment.snapshot() as reader:
            rows = Rows(reader)
            registry = rows.registry()
            instructions = []
            if epoch <= registry.epoch:
                for (workflow, name), generation in has.items():
                    pointer = rows.pointer(workflow, name)
                    if pointer and (registry.epoch, pointer.generation) > (epoch, generation):
                        instructions.append(_instruction(rows, pointer))
        info = self._replies.info(registry.revision, stale=True)
        return agent_pb2.PollResponse(info=info, instructions=instructions)


def _instruction(rows: Rows, pointer: Pointer) -> agent_pb2.Instruction:
    version = rows.version(pointer.workflow, pointer.version)
    if version is None:
        raise KeyError(f"version {pointer.version} of {pointer.workflow} is missing")
    base = rows.version(pointer.workflow, pointer.previous_version) if pointer.previous_version else None
    return agent_pb2.Instruction(
        workflow=pointer.workflow,
        pointer=pointer.pointer,
        generation=pointer.generation,
        version=convert.version(version),
        base_digest=base.digest if base else "",
        reason=pointer.reason,
        rollback=pointer.rollback,
        min_revision=pointer.revision,
    )

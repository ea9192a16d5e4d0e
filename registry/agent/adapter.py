"""RegistryApi over the SDK, by gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from registry.agent import limits
from registry.agent.api import Ack, Instruction, Poll, Polled, PollReply, Progress
from registry.client import Client, Follow, PollRequest, PollResponse, values
from registry.core.delivery import How


class ClientApi:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def poll(self, poll: Poll, *, timeout_s: float) -> Polled:
        request = PollRequest(
            agent=poll.agent,
            site=poll.site,
            cluster_id=poll.cluster_id,
            epoch=poll.epoch,
            session=poll.session,
            labels=poll.labels,
            facts=poll.facts,
            follows=tuple(
                Follow(
                    workflow=each.workflow,
                    pointer=each.pointer,
                    generation=each.generation,
                    digest=each.digest,
                    kept=each.kept,
                )
                for each in poll.follows
            ),
            wait_ms=poll.wait_ms,
            inline_bytes=poll.inline_bytes,
        )
        return _polled(await self._client.poll(request, timeout_s=timeout_s))

    async def content(
        self, workflow: str, version: int, *, min_revision: int, base: bytes, into: Path, progress: Progress
    ) -> bytes | None:
        """Read as `stale`: an agent's content never needs the leader, only a member that has applied min_revision."""
        return await self._client.fetch(
            workflow,
            version,
            into,
            base=base,
            progress=progress,
            stale=True,
            min_revision=min_revision,
            timeout_s=limits.FETCH_TIMEOUT_S,
        )

    async def acknowledge(self, acks: Sequence[Ack]) -> None:
        await self._client.acknowledge(acks, timeout_s=limits.ACK_TIMEOUT_S)


def _polled(response: PollResponse) -> Polled:
    reply = PollReply(
        cluster_id=response.info.cluster_id,
        epoch=response.info.epoch,
        revision=response.info.revision,
        instructions=tuple(_instruction(each) for each in response.instructions),
        age_ms=response.info.age_ms,
    )
    frames = {(each.workflow, each.pointer): each.content for each in response.instructions if each.content}
    return Polled(reply, frames)


def _instruction(told: values.Instruction) -> Instruction:
    return Instruction(
        workflow=told.workflow,
        pointer=told.pointer,
        generation=told.generation,
        version=told.version.number,
        digest=told.version.digest,
        size_bytes=told.version.size_bytes,
        base_digest=told.base_digest,
        how=cast(How, told.how),
        delta_base=told.delta_base,
        content_bytes=len(told.content),
        needs=told.needs,
        reason=told.reason,
        rollback=told.rollback,
        min_revision=told.min_revision,
        not_before_ms=told.not_before_ms,
        deadline_ms=told.deadline_ms,
    )

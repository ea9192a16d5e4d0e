"""RegistryApi over the SDK."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from registry.agent import limits
from registry.agent.api import Ack, Holding, Instruction, PollReply, Progress
from registry.client import Client, Follow, PollRequest


class ClientApi:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def poll(
        self,
        *,
        cluster_id: str,
        epoch: int,
        agent: str,
        site: str,
        labels: dict[str, str],
        follows: Sequence[Holding],
        wait_s: float,
    ) -> PollReply:
        request = PollRequest(
            agent=agent,
            site=site,
            cluster_id=cluster_id,
            epoch=epoch,
            labels=labels,
            follows=tuple(
                Follow(workflow=each.workflow, pointer=each.pointer, generation=each.generation, digest=each.digest)
                for each in follows
            ),
            wait_ms=round(wait_s * 1000),
        )
        reply = await self._client.poll(request, timeout_s=limits.POLL_SLACK_S)
        return PollReply(
            cluster_id=reply.info.cluster_id,
            epoch=reply.info.epoch,
            instructions=tuple(
                Instruction(
                    workflow=each.workflow,
                    pointer=each.pointer,
                    epoch=reply.info.epoch,
                    generation=each.generation,
                    version=each.version.number,
                    digest=each.version.digest,
                    size_bytes=each.version.size_bytes,
                    base_digest=each.base_digest,
                    reason=each.reason,
                    rollback=each.rollback,
                    min_revision=each.min_revision,
                )
                for each in reply.instructions
            ),
        )

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

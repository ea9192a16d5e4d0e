"""What the agent needs of a registry: three calls. `adapter.py` implements them over registry.client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from registry.core.commands import Ack


class Holding(Struct, frozen=True, kw_only=True):
    """What the agent has for one pointer. `generation`: the newest acted on or being acted on, 0: none."""

    workflow: str
    pointer: str
    generation: int = 0
    digest: str = ""


class Instruction(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the agent should have for one pointer."""

    workflow: str
    pointer: str
    epoch: int
    generation: int
    version: int
    digest: str
    size_bytes: int
    base_digest: str = ""
    reason: str = ""
    rollback: bool = False
    min_revision: int = 0


class PollReply(Struct, frozen=True, kw_only=True):
    cluster_id: str
    epoch: int
    instructions: tuple[Instruction, ...] = ()


class RegistryApi(Protocol):
    """All three raise registry.core.errors.RegistryError and nothing else; each may be repeated freely."""

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
        """Waits until the registry's state of a followed pointer differs from `follows`, at most wait_s.
        `cluster_id` empty: not known yet."""
        ...

    async def content(self, workflow: str, version: int, *, min_revision: int) -> bytes:
        """The exact bytes of a version, from a member that has applied min_revision."""
        ...

    async def acknowledge(self, acks: Sequence[Ack]) -> None:
        """Idempotent by (agent, incarnation, sequence). Returns when a majority has it."""
        ...


__all__ = ["Ack", "Holding", "Instruction", "PollReply", "RegistryApi"]

"""What the agent needs of a registry: three calls. `adapter.py` implements them over registry.client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from registry.core.commands import Ack

Progress = Callable[[int, int], None]  # bytes that have arrived, bytes of the whole


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

    async def content(
        self, workflow: str, version: int, *, min_revision: int, base: bytes, into: Path, progress: Progress
    ) -> bytes | None:
        """The exact bytes of a version, from a member that has applied min_revision. `base`: bytes of another version
        that are here, or none: then less has to travel. None: they are large, and in the
        file `into`, which was gone on with if it held some already. Raises OSError too, for that file."""
        ...

    async def acknowledge(self, acks: Sequence[Ack]) -> None:
        """Idempotent by (agent, incarnation, sequence). Returns when a majority has it."""
        ...


__all__ = ["Ack", "Holding", "Instruction", "PollReply", "Progress", "RegistryApi"]

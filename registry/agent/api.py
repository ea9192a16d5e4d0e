"""What the agent needs of a registry: three calls. `adapter.py` implements them over registry.client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from registry.core.commands import Ack
from registry.core.delivery import Holding, Instruction, Poll, PollReply

Progress = Callable[[int, int], None]  # bytes that have arrived, bytes of the whole


class Polled(NamedTuple):
    """A reply and the frames that came with it, for each instruction `delta` or `full`: (workflow, pointer) -> frame.
    Nothing in either is checked yet."""

    reply: PollReply
    frames: dict[tuple[str, str], bytes]


class RegistryApi(Protocol):
    """All three raise registry.core.errors.RegistryError and nothing else; each may be repeated freely."""

    async def poll(self, poll: Poll, *, timeout_s: float) -> Polled:
        """Waits until the registry's state of a followed pointer differs from what the agent has, at most wait_ms.
        timeout_s comes on top of the wait."""
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


__all__ = ["Ack", "Holding", "Instruction", "Poll", "PollReply", "Polled", "Progress", "RegistryApi"]

"""What an agent says it has and what it hears that it should have, as both sides of a poll write it.

The JSON of `POST /v1/poll` is these structures, field by field.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from registry.core.model import DEFAULT_POINTER

How = Literal["have", "delta", "full", "fetch"]


class Holding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the agent has for one pointer. `generation`: the newest acted on or being acted on, 0: none.
    `kept`: digests of other versions on its disk, at most limits.KEPT."""

    workflow: str
    pointer: str = DEFAULT_POINTER
    generation: int = 0
    digest: str = ""
    kept: tuple[str, ...] = ()


class Poll(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`cluster_id` empty: not known yet. `session`: of this run of the agent. `inline_bytes`: content up to this size
    is wanted inside the reply."""

    agent: str
    cluster_id: str = ""
    epoch: int = 0
    session: str = ""
    site: str = ""
    labels: dict[str, str] = {}
    facts: dict[str, str] = {}
    follows: tuple[Holding, ...] = ()
    wait_ms: int = 0
    inline_bytes: int = 0


class Instruction(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the agent should have for one pointer.

    how: `have` (the agent keeps the bytes), `delta` (a zstd frame over the bytes of `delta_base` comes with the reply),
    `full` (a zstd frame of them does), `fetch` (they are to be asked for). `content_bytes`: size of that frame. Times
    are unix milliseconds by the clock of whoever switched, 0: none.
    """

    workflow: str
    pointer: str
    epoch: int = 0  # of the cluster that gave it; in a reply it stands once
    generation: int
    version: int
    digest: str
    size_bytes: int
    base_digest: str = ""  # of the version the pointer named before
    how: How = "fetch"
    delta_base: str = ""
    content_bytes: int = 0
    needs: tuple[str, ...] = ()  # core.needs
    reason: str = ""
    rollback: bool = False
    min_revision: int = 0
    not_before_ms: int = 0
    deadline_ms: int = 0


class PollReply(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Only pointers that differ from what the agent has. The frames of `delta` and `full` follow in this order.
    `age_ms`: since that member last heard the leader, after a poll in vain; below a second it is 0."""

    cluster_id: str
    epoch: int
    revision: int = 0
    instructions: tuple[Instruction, ...] = ()
    age_ms: int = 0

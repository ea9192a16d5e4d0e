"""A member's way of packing and reading over a machine in memory, without a network."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from registry.core import commands, outcomes
from registry.core.model import Content
from registry.server.feed import Feed
from registry.server.metrics import Metrics
from registry.server.proposer import Proposer
from registry.server.replies import Replies
from registry.server.services.packer import Packer
from registry.server.services.reads import Reads
from registry.store import content
from registry.store.content import Chain
from tests.unit.core.kit import START_MS, WORKFLOW, Machine


class OneMember:
    """A cluster that commits at once. `before`: what happens as a proposal is on its way."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.entries: list[commands.Command] = []
        self.before: Callable[[], None] = lambda: None

    has_room = True

    def status(self) -> Any:
        return SimpleNamespace(level=self._machine.level)

    def leader_address(self) -> str:
        return ""

    async def propose(self, command: bytes, *, timeout_s: float) -> bytes:
        self.entries.append(commands.decode(command))
        self.before()
        return outcomes.encode(self._machine.apply(self.entries[-1]))

    async def barrier(self, *, timeout_s: float) -> None:
        pass


class Bench:
    def __init__(self, *, level: int = 2) -> None:
        self.machine = Machine(level=level)
        self.machine.found()
        self.cluster = OneMember(self.machine)
        cluster: Any = self.cluster
        unused: Any = None
        feed = Feed(self.machine.registry)
        self.proposer = Proposer(cluster, Metrics(), clock_ms=lambda: START_MS, monotonic_s=iter((0.0, 9e9)).__next__)
        self.replies = Replies("n1", cluster, feed)
        self.reads = Reads(
            proposer=self.proposer,
            environment=self.machine.environment,
            feed=feed,
            replies=self.replies,
            inspector=unused,
        )
        self.packer = Packer(self.reads)

    @property
    def contents(self) -> Any:
        return self.reads.contents

    async def publish(self, data: bytes, workflow: str = WORKFLOW, kind: str = "json") -> Content:
        digest = content.digest(data)
        row = await self.packer.packed(workflow, kind, digest, data)
        outcome = self.machine.publish(data, workflow, content=row, kind=kind)
        assert isinstance(outcome, outcomes.Published), outcome
        return row

    def chain(self, data: bytes) -> Chain:
        """Of the content with these bytes."""
        chain: Chain = self.contents.chain(self.machine.rows, content.digest(data))
        return chain

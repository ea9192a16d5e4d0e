"""A cluster of one member that applies what it is told at once, over tables in memory."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from cluster.api import Compacted, NotAttempted
from cluster.kv.memory_env import MemoryEnvironment
from registry.core import commands, outcomes, request_ids
from registry.core.commands import Command
from registry.core.model import Content
from registry.server.feed import Feed
from registry.server.metrics import Metrics
from registry.server.proposer import Proposer
from registry.server.repacking import Repacker
from registry.server.repair import Repairs
from registry.server.replies import Replies
from registry.server.services.reads import Reads
from registry.server.services.retention import Retention
from registry.server.state_machine import RegistryStateMachine
from registry.store import content, queries, tables
from registry.store.state import Rows

START_MS = 1_800_000_000_000


@dataclass
class Clock:
    """Of everybody: wall clock and monotonic go together, and only when told to."""

    s: float = 0.0

    def monotonic_s(self) -> float:
        return self.s

    def ms(self) -> int:
        return START_MS + int(self.s * 1000)

    async def sleep(self, seconds: float) -> None:
        pass


class LoneCluster:
    """`fails`: what the next proposals of a kind raise. `commands`: all that were applied."""

    def __init__(self) -> None:
        self.environment = MemoryEnvironment(tables.TABLES)
        with self.environment.snapshot() as reader:
            self.feed = Feed(queries.registry(reader))
        self.machine = RegistryStateMachine(self.feed, self.environment)
        self.leader = "n1"
        self.level = 2
        self.has_room = True
        self.has_majority = True
        self.commands: list[Command] = []
        self.fails: dict[type, Exception] = {}
        self.compactions: list[Exception | Compacted] = []

    async def propose(self, command: bytes, *, timeout_s: float) -> bytes:
        decoded = commands.decode(command)
        if error := self.fails.get(type(decoded)):
            raise error
        if timeout_s <= 0:
            raise NotAttempted("no time is left")
        self.commands.append(decoded)
        result = self.machine.apply(self.environment.transaction(), command, self.level)
        self.machine.forget_log()
        self.environment.commit()
        self.machine.committed()
        return result

    async def barrier(self, *, timeout_s: float) -> None:
        if not self.has_majority:
            raise NotAttempted("no majority")

    async def compact(self) -> Compacted:
        made = self.compactions.pop(0)
        if isinstance(made, Exception):
            raise made
        return made

    def status(self) -> Any:
        return SimpleNamespace(
            id="n1", leader=self.leader, level=self.level, leader_contact_s=0.0, has_room=self.has_room
        )

    def leader_address(self) -> str:
        return ""

    def of(self, kind: type) -> list[Any]:
        return [command for command in self.commands if isinstance(command, kind)]

    @property
    def rows(self) -> Rows:
        return Rows(self.environment.transaction())


class Member:
    """The parts of a member that work on contents, over a LoneCluster."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.cluster = LoneCluster()
        cluster: Any = self.cluster
        self.metrics = Metrics()
        self.repairs = Repairs()
        self.proposer = Proposer(cluster, self.metrics, clock_ms=self.clock.ms, monotonic_s=self.clock.monotonic_s)
        environment: Any = self.cluster.environment
        replies = Replies("n1", cluster, self.cluster.feed)
        nobody: Any = None
        self.reads = Reads(
            proposer=self.proposer, environment=environment, feed=self.cluster.feed, replies=replies, inspector=nobody
        )
        self.repacker = Repacker(proposer=self.proposer, environment=environment)
        self.retention = Retention(proposer=self.proposer, reads=self.reads, replies=replies, repacker=self.repacker)

    def stamp(self) -> dict[str, Any]:
        return {"request_id": self.proposer.new_request_id(), "time_ms": self.clock.ms()}

    async def apply(self, command: Command) -> Any:
        return outcomes.decode(await self.cluster.propose(commands.encode(command), timeout_s=1.0))

    async def index(self) -> None:
        await self.apply(commands.Index(**self.stamp()))

    async def publish(self, workflow: str, data: bytes, stored: Content | None = None) -> outcomes.Published:
        published: outcomes.Published = await self.apply(
            commands.Publish(
                **self.stamp(),
                principal="ada",
                workflow=workflow,
                kind="text",
                digest=content.digest(data),
                value_digest="v1:0",
                semantic_digest="s1:0",
                content=stored or content.encode(data),
            )
        )
        assert isinstance(published, outcomes.Published), published
        return published

    async def chain(self, workflow: str, contents: list[bytes]) -> None:
        """Versions, each stored over the one before."""
        below: list[content.Base] = []
        for data in contents:
            stored = content.pack(data, below)
            await self.publish(workflow, data, stored)
            below = [content.Base(content.digest(data), data, stored.depth)]

    async def policy(self, scope: str, **fields: str) -> None:
        await self.apply(
            commands.SetPolicy(**self.stamp(), principal="ada", scope=scope, fields=fields, reason="because")
        )


def near(count: int, size_bytes: int = 3000) -> list[bytes]:
    """Contents that are much like one another, and do not shrink alone."""
    data = bytearray(bytes(request_ids.RANDOM_BYTES) + b"".join(content.digest(b"%d" % n).encode() for n in range(60)))
    made = []
    for number in range(count):
        data[number * 8 : number * 8 + 8] = b"%08d" % number
        made.append(bytes(data[:size_bytes]))
    return made

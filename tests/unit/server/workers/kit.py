"""Both ends of a link, over a real socket pair."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cluster.api import ClusterStatus
from registry.server.repair import Repairs
from registry.server.workers import messages as m
from registry.server.workers.answering import Answering, Stream, Unary
from registry.server.workers.link import Link
from registry.server.workers.remote import RemoteCluster

STATUS = ClusterStatus(
    id="n1",
    name="n1",
    role="voter",
    leader="n1",
    term=3,
    commit_index=7,
    applied_index=7,
    first_index=1,
    last_index=7,
    leader_contact_s=0.0,
    level=2,
    peers=(),
)
STATE = m.State(STATUS, "127.0.0.1:7400", "", None)


@dataclass
class TestedCluster:
    """cluster.api.Cluster that does what the test says: `results` of proposals, in order; `gate` holds everything."""

    __test__ = False

    results: list[bytes | Exception] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    proposed: list[bytes] = field(default_factory=list)
    barriers: int = 0
    checkpoints: int = 0
    no_majority: Exception | None = None

    async def propose(self, command: bytes, *, timeout_s: float) -> bytes:
        self.proposed.append(command)
        await self.gate.wait()
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    def show(self) -> None: ...

    def checkpoint(self) -> None:
        self.checkpoints += 1

    async def barrier(self, *, timeout_s: float) -> None:
        self.barriers += 1
        await self.gate.wait()
        if self.no_majority:
            raise self.no_majority

    def leader_address(self) -> str:
        return ""

    @property
    def has_room(self) -> bool:
        return STATUS.has_room

    @property
    def level(self) -> int:
        return STATUS.level

    def status(self) -> ClusterStatus:
        return STATUS


@dataclass
class Pair:
    """A worker's view of a member, the member's end, and what the worker was told besides answers."""

    remote: RemoteCluster
    answering: Answering
    member: Link[m.Up]
    worker: Link[m.Down]
    cluster: TestedCluster
    heard: list[m.Down]


@asynccontextmanager
async def linked(
    *, unary: Mapping[str, Unary] | None = None, streams: Mapping[str, Stream] | None = None
) -> AsyncIterator[Pair]:
    cluster, heard = TestedCluster(), list[m.Down]()
    cluster.gate.set()

    def hear(message: m.Down) -> None:
        if isinstance(message, m.Done | m.Undone | m.Item | m.Failed):
            pair.remote.answer(message)
        else:
            heard.append(message)

    def ask(message: m.Up) -> None:
        assert not isinstance(message, m.Vitals | m.Damage | m.Ready)
        pair.answering.receive(message)

    member: Link[m.Up] = Link(m.decode_up, ask, lambda _: None)
    worker: Link[m.Down] = Link(m.decode_down, hear, lambda _: None)
    answering = Answering(member, cluster=cluster, unary=unary or {}, streams=streams or {}, repairs=Repairs())
    pair = Pair(RemoteCluster(worker, STATE), answering, member, worker, cluster, heard)
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    for end, link in ((ours, member), (theirs, worker)):
        end.setblocking(False)
        await loop.create_unix_connection(lambda link=link: link, sock=end)  # type: ignore[misc]
    try:
        yield pair
    finally:
        answering.close()
        member.close("")
        worker.close("")
        await asyncio.sleep(0)


async def counted(request: bytes) -> AsyncGenerator[bytes, None]:
    """A stream of as many replies as the request says."""
    for number in range(int(request)):
        yield b"%d" % number

"""A cluster of one process that decides membership by the real rules, and a ClusterService over it on a real socket."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import grpc
from msgspec import structs

from cluster import membership
from cluster.api import ClusterStatus, PeerStatus
from cluster.configuration import Configuration, MemberRecord, Role, founding
from cluster.membership import Add, Candidate, Change, Changed, Health, Promote, Remove, Transfer
from registry.core.model import Registry
from registry.server.feed import Feed
from registry.server.metrics import Metrics
from registry.server.replies import Replies
from registry.server.rpc import Rpc
from registry.server.services.cluster import ClusterView
from registry.v1 import cluster_pb2

COMMIT_INDEX = 1_000_000


def record(name: str, incarnation: str, role: Role = "voter") -> MemberRecord:
    return MemberRecord(
        id=f"{name}/{incarnation}",
        name=name,
        incarnation=incarnation,
        peer_address=f"10.0.0.9:{len(incarnation)}",
        datacenter="eu",
        role=role,
    )


class DecidedCluster:
    """n1 leads, and it is this process. `lags`: entries a member is behind, one number for each look at the status,
    the last one stays. `faults`: what the next steps of a kind raise; with True beside it the step is taken all the
    same. `hangs_at`: a step of this kind is never answered, whether taken or not; `hanging` tells that it came."""

    def __init__(self, *names: str) -> None:
        self.configuration: Configuration = founding("c", {name: f"10.0.0.1:{n}" for n, name in enumerate(names)})
        self.alive = set(names)
        self.lags: dict[str, deque[int]] = {}
        self.candidates: dict[str, Candidate] = {}
        self.steps: list[Change] = []
        self.faults: defaultdict[type[Change], deque[tuple[Exception, bool]]] = defaultdict(deque)
        self.hangs_at: tuple[type[Change], bool] | None = None
        self.hanging = asyncio.Event()
        self.leader: str | None = "n1"
        self.role: Role | Literal["waiting"] = "voter"
        self.levels: dict[str, int] = {}
        self.fetching = ""
        self.refuses: list[Changed] = []  # what the next promotions are told

    def waits(self, name: str, incarnation: str, *, role: Role = "voter", level: int = 1) -> MemberRecord:
        made = record(name, incarnation, role)
        self.candidates[made.id] = Candidate(made, level)
        self.alive.add(made.id)
        return made

    def lag(self, id: str) -> int:
        waiting = self.lags.get(id)
        return 0 if waiting is None else waiting[0]

    async def change(self, change: Change, *, timeout_s: float) -> Changed:
        self.steps.append(change)
        kind, (fault, done) = type(change), (None, True)
        if self.faults[kind]:
            fault, done = self.faults[kind].popleft()
        elif self.hangs_at and self.hangs_at[0] is kind:
            _, done = self.hangs_at
        changed = self._decide(change) if done else Changed()
        if self.hangs_at and self.hangs_at[0] is kind:
            self.hanging.set()
            await asyncio.Event().wait()
        if fault is not None:
            raise fault
        return changed

    def _decide(self, change: Change) -> Changed:
        if isinstance(change, Promote) and self.refuses:
            return self.refuses.pop()
        if isinstance(change, Transfer):
            found = membership.find(self.configuration.members, change.member or self.configuration.members[-1].id)
            if isinstance(found, Changed):
                return found
            self.leader = found.id
            return Changed(member=found.id)
        before = self.configuration.ids
        lags = {id: self.lag(id) for id in self.alive}
        health = Health(leader="n1", alive=self.alive, lags=lags, candidates=self.candidates)
        decided = membership.decide(self.configuration, change, health)
        if isinstance(decided, Changed):
            return decided
        self.configuration = decided
        match change:
            case Add() | Remove():
                return Changed(member=next(iter(before ^ decided.ids)))
            case Promote():
                found = membership.find(decided.members, change.member)
                assert isinstance(found, MemberRecord)
                return Changed(member=found.id)

    def leader_address(self) -> str:
        return ""

    @property
    def has_room(self) -> bool:
        return True

    @property
    def level(self) -> int:
        return self.status().level

    def status(self) -> ClusterStatus:
        for lags in self.lags.values():
            if len(lags) > 1:
                lags.popleft()
        return ClusterStatus(
            id="n1",
            name="n1",
            role=self.role,
            leader=self.leader,
            term=3,
            commit_index=COMMIT_INDEX,
            applied_index=COMMIT_INDEX,
            first_index=500,
            last_index=COMMIT_INDEX,
            leader_contact_s=0.0,
            level=1,
            peers=tuple(self._peer(member) for member in self.configuration.members),
            waiting=tuple(
                PeerStatus(candidate.record, True, 0, level=candidate.level)
                for id, candidate in sorted(self.candidates.items())
                if id not in self.configuration.ids
            ),
            fetching=self.fetching,
        )

    def _peer(self, member: MemberRecord) -> PeerStatus:
        level = self.levels.get(member.id, 1)
        return PeerStatus(member, member.id in self.alive, COMMIT_INDEX - self.lag(member.id), level=level)

    def describe(self, id: str, incarnation: str) -> None:
        """The cluster has heard a founder."""
        self._change(id, incarnation=incarnation)

    def without(self, id: str) -> None:
        """It is gone, and the cluster knows no more than that it is not heard."""
        self.alive.discard(id)

    def roles(self) -> dict[str, str]:
        return {member.id: member.role for member in self.configuration.members}

    def demote(self, id: str) -> None:
        """A founder that only observes."""
        self._change(id, role="observer")

    def _change(self, id: str, **changes: str) -> None:
        members = tuple(
            structs.replace(member, **changes) if member.id == id else member for member in self.configuration.members
        )
        self.configuration = structs.replace(self.configuration, members=members)


async def _not_served(request: object, timeout_s: float) -> object:
    raise NotImplementedError


@asynccontextmanager
async def serving(cluster: DecidedCluster) -> AsyncIterator[str]:
    """The address of a ClusterService over it."""
    feed = Feed(Registry(cluster_id="c1", epoch=1))
    view = ClusterView(cluster=cluster, feed=feed, replies=Replies("n1", cluster, feed))  # type: ignore[arg-type]
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    service = cluster_pb2.DESCRIPTOR.services_by_name["ClusterService"]
    served = {
        "GetStatus": view.get_status,
        "AddMember": view.add_member,
        "PromoteMember": view.promote_member,
        "RemoveMember": view.remove_member,
        "TransferLeadership": view.transfer_leadership,
    }
    operations = {method.name: served.get(method.name, _not_served) for method in service.methods}
    server.add_generic_rpc_handlers((Rpc(Metrics()).handler(service, operations),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)

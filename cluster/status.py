"""What a member says of itself and of the others."""

from __future__ import annotations

from msgspec import structs

from cluster import messages as m
from cluster.api import ClusterStatus, PeerStatus
from cluster.configuration import MemberRecord
from cluster.peers import Peers
from cluster.replica import Replica


def cluster_status(record: MemberRecord, level: int, replica: Replica, peers: Peers) -> ClusterStatus:
    """`record` and `level` are what this member was started with."""
    own, engine, journal = replica.configuration.get(record.id), replica.engine, replica.journal
    return ClusterStatus(
        id=record.id,
        name=record.name,
        role=own.role if own else "waiting",
        leader=engine.leader(),
        term=engine.term(),
        commit_index=engine.commit_index(),
        applied_index=journal.applied,
        first_index=journal.first,
        last_index=journal.last,
        leader_contact_s=replica.leader_contact_s(),
        level=journal.applied_configuration.level,
        peers=tuple(_peer_status(member, record, level, replica, peers) for member in replica.configuration.members),
        waiting=tuple(PeerStatus(each.record, True, 0, each.level) for each in replica.governor.waiting()),
        fetching=replica.recovery.fetcher.describe(),
        refused=dict(peers.closed),
        refused_by=dict(peers.refused_by),
        repairing=journal.damaged,
        has_room=replica.has_room(),
        headroom_bytes=replica.room.headroom_bytes,
    )


def _peer_status(member: MemberRecord, record: MemberRecord, level: int, replica: Replica, peers: Peers) -> PeerStatus:
    if member.id == record.id:
        own = structs.replace(record, role=member.role)
        return PeerStatus(own, True, replica.journal.applied, level, m.PROTOCOL, replica.room.has_room)
    if heard := peers.heard.get(member.id):
        member = structs.replace(heard.record, role=member.role)
    alive, protocol = member.id in replica.reports.alive(), peers.protocols.get(member.id, 0)
    report = replica.reports.of(member.id)
    if report is None:
        return PeerStatus(member, alive, 0, 0, protocol)
    return PeerStatus(member, alive, report.applied_index, report.level, protocol, report.has_room)

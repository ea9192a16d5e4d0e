"""ClusterService: the cluster as this member sees it."""

from __future__ import annotations

from importlib import metadata

from cluster.api import Cluster, ClusterStatus, PeerStatus
from registry.server.feed import Feed
from registry.server.replies import Replies
from registry.v1 import cluster_pb2

PROGRAM_VERSION = metadata.version("workflow-registry")


class ClusterView:
    def __init__(self, *, cluster: Cluster, feed: Feed, replies: Replies) -> None:
        self._cluster = cluster
        self._feed = feed
        self._replies = replies

    async def get_status(
        self, request: cluster_pb2.GetStatusRequest, timeout_s: float
    ) -> cluster_pb2.GetStatusResponse:
        status = self._cluster.status()
        return cluster_pb2.GetStatusResponse(
            info=self._replies.info(self._feed.registry.revision),
            leader_name=status.leader or "",
            term=status.term,
            commit_index=status.commit_index,
            members=[_member(status, peer) for peer in status.peers],
            version=PROGRAM_VERSION,
        )


def _member(status: ClusterStatus, peer: PeerStatus) -> cluster_pb2.MemberStatus:
    name = peer.member.name
    role = "leader" if name == status.leader else "follower" if peer.alive else "unreachable"
    return cluster_pb2.MemberStatus(
        name=name,
        role=role,
        address=peer.member.api_address,
        peer_address=peer.member.peer_address,
        datacenter=peer.member.datacenter,
        alive=peer.alive,
        applied_index=peer.applied_index,
        lag=max(status.commit_index - peer.applied_index, 0) if peer.applied_index else 0,
    )

"""ClusterService: the cluster as this member sees it, and the steps that change who belongs to it."""

from __future__ import annotations

from importlib import metadata

from cluster.api import Cluster, ClusterStatus, NotAttempted, OutcomeUnknown, PeerStatus
from cluster.membership import Add, Change, Changed, Promote, Remove, Transfer
from registry.core import errors
from registry.core.errors import Ambiguous, Invalid, Reason, RegistryError
from registry.server.feed import Feed
from registry.server.proposer import no_quorum
from registry.server.replies import Replies
from registry.v1 import cluster_pb2

PROGRAM_VERSION = metadata.version("workflow-registry")

_HINTS: dict[Reason, str] = {
    Reason.UNKNOWN_MEMBER: "`regctl cluster status` lists the members",
    Reason.NOT_WAITING: "`registryd --name {member} --data-dir EMPTY-DIR --join HOST:PORT` with the peer address of "
    "any member, then try again; `regctl cluster status` shows who waits",
    Reason.AMBIGUOUS_MEMBER: "name it by its id, as `regctl cluster status` shows it",
    Reason.NAME_TAKEN: "`regctl cluster replace {name}` puts the new one into the place of the old one",
    Reason.NOT_CAUGHT_UP: "wait until `regctl cluster status` shows it alive and with little lag, then "
    "`regctl cluster promote {member}`",
    Reason.TRANSFER_REFUSED: "choose a voter that is alive, as `regctl cluster status` shows it, or none",
    Reason.TRANSFER_FAILED: "try again; `regctl cluster status` shows whether the other voters are alive and level",
    Reason.LAST_VOTER: "make another member a voter first: `regctl cluster promote NAME`",
    Reason.QUORUM_AT_RISK: "bring back the members that are not alive (`regctl cluster status`), or take the risk: "
    "`regctl cluster remove` and `promote` have --force",
    Reason.TOO_MANY_MEMBERS: "remove one first: `regctl cluster remove NAME`",
    Reason.TOO_MANY_VOTERS: "leave it an observer, or remove a voter first: `regctl cluster remove NAME`",
    Reason.RELEASE_TOO_OLD: "start it again with the release that the other members run",
}


class ClusterView:
    def __init__(self, *, cluster: Cluster, feed: Feed, replies: Replies) -> None:
        self._cluster = cluster
        self._feed = feed
        self._replies = replies

    async def get_status(
        self, request: cluster_pb2.GetStatusRequest, timeout_s: float
    ) -> cluster_pb2.GetStatusResponse:
        status = self._cluster.status()
        leader = next((peer.member for peer in status.peers if peer.member.id == status.leader), None)
        names = {peer.member.name for peer in status.peers}
        return cluster_pb2.GetStatusResponse(
            info=self._replies.info(self._feed.registry.revision, stale=status.leader != status.id),
            leader_name=leader.name if leader else status.leader or "",
            leader_id=status.leader or "",
            term=status.term,
            commit_index=status.commit_index,
            first_index=status.first_index,
            last_index=status.last_index,
            feature_level=status.level,
            role="leader" if status.leader == status.id else status.role,
            fetching=status.fetching or status.repairing,
            no_space=not status.has_room,
            headroom_bytes=status.headroom_bytes,
            members=[_member(status, peer) for peer in status.peers],
            waiting=[_waiting(peer, names) for peer in status.waiting if status.role != "waiting"],
            version=PROGRAM_VERSION,
        )

    async def add_member(
        self, request: cluster_pb2.AddMemberRequest, timeout_s: float
    ) -> cluster_pb2.MembershipResponse:
        return await self._change(Add(_named(request.member)), timeout_s)

    async def promote_member(
        self, request: cluster_pb2.PromoteMemberRequest, timeout_s: float
    ) -> cluster_pb2.MembershipResponse:
        return await self._change(Promote(_named(request.member), force=request.force), timeout_s)

    async def remove_member(
        self, request: cluster_pb2.RemoveMemberRequest, timeout_s: float
    ) -> cluster_pb2.MembershipResponse:
        return await self._change(Remove(_named(request.member), force=request.force), timeout_s)

    async def transfer_leadership(
        self, request: cluster_pb2.TransferLeadershipRequest, timeout_s: float
    ) -> cluster_pb2.MembershipResponse:
        return await self._change(Transfer(request.member), timeout_s)

    async def _change(self, change: Change, timeout_s: float) -> cluster_pb2.MembershipResponse:
        try:
            changed = await self._cluster.change(change, timeout_s=timeout_s)
        except NotAttempted as error:
            raise no_quorum(f"no leader took the step: {error}; nothing was changed") from error
        except OutcomeUnknown as error:
            raise Ambiguous(
                Reason.OUTCOME_UNKNOWN,
                f"the step may have been taken or may still be: {error}",
                hint="look at `regctl cluster status`, or type the same again: a step is not taken twice",
                metadata={"member": change.member},
            ) from error
        if changed.reason:
            raise refusal(change, changed)
        return cluster_pb2.MembershipResponse(
            info=self._replies.info(self._feed.registry.revision), member_id=changed.member
        )


def refusal(change: Change, changed: Changed) -> RegistryError:
    """Why the cluster did not take a step, as the error of its class, and what to do about it."""
    try:
        reason = Reason(changed.reason)
    except ValueError:  # of a leader of a newer release
        reason = Reason.MEMBERSHIP_REFUSED
    member = change.member or changed.member
    hint = _HINTS.get(reason, "").format(member=member, name=member.partition("/")[0])
    return errors.error(
        reason,
        f"{changed.message}; nothing was changed",
        hint=hint or "look at `regctl cluster status`",
        metadata={"member": changed.member or change.member},
    )


def _named(member: str) -> str:
    if not member:
        raise Invalid(Reason.INVALID_REQUEST, "no member is named", hint="give its name or its id")
    return member


def _member(status: ClusterStatus, peer: PeerStatus) -> cluster_pb2.MemberStatus:
    record = peer.member
    return cluster_pb2.MemberStatus(
        id=record.id,
        name=record.name,
        incarnation=record.incarnation,
        role="leader" if record.id == status.leader else record.role,
        address=record.api_address,
        peer_address=record.peer_address,
        datacenter=record.datacenter,
        alive=peer.alive,
        applied_index=peer.applied_index,
        lag=max(status.commit_index - peer.applied_index, 0) if peer.applied_index else 0,
        feature_level=peer.level,
        no_space=not peer.has_room,
    )


def _waiting(peer: PeerStatus, names: set[str]) -> cluster_pb2.WaitingMember:
    """One that has the name of a member can only be meant to take its place."""
    record = peer.member
    return cluster_pb2.WaitingMember(
        id=record.id,
        name=record.name,
        role=record.role,
        address=record.api_address,
        peer_address=record.peer_address,
        datacenter=record.datacenter,
        alive=peer.alive,
        feature_level=peer.level,
        command=f"regctl cluster {'replace' if record.name in names else 'add'} {record.name}",
    )

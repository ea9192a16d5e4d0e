"""Who belongs to the cluster, one step at a time. A step that is done is not done twice, so each is retried freely."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from registry.client.calls import Attempt, Plan, rpc
from registry.client.endpoints import Endpoint
from registry.client.failures import AttemptError, Failure
from registry.core.errors import Reason, Unavailable
from registry.v1 import cluster_pb2

Run = Callable[[Plan, Attempt[Any]], Awaitable[Any]]
PlanStep = Callable[[str, float | None], Plan]


class Members:
    """Steps of membership. `member` is a name, an id, or `name/incarnation`, which means one data directory and never
    its successor of the same name; each step returns the member's id.

    Raises NotFound (UNKNOWN_MEMBER, NOT_WAITING), Conflict (AMBIGUOUS_MEMBER, NAME_TAKEN), Refused (NOT_CAUGHT_UP,
    QUORUM_AT_RISK, LAST_VOTER, ...), and as every call of the client Unavailable and Ambiguous.
    """

    def __init__(self, run: Run, plan: PlanStep) -> None:
        self._run = run
        self._plan = plan

    async def add(self, member: str, *, timeout_s: float | None = None) -> str:
        """Admits a process that waits, as an observer."""
        request = cluster_pb2.AddMemberRequest(member=member)
        return await self._step(f"add {member}", timeout_s, rpc("cluster", "AddMember", request))

    async def promote(self, member: str, *, force: bool = False, timeout_s: float | None = None) -> str:
        """Makes an observer that has caught up a voter. `force`: although too few voters would be alive."""
        request = cluster_pb2.PromoteMemberRequest(member=member, force=force)
        return await self._step(f"promote {member}", timeout_s, rpc("cluster", "PromoteMember", request))

    async def remove(self, member: str, *, force: bool = False, timeout_s: float | None = None) -> str:
        """Takes a member out for good. `force`: although too few voters would be alive."""
        request = cluster_pb2.RemoveMemberRequest(member=member, force=force)
        attempt = _gone_is_done(rpc("cluster", "RemoveMember", request), member)
        return await self._step(f"remove {member}", timeout_s, attempt)

    async def transfer(self, member: str = "", *, timeout_s: float | None = None) -> str:
        """Passes leadership to this voter; empty: to the most advanced one."""
        request = cluster_pb2.TransferLeadershipRequest(member=member)
        return await self._step("transfer leadership", timeout_s, rpc("cluster", "TransferLeadership", request))

    async def _step(self, what: str, timeout_s: float | None, attempt: Attempt[Any]) -> str:
        reply = await self._run(self._plan(what, timeout_s), attempt)
        member_id: str = reply.member_id
        return member_id


def _gone_is_done(attempt: Attempt[Any], member: str) -> Attempt[Any]:
    """After an attempt that may have removed it, that nobody knows the member any more is no failure."""
    may_be_done = False

    async def again(endpoint: Endpoint, timeout_s: float) -> Any:
        nonlocal may_be_done
        try:
            return await attempt(endpoint, timeout_s)
        except AttemptError as failed:
            if may_be_done and failed.failure.error.reason is Reason.UNKNOWN_MEMBER:
                return cluster_pb2.MembershipResponse(member_id=member)
            may_be_done = may_be_done or failed.failure.executed
            raise

    return again


def of_a_member(attempt: Attempt[Any]) -> Attempt[Any]:
    """The status as a member sees it. A process that waits to be admitted knows nothing of the cluster; its answer
    counts only where all others have been asked."""
    asked: set[str] = set()

    async def of_another(endpoint: Endpoint, timeout_s: float) -> Any:
        reply = await attempt(endpoint, timeout_s)
        if reply.role == "waiting" and endpoint.address not in asked:
            asked.add(endpoint.address)
            waits = Unavailable(Reason.NOT_ADMITTED, "this process waits to be admitted itself")
            raise AttemptError(Failure(waits, executed=False))
        return reply

    return of_another

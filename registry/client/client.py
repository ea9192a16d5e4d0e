"""The SDK: one client of one cluster."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Any, BinaryIO

from registry.client import backup, convert, limits, maintenance, values, watch
from registry.client.backup import Backup
from registry.client.calls import rpc
from registry.client.endpoints import Endpoint, check_address
from registry.client.failures import AttemptError
from registry.client.fleet import Fleet
from registry.client.membership import of_a_member
from registry.client.reading import Reading
from registry.client.writing import Writing, new_request_id
from registry.core import commands
from registry.core.model import Change
from registry.v1 import agent_pb2, cluster_pb2, registry_pb2


class Client(Writing, Reading, Fleet):
    """Calls of one principal to one cluster. An async context manager; belongs to the event loop it is entered in.

    `endpoints`: HOST:PORT of any members; one living one suffices, the others are learned from it. Every call
    retries on other members until `timeout_s` (of the client, or of the call). Concurrent calls travel together.

    Writes carry a request id, made once per call and repeated on every retry, so they take effect at most once.
    Pass `request_id` to repeat a write whose outcome stayed unknown.

    Raises, from every method: Rejected (NotFound, Conflict, Refused, Invalid) for what the registry decided,
    Unavailable when nothing was done, Ambiguous when a write may have taken effect.
    """

    async def watch(
        self, workflows: Sequence[str] = (), *, from_revision: int | None = None, timeout_s: float | None = None
    ) -> AsyncGenerator[Change, None]:
        """Changes of these workflows (none: of all) from a revision on, then as they happen, each once. None: what
        happens from now on. Survives the death of members; resume with the last revision + 1. Raises Unavailable
        when no member gave a sign of life for timeout_s."""
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        confirmed = from_revision is None
        if from_revision is None:
            request = registry_pb2.ListWorkflowsRequest(page_size=1)
            plan = self._plan("read the current revision", timeout_s)
            reply = await self._run(plan, rpc("registry", "ListWorkflows", request))
            from_revision = reply.info.revision + 1
        changes = watch.follow(
            self._endpoints,
            workflows,
            from_revision,
            confirmed=confirmed,
            timeout_s=timeout_s,
            on_failed_attempt=self._on_failed_attempt,
        )
        async with aclosing(changes):
            async for change in changes:
                yield change

    async def status(self, *, timeout_s: float | None = None) -> values.ClusterStatus:
        """The cluster as its leader sees it; without one, as any member does. Never waits for a quorum."""
        plan = self._plan("read the status of the cluster", timeout_s, leader_first=True)
        call = of_a_member(rpc("cluster", "GetStatus", cluster_pb2.GetStatusRequest()))
        reply = await self._run(plan, call)
        if reply.leader_id and reply.role != "leader":  # only now is it known who leads
            reply = await self._run(plan, call)
        return convert.status(reply)

    async def status_of(self, address: str, *, timeout_s: float = limits.STATUS_TIMEOUT_S) -> values.ClusterStatus:
        """As the member with this API address sees it. One attempt: raises Unavailable if it does not answer."""
        call = rpc("cluster", "GetStatus", cluster_pb2.GetStatusRequest())
        try:
            return convert.status(await call(self._endpoints.at(check_address(address)), timeout_s))
        except AttemptError as failed:
            raise failed.failure.error from None

    async def backup(
        self,
        out: BinaryIO,
        *,
        stale: bool = False,
        progress: backup.Progress | None = None,
        timeout_s: float | None = None,
    ) -> Backup:
        """Writes everything the cluster knows to `out`, as a file for `registryd restore`; what is in it was compared
        with what the member sent. `stale`: as the member knows it, without asking a majority. timeout_s: until a member
        begins. Raises Unavailable also when it breaks off: `out` is of no use then."""
        plan = self._plan("begin a backup", timeout_s, slow=True)
        return await backup.take(self._run, plan, out, stale=stale, progress=progress)

    async def scrub(
        self,
        address: str,
        *,
        progress: maintenance.Progress | None = None,
        timeout_s: float = limits.STATUS_TIMEOUT_S,
    ) -> maintenance.Scrubbed:
        """The member with this API address reads and checks everything it has. One attempt; timeout_s: until it is
        reached. Raises Unavailable (BUSY: a scrub runs there)."""
        endpoint = self._endpoints.at(check_address(address))
        return await maintenance.scrub(endpoint, timeout_s=timeout_s, progress=progress)

    async def compact(self, address: str, *, timeout_s: float = limits.STATUS_TIMEOUT_S) -> maintenance.Compacted:
        """The member with this API address gives its free pages back to the file system. One attempt; timeout_s: until
        it is reached. Raises Unavailable (BUSY, NO_SPACE: the copy does not fit)."""
        return await maintenance.compact(self._endpoints.at(check_address(address)), timeout_s=timeout_s)

    # Agents

    async def poll(self, request: values.PollRequest, *, timeout_s: float | None = None) -> values.PollResponse:
        """What this agent should have, once that differs from what it has. timeout_s comes on top of the wait."""
        wait_s = request.wait_ms / 1000
        total_s = wait_s + (self.timeout_s if timeout_s is None else timeout_s)
        plan = self._plan("poll", total_s, attempt_s=wait_s + limits.POLL_GRACE_S)
        ask = rpc("agents", "Poll", convert.poll_request(request))
        asked: list[Endpoint] = []

        async def attempt(endpoint: Endpoint, timeout_s: float) -> Any:
            asked.append(endpoint)
            return await ask(endpoint, timeout_s)

        reply = await self._run(plan, attempt)
        if not reply.instructions and reply.info.age_ms > limits.POLL_AGE_S * 1000:
            self._endpoints.failed(asked[-1])  # cut off: what it has not heard of another one may know
        return convert.poll_response(reply)

    async def acknowledge(
        self, acks: Iterable[commands.Ack], *, request_id: str | None = None, timeout_s: float | None = None
    ) -> None:
        """Records what agents did, at most core.limits.ACKS at once."""
        request = agent_pb2.AcknowledgeRequest(
            request_id=request_id or new_request_id(), acks=[convert.ack_request(ack) for ack in acks]
        )
        plan = self._plan("record acknowledgements", timeout_s, request_id=request.request_id)
        await self._run(plan, rpc("agents", "Acknowledge", request))

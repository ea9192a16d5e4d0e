"""The SDK: one client of one cluster."""

from __future__ import annotations

import getpass
import hashlib
import os
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, BinaryIO, Self

from registry.client import backup, convert, limits, values, watch
from registry.client.backup import Backup
from registry.client.calls import Attempt, Calls, OnFailedAttempt, Plan, operation, rpc
from registry.client.convert import Reference
from registry.client.endpoints import Endpoints, check_address
from registry.client.failures import AttemptError
from registry.client.membership import Members, of_a_member
from registry.client.values import Move
from registry.core import commands, outcomes, request_ids
from registry.core.errors import Invalid, Reason, Refused
from registry.core.limits import CONTENT_BYTES_CEILING, PRINCIPAL_CHARS
from registry.core.model import DEFAULT_POINTER, Change, Pointer, Status, Version
from registry.v1 import agent_pb2, cluster_pb2, registry_pb2

Operation = registry_pb2.Operation


class Client:
    """Calls of one principal to one cluster. An async context manager; belongs to the event loop it is entered in.

    `endpoints`: HOST:PORT of any members; one living one suffices, the others are learned from it. Every call
    retries on other members until `timeout_s` (of the client, or of the call). Concurrent calls travel together.

    Writes carry a request id, made once per call and repeated on every retry, so they take effect at most once.
    Pass `request_id` to repeat a write whose outcome stayed unknown.

    Raises, from every method: Rejected (NotFound, Conflict, Refused, Invalid) for what the registry decided,
    Unavailable when nothing was done, Ambiguous when a write may have taken effect.
    """

    def __init__(
        self,
        endpoints: Sequence[str] | str,
        *,
        principal: str | None = None,
        timeout_s: float = limits.TIMEOUT_S,
        tls: values.TlsConfig | None = None,
        on_failed_attempt: OnFailedAttempt | None = None,
    ) -> None:
        """`principal` None: the user of this process. `on_failed_attempt(address, error)` is told of every attempt
        that will be retried."""
        rng = random.Random()
        addresses = endpoints.split(",") if isinstance(endpoints, str) else endpoints
        self.principal = _user() if principal is None else principal
        self.timeout_s = timeout_s
        self._endpoints = Endpoints(addresses, tls=tls, rng=rng)
        self._calls = Calls(self._endpoints, rng, on_failed_attempt)
        self._on_failed_attempt = on_failed_attempt
        self.members = Members(self._run, self._plan_step)
        self._info: values.ReplyInfo | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Running calls fail."""
        await self._endpoints.close()

    @property
    def info(self) -> values.ReplyInfo | None:
        """Where the newest reply came from: cluster, revision, member, and the age of a stale read."""
        return self._info

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Addresses given and learned."""
        return self._endpoints.addresses

    # Writes

    async def publish(
        self,
        workflow: str,
        content: bytes,
        *,
        kind: str = "",
        message: str = "",
        labels: dict[str, str] | None = None,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> values.Published:
        """Stores exact bytes as the next version; `created` is False if they are the newest already.
        `kind` empty: detected. Raises Invalid TOO_LARGE with the limit."""
        if len(content) > CONTENT_BYTES_CEILING:
            raise Invalid(
                Reason.TOO_LARGE,
                f"the content exceeds {CONTENT_BYTES_CEILING} bytes, the most any registry takes; nothing was sent",
                hint="split the workflow, or keep large data beside it",
                metadata={"limit": str(CONTENT_BYTES_CEILING)},
            )
        request = registry_pb2.PublishRequest(
            request_id=request_id or new_request_id(),
            workflow=workflow,
            content=content,
            kind=kind,
            message=message,
            labels=labels or {},
            principal=self.principal,
        )
        plan = self._plan(f"publish {workflow}", timeout_s, request_id=request.request_id, slow=True)
        if len(content) > limits.COALESCED_BYTES:
            return convert.published(await self._run(plan, rpc("registry", "Publish", request)))
        return convert.published(await self._run(plan, operation(Operation(publish=request))))

    async def switch(
        self,
        workflow: str,
        version: int | str,
        *,
        pointer: str = DEFAULT_POINTER,
        expected_generation: int | None = None,
        reason: str,
        force: bool = False,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Pointer:
        """Moves one pointer to a version (a number or a reference) and returns its new record.
        Raises Conflict GENERATION_MISMATCH with the current record in `metadata`."""
        move = Move(workflow, version, pointer, expected_generation)
        done = await self.switch_many([move], reason=reason, force=force, request_id=request_id, timeout_s=timeout_s)
        return done.pointers[0]

    async def switch_many(
        self,
        moves: Iterable[Move],
        *,
        reason: str,
        force: bool = False,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> outcomes.Switched:
        """Moves several pointers in one atomic step: all or none. Records come in the order of the moves."""
        request = registry_pb2.SwitchRequest(
            request_id=request_id or new_request_id(),
            moves=[convert.move_request(move) for move in moves],
            reason=reason,
            principal=self.principal,
            force=force,
        )
        plan = self._plan(f"switch {_names(request.moves)}", timeout_s, request_id=request.request_id)
        return convert.switched(await self._run(plan, operation(Operation(switch=request))))

    async def rollback(
        self,
        workflow: str,
        *,
        to: Reference = None,
        pointer: str = DEFAULT_POINTER,
        expected_generation: int | None = None,
        reason: str,
        force: bool = False,
        keep_status: bool = False,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Pointer:
        """Moves a pointer back. `to` None: the newest stable version that was live before, picked at commit.
        The version rolled away from becomes `failed`, unless `keep_status`."""
        done = await self.rollback_many(
            [Move(workflow, convert.reference(to), pointer, expected_generation)],
            reason=reason,
            force=force,
            keep_status=keep_status,
            request_id=request_id,
            timeout_s=timeout_s,
        )
        return done.pointers[0]

    async def rollback_many(
        self,
        moves: Iterable[Move],
        *,
        reason: str,
        force: bool = False,
        keep_status: bool = False,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> outcomes.Switched:
        """Moves several pointers back in one atomic step; an empty target is picked at commit."""
        request = registry_pb2.RollbackRequest(
            request_id=request_id or new_request_id(),
            moves=[convert.move_request(move) for move in moves],
            reason=reason,
            principal=self.principal,
            force=force,
            keep_status=keep_status,
        )
        plan = self._plan(f"roll back {_names(request.moves)}", timeout_s, request_id=request.request_id)
        return convert.switched(await self._run(plan, operation(Operation(rollback=request))))

    async def mark(
        self,
        workflow: str,
        reference: int | str,
        status: Status,
        *,
        reason: str,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> outcomes.Marked:
        """Sets the status of one version."""
        request = registry_pb2.MarkRequest(
            request_id=request_id or new_request_id(),
            workflow=workflow,
            reference=convert.reference(reference),
            status=status,
            reason=reason,
            principal=self.principal,
        )
        plan = self._plan(f"mark {workflow}@{request.reference}", timeout_s, request_id=request.request_id)
        return convert.marked(await self._run(plan, operation(Operation(mark=request))))

    # Reads: linearizable, unless `stale` allows any member's own state

    async def pointer(
        self, workflow: str, pointer: str = DEFAULT_POINTER, *, stale: bool = False, timeout_s: float | None = None
    ) -> Pointer:
        request = registry_pb2.GetPointerRequest(workflow=workflow, pointer=pointer, stale=stale)
        plan = self._plan(f"read pointer {pointer} of {workflow}", timeout_s, leader_first=not stale)
        reply = await self._run(plan, operation(Operation(get_pointer=request)))
        return convert.pointer(reply.pointer)

    async def version(
        self, workflow: str, reference: Reference = None, *, stale: bool = False, timeout_s: float | None = None
    ) -> Version:
        """One version by number or reference; None: the newest."""
        request = registry_pb2.GetVersionRequest(workflow=workflow, reference=convert.reference(reference), stale=stale)
        plan = self._plan(f"read a version of {workflow}", timeout_s, leader_first=not stale)
        reply = await self._run(plan, operation(Operation(get_version=request)))
        return convert.version(reply.version)

    async def content(
        self,
        workflow: str,
        reference: Reference = None,
        *,
        stale: bool = False,
        min_revision: int = 0,
        timeout_s: float | None = None,
    ) -> bytes:
        """The exact bytes of a version, checked against its digest. A stale read may come from any member that has
        applied `min_revision`. Raises Refused CORRUPT_CONTENT."""
        request = registry_pb2.GetContentRequest(
            workflow=workflow, reference=convert.reference(reference), stale=stale, min_revision=min_revision
        )
        plan = self._plan(f"read content of {workflow}", timeout_s, slow=True)
        reply = await self._run(plan, rpc("registry", "GetContent", request))
        content: bytes = reply.content
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if digest != reply.version.digest:
            raise Refused(
                Reason.CORRUPT_CONTENT,
                f"{workflow}@{reply.version.number} arrived as {digest}, published was {reply.version.digest}",
                hint=f"the bytes were dropped; check member {reply.info.served_by} and ask again",
            )
        return content

    async def compare(
        self,
        from_workflow: str,
        from_reference: Reference,
        to_workflow: str,
        to_reference: Reference,
        *,
        stale: bool = False,
        timeout_s: float | None = None,
    ) -> values.Comparison:
        """What changed from one version to another, possibly of another workflow. Raises Refused COMPARE_LIMIT."""
        request = registry_pb2.CompareRequest(
            from_workflow=from_workflow,
            from_reference=convert.reference(from_reference),
            to_workflow=to_workflow,
            to_reference=convert.reference(to_reference),
            stale=stale,
        )
        plan = self._plan(f"compare {from_workflow} with {to_workflow}", timeout_s, slow=True)
        return convert.comparison(await self._run(plan, rpc("registry", "Compare", request)))

    def workflows(
        self, prefix: str = "", *, page_size: int = 0, stale: bool = False, timeout_s: float | None = None
    ) -> AsyncIterator[values.WorkflowSummary]:
        """Workflows whose name starts with `prefix`, by name. timeout_s is of each page, here and below."""
        request = registry_pb2.ListWorkflowsRequest(prefix=prefix, page_size=page_size, stale=stale)
        return self._pages("list workflows", "ListWorkflows", request, "workflows", convert.workflow, timeout_s)

    def versions(
        self, workflow: str, *, page_size: int = 0, stale: bool = False, timeout_s: float | None = None
    ) -> AsyncIterator[Version]:
        """Newest first."""
        request = registry_pb2.ListVersionsRequest(workflow=workflow, page_size=page_size, stale=stale)
        what = f"list versions of {workflow}"
        return self._pages(what, "ListVersions", request, "versions", convert.version, timeout_s)

    def history(
        self,
        workflow: str,
        pointer: str = "",
        *,
        page_size: int = 0,
        stale: bool = False,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Change]:
        """Accepted changes of a workflow, or of one of its pointers, newest first."""
        request = registry_pb2.GetHistoryRequest(workflow=workflow, pointer=pointer, page_size=page_size, stale=stale)
        what = f"read the history of {workflow}"
        return self._pages(what, "GetHistory", request, "changes", convert.change, timeout_s)

    def agents(
        self, workflow: str = "", *, page_size: int = 0, stale: bool = False, timeout_s: float | None = None
    ) -> AsyncIterator[values.AgentRow]:
        """Who runs what; `workflow` empty: of all."""
        request = registry_pb2.ListAgentsRequest(workflow=workflow, page_size=page_size, stale=stale)
        return self._pages("list agents", "ListAgents", request, "agents", convert.agent_row, timeout_s)

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

    # Agents

    async def poll(self, request: values.PollRequest, *, timeout_s: float | None = None) -> values.PollResponse:
        """What this agent should have, once that differs from what it has. timeout_s comes on top of the wait."""
        wait_s = request.wait_ms / 1000
        total_s = wait_s + (self.timeout_s if timeout_s is None else timeout_s)
        plan = self._plan("poll", total_s, attempt_s=wait_s + limits.POLL_GRACE_S)
        message = convert.poll_request(request)
        return convert.poll_response(await self._run(plan, rpc("agents", "Poll", message)))

    async def acknowledge(
        self, acks: Iterable[commands.Ack], *, request_id: str | None = None, timeout_s: float | None = None
    ) -> None:
        """Records what agents did, at most core.limits.ACKS at once."""
        request = agent_pb2.AcknowledgeRequest(
            request_id=request_id or new_request_id(), acks=[convert.ack_request(ack) for ack in acks]
        )
        plan = self._plan("record acknowledgements", timeout_s, request_id=request.request_id)
        await self._run(plan, rpc("agents", "Acknowledge", request))

    # Plumbing

    def _plan(
        self,
        what: str,
        timeout_s: float | None,
        *,
        request_id: str = "",
        leader_first: bool = False,
        slow: bool = False,
        repeatable: bool = False,
        attempt_s: float = limits.ATTEMPT_S,
    ) -> Plan:
        return Plan(
            what=what,
            timeout_s=self.timeout_s if timeout_s is None else timeout_s,
            request_id=request_id,
            leader_first=leader_first or repeatable or bool(request_id),
            slow=slow,
            repeatable=repeatable,
            attempt_s=attempt_s,
        )

    def _plan_step(self, what: str, timeout_s: float | None) -> Plan:
        """Slow: a leader that is to be removed hands over first."""
        return self._plan(what, timeout_s, slow=True, repeatable=True)

    async def _run(self, plan: Plan, attempt: Attempt[Any]) -> Any:
        reply = await self._calls.run(plan, attempt)
        self._info = convert.info(reply.info)
        return reply

    async def _pages(
        self,
        what: str,
        name: str,
        request: Any,
        field: str,
        value: Callable[[Any], Any],
        timeout_s: float | None,
    ) -> AsyncIterator[Any]:
        while True:
            reply = await self._run(self._plan(what, timeout_s, slow=True), rpc("registry", name, request))
            for each in getattr(reply, field):
                yield value(each)
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token


def new_request_id() -> str:
    """For one intended change; repeat it on every retry of that change."""
    return request_ids.make(time.time_ns() // 1_000_000, os.urandom(request_ids.RANDOM_BYTES))


def _names(moves: Iterable[registry_pb2.Move]) -> str:
    return ", ".join(f"{move.workflow} {move.pointer}" for move in moves)


def _user() -> str:
    try:
        return getpass.getuser()[:PRINCIPAL_CHARS]
    except (KeyError, OSError):  # a container's user id may have no name
        return f"uid-{os.getuid()}"

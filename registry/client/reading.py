"""What is read: linearizable, unless `stale` allows any member's own state."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence

from registry.client import convert, values
from registry.client.base import Base
from registry.client.calls import operation, rpc
from registry.client.convert import Reference
from registry.core.errors import Reason, Refused
from registry.core.model import DEFAULT_POINTER, Change, Pointer, Version
from registry.v1 import registry_pb2

Operation = registry_pb2.Operation


class Reading(Base):
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
        self,
        workflow: str = "",
        *,
        labels: Sequence[str] = (),
        author: str = "",
        since_ms: int = 0,
        until_ms: int = 0,
        text: str = "",
        status: str = "",
        page_size: int = 0,
        stale: bool = False,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Version]:
        """Newest first; without a workflow those of all of them, by name. `labels`: `key` or `key=value`, all of them;
        `text`: in message, summary, labels, facts or name; published at or after `since_ms`, before `until_ms`."""
        request = registry_pb2.ListVersionsRequest(
            workflow=workflow,
            labels=labels,
            author=author,
            since_ms=since_ms,
            until_ms=until_ms,
            text=text,
            status=status,
            page_size=page_size,
            stale=stale,
        )
        what = f"list versions of {workflow}" if workflow else "search versions"
        return self._pages(what, "ListVersions", request, "versions", convert.version, timeout_s)

    async def policy(
        self, scope: str = "*", *, stale: bool = False, timeout_s: float | None = None
    ) -> values.PolicyInForce:
        """What holds in a scope: `*`, `ns/*` or `ns/name`, which may not exist yet."""
        request = registry_pb2.GetPolicyRequest(scope=scope, stale=stale)
        plan = self._plan(f"read the policy of {scope}", timeout_s, leader_first=not stale)
        return convert.policy_in_force(await self._run(plan, rpc("registry", "GetPolicy", request)))

    async def impact(self, workflow: str, *, stale: bool = False, timeout_s: float | None = None) -> values.Impact:
        """Who depends on a workflow, direct and indirect, nearest first."""
        request = registry_pb2.GetImpactRequest(workflow=workflow, stale=stale)
        plan = self._plan(f"read who depends on {workflow}", timeout_s, leader_first=not stale)
        return convert.impact(await self._run(plan, rpc("registry", "GetImpact", request)))

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

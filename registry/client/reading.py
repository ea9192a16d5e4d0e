"""What is read: linearizable, unless `stale` allows any member's own state."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from registry.client import compact, convert, large, values
from registry.client.base import Base
from registry.client.calls import operation, rpc
from registry.client.convert import Reference
from registry.core import outcomes
from registry.core.errors import Invalid, Reason, Refused
from registry.core.limits import LARGE_CONTENT_BYTES
from registry.core.model import DEFAULT_POINTER, Change, Pointer, Version
from registry.v1 import registry_pb2

Operation = registry_pb2.Operation


class _Found(NamedTuple):
    version: Version
    data: bytes | None  # exact; None: it is in chunks
    chunks: tuple[str, ...]


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
        base: bytes = b"",
        max_bytes: int = LARGE_CONTENT_BYTES,
        stale: bool = False,
        min_revision: int = 0,
        timeout_s: float | None = None,
    ) -> bytes:
        """The exact bytes of a version, checked against its digest, large content too. `base`: bytes of another version
        that are here: then little has to travel. A stale read may come from any member that has applied `min_revision`.
        Raises Refused CORRUPT_CONTENT, Invalid TOO_LARGE past `max_bytes`."""
        found = await self._content(workflow, reference, base, stale, min_revision, timeout_s)
        version = found.version
        if found.data is None and version.size_bytes > max_bytes:
            raise Invalid(
                Reason.TOO_LARGE,
                f"{workflow}@{version.number} has {version.size_bytes:,} bytes, {max_bytes:,} are asked for at most",
                hint="download it into a file",
                metadata={"limit": str(max_bytes), "size_bytes": str(version.size_bytes)},
            )
        if found.data is not None:
            return found.data
        out = io.BytesIO()
        await large.write(self._chunks(timeout_s), version, found.chunks, out)
        return out.getvalue()

    async def download(
        self,
        workflow: str,
        reference: Reference,
        out: Path | BinaryIO,
        *,
        progress: large.Progress | None = None,
        stale: bool = False,
        min_revision: int = 0,
        timeout_s: float | None = None,
    ) -> Version:
        """Writes the exact bytes of a version, of any size, with a few chunks in memory at most; returns the version.
        A Path is replaced once all is there and on the disk; until then it is PATH.partial, which another call goes on
        from. timeout_s: of every step, not of the whole. Raises Refused CORRUPT_CONTENT, OSError."""
        found = await self._content(workflow, reference, b"", stale, min_revision, timeout_s)
        if not isinstance(out, Path):
            await self._write(found, out, progress, timeout_s, resume=False)
        else:
            with large.file_to_be(out) as file:
                await self._write(found, file, progress, timeout_s, resume=True)
        return found.version

    async def fetch(
        self,
        workflow: str,
        reference: Reference,
        into: Path,
        *,
        base: bytes = b"",
        progress: large.Progress | None = None,
        stale: bool = False,
        min_revision: int = 0,
        timeout_s: float | None = None,
    ) -> bytes | None:
        """As `content`, but for large content: None, and it is in the file `into`, which was gone on with if it held
        some already. It is not synced, and stays as it is when this fails."""
        found = await self._content(workflow, reference, base, stale, min_revision, timeout_s)
        if found.data is not None:
            return found.data
        with into.open("r+b" if into.exists() else "w+b") as file:
            await self._write(found, file, progress, timeout_s, resume=True)
        return None

    async def _content(
        self, workflow: str, reference: Reference, base: bytes, stale: bool, min_revision: int, timeout_s: float | None
    ) -> _Found:
        """In compact form; as exact bytes where that cannot be unpacked. Raises Refused CORRUPT_CONTENT."""
        request = registry_pb2.GetContentRequest(
            workflow=workflow,
            reference=convert.reference(reference),
            stale=stale,
            min_revision=min_revision,
            compact=True,
            base_digest=compact.digest(base) if base else "",
        )
        plan = self._plan(f"read content of {workflow}", timeout_s, slow=True)
        while True:
            reply = await self._run(plan, rpc("registry", "GetContent", request))
            version = convert.version(reply.version)
            if reply.chunks:
                return _Found(version, None, tuple(reply.chunks))
            data = compact.exact(reply, base)
            if data is not None and compact.digest(data) == version.digest:
                return _Found(version, data, ())
            if not request.compact:
                raise _corrupt(version, data or b"", reply.info.served_by)
            request.compact = False

    async def _write(
        self, found: _Found, out: BinaryIO, progress: large.Progress | None, timeout_s: float | None, *, resume: bool
    ) -> None:
        if found.data is None:
            await large.write(self._chunks(timeout_s), found.version, found.chunks, out, progress, resume=resume)
            return
        if resume:
            out.truncate(0)
        out.write(found.data)

    async def preview_rollback(
        self, moves: Iterable[values.Move], *, force: bool = False, timeout_s: float | None = None
    ) -> outcomes.Switched:
        """What rollback_many would do now, with the versions that it would pick; nothing is moved. Raises what it would
        raise, and Invalid INVALID_REQUEST from a member of an older release."""
        request = registry_pb2.RollbackRequest(
            moves=[convert.move_request(move) for move in moves],
            reason="preview",
            principal=self.principal,
            force=force,
        )
        plan = self._plan("preview a rollback", timeout_s, leader_first=True)
        return convert.switched(await self._run(plan, rpc("registry", "PreviewRollback", request)))

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


def _corrupt(version: Version, data: bytes, served_by: str) -> Refused:
    return Refused(
        Reason.CORRUPT_CONTENT,
        f"{version.workflow}@{version.number} arrived as {compact.digest(data)}, published was {version.digest}",
        hint=f"the bytes were dropped; check member {served_by} and ask again",
    )

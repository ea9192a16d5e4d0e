"""What changes the registry. Every call makes one request id and repeats it on every retry."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from registry.client import convert, large, limits, values
from registry.client.base import Base
from registry.client.calls import operation, rpc
from registry.client.convert import Reference
from registry.client.values import Move
from registry.core import outcomes, request_ids
from registry.core.errors import Invalid, Reason, Refused
from registry.core.limits import CONTENT_BYTES_CEILING
from registry.core.model import DEFAULT_POINTER, Pointer, Policy, Status, Version
from registry.v1 import registry_pb2

Operation = registry_pb2.Operation


class Writing(Base):
    async def publish(
        self,
        workflow: str,
        content: bytes | Path | BinaryIO,
        *,
        kind: str = "",
        message: str = "",
        labels: Mapping[str, str] | None = None,
        parents: Sequence[int | str] = (),
        requires: Sequence[str] = (),
        snapshot: str = "",
        needs: Sequence[str] = (),
        progress: large.Progress | None = None,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> values.Published:
        """Stores exact bytes as the next version, without the values that their format declares secret; `created` is
        False if they are the newest already. `kind` empty: detected. `parents`: numbers or references, empty: the
        newest version. `requires`: workflows it calls, beside those that the content names. `snapshot`: why the version
        is made, for retention: published (also if empty), manual, periodic or terminal. `needs`: of the machines that
        install it, see core.needs; they belong to the version that a publish creates, and are not kept where it
        creates none.

        Content that is larger than what the registry reads goes in chunks, is kept as it is, and only what is not there
        yet is sent; `progress` hears of it. A Path or a file of any size is never in memory as a whole. timeout_s: of
        every step, not of the whole.

        Raises Invalid TOO_LARGE with the limit, Refused by policy (SAME_SEMANTICS, CHECKS_FAILED, SECRETS_FOUND), and
        OSError from reading."""
        request = registry_pb2.PublishRequest(
            request_id=request_id or new_request_id(),
            workflow=workflow,
            kind=kind,
            message=message,
            labels=labels or {},
            principal=self.principal,
            parents=[convert.reference(each) for each in parents],
            requires=requires,
            snapshot=snapshot,
            needs=needs,
        )
        with large.opened(content) as source:
            if source.size_bytes <= CONTENT_BYTES_CEILING:
                request.content = await source.all()
                try:
                    return await self._publish(request, timeout_s)
                except Invalid as error:
                    if not large.refused_for_size(error, source.size_bytes):
                        raise
                request.ClearField("content")
            return await self._publish_large(request, source, progress, timeout_s)

    async def _publish(self, request: registry_pb2.PublishRequest, timeout_s: float | None) -> values.Published:
        plan = self._plan(f"publish {request.workflow}", timeout_s, request_id=request.request_id, slow=True)
        if len(request.content) > limits.COALESCED_BYTES or request.HasField("large"):
            return convert.published(await self._run(plan, rpc("registry", "Publish", request)))
        return convert.published(await self._run(plan, operation(Operation(publish=request))))

    async def _publish_large(
        self,
        request: registry_pb2.PublishRequest,
        source: large.Source,
        progress: large.Progress | None,
        timeout_s: float | None,
    ) -> values.Published:
        """Asked before anything is sent: what the registry refuses costs no bytes."""
        content = await large.summed(source)
        request.large.CopyFrom(
            registry_pb2.LargeContent(digest=content.digest, size_bytes=content.size_bytes, chunks=content.chunks)
        )
        chunks = self._chunks(timeout_s)
        within_s = (self.timeout_s if timeout_s is None else timeout_s) + content.size_bytes / limits.PUBLISH_BYTES_S
        for _ in range(limits.UPLOAD_ROUNDS):
            missing = await chunks.missing(content.chunks)
            try:
                return await self._publish(request, within_s)
            except Refused as error:
                if error.reason is not Reason.CHUNKS_MISSING:
                    raise
            await chunks.send(source, content, missing, progress)
        return await self._publish(request, within_s)

    async def switch(
        self,
        workflow: str,
        version: int | str,
        *,
        pointer: str = DEFAULT_POINTER,
        expected_generation: int | None = None,
        reason: str,
        force: bool = False,
        not_before_ms: int = 0,
        deadline_ms: int = 0,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Pointer:
        """Moves one pointer to a version (a number or a reference) and returns its new record. Agents fetch it at once
        and install it no earlier than `not_before_ms` (unix; 0: at once) and no later than `deadline_ms` (0: whenever).
        Raises Conflict GENERATION_MISMATCH with the current record in `metadata`."""
        move = Move(workflow, version, pointer, expected_generation)
        done = await self.switch_many(
            [move],
            reason=reason,
            force=force,
            not_before_ms=not_before_ms,
            deadline_ms=deadline_ms,
            request_id=request_id,
            timeout_s=timeout_s,
        )
        return done.pointers[0]

    async def switch_many(
        self,
        moves: Iterable[Move],
        *,
        reason: str,
        force: bool = False,
        not_before_ms: int = 0,
        deadline_ms: int = 0,
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
            not_before_ms=not_before_ms,
            deadline_ms=deadline_ms,
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

    async def label(
        self,
        workflow: str,
        reference: int | str,
        labels: Mapping[str, str] | None = None,
        *,
        remove: Sequence[str] = (),
        reason: str = "",
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Version:
        """Sets and removes labels of one version, all or none. Raises Refused LABEL_IMMUTABLE, Conflict LABEL_TAKEN."""
        request = registry_pb2.LabelRequest(
            request_id=request_id or new_request_id(),
            workflow=workflow,
            reference=convert.reference(reference),
            labels=labels or {},
            remove=remove,
            reason=reason,
            principal=self.principal,
        )
        plan = self._plan(f"label {workflow}@{request.reference}", timeout_s, request_id=request.request_id)
        return convert.version((await self._run(plan, operation(Operation(label=request)))).version)

    async def set_policy(
        self,
        scope: str,
        fields: Mapping[str, str],
        *,
        reason: str,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Policy:
        """Changes fields of the policy of `*`, `ns/*` or `ns/name`; an empty text takes a field back. What the scope
        says then."""
        request = registry_pb2.SetPolicyRequest(
            request_id=request_id or new_request_id(),
            scope=scope,
            fields=fields,
            reason=reason,
            principal=self.principal,
        )
        plan = self._plan(f"set the policy of {scope}", timeout_s, request_id=request.request_id)
        return convert.policy((await self._run(plan, rpc("registry", "SetPolicy", request))).policy)

    async def hold(
        self,
        workflow: str,
        reference: int | str,
        *,
        hold: bool = True,
        reason: str,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Version:
        """Keeps the content of a version whatever retention says, or no longer (`hold` False). Raises NotFound
        CONTENT_REMOVED."""
        request = registry_pb2.HoldRequest(
            request_id=request_id or new_request_id(),
            workflow=workflow,
            reference=convert.reference(reference),
            hold=hold,
            reason=reason,
            principal=self.principal,
        )
        plan = self._plan(f"hold {workflow}@{request.reference}", timeout_s, request_id=request.request_id)
        return convert.version((await self._run(plan, rpc("registry", "Hold", request))).version)

    async def retain(
        self, workflow: str = "", *, dry_run: bool = False, reason: str = "", timeout_s: float | None = None
    ) -> values.Retained:
        """Lets go of the content of versions that no rule keeps, of one workflow or of all, or only says which."""
        request = registry_pb2.RetainRequest(
            workflow=workflow, dry_run=dry_run, reason=reason, principal=self.principal
        )
        what = f"run retention of {workflow or 'all workflows'}"
        plan = self._plan(what, timeout_s, slow=True, leader_first=True, repeatable=not dry_run)
        return convert.retained(await self._run(plan, rpc("registry", "Retain", request)))

    async def purge(
        self,
        workflow: str,
        reference: int | str,
        *,
        reason: str,
        dry_run: bool = False,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> values.Purged:
        """Removes the bytes of a version, and of every version that has the same, from all members, for good; or only
        says what would go. Raises Refused VERSION_IN_USE, NotFound CONTENT_REMOVED."""
        request = registry_pb2.PurgeRequest(
            request_id=request_id or new_request_id(),
            workflow=workflow,
            reference=convert.reference(reference),
            reason=reason,
            principal=self.principal,
            dry_run=dry_run,
        )
        plan = self._plan(f"purge {workflow}@{request.reference}", timeout_s, request_id=request.request_id, slow=True)
        return convert.purged(await self._run(plan, rpc("registry", "Purge", request)))


def new_request_id() -> str:
    """For one intended change; repeat it on every retry of that change."""
    return request_ids.make(time.time_ns() // 1_000_000, os.urandom(request_ids.RANDOM_BYTES))


def _names(moves: Iterable[registry_pb2.Move]) -> str:
    return ", ".join(f"{move.workflow} {move.pointer}" for move in moves)

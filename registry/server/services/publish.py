"""Publish: what a version is, says and changes is found here; whether it becomes one is decided in apply."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Sequence
from typing import cast

from msgspec import structs

from registry.core import commands, limits, model, names, outcomes, publishing, references
from registry.core.errors import Invalid, Reason, RegistryError
from registry.formats.model import Finding
from registry.server import convert
from registry.server.budget import Budget
from registry.server.contents import beside
from registry.server.feed import busy
from registry.server.inspect_worker import KeyNeeded, Prepared, PrepareJob
from registry.server.inspector import Inspector
from registry.server.limits import NOTE_NAMES, PACK_ATTEMPTS
from registry.server.proposer import Proposer
from registry.server.replies import Replies
from registry.server.services.large import LargePublish
from registry.server.services.packer import Packer
from registry.server.services.reads import Reads
from registry.server.status import rejection
from registry.store import content
from registry.store.state import Rows
from registry.v1 import registry_pb2

LITERAL = "secret_literal"  # code of findings: something that looks like a secret where none belongs
_BLOCK = "block"
# In place of bytes that nobody needs: apply would refuse it, since nothing has this digest.
_LEFT_OUT = model.Content(encoding="delta", base=f"sha256:{'0' * 64}", depth=1, data=b"", size_bytes=1)
_UNREADABLE = {
    Reason.CONTENT_REMOVED: "its content was removed",
    Reason.CORRUPT_CONTENT: "its content is damaged on this member",
}


class Publish:
    """content_limit_bytes: of one publish, set by the operator. `large`: of what comes in chunks instead."""

    def __init__(
        self,
        *,
        proposer: Proposer,
        reads: Reads,
        replies: Replies,
        inspector: Inspector,
        content_limit_bytes: int,
        large: LargePublish,
    ) -> None:
        self._proposer = proposer
        self._reads = reads
        self._replies = replies
        self._inspector = inspector
        self._content_limit_bytes = content_limit_bytes
        self._large = large
        self._packer = Packer(reads)

    async def publish(self, request: registry_pb2.PublishRequest, timeout_s: float) -> registry_pb2.PublishResponse:
        request_id = self._proposer.request_id(request.request_id)
        is_large = request.HasField("large")
        if not is_large:
            self._check_content(request.content)
        names.check_workflow(request.workflow)
        budget = Budget(timeout_s)
        await self._proposer.barrier(budget.left_s())
        level = await self._proposer.level_in_force(budget.left_s())
        told = request.parents or request.requires or request.needs or request.snapshot not in ("", "published")
        if level < 2 and told:
            await self._proposer.require_level_2("naming parents, requirements, needs or a snapshot", budget.left_s())
        parents = await self._parents(request, budget)
        if is_large:
            return await self._large.publish(request, request_id, parents, budget)
        parent, unread = await self._parent(request.workflow, parents[0] if parents else 0)
        prepared = await self._prepare(request, parent, budget, level)
        if unread:
            prepared = structs.replace(prepared, not_compared=unread)
        data = prepared.content
        command = commands.Publish(
            request_id=request_id,
            time_ms=self._proposer.clock_ms(),
            principal=request.principal,
            workflow=request.workflow,
            kind=prepared.inspection.kind,
            digest=await beside(len(data), lambda: content.digest(data)),
            value_digest=prepared.inspection.value_digest,
            semantic_digest=prepared.inspection.semantic_digest,
            content=model.Content(encoding="raw", data=b"", size_bytes=len(data)),  # see _propose
            message=request.message,
            labels=dict(request.labels),
            facts=prepared.inspection.facts,
        )
        if level >= 2:
            command = _told(command, request, parents, prepared)
        outcome = await self._propose(command, data, level, budget)
        notes = [*outcome.notes, *_notes(outcome, prepared, parent[0] if parent else None, level)]
        notes += convert.unkept_needs(outcome, request.needs)
        return registry_pb2.PublishResponse(
            info=self._replies.info(outcome.revision),
            version=convert.version(outcome.version),
            created=outcome.created,
            findings=[convert.finding(each) for each in prepared.inspection.findings],
            notes=notes,
            verdict=prepared.verdict.level if prepared.verdict else "",
        )

    async def _propose(self, command: commands.Publish, data: bytes, level: int, budget: Budget) -> outcomes.Published:
        """Packed, and packed again where that was over a content that has changed or gone meanwhile."""
        avoid: set[str] = set()
        for attempt in range(1, PACK_ATTEMPTS + 1):
            if level < 2 or attempt == PACK_ATTEMPTS:
                stored = await self._packer.alone(data)
            else:
                stored = await self._packer.packed(
                    command.workflow, command.kind, command.digest, data, parents=command.parents, avoid=avoid
                )
            command = structs.replace(command, content=stored)
            try:
                if self._is_decided(command, level) and level >= 2:
                    command = structs.replace(command, content=_LEFT_OUT)  # purged by now, maybe: not into the log
                outcome = await self._proposer.propose(command, budget.left_s())
            except RegistryError as error:
                if error.reason != Reason.BASE_OUTDATED:
                    raise
                avoid.add(stored.base)
                continue
            assert isinstance(outcome, outcomes.Published)
            return outcome
        raise AssertionError("content that stands alone has no base")

    async def _parent(self, workflow: str, number: int) -> tuple[tuple[model.Version, bytes] | None, str]:
        """The version to compare with, and its bytes; or none of them, and why: publishing goes on without."""
        try:
            parent = await self._reads.stored(workflow, number)
        except RegistryError as error:
            if error.reason not in _UNREADABLE:
                raise
            version = self._reads.version(workflow, number)
            return (version, b"") if version else None, _UNREADABLE[error.reason]
        return parent, "" if parent is None or parent[1] else "its content is kept in chunks, and not read"

    async def _parents(self, request: registry_pb2.PublishRequest, budget: Budget) -> tuple[int, ...]:
        if len(request.parents) > limits.PARENTS:
            raise Invalid(
                Reason.TOO_LARGE,
                f"{len(request.parents)} parents; nothing was stored",
                hint=f"at most {limits.PARENTS} are kept",
                metadata={"limit": str(limits.PARENTS)},
            )
        targets = [references.parse_target(each) for each in request.parents]
        return tuple([await self._reads.number(request.workflow, target, budget.left_s()) for target in targets])

    def _is_decided(self, command: commands.Publish, level: int) -> bool:
        """Whether apply has the outcome already, which it gives again whatever the bytes. What it would refuse now is
        refused before it is in the log: it may hold secrets, and would be on every disk. Raises RegistryError."""
        with self._reads.peek() as reader:
            rows = Rows(reader)
            if rows.remembered(command.request_id) is not None:
                return True
            decided = publishing.decide(rows, command, level=level)
        if isinstance(decided, outcomes.Rejected):
            raise rejection(decided)
        return False

    async def _prepare(
        self,
        request: registry_pb2.PublishRequest,
        parent: tuple[model.Version, bytes] | None,
        budget: Budget,
        level: int,
    ) -> Prepared:
        # Secrets are left out at any level; their fingerprints and the key of those are level 2's.
        unkept = os.urandom(limits.FINGERPRINT_KEY_BYTES) if level < 2 else b""
        job = PrepareJob(
            content=request.content,
            kind=request.kind,
            key=self._reads.fingerprint_key or unkept,
            parent=parent[1] if parent else b"",
            kind_parent=parent[0].kind if parent else "",
            secrets_parent=parent[0].secrets if parent else {},
        )
        try:
            async with asyncio.timeout(budget.left_s()):
                prepared = await self._inspector.prepare(job)
                if isinstance(prepared, KeyNeeded):
                    job = structs.replace(job, key=await self._make_key(budget))
                    prepared = await self._inspector.prepare(job)
        except TimeoutError:
            raise busy(
                "the content could not be inspected in time; this attempt stored nothing, and an earlier one with the "
                "same request id may have"
                if request.request_id
                else "the content could not be inspected in time; nothing was stored"
            ) from None
        assert isinstance(prepared, Prepared)
        return prepared

    async def _make_key(self, budget: Budget) -> bytes:
        """The first secret that this cluster sees: from now on it has a key. Another member may have been faster."""
        command = commands.KeepKey(
            request_id=self._proposer.new_request_id(),
            time_ms=self._proposer.clock_ms(),
            key=os.urandom(limits.FINGERPRINT_KEY_BYTES),
        )
        await self._proposer.propose(command, budget.left_s())
        await self._proposer.barrier(budget.left_s())
        return self._reads.fingerprint_key

    def _check_content(self, data: bytes) -> None:
        if not data:
            raise Invalid(
                Reason.INVALID_CONTENT, "the content has zero bytes; nothing was stored", hint="check the file"
            )
        if len(data) > self._content_limit_bytes:
            raise Invalid(
                Reason.TOO_LARGE,
                f"the content has {len(data):,} bytes, {self._content_limit_bytes:,} are allowed; nothing was stored",
                hint=f"start the members with a higher --content-limit BYTES, up to {limits.CONTENT_BYTES_CEILING}",
                metadata={"limit": str(self._content_limit_bytes), "size_bytes": str(len(data))},
            )


def _told(
    command: commands.Publish, request: registry_pb2.PublishRequest, parents: tuple[int, ...], prepared: Prepared
) -> commands.Publish:
    """With what feature level 2 knows of a version."""
    if len(prepared.secrets) > limits.SECRETS:
        raise Invalid(
            Reason.TOO_LARGE,
            f"the content holds {len(prepared.secrets)} secrets; nothing was stored",
            hint=f"at most {limits.SECRETS} are kept account of; publish it without their values",
            metadata={"limit": str(limits.SECRETS)},
        )
    findings = prepared.inspection.findings
    room = max(limits.REQUIRES - len(request.requires), 0)  # what the caller names comes first
    found = [each for each in prepared.inspection.requires if each not in request.requires]
    return structs.replace(
        command,
        parents=parents,
        parent_references=tuple(request.parents),
        requires=(*dict.fromkeys(request.requires), *found[:room]),
        asked_requires=tuple(request.requires),
        secrets={cut(name, limits.SECRET_NAME_CHARS): print_ for name, print_ in prepared.secrets.items()},
        summary=cut(prepared.summary, limits.SUMMARY_CHARS),
        change=prepared.verdict.change if prepared.verdict else "",
        findings=_texts([each for each in findings if each.level == _BLOCK and each.code != LITERAL]),
        literals=_texts([each for each in findings if each.code == LITERAL]),
        snapshot=cast(model.Snapshot, request.snapshot or "published"),  # checked with the command
        needs=tuple(request.needs),
    )


def _texts(findings: Sequence[Finding]) -> tuple[str, ...]:
    texts = [f"{each.text} ({each.where})" if each.where else each.text for each in findings[: limits.FINDINGS]]
    return tuple(cut(text, limits.FINDING_CHARS) for text in texts)


def _notes(outcome: outcomes.Published, prepared: Prepared, parent: model.Version | None, level: int) -> list[str]:
    notes = []
    if level < 2:
        notes.append(
            "feature level 1 is in force: parents, requirements, fingerprints of secrets and the summary were not "
            "kept; it rises once every member runs this release"
        )
    if prepared.secrets:
        values = "secret value was" if len(prepared.secrets) == 1 else "secret values were"
        notes.append(f"{len(prepared.secrets)} {values} left out: {_listed(prepared.secrets)}")
        if level >= 2 and not outcome.created and outcome.version.secrets != prepared.secrets:
            notes.append(f"only secret values differ from version {outcome.version.number}: they are not kept")
    if prepared.not_compared and parent is not None:
        notes.append(f"not compared with version {parent.number}: {prepared.not_compared}")
    of = parent.number if parent else 0
    first = outcome.version.parents[0] if outcome.version.parents else 0
    if outcome.created and of != first:
        notes.append(f"compared with version {of or 'none'}; version {first} was published meanwhile")
    return notes


def _listed(found: Collection[str]) -> str:
    shown = sorted(found)[:NOTE_NAMES]
    more = len(found) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else text[: chars - 1] + "…"

"""Publish: what a version is, says and changes is found here; whether it becomes one is decided in apply."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Sequence

from msgspec import structs

from registry.core import commands, limits, model, names, outcomes, publishing, references
from registry.core.errors import Invalid, Reason
from registry.formats.model import Finding
from registry.server import convert
from registry.server.budget import Budget
from registry.server.feed import busy
from registry.server.inspect_worker import KeyNeeded, Prepared, PrepareJob
from registry.server.inspector import Inspector
from registry.server.limits import INLINE_BYTES, NOTE_NAMES
from registry.server.proposer import Proposer
from registry.server.replies import Replies
from registry.server.services.reads import Reads
from registry.server.status import rejection
from registry.store import content
from registry.store.state import Rows
from registry.v1 import registry_pb2

LITERAL = "secret_literal"  # code of findings: something that looks like a secret where none belongs
_BLOCK = "block"


class Publish:
    """content_limit_bytes: of one publish, set by the operator."""

    def __init__(
        self,
        *,
        proposer: Proposer,
        reads: Reads,
        replies: Replies,
        inspector: Inspector,
        content_limit_bytes: int,
    ) -> None:
        self._proposer = proposer
        self._reads = reads
        self._replies = replies
        self._inspector = inspector
        self._content_limit_bytes = content_limit_bytes

    async def publish(self, request: registry_pb2.PublishRequest, timeout_s: float) -> registry_pb2.PublishResponse:
        request_id = self._proposer.request_id(request.request_id)
        self._check_content(request.content)
        names.check_workflow(request.workflow)
        budget = Budget(timeout_s)
        await self._proposer.barrier(budget.left_s())
        level = await self._proposer.level_in_force(budget.left_s())
        if level < 2 and (request.parents or request.requires):
            await self._proposer.require_level_2("naming parents or requirements", budget.left_s())
        parents = await self._parents(request, budget)
        parent = await self._reads.stored(request.workflow, parents[0] if parents else 0)
        prepared = await self._prepare(request, parent, budget, level)
        digest, stored = await _packed(prepared.content)
        command = commands.Publish(
            request_id=request_id,
            time_ms=self._proposer.clock_ms(),
            principal=request.principal,
            workflow=request.workflow,
            kind=prepared.inspection.kind,
            digest=digest,
            value_digest=prepared.inspection.value_digest,
            semantic_digest=prepared.inspection.semantic_digest,
            content=stored,
            message=request.message,
            labels=dict(request.labels),
            facts=prepared.inspection.facts,
        )
        if level >= 2:
            command = _told(command, request, parents, prepared)
        self._check_decision(command, level)
        outcome = await self._proposer.propose(command, budget.left_s())
        assert isinstance(outcome, outcomes.Published)
        notes = [*outcome.notes, *_notes(outcome, prepared, parent[0] if parent else None, level)]
        return registry_pb2.PublishResponse(
            info=self._replies.info(outcome.revision),
            version=convert.version(outcome.version),
            created=outcome.created,
            findings=[convert.finding(each) for each in prepared.inspection.findings],
            notes=notes,
            verdict=prepared.verdict.level if prepared.verdict else "",
        )

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

    def _check_decision(self, command: commands.Publish, level: int) -> None:
        """What apply would refuse now is refused before it is in the log: it may hold secrets, and would be on every
        disk. Raises RegistryError. A request that was decided already gets its outcome from apply."""
        with self._reads.snapshot() as reader:
            rows = Rows(reader)
            if rows.remembered(command.request_id) is not None:
                return
            decided = publishing.decide(rows, command, level=level)
        if isinstance(decided, outcomes.Rejected):
            raise rejection(decided)

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


async def _packed(data: bytes) -> tuple[str, model.Content]:
    """Digest and stored form. Large content is packed beside the loop: the codecs let go of the interpreter."""
    if len(data) <= INLINE_BYTES:
        return content.digest(data), content.encode(data)
    return await asyncio.to_thread(lambda: (content.digest(data), content.encode(data)))

"""What is kept and what goes: hold, retention, purge. Decided in apply; what goes first is made nobody's base here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from cluster.kv.api import Reader
from registry.core import commands, keeping, limits, names, outcomes, policies, references, retention, validation
from registry.core.decisions import not_indexed
from registry.core.errors import Conflict, Reason, Unavailable
from registry.core.model import Content, Version
from registry.core.retention import Rules
from registry.server import convert, trial
from registry.server.budget import Budget
from registry.server.limits import PURGE_AGENTS, PURGE_ATTEMPTS, RETAINED_SHOWN
from registry.server.proposer import Proposer
from registry.server.repacking import Repacker
from registry.server.replies import Replies
from registry.server.services.reads import Reads
from registry.server.status import rejection
from registry.store import content, queries
from registry.store.state import Rows
from registry.v1 import registry_pb2

ASKED = "retention was asked for"


@dataclass(frozen=True)
class Plan:
    """For one workflow, as of one snapshot."""

    versions: list[tuple[Version, Rules]]  # whose content is kept so far, newest first, and what keeps each
    going: list[Version]  # kept by nothing; what lies over others comes before them
    contents: dict[str, int]  # digests of contents that nobody has then, and about what each takes, in bytes
    keep_days: str  # of the policy that age was judged by


@dataclass(frozen=True)
class Done:
    removed: list[Version]
    freed_bytes: int


class Retention:
    """Raises as the API says. `let_go` and `plan` are of the members' own upkeep too."""

    def __init__(self, *, proposer: Proposer, reads: Reads, replies: Replies, repacker: Repacker) -> None:
        self._proposer = proposer
        self._reads = reads
        self._replies = replies
        self._repacker = repacker

    async def hold(self, request: registry_pb2.HoldRequest, timeout_s: float) -> registry_pb2.HoldResponse:
        request_id = self._proposer.request_id(request.request_id)
        budget = Budget(timeout_s)
        await self._proposer.require_level_2("holding a version", budget.left_s())
        target = references.parse_target(request.reference)
        command = commands.Hold(
            request_id=request_id,
            time_ms=self._proposer.clock_ms(),
            principal=request.principal,
            workflow=request.workflow,
            version=await self._reads.number(request.workflow, target, budget.left_s()),
            reason=request.reason,
            hold=request.hold,
            reference=request.reference,
        )
        outcome = await self._proposer.propose(command, budget.left_s())
        assert isinstance(outcome, outcomes.Held)
        return registry_pb2.HoldResponse(
            info=self._replies.info(outcome.revision), version=convert.version(outcome.version)
        )

    async def retain(self, request: registry_pb2.RetainRequest, timeout_s: float) -> registry_pb2.RetainResponse:
        budget = Budget(timeout_s)
        await self._proposer.require_level_2("retention", budget.left_s())
        await self._proposer.barrier(budget.left_s())
        with self._reads.peek() as reader:
            _check_indexed(reader)
            if request.workflow:
                queries.resolve(reader, request.workflow, references.Newest())
        reply = registry_pb2.RetainResponse(info=self._replies.info(0))
        async for workflow in self._asked(request.workflow):
            if budget.left_s() <= 0:
                so_far = "nothing was removed" if request.dry_run else f"{reply.removed} contents were removed"
                raise _time_was_over(so_far)
            plan = await self.plan(workflow)
            done = Done(plan.going, sum(plan.contents.values()))
            if not request.dry_run:
                done = await self.let_go(workflow, plan, request.principal, request.reason or ASKED, budget)
            _tell(reply, plan, done, only_removed=not request.workflow)
        with self._reads.peek() as reader:
            reply.info.revision = queries.registry(reader).revision
        return reply

    async def _asked(self, workflow: str) -> AsyncIterator[str]:
        """This workflow; if none is named, all whose policy may let go of something, in order of name."""
        if workflow:
            yield workflow
            return
        after = ""
        while found := self._next_workflow(after):
            if self.policy_of(found):
                yield found
            after = found
            await asyncio.sleep(0)

    def _next_workflow(self, after: str) -> str:
        """Empty: there is none behind this one."""
        with self._reads.peek() as reader:
            found = next(Rows(reader).workflows("", after), None)
        return found.name if found else ""

    def policy_of(self, workflow: str) -> str:
        """The rules that may let go of something, and whose they are; empty: there are none."""
        with self._reads.peek() as reader:
            rows = Rows(reader)
            policy = policies.effective(rows, workflow)
            if keeping.of(policy).everything:
                return ""
            said = {field: getattr(policy, field) for field in keeping.PARSERS}
            scopes = {field: policies.source(rows, workflow, field) for field in said}
        return ", ".join(f"policy of {scopes[field]}: {field}={text}" for field, text in said.items() if text)

    async def plan(self, workflow: str) -> Plan:
        """Beside the loop: it looks at every version."""
        now_ms = self._proposer.clock_ms()
        return await self._reads.beside(lambda reader: _planned(Rows(reader), workflow, now_ms))

    async def let_go(self, workflow: str, plan: Plan, principal: str, reason: str, budget: Budget) -> Done:
        """What of the plan still goes. What a batch takes for one too many goes with a later run."""
        await self._repacker.free(plan.contents, budget)
        removed: set[int] = set()
        for start in range(0, len(plan.going), limits.RETAINED):
            if budget.left_s() <= 0:
                raise _time_was_over(f"{len(removed)} contents of {workflow} were removed")
            batch = plan.going[start : start + limits.RETAINED]
            command = commands.Retain(
                request_id=self._proposer.new_request_id(),
                time_ms=self._proposer.clock_ms(),
                principal=principal,
                workflow=workflow,
                versions=tuple(version.number for version in batch),
                reason=reason,
                keep_days=plan.keep_days,
            )
            outcome = await self._proposer.propose(command, budget.left_s())
            assert isinstance(outcome, outcomes.Retained)
            removed.update(each.version for each in outcome.removed)
        gone = [version for version in plan.going if version.number in removed]
        digests = {version.digest for version in gone}
        return Done(gone, sum(size for digest, size in plan.contents.items() if digest in digests))

    async def purge(self, request: registry_pb2.PurgeRequest, timeout_s: float) -> registry_pb2.PurgeResponse:
        request_id = self._proposer.request_id(request.request_id)
        budget = Budget(timeout_s)
        await self._proposer.require_level_2("a purge", budget.left_s())
        names.check_workflow(request.workflow)
        target = references.parse_target(request.reference)
        version = await self._reads.resolve(request.workflow, target, budget.left_s())
        command = commands.Purge(
            request_id=request_id,
            time_ms=self._proposer.clock_ms(),
            principal=request.principal,
            workflow=version.workflow,
            version=version.number,
            digest=version.digest,
            reason=request.reason,
            reference=request.reference,
        )
        validation.check(command)
        outcome = self._try_purge(command) if request.dry_run else await self._purge(command, budget)
        agents = await self._agents(outcome)
        return registry_pb2.PurgeResponse(
            info=self._replies.info(self._reads.revision if request.dry_run else outcome.revision),
            digest=outcome.digest,
            removed=[convert.removed_version(each) for each in outcome.removed],
            backups=[convert.noted_backup(each) for each in outcome.backups],
            agents=agents,
        )

    async def _purge(self, command: commands.Purge, budget: Budget) -> outcomes.Purged:
        """Contents may be packed over the purged one meanwhile."""
        for left in range(PURGE_ATTEMPTS - 1, -1, -1):
            await self._repacker.free([command.digest], budget)
            try:
                outcome = await self._proposer.propose(command, budget.left_s())
            except Conflict as error:
                if error.reason is not Reason.BASE_OUTDATED or not left:
                    raise
                await self._proposer.barrier(budget.left_s())
            else:
                assert isinstance(outcome, outcomes.Purged)
                return outcome
        raise AssertionError("the last attempt returns or raises")

    def _try_purge(self, command: commands.Purge) -> outcomes.Purged:
        """What it would answer now."""
        with self._reads.peek() as reader:
            outcome = trial.purge(reader, command)
        if isinstance(outcome, outcomes.Rejected):
            raise rejection(outcome)
        return outcome

    async def _agents(self, outcome: outcomes.Purged) -> list[str]:
        """Who runs the bytes. Beside the loop: it looks at every agent of these workflows."""
        workflows = sorted({each.workflow for each in outcome.removed})
        return await self._reads.beside(lambda reader: _running(Rows(reader), workflows, outcome.digest))


def _planned(rows: Rows, workflow: str, now_ms: int) -> Plan:
    versions = retention.plan(rows, workflow, now_ms)
    going = [version for version, rules in versions if not rules]
    leaving = {(version.workflow, version.number) for version in going}
    found: dict[str, Content] = {}
    for version in going:
        row = None if version.digest in found else rows.content(version.digest)
        if row is not None:
            found[version.digest] = row
    depths = {digest: row.depth for digest, row in found.items()}
    sizes = {
        digest: content.cost_bytes(row) if row.encoding != "chunks" else row.size_bytes
        for digest, row in found.items()
        if all(holder in leaving for holder in rows.holders(digest))
    }
    going.sort(key=lambda version: -depths.get(version.digest, 0))
    return Plan(versions, going, sizes, policies.effective(rows, workflow).keep_days)


def _running(rows: Rows, workflows: list[str], digest: str) -> list[str]:
    found: dict[str, None] = {}
    for workflow in workflows:
        for _, agent in rows.agents(workflow):
            if agent.running_digest == digest:
                found[agent.agent] = None
            if len(found) == PURGE_AGENTS:
                return list(found)
    return list(found)


def _time_was_over(what: str) -> Unavailable:
    return Unavailable(
        Reason.BUSY,
        f"time was over before all was looked at; {what}",
        hint="give it more time (--timeout SECONDS), name a workflow, or let the members do it within the hour",
    )


def _check_indexed(reader: Reader) -> None:
    rows = Rows(reader)
    if not rows.registry().is_indexed:
        raise rejection(not_indexed(rows, "nothing was removed"))


def _tell(reply: registry_pb2.RetainResponse, plan: Plan, done: Done, *, only_removed: bool) -> None:
    gone = {version.number for version in done.removed}
    reply.removed += len(gone)
    reply.kept += len(plan.versions) - len(gone)
    reply.freed_bytes += done.freed_bytes
    for version, rules in plan.versions:
        if len(reply.versions) == RETAINED_SHOWN:
            return
        if version.number in gone or not only_removed:
            reply.versions.add(workflow=version.workflow, version=version.number, kept_by=_why(version, rules, gone))


def _why(version: Version, rules: Rules, gone: set[int]) -> Iterator[str]:
    """What was to go and did not is kept by what happened meanwhile."""
    if version.number not in gone:
        yield from rules or ("meanwhile",)

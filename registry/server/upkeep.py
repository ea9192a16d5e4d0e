"""What the leader does by itself, beside all calls: complete the index of holders, collect abandoned chunks, let go of
what no rule keeps, forget agents that policy lets expire, and pack contents smaller.

One round after the other, while this member leads and feature level 2 is in force. A step that is refused (no quorum,
no space, leadership lost) is taken up again in the next round; anything else is a defect and ends the process. Reading
is cut into slices of UPKEEP_SLICE_S, or done beside the loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import NoReturn, TypeVar

import structlog

from cluster.api import Cluster
from cluster.kv.api import Damaged, Environment
from registry.core import commands, fleet, limits, outcomes
from registry.core.errors import Reason, Refused, RegistryError
from registry.core.model import Change
from registry.server.budget import Budget
from registry.server.expiry import Expiry
from registry.server.feed import Feed
from registry.server.limits import (
    CHUNK_ABANDONED_S,
    CHUNKS_WATCHED,
    COLLECT_INTERVAL_S,
    EXPIRY_FIRST_S,
    EXPIRY_INTERVAL_S,
    EXPIRY_WATCHED,
    READINESS_INTERVAL_S,
    REPACK_AFTER_S,
    REPACK_IDLE_REVISIONS,
    REPACK_REST_S,
    RETENTION_FIRST_S,
    RETENTION_INTERVAL_S,
    UPKEEP_INTERVAL_S,
    UPKEEP_REST_S,
    UPKEEP_SLICE_S,
    UPKEEP_TIMEOUT_S,
)
from registry.server.metrics import Metrics
from registry.server.proposer import Proposer
from registry.server.repacking import Repacker
from registry.server.repair import Repairs
from registry.server.services.retention import Retention
from registry.store.state import Rows

PRINCIPAL = "registry"
LEVEL = 2  # since it there is something to do
SLICE_ROWS = 256  # between two looks at the clock
T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]
log = structlog.get_logger()


class Upkeep:
    """`monotonic_s` and `sleep`: of this process."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        environment: Environment,
        feed: Feed,
        proposer: Proposer,
        retention: Retention,
        repacker: Repacker,
        repairs: Repairs,
        metrics: Metrics,
        monotonic_s: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._cluster = cluster
        self._environment = environment
        self._feed = feed
        self._proposer = proposer
        self._retention = retention
        self._repacker = repacker
        self._repairs = repairs
        self._metrics = metrics
        self._monotonic_s = monotonic_s
        self._sleep = sleep
        self._refused: dict[str, Reason] = {}  # steps, as was logged
        self._begin_leading()

    def _begin_leading(self) -> None:
        """What was seen under another leader does not count."""
        self._unused: dict[str, float] = {}  # chunks, since when they were seen so
        now_s = self._monotonic_s()
        self._due = {"retention": now_s + RETENTION_FIRST_S, "expiry": now_s + EXPIRY_FIRST_S}  # others: at once
        self._expired_up_to = ""  # names of agents: those that are kept do not stand in the way of others
        self._next_revision = 1  # published contents up to it were looked at, whether they can be packed smaller
        self._revision_seen = 0

    async def run(self) -> NoReturn:
        while True:
            # Nothing can be removed before the index is complete: nobody should wait for that.
            await self._sleep(UPKEEP_INTERVAL_S if self._feed.registry.is_indexed else READINESS_INTERVAL_S)
            await self.round()

    async def round(self) -> None:
        """All that is due now."""
        if not self._leads():
            self._begin_leading()
            return
        steps = {
            "index": self._index,
            "collect": self._collect,
            "expiry": self._expire,
            "retention": self._retain,
            "recompression": self._repack,
        }
        for name, step in steps.items():
            began_s = self._monotonic_s()
            try:
                await step()
            except RegistryError as error:
                self._due[name] = self._monotonic_s() + (EXPIRY_FIRST_S if name == "expiry" else 0)
                self._note_refusal(name, error)
            except Damaged as error:
                self._repairs.note(str(error))
                return
            else:
                self._refused.pop(name, None)
            self._metrics.upkeep(name, self._monotonic_s() - began_s)

    def _leads(self) -> bool:
        status = self._cluster.status()
        return status.leader == status.id and status.level >= LEVEL

    def _note_refusal(self, step: str, error: RegistryError) -> None:
        if self._refused.get(step) != error.reason:
            self._refused[step] = error.reason
            log.warning("upkeep is put off", step=step, reason=error.reason, error=error.message)

    async def _index(self) -> None:
        while not self._feed.registry.is_indexed and self._leads():
            request_id, now_ms = self._stamp()
            await self._propose(commands.Index(request_id=request_id, time_ms=now_ms))

    async def _collect(self) -> None:
        """Chunks that no content names, seen so for CHUNK_ABANDONED_S."""
        if not self._is_due("collect", COLLECT_INTERVAL_S):
            return
        now_s = self._monotonic_s()
        unused: dict[str, float] = {}
        async for digest, uses in self._rows(lambda rows, after: rows.chunks(after[0] if after else "")):
            if not uses and len(unused) < CHUNKS_WATCHED:
                unused[digest] = self._unused.get(digest, now_s)
        self._unused = unused
        abandoned = [digest for digest, since_s in unused.items() if now_s - since_s >= CHUNK_ABANDONED_S]
        for start in range(0, len(abandoned), limits.COLLECTED):
            batch = tuple(abandoned[start : start + limits.COLLECTED])
            request_id, now_ms = self._stamp()
            outcome = await self._propose(commands.Collect(request_id=request_id, time_ms=now_ms, digests=batch))
            assert isinstance(outcome, outcomes.Collected)
            log.info("abandoned chunks deleted", chunks=outcome.deleted)

    async def _retain(self) -> None:
        if not self._feed.registry.is_indexed or not self._is_due("retention", RETENTION_INTERVAL_S):
            return
        async for workflow in self._rows(lambda rows, after: rows.workflows("", after.name if after else "")):
            if reason := self._retention.policy_of(workflow.name):
                with self._passing_by_corrupt(workflow.name):
                    await self._retain_one(workflow.name, reason)

    async def _retain_one(self, workflow: str, reason: str) -> None:
        plan = await self._retention.plan(workflow)
        if plan.going and self._leads():
            done = await self._retention.let_go(workflow, plan, PRINCIPAL, reason, Budget(UPKEEP_TIMEOUT_S))
            log.info("content let go of", workflow=workflow, versions=len(done.removed), freed_bytes=done.freed_bytes)
        await self._sleep(UPKEEP_REST_S)

    async def _expire(self) -> None:
        """Agents are silent only while they can be heard: not right after nobody led, and not while there was no
        majority to record what is heard, which the barrier shows, round by round."""
        policies = self._rows(lambda rows, after: rows.policies(after[0] if after else ""))
        said = {scope: policy async for scope, policy in policies if policy.agents_expire_days}
        expiry = Expiry(said, self._proposer.clock_ms(), EXPIRY_WATCHED)
        if not expiry.is_ruled:
            return
        await self._proposer.barrier(UPKEEP_TIMEOUT_S)
        if not self._is_due("expiry", EXPIRY_INTERVAL_S):
            return
        start = self._expired_up_to
        async for name, contact in self._rows(lambda rows, after: rows.contacts(after[0] if after else start)):
            expiry.see_contact(name, contact)
        if expiry.found:
            async for _, agent in self._rows(lambda rows, after: rows.agents("", after[0] if after else b"")):
                expiry.see_row(agent)
        for batch in fleet.batches(expiry.forgotten()):
            request_id, now_ms = self._stamp()
            command = commands.ForgetAgents(request_id=request_id, time_ms=now_ms, agents=batch)
            outcome = await self._propose(command)
            assert isinstance(outcome, outcomes.AgentsForgotten)
            log.info("silent agents forgotten", agents=[agent.agent for agent in batch], rows=outcome.rows)
        self._expired_up_to = expiry.next_after

    async def _repack(self) -> None:
        """In order of publishing, each content once: older ones are what newer ones are packed over."""
        busy = self._feed.registry.revision - self._revision_seen > REPACK_IDLE_REVISIONS
        self._revision_seen = self._feed.registry.revision
        has_room = self._cluster.status().has_room  # the log would take what is left of it: purges need that
        if busy or not has_room or not self._feed.registry.is_indexed:
            return
        old_enough_ms = self._proposer.clock_ms() - int(REPACK_AFTER_S * 1000)
        end_s = self._monotonic_s() + UPKEEP_INTERVAL_S
        start = self._next_revision
        async for change in self._rows(lambda rows, after: rows.changes(after.revision + 1 if after else start)):
            if change.time_ms > old_enough_ms or self._monotonic_s() >= end_s or not self._leads():
                return
            if digest := _published(change):
                await self._shrink(digest)
            self._next_revision = change.revision + 1

    async def _shrink(self, digest: str) -> None:
        with self._passing_by_corrupt(digest):
            saved_bytes = await self._repacker.shrink(digest, UPKEEP_TIMEOUT_S)
            if saved_bytes is None:
                return
            log.debug("content packed again", digest=digest, saved_bytes=saved_bytes)
        await self._sleep(REPACK_REST_S)

    @contextmanager
    def _passing_by_corrupt(self, what: str) -> Iterator[None]:
        """Content that cannot be read is found and repaired by a scrub; it stops nothing here."""
        try:
            yield
        except Refused as error:
            if error.reason is not Reason.CORRUPT_CONTENT:
                raise
            log.warning("upkeep passes by what it cannot read", what=what, error=error.message)

    def _is_due(self, step: str, interval_s: float) -> bool:
        now_s = self._monotonic_s()
        if now_s < self._due.get(step, now_s):
            return False
        self._due[step] = now_s + interval_s
        return True

    async def _propose(self, command: commands.Command) -> outcomes.Outcome:
        outcome = await self._proposer.propose(command, UPKEEP_TIMEOUT_S)
        await self._sleep(UPKEEP_REST_S)
        return outcome

    def _stamp(self) -> tuple[str, int]:
        return self._proposer.new_request_id(), self._proposer.clock_ms()

    async def _rows(self, read: Callable[[Rows, T | None], Iterator[T]]) -> AsyncIterator[T]:
        """All rows that `read` gives, each slice of them in a look of its own. `read` goes on behind a row."""
        last: T | None = None
        rested_s = time.perf_counter()
        while found := self._slice(read, last):
            for row in found:
                if time.perf_counter() - rested_s >= UPKEEP_SLICE_S:  # what is done with each takes time too
                    await self._sleep(UPKEEP_REST_S)
                    rested_s = time.perf_counter()
                yield row
            last = found[-1]
            await self._sleep(UPKEEP_REST_S)

    def _slice(self, read: Callable[[Rows, T | None], Iterator[T]], last: T | None) -> list[T]:
        end_s = time.perf_counter() + UPKEEP_SLICE_S
        found: list[T] = []
        with self._environment.peek() as reader:
            rows = read(Rows(reader), last)
            while some := list(islice(rows, SLICE_ROWS)):
                found += some
                if time.perf_counter() >= end_s:
                    break
        return found


def _published(change: Change) -> str:
    """The digest of the version that it made; empty: it made none."""
    return change.version.digest if change.action == "publish" and change.version is not None else ""

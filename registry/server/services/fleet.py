"""FleetService: what the agents run, counted and waited for.

A watch reads all agents of a pointer once, beside the loop, and from then on only those that reported. It reads all
again now and then: agents fall silent without a word.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

import structlog

from cluster.kv.api import Reader
from registry.core import commands, limits, names, outcomes
from registry.core.census import RollCall, Site, SiteKey
from registry.core.errors import Invalid, Reason
from registry.core.model import DEFAULT_POINTER
from registry.server import convert
from registry.server.budget import Budget
from registry.server.feed import Feed, PointerKey, Reported, busy
from registry.server.limits import (
    CALL_S,
    CONFIRMATIONS_AGAIN_S,
    CONFIRMATIONS_BEAT_S,
    CONFIRMATIONS_GATHER_S,
    CONFIRMATIONS_MESSAGE_S,
    CONFIRMATIONS_REST,
    CONFIRMATIONS_SHOWN,
    CONFIRMATIONS_SLICE,
    CONFIRMATIONS_WAIT_S,
    CONFIRMATIONS_WATCHES,
    SUMMARY_SITES,
)
from registry.server.proposer import Proposer
from registry.server.replies import Replies
from registry.server.rpc import shutting_down
from registry.server.services.reads import Reads
from registry.store import census
from registry.store.queries import AgentReport
from registry.store.state import Rows
from registry.v1 import fleet_pb2

T = TypeVar("T")
log = structlog.get_logger()


class Fleet:
    def __init__(self, *, proposer: Proposer, reads: Reads, feed: Feed, replies: Replies) -> None:
        self._proposer = proposer
        self._reads = reads
        self._feed = feed
        self._replies = replies
        self._watches: dict[PointerKey, set[_Changes]] = {}
        self._reading = asyncio.Lock()
        feed.hear(self._heard)

    @property
    def watching(self) -> int:
        """Watches of confirmations open now."""
        return sum(map(len, self._watches.values()))

    async def summarize(self, request: fleet_pb2.SummarizeRequest, timeout_s: float) -> fleet_pb2.SummarizeResponse:
        if request.workflow:
            names.check_workflow(request.workflow)
        if not request.stale:
            await self._proposer.barrier(timeout_s)
        revision = self._feed.registry.revision
        count = partial(census.census, workflow=request.workflow, now_ms=self._proposer.clock_ms())
        found = (await self._read(count)).sites
        if len(found) > SUMMARY_SITES:
            raise Invalid(
                Reason.TOO_LARGE,
                f"there are {len(found):,} workflows, pointers and sites to count agents by",
                hint="ask for one workflow after the other",
                metadata={"limit": str(SUMMARY_SITES)},
            )
        sites = [_site(key, site) for key, site in sorted(found.items())]
        return fleet_pb2.SummarizeResponse(info=self._replies.info(revision, stale=request.stale), sites=sites)

    async def forget_agent(
        self, request: fleet_pb2.ForgetAgentRequest, timeout_s: float
    ) -> fleet_pb2.ForgetAgentResponse:
        """Forgetting what is forgotten changes nothing, so repeats need no memory of the request's id."""
        self._proposer.request_id(request.request_id)
        names.check_agent(request.agent)
        names.check_principal(request.principal)
        budget = Budget(timeout_s)
        await self._proposer.require_level_2("forgetting an agent", budget.left_s())
        await self._proposer.barrier(budget.left_s())
        rows = await self._read(partial(census.reported_for, name=request.agent))
        forgotten, revision = 0, 0
        at_once = limits.FORGOTTEN - 1  # beside the agent itself
        for start in range(0, len(rows) or 1, at_once):
            some = tuple(rows[start : start + at_once])
            is_last = start + at_once >= len(rows)
            command = commands.ForgetAgents(
                request_id=self._proposer.new_request_id(),
                time_ms=self._proposer.clock_ms(),
                agents=(commands.ForgottenAgent(agent=request.agent, rows=some, entirely=is_last),),
            )
            outcome = await self._proposer.propose(command, budget.left_s())
            assert isinstance(outcome, outcomes.AgentsForgotten)
            forgotten, revision = forgotten + outcome.rows, outcome.revision
        log.info("agent forgotten", agent=request.agent, rows=forgotten, principal=request.principal)
        return fleet_pb2.ForgetAgentResponse(info=self._replies.info(revision), forgotten=forgotten)

    async def watch_confirmations(
        self, request: fleet_pb2.WatchConfirmationsRequest
    ) -> AsyncIterator[fleet_pb2.Confirmations]:
        key = (names.check_workflow(request.workflow), names.check_pointer(request.pointer or DEFAULT_POINTER))
        deadline = Budget(min(request.wait_ms / 1000, CONFIRMATIONS_WAIT_S))
        with self._listening(key) as changes:
            await self._reads.applied(request.min_revision, CALL_S)
            with self._reads.peek() as reader:
                generation = census.target(reader, *key, request.generation).generation
            watch = _Watch(self, key, generation, changes)
            await watch.read()
            while not (done := watch.roll.complete or not deadline.left_s()):
                yield self._confirmations(watch.roll, done=done)
                await watch.more(deadline)
            yield self._confirmations(watch.roll, done=done)

    def _confirmations(self, roll: RollCall, *, done: bool) -> fleet_pb2.Confirmations:
        target, now_ms = roll.target, self._proposer.clock_ms()
        with self._reads.peek() as reader:
            rows, newest = Rows(reader), census.newest(reader, target)
            found = (census.report(rows, target, name) for name in roll.missing(CONFIRMATIONS_SHOWN))
            behind = [convert.agent(AgentReport(*each, target, newest), now_ms) for each in found if each is not None]
        return fleet_pb2.Confirmations(
            info=self._replies.info(self._feed.registry.revision, stale=True),
            workflow=target.workflow,
            pointer=target.pointer,
            generation=target.generation,
            agents=roll.agents,
            confirmed=roll.confirmed,
            behind=behind,
            nacked=roll.count("nacked"),
            silent=roll.count("silent"),
            done=done,
        )

    @contextmanager
    def _listening(self, key: PointerKey) -> Iterator[_Changes]:
        """Raises Unavailable(BUSY) past the bound."""
        if self.watching >= CONFIRMATIONS_WATCHES:
            raise busy(f"{self.watching} switches are followed on this member, as many as it takes")
        changes = _Changes()
        self._watches.setdefault(key, set()).add(changes)
        try:
            yield changes
        finally:
            self._watches[key].discard(changes)
            if not self._watches[key]:
                del self._watches[key]

    def _heard(self, reported: Reported | None) -> None:
        for key, listening in self._watches.items():
            agents = None if reported is None else reported.get(key)
            if reported is None or agents:
                for changes in listening:
                    changes.add(agents)

    async def _read(self, read: Callable[[Reader], T]) -> T:
        """One after the other: the loop waits for its turn behind each thread that reads."""
        async with self._reading:
            return await self._reads.beside(read)

    # ---- for watches
    @property
    def leaving(self) -> bool:
        return self._feed.closed

    async def call_roll(self, key: PointerKey, generation: int) -> RollCall:
        now_ms = self._proposer.clock_ms()

        def read(reader: Reader) -> RollCall:
            return census.roll_call(reader, census.target(reader, *key, generation), now_ms)

        return await self._read(read)

    def note(self, roll: RollCall, agents: list[str]) -> None:
        """As they reported last."""
        now_ms = self._proposer.clock_ms()
        with self._reads.peek() as reader:
            rows, newest = Rows(reader), census.newest(reader, roll.target)
            for name in agents:
                found = census.report(rows, roll.target, name)
                if found is None:
                    roll.drop(name)
                else:
                    roll.put(*found, now_ms, newest=newest)


class _Changes:
    """Agents of one pointer that reported since they were taken. `all`: any of them may have."""

    def __init__(self) -> None:
        self.agents: set[str] = set()
        self.all = False
        self._event = asyncio.Event()

    def add(self, agents: Iterable[str] | None) -> None:
        """None: any of them."""
        if agents is None:
            self.all = True
        else:
            self.agents.update(agents)
        self._event.set()

    def take(self) -> list[str]:
        agents, self.agents, self.all = [*self.agents], set(), False
        self._event.clear()
        return agents

    async def wait(self, timeout_s: float) -> None:
        """Until there are some, and the others that come together with them."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
                await asyncio.sleep(CONFIRMATIONS_GATHER_S)


class _Watch:
    """One roll call, kept up to date."""

    roll: RollCall

    def __init__(self, fleet: Fleet, key: PointerKey, generation: int, changes: _Changes) -> None:
        self._fleet = fleet
        self._key, self._generation = key, generation
        self._changes = changes

    async def read(self) -> None:
        """All agents."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        self._changes.take()  # what comes from here on is taken later
        self.roll = await self._fleet.call_roll(self._key, self._generation)
        self._again = Budget(max(CONFIRMATIONS_AGAIN_S, (loop.time() - began_s) * CONFIRMATIONS_REST))

    async def more(self, deadline: Budget) -> None:
        """Until there is something to say: at once when all have confirmed, else with some time between."""
        next_message, beat = Budget(CONFIRMATIONS_MESSAGE_S), Budget(CONFIRMATIONS_BEAT_S)
        changed = False
        while beat.left_s() and deadline.left_s():
            if changed and (self.roll.complete or not next_message.left_s()):
                return
            pause_s = next_message.left_s() if changed else beat.left_s()
            await self._changes.wait(min(pause_s, self._again.left_s(), deadline.left_s()))
            if self._fleet.leaving:
                raise shutting_down()
            changed |= await self._catch_up()

    async def _catch_up(self) -> bool:
        """Whether anything may have changed."""
        if self._changes.all or not self._again.left_s():
            await self.read()
            return True
        agents = self._changes.take()
        for start in range(0, len(agents), CONFIRMATIONS_SLICE):
            self._fleet.note(self.roll, agents[start : start + CONFIRMATIONS_SLICE])
            await asyncio.sleep(0)
        return bool(agents)


def _site(key: SiteKey, site: Site) -> fleet_pb2.SiteSummary:
    workflow, pointer, name = key
    return fleet_pb2.SiteSummary(
        workflow=workflow,
        pointer=pointer,
        site=name,
        generation=site.target.generation,
        version=site.target.version,
        agents=site.agents,
        on_target=site.standings["on_target"],
        behind=site.standings["behind"] + site.standings["installing"],
        nacked=site.standings["nacked"],
        drifted=site.standings["drifted"],
        silent=site.standings["silent"],
        twins=site.twins,
        oldest_behind_ms=max(site.oldest_behind_ms, 0),
        oldest_contact_ms=max(site.oldest_contact_ms, 0),
    )

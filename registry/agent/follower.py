"""One follow: drives the machine of transitions.py, each step durable before its act starts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, NamedTuple

import structlog
from msgspec import structs

from registry.agent import guards, limits
from registry.agent.acts import Acts, Shared
from registry.agent.api import Holding, Instruction
from registry.agent.backoff import delay_s
from registry.agent.config import FollowSpec
from registry.agent.files import off_loop
from registry.agent.journal import Failure, Outcome, Record, evolve
from registry.agent.mending import mend
from registry.agent.targets.base import Describing, Target
from registry.agent.transitions import (
    DOUBTED,
    INTERRUPTIBLE,
    JOURNALED,
    LEFT_BEFORE,
    LEFT_WHEN_DONE,
    RESUMED,
    STANDING,
    Event,
    Row,
    State,
    decide,
)
from registry.core import limits as core_limits


class Offer(NamedTuple):
    instruction: Instruction
    frame: bytes = b""  # came with the reply
    event: Event = Event.OFFERED

    @property
    def fence(self) -> tuple[int, int]:
        return (self.instruction.epoch, self.instruction.generation)


class Follower:
    def __init__(self, spec: FollowSpec, record: Record, target: Target, shared: Shared) -> None:
        self.record = record
        self._spec = spec
        self._target = target
        self._shared = shared
        self._acts = Acts(spec, target, shared)
        self._taken = Offer(record.target) if record.target and record.state in RESUMED else None
        self._pending: Offer | None = None
        self._offered = record.fence  # a poll waits for more
        if self._taken is not None and not (record.failure and record.failure.code in DOUBTED):
            self._offered = max(record.fence, self._taken.fence)
        self._news = asyncio.Event()  # something is pending and not looked at yet, or the agent stops
        self.resting = asyncio.Event()  # nothing is under way
        self._stopping = False
        self._log = structlog.get_logger(__name__).bind(follow=spec.name)

    # From the agent

    def offer(self, instruction: Instruction, frame: bytes = b"") -> bool:
        """Takes up what is newer than everything taken up before. False: nothing new."""
        offer = Offer(instruction, frame)
        if offer.fence <= max(self._offered, self.record.fence):
            return False
        if self._taken is not None and instruction == self._taken.instruction and not self._is_settled():
            return False
        self._offered = offer.fence
        self._pending = offer
        self.resting.clear()
        self._news.set()
        return True

    async def learn_facts(self) -> Mapping[str, str]:
        """What holds for versions installed here, asked of the target. What was refused because of other facts is taken
        up again when the next poll offers it."""
        if isinstance(self._target, Describing):
            try:
                async with asyncio.timeout(limits.FACTS_TIMEOUT_S):
                    facts = {**self._shared.facts, **await self._target.facts()}
            except TimeoutError:
                return self._acts.facts
            if facts != self._acts.facts:
                self._acts.facts = facts
                self._reconsider()
        return self._acts.facts

    def _reconsider(self) -> None:
        failure = self.record.failure
        if failure is not None and failure.code in STANDING and self.record.state is State.IDLE and not self._pending:
            self._offered = self.record.fence

    def holding(self, epoch: int) -> Holding:
        """For the poll. What was acted on in another epoch does not count."""
        newest_epoch, generation = max(self._offered, self.record.fence)
        running = self.record.running.digest if self.record.running else ""
        kept = dict.fromkeys(each.digest for each in self.record.kept if each.digest != running)
        return Holding(
            workflow=self.record.workflow,
            pointer=self.record.pointer,
            generation=generation if newest_epoch == epoch else 0,
            digest=running,
            kept=tuple(kept)[: core_limits.KEPT],
        )

    async def report_standing(self, code: str = "", detail: str = "") -> None:
        """Says again how it stands here, with a trouble that is not about one generation, or without. An installation
        that is under way says itself how it ends. While the disk refuses it is looked at anew, since an old word must
        not come after a newer one."""
        failures = 0
        while True:
            try:
                return await self._report_standing(code, detail)
            except OSError as problem:
                failures += 1
                self._log.error("acknowledgement cannot be kept yet", error=str(problem))
                await asyncio.sleep(delay_s(failures, limits.DISK_BACKOFF_S, self._shared.random))

    async def _report_standing(self, code: str, detail: str) -> None:
        record, failure = self.record, self.record.failure
        report = partial(self._acts.reporter.report, running=record.running, patient=False)
        if code:
            await report("refused", record.generation, code=code, detail=detail)
        elif record.shown or record.state in (State.INSTALL, State.REVERT):
            return
        elif failure is not None:
            await report("refused", failure.generation, code=str(failure.code), detail=failure.detail)
        elif record.running is not None:
            await report("confirmed", record.generation)

    def stop(self) -> None:
        """Makes `run` return after the act under way; what is left is on disk."""
        self._stopping = True
        self._news.set()

    async def run(self) -> None:
        """Goes on where the last run of the agent stopped, then installs what is offered. Returns after `stop`."""
        before = self.record.failure
        repair = await self._mend()
        unmended = self.record.failure if repair is None and self.record.failure != before else None
        await self._drive(Outcome(Event.RESTARTED))
        if repair is not None and (self.record.shown or await self._is_repaired(repair)):
            repair = None
        if repair is not None and self._pending is None:
            self._pending = repair
        refusals = 0
        while not self._stopping:
            if self._pending is not None:
                refusals = 0
                await self._take_up(self._take_pending())
            elif not self._is_settled():
                refusals += 1
                await self._try_again(self._taken, refusals)
            elif self.record.is_stuck:
                refusals += 1
                await self._step_back_again(refusals)
            elif repair is not None and not await self._is_repaired(repair):
                refusals += 1
                await self._try_again(repair, refusals)
            elif unmended is not None and unmended == self.record.failure and self._may_mend(unmended):
                refusals += 1
                repair = await self._mend_again(before, refusals)
                unmended = self.record.failure
            else:
                repair = None
                self.resting.set()
                await self._news.wait()

    async def _mend(self) -> Offer | None:
        """What has to be fetched for it."""
        places = frozenset(follow.target.place for follow in self._shared.config.follows)
        self.record, damaged = await mend(self.record, self._spec, self._target, self._shared.home, places)
        return Offer(damaged, event=Event.DAMAGED) if damaged else None

    def _may_mend(self, failure: Failure) -> bool:
        """Whether what kept the target from showing what runs may have passed: it was not there yet, at a start."""
        return self.record.state is State.IDLE and not self.record.shown and not failure.is_final

    async def _mend_again(self, before: Failure | None, refusals: int) -> Offer | None:
        """`before`: the failure that is told again when it worked."""
        await self._wait(delay_s(refusals, limits.HOLD_OFF_S, self._shared.random))
        if self._pending is not None or self._stopping:
            return None
        noted = self.record
        self.record = structs.replace(noted, failure=before)
        repair = await self._mend()
        if self.record != noted:
            await self._durably(self._shared.home.save_record, self.record)
        return repair

    async def _try_again(self, offer: Offer | None, refusals: int) -> None:
        failure = self.record.failure
        if failure is not None and failure.code in DOUBTED:
            self._offered = self.record.fence
        await self._wait(delay_s(refusals, limits.HOLD_OFF_S, self._shared.random))
        if offer is not None and self._pending is None and not self._stopping:
            await self._take_up(offer)

    async def _step_back_again(self, refusals: int) -> None:
        self._offered = self.record.fence  # whatever is newer ends this, also where something nonsensical was told
        await self._wait(delay_s(refusals, limits.HOLD_OFF_S, self._shared.random))
        if self._pending is None and not self._stopping:
            await self._drive(Outcome(Event.STUCK))

    async def _take_up(self, offer: Offer) -> None:
        await self._drive(Outcome(offer.event), offer)

    # The machine

    async def _drive(self, outcome: Outcome, offer: Offer | None = None) -> None:
        """From one event to IDLE, or to where the agent stops."""
        hooks = self._shared.config.hooks_of(self._spec)
        while True:
            now_ms = self._shared.clock_ms()
            facts = self.record.facts(
                now_ms=now_ms,
                has_reload=bool(hooks.reload),
                has_probe=hooks.probe is not None,
                has_post=bool(hooks.post),
            )
            row = decide(self.record.state, outcome.event, facts)
            self._tell(row, outcome)
            self.record = evolve(self.record, row, outcome, offer and offer.instruction, now_ms=now_ms)
            if offer is not None:
                self._taken, self._acts.frame = offer._replace(frame=b""), offer.frame
            if row.next in JOURNALED and not await self._durably(self._shared.home.save_record, self.record):
                return
            if row.next is State.IDLE or self._stopping:
                return
            ended = await self._perform(row)
            if ended is None:
                return
            outcome = ended
            offer = self._take_pending() if outcome.event is Event.SUPERSEDED else None

    async def _perform(self, row: Row) -> Outcome | None:
        """How the act of `row` ended; None: the agent stops in the middle of it."""
        if row.act in LEFT_BEFORE:
            paused = await self._unless_overtaken(self._acts.pause(self.record))
            if paused is None or paused.event is Event.SUPERSEDED:
                return paused
        if row.next not in INTERRUPTIBLE:
            outcome = await self._acts.perform(row.act, self.record)
            if row.next in LEFT_WHEN_DONE and outcome.event is Event.DONE and self._is_overtaken():
                return Outcome(Event.SUPERSEDED)
            return outcome
        return await self._unless_overtaken(self._acts.perform(row.act, self.record))

    async def _unless_overtaken(self, act: Coroutine[Any, Any, Outcome]) -> Outcome | None:
        acting = asyncio.ensure_future(act)
        try:
            while not acting.done():
                if self._stopping:
                    return None
                if self._is_overtaken():
                    return Outcome(Event.SUPERSEDED)
                self._news.clear()
                await self._wait_for_news_or(acting)
            return acting.result()
        finally:
            acting.cancel()
            await asyncio.gather(acting, return_exceptions=True)

    async def _wait_for_news_or(self, acting: asyncio.Future[Outcome]) -> None:
        waiting = asyncio.ensure_future(self._news.wait())
        try:
            await asyncio.wait((acting, waiting), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    def _is_overtaken(self) -> bool:
        pending = self._pending
        return pending is not None and guards.may_take_over(self.record, pending.instruction, self._shared.clock_ms())

    def _take_pending(self) -> Offer:
        offer, self._pending = self._pending, None
        if offer is None:
            raise RuntimeError("superseded by nothing")
        if not self._stopping:
            self._news.clear()
        return offer

    async def _wait(self, seconds: float) -> None:
        """Sleeps, until there is news."""
        self.resting.set()
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return
        finally:
            self.resting.clear()

    async def _durably(self, write: Callable[[Any], None], value: Any) -> bool:
        """Nothing goes on before this step is on disk. False: the agent stops while the disk refuses."""
        failures = 0
        while True:
            try:
                await off_loop(write, value)
                return True
            except OSError as problem:
                failures += 1
                self._log.error("state directory not writable; nothing is changed until it is", error=str(problem))
                if self._stopping:
                    return False
                await asyncio.sleep(delay_s(failures, limits.DISK_BACKOFF_S, self._shared.random))

    def _is_settled(self) -> bool:
        """Whether there is nothing to try again: confirmed, refused for good, or until this machine changes."""
        failure, taken = self.record.failure, self._taken
        if failure is None or taken is None or failure.generation != taken.instruction.generation:
            return True
        return failure.is_final or failure.code in STANDING

    async def _is_repaired(self, repair: Offer) -> bool:
        """Its bytes are here again, or something else runs."""
        running, digest = self.record.running, repair.instruction.digest
        return running is None or running.digest != digest or await off_loop(self._shared.home.has_content, digest)

    def _tell(self, row: Row, outcome: Outcome) -> None:
        if row.next is row.state is State.IDLE:
            return
        told = {"on": str(outcome.event)}
        if target := self.record.target:
            told |= {"generation": str(target.generation), "version": str(target.version)}
        if outcome.code:
            told |= {"code": str(outcome.code)}
        if outcome.detail:
            told |= {"detail": outcome.detail}
        if outcome.event in (Event.FAILED, Event.LATER):
            self._log.warning(f"{row.state} -> {row.next}", **told)
        elif row.next in (State.HOLD, State.CONFIRM, State.REVERT, State.REFUSE) or outcome.event is Event.NOT_YET:
            self._log.info(f"{row.state} -> {row.next}", **told)
        else:
            self._log.debug(f"{row.state} -> {row.next}", **told)

"""One follow: performs the acts that transitions.py asks for, after making each step durable."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import structlog

from registry.agent import files, guards, limits, runner
from registry.agent.api import Holding, Instruction, RegistryApi
from registry.agent.backoff import delay_s
from registry.agent.config import AgentConfig, FollowSpec
from registry.agent.home import Home
from registry.agent.journal import Failure, Outcome, Record, evolve
from registry.agent.mending import mend, occupied
from registry.agent.outbox import Outbox
from registry.agent.probe import probe
from registry.agent.reporter import Reporter, Shown
from registry.agent.transitions import (
    INTERRUPTIBLE,
    JOURNALED,
    LEFT_WHEN_DONE,
    PERMANENT,
    Act,
    Code,
    Event,
    Row,
    State,
    decide,
)
from registry.core.errors import RegistryError

DONE = Outcome(Event.DONE)


@dataclass(frozen=True)
class Shared:
    """What all follows of an agent use together."""

    config: AgentConfig
    home: Home
    api: RegistryApi
    outbox: Outbox
    fetches: asyncio.Semaphore
    random: Random
    clock_ms: Callable[[], int]
    prune: Callable[[], None]  # removes content that no follow needs


class Follower:
    def __init__(self, spec: FollowSpec, record: Record, shared: Shared) -> None:
        self.record = record
        self._spec = spec
        self._shared = shared
        self._pending: Instruction | None = None
        self._offered = record.fence  # the newest taken up, in memory: a poll waits for what is above it
        self._news = asyncio.Event()  # something is pending, or the agent stops
        self._stopping = False
        self._bytes: bytes | None = b""  # what was fetched; None: it is in the file `_arriving`
        self._refusal_told: tuple[int, int, Code | None] | None = None
        self._reporter = Reporter(
            spec,
            shared.config,
            shared.outbox,
            incarnation=shared.home.agent.incarnation,
            random=shared.random,
            clock_ms=shared.clock_ms,
        )
        self._log = structlog.get_logger(__name__).bind(follow=spec.name)
        self._acts: dict[Act, Callable[[], Awaitable[Outcome]]] = {
            Act.JUDGE: self._judge,
            Act.FETCH: self._fetch,
            Act.FETCH_LATER: self._fetch_later,
            Act.CHECK_BYTES: self._check_bytes,
            Act.STORE_BYTES: self._store_bytes,
            Act.SWAP: self._swap,
            Act.RUN_RELOAD: self._run_reload,
            Act.RUN_PROBE: self._run_probe,
            Act.REPORT_CONFIRMED: self._report_confirmed,
            Act.SWAP_BACK: self._swap_back,
            Act.SWAP_BACK_LATER: self._swap_back_later,
            Act.RELOAD_BACK: self._reload_back,
            Act.RELOAD_BACK_LATER: self._reload_back_later,
            Act.REPORT_REFUSED: self._report_refused,
        }

    # From the agent

    def offer(self, instruction: Instruction) -> bool:
        """Takes up what is newer than everything taken up before. False: nothing new."""
        fence = (instruction.epoch, instruction.generation)
        if fence <= max(self._offered, self.record.fence):
            return False
        self._offered = fence
        self._pending = instruction
        self._news.set()
        return True

    def holding(self, epoch: int) -> Holding:
        """For the poll. What was acted on in another epoch does not count."""
        newest_epoch, generation = max(self._offered, self.record.fence)
        return Holding(
            workflow=self.record.workflow,
            pointer=self.record.pointer,
            generation=generation if newest_epoch == epoch else 0,
            digest=self.record.running.digest if self.record.running else "",
        )

    async def report_standing(self, code: str = "", detail: str = "") -> None:
        """Says again what runs here, with a trouble that is not about one generation, or without."""
        if self.record.running is not None or code:
            phase = "refused" if code else "confirmed"
            await self._reporter.report(phase, self.record.generation, self.record.running, code=code, detail=detail)

    def stop(self) -> None:
        """Makes `run` return after the act under way; what is left is on disk."""
        self._stopping = True
        self._news.set()

    async def run(self) -> None:
        """Goes on where the last run of the agent stopped, then installs what is offered. Returns after `stop`."""
        paths = frozenset(follow.path for follow in self._shared.config.follows)
        self.record, damaged = await mend(self.record, self._spec, self._shared.home, paths)
        await self._drive(Outcome(Event.RESTARTED))
        refusals = 0
        while not self._stopping:
            if damaged is not None:
                outcome, instruction = Outcome(Event.DAMAGED), damaged
            elif self._pending is not None:
                outcome, instruction = Outcome(Event.OFFERED), self._take_pending()
            else:
                await self._news.wait()
                continue
            await self._drive(outcome, instruction)
            if self._is_settled(instruction):
                damaged, refusals = None, 0
                continue
            refusals += 1
            await self._wait(delay_s(refusals, limits.HOLD_OFF_S, self._shared.random))
            if self._pending is not None:
                damaged = None
            elif damaged is None:
                self._pending = instruction

    # The machine

    async def _drive(self, outcome: Outcome, offered: Instruction | None = None) -> None:
        """From one event to IDLE, or to where the agent stops."""
        while True:
            config = self._shared.config
            facts = self.record.facts(has_reload=bool(config.reload), has_probe=config.probe is not None)
            row = decide(self.record.state, outcome.event, facts)
            self._tell(row, outcome)
            self.record = evolve(self.record, row, outcome, offered)
            if row.next in JOURNALED and not await self._durably(self._shared.home.save_record, self.record):
                return
            if row.next is State.IDLE or self._stopping:
                return
            ended = await self._perform(row)
            if ended is None:
                return
            outcome = ended
            offered = self._take_pending() if outcome.event is Event.SUPERSEDED else None

    async def _perform(self, row: Row) -> Outcome | None:
        """How the act of `row` ended; None: the agent stops in the middle of it."""
        if row.next not in INTERRUPTIBLE:
            outcome = await self._acts[row.act]()
            if row.next in LEFT_WHEN_DONE and outcome.event is Event.DONE and self._pending is not None:
                return Outcome(Event.SUPERSEDED)
            return outcome
        acting = asyncio.ensure_future(self._acts[row.act]())
        news = asyncio.ensure_future(self._news.wait())
        try:
            await asyncio.wait({acting, news}, return_when=asyncio.FIRST_COMPLETED)
            if acting.done():
                return acting.result()
            return None if self._stopping else Outcome(Event.SUPERSEDED)
        finally:
            for task in (acting, news):
                task.cancel()
            await asyncio.gather(acting, news, return_exceptions=True)

    def _take_pending(self) -> Instruction:
        instruction, self._pending = self._pending, None
        if instruction is None:
            raise RuntimeError("superseded by nothing")
        if not self._stopping:
            self._news.clear()
        return instruction

    async def _wait(self, seconds: float) -> None:
        """Sleeps, until there is news."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return

    async def _durably(self, write: Callable[[Any], None], value: Any) -> bool:
        """Nothing goes on before this step is on disk. False: the agent stops while the disk refuses."""
        failures = 0
        while True:
            try:
                await asyncio.to_thread(write, value)
                return True
            except OSError as problem:
                failures += 1
                self._log.error("state directory not writable; nothing is changed until it is", error=str(problem))
                if self._stopping:
                    return False
                await asyncio.sleep(delay_s(failures, limits.DISK_BACKOFF_S, self._shared.random))

    def _is_settled(self, instruction: Instruction) -> bool:
        """Whether there is nothing to try again: confirmed, refused for good, or overtaken."""
        failure = self.record.failure
        if failure is None or failure.code in PERMANENT or self._pending is not None:
            return True
        return (instruction.epoch, instruction.generation) < max(self._offered, self.record.fence)

    # Acts

    async def _judge(self) -> Outcome:
        target, home = self._target, self._shared.home
        outcome = guards.judge_instruction(self.record, target)
        if outcome is not None and not (
            outcome.event is Event.SHOWN and not home.shows(self._spec.path, target.digest)
        ):
            return outcome
        kept = await asyncio.to_thread(home.has_content, target.digest)
        return Outcome(Event.KEPT if kept else Event.MISSING)

    async def _fetch(self) -> Outcome:
        target, loop = self._target, asyncio.get_running_loop()
        try:
            async with self._shared.fetches, asyncio.timeout(limits.FETCH_TIMEOUT_S) as silence:
                self._bytes = await self._shared.api.content(
                    target.workflow,
                    target.version,
                    min_revision=target.min_revision,
                    base=await asyncio.to_thread(self._shared.home.base, self.record.running),
                    into=self._arriving,
                    progress=lambda *_: silence.reschedule(loop.time() + limits.FETCH_TIMEOUT_S),
                )
        except RegistryError as problem:
            return Outcome(Event.FAILED, Code.FETCH_FAILED, f"{problem.reason}: {problem.message}")
        except TimeoutError:  # an OSError too
            return Outcome(Event.FAILED, Code.FETCH_FAILED, f"nothing came within {limits.FETCH_TIMEOUT_S:g} s")
        except OSError as problem:
            if problem.errno in (errno.ENOSPC, errno.EDQUOT):  # a step back needs some room
                with suppress(OSError):
                    self._arriving.unlink()
            return Outcome(Event.FAILED, Code.STAGE_FAILED, str(problem))
        return DONE

    async def _fetch_later(self) -> Outcome:
        await self._back_off(limits.FETCH_BACKOFF_S)
        return await self._fetch()

    async def _check_bytes(self) -> Outcome:
        try:
            size_bytes, digest = await asyncio.to_thread(self._arrived)
        except OSError as problem:
            return Outcome(Event.FAILED, Code.STAGE_FAILED, str(problem))
        outcome = guards.judge_bytes(self._target, size_bytes, digest)
        if outcome.event is Event.FAILED:
            self._bytes = b""
            with suppress(OSError):
                self._arriving.unlink()
        return outcome

    def _arrived(self) -> tuple[int, str]:
        if self._bytes is not None:
            return len(self._bytes), guards.digest_of(self._bytes)
        return self._arriving.stat().st_size, files.digest(self._arriving) or ""

    async def _store_bytes(self) -> Outcome:
        data, self._bytes = self._bytes, b""
        home, digest = self._shared.home, self._target.digest
        try:
            if data is None:
                await asyncio.to_thread(home.keep_arrived, digest, self._arriving)
            else:
                await asyncio.to_thread(home.put_content, digest, data)
                self._arriving.unlink(missing_ok=True)
        except OSError as problem:
            return Outcome(Event.FAILED, Code.STAGE_FAILED, str(problem))
        return DONE

    async def _swap(self) -> Outcome:
        home, path = self._shared.home, self._spec.path
        if not home.is_ours(path):
            return Outcome(Event.FAILED, Code.PATH_OCCUPIED, occupied(self._spec))
        try:
            await asyncio.to_thread(home.show, path, self._target.digest)
        except OSError as problem:
            return Outcome(Event.FAILED, Code.INSTALL_FAILED, str(problem))
        config = self._shared.config
        if config.reload or config.probe:
            await self._report("installed", self._target)
        return DONE

    async def _run_reload(self) -> Outcome:
        return self._ended(await self._reload(self._target), Code.RELOAD_FAILED)

    async def _run_probe(self) -> Outcome:
        spec = self._shared.config.probe
        if spec is None:  # configured away while the agent was stopped in PROBE
            return DONE
        return self._ended(await probe(spec, self._environment(self._target)), Code.PROBE_FAILED)

    async def _report_confirmed(self) -> Outcome:
        self._refusal_told = None
        await self._report("confirmed", self.record.running)
        self._shared.prune()
        return DONE

    async def _swap_back(self) -> Outcome:
        home, path, last_good = self._shared.home, self._spec.path, self.record.last_good
        digest = last_good.digest if last_good else None
        if not home.is_ours(path) or home.shows(path, digest):  # somebody's own file, or as it should be
            return DONE
        try:
            await asyncio.to_thread(home.show, path, digest)
        except OSError as problem:
            return Outcome(Event.FAILED, Code.REVERT_FAILED, str(problem))
        return DONE

    async def _swap_back_later(self) -> Outcome:
        await self._back_off(limits.REVERT_BACKOFF_S)
        return await self._swap_back()

    async def _reload_back(self) -> Outcome:
        return self._ended(await self._reload(self.record.last_good), Code.RELOAD_FAILED)

    async def _reload_back_later(self) -> Outcome:
        await self._back_off(limits.REVERT_BACKOFF_S)
        return await self._reload_back()

    async def _report_refused(self) -> Outcome:
        failure = self.record.failure
        told = (self._target.epoch, self._target.generation, failure.code if failure else None)
        if told != self._refusal_told:  # a refusal that may pass is tried again, but told once
            phase = "reverted" if self.record.reverted else "refused"
            await self._report(phase, self.record.running, failure)
        self._refusal_told = told
        self._shared.prune()
        return DONE

    async def _back_off(self, bounds: tuple[float, float]) -> None:
        await asyncio.sleep(delay_s(self.record.attempt - 1, bounds, self._shared.random))

    async def _reload(self, version: Shown | None) -> runner.Result:
        config = self._shared.config
        if not config.reload:
            return runner.Result(True, "")
        return await runner.run(config.reload, self._environment(version), timeout_s=config.reload_timeout_s)

    def _environment(self, version: Shown | None) -> dict[str, str]:
        """What commands are told; of no version at all the fields are empty."""
        return {
            "REGISTRY_WORKFLOW": self._spec.workflow,
            "REGISTRY_POINTER": self._spec.pointer,
            "REGISTRY_PATH": str(self._spec.path),
            "REGISTRY_VERSION": str(version.version) if version else "",
            "REGISTRY_GENERATION": str(version.generation) if version else "",
            "REGISTRY_DIGEST": version.digest if version else "",
        }

    def _ended(self, result: runner.Result, code: Code) -> Outcome:
        return DONE if result.succeeded else Outcome(Event.FAILED, code, result.detail)

    @property
    def _arriving(self) -> Path:
        return self._shared.home.arriving(self._spec.workflow, self._spec.pointer)

    @property
    def _target(self) -> Instruction:
        if self.record.target is None:
            raise RuntimeError(f"{self.record.state} without a target")
        return self.record.target

    async def _report(self, phase: str, running: Shown | None, failure: Failure | None = None) -> None:
        code, detail = (str(failure.code), failure.detail) if failure else ("", "")
        await self._reporter.report(phase, self._target.generation, running, code=code, detail=detail)

    def _tell(self, row: Row, outcome: Outcome) -> None:
        if row.next is row.state is State.IDLE:
            return
        told = {"on": str(outcome.event)}
        if target := self.record.target:
            told |= {"generation": str(target.generation), "version": str(target.version)}
        if outcome.code:
            told |= {"code": str(outcome.code), "detail": outcome.detail}
        if outcome.event is Event.FAILED:
            self._log.warning(f"{row.state} -> {row.next}", **told)
        elif row.next in (State.CONFIRM, State.REVERT, State.REFUSE):
            self._log.info(f"{row.state} -> {row.next}", **told)
        else:
            self._log.debug(f"{row.state} -> {row.next}", **told)

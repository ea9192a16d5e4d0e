"""What one follow does: the acts that transitions.py asks for. Each may be repeated, after a crash at any instant."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import structlog

from registry.agent import guards, limits
from registry.agent.api import Instruction, RegistryApi
from registry.agent.backoff import delay_s
from registry.agent.config import AgentConfig, FollowSpec
from registry.agent.files import digest, off_loop
from registry.agent.home import Home
from registry.agent.hooks import Hooks
from registry.agent.journal import Failure, Installed, Outcome, Record
from registry.agent.outbox import Outbox
from registry.agent.reporter import Reporter, Shown
from registry.agent.runner import Result
from registry.agent.targets.base import Applied, Candidate, Lasting, Target
from registry.agent.transitions import Act, Code, Event
from registry.core.errors import Reason, RegistryError

DONE = Outcome(Event.DONE)


@dataclass(frozen=True)
class Shared:
    """What all follows of an agent use together. Clock, chance, network and disk come through here."""

    config: AgentConfig
    home: Home
    api: RegistryApi
    outbox: Outbox
    fetches: asyncio.Semaphore
    random: Random
    clock_ms: Callable[[], int]
    facts: Mapping[str, str]  # of this machine, as configured
    prune: Callable[[], None]  # removes content that no follow needs


class Acts:
    """`frame`: what came with the reply for the instruction under way; `facts`: of this machine and the target as they
    were told last. The follower puts both here."""

    def __init__(self, spec: FollowSpec, target: Target, shared: Shared) -> None:
        self.frame = b""
        self.facts = shared.facts
        self.reporter = Reporter(
            spec,
            shared.config,
            shared.outbox,
            incarnation=shared.home.agent.incarnation,
            random=shared.random,
            clock_ms=shared.clock_ms,
        )
        self._spec = spec
        self._target = target
        self._shared = shared
        self._hooks = Hooks(spec, shared.config.hooks_of(spec), shared.home)
        self._bytes: bytes | None = b""  # what arrived; None: it is in the file `_arriving`
        self._refusal_told: tuple[int, int, Code | None] | None = None
        self._log = structlog.get_logger(__name__).bind(follow=spec.name)
        self._record = Record(workflow=spec.workflow, pointer=spec.pointer)
        self._acts: dict[Act, Callable[[], Awaitable[Outcome]]] = {
            Act.JUDGE: self._judge,
            Act.FETCH: self._fetch,
            Act.FETCH_LATER: self._after(limits.FETCH_BACKOFF_S, self._fetch),
            Act.UNPACK: self._unpack,
            Act.CHECK_BYTES: self._check_bytes,
            Act.STORE_BYTES: self._store_bytes,
            Act.AWAIT_TIME: self._await_time,
            Act.CHECK: self._check,
            Act.CHECK_LATER: self._after(limits.CHECK_BACKOFF_S, self._check),
            Act.SWAP: self._swap,
            Act.SWAP_LATER: self._after(limits.INSTALL_BACKOFF_S, self._swap),
            Act.RUN_RELOAD: self._run_reload,
            Act.RUN_RELOAD_LATER: self._after(limits.RELOAD_BACKOFF_S, self._run_reload),
            Act.RUN_PROBE: self._run_probe,
            Act.REPORT_CONFIRMED: self._report_confirmed,
            Act.RUN_POST: self._run_post,
            Act.SWAP_BACK: self._swap_back,
            Act.SWAP_BACK_LATER: self._swap_back,  # the follower has paused before
            Act.RELOAD_BACK: self._reload_back,
            Act.RELOAD_BACK_LATER: self._after(limits.RESTORE_BACKOFF_S, self._reload_back),
            Act.REPORT_REFUSED: self._report_refused,
        }

    async def perform(self, act: Act, record: Record) -> Outcome:
        """How it ended. `record` is on disk already, where its state is journaled. One act at a time."""
        self._record = record
        return await self._acts[act]()

    async def pause(self, record: Record) -> Outcome:
        """Before the next attempt to step back. May be cancelled."""
        await asyncio.sleep(delay_s(record.attempt - 1, limits.REVERT_BACKOFF_S, self._shared.random))
        return DONE

    # Before anything is changed

    async def _judge(self) -> Outcome:
        wanted, config, shared = self._wanted, self._shared.config, self._shared
        machine = guards.Machine(shared.clock_ms(), self.facts, config.namespaces)
        outcome = guards.judge_instruction(self._record, wanted, machine)
        if outcome == Outcome(Event.SHOWN) and not await self._target.shows(wanted.digest):
            outcome = guards.judge_terms(wanted, machine)
        if outcome is not None:
            return outcome
        if await off_loop(shared.home.has_content, wanted.digest):
            size_bytes = shared.home.content_path(wanted.digest).stat().st_size
            return guards.judge_kept(wanted, size_bytes) or Outcome(Event.KEPT)
        if self._record.whole and self._record.running and wanted.base_digest:
            self._log.info(
                "what runs is not the expected base, full content is taken",
                code=str(Code.BASE_MISMATCH),
                expected=wanted.base_digest,
                running=self._record.running.digest,
            )
        return Outcome(Event.CARRIED if guards.is_carried(self._record, wanted, self.frame) else Event.MISSING)

    async def _unpack(self) -> Outcome:
        frame, self.frame = self.frame, b""
        wanted, home = self._wanted, self._shared.home
        base = self._record.with_digest(wanted.delta_base)
        self._bytes = await off_loop(guards.unpack, wanted, frame, lambda: home.base(base)) or b""
        outcome = guards.judge_bytes(wanted, len(self._bytes), guards.digest_of(self._bytes))
        if outcome.event is Event.FAILED:
            self._bytes = b""
            self._log.warning("what came with the reply is of no use, fetching full content", detail=outcome.detail)
        return outcome

    async def _fetch(self) -> Outcome:
        wanted, home, loop = self._wanted, self._shared.home, asyncio.get_running_loop()
        base = b"" if self._record.whole else await off_loop(home.base, self._record.running)
        try:
            async with self._shared.fetches, asyncio.timeout(limits.FETCH_TIMEOUT_S) as silence:
                self._bytes = await self._shared.api.content(
                    wanted.workflow,
                    wanted.version,
                    min_revision=wanted.min_revision,
                    base=base,
                    into=self._arriving,
                    progress=lambda *_: silence.reschedule(loop.time() + limits.FETCH_TIMEOUT_S),
                )
        except RegistryError as problem:
            code = Code.DIGEST_MISMATCH if problem.reason is Reason.CORRUPT_CONTENT else Code.FETCH_FAILED
            return Outcome(Event.FAILED, code, f"{problem.reason}: {problem.message}")
        except TimeoutError:  # an OSError too
            return Outcome(Event.FAILED, Code.FETCH_FAILED, f"nothing came within {limits.FETCH_TIMEOUT_S:g} s")
        except OSError as problem:
            if problem.errno in (errno.ENOSPC, errno.EDQUOT):  # a step back needs some room
                with suppress(OSError):
                    self._arriving.unlink()
            return Outcome(Event.FAILED, Code.STAGE_FAILED, str(problem))
        return DONE

    async def _check_bytes(self) -> Outcome:
        try:
            size_bytes, found = await off_loop(self._arrived)
        except OSError as problem:
            return Outcome(Event.FAILED, Code.STAGE_FAILED, str(problem))
        outcome = guards.judge_bytes(self._wanted, size_bytes, found)
        if outcome.event is Event.FAILED:
            self._bytes = b""
            with suppress(OSError):
                self._arriving.unlink()
        return outcome

    def _arrived(self) -> tuple[int, str]:
        if self._bytes is not None:
            return len(self._bytes), guards.digest_of(self._bytes)
        return self._arriving.stat().st_size, digest(self._arriving) or ""

    async def _store_bytes(self) -> Outcome:
        data, self._bytes = self._bytes, b""
        home, wanted = self._shared.home, self._wanted
        try:
            if data is None:
                await off_loop(home.keep_arrived, wanted.digest, self._arriving)
            else:
                await off_loop(home.put_content, wanted.digest, data)
                self._arriving.unlink(missing_ok=True)
        except OSError as problem:
            return Outcome(Event.FAILED, Code.STAGE_FAILED, str(problem))
        self._shared.prune()  # what was superseded before it was confirmed or refused
        return DONE

    async def _await_time(self) -> Outcome:
        """The clock is read again and again: who sets it while this waits is heard."""
        while (left_ms := self._wanted.not_before_ms - self._shared.clock_ms()) > 0:
            await asyncio.sleep(min(left_ms / 1000, limits.CLOCK_EVERY_S))
        return DONE

    async def _check(self) -> Outcome:
        if late := guards.judge_time(self._wanted, self._shared.clock_ms()):
            return late
        result = await self._hooks.pre_check(self._wanted)
        if result.later:
            return Outcome(Event.NOT_YET, detail=result.detail)
        if not result.succeeded:
            return _ended(result, Code.CHECK_FAILED)
        return _applied(await self._target.check(self._candidate(self._wanted)))

    # Changing what the target shows

    async def _swap(self) -> Outcome:
        wanted = self._wanted
        late = guards.judge_time(wanted, self._shared.clock_ms())
        if late and not await self._target.shows(wanted.digest):
            return late
        if not await off_loop(self._shared.home.has_content, wanted.digest):  # damaged since it was staged
            return Outcome(Event.FAILED, Code.DIGEST_MISMATCH, "the content on disk is damaged or gone")
        outcome = _applied(await self._target.apply(self._candidate(wanted)))
        hooks = self._shared.config.hooks_of(self._spec)
        if outcome.event is Event.DONE and (hooks.reload or hooks.probe):
            await self._report("installed", wanted)
        return outcome

    async def _run_reload(self) -> Outcome:
        result = await self._hooks.reload(self._wanted)
        if result.later:
            return Outcome(Event.LATER, Code.RELOAD_FAILED, result.detail)
        return _ended(result, Code.RELOAD_FAILED)

    async def _run_probe(self) -> Outcome:
        return _ended(await self._hooks.probe(self._wanted), Code.PROBE_FAILED)

    async def _report_confirmed(self) -> Outcome:
        self._refusal_told = None
        await self._report("confirmed", self._record.running)
        if (failure := self._record.failure) is not None:  # of a newer one, while this was put back
            said = str(failure.code), failure.detail
            running = self._record.running
            await self.reporter.report("refused", failure.generation, running, code=said[0], detail=said[1])
        self._shared.prune()
        return DONE

    async def _run_post(self) -> Outcome:
        result = await self._hooks.post(self._record.running)
        if not result.succeeded:
            self._log.warning("post hook failed", detail=result.detail)
            await self._report("confirmed", self._record.running, detail=f"post hook: {result.detail}")
        return DONE

    async def _swap_back(self) -> Outcome:
        last_good = self._record.last_good
        if await self._target.shows(last_good.digest if last_good else None):
            # Perhaps since before a crash, and the disk does not have it yet: what it shows otherwise is deleted next.
            lasts = await self._target.last() if isinstance(self._target, Lasting) else Applied()
            return DONE if lasts.code is None else Outcome(Event.FAILED, Code.REVERT_FAILED, lasts.detail)
        if last_good and not await off_loop(self._shared.home.has_content, last_good.digest):
            detail = f"the content of version {last_good.version} on disk is damaged or gone"
            return Outcome(Event.FAILED, Code.REVERT_FAILED, detail)
        applied = await self._target.apply(self._candidate(last_good, force=True) if last_good else None)
        return DONE if applied.code is None else Outcome(Event.FAILED, Code.REVERT_FAILED, applied.detail)

    async def _reload_back(self) -> Outcome:
        return _ended(await self._hooks.reload(self._record.last_good), Code.RELOAD_FAILED)

    async def _report_refused(self) -> Outcome:
        wanted, failure = self._wanted, self._record.failure
        told = (wanted.epoch, wanted.generation, failure.code if failure else None)
        if told != self._refusal_told:  # a refusal that may pass is tried again, but told once
            phase = "reverted" if self._record.reverted else "refused"
            await self._report(phase, self._record.running, failure)
        self._refusal_told = told
        self._shared.prune()
        return DONE

    # What they have in common

    def _after(
        self, bounds: tuple[float, float], act: Callable[[], Awaitable[Outcome]]
    ) -> Callable[[], Awaitable[Outcome]]:
        async def later() -> Outcome:
            await asyncio.sleep(delay_s(self._record.attempt - 1, bounds, self._shared.random))
            return await act()

        return later

    @property
    def _arriving(self) -> Path:
        return self._shared.home.arriving(self._spec.workflow, self._spec.pointer)

    @property
    def _wanted(self) -> Instruction:
        if self._record.target is None:
            raise RuntimeError(f"{self._record.state} without a target")
        return self._record.target

    def _candidate(self, version: Instruction | Installed, *, force: bool = False) -> Candidate:
        return Candidate(
            workflow=self._spec.workflow,
            pointer=self._spec.pointer,
            version=version.version,
            generation=version.generation,
            digest=version.digest,
            size_bytes=version.size_bytes,
            content=self._shared.home.content_path(version.digest),
            reason=version.reason if isinstance(version, Instruction) else "",
            force=force,
        )

    async def _report(
        self, phase: str, running: Shown | None, failure: Failure | None = None, *, detail: str = ""
    ) -> None:
        code, detail = (str(failure.code), failure.detail) if failure else ("", detail)
        await self.reporter.report(phase, self._wanted.generation, running, code=code, detail=detail)


def _ended(result: Result, code: Code) -> Outcome:
    return DONE if result.succeeded else Outcome(Event.FAILED, code, result.detail)


def _applied(applied: Applied) -> Outcome:
    if applied.code is None:
        return DONE
    return Outcome(Event.LATER if applied.later else Event.FAILED, applied.code, applied.detail)

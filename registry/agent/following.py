"""One follow without a machine around it: asks, judges, fetches, keeps the last good bytes, reports."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import structlog
from msgspec import structs

from registry.agent import guards, last_good, limits
from registry.agent.api import Ack, Holding, Instruction, Poll, RegistryApi
from registry.agent.backoff import delay_s
from registry.agent.guards import Identity, Machine, Trust
from registry.agent.journal import Installed, Record
from registry.agent.last_good import Kept, LastGood
from registry.agent.transitions import Code, Event
from registry.core import limits as core_limits
from registry.core.errors import Reason, RegistryError, Rejected

log = structlog.get_logger(__name__)
_sequence = itertools.count(1)  # of acknowledgements: rises for all follows of this process


@cache
def session() -> str:
    """One for this process: two programs with one name are noticed by it."""
    return uuid.uuid4().hex


@dataclass
class Standing:
    """How far the newest bytes can be trusted; shared by all that were handed out."""

    clock_s: Callable[[], float]
    stale_after_s: float
    contact_s: float = 0.0  # unix time; 0: never
    problem: str = ""  # `CODE: in words`


class Refused(Exception):
    """What `generation` names is not taken."""

    def __init__(self, generation: int, code: Code, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.generation = generation
        self.code = code
        self.detail = detail


class Ignored(Exception):
    """An answer that is not newer than what is here: an old one, or a member that missed something."""


class Following:
    def __init__(
        self,
        api: RegistryApi,
        workflow: str,
        pointer: str,
        poll: Poll,
        path: Path,
        standing: Standing,
        max_bytes: int,
        random: Random,
    ) -> None:
        self._api = api
        self._poll = poll
        self._path = path
        self._standing = standing
        self._max_bytes = max_bytes
        self._random = random
        self._identity = Identity()
        self._record = Record(workflow=workflow, pointer=pointer, path=str(path))
        self.good: LastGood | None = None
        self._passed = (0, 0)  # refused for good, in this run
        self._verdict = ""  # why
        self._asked = False  # a member has answered, in this run
        self._unsent: Ack | None = None
        self._told: tuple[int, str] = (0, "")  # the newest refusal reported: generation, code
        self._log = log.bind(follow=f"{workflow}:{pointer}")

    async def open(self) -> None:
        good = await asyncio.to_thread(last_good.read, self._path, self._record.workflow, self._record.pointer)
        if good is not None:
            self._hold(good)
            self._standing.contact_s = await asyncio.to_thread(last_good.contact_s, self._path)

    def _hold(self, good: LastGood) -> None:
        kept = good.kept
        running = Installed(
            epoch=kept.epoch,
            generation=kept.generation,
            version=kept.version,
            digest=kept.digest,
            size_bytes=len(good.data),
        )
        self._record = structs.replace(
            self._record, epoch=kept.epoch, generation=kept.generation, running=running, last_good=running
        )
        self._identity = Identity(cluster_id=kept.cluster_id, epoch=kept.epoch)
        self.good = good

    def report(self, phase: str, generation: int, code: str = "", detail: str = "") -> None:
        """To be sent; the newest is what counts."""
        running = self._record.running
        self._unsent = Ack(
            agent=self._poll.agent,
            incarnation=session(),
            sequence=next(_sequence),
            site=self._poll.site,
            labels=self._poll.labels,
            workflow=self._record.workflow,
            pointer=self._record.pointer,
            generation=generation,
            phase=phase,
            code=code,
            detail=detail[: core_limits.DETAIL_CHARS],
            running_generation=running.generation if running else 0,
            running_version=running.version if running else 0,
            running_digest=running.digest if running else "",
            time_ms=round(self._standing.clock_s() * 1000),
        )

    async def next(self, *, after: LastGood | None) -> LastGood:
        """What is newer than `after`; if that is None, also what is on the disk, once a member agrees."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            await self._send()
            started, first = loop.time(), not self._asked
            agreed = took = False
            try:
                took = await self._once()
                agreed = self._asked
            except Refused as refused:
                self._refuse(refused)
            except Ignored as problem:
                self._log.info("answer ignored", error=str(problem))
            except (RegistryError, TimeoutError, OSError) as problem:
                if isinstance(problem, RegistryError) and problem.reason is Reason.CLUSTER_MISMATCH:
                    self._refuse(Refused(self._newest[1], Code.CLUSTER_MISMATCH, problem.message))
                self._log.info("no contact", error=str(problem) or type(problem).__name__)
            if self.good is not None and (took or (agreed and after is None)):
                return self.good
            held = loop.time() - started >= limits.POLL_HELD_S
            failures = 0 if agreed and (held or first) else failures + 1
            if failures:
                await asyncio.sleep(delay_s(failures, limits.POLL_BACKOFF_S, self._random))

    @property
    def _newest(self) -> tuple[int, int]:
        """(epoch, generation) of what was taken, or refused for good."""
        return max(self._passed, self._record.fence)

    def _refuse(self, refused: Refused) -> None:
        self._standing.problem = str(refused)
        if self._told != (refused.generation, refused.code):
            self._told = (refused.generation, refused.code)
            self._log.warning("refused", generation=refused.generation, problem=str(refused))
            self.report("refused", refused.generation, refused.code, refused.detail)

    async def _send(self) -> None:
        unsent = self._unsent
        if unsent is None:
            return
        try:
            async with asyncio.timeout(limits.ACK_TIMEOUT_S):
                await self._api.acknowledge([unsent])
        except Rejected as problem:
            self._log.error("acknowledgement refused and dropped", error=str(problem))
        except (RegistryError, TimeoutError) as problem:
            self._log.info("acknowledgement waits", error=str(problem))
            return
        self._unsent = None

    # One poll

    async def _once(self) -> bool:
        """Whether something newer was taken. Raises Refused, Ignored, RegistryError, TimeoutError, OSError."""
        identity = self._identity
        newest_epoch, generation = self._newest
        running = self._record.running
        holding = Holding(
            workflow=self._record.workflow,
            pointer=self._record.pointer,
            generation=generation if newest_epoch == identity.epoch else 0,
            digest=running.digest if running else "",
        )
        wait_s = self._wait_s()
        poll = structs.replace(
            self._poll,
            cluster_id=identity.cluster_id,
            epoch=identity.epoch,
            follows=(holding,),
            wait_ms=round(wait_s * 1000),
        )
        async with asyncio.timeout(wait_s + 2 * limits.POLL_SLACK_S):
            reply, frames = await self._api.poll(poll, timeout_s=limits.POLL_SLACK_S)
        trust = guards.judge_reply(identity, reply.cluster_id, reply.epoch)
        if trust is Trust.FOREIGN:
            detail = f"a member of cluster {reply.cluster_id} answered, this follow belongs to {identity.cluster_id}"
            raise Refused(generation, Code.CLUSTER_MISMATCH, f"{detail}; check the endpoints, or remove {self._path}")
        if trust is Trust.OLD_EPOCH:
            raise Ignored(f"it is of epoch {reply.epoch}, older than {identity.epoch}")
        self._identity = Identity(cluster_id=reply.cluster_id, epoch=reply.epoch)
        if trust is Trust.RESYNC and not reply.instructions:
            return False  # it compared with generations of the old epoch: asked again, having nothing
        self._asked = True
        for each in reply.instructions:
            if (each.workflow, each.pointer) == (self._record.workflow, self._record.pointer):
                instruction = structs.replace(each, epoch=reply.epoch)
                return await self._take(instruction, frames.get((each.workflow, each.pointer), b""))
        self._standing.problem = self._verdict if self._passed > self._record.fence else ""
        if reply.age_ms <= limits.STALE_AFTER_S * 1000:
            self._contact()
        return False

    def _wait_s(self) -> float:
        """The first time in a run the answer is wanted at once; then until something happens, or is to be sent."""
        if not self._asked:
            return 0.0
        longest_s = limits.ACK_BACKOFF_S[0] if self._unsent else limits.POLL_WAIT_S
        return longest_s * self._random.uniform(1 - limits.POLL_JITTER, 1)

    def _contact(self) -> None:
        self._standing.contact_s = self._standing.clock_s()
        last_good.touch(self._path, self._standing.contact_s)

    async def _take(self, instruction: Instruction, frame: bytes) -> bool:
        now_ms = round(self._standing.clock_s() * 1000)
        machine = Machine(now_ms=now_ms, facts=self._poll.facts)
        outcome = guards.judge_instruction(self._record, instruction, machine)
        if outcome is not None and outcome.event is Event.STALE:
            raise Ignored(f"generation {instruction.generation} is not above {self._record.generation}")
        if outcome is not None and outcome.code is not None:
            if outcome.code is Code.INVALID_INSTRUCTION:  # it says nothing about the version: asked for anew
                raise Refused(instruction.generation, outcome.code, outcome.detail)
            raise self._for_good(instruction, outcome.code, outcome.detail)
        self._contact()
        if (early_s := instruction.not_before_ms / 1000 - now_ms / 1000) > 0:
            await asyncio.sleep(min(early_s, limits.CLOCK_EVERY_S))  # then asked again: it may be called off
            return False
        same = outcome is not None and self.good is not None
        data = self.good.data if same and self.good else await self._bytes(instruction, frame)
        if not same and (late := guards.judge_time(instruction, round(self._standing.clock_s() * 1000))):
            raise self._for_good(instruction, Code.EXPIRED, late.detail)
        kept = Kept(
            workflow=instruction.workflow,
            pointer=instruction.pointer,
            cluster_id=self._identity.cluster_id,
            epoch=instruction.epoch,
            generation=instruction.generation,
            version=instruction.version,
            digest=instruction.digest,
            reason=instruction.reason,
            rollback=instruction.rollback,
        )
        good = LastGood(kept, data)
        try:
            await asyncio.to_thread(last_good.write, self._path, good)
        except OSError as problem:
            detail = f"{self._path} cannot be written: {problem.strerror}"
            raise Refused(instruction.generation, Code.STAGE_FAILED, detail) from None
        self._hold(good)
        self._standing.problem = ""
        self._contact()
        return True

    async def _bytes(self, instruction: Instruction, frame: bytes) -> bytes:
        if instruction.size_bytes > self._max_bytes:
            detail = f"{instruction.size_bytes:,} bytes; this follow takes at most {self._max_bytes:,}"
            raise self._for_good(instruction, Code.TOO_LARGE, detail)
        if guards.is_carried(self._record, instruction, frame):
            data = await asyncio.to_thread(guards.unpack, instruction, frame, self._base)
            if data is not None and self._judged(instruction, data) is None:
                return data
        data = await self._fetched(instruction)
        if refused := self._judged(instruction, data):
            raise refused
        return data

    def _for_good(self, instruction: Instruction, code: Code, detail: str) -> Refused:
        """Nothing but a higher generation helps: not asked for again."""
        refused = Refused(instruction.generation, code, detail)
        self._passed, self._verdict = (instruction.epoch, instruction.generation), str(refused)
        return refused

    def _base(self) -> bytes:
        return self.good.data if self.good else b""

    def _judged(self, instruction: Instruction, data: bytes) -> Refused | None:
        outcome = guards.judge_bytes(instruction, len(data), guards.digest_of(data))
        return None if outcome.code is None else Refused(instruction.generation, outcome.code, outcome.detail)

    async def _fetched(self, instruction: Instruction) -> bytes:
        loop = asyncio.get_running_loop()
        into = self._path.with_name(f".{self._path.name}.arriving")
        base = self._base()
        try:
            async with asyncio.timeout(limits.FETCH_TIMEOUT_S) as silence:
                data = await self._api.content(
                    instruction.workflow,
                    instruction.version,
                    min_revision=instruction.min_revision,
                    base=base if len(base) <= core_limits.CONTENT_BYTES_CEILING else b"",
                    into=into,
                    progress=lambda *_: silence.reschedule(loop.time() + limits.FETCH_TIMEOUT_S),
                )
            if data is None:
                data = await asyncio.to_thread(_read, into, instruction.size_bytes)
        except RegistryError as problem:
            code = Code.DIGEST_MISMATCH if problem.reason is Reason.CORRUPT_CONTENT else Code.FETCH_FAILED
            raise Refused(instruction.generation, code, f"{problem.reason}: {problem.message}") from None
        except TimeoutError:
            detail = f"nothing came within {limits.FETCH_TIMEOUT_S:g} s"
            raise Refused(instruction.generation, Code.FETCH_FAILED, detail) from None
        except OSError as problem:
            raise Refused(instruction.generation, Code.STAGE_FAILED, f"{into}: {problem.strerror}") from None
        with suppress(OSError):
            into.unlink(missing_ok=True)
        return data


def _read(path: Path, size_bytes: int) -> bytes:
    """One byte more, if there are more: they do not belong to it."""
    with path.open("rb") as file:
        return file.read(size_bytes + 1)

"""Parsing and comparing of untrusted content outside the member: a few killable worker processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from types import TracebackType
from typing import NoReturn, Self

import structlog
from msgspec import structs

from registry import formats
from registry.core import limits
from registry.core.errors import Reason, RegistryError, error
from registry.formats.model import Verdict
from registry.server import inspect_worker
from registry.server.feed import busy
from registry.server.inspect_worker import (
    LENGTH,
    Answer,
    Compared,
    CompareJob,
    Contents,
    Failure,
    Job,
    Judged,
    JudgeJob,
    KeyNeeded,
    Prepared,
    PrepareJob,
    Rejection,
    decode_answer,
    encode,
)
from registry.server.limits import INSPECT_WAITING, INSPECT_WAITING_BYTES, OPAQUE_INLINE_BYTES

_STOP_S = 2.0  # for a worker to end by itself after its input closed
_UNPARSED = "nothing was stored; to store it unparsed, publish it with kind text or binary"
_BY_HAND = "nothing changed; fetch both versions with `regctl cat` and compare them by hand"

_log = structlog.get_logger("registry.inspector")


class _WorkerEnded(Exception):
    """The worker's output ended in the middle of a job."""


class Inspector:
    """`async with Inspector() as inspector`, or start() and close().

    Each job runs in one worker, at most `time_limit_s`; a worker that is past it, that crashed, or whose caller went
    away is killed, and the next job starts another one. Jobs beyond the workers wait in order, as many
    and with as much content as `server.limits` allows.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        time_limit_s: float = limits.PARSE_TIME_S,
        memory_bytes: int = limits.PARSE_MEMORY_BYTES,
    ) -> None:
        self._time_limit_s = time_limit_s
        self._slots = [_Slot(memory_bytes) for _ in range(workers)]
        self._free: asyncio.Queue[_Slot] = asyncio.Queue()
        self._waiting = 0
        self._waiting_bytes = 0
        self._stopped = False

    async def start(self) -> None:
        """Starts every worker. Raises OSError if no process can be started."""
        for slot in self._slots:
            await slot.start()
            self._free.put_nowait(slot)

    async def close(self) -> None:
        """Ends the workers; running jobs fail with SHUTTING_DOWN. Safe to call twice."""
        self._stopped = True
        await asyncio.gather(*(slot.stop() for slot in self._slots))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def pids(self) -> list[int]:
        """Of the workers that run now."""
        processes = [slot.process for slot in self._slots]
        return [process.pid for process in processes if process is not None and process.returncode is None]

    async def prepare(self, job: PrepareJob) -> Prepared | KeyNeeded:
        """Content without its secrets, what it is, and what it changes against its parent: in one go, since most of the
        work is reading. Where only the parent is too much, the rest is answered.
        Raises what formats.read raises; past a limit or on a crash: Invalid(INVALID_CONTENT); BUSY."""
        if _content_bytes(job) <= OPAQUE_INLINE_BYTES:
            if _is_opaque(job):
                return inspect_worker.prepare(job, Contents())
        elif await asyncio.to_thread(_is_opaque, job):
            return await asyncio.to_thread(inspect_worker.prepare, job, Contents())
        answer = await self._run(job)
        if isinstance(answer, Failure) and job.parent:
            not_compared = answer.message
            answer = await self._run(structs.replace(job, parent=b""))
            if isinstance(answer, Prepared):
                answer = structs.replace(answer, not_compared=not_compared)
        if not isinstance(answer, Prepared | KeyNeeded):
            _fail(answer, Reason.INVALID_CONTENT, "the content could not be read", _UNPARSED)
        return answer

    async def judge(self, job: JudgeJob) -> Verdict:
        """Of going from `old` to `new`; `old` empty: of `new` alone. Errors as of compare."""
        answer = await self._run(job)
        if not isinstance(answer, Judged):
            _fail(answer, Reason.COMPARE_LIMIT, "the versions could not be judged", _BY_HAND)
        return answer.verdict

    async def compare(self, job: CompareJob) -> Compared:
        """As formats.compare, and its errors. Past a limit or on a crash: Refused(COMPARE_LIMIT); BUSY."""
        answer = await self._run(job)
        if not isinstance(answer, Compared):
            _fail(answer, Reason.COMPARE_LIMIT, "the versions could not be compared", _BY_HAND)
        return answer

    async def forget(self) -> None:
        """What workers keep of contents read before is gone once the jobs that run now have ended."""
        for slot in self._slots:
            slot.outdated = True
        idle = [self._free.get_nowait() for _ in range(self._free.qsize())]
        try:
            await asyncio.gather(*(slot.end_outdated() for slot in idle))
        finally:
            for slot in idle:
                self._free.put_nowait(slot)

    async def _run(self, job: Job) -> Answer:
        if self._stopped:
            raise _stopping()
        slot = await self._free_slot(_content_bytes(job))
        try:
            if self._stopped:
                raise _stopping()
            async with asyncio.timeout(self._time_limit_s):
                return await slot.exchange(job)
        except TimeoutError:
            _log.warning("inspect worker killed", limit_s=self._time_limit_s)
            return Failure(f"it takes longer than {self._time_limit_s:g} s", "PARSE_TIME_S")
        except (_WorkerEnded, ConnectionError) as ended:
            if self._stopped:
                raise _stopping() from ended
            _log.warning("inspect worker ended", reason=str(ended))
            return Failure(f"its worker ended ({ended})")
        finally:
            self._free.put_nowait(slot)

    async def _free_slot(self, content_bytes: int) -> _Slot:
        """Waits for a worker. What alone waits may have any size. Raises BUSY."""
        is_full = self._waiting >= INSPECT_WAITING
        if is_full or (self._waiting and self._waiting_bytes + content_bytes > INSPECT_WAITING_BYTES):
            raise busy(f"{self._waiting} contents wait to be parsed already ({self._waiting_bytes:,} bytes)")
        self._waiting += 1
        self._waiting_bytes += content_bytes
        try:
            return await self._free.get()
        finally:
            self._waiting -= 1
            self._waiting_bytes -= content_bytes


def _is_opaque(job: PrepareJob) -> bool:
    """Whether nothing in it is parsed: then it needs no other process."""
    is_opaque = formats.is_opaque
    return is_opaque(job.content, job.kind) and not (job.parent and not is_opaque(job.parent, job.kind_parent))


def _content_bytes(job: Job) -> int:
    """What a job keeps in memory while it waits."""
    if isinstance(job, PrepareJob):
        return len(job.content) + len(job.parent)
    return len(job.new) + len(job.old)


def _stopping() -> RegistryError:
    return error(Reason.SHUTTING_DOWN, "this member is stopping", hint="try another member")


def _fail(answer: Answer, reason: Reason, what: str, hint: str) -> NoReturn:
    if isinstance(answer, Rejection):
        raise error(Reason(answer.reason), answer.message, hint=answer.hint, metadata=answer.metadata)
    if not isinstance(answer, Failure):
        raise TypeError(f"a worker answered with {type(answer).__name__}")  # not what it says: that is content
    metadata = {"limit": answer.limit} if answer.limit else {}
    raise error(reason, f"{what}: {answer.message}", hint=hint, metadata=metadata)


class _Slot:
    """The place of one worker. One job at a time: whoever holds the slot."""

    def __init__(self, memory_bytes: int) -> None:
        self.process: asyncio.subprocess.Process | None = None
        self.outdated = False  # knows what is to be forgotten
        self._memory_bytes = memory_bytes

    async def start(self) -> asyncio.subprocess.Process:
        # -P: nothing in the working directory is imported. Of the environment only what finds Python's modules.
        keep = {key: os.environ[key] for key in ("PATH", "PYTHONPATH", "LANG", "LD_LIBRARY_PATH") if key in os.environ}
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "registry.server.inspect_worker",
            str(self._memory_bytes),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=keep,
        )
        return self.process

    async def exchange(self, job: Job) -> Answer:
        """Raises _WorkerEnded. On every exception, being cancelled too, the worker is gone afterwards."""
        try:
            process = self.process
            if process is None or process.returncode is not None:  # killed after a job, or by someone while idle
                process = await self.start()
            assert process.stdin is not None
            assert process.stdout is not None
            body = encode(job)
            process.stdin.write(LENGTH.pack(len(body)) + body)
            await process.stdin.drain()
            head = await process.stdout.readexactly(LENGTH.size)
            answer: Answer = decode_answer(await process.stdout.readexactly(LENGTH.unpack(head)[0]))
        except asyncio.IncompleteReadError:
            raise _WorkerEnded(await self._end()) from None
        except BaseException:
            await self._kill()
            raise
        if isinstance(answer, Failure):
            await self._kill()  # after a failed allocation its memory is not to be trusted
        await self.end_outdated()
        return answer

    async def end_outdated(self) -> None:
        """The next job starts another one."""
        if self.outdated:
            await self._kill()
            self.outdated = False

    async def _end(self) -> str:
        """Waits for the worker to end by itself, kills it after a while. Returns how it ended, in words."""
        if self.process is None:
            return "not running"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_S):
                await self.process.wait()
        return await self._kill()

    async def _kill(self) -> str:
        process, self.process = self.process, None
        if process is None:
            return "not running"
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        code = await process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    async def stop(self) -> None:
        if self.process is not None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            await self._end()

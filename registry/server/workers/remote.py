"""The member, as its workers reach it: what services need of the cluster, and the calls that only it can answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Protocol

from cluster import api
from cluster.api import ClusterError, ClusterStatus, CommandTooLarge, NotAttempted, OutcomeUnknown
from cluster.limits import PROPOSALS, PROPOSALS_BYTES, READS
from registry.core.errors import Reason, RegistryError, error
from registry.server.limits import LINK_AHEAD, LINK_MARGIN_S
from registry.server.workers import messages as m

_KINDS: dict[str, type[ClusterError]] = {
    kind.__name__: kind for kind in (NotAttempted, OutcomeUnknown, CommandTooLarge)
}
_UNHEARD = "the member's process did not answer"


class Sender(Protocol):
    def send(self, message: m.Up) -> None: ...


class FailedInside(Exception):
    """What the member failed with stands in its log."""


class RemoteCluster(api.Access):
    """`answer` takes what the member answers, `state` what it says of itself."""

    def __init__(self, link: Sender, state: m.State) -> None:
        self._link = link
        self._state = state
        self._heard_s = time.monotonic()
        self._call = 0
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._proposals_bytes = 0
        self._reads: list[asyncio.Future[bytes]] = []  # for the next barrier
        self._reads_s = 0.0
        self._reads_waiting = 0
        self._streams: dict[int, asyncio.Queue[m.Item | m.Done | m.Failed]] = {}
        self._readers: dict[int, asyncio.Task[object]] = {}

    def state(self, state: m.State) -> None:
        self._state, self._heard_s = state, time.monotonic()

    @property
    def silent_s(self) -> float:
        """Since the member was heard last."""
        return time.monotonic() - self._heard_s

    def status(self) -> ClusterStatus:
        """As the member said last; what it knows grows older since."""
        status = self._state.status
        return replace(status, leader_contact_s=status.leader_contact_s + self.silent_s)

    @property
    def has_room(self) -> bool:
        return self._state.status.has_room

    @property
    def level(self) -> int:
        return self._state.status.level

    def leader_address(self) -> str:
        return self._state.leader_address

    async def propose(self, command: bytes, *, timeout_s: float) -> bytes:
        if len(self._waiting) >= PROPOSALS or self._proposals_bytes + len(command) > PROPOSALS_BYTES:
            raise NotAttempted(f"{len(self._waiting)} calls wait for the member already")
        call, answer = self._expect()
        self._link.send(m.Propose(call, command, timeout_s))
        self._proposals_bytes += len(command)
        try:
            async with asyncio.timeout(timeout_s + LINK_MARGIN_S):
                return await answer
        except TimeoutError:
            raise OutcomeUnknown(_UNHEARD) from None
        finally:
            self._proposals_bytes -= len(command)
            del self._waiting[call]

    async def barrier(self, *, timeout_s: float) -> None:
        """Those of one turn share a question."""
        if self._reads_waiting >= READS:
            raise NotAttempted(f"{READS} reads are waiting already")
        loop = asyncio.get_running_loop()
        if not self._reads:
            self._reads_s = 0.0
            loop.call_soon(self._ask_barrier)
        waiter: asyncio.Future[bytes] = loop.create_future()
        self._reads.append(waiter)
        self._reads_s = max(self._reads_s, timeout_s)
        self._reads_waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            raise NotAttempted(f"no majority confirmed the leader within {timeout_s:.1f} s") from None
        finally:
            self._reads_waiting -= 1

    def _ask_barrier(self) -> None:
        waiters, self._reads = self._reads, []
        call, answer = self._expect()
        answer.add_done_callback(lambda done: self._told(call, done, waiters))
        self._link.send(m.Barrier(call, self._reads_s))

    def _told(self, call: int, done: asyncio.Future[bytes], waiters: list[asyncio.Future[bytes]]) -> None:
        del self._waiting[call]
        failure = done.exception()
        for waiter in waiters:
            if waiter.done():
                continue
            if failure is None:
                waiter.set_result(b"")
            else:
                waiter.set_exception(NotAttempted(str(failure)))

    # ---- what only the member can do
    async def ask(self, method: str, request: bytes, timeout_s: float) -> bytes:
        """Its reply. Raises RegistryError, FailedInside."""
        call, answer = self._expect()
        self._link.send(m.Ask(call, method, request, timeout_s))
        try:
            async with asyncio.timeout(timeout_s + LINK_MARGIN_S):
                return await answer
        except TimeoutError:
            raise unheard() from None
        except asyncio.CancelledError:
            self._link.send(m.Cancel(call))
            raise
        finally:
            del self._waiting[call]

    async def stream(self, method: str, request: bytes) -> AsyncGenerator[bytes, None]:
        """Its replies, no more than LINK_AHEAD of them ahead of the caller. Errors as of `ask`; cancelled where the
        member gives the caller up."""
        self._call += 1
        call = self._call
        queue = self._streams[call] = asyncio.Queue(LINK_AHEAD + 1)
        task = asyncio.current_task()
        assert task is not None
        self._readers[call] = task
        self._link.send(m.Ask(call, method, request, 0.0))
        ended = False
        try:
            while True:
                match await queue.get():
                    case m.Item(data=data):
                        yield data
                        self._link.send(m.Took(call))
                    case m.Failed(failure=failure):
                        ended = True
                        raise raised(failure)
                    case m.Done():
                        ended = True
                        return
        finally:
            del self._streams[call], self._readers[call]
            if not ended:
                self._link.send(m.Cancel(call))

    def _expect(self) -> tuple[int, asyncio.Future[bytes]]:
        self._call += 1
        answer = self._waiting[self._call] = asyncio.get_running_loop().create_future()
        return self._call, answer

    # ---- what comes back
    def answer(self, message: m.Done | m.Undone | m.Item | m.Failed) -> None:
        """Whoever asked may have given up."""
        if (queue := self._streams.get(message.call)) is not None:
            if isinstance(message, m.Failed) and message.failure is None:
                self._readers[message.call].cancel()  # it may hang in giving the last one to the caller
            elif not isinstance(message, m.Undone):
                queue.put_nowait(message)
            return
        waiting = self._waiting.get(message.call)
        if waiting is None or waiting.done():
            return
        match message:
            case m.Done(result=result):
                waiting.set_result(result)
            case m.Undone(kind=kind, text=text):
                waiting.set_exception(_KINDS[kind](text))
            case m.Failed(failure=failure):
                waiting.set_exception(raised(failure))


def raised(failure: m.Failure | None) -> Exception:
    """As it was raised in the member."""
    if failure is None:
        return FailedInside("given up by the member")
    if not failure.reason:
        return FailedInside(failure.message)
    return error_of(failure)


def error_of(failure: m.Failure) -> RegistryError:
    return error(Reason(failure.reason), failure.message, hint=failure.hint, metadata=failure.metadata)


def failure_of(error: RegistryError) -> m.Failure:
    return m.Failure(error.reason, error.message, error.hint, error.metadata)


def unheard() -> RegistryError:
    return error(Reason.OUTCOME_UNKNOWN, f"{_UNHEARD}; what was asked may have been done", hint="look whether it was")

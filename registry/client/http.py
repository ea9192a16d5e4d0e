"""Polls, contents and acknowledgements over the HTTP face of members, for agents."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self, TypeVar

from msgspec import structs

from registry.client import http_content, http_members, http_messages, limits
from registry.client.calls import OnFailedAttempt
from registry.client.http_connection import BrokenConnection, Connection, connect
from registry.client.http_content import Asked, NotThis, Progress
from registry.client.http_members import Address, Members
from registry.client.http_messages import Frames, Implausible, Refusal
from registry.client.values import TlsConfig
from registry.core.commands import Ack
from registry.core.delivery import Poll, PollReply
from registry.core.errors import Ambiguous, Invalid, Reason, RegistryError, Rejected, Unavailable

T = TypeVar("T")
Attempt = Callable[[Address], Awaitable[T]]
_TELLING = (Reason.CORRUPT_CONTENT, Reason.NO_SPACE, Reason.NO_QUORUM, Reason.BUSY)  # before "nobody answered"


class HttpClient:
    """Over one connection that is kept, and a second one while a poll waits on the first.

        async with HttpClient(["http://127.0.0.1:7402"]) as client:
            reply, frames = await client.poll(Poll(agent="edge-1", follows=(...,), wait_ms=60_000), timeout_s=10)

    `endpoints`: http:// or https:// addresses of members, also as one text with commas. A call goes to the member that
    answered last, and to each of the others once when that one fails; a refusal counts when nobody says otherwise.
    What failed is asked again later and later, by the clock of the client and not of the call. Nothing that a member
    sends is believed, or kept in memory past what was asked for. TLS files that were rotated count from the next
    connection on. Raises Invalid for endpoints and TLS files.
    """

    def __init__(
        self,
        endpoints: Sequence[str] | str,
        *,
        tls: TlsConfig | None = None,
        random: Random | None = None,
        on_failed_attempt: OnFailedAttempt | None = None,
    ) -> None:
        """`on_failed_attempt(address, error)` is told of every member that failed."""
        self._random = random or Random()
        self._members = Members(endpoints.split(",") if isinstance(endpoints, str) else endpoints, self._random)
        self._tls, self._stamp = tls, http_members.stamp(tls)
        self._context = http_members.context(self._members.addresses, tls)
        self._on_failed_attempt = on_failed_attempt
        self._free: list[tuple[Address, Connection, asyncio.TimerHandle]] = []
        self._busy: set[Connection] = set()
        self._teller: Address | None = None  # whose reply to a poll was the newest
        self._seen = (0, 0)  # (epoch, revision): the newest that a reply to a poll was of
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Running calls fail."""
        self._closed = True
        for _, connection, timer in self._free:
            timer.cancel()
            connection.close()
        for connection in self._busy:
            connection.close()
        self._free.clear()
        await asyncio.sleep(0)  # aborted transports are gone after one round of the loop

    @property
    def teller(self) -> str:
        """The address of the member that answered the newest poll; empty: none has yet."""
        return str(self._teller or "")

    async def poll(self, poll: Poll, *, timeout_s: float) -> tuple[PollReply, Frames]:
        """What of the followed pointers differs from what the agent has, once something does, at most wait_ms later;
        and (workflow, pointer) -> frame for each instruction `delta` or `full`. timeout_s comes on top of the wait.
        Raises Conflict CLUSTER_MISMATCH, Unavailable and what else the members say."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + poll.wait_ms / 1000

        async def attempt(member: Address) -> tuple[PollReply, Frames]:
            left_ms = max(0, min(poll.wait_ms, round((deadline - loop.time()) * 1000)))
            body = http_messages.poll_body(structs.replace(poll, wait_ms=left_ms))

            async def exchange(connection: Connection) -> tuple[PollReply, Frames]:
                head = await http_messages.post(connection, "/v1/poll", member.authority, body)
                return http_messages.poll_reply(poll, head, await connection.read(http_messages.poll_bytes(poll)))

            told = await self._at(member, exchange)
            self._teller = member
            return told

        reply, frames = await self._call("answer a poll", poll.wait_ms / 1000 + timeout_s, attempt, spread=True)
        found, seen = (reply.epoch, reply.revision), self._seen
        self._seen = max(found, seen)
        is_cut_off = reply.age_ms > limits.POLL_AGE_S * 1000
        by_chance = poll.wait_ms and self._random.random() < limits.HTTP_TURN
        if not reply.instructions and (is_cut_off or (poll.wait_ms and found < seen) or by_chance):
            self._members.turn()  # also from a member that has waited and still not heard what another one had
        return reply, frames

    async def content(
        self,
        workflow: str,
        version: int,
        *,
        min_revision: int,
        into: Path,
        base: bytes = b"",
        progress: Progress = lambda *_: None,
        digest: str = "",
        size_bytes: int = -1,
    ) -> bytes | None:
        """The exact bytes of a version, from a member that has applied min_revision. None: they are large, and in the
        file `into`, which was gone on with if it held some already; it is not synced, and stays as it is when this
        fails. `base`: bytes of another version that are here. `digest` and `size_bytes` as the newest poll announced
        them: other content is refused, and another member asked; without them a member's own word counts.
        Raises Unavailable CORRUPT_CONTENT and what else the members say, OSError of the file."""
        asked = Asked(workflow, version, min_revision, base, into, progress, digest, size_bytes)

        async def attempt(member: Address) -> bytes | None:
            try:
                return await self._at(member, lambda made: http_content.fetch(made, member.authority, asked))
            except NotThis:
                exact = asked._replace(compact=False)
                return await self._at(member, lambda made: http_content.fetch(made, member.authority, exact))

        try:
            return await self._call(f"give {workflow}@{version}", None, attempt, implausible=Reason.CORRUPT_CONTENT)
        except RegistryError:
            if digest and self._teller is not None:
                self._members.blame(self._teller, asyncio.get_running_loop().time())
            raise

    async def acknowledge(self, acks: Sequence[Ack], *, timeout_s: float = limits.TIMEOUT_S) -> None:
        """Idempotent by (agent, incarnation, sequence). Returns when a majority has it."""
        body = http_messages.acks_body(acks)

        async def attempt(member: Address) -> None:
            async def exchange(connection: Connection) -> None:
                await http_messages.post(connection, "/v1/acks", member.authority, body)
                await connection.read(limits.HTTP_ERROR_BYTES)

            await self._at(member, exchange)

        await self._call("take acknowledgements", timeout_s, attempt)

    # One call: at each member at most once

    async def _call(
        self,
        what: str,
        timeout_s: float | None,
        attempt: Attempt[T],
        *,
        spread: bool = False,
        implausible: Reason = Reason.NO_MEMBER,
    ) -> T:
        """`spread`: who waits together at a member that goes away does not turn to the next one together."""
        loop = asyncio.get_running_loop()
        tried: dict[Address, RegistryError] = {}
        asking: Address | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while (found := self._members.next(tried, loop.time())) is not None:
                    member, wait_s = found
                    await asyncio.sleep(wait_s)
                    asking, started = member, loop.time()
                    try:
                        result = await attempt(member)
                    except (BrokenConnection, Implausible, Refusal, RegistryError) as problem:
                        asking = None
                        tried[member] = self._failed(member, problem, implausible)
                        held_s = loop.time() - started
                        if spread:
                            await asyncio.sleep(self._random.uniform(0, min(held_s, limits.HTTP_SPREAD_S)))
                    else:
                        self._members.answered(member)
                        return result
        if asking is not None:
            tried[asking] = self._failed(asking, BrokenConnection("no answer in time"), implausible)
        raise _nobody(what, tried)

    def _failed(self, member: Address, problem: Exception, implausible: Reason) -> RegistryError:
        retry_s = 0.0
        match problem:
            case Refusal():
                error, retry_s = problem.error, problem.retry_s
            case RegistryError():
                error = problem
            case Implausible():
                error = Unavailable(implausible, f"what it sent is not used: {problem}")
            case _:
                error = Unavailable(Reason.NO_MEMBER, str(problem))
        self._members.failed(member, asyncio.get_running_loop().time(), retry_s=retry_s)
        if self._on_failed_attempt is not None:
            self._on_failed_attempt(str(member), error)
        return error

    # Connections

    async def _at(self, member: Address, exchange: Callable[[Connection], Awaitable[T]]) -> T:
        """Once more where a kept connection turns out to have been closed meanwhile. Raises BrokenConnection,
        Implausible, Refusal, RegistryError."""
        while True:
            connection = self._take(member) or await self._connect(member)
            kept = connection.used
            self._busy.add(connection)
            try:
                return await exchange(connection)
            except TimeoutError:
                raise BrokenConnection("no answer in time") from None
            except BrokenConnection:
                if not kept or connection.heard:
                    raise
            finally:
                self._busy.discard(connection)
                self._give_back(member, connection)

    async def _connect(self, member: Address) -> Connection:
        try:
            async with asyncio.timeout(limits.HTTP_CONNECT_S):
                return await connect(member.host, member.port, self._trusted() if member.tls else None)
        except TimeoutError:
            raise BrokenConnection(f"no connection within {limits.HTTP_CONNECT_S:g} s") from None

    def _trusted(self) -> ssl.SSLContext | None:
        """Of the files as they are now: they are rotated. While what is there cannot be used, of those before."""
        if (found := http_members.stamp(self._tls)) != self._stamp:
            with suppress(Invalid):
                self._context = http_members.context(self._members.addresses, self._tls)
                self._stamp = found
        return self._context

    def _take(self, member: Address) -> Connection | None:
        if self._closed:
            raise Unavailable(Reason.NO_MEMBER, "this client is closed", hint="make a new one")
        for kept in reversed(self._free):
            address, connection, timer = kept
            if address == member:
                self._free.remove(kept)
                timer.cancel()
                if connection.free:
                    return connection
        return None

    def _give_back(self, member: Address, connection: Connection) -> None:
        if self._closed or not connection.free:
            connection.close()
            return
        timer = asyncio.get_running_loop().call_later(limits.HTTP_SPARE_S, self._drop, connection)
        self._free.append((member, connection, timer))

    def _drop(self, connection: Connection) -> None:
        connection.close()
        self._free = [kept for kept in self._free if kept[1] is not connection]


def _nobody(what: str, tried: dict[Address, RegistryError]) -> RegistryError:
    for kind in (Rejected, Ambiguous):
        for error in tried.values():
            if isinstance(error, kind):
                return error
    causes = "; ".join(f"{member}: {error.message}" for member, error in tried.items()) or "none could be asked in time"
    reasons = {error.reason for error in tried.values()}
    return Unavailable(
        next((each for each in _TELLING if each in reasons), Reason.NO_MEMBER),
        f"no member could {what} ({causes})",
        hint="check that a majority of the members runs and can be reached, then try again",
        metadata={"tried": ", ".join(map(str, tried))},
    )

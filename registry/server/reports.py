"""What agents report, on its way into the log: concurrent acks share commands, contacts are gathered for a while."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

import structlog

from registry.core import commands, limits, validation
from registry.core.errors import Ambiguous, Reason, RegistryError
from registry.server.feed import busy
from registry.server.limits import ACKS_GATHER_S, ACKS_WAITING, CALL_S, CONTACT_FLUSH_S, CONTACTS_WAITING
from registry.server.proposer import Proposer

Waiting = tuple[Sequence[commands.Ack], asyncio.Future[int]]
log = structlog.get_logger()


class Reports:
    def __init__(self, proposer: Proposer) -> None:
        self._proposer = proposer
        self._contacts: dict[tuple[str, str], int] = {}  # of an agent and a session of it
        self._queue: deque[Waiting] = deque()
        self._queued_acks = 0
        self._sending: asyncio.Task[None] | None = None

    async def acknowledge(self, acks: Sequence[commands.Ack], timeout_s: float) -> int:
        """The registry's revision once a majority has the acks, at most limits.ACKS.
        Raises Invalid, Unavailable (BUSY, NO_QUORUM), Ambiguous(OUTCOME_UNKNOWN)."""
        validation.check(self._command(acks=tuple(acks)))  # here, since one that is refused refuses its neighbours
        if self._queued_acks + len(acks) > ACKS_WAITING:
            raise busy(f"{self._queued_acks} reports of agents wait on this member, as many as it takes")
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._queue.append((acks, done))
        self._queued_acks += len(acks)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        try:
            async with asyncio.timeout(timeout_s):
                return await done
        except TimeoutError:
            raise Ambiguous(
                Reason.OUTCOME_UNKNOWN,
                "no majority confirmed the report in time; it may still be recorded",
                hint="send it again, it is recorded once",
            ) from None

    async def _send(self) -> None:
        """A command fills for a moment, and while the one before it is under way: agents answer a switch together, and
        no agent waits for its report."""
        try:
            while self._queue:
                await asyncio.sleep(ACKS_GATHER_S)
                batch = self._take()
                acks = tuple(ack for part, _ in batch for ack in part)
                now_ms = self._proposer.clock_ms()  # a report is a contact, by this clock: an agent's own may be wrong
                contacts = tuple(
                    commands.Contact(agent=name, time_ms=now_ms) for name in sorted({ack.agent for ack in acks})
                )
                try:
                    outcome = await self._proposer.propose(self._command(acks=acks, contacts=contacts), CALL_S)
                except RegistryError as error:
                    for _, done in batch:
                        if not done.done():
                            done.set_exception(error)
                else:
                    for _, done in batch:
                        if not done.done():
                            done.set_result(outcome.revision)
        finally:
            self._sending = None

    def _take(self) -> list[Waiting]:
        batch = [self._queue.popleft()]
        count = len(batch[0][0])
        while self._queue and count + len(self._queue[0][0]) <= limits.ACKS:
            batch.append(self._queue.popleft())
            count += len(batch[-1][0])
        self._queued_acks -= count
        return batch

    def contact(self, agent: str, session: str = "") -> None:
        """A run of an agent polled just now."""
        key = agent, session
        if key in self._contacts or len(self._contacts) < CONTACTS_WAITING:
            self._contacts[key] = self._proposer.clock_ms()

    async def flush_contacts(self) -> None:
        """Record the contacts gathered; those that could not be recorded wait for the next time."""
        contacts, self._contacts = self._contacts, {}
        rows = [
            commands.Contact(agent=agent, session=session, time_ms=time_ms)
            for (agent, session), time_ms in contacts.items()
        ]
        for start in range(0, len(rows), limits.CONTACTS):
            try:
                await self._proposer.propose(
                    self._command(contacts=tuple(rows[start : start + limits.CONTACTS])), CALL_S
                )
            except RegistryError as error:
                log.info("contacts of agents not recorded yet", agents=len(rows) - start, reason=error.reason)
                self._contacts = {(row.agent, row.session): row.time_ms for row in rows[start:]} | self._contacts
                return

    async def run(self) -> None:
        """Flush contacts now and then, for ever."""
        while True:
            await asyncio.sleep(CONTACT_FLUSH_S)
            await self.flush_contacts()

    def _command(
        self, acks: tuple[commands.Ack, ...] = (), contacts: tuple[commands.Contact, ...] = ()
    ) -> commands.Acknowledge:
        return commands.Acknowledge(
            request_id=self._proposer.new_request_id(), time_ms=self._proposer.clock_ms(), acks=acks, contacts=contacts
        )

"""Acknowledgements on their way: on disk before they are sent, sent until the registry has them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

import structlog
from msgspec import structs

from registry.agent import limits
from registry.agent.api import Ack, RegistryApi
from registry.agent.backoff import delay_s
from registry.agent.files import off_loop
from registry.agent.home import Home
from registry.core import limits as core_limits
from registry.core.errors import RegistryError, Rejected

log = structlog.get_logger(__name__)


def coalesce(acks: Sequence[Ack], limit: int) -> list[Ack]:
    """At most `limit` acknowledgements: within it all of them, past it the newest of each follow, of those the newest.
    What a follow runs now is what matters; its way there may be lost."""
    if len(acks) <= limit:
        return list(acks)
    newest = {(ack.workflow, ack.pointer): ack.sequence for ack in acks}
    return [ack for ack in acks if newest[ack.workflow, ack.pointer] == ack.sequence][-limit:]


class Outbox:
    def __init__(self, home: Home, api: RegistryApi, random: Random, *, limit: int = limits.OUTBOX_ACKS) -> None:
        self._home = home
        self._api = api
        self._random = random
        self._limit = limit
        self._acks = home.load_outbox()
        self._sequence = home.agent.sequences
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        if self._acks:
            self._filled.set()

    def __len__(self) -> int:
        return len(self._acks)

    async def add(self, ack: Ack) -> None:
        """Gives `ack` its sequence and returns when it is durable. Raises OSError."""
        ack = structs.replace(ack, sequence=self._next_sequence())
        await off_loop(self._home.save_ack, ack)
        self._acks = sorted([*self._acks, ack], key=lambda each: each.sequence)
        kept = coalesce(self._acks, self._limit)
        if len(kept) < len(self._acks):
            log.warning("outbox full", dropped=len(self._acks) - len(kept))
            self._drop({ack.sequence for ack in self._acks} - {ack.sequence for ack in kept})
        self._emptied.clear()
        self._filled.set()

    async def wait_sent(self, *, timeout_s: float) -> None:
        """Returns when everything is sent or the time is over; what is left is sent after the next start."""
        if not self._acks:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._emptied.wait()
        except TimeoutError:
            return

    async def run(self) -> None:
        """Sends, for ever."""
        failures = 0
        one_by_one = False
        while True:
            if not self._acks:
                self._filled.clear()
                self._emptied.set()
                one_by_one = False
                await self._filled.wait()
            batch = self._acks[: 1 if one_by_one else core_limits.ACKS]
            try:
                async with asyncio.timeout(limits.ACK_TIMEOUT_S):
                    await self._api.acknowledge(batch)
            except Rejected as refusal:  # said again it would be refused again; the others need not suffer
                if len(batch) == 1:
                    log.error("acknowledgement refused and dropped", ack=structs.asdict(batch[0]), error=str(refusal))
                    self._drop({batch[0].sequence})
                one_by_one = True
            except (RegistryError, TimeoutError) as problem:
                failures += 1
                wait_s = delay_s(failures, limits.ACK_BACKOFF_S, self._random)
                log.info("acknowledgements wait", count=len(self._acks), error=str(problem), retry_s=round(wait_s, 1))
                await asyncio.sleep(wait_s)
            else:
                failures = 0
                self._drop({ack.sequence for ack in batch})

    def _drop(self, sequences: set[int]) -> None:
        self._home.drop_acks(sequences)
        self._acks = [ack for ack in self._acks if ack.sequence not in sequences]

    def _next_sequence(self) -> int:
        """Rises for ever: a block is taken from disk before its first number is used."""
        if self._sequence == self._home.agent.sequences:
            reserved = self._sequence + limits.SEQUENCES_RESERVED
            self._home.save_agent(structs.replace(self._home.agent, sequences=reserved))
        self._sequence += 1
        return self._sequence

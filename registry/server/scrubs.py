"""Scrubs of one member: one at a time, asked for or once a day, and what they have found."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import NoReturn

import structlog

from cluster.api import Cluster
from cluster.kv.api import Environment
from registry.server.feed import busy
from registry.server.limits import SCRUB_INTERVAL_S
from registry.server.repair import Repairs
from registry.server.scrub import Scrub

log = structlog.get_logger()


class Scrubs:
    def __init__(
        self,
        *,
        cluster: Cluster,
        environment: Environment,
        repairs: Repairs,
        monotonic_s: Callable[[], float] = time.monotonic,
        interval_s: float = SCRUB_INTERVAL_S,
    ) -> None:
        self._cluster = cluster
        self._environment = environment
        self._repairs = repairs
        self._monotonic_s = monotonic_s
        self._interval_s = interval_s
        self._since_s = monotonic_s()  # the end of the last one; at first, the start of this process
        self.running = False
        self.done = 0
        self.last_s = 0.0
        self.last: Scrub | None = None

    @property
    def age_s(self) -> float:
        """Since the last scrub of this process was done; before the first one, since it started."""
        return self._monotonic_s() - self._since_s

    async def run(self) -> NoReturn:
        """Once in a while, for ever. Not all members at the same time."""
        while True:
            await asyncio.sleep(self._interval_s * random.uniform(0.75, 1.0))
            if not self.running and not self._cluster.status().repairing:
                async for scrub in self.scrub():
                    last = scrub
                self.repair(last)

    async def scrub(self) -> AsyncIterator[Scrub]:
        """One walk; the same object after every slice. Raises Unavailable(BUSY)."""
        if self.running:
            raise busy("a scrub runs on this member already")
        self.running, began_s = True, self._monotonic_s()
        scrub = Scrub(self._environment)
        try:
            async for _ in scrub.run():
                yield scrub
        finally:
            self.running = False
        self._since_s, self.last, self.done = self._monotonic_s(), scrub, self.done + 1
        self.last_s = self._since_s - began_s
        log.info(
            "scrubbed",
            rows=scrub.rows,
            contents=scrub.contents,
            seconds=round(self.last_s, 1),
            damage=[str(each) for each in scrub.damage],
        )

    def repair(self, scrub: Scrub) -> None:
        """Begin what `remedy` says."""
        if damaged := next((each for each in scrub.damage if each.in_state), None):
            self._repairs.note(str(damaged))

    def remedy(self, scrub: Scrub) -> str:
        """What happens now; empty: all is well."""
        if not scrub.damage:
            return ""
        if any(each.in_state for each in scrub.damage):
            voters = [peer for peer in self._cluster.status().peers if peer.member.role == "voter"]
            if [peer.member.id for peer in voters] == [self._cluster.status().id]:
                return "no other member could give it its data: take a backup of what can be read, or restore one"
            return "this member ends, and fetches its data from another one when it is started again"
        if any(each.in_row for each in scrub.damage):
            return "only its log is damaged: what of it is still needed is replaced when it is read"
        return (
            "the rows are as they were written, so the others may have the same: scrub them too; where they are well, "
            "`regctl cluster replace` this one, else restore a backup or publish the content again"
        )

"""How much more this member can write, before its disk is full.

Below the reserve it says so to the others, and the product refuses what takes room; deletions go on. Below a quarter
of it the member takes no more entries, but lives, votes and answers, until there is room again: a commit that the disk
refuses would end it.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster.kv.api import Environment
from cluster.limits import ROOM_LOOK_S


class Room:
    def __init__(self, environment: Environment, reserve_bytes: int, now: Callable[[], float]) -> None:
        self._environment, self._reserve_bytes, self._now = environment, reserve_bytes, now
        self._measure()

    def _measure(self) -> None:
        self._looked_at = self._now()
        self._environment.set_aside(self._reserve_bytes)  # behind a file that may have grown; else it does nothing
        self.headroom_bytes = self._environment.headroom_bytes()

    @property
    def has_room(self) -> bool:
        return self.headroom_bytes >= self._reserve_bytes

    def takes_entries(self) -> bool:
        return self.headroom_bytes >= self._reserve_bytes // 4

    def look(self) -> bool:
        """Look again, if it is time to. Whether there is room now and was none, or the other way round."""
        if self._now() - self._looked_at < ROOM_LOOK_S:
            return False
        had_room = self.has_room
        self._measure()
        return self.has_room != had_room

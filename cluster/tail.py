"""Observers: in no majority, each follows the committed entries of one other member, its source. Sans I/O.

An observer asks for what comes behind its commit index, and asks again when it has it; the source answers when it has
applied more, or after a heartbeat's time with nothing but how old its knowledge is. Sources may be observers
themselves: the ages add up along the chain. A source that is silent, or has lost the leader, is left for another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from cluster import messages as m
from cluster.configuration import Configuration
from cluster.journal import Journal
from cluster.limits import TAIL_AGE_S, Flow, Timing

Post = Callable[[str, m.Message], None]
NEVER = float("inf")


class Tails:
    """As a source: the observers that wait for entries."""

    def __init__(self, *, journal: Journal, timing: Timing, flow: Flow, now: Callable[[], float], post: Post) -> None:
        self._journal, self._timing, self._flow, self._now, self._post = journal, timing, flow, now, post
        self._waiting: dict[str, tuple[int, float]] = {}  # next index wanted, answered at the latest

    def on_tail(self, peer: str, message: m.Tail) -> None:
        self._waiting[peer] = (message.next_index, self._now() + self._timing.heartbeat_s)

    def disconnected(self, peer: str) -> None:
        self._waiting.pop(peer, None)

    def answer(self, *, term: int, leader: str | None, contact_s: float) -> None:
        """Those for whom there is something, and those who have waited long enough."""
        now, journal = self._now(), self._journal
        for peer, (next_index, until) in list(self._waiting.items()):
            if journal.applied < next_index and now < until:
                continue
            del self._waiting[peer]
            age_ms = int(min(contact_s, 1e9) * 1000)
            previous, entries, previous_term = next_index - 1, list[tuple[int, bytes]](), 0
            if journal.first <= previous <= journal.applied:
                previous_term, entries = journal.term_at(previous), self._entries(next_index)
            tailed = m.Tailed(
                term, leader or "", age_ms, journal.applied, journal.first, previous, previous_term, entries
            )
            self._post(peer, tailed)

    def next_wakeup(self) -> float:
        return min((until for _, until in self._waiting.values()), default=NEVER)

    def _entries(self, index: int) -> list[tuple[int, bytes]]:
        entries, size_bytes = [], 0
        while index <= self._journal.applied and size_bytes < self._flow.append_bytes:
            entry, _, term = self._journal.at(index)
            entries.append((term, entry))
            index, size_bytes = index + 1, size_bytes + len(entry)
        return entries


class Source:
    """As an observer: whom to follow, and how old its word is."""

    def __init__(
        self,
        *,
        id: str,
        datacenter: str,
        preferred: Sequence[str],
        timing: Timing,
        now: Callable[[], float],
        rng: Random,
        post: Post,
    ) -> None:
        """`preferred`: peer addresses to follow while they know the leader, an observer's too."""
        self._id, self._datacenter, self._preferred = id, datacenter, preferred
        self._timing, self._now, self._rng, self._post = timing, now, rng, post
        self.id: str | None = None
        self._asked_at = float("-inf")
        self._waiting = False
        self._left: dict[str, float] = {}  # sources that were of no use, until when
        self._contact_at = float("-inf")

    @property
    def contact_s(self) -> float:
        """Since the leader was heard, over all members between."""
        return self._now() - self._contact_at

    def follow(self, next_index: int, configuration: Configuration, connected: set[str]) -> None:
        """Ask the source, if it has answered or is silent; choose one first if there is none."""
        now = self._now()
        if self._waiting and now - self._asked_at < self._timing.silence_s:
            return
        if self._waiting and self.id:
            self._leave(self.id)
        if self.id not in connected:
            self.id = self._choose(configuration, connected)
        self._waiting = self.id is not None
        if self.id:
            self._asked_at = now
            self._post(self.id, m.Tail(next_index))

    def on_tailed(self, peer: str, message: m.Tailed) -> bool:
        """Whether it came from the source that was asked."""
        if peer != self.id or not self._waiting:
            return False
        self._waiting = False
        self._contact_at = max(self._contact_at, self._now() - message.age_ms / 1000)
        if message.age_ms / 1000 > TAIL_AGE_S:
            self._leave(peer)
        return True

    def disconnected(self, peer: str) -> None:
        if peer == self.id:
            self.id, self._waiting = None, False

    def next_wakeup(self) -> float:
        return self._asked_at + self._timing.silence_s if self._waiting else NEVER

    def _leave(self, peer: str) -> None:
        self.id, self._waiting = None, False
        self._left[peer] = self._now() + TAIL_AGE_S

    def _choose(self, configuration: Configuration, connected: set[str]) -> str | None:
        """A preferred one, else a voter, of this datacenter if there is one; the ones just left come last. Another
        observer only where nobody better is connected: all voters that this member knows of may be gone by now."""
        now = self._now()
        self._left = {peer: until for peer, until in self._left.items() if until > now}
        ranked = sorted(
            (
                record.role != "voter" and record.peer_address not in self._preferred,
                record.id in self._left,
                record.peer_address not in self._preferred,
                record.datacenter != self._datacenter,
                self._rng.random(),
                record.id,
            )
            for record in configuration.members
            if record.id != self._id and record.id in connected
        )
        return ranked[0][-1] if ranked else None

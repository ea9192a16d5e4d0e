"""Connections between members as production has them: every member dials every other and sends on that one only.

A connection keeps its order. What is under way on it is lost when it ends, or still arrives when only the process that
sent it has died. A dropped connection is dialled again as soon as both ends live and nothing cuts them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.world import World

Delay = Callable[[Random], float]  # seconds, one way
REDIAL_S = (0.001, 0.3)
REFUSED_S = 0.5


def any_of(*delays_s: float) -> Delay:
    return lambda rng: rng.choice(delays_s)


def between(least_s: float, most_s: float) -> Delay:
    return lambda rng: rng.uniform(least_s, most_s)


@dataclass(eq=False)
class Link:
    """One direction between two members."""

    is_open: bool = False
    connection: int = 0  # what an older one carried is lost
    last_at: float = 0.0  # when the last frame sent arrives: frames keep their order
    swallows: bool = False  # a black hole: nobody is told


class Network:
    def __init__(self, world: World, delay: Delay, *, shared: bool) -> None:
        """`shared`: both directions of a pair are one connection, as with PySyncObj's own transport."""
        self._world, self._delay, self._shared = world, delay, shared
        self._links: dict[tuple[str, str], Link] = {}
        self.cuts: set[frozenset[str]] = set()
        self.trace = blake2b(digest_size=8)  # of everything delivered: a seed replays bit by bit

    def link(self, a: str, b: str) -> Link:
        if (a, b) not in self._links:
            self._links[a, b] = Link()
        return self._links[a, b]

    # ---- frames
    def send(self, a: str, b: str, frame: bytes) -> None:
        link, world = self.link(a, b), self._world
        if link.is_open:
            link.last_at = max(world.now_s + self._delay(world.rng), link.last_at + 1e-6)
            world.at(link.last_at, partial(self._arrive, a, b, link.connection, frame))

    def _arrive(self, a: str, b: str, connection: int, frame: bytes) -> None:
        link, live = self.link(a, b), self._world.live
        if b in live and link.connection == connection and not link.swallows:
            if live[b].refuses(a):
                return self.drop(a, b)  # it is told when it dials again
            self.trace.update(frame)
            live[b].receive(a, frame)
        return None

    # ---- connections
    def dial(self, a: str, b: str) -> None:
        """Connect both ways, each after a moment of its own unless they share it."""
        delay_s = self._world.rng.uniform(*REDIAL_S)
        self._world.after(delay_s, partial(self._open, a, b))
        self._world.after(delay_s if self._shared else self._world.rng.uniform(*REDIAL_S), partial(self._open, b, a))

    def _open(self, a: str, b: str) -> None:
        link, live = self.link(a, b), self._world.live
        if a in live and b in live and frozenset((a, b)) not in self.cuts and not link.is_open:
            if refusal := live[b].judge(live[a].hello(b)):
                if live[b].refuses(a):
                    return live[a].removed()
                self._world.after(REFUSED_S, partial(self._open, a, b))
                self._world.note(f"{b} refuses {a}: {refusal}")
                return None
            link.is_open, link.connection = True, link.connection + 1
            live[b].unheard(a)  # the new connection replaces what was left of the last one
            live[a].connected(b)
        return None

    def _close(self, a: str, b: str, *, arrives: bool = False) -> None:
        """`arrives`: what is under way still does."""
        link, live = self.link(a, b), self._world.live
        if link.is_open:
            link.is_open = False
            link.connection += 0 if arrives else 1
            if a in live:
                live[a].disconnected(b)
            if b in live and not arrives:
                live[b].unheard(a)

    def drop(self, a: str, b: str) -> None:
        """The connection of one direction ends and is dialled again."""
        self._close(a, b)
        self.dial(a, b)

    def cut(self, a: str, b: str) -> None:
        self.cuts.add(frozenset((a, b)))
        self._close(a, b)
        self._close(b, a)

    def mend(self, a: str, b: str) -> None:
        self.cuts.discard(frozenset((a, b)))
        self.dial(a, b)

    def stall(self, a: str, b: str, for_s: float) -> None:
        """What is sent from now on waits, and arrives late."""
        self.link(a, b).last_at = self._world.now_s + for_s

    def swallow(self, a: str, b: str) -> None:
        self.link(a, b).swallows = True

    def spit(self, a: str, b: str) -> None:
        """The black hole ends; the connection does not survive it."""
        if self.link(a, b).swallows:
            self.link(a, b).swallows = False
            self.drop(a, b)

    def ended(self, name: str, *, arrives: bool) -> None:
        """The process is gone, with the power or alone."""
        for a, b in sorted(self._links):
            if a == name:
                self._close(a, b, arrives=arrives)
            elif b == name:
                self._close(a, b)

    def heal(self) -> None:
        self.cuts.clear()
        for a, b in sorted(self._links):
            self.spit(a, b)
            self.dial(a, b)

"""The fleet counted: how many agents are on target, and who has confirmed a switch. Pure.

What one agent is worth is said by `fleet.standing`. A roll call keeps its count agent by agent, so that a report costs
the same however many agents there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice

from registry.core import fleet
from registry.core.fleet import Standing
from registry.core.model import Agent, LastContact, Pointer

SiteKey = tuple[str, str, str]  # workflow, pointer, site
ASKED_FIRST: tuple[Standing, ...] = ("nacked", "drifted", "behind", "installing", "silent")  # of those not confirmed


@dataclass
class Site:
    """The agents of one site that report for one pointer. Each is counted once, twins beside that."""

    target: Pointer
    standings: dict[Standing, int] = field(default_factory=lambda: dict.fromkeys(fleet.STANDINGS, 0))
    twins: int = 0
    oldest_behind_ms: int = 0  # for so long one has been behind
    oldest_contact_ms: int = 0  # since one was heard of

    @property
    def agents(self) -> int:
        return sum(self.standings.values())


class Census:
    """`switched_ms(pointer, generation)`: when the pointer, as it is now, was switched to a generation."""

    def __init__(self, now_ms: int, switched_ms: Callable[[Pointer, int], int]) -> None:
        self.sites: dict[SiteKey, Site] = {}
        self._now_ms = now_ms
        self._switched_ms = switched_ms

    def add(self, agent: Agent, target: Pointer, contact: LastContact) -> None:
        key = (agent.workflow, agent.pointer, agent.site)
        site = self.sites.get(key)
        if site is None:
            site = self.sites[key] = Site(target)
        standing = fleet.standing(agent, target, contact, self._now_ms)
        site.standings[standing] += 1
        site.twins += fleet.has_twins(contact, self._now_ms)
        site.oldest_contact_ms = max(site.oldest_contact_ms, self._now_ms - contact.time_ms)
        if standing in ("behind", "installing"):
            missed = min(agent.generation + 1, target.generation)
            since_ms = self._switched_ms(target, missed)
            site.oldest_behind_ms = max(site.oldest_behind_ms, self._now_ms - since_ms)


def has_confirmed(agent: Agent, target: Pointer, *, newest: int) -> bool:
    """Whether an agent has confirmed this generation of a pointer or a later one, up to the `newest` one of the same
    snapshot. What it went back to, from a later one that failed, was confirmed before."""
    if agent.generation == target.generation:
        return agent.phase == "confirmed" and agent.running_digest == target.digest
    if agent.generation < target.generation or fleet.is_outdated(agent, newest):
        return False
    return agent.phase == "confirmed" or target.generation <= agent.running_generation < agent.generation


class RollCall:
    """Who of the agents that report for a pointer has confirmed `target`, the pointer after one of its switches."""

    def __init__(self, target: Pointer) -> None:
        self.target = target
        self._standing: dict[str, Standing | None] = {}  # None: confirmed
        self._missing: dict[Standing, dict[str, None]] = {standing: {} for standing in ASKED_FIRST}  # names, in order

    def put(self, agent: Agent, contact: LastContact, now_ms: int, *, newest: int) -> None:
        """As it reported last; `newest`: the pointer's generation then. A silent agent that has confirmed has
        confirmed."""
        self.drop(agent.agent)
        if has_confirmed(agent, self.target, newest=newest):
            self._standing[agent.agent] = None
            return
        standing = fleet.standing(agent, self.target, contact, now_ms, newest=newest)
        if standing == "on_target":  # confirmed a later generation, without running it
            standing = "drifted"
        self._standing[agent.agent] = standing
        self._missing[standing][agent.agent] = None

    def drop(self, name: str) -> None:
        """It was forgotten; or comes again."""
        standing = self._standing.pop(name, None)
        if standing is not None:
            del self._missing[standing][name]

    @property
    def agents(self) -> int:
        return len(self._standing)

    @property
    def confirmed(self) -> int:
        return len(self._standing) - sum(map(len, self._missing.values()))

    def count(self, standing: Standing) -> int:
        """Of those that have not confirmed."""
        return len(self._missing[standing])

    def missing(self, most: int) -> Iterator[str]:
        """Names of those that have not confirmed, the nacked ones first."""
        return islice(chain.from_iterable(self._missing[standing] for standing in ASKED_FIRST), most)

    @property
    def complete(self) -> bool:
        return self.confirmed == self.agents

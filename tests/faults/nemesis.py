"""Faults by a seed: on one member or link while all others are well, and several together."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from registry.client import Client
from tests.faults.disk import Disk
from tests.faults.members import Member, Members
from tests.faults.network import CLIENTS, Network
from tests.faults.power import Power

DELAY_MAX_S = 0.1  # one way
HELD_S = (0.5, 4.0)  # how long a fault lasts
FULL_AT_LEAST_S = 1.0  # a full disk, behind the moment at which the member noticed
NOTICE_S = 5.0
SETTLED_S = 0.5  # all well for so long before the next fault
LOOK_S = 0.02


@dataclass(frozen=True)
class Event:
    at: float
    what: str


@dataclass(frozen=True)
class Single:
    """One fault while all else was well; `ended` is when all was well again."""

    kind: str
    began: float
    ended: float


class Nemesis:
    def __init__(
        self, members: Members, network: Network, disks: dict[str, Disk], power: Power, client: Client, seed: int
    ) -> None:
        self._members, self._network, self._disks, self._power = members, network, disks, power
        self._client = client
        self._rng = random.Random(f"{seed} nemesis")
        self.events: list[Event] = []
        self.singles: list[Single] = []
        self._singles: dict[str, Callable[[Member], Awaitable[None]]] = {
            "kill": self._kill,
            "pause": self._pause,
            "isolate": self._isolate,
            "isolate from members": self._isolate_from_members,
            "cut a link": self._cut_a_link,
            "deaf": self._deaf,
            "mute": self._mute,
            "delay": self._delay,
            "full disk": self._full_disk,
        }
        self._together = {
            "power": self._power_cut,
            "kill two": self._kill_two,
            "split and kill": self._split_and_kill,
            "slow and pause": self._slow_and_pause,
            "two full disks": self._two_full_disks,
        }

    async def run(self, until: float) -> None:
        """Rounds until then (time.monotonic()): each kind of a single fault once, in random order, and something worse
        after every second one, a power cut first. All is well at the end."""
        kinds, worse = [*self._singles], [*self._together]
        await self._well()
        while time.monotonic() < until:
            self._rng.shuffle(kinds)
            for number, kind in enumerate(kinds):
                if time.monotonic() >= until:
                    return
                await self._single(kind)
                if number % 2:
                    await self._several(worse[number // 2 % len(worse)])
            self._rng.shuffle(worse)

    async def _single(self, kind: str) -> None:
        leader = await self._leader()
        on_leader = self._rng.random() < 0.5
        name = self._rng.choice([each for each in self._members.all if (each == leader) == on_leader])
        began = time.monotonic()
        label = f"{kind}, {'leader' if on_leader else 'follower'}"
        self._note(f"{label}: {name}")
        await self._singles[kind](self._members[name])
        await self._well()
        self.singles.append(Single(label, began, time.monotonic()))

    async def _several(self, kind: str) -> None:
        self._note(kind)
        await self._together[kind]()
        await self._well()

    async def _leader(self) -> str:
        while (leader := (await self._client.status()).leader) not in self._members.all:
            await asyncio.sleep(LOOK_S)
        return leader

    async def _well(self) -> None:
        """Everything healed, all ready, and the time that clients need to notice."""
        self._network.heal()
        for disk in self._disks.values():
            disk.free()
        for member in self._members.all.values():
            member.resume()
            if not member.wanted:
                member.start()
        self._note("healed")
        await self._members.until_ready()
        await self._leader()
        self._note("all ready")
        await asyncio.sleep(SETTLED_S)

    def _note(self, what: str) -> None:
        self.events.append(Event(time.monotonic(), what))

    async def _hold(self) -> None:
        await asyncio.sleep(self._rng.uniform(*HELD_S))

    async def _kill(self, member: Member) -> None:
        member.kill()
        await self._hold()

    async def _pause(self, member: Member) -> None:
        member.pause()
        await self._hold()

    async def _isolate(self, member: Member) -> None:
        for other in self._network.others(member.name):
            self._network.cut(member.name, other)
        await self._hold()

    async def _isolate_from_members(self, member: Member) -> None:
        for other in self._network.others(member.name, clients=False):
            self._network.cut(member.name, other)
        await self._hold()

    async def _cut_a_link(self, member: Member) -> None:
        self._network.cut(member.name, self._rng.choice(self._network.others(member.name, clients=False)))
        await self._hold()

    async def _deaf(self, member: Member) -> None:
        for other in self._network.others(member.name, clients=self._rng.random() < 0.5):
            self._network.cut_one_way(other, member.name)
        await self._hold()

    async def _mute(self, member: Member) -> None:
        for other in self._network.others(member.name, clients=self._rng.random() < 0.5):
            self._network.cut_one_way(member.name, other)
        await self._hold()

    async def _delay(self, member: Member) -> None:
        delay_s = self._rng.uniform(0.01, DELAY_MAX_S)
        for other in self._network.others(member.name):
            self._network.delay(member.name, other, delay_s)
            self._network.delay(other, member.name, delay_s)
        await self._hold()

    async def _full_disk(self, member: Member) -> None:
        """The member lives on with its disk full, and says that it has no room."""
        self._disks[member.name].fill()
        give_up = time.monotonic() + NOTICE_S
        while not (noticed := await self._has_no_room(member)) and time.monotonic() < give_up:
            await asyncio.sleep(LOOK_S)
        self._note(f"{member.name} {'has no room' if noticed else 'has not said that its disk is full'}")
        await asyncio.sleep(FULL_AT_LEAST_S)

    async def _has_no_room(self, member: Member) -> bool:
        members = (await self._client.status()).members
        return any(each.name == member.name and each.no_space for each in members)

    async def _power_cut(self) -> None:
        self._members.kill()
        for member in self._members.all.values():
            count = self._power.lose(member.data_dir, self._rng)
            self._note(f"{member.name} had {count} writes not synced")

    async def _kill_two(self) -> None:
        for member in self._some(2):
            member.kill()
        await self._hold()

    async def _split_and_kill(self) -> None:
        one, other = self._some(2)
        await asyncio.gather(self._isolate(one), self._kill(other))

    async def _slow_and_pause(self) -> None:
        for start in (*self._network.names, CLIENTS):
            for end in self._network.others(start):
                self._network.delay(start, end, self._rng.uniform(0, DELAY_MAX_S))
        await asyncio.gather(self._hold(), self._pause(self._some(1)[0]))

    async def _two_full_disks(self) -> None:
        for member in self._some(2):
            await self._full_disk(member)

    def _some(self, count: int) -> list[Member]:
        return self._rng.sample([*self._members.all.values()], count)

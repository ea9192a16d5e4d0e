"""A virtual clock, network and disks under the production replica. A seed decides everything.

Time goes from event to event: a frame that arrives, half a tick, a timer that is due, the end of a fault.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random

from cluster import seams
from cluster.api import StateMachine
from cluster.configuration import NOBODY, founding
from cluster.limits import FLOW, Flow, Timing
from cluster.replica import Replica
from tests.simulation.checkers import Checkers, Violation
from tests.simulation.clients import Clients
from tests.simulation.network import Delay, Network, any_of
from tests.simulation.process import Disk, Host, Process
from tests.simulation.state import Counting

# Periods for one-way delays of up to 300 ms, so short that elections are frequent.
TIGHT = Timing(heartbeat_s=0.1, election_min_s=0.4, election_max_s=0.8, step_down_s=1.5, pre_vote_s=0.3, silence_s=1.0)
# Appends split and windows fill with some dozens of the simulator's small entries.
# Logs are so short, and states come in so many pieces, that members need one often.
NARROW = Flow(append_bytes=100, window_bytes=600, chunk_bytes=400, log_entries=40, trim_entries=20, digest_every=8)
SHORT = Flow(log_entries=200, digest_every=16)
FAR = any_of(0.001, 0.002, 0.01, 0.05, 0.3)
CLUSTER, ADDRESS = "sim", "sim:1"
DOWN_S = (0.05, 3.0)  # until a process that ended is started again
TRACE_EVENTS = 2000


@dataclass(frozen=True)
class Setting:
    """What a seed is played under."""

    voters: int = 3
    delay: Delay = FAR
    timing: Timing = TIGHT
    flow: Flow = FLOW
    shared_connections: bool = False
    sync_s: float = 0.001  # at most, without a fault
    disk: Callable[[], Disk] = Disk
    machine: Callable[[str, Checkers, int], StateMachine] = Counting  # of a member, at most to a feature level
    replica: type[Replica] = field(default=Replica)


def build_replica(process: Process) -> Replica:
    """All that the simulator knows about how a member is made."""
    world = process.world
    return world.setting.replica(
        record=process.record,
        founding=founding(CLUSTER, dict.fromkeys(world.founders, ADDRESS)) if process.is_founder else NOBODY,
        level=world.levels[process.name],
        environment=process.disk,
        state_machine=world.setting.machine(process.name, world.checkers, world.levels[process.name]),
        timing=world.setting.timing,
        now=process.now,
        rng=Random(world.rng.random()),
        send=process.send,
        in_background=process.beside,
        flow=world.setting.flow,
    )


def start_member(world: World, name: str) -> Host:
    return Process(world, name, build_replica)


class World:
    """Members on one virtual clock. It is the clock of every engine in this process: see `seams.use_clock`."""

    def __init__(self, seed: int, setting: Setting, start: Callable[[World, str], Host] = start_member) -> None:
        self.rng, self.setting, self._start = Random(seed), setting, start
        self.now_s, self.engine_clock_ahead_s = 0.0, 0.0
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._count = self.ticks = 0
        self.trace: deque[tuple[float, str]] = deque(maxlen=TRACE_EVENTS)
        self.checkers = Checkers()
        self.clients = Clients(self)
        self.network = Network(self, setting.delay, shared=setting.shared_connections)
        self.founders = [f"n{number}" for number in range(setting.voters)]
        self.names = list(self.founders)  # of every process there ever was: ids
        self.disks = {name: setting.disk() for name in self.names}
        self.levels = dict.fromkeys(self.names, 1)  # the highest feature level that its release can apply
        self.lost: set[str] = set()  # their disks are
        self.gone: set[str] = set()  # removed, or their disk is lost: they never come back
        self.live: dict[str, Host] = {}
        seams.use_clock(lambda: self.now_s + self.engine_clock_ahead_s)
        for name in self.names:
            self.start(name)

    # ---- time
    def at(self, time_s: float, action: Callable[[], object]) -> None:
        self._count += 1
        heapq.heappush(self._events, (time_s, self._count, action))

    def after(self, delay_s: float, action: Callable[[], object]) -> None:
        self.at(self.now_s + delay_s, action)

    def advance(self, for_s: float) -> None:
        """Let everything happen that is due within `for_s`."""
        until_s, events = self.now_s + for_s, self._events
        while events and events[0][0] <= until_s:
            self.now_s, _, action = heapq.heappop(events)
            action()
        self.now_s = until_s

    def until(self, reached: Callable[[], bool], limit_s: float, what: str, step_s: float = 0.1) -> None:
        end_s = self.now_s + limit_s
        while not reached():
            if self.now_s >= end_s:
                raise Violation(f"{what} in {limit_s:.0f} s: {self.describe()}")
            self.advance(step_s)

    # ---- members
    def start(self, name: str) -> None:
        if name not in self.live and name not in self.gone and not self.disks[name].is_full:
            self.disks[name].crash_at = ""
            self.live[name] = self._start(self, name)
            for other in sorted(self.live):
                if other != name:
                    self.network.dial(name, other)

    def join(self, name: str, level: int = 1) -> None:
        """A new process over an empty disk, that wants to be a member."""
        self.names.append(name)
        self.disks[name], self.levels[name] = self.setting.disk(), level
        self.start(name)

    def start_again(self, name: str) -> None:
        if name not in self.live and name not in self.gone and not self.disks[name].is_full:
            self.note(f"{name} starts")
            self.start(name)

    def stop(self, name: str, *, power: bool = False, down_s: float | None = None) -> None:
        """The process ends as it is, alone or with the machine's power, and comes back later: soon, if not told."""
        self.live.pop(name).is_dead = True
        self.disks[name].crash()
        self.network.ended(name, arrives=not power)
        self.after(self.rng.uniform(*DOWN_S) if down_s is None else down_s, partial(self.start_again, name))

    def end(self, name: str) -> None:
        """For ever."""
        if name in self.live:
            self.stop(name)
        self.gone.add(name)

    def present(self) -> list[str]:
        """Every process that is there or comes back."""
        return [name for name in self.names if name not in self.gone]

    def members(self) -> list[str]:
        """Those of the newest configuration that any has applied, who are there or come back."""
        known = [process.members() for process in self.live.values()] or [(0, frozenset(self.founders))]
        _, ids = max(known, key=lambda each: each[0])
        return [name for name in self.present() if name in ids]

    def rotten(self) -> set[str]:
        """Who has damage in its state, found or not."""
        return {name for name in self.present() if self.disks[name].rotten_rows}

    def leaders(self) -> list[str]:
        return [name for name in self.names if name in self.live and self.live[name].leads()]

    def heal(self) -> None:
        """All faults end at once; what was lost stays lost."""
        self.note("healed")
        for name in self.present():
            disk = self.disks[name]
            disk.crash_at, disk.slow_s, disk.is_full = "", 0.0, False
            disk.give_room()
            if name in self.live:
                self.live[name].sends_left = -1
                self.live[name].resume()
        for name in self.present():
            self.start(name)
        for name in sorted(self.rotten()):
            self.live[name].scrub()
            self.stop(name, down_s=0.0)
        self.network.heal()

    def converged(self) -> bool:
        if not self.live or any(name not in self.live for name in self.members()):
            return False
        levels = {self.live[name].is_level() for name in self.members()}
        return len(levels) == 1 and all(is_all for *_, is_all in levels)

    # ---- what is told
    def note(self, event: str) -> None:
        self.trace.append((self.now_s, event))

    def describe(self) -> str:
        return "; ".join(
            self.live[name].describe() if name in self.live else f"{name} is down" for name in self.present()
        )

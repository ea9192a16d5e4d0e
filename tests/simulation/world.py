"""A virtual clock, network and disks under the production replica. A seed decides everything."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable
from hashlib import blake2b
from random import Random

from cluster import messages as m
from cluster import seams
from cluster.api import StateMachine
from cluster.journal import TABLES
from cluster.kv.api import Reader, Transaction
from cluster.kv.memory_env import MemoryEnvironment
from cluster.limits import FLOW, Flow, Timing
from cluster.replica import Replica, Result
from tests.simulation.checkers import Checkers

# Periods for one-way delays of up to 300 ms.
WIDE = Timing(heartbeat_s=0.1, election_min_s=0.4, election_max_s=0.8, step_down_s=1.5, pre_vote_s=0.3, silence_s=1.0)
# Appends split and windows fill with some dozens of the simulator's small entries.
NARROW = Flow(append_bytes=100, window_bytes=600)
STEP_S = 0.01
STATE = "state"


class Crash(Exception):
    """Power is gone."""


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Disk(MemoryEnvironment):
    """What was committed survives; a crash can be set before or after the next commit."""

    def __init__(self) -> None:
        super().__init__([*TABLES, STATE])
        self.crash_at = ""

    def commit(self) -> None:
        if self.crash_at == "before":
            raise Crash
        super().commit()
        if self.crash_at == "after":
            raise Crash


class Counting:
    """A state machine that counts and keeps a digest of its history."""

    def __init__(self, name: str, checkers: Checkers) -> None:
        self._name, self._checkers = name, checkers

    def apply(self, transaction: Transaction, command: bytes) -> bytes:
        generation, digest = read_state(transaction)
        generation, digest = generation + 1, self._checkers.chain(digest, command)
        transaction.put(STATE, b"state", generation.to_bytes(8, "big") + digest)
        self._checkers.applied(self._name, generation, command, digest)
        return generation.to_bytes(8, "big")

    def committed(self) -> None: ...


def read_state(reader: Reader) -> tuple[int, bytes]:
    row = reader.get(STATE, b"state") or bytes(8)
    return int.from_bytes(row[:8], "big"), row[8:]


class Network:
    """In order per connection; a cut drops what is in flight; frames are really encoded."""

    def __init__(self, world: World, delays_s: list[float]) -> None:
        self._world, self._delays_s = world, delays_s
        self._queue: list[tuple[float, int, str, str, int, bytes]] = []
        self._count = 0
        self._latest: dict[tuple[str, str], float] = defaultdict(float)
        self._connection: Counter[frozenset[str]] = Counter()
        self.cuts: set[frozenset[str]] = set()
        self.one_way: set[tuple[str, str]] = set()
        self.trace = blake2b(digest_size=8)  # of everything delivered: a seed replays bit by bit

    def linked(self, a: str, b: str) -> bool:
        live = self._world.live
        return a in live and b in live and frozenset((a, b)) not in self.cuts

    def send(self, a: str, b: str, message: m.Message) -> None:
        if self.linked(a, b):
            now = self._world.clock.now_s
            at = max(now + self._world.rng.choice(self._delays_s), self._latest[a, b] + 1e-6)
            self._latest[a, b] = at
            self._count += 1
            item = (at, self._count, a, b, self._connection[frozenset((a, b))], m.frame(message))
            heapq.heappush(self._queue, item)

    def deliver(self) -> None:
        while self._queue and self._queue[0][0] <= self._world.clock.now_s:
            _, _, a, b, connection, frame = heapq.heappop(self._queue)
            same = connection == self._connection[frozenset((a, b))]
            if same and self.linked(a, b) and (a, b) not in self.one_way:
                self.trace.update(frame)
                self._world.live[b].receive(a, m.decode_message(frame[4:]))

    def connect(self, a: str, b: str) -> None:
        if self.linked(a, b):
            self._world.live[a].connected(b)
            self._world.live[b].connected(a)

    def disconnect(self, a: str, b: str) -> None:
        self._connection[frozenset((a, b))] += 1
        for x, y in ((a, b), (b, a)):
            if x in self._world.live:
                self._world.live[x].disconnected(y)

    def cut(self, a: str, b: str) -> None:
        if frozenset((a, b)) not in self.cuts:
            self.disconnect(a, b)
            self.cuts.add(frozenset((a, b)))

    def mend(self, a: str, b: str) -> None:
        if frozenset((a, b)) in self.cuts:
            self.cuts.discard(frozenset((a, b)))
            self.connect(a, b)


class World:
    """Members on one virtual clock. It is the clock of every engine in this process: see `seams.use_clock`."""

    def __init__(
        self,
        seed: int,
        voters: int,
        *,
        delays_s: list[float],
        flow: Flow = FLOW,
        disk: Callable[[], Disk] = Disk,
        machine: Callable[[str, Checkers], StateMachine] = Counting,
    ) -> None:
        self.rng, self.clock, self._flow, self._machine = Random(seed), Clock(), flow, machine
        self.names = [f"n{number}" for number in range(voters)]
        self.checkers = Checkers()
        self.live: dict[str, Replica] = {}
        self.disks = {name: disk() for name in self.names}
        self.network = Network(self, delays_s)
        seams.use_clock(self.clock)
        for name in self.names:
            self.start(name)

    def start(self, name: str) -> None:
        disk = self.disks[name]
        disk.crash_at = ""
        self.live[name] = Replica(
            name=name,
            voters=self.names,
            environment=disk,
            state_machine=self._machine(name, self.checkers),
            timing=WIDE,
            now=self.clock,
            rng=Random(self.rng.random()),
            send=lambda peer, message: self.network.send(name, peer, message),
            flow=self._flow,
        )
        for other in sorted(self.live):
            if other != name:
                self.network.connect(name, other)

    def stop(self, name: str) -> None:
        del self.live[name]
        self.disks[name].crash()
        for other in self.names:
            if other != name:
                self.network.disconnect(name, other)

    def leaders(self) -> list[Replica]:
        return [replica for name, replica in sorted(self.live.items()) if replica.engine.leads()]

    def advance(self) -> None:
        self.clock.now_s += STEP_S
        self.network.deliver()
        for name in sorted(self.live):
            replica = self.live[name]
            try:
                while replica.tick():
                    pass
            except Crash:
                self.stop(name)
                continue
            if replica.engine.leads():
                self.checkers.leads(name, replica.engine.term())

    # ---- what clients do
    def write(self, name: str, command: bytes) -> None:
        floor = self.checkers.floor

        def done(result: Result) -> None:
            if isinstance(result, bytes):
                self.checkers.write_done(floor, int.from_bytes(result, "big"))
            else:
                self.checkers.failures[type(result).__name__] += 1

        self.live[name].propose(command, done)

    def read(self, name: str) -> None:
        floor = self.checkers.floor

        def served() -> None:
            with self.disks[name].snapshot() as snapshot:
                self.checkers.read_done(floor, read_state(snapshot)[0])

        self.live[name].read(served)

    def heal(self) -> None:
        self.network.one_way.clear()
        self.network.cuts.clear()
        for name in self.names:
            self.disks[name].crash_at = ""
            if name not in self.live:
                self.start(name)
        for a in self.names:
            for b in self.names:
                if a < b:
                    self.network.connect(a, b)

    def converged(self) -> bool:
        if len(self.live) < len(self.names):
            return False
        ends = {(replica.journal.applied, replica.journal.last) for replica in self.live.values()}
        return len(ends) == 1 and all(applied == last for applied, last in ends)

    def describe(self) -> str:
        return "; ".join(
            f"{replica.name} term {replica.engine.term()} log {replica.journal.last} applied {replica.journal.applied}"
            f"{' leads' if replica.engine.leads() else ''}"
            for _, replica in sorted(self.live.items())
        )

"""PySyncObj as it is shipped, in the simulator's network: its classes, settings, pickle and poll loop; no guards.

Its journal is its own one in memory, kept over restarts with term, vote and commit index: a perfect disk.
"""

from __future__ import annotations

import pickle
import random
from functools import partial
from typing import TYPE_CHECKING, Any

from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.journal import MemoryJournal
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from cluster.seams import Peer

if TYPE_CHECKING:
    from tests.simulation.world import World

POLL_S = 0.05  # autoTickPeriod


class KeptJournal(MemoryJournal):
    _commit_index = 1

    def setRaftCommitIndex(self, index: int) -> None:
        self._commit_index = index

    def getRaftCommitIndex(self) -> int:
        return self._commit_index


class PerfectDisk:
    """What the world asks of a disk; a crash loses nothing."""

    crash_at, slow_s, is_full, rotten_rows = "", 0.0, False, ()

    def __init__(self) -> None:
        self.journal = KeptJournal()

    def crash(self) -> None: ...

    def give_room(self) -> None: ...


class Wire(Transport):
    """The messages it gives are pickled, as its own transport does."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(None, None, ())
        self._world, self._name = world, name

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        if not self._world.network.link(self._name, node.id).is_open:
            return False
        self._world.network.send(self._name, node.id, pickle.dumps(message))
        return True

    def connected(self, peer: str) -> None:
        self._onNodeConnected(Peer(peer))

    def disconnected(self, peer: str) -> None:
        self._onNodeDisconnected(Peer(peer))

    def hello(self, to: str) -> None: ...

    def judge(self, hello: None) -> str:
        return ""  # everybody is welcome

    def members(self) -> tuple[int, frozenset[str]]:
        return 0, frozenset(self._world.founders)

    def refuses(self, peer: str) -> bool:
        return False

    def receive(self, peer: str, frame: bytes) -> None:
        self._onMessageReceived(Peer(peer), pickle.loads(frame))


class Counter(SyncObj):
    def __init__(self, name: str, names: list[str], conf: SyncObjConf, wire: Wire) -> None:
        self.total = 0
        super().__init__(Peer(name), [Peer(other) for other in names if other != name], conf, transport=wire)

    @replicated
    def add(self, amount: int) -> int:
        self.total += amount
        return self.total


class ShippedProcess:
    def __init__(self, world: World, name: str, *, batch_bytes: int) -> None:
        self._world, self._name = world, name
        self.is_dead = self.is_paused = False
        conf = SyncObjConf(
            autoTick=False,  # the loop is below
            appendEntriesBatchSizeBytes=batch_bytes,
            journalFile=world.disks[name].journal,
        )
        random.seed(world.rng.random())  # its timeouts
        self._wire = Wire(world, name)
        self._engine = Counter(name, world.names, conf, self._wire)
        self._journal: KeptJournal = world.disks[name].journal
        self._polled = 0
        self._poll()

    def _poll(self) -> None:
        """Its poll returns when something arrives, at the latest after its period; then it ticks."""
        if not self.is_dead:
            self._polled += 1
            self._engine.doTick(0.0)
            self._world.after(POLL_S, partial(self._poll_again, self._polled))

    def _poll_again(self, polled: int) -> None:
        if polled == self._polled:
            self._poll()

    def hello(self, to: str) -> None: ...

    def judge(self, hello: None) -> str:
        return ""  # everybody is welcome

    def members(self) -> tuple[int, frozenset[str]]:
        return 0, frozenset(self._world.founders)

    def refuses(self, peer: str) -> bool:
        return False

    def receive(self, peer: str, frame: bytes) -> None:
        self._wire.receive(peer, frame)
        self._poll()

    def connected(self, peer: str) -> None:
        self._wire.connected(peer)

    def disconnected(self, peer: str) -> None:
        self._wire.disconnected(peer)

    def unheard(self, peer: str) -> None:
        """It has one connection per pair and no word for one of two directions."""

    def resume(self) -> None: ...

    def write(self) -> None:
        self._engine.add(1)

    def leads(self) -> bool:
        return bool(self._engine._isLeader())

    def is_level(self) -> tuple[int, bool]:
        last = self._journal[-1][1]
        return self._engine.raftLastApplied, self._engine.raftLastApplied == last

    def describe(self) -> str:
        return f"{self._name} log {self._journal[-1][1]} applied {self._engine.raftLastApplied}"

"""One production replica under hand-made messages: the test plays its peers, its clock and its network."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeVar

from cluster import messages as m
from cluster import seams
from cluster.entries import NO_OP, pack
from cluster.journal import LOG, META, TABLES
from cluster.kv.api import Transaction
from cluster.kv.memory_env import MemoryEnvironment, MemoryReader
from cluster.limits import FLOW, Flow
from cluster.replica import Replica, Result
from tests.unit.cluster.engine_bench import TIMING, Clock

STATE = "state"
Sent = tuple[str, m.Message]
_M = TypeVar("_M")


class Disk(MemoryEnvironment):
    """Tells when it commits."""

    def __init__(self, on_commit: Callable[[], None] = lambda: None) -> None:
        super().__init__([*TABLES, STATE])
        self.on_commit = on_commit

    def commit(self) -> None:
        super().commit()
        self.on_commit()


class Appending:
    """A state machine that keeps every command; `!` is one it falls over."""

    def __init__(self) -> None:
        self.commits = 0

    def apply(self, transaction: Transaction, command: bytes) -> bytes:
        if command == b"!":
            raise ZeroDivisionError
        rows = transaction.get(STATE, b"rows") or b""
        transaction.put(STATE, b"rows", rows + command)
        return b"applied " + command

    def committed(self) -> None:
        self.commits += 1


class ReplicaBench:
    """Member a. `trace` has what left and when the disk committed, in order."""

    def __init__(self, voters: str = "abc", *, disk: Disk | None = None, flow: Flow = FLOW, seed: int = 1) -> None:
        self.clock, self.disk, self.machine = Clock(), disk or Disk(), Appending()
        self.trace: list[Sent | str] = []
        self.disk.on_commit = lambda: self.trace.append("commit")
        self.results: list[Result] = []
        self.reads = 0
        seams.use_clock(self.clock)
        self.replica = Replica(
            name="a",
            voters=list(voters),
            environment=self.disk,
            state_machine=self.machine,
            timing=TIMING,
            now=self.clock,
            rng=Random(seed),
            send=self._send,
            flow=flow,
        )
        for peer in self.replica.peers:
            self.replica.connected(peer)
        self.tick()

    def _send(self, peer: str, message: m.Message) -> None:
        if not isinstance(message, m.Report):
            self.trace.append((peer, m.decode_message(m.frame(message)[4:])))

    # ---- driving
    def tick(self, *inbox: Sent, after_s: float = 0.0) -> list[Sent]:
        """What leaves until there is nothing more to do."""
        self.clock.now_s += after_s
        for peer, message in inbox:
            self.replica.receive(peer, message)
        start = len(self.trace)
        while self.replica.tick():
            pass
        return [event for event in self.trace[start:] if not isinstance(event, str)]

    def answers(self, message: m.Message, *, sender: str = "b") -> list[m.Message]:
        """What goes back to the sender."""
        return [answer for peer, answer in self.tick((sender, message)) if peer == sender]

    def lead(self) -> ReplicaBench:
        """Leader, its no-op committed with the help of b."""
        self.campaign()
        while not self.engine.leads():
            for peer in self.replica.peers:
                self.tick((peer, m.Vote(self.engine.term())))
        for peer in self.replica.peers[: len(self.replica.voters) // 2]:
            self.acknowledge(peer)
        return self

    def campaign(self) -> list[Sent]:
        """The vote requests, after a pre-vote that all others grant."""
        term = self.engine.term()
        self.tick(after_s=1.0)
        granted = m.PreVoteReply(term + 1, True, term)
        sent = self.tick(*[(peer, granted) for peer in self.replica.peers])
        assert self.engine.term() == term + 1
        return sent

    def acknowledge(self, peer: str = "b", index: int | None = None, *, number: int = 1) -> list[Sent]:
        next_index = (index or self.last) + 1
        return self.tick((peer, m.AppendReply(number, self.engine.term(), next_index, True, False)))

    def follow(self, *entries: bytes, term: int = 1, commit_index: int = 1, leader: str = "b") -> list[m.Message]:
        """Entries of one term after the log's end; without any, a sign of life."""
        previous, previous_term = self.last, self.replica.journal.term_at(self.last)
        batch = [(term, entry) for entry in entries]
        return self.answers(m.Append(1, term, commit_index, previous, previous_term, batch), sender=leader)

    def propose(self, command: bytes) -> None:
        self.proposal = self.replica.propose(command, self.results.append)

    def read(self) -> None:
        def served() -> None:
            self.reads += 1

        self.replica.read(served)

    # ---- looking
    @property
    def engine(self) -> seams.Engine:
        return self.replica.engine

    @property
    def last(self) -> int:
        return self.replica.journal.last

    @property
    def commit(self) -> int:
        return self.engine.commit_index()

    def log(self) -> list[tuple[int, bytes]]:
        """(term, entry) from index 1 on."""
        return [(entry[2], entry[0]) for entry in self.replica.journal[0:]]

    def state(self) -> bytes:
        with self.disk.snapshot() as snapshot:
            return snapshot.get(STATE, b"rows") or b""

    def durable(self) -> tuple[int, str, int]:
        """Term, vote and last index on the disk."""
        with self.disk.snapshot() as snapshot:
            return durable(snapshot)


def durable(snapshot: MemoryReader) -> tuple[int, str, int]:
    term, vote = snapshot.get(META, b"term") or b"", snapshot.get(META, b"vote") or b""
    last, _ = next(snapshot.scan(LOG, reverse=True), (b"", b""))
    return int.from_bytes(term, "big"), vote.decode(), int.from_bytes(last, "big")


def of_type(kind: type[_M], sent: list[Sent]) -> list[tuple[str, _M]]:
    return [(peer, message) for peer, message in sent if isinstance(message, kind)]


__all__ = ["NO_OP", "Disk", "ReplicaBench", "Sent", "of_type", "pack"]

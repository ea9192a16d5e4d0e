"""One production replica under hand-made messages: the test plays its peers, its clock and its network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import TypeVar

from cluster import membership, seams
from cluster import messages as m
from cluster.catchup import Work
from cluster.configuration import Configuration, MemberRecord, Role
from cluster.entries import NO_OP, pack, pack_configuration
from cluster.journal import LOG, META, TABLES
from cluster.kv.api import Transaction
from cluster.kv.memory_env import MemoryEnvironment, MemoryReader
from cluster.limits import CATCH_UP_BYTES_S, FLOW, Flow
from cluster.membership import Candidate, Change, Changed
from cluster.proposals import Result
from cluster.replica import Replica
from tests.unit.cluster.engine_bench import TIMING, Clock

STATE = "state"
Sent = tuple[str, m.Message]
_M = TypeVar("_M")


def record(id: str, role: Role = "voter", datacenter: str = "") -> MemberRecord:
    """Of `NAME` or `NAME/INCARNATION`."""
    name, _, incarnation = id.partition("/")
    return MemberRecord(
        id=id,
        name=name,
        incarnation=incarnation or f"of {name}",
        peer_address=f"{name}:1",
        datacenter=datacenter,
        role=role,
    )


def configured(voters: str = "abc", observers: str = "", *, level: int = 1) -> Configuration:
    """One letter a member."""
    members = [record(id) for id in voters] + [record(id, "observer") for id in observers]
    return Configuration(cluster="bench", members=tuple(members), level=level)


class Disk(MemoryEnvironment):
    """Tells when it commits."""

    def __init__(self, on_commit: Callable[[], None] = lambda: None, *, newer: tuple[str, ...] = ()) -> None:
        super().__init__([*TABLES, *newer, STATE])
        self.on_commit = on_commit

    def commit(self, *, synced: bool = True) -> None:
        super().commit(synced=synced)
        self.on_commit()


class Appending:
    """A state machine that keeps every command; `!` is one it falls over."""

    def __init__(self) -> None:
        self.commits = self.installs = 0
        self.levels: list[int] = []  # of each command
        self.forgets = False

    def apply(self, transaction: Transaction, command: bytes, level: int) -> bytes:
        self.levels.append(level)
        if command == b"!":
            raise ZeroDivisionError
        rows = transaction.get(STATE, b"rows") or b""
        transaction.put(STATE, b"rows", rows + command)
        return b"applied " + command

    def committed(self) -> None:
        self.commits += 1

    def forget_log(self) -> bool:
        return self.forgets

    def installed(self) -> None:
        self.installs += 1


class ReplicaBench:
    """Member a, unless told otherwise. `trace` has what left and when the disk committed, in order."""

    def __init__(
        self,
        voters: str = "abc",
        observers: str = "",
        *,
        id: str = "a",
        founding: Configuration | None = None,
        disk: Disk | None = None,
        flow: Flow = FLOW,
        seed: int = 1,
        level: int = 1,
        datacenter: str = "",
        preferred: Sequence[str] = (),
        catch_up_bytes_s: float = CATCH_UP_BYTES_S,
    ) -> None:
        self.clock, self.disk, self.machine = Clock(), disk or Disk(), Appending()
        self.trace: list[Sent | str] = []
        self.reported: dict[str, m.Report] = {}  # last ones sent
        self.background: list[tuple[Work, Work]] = []
        self.background_waits = False  # until `finish`
        self.disk.on_commit = lambda: self.trace.append("commit")
        self.results: list[Result] = []
        self.reads = 0
        seams.use_clock(self.clock)
        self.replica = Replica(
            record=record(id, datacenter=datacenter),
            founding=configured(voters, observers) if founding is None else founding,
            environment=self.disk,
            state_machine=self.machine,
            timing=TIMING,
            now=self.clock,
            rng=Random(seed),
            send=self._send,
            in_background=lambda work, then: self.background.append((work, then)),
            preferred=preferred,
            level=level,
            flow=flow,
            catch_up_bytes_s=catch_up_bytes_s,
        )
        for peer in self.replica.others:
            self.replica.connected(peer)
        self.tick()

    def _send(self, peer: str, message: m.Message) -> None:
        if isinstance(message, m.Report):
            self.reported[peer] = message
        else:
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
        if self.background and not self.background_waits:
            self.finish()
        return [event for event in self.trace[start:] if not isinstance(event, str)]

    def finish(self) -> None:
        """What was put beside the loop."""
        waiting, self.background = self.background, []
        for work, then in waiting:
            work()
            then()
        self.tick()

    def hear(self, *peers: str, applied: int | None = None, level: int = 1) -> list[Sent]:
        """They live, and have applied so much; the voters answer the leader too."""
        index, term = self.replica.journal.applied if applied is None else applied, self.engine.term()
        inbox: list[Sent] = [(peer, m.Report(index, level, 0, b"")) for peer in peers]
        return self.tick(*inbox, *[(peer, m.AppendReply(0, term, 2, False, False)) for peer in peers])

    def pass_s(self, seconds: float, *living: str) -> list[Sent]:
        """Time passes; those who live answer all the while."""
        sent: list[Sent] = []
        for _ in range(round(seconds / TIMING.heartbeat_s)):
            sent += self.tick(after_s=TIMING.heartbeat_s)
            sent += self.hear(*living)
        return sent

    def answers(self, message: m.Message, *, sender: str = "b") -> list[m.Message]:
        """What goes back to the sender."""
        return [answer for peer, answer in self.tick((sender, message)) if peer == sender]

    def lead(self) -> ReplicaBench:
        """Leader, its no-op committed with the help of b."""
        self.campaign()
        while not self.engine.leads():
            for peer in self.peers:
                self.tick((peer, m.Vote(self.engine.term())))
        for peer in self.peers[: len(self.replica.voters) // 2]:
            self.acknowledge(peer)
        return self

    def campaign(self) -> list[Sent]:
        """The vote requests, after a pre-vote that all others grant."""
        term = self.engine.term()
        self.tick(after_s=1.0)
        granted = m.PreVoteReply(term + 1, True, term)
        sent = self.tick(*[(peer, granted) for peer in self.peers])
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

    def change(self, change: Change) -> list[Sent]:
        """Asked for here; what leaves."""
        self.proposal = self.replica.propose(membership.encode_change(change), self.results.append, change=True)
        return self.tick()

    def introduce(self, id: str, level: int = 1) -> None:
        """A process that waits is connected."""
        self.replica.introduce(Candidate(record(id), level))
        self.replica.connected(id)
        self.tick()

    def read(self) -> None:
        def served() -> None:
            self.reads += 1

        self.replica.read(served)

    # ---- looking
    @property
    def peers(self) -> list[str]:
        """The other voters."""
        return sorted(self.replica.voters - {self.replica.id})

    @property
    def changed(self) -> Changed:
        """What became of the last change that was asked for."""
        result = self.results[-1]
        assert isinstance(result, bytes), result
        return membership.decode_changed(result)

    @property
    def configuration(self) -> Configuration:
        return self.replica.configuration

    def roles(self) -> dict[str, str]:
        return {member.id: member.role for member in self.configuration.members}

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
        """(term, entry) from its first index on."""
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


def of_type(kind: type[_M], sent: Iterable[Sent | str]) -> list[tuple[str, _M]]:
    """Of a trace, too: what is no message in it is passed over."""
    messages = [each for each in sent if not isinstance(each, str)]
    return [(peer, message) for peer, message in messages if isinstance(message, kind)]


def sent_to(peer: str, sent: list[Sent]) -> list[m.Message]:
    return [message for name, message in sent if name == peer]


__all__ = ["NO_OP", "Disk", "ReplicaBench", "Sent", "of_type", "pack", "pack_configuration", "sent_to"]

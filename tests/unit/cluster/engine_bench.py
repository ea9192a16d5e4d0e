"""PySyncObj alone on its seams: a virtual clock, a journal in memory, and a wire that the test holds."""

from __future__ import annotations

from random import Random
from typing import Any

from pysyncobj.node import Node
from pysyncobj.transport import Transport

from cluster import seams
from cluster.journal import TABLES, Journal
from cluster.kv.memory_env import MemoryEnvironment
from cluster.limits import APPEND_BYTES, Timing
from cluster.seams import Engine, Peer

TIMING = Timing(heartbeat_s=0.1, election_min_s=0.4, election_max_s=0.8, step_down_s=1.5, pre_vote_s=0.3, silence_s=1.0)
Message = dict[str, Any]


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Wire(Transport):
    """Keeps what the engine sends; `deliver` is what arrives."""

    ready = True

    def __init__(self) -> None:
        super().__init__(None, None, ())
        self.sent: list[tuple[str, Message]] = []

    def send(self, node: Node, message: Message) -> bool:
        self.sent.append((node.id, message))
        return True

    def deliver(self, peer: str, **message: Any) -> list[tuple[str, Message]]:
        """What the engine answers."""
        self.sent.clear()
        self._onMessageReceived(Peer(peer), message)
        return list(self.sent)


class EngineBench:
    """An engine alone, on its seams."""

    def __init__(self, peers: str = "bc", environment: MemoryEnvironment | None = None) -> None:
        self.environment = environment or MemoryEnvironment(TABLES)
        self.clock, self.wire, self.journal = Clock(), Wire(), Journal(self.environment)
        self.may_elect, self.told, self.applied = True, list[object](), list[tuple[int, bytes, int]]()
        seams.use_clock(self.clock)
        self.engine = Engine(
            name="a",
            peers=list(peers),
            journal=self.journal,
            transport=self.wire,
            timing=TIMING,
            append_bytes=APPEND_BYTES,
            rng=Random(1),
            may_elect=self._asked,
            became_leader=lambda: self.told.append(("leader", len(self.wire.sent))),
            apply=lambda index, entry, term: self.applied.append((index, entry, term)),
        )
        for peer in peers:
            self.wire._onNodeConnected(Peer(peer))

    def _asked(self) -> bool:
        self.told.append("may elect?")
        return self.may_elect

    def tick(self, after_s: float = 0.0) -> list[tuple[str, Message]]:
        self.clock.now_s += after_s
        self.wire.sent.clear()
        self.engine.doTick(0.0)
        return list(self.wire.sent)

    def lead(self) -> EngineBench:
        self.tick(1.0)
        for peer in ("b", "c", "d"):
            self.wire.deliver(peer, type="response_vote", term=self.engine.term())
            if self.engine.leads():
                break
        assert self.engine.leads()
        return self

    def follow(self, *entries: bytes, term: int = 1, commit_index: int = 1) -> list[tuple[str, Message]]:
        """Entries of one term after the log's end, from b."""
        last = self.journal.last
        return self.wire.deliver(
            "b",
            type="append_entries",
            term=term,
            commit_index=commit_index,
            prevLogIdx=last,
            prevLogTerm=self.journal.term_at(last),
            entries=[(entry, last + 1 + at, term) for at, entry in enumerate(entries)],
        )

    def acknowledge(self, peer: str, index: int, *, success: bool = True, reset: bool = False) -> None:
        self.wire.deliver(peer, type="next_node_idx", next_node_idx=index + 1, success=success, reset=reset)

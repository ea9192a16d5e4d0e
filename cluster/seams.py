"""The only place that knows PySyncObj's insides (0.3.17, pinned).

We use its elections, its append and its commit rule. Everything else is replaced: loop, clock, journal, transport,
wire, apply, callbacks, compaction. Each private name below has a contract test in
tests/unit/cluster/test_seams.py that fails when a release moves it. What the engine leaves open, and the guards that
close it, are described in docs/RAFT.md.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any

import pysyncobj.syncobj as engine_module
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from cluster.journal import Entry, Journal
from cluster.limits import ENTRY_BYTES, Timing

NEVER = 10**9
LEADER = 2  # of the engine's states


class _NullPoller:
    def poll(self, timeout: float) -> None: ...
    def subscribe(self, *args: object) -> None: ...
    def unsubscribe(self, *args: object) -> None: ...


class Peer(Node):
    """A member as the engine names it. Its hash is stable, since the engine iterates over sets of nodes and the
    simulator must replay the same order."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self._hash = zlib.crc32(id.encode())

    def __hash__(self) -> int:
        return self._hash

    __eq__ = Node.__eq__


# A sender that is in no configuration: see Engine.adopt.
NOBODY = Peer("\x00nobody")


def use_clock(clock: Callable[[], float]) -> None:
    """The clock of every engine in this process: monotonic seconds."""
    engine_module.monotonicTime = clock


engine_module.PIPE_NOTIFIER_ENABLED = False
engine_module.createPoller = lambda kind: _NullPoller()
engine_module.createJournal = lambda journal: journal
use_clock(time.monotonic)


class Engine(SyncObj):
    """PySyncObj under our journal and transport. Methods only: the engine calls getattr on every attribute while it
    is being built, so a property would run too early."""

    def __init__(
        self,
        *,
        name: str,
        peers: list[str],
        journal: Journal,
        transport: Transport,
        timing: Timing,
        append_bytes: int,
        rng: Random,
        may_elect: Callable[[], bool],
        became_leader: Callable[[], None],
        apply: Callable[[int, bytes, int], None],
    ) -> None:
        """`apply(index, entry, term)` is called once per entry, in order; `may_elect` is asked when the election
        deadline has passed; `became_leader` is told before the first append of a term is sent."""
        self._journal, self._rng, self._may_elect, self._apply = journal, rng, may_elect, apply
        self._periods, self._append_bytes = timing, append_bytes
        conf = SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=False,  # append and commit propagate at once (hole 17)
            commandsWaitLeader=False,
            appendEntriesPeriod=timing.heartbeat_s,
            raftMinTimeout=timing.election_min_s,
            raftMaxTimeout=timing.election_max_s,
            leaderFallbackTimeout=timing.step_down_s,
            connectionTimeout=NEVER,
            logCompactionMinEntries=NEVER,
            logCompactionMinTime=NEVER,
            appendEntriesBatchSizeBytes=2 * ENTRY_BYTES,  # above any entry: hole 14 is never entered
            journalFile=journal,
            onStateChanged=lambda old, new: became_leader() if new == LEADER else None,
        )
        super().__init__(Peer(name), [Peer(peer) for peer in peers], conf, nodeClass=Peer, transport=transport)
        self._SyncObj__raftLastApplied: int = journal.applied  # nothing is replayed
        # There are no dumps: a peer behind the log's start is offered none, and the transport sees that it needs one.
        self._private("serializer").getTransmissionData = lambda node: None

    # ---- overridden
    def _SyncObj__connectedToAnyone(self) -> bool:
        return self._may_elect()

    def _SyncObj__generateRaftTimeout(self) -> float:
        spread = self._periods.election_max_s - self._periods.election_min_s
        return self._periods.election_min_s + spread * self._rng.random()

    def _SyncObj__getEntries(
        self, fromIDx: int | None, count: int | None = None, maxSizeBytes: int | None = None
    ) -> Sequence[Entry]:
        """As the engine's, but one append carries at most `append_bytes` and one entry; its own bound only keeps it out
        of the chunked path."""
        journal = self._journal
        if fromIDx is None or fromIDx < journal.first:
            return []
        entries = journal[fromIDx - journal.first :]
        if maxSizeBytes is None:
            return entries if count is None else entries[:count]
        size_bytes = 0
        for position, entry in enumerate(entries):
            size_bytes += len(entry[0])
            if size_bytes >= self._append_bytes:
                return entries[: position + 1]
        return entries

    def _SyncObj__parseChangeClusterRequest(self, command: bytes) -> None:
        return None

    def _SyncObj__doApplyCommand(self, command: bytes) -> None:
        index = self._SyncObj__raftLastApplied + 1
        self._apply(index, command, self._journal.term_at(index))

    # ---- read
    def leads(self) -> bool:
        return self._isLeader()

    def leader(self) -> str | None:
        node = self._getLeader()
        return node.id if node and node != NOBODY else None

    def term(self) -> int:
        return self.raftCurrentTerm

    def commit_index(self) -> int:
        return self.raftCommitIndex

    def match_index(self, peer: str) -> int:
        return int(self._private("raftMatchIndex").get(Peer(peer), 0))

    def next_index(self, peer: str) -> int:
        return int(self._private("raftNextIndex")[Peer(peer)])

    def next_timer(self) -> float:
        """When the engine wants its next tick, on its clock."""
        if self.leads():
            return float(self._private("newAppendEntriesTime"))
        return float(self._private("raftElectionDeadline"))

    # ---- moved
    def append(self, entry: bytes) -> int:
        """Leader only: add one entry after the log's end, to be sent with `send_appends`. Returns its index."""
        index = self._journal.last + 1
        self._journal.add(entry, index, self.term())
        return index

    def send_appends(self) -> None:
        """Leader only: to every voter what it lacks, or a sign of life."""
        self._private("sendAppendEntries")()

    def set_next_index(self, peer: str, index: int) -> None:
        self._private("raftNextIndex")[Peer(peer)] = index

    def reconfigure(self, peers: Iterable[str], now: float) -> None:
        """From now on these are the other voters. A new one counts as heard now: it had no chance yet."""
        nodes = {Peer(peer) for peer in peers}
        self._private("updateClusterConfiguration")(nodes)
        heard = self._private("lastResponseTime")
        for node in nodes:
            heard.setdefault(node, now)

    def commit_to(self, index: int) -> None:
        """Follower only: everything up to `index` is known to be committed, and this log has it."""
        self._SyncObj__raftCommitIndex = max(self.commit_index(), index)

    def restart_at(self, index: int) -> None:
        """Follower only: the journal now starts with the last entry of a state that is applied up to `index`."""
        self._SyncObj__raftCommitIndex = self._SyncObj__raftLastApplied = index

    def adopt(self, term: int, deliver: Callable[[Node, dict[str, Any]], None]) -> None:
        """Step down into a higher term and grant nothing: a vote request that no log can lose to."""
        deliver(NOBODY, {"type": "request_vote", "term": term, "last_log_term": -1, "last_log_index": 0})

    def hand_over(self, peer: str) -> None:
        """Ask `peer` to campaign at once; the engine does so only if the peer has the whole log."""
        self.transferLeadership(Peer(peer))

    def _private(self, name: str) -> Any:
        return getattr(self, f"_SyncObj__{name}")

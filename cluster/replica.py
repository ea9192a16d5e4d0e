"""One member's Raft, without I/O: messages and proposals go in, messages and results come out, a tick at a time.

A tick handles everything that arrived since the last one inside one write transaction and syncs it once:

    inbox -> guard -> engine (elect, commit, apply) -> gather proposals into one entry -> COMMIT (sync) -> promises

Promises leave only after that commit: votes, append acknowledgements, read confirmations. Two things leave before it:
a leader's appends, since its own copy counts only in a later tick, and the results of what it applies, since their
entries are synced on a majority already. The same code runs in production (member.py: asyncio, sockets, LMDB) and in
the simulator (tests/simulation: virtual clock, network and disks). Whatever raises in here ends the process: memory
and disk must never disagree.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

from cluster import entries
from cluster import messages as m
from cluster.api import ClusterError, NotAttempted, OutcomeUnknown, StateMachine
from cluster.guards import Guard
from cluster.journal import Journal
from cluster.kv.api import Environment
from cluster.limits import FLOW, GATHER_BYTES, REPORT_S, Flow, Timing
from cluster.reads import Rounds
from cluster.seams import Engine

Result = bytes | ClusterError
EARLY = (m.Append, m.Heartbeat, m.Proposed)  # a leader's, before its commit; numbered ones keep their order


@dataclass(eq=False)
class Proposal:
    command: bytes
    done: Callable[[Result], None]
    remote: bool = False  # forwarded here by another member
    taken: bool = field(default=False, init=False)  # in the log or on its way to the leader: it may happen
    call: int = field(default=0, init=False)  # the last one that forwarded it


Reader = Callable[[], None]  # told when a snapshot is recent enough
Readers = dict[Reader, None]  # in order; one that gave up is found at once


class Replica:
    """`send(peer, message)` must keep the order per peer; a message that cannot be sent is dropped.
    `now()` is monotonic seconds. Call `tick` whenever something was put in and at `next_wakeup`."""

    def __init__(
        self,
        *,
        name: str,
        voters: Iterable[str],
        environment: Environment,
        state_machine: StateMachine,
        timing: Timing,
        now: Callable[[], float],
        rng: Random,
        send: Callable[[str, m.Message], None],
        flow: Flow = FLOW,
    ) -> None:
        self.name, self.voters = name, frozenset(voters)
        assert name in self.voters
        self.peers = sorted(self.voters - {name})
        self._environment, self._state_machine = environment, state_machine
        self._timing, self._now, self._send = timing, now, send
        self.journal = Journal(environment)
        self._guard = Guard(
            name=name,
            voters=self.voters,
            journal=self.journal,
            timing=timing,
            flow=flow,
            clock=now,
            post=self._post,
        )
        self.engine = self._guard.engine = Engine(
            name=name,
            peers=self.peers,
            journal=self.journal,
            transport=self._guard,
            timing=timing,
            append_bytes=flow.append_bytes,
            rng=rng,
            may_elect=self._guard.may_elect,
            became_leader=self._guard.begin_term,
            apply=self._apply,
        )
        self._inbox: list[tuple[str, m.Message]] = []
        self._outbox: list[tuple[str, m.Message]] = []
        self._connected: set[str] = set()
        self._leader_seen: tuple[str | None, int] = (None, 0)
        # proposals: waiting here, in the log, at the leader
        self._queue: deque[Proposal] = deque()
        self._in_log: dict[int, tuple[int, list[Proposal]]] = {}  # index: term
        self._forwarded: dict[int, tuple[str, Proposal]] = {}  # call: leader asked
        self._deposed: dict[str, float] = {}  # leaders of before, until when they may still answer
        self._results: list[tuple[Proposal, Result]] = []
        self._announced = self.journal.applied
        # reads: waiting to be asked, asked of the leader, waiting for an index to be applied
        self._rounds = Rounds(name, self._guard.is_majority)
        self._readers: Readers = {}
        self._asked: dict[int, tuple[str, Readers]] = {}
        self._barriers: list[tuple[int, Readers]] = []
        # Not from 0: an answer to this member's previous life must not meet a call of this one.
        self._calls = rng.getrandbits(48)
        self._retry_at = float("-inf")  # after a leader said that it is none
        self._handover_until = self._handover_next = float("-inf")
        self._report_at = now()
        self.reports: dict[str, tuple[int, float]] = {}  # peer: applied index, heard at

    # ---- what goes in; each is followed by a tick
    def connected(self, peer: str) -> None:
        """Messages to `peer` can be sent from now on."""
        self._connected.add(peer)
        self._guard.connected(peer)
        self._probe_newest(peer)

    def disconnected(self, peer: str) -> None:
        self._connected.discard(peer)
        self._guard.disconnected(peer)
        self._ask_again(peer)
        self._give_up(peer)

    def unheard(self, peer: str) -> None:
        """What `peer` sent last may be lost: answers to calls, confirmations of reads."""
        self._ask_again(peer)
        self._give_up(peer)
        self._probe_newest(peer)

    def receive(self, peer: str, message: m.Message) -> None:
        self._inbox.append((peer, message))

    def propose(self, command: bytes, done: Callable[[Result], None]) -> Proposal:
        proposal = Proposal(command, done)
        self._queue.append(proposal)
        return proposal

    def withdraw(self, proposal: Proposal) -> bool:
        """Give up waiting. True: it has not happened and will not. False: it may; it is not forwarded again."""
        if not proposal.taken:
            self._queue.remove(proposal)
        self._forwarded.pop(proposal.call, None)
        return not proposal.taken

    def read(self, reader: Reader) -> None:
        self._readers[reader] = None

    def withdraw_read(self, reader: Reader) -> None:
        """Forget it where it might wait for ever: for a leader, or for an answer that was lost."""
        self._readers.pop(reader, None)
        for call, (_, readers) in list(self._asked.items()):
            readers.pop(reader, None)
            if not readers:
                del self._asked[call]

    def hand_over(self, until: float) -> None:
        """Take no more proposals and pass leadership on, until it has happened or `until`."""
        self._handover_until = until

    # ---- the tick
    def tick(self) -> bool:
        """Returns whether another tick should follow at once."""
        self.advance()
        self.commit()
        return self.has_more()

    def advance(self) -> None:
        """A tick up to its commit. What may leave before it has left then: a leader's appends, and the results of
        what it applied (their entries are synced on a majority; only the transaction that applies them is open).
        Between `advance` and `commit` things may be put in, but not ticked."""
        inbox, self._inbox = self._inbox, []
        for peer, message in inbox:
            self._receive(peer, message)
        self._pass_leadership()
        self.engine.doTick(0.0)
        self._notice_leader()
        for leader in [leader for leader, until in self._deposed.items() if until <= self._now()]:
            self._give_up(leader)
        self._take_proposals()
        self._take_reads()
        self._report()
        self._tell_results()
        if self.engine.leads():
            self._flush(only=EARLY)

    def commit(self) -> None:
        """The rest of the tick: sync, then the promises."""
        self._environment.commit()
        if self.journal.applied != self._announced:
            self._announced = self.journal.applied
            self._state_machine.committed()
        self._tell_readers()
        self._flush()

    def next_wakeup(self) -> float:
        """When the next tick is due if nothing arrives, on the clock given."""
        now = self._now()
        timer = self.engine.next_timer()
        if timer <= now:  # an election is due: at once, or when an unanswered pre-vote is asked again
            timer = self._guard.next_campaign()
        due = min(timer, self._report_at, *self._deposed.values())
        if self._handover_until > now:
            due = min(due, self._handover_next)
        if self._retry_at > now and (self._queue or self._readers):
            due = min(due, self._retry_at)
        return due

    def has_more(self) -> bool:
        """Work for another tick at once: what was put in since, the rest of the queue, or a lone member's own
        majority, which no message will announce."""
        if self._inbox or not self.engine.leads():
            return bool(self._inbox)
        lone = not self.peers and self.engine.commit_index() < self.journal.last
        return lone or (bool(self._queue) and not self._handing_over())

    def _receive(self, peer: str, message: m.Message) -> None:
        match message:
            case m.ReadRequest():
                self._on_read_request(peer, message.call)
            case m.ReadIndex():
                _, readers = self._asked.pop(message.call, ("", {}))
                self._read_at(message.index, readers)
            case m.ReadProbe():
                self._on_read_probe(peer, message)
            case m.ReadConfirm():
                self._rounds.confirm(message.round, message.term, peer)
            case m.Propose():
                self._on_propose(peer, message)
            case m.Proposed():
                self._on_proposed(message)
            case m.Report():
                self.reports[peer] = (message.applied_index, self._now())
            case _:
                self._guard.receive(peer, message)

    def _post(self, peer: str, message: m.Message) -> None:
        self._outbox.append((peer, message))

    def _flush(self, only: tuple[type[m.Message], ...] = ()) -> None:
        outbox, self._outbox = self._outbox, []
        for peer, message in outbox:
            if only and not isinstance(message, only):
                self._outbox.append((peer, message))
            elif peer in self._connected:
                self._send(peer, message)

    def _apply(self, index: int, entry: bytes, term: int) -> None:
        in_log_term, proposals = self._in_log.pop(index, (term, []))
        commands = entries.unpack(entry)
        transaction = self._environment.transaction()
        results = [self._state_machine.apply(transaction, command) for command in commands]
        self.journal.set_applied(index)
        if in_log_term == term:
            self._results.extend(zip(proposals, results, strict=False))
        else:
            lost = NotAttempted("another leader's entry took its place")
            self._results.extend((proposal, lost) for proposal in proposals)

    def _tell_results(self) -> None:
        results, self._results = self._results, []
        for proposal, result in results:
            proposal.done(result)

    def _tell_readers(self) -> None:
        """The transaction that holds what they will see is durable."""
        if self._barriers:
            waiting = self._barriers
            self._barriers = [barrier for barrier in waiting if barrier[0] > self.journal.applied]
            for index, readers in waiting:
                if index <= self.journal.applied:
                    for reader in readers:
                        reader()

    # ---- leadership
    def _notice_leader(self) -> None:
        leader, term = self.engine.leader(), self.engine.term()
        if (leader, term) == self._leader_seen:
            return
        previous, _ = self._leader_seen
        self._leader_seen = (leader, term)
        self._retry_at = float("-inf")
        if previous == self.name:
            self._rounds.abandon()
        elif previous is not None and previous != leader:
            self._ask_again(previous)
            self._deposed[previous] = self._now() + self._timing.step_down_s
        self._deposed.pop(leader or "", None)

    def _ask_again(self, leader: str) -> None:
        for call in [call for call, (asked, _) in self._asked.items() if asked == leader]:
            self._readers.update(self._asked.pop(call)[1])

    def _give_up(self, leader: str) -> None:
        """`leader` will not answer any more."""
        self._deposed.pop(leader, None)
        for call in [call for call, (asked, _) in self._forwarded.items() if asked == leader]:
            _, proposal = self._forwarded.pop(call)
            self._results.append((proposal, OutcomeUnknown(f"lost contact with {leader} before it answered")))

    def _handing_over(self) -> bool:
        return self._now() < self._handover_until

    def _pass_leadership(self) -> None:
        now = self._now()
        if not (self.engine.leads() and self._handing_over() and now >= self._handover_next):
            return
        self._handover_next = now + self._timing.heartbeat_s
        if ready := [peer for peer in self.peers if peer in self._connected]:
            self.engine.hand_over(max(ready, key=lambda peer: (self.engine.match_index(peer), peer)))

    def _reachable_leader(self) -> str | None:
        leader = self.engine.leader()
        return leader if leader in self._connected and self._now() >= self._retry_at else None

    # ---- proposals
    def _take_proposals(self) -> None:
        if not self._queue:
            return
        if self.engine.leads():
            if not self._handing_over():
                self._append_gathered()
            return
        for proposal in [proposal for proposal in self._queue if proposal.remote]:
            self._queue.remove(proposal)
            proposal.done(NotAttempted("not the leader any more"))
        if leader := self._reachable_leader():
            for proposal in self._queue:
                self._calls += 1
                proposal.taken, proposal.call = True, self._calls
                self._forwarded[self._calls] = (leader, proposal)
                self._post(leader, m.Propose(self._calls, proposal.command))
            self._queue.clear()

    def _append_gathered(self) -> None:
        gathered: list[Proposal] = []
        size_bytes = 0
        while self._queue:
            size_bytes += len(self._queue[0].command)
            if gathered and size_bytes > GATHER_BYTES:
                break
            gathered.append(self._queue.popleft())
            gathered[-1].taken = True
        index = self.engine.append(entries.pack([proposal.command for proposal in gathered]))
        _, replaced = self._in_log.get(index, (0, []))
        lost = OutcomeUnknown("leadership was lost before it was committed")
        self._results.extend((proposal, lost) for proposal in replaced)
        self._in_log[index] = (self.engine.term(), gathered)

    def _on_propose(self, peer: str, message: m.Propose) -> None:
        def done(result: Result) -> None:
            if isinstance(result, bytes):
                self._post(peer, m.Proposed(message.call, True, result))
            elif isinstance(result, NotAttempted):
                self._post(peer, m.Proposed(message.call, False, b""))

        if self.engine.leads() and not self._handing_over():
            self._queue.append(Proposal(message.command, done, remote=True))
        else:
            self._post(peer, m.Proposed(message.call, False, b""))

    def _on_proposed(self, message: m.Proposed) -> None:
        asked, proposal = self._forwarded.pop(message.call, (None, None))
        if proposal is None:
            return
        if message.attempted:
            self._results.append((proposal, message.result))
        else:
            proposal.taken = False
            self._queue.append(proposal)
            if asked == self.engine.leader():
                self._retry_at = self._now() + self._timing.heartbeat_s

    # ---- linearizable reads
    def _take_reads(self) -> None:
        if self.engine.leads():
            if self._readers:
                readers, self._readers = self._readers, {}
                self._rounds.add(lambda index: self._read_at(index, readers))
            own_term_committed = self.journal.term_at(self.engine.commit_index()) == self.engine.term()
            if self._rounds.waiting and own_term_committed:
                number = self._rounds.start(self.engine.commit_index(), self.engine.term())
                for peer in self.peers if number else ():
                    self._post(peer, m.ReadProbe(number or 0, self.engine.term()))
        elif self._readers and (leader := self._reachable_leader()):
            self._calls += 1
            self._asked[self._calls] = (leader, self._readers)
            self._readers = {}
            self._post(leader, m.ReadRequest(self._calls))

    def _probe_newest(self, peer: str) -> None:
        if self.engine.leads() and (number := self._rounds.newest):
            self._post(peer, m.ReadProbe(number, self.engine.term()))

    def _read_at(self, index: int, readers: Readers) -> None:
        if index:
            self._barriers.append((index, readers))
        else:
            self._readers.update(readers)
            self._retry_at = self._now() + self._timing.heartbeat_s

    def _on_read_request(self, peer: str, call: int) -> None:
        if self.engine.leads():
            self._rounds.add(lambda index: self._post(peer, m.ReadIndex(call, index)))
        else:
            self._post(peer, m.ReadIndex(call, 0))

    def _on_read_probe(self, peer: str, message: m.ReadProbe) -> None:
        term = self.engine.term()
        if message.term > term:
            self._guard.adopt(message.term)
        if message.term >= term:
            self._post(peer, m.ReadConfirm(message.round, message.term))
        else:
            self._post(peer, m.HigherTerm(term))

    # ---- status
    def _report(self) -> None:
        now = self._now()
        if now >= self._report_at:
            self._report_at = now + REPORT_S
            for peer in self.peers:
                self._post(peer, m.Report(self.journal.applied))

    def leader_contact_s(self) -> float:
        return 0.0 if self.engine.leads() else self._now() - self._guard.heard_at

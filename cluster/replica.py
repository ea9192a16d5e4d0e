"""One member's Raft, without I/O: messages and proposals go in, messages and results come out, a tick at a time.

A tick handles everything that arrived since the last one inside one write transaction, and syncs it where
it holds a promise:

    inbox -> guard -> engine (elect, commit, apply) -> gather proposals into one entry -> COMMIT (sync) -> promises

Promises leave only after that commit: votes, append acknowledgements, read confirmations. Two things leave before it:
a leader's appends, since its own copy counts only in a later tick, and the results of what it applies, since their
entries are synced on a majority already. Appends that only tell what is committed leave behind those results, at the
beginning of `commit`. The same code runs in production (member.py: asyncio, sockets, LMDB) and in
the simulator (tests/simulation: virtual clock, network and disks). Whatever raises in here ends the process: memory
and disk must never disagree.

Voters run the engine in earnest; an observer's engine never campaigns and is fed with committed entries by its source.
A member in repair (recovery.py) does not run it at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from msgspec import structs

from cluster import entries, membership
from cluster import messages as m
from cluster.api import StateMachine
from cluster.applying import Applying
from cluster.catchup import Work
from cluster.configuration import NOBODY, Configuration, MemberRecord
from cluster.damage import Damage
from cluster.governor import Governor
from cluster.guards import Guard
from cluster.journal import Journal
from cluster.kv.api import Environment
from cluster.limits import CATCH_UP_BYTES_S, FLOW, RESERVE_BYTES, Flow, Timing
from cluster.proposals import Proposal, Proposals, Result
from cluster.reads import Reader, Reads
from cluster.recovery import Recovery
from cluster.reports import Reports
from cluster.room import Room
from cluster.seams import Engine

EARLY = (m.Append, m.Heartbeat, m.Proposed)  # a leader's, before its commit; numbered ones keep their order


def _is_awaited(addressed: tuple[str, m.Message]) -> bool:
    """Entries and results: callers wait for them. That something is committed can wait until they were told."""
    _, message = addressed
    return isinstance(message, m.Proposed) or (isinstance(message, m.Append) and bool(message.entries))


class Replica:
    """`send(peer, message)` must keep the order per peer; a message that cannot be sent is dropped.
    `now()` is monotonic seconds. Call `tick` whenever something was put in and at `next_wakeup`.

    `record` is what this member says of itself; `founding` the configuration of a new data directory, of a founder;
    `level` the highest feature level it can apply; `preferred` the peer addresses of sources, for an observer.
    `in_background(work, then)` runs `work` beside the loop, and `then` on it, followed by a tick. With less than
    `reserve_bytes` of headroom it says that it has no room.
    Raises Diverged when an earlier life found its state to differ, MemberRemoved, ReleaseTooOld, DataDamaged.
    """

    def __init__(
        self,
        *,
        record: MemberRecord,
        environment: Environment,
        state_machine: StateMachine,
        timing: Timing,
        now: Callable[[], float],
        rng: Random,
        send: Callable[[str, m.Message], None],
        in_background: Callable[[Work, Work], None],
        founding: Configuration = NOBODY,
        preferred: Sequence[str] = (),
        level: int = 1,
        flow: Flow = FLOW,
        catch_up_bytes_s: float = CATCH_UP_BYTES_S,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> None:
        self.id, self.record, self._level = record.id, record, level
        self._environment = environment
        self._timing, self._flow, self._now, self._send = timing, flow, now, send
        self.journal = Journal(environment, founding)
        self.damage = Damage(environment, self.journal, lambda: self.journal.configuration.voters == {self.id})
        self.damage.check()
        self._inbox: list[tuple[str, m.Message]] = []
        self._is_awaited = False  # something in it, and not only for the next tick to hear
        self._outbox: list[tuple[str, m.Message]] = []
        self._connected: set[str] = set()
        self._leader_seen: tuple[str | None, int] = (None, 0)
        self._durable = self.journal.last  # index
        self._has_told = False
        self._retry_at = float("-inf")  # after a leader said that it is none
        # Not from 0: an answer to this member's previous life must not meet a call of this one.
        self._calls = rng.getrandbits(48)

        self.room = Room(environment, reserve_bytes, now)
        self.reports = Reports(self.id, now, self._connected)
        self._proposals = Proposals(timing=timing, now=now, post=self._post)
        self._applying = Applying(
            record=record,
            level=level,
            environment=environment,
            journal=self.journal,
            state_machine=state_machine,
            proposals=self._proposals,
            digest_every=flow.digest_every,
        )
        self._build_engine(rng)
        self._reads = Reads(id=self.id, is_majority=self.guard.is_majority, post=self._post)
        self.governor = Governor(replica=self, proposals=self._proposals, timing=timing, now=now)
        self.recovery = Recovery(
            replica=self,
            environment=environment,
            timing=timing,
            flow=flow,
            bytes_s=catch_up_bytes_s,
            preferred=preferred,
            now=now,
            rng=rng,
            post=self._post,
            in_background=in_background,
        )

    def _build_engine(self, rng: Random) -> None:
        self.guard = Guard(
            name=self.id,
            journal=self.journal,
            timing=self._timing,
            flow=self._flow,
            clock=self._now,
            post=self._post,
            must_fetch=lambda leader, index: self.recovery.fetcher.want(index),
            takes_entries=self.room.takes_entries,
        )
        self.engine = self.guard.engine = Engine(
            name=self.id,
            peers=sorted(self.guard.voters - {self.id}),
            journal=self.journal,
            transport=self.guard,
            timing=self._timing,
            append_bytes=self._flow.append_bytes,
            rng=rng,
            may_elect=self.guard.may_elect,
            became_leader=self.guard.begin_term,
            apply=self._applying.apply,
        )

    # ---- what it is
    @property
    def configuration(self) -> Configuration:
        return self.journal.configuration

    @property
    def reachable(self) -> Configuration:
        """Who is dialled and let in: the members, and whom the newest configuration removes, until that is applied.
        Before, it may be undone, and nobody must have ended because of it."""
        newest, applied = self.journal.configuration, self.journal.applied_configuration
        leaving = tuple(member for member in applied.members if not newest.get(member.id))
        return structs.replace(newest, members=newest.members + leaving, removed=applied.removed)

    @property
    def voters(self) -> frozenset[str]:
        return self.guard.voters

    @property
    def votes(self) -> bool:
        return self.id in self.guard.voters

    @property
    def tails(self) -> bool:
        """Whether it follows a source. A promotion that is only held may have been undone: then no leader sends it
        anything, and only what is committed tells it so."""
        return not self.votes or self.id not in self.journal.applied_configuration.voters

    @property
    def others(self) -> list[str]:
        return [member.id for member in self.configuration.members if member.id != self.id]

    def leader_contact_s(self) -> float:
        if self.engine.leads():
            return 0.0
        return self._now() - self.guard.heard_at if self.votes else self.recovery.source.contact_s

    # ---- what goes in; each is followed by a tick, at once unless told otherwise
    def connected(self, peer: str) -> None:
        """Messages to `peer` can be sent from now on."""
        self._connected.add(peer)
        self.reports.hasten()
        self.guard.connected(peer)
        self._probe_newest(peer)

    def disconnected(self, peer: str) -> None:
        self._connected.discard(peer)
        self.guard.disconnected(peer)
        self.recovery.disconnected(peer)
        self._reads.ask_again(peer)
        self._proposals.give_up(peer)

    def unheard(self, peer: str) -> None:
        """What `peer` sent last may be lost: answers to calls, confirmations of reads."""
        self._reads.ask_again(peer)
        self._proposals.give_up(peer)
        self._probe_newest(peer)

    def receive(self, peer: str, message: m.Message) -> bool:
        """Whether a tick is due for it. What nobody waits for is dropped, or heard in the next one: else an idle leader
        would tick for every answer to its heartbeats, and a busy one for every voter behind a majority."""
        if isinstance(message, m.ReadConfirm) and not self._reads.awaits(message):
            return False
        self._inbox.append((peer, message))
        is_due = not (self.engine.leads() and self.guard.says_nothing_new(peer, message))
        self._is_awaited = self._is_awaited or is_due
        return is_due

    def propose(self, command: bytes, done: Callable[[Result], None], *, change: bool = False) -> Proposal:
        """`change`: the command is an encoded membership.Change, the result an encoded membership.Changed."""
        proposal = Proposal(command, done, change=change)
        self._proposals.add(proposal)
        return proposal

    @property
    def gathers_until(self) -> float:
        """What was proposed waits for more, and needs no tick until then; 0: it does not wait."""
        waits = self.engine.leads() and not self._proposals.changes and not self._proposals.are_due()
        return self._proposals.due_at() if waits else 0.0

    def withdraw(self, proposal: Proposal) -> bool:
        """Give up waiting. True: it has not happened and will not. False: it may; it is not forwarded again."""
        return self._proposals.withdraw(proposal)

    def read(self, reader: Reader) -> None:
        self._reads.add(reader)

    def withdraw_read(self, reader: Reader) -> None:
        self._reads.withdraw(reader)

    def hand_over(self, until: float) -> None:
        """Take no more proposals and pass leadership on, until it has happened or `until`."""
        self.governor.hand_over(until)

    def introduce(self, candidate: membership.Candidate) -> None:
        """A process of this cluster, or one that wants to join it, said who it is."""
        self.governor.introduce(candidate)

    # ---- the tick
    def tick(self) -> bool:
        """Returns whether another tick should follow at once."""
        self.advance()
        self.commit()
        return self.has_more()

    def advance(self) -> None:
        """A tick up to its commit. What may leave before it has left then: a leader's appends, and the results of
        what it applied (their entries are synced on a majority; only the transaction that applies them is open).
        Between `advance` and `commit` things may be put in, but not ticked. Raises DataDamaged."""
        with self.damage.ends_the_member():
            if self.recovery.install():
                self._applying.installed()
                self.guard.reconcile()
            if self.room.look():
                self.reports.hasten()
            inbox, self._inbox, self._is_awaited = self._inbox, [], False
            if any(isinstance(message, m.Fetch) for _, message in inbox):
                self._environment.checkpoint()  # no later one can be given from inside this tick
            for peer, message in inbox:
                self._receive(peer, message)
                self.guard.reconcile()
            if not self.recovery.in_repair:
                self._take_part()
            self.recovery.tick(self._connected)
            self._has_told = self._proposals.tell()
        if self.engine.leads() and any(map(_is_awaited, self._outbox)):
            self._flush(only=EARLY)

    @property
    def may_wait(self) -> bool:
        """Between `advance` and `commit`: whether callers were told something, and nobody waits for that commit. So it
        is when a leader has only applied; the others hear of that as `commit` begins."""
        if not self._has_told or not self.engine.leads() or self.journal.last != self._durable:
            return False
        all_early = all(isinstance(message, EARLY) for _, message in self._outbox)
        return all_early and not self._reads.are_due(self.journal.applied)

    def _take_part(self) -> None:
        self.governor.pass_leadership()
        self.engine.doTick(0.0)
        self.guard.reconcile()
        self._notice_leader()
        self._proposals.give_up_late()
        self._take_proposals()
        self._take_reads()
        self._report()
        self._trim()

    def commit(self) -> None:
        """The rest of the tick: sync, then the promises. Raises MemberRemoved once its removal is durable, Diverged
        once it is known for good that the state differs, DataDamaged."""
        if self.engine.leads():
            self._flush(only=EARLY)
        with self.damage.ends_the_member():
            self.journal.commit()
            self._durable = self.journal.last
            self._applying.committed()
            self._reads.tell(self.journal.applied)
        self._flush()
        self._applying.check_removed()
        self._applying.compare(leader=self.engine.leader(), voters=self.voters, is_majority=self.guard.is_majority)

    def next_wakeup(self) -> float:
        """When the next tick is due if nothing arrives, on the clock given."""
        if self.recovery.in_repair:
            return self.recovery.next_wakeup()
        now = self._now()
        timer = self.engine.next_timer()
        if timer <= now or not self.votes:  # an election is due: at once, or when a pre-vote is asked again
            timer = self.guard.next_campaign()
        due = min(timer, self.reports.next_wakeup(), self._proposals.next_wakeup(), self.governor.next_wakeup())
        due = min(due, self.recovery.next_wakeup())
        if self.engine.leads() and self._proposals.are_due() and self._appends():
            return now  # since `has_more` was asked
        if self._retry_at > now and (self._proposals.waiting or self._reads.waiting):
            due = min(due, self._retry_at)
        return due

    def has_more(self) -> bool:
        """Work for another tick at once: what was put in since, the rest of the queue, of what is to be forgotten, or
        a lone member's own majority, which no message will announce."""
        if self._is_awaited or self.recovery.is_complete:
            return True
        if self.recovery.in_repair or not (self.engine.leads() or self.journal.forgetting):
            return False
        lone = self.voters == {self.id} and self.engine.commit_index() < self.journal.last
        return lone or self.journal.forgetting or (self._proposals.are_due() and self._appends())

    def checkpoint(self) -> None:
        """Between ticks: what was committed is seen by other processes that read the environment, and the next start
        need not take it in. Raises DataDamaged."""
        with self.damage.ends_the_member():
            self._environment.checkpoint()

    def close(self) -> None:
        self.recovery.close()

    # ---- messages
    def _receive(self, peer: str, message: m.Message) -> None:
        match message:
            case m.Report():
                self.reports.hear(peer, message)
                self._applying.comparison.heard(peer, message.digest_index, message.digest)
            case _ if self.recovery.in_repair:
                self._receive_in_repair(peer, message)
            case m.Propose() | m.ReadRequest() | m.Fetch() | m.FetchRows() | m.Tail():
                if self.configuration.get(peer):
                    self._serve(peer, message)
                else:
                    self._refuse(peer, message)
            case m.ReadIndex():
                if not self._reads.on_index(message):
                    self._retry_at = self._now() + self._timing.heartbeat_s
            case m.ReadProbe():
                self._on_read_probe(peer, message)
            case m.ReadConfirm():
                self._reads.on_confirm(peer, message)
            case m.Proposed():
                if self._proposals.on_proposed(message) == self.engine.leader():
                    self._retry_at = self._now() + self._timing.heartbeat_s
            case m.Fetched():
                self.recovery.fetcher.on_fetched(peer, message)
            case m.FetchedRows():
                self.recovery.fetcher.on_rows(peer, message)
            case m.Tailed():
                self.recovery.on_tailed(peer, message)
            case _:
                self.guard.receive(peer, message)

    def _receive_in_repair(self, peer: str, message: m.Message) -> None:
        """Whoever takes this member for the leader is told that it is none; everything else is as if lost."""
        match message:
            case m.Fetched():
                self.recovery.fetcher.on_fetched(peer, message)
            case m.FetchedRows():
                self.recovery.fetcher.on_rows(peer, message)
            case m.Propose():
                self._proposals.on_propose(peer, message, accept=False)
            case m.ReadRequest():
                self._reads.on_request(peer, message.call, leads=False)

    def _serve(self, peer: str, message: m.Propose | m.ReadRequest | m.Fetch | m.FetchRows | m.Tail) -> None:
        leads = self.engine.leads()
        match message:
            case m.Propose():
                accept = leads and self._appends() and self.governor.understands(message)
                self._proposals.on_propose(peer, message, accept=accept)
            case m.ReadRequest():
                self._reads.on_request(peer, message.call, leads=leads)
            case m.Fetch():
                self.recovery.giver.on_fetch(peer, message, self.engine.term())
            case m.FetchRows():
                self.recovery.giver.on_rows(peer, message)
            case m.Tail():
                self.recovery.tails.on_tail(peer, message)

    def _refuse(self, peer: str, message: m.Message) -> None:
        """Whoever is no member is not served, but told so: its admission may have been undone, and it waits."""
        match message:
            case m.Propose():
                self._proposals.on_propose(peer, message, accept=False)
            case m.ReadRequest():
                self._reads.on_request(peer, message.call, leads=False)

    def _post(self, peer: str, message: m.Message) -> None:
        self._outbox.append((peer, message))

    def _flush(self, only: tuple[type[m.Message], ...] = ()) -> None:
        outbox, self._outbox = self._outbox, []
        for peer, message in outbox:
            if only and not isinstance(message, only):
                self._outbox.append((peer, message))
            elif peer in self._connected:
                self._send(peer, message)

    # ---- leadership
    def _notice_leader(self) -> None:
        leader, term = self.engine.leader(), self.engine.term()
        if (leader, term) == self._leader_seen:
            return
        previous, _ = self._leader_seen
        self._leader_seen = (leader, term)
        self._retry_at = float("-inf")
        if previous == self.id:
            self._reads.abandon()
        elif previous is not None and previous != leader:
            self._reads.ask_again(previous)
            self._proposals.deposed(previous)
        self._proposals.leads(leader or "")
        self.governor.leader_changed(leader)

    def connected_to(self, peer: str) -> bool:
        return peer in self._connected

    def _reachable_leader(self) -> str | None:
        leader = self.engine.leader()
        return leader if leader in self._connected and self._now() >= self._retry_at else None

    def _next_call(self) -> int:
        self._calls += 1
        return self._calls

    # ---- proposals
    def own_term_committed(self) -> bool:
        return self.journal.term_at(self.engine.commit_index()) == self.engine.term()

    def append(self, entry: bytes, proposals: list[Proposal]) -> None:
        """Leader only: one entry at the log's end, with those who wait for it."""
        index = self.engine.append(entry)
        self.guard.reconcile()  # first: whoever held its own removal alone would not campaign, nor let others win
        self.engine.send_appends()
        self._proposals.appended(index, self.engine.term(), proposals)

    def _take_proposals(self) -> None:
        if not self.engine.leads():
            if self._proposals.waiting:
                self._proposals.forward(self._reachable_leader(), self._next_call)
            return
        if not self.room.has_room:
            self.governor.make_room()
        if self.room.takes_entries():
            self._lead()

    def _lead(self) -> None:
        self.governor.change_members()
        if not self._appends():
            return
        if gathered := self._proposals.gather():
            self.append(entries.pack([proposal.command for proposal in gathered]), gathered)
        elif self.journal.forgets_last:
            self.append(entries.NO_OP, [])

    def _appends(self) -> bool:
        """Leader only: whether it takes proposals now."""
        return not self.governor.handing_over() and self.room.takes_entries()

    # ---- linearizable reads
    def _take_reads(self) -> None:
        if self.engine.leads():
            others = sorted(self.voters - {self.id})
            committed = self.own_term_committed()
            self._reads.lead(self.engine.commit_index(), self.engine.term(), others, own_term_committed=committed)
        elif self._reads.waiting and (leader := self._reachable_leader()):
            self._reads.ask(leader, self._next_call())

    def _probe_newest(self, peer: str) -> None:
        if self.engine.leads() and peer in self.voters:
            self._reads.probe_newest(peer, self.engine.term())

    def _on_read_probe(self, peer: str, message: m.ReadProbe) -> None:
        term = self.engine.term()
        if message.term > term:
            self.guard.adopt(message.term)
        if message.term >= term:
            self._post(peer, m.ReadConfirm(message.round, message.term))
        else:
            self._post(peer, m.HigherTerm(term))

    # ---- the log behind the state
    def _trim(self) -> None:
        """In ticks that write anyway; what is to be forgotten, in the next ones."""
        if self._applying.has_news or self.journal.forgetting:
            flow = self._flow
            self.journal.trim(flow.log_entries, flow.log_bytes, flow.trim_entries, self._needed_index())

    def _needed_index(self) -> int:
        """The log from here on is needed behind states that are on their way to somebody."""
        return min([self.recovery.giver.oldest_index(), *self.reports.fetching()])

    # ---- what the others are told, and what they tell
    def _report(self) -> None:
        if self.reports.is_due():
            comparison, coming = self._applying.comparison, self.recovery.fetcher.coming
            report = m.Report(
                self.journal.applied, self._level, comparison.index, comparison.digest, coming, self.room.has_room
            )
            for peer in self.others:
                self._post(peer, report)

    def supported_levels(self) -> dict[str, int]:
        return self.reports.levels() | {self.id: self._level}

    def has_room(self) -> bool:
        """The leader and a majority of the voters, as far as heard; of itself it knows. The dead count as long as those
        who live are no majority anyway: else what is written takes the reserve of those who must take it."""
        others = self.reports.without_room()
        if self.room.has_room and not others:  # asked before every command
            return True
        without = others - {self.id} | (set() if self.room.has_room else {self.id})
        alive, is_majority = self.voters & self.reports.alive(), self.guard.is_majority
        majority = is_majority(set((alive if is_majority(set(alive)) else self.voters) - without)) or not self.voters
        return majority and self.engine.leader() not in without

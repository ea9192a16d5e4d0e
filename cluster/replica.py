"""One member's Raft, without I/O: messages and proposals go in, messages and results come out, a tick at a time.

A tick handles everything that arrived since the last one inside one write transaction and syncs it once:

    inbox -> guard -> engine (elect, commit, apply) -> gather proposals into one entry -> COMMIT (sync) -> promises

Promises leave only after that commit: votes, append acknowledgements, read confirmations. Two things leave before it:
a leader's appends, since its own copy counts only in a later tick, and the results of what it applies, since their
entries are synced on a majority already. The same code runs in production (member.py: asyncio, sockets, LMDB) and in
the simulator (tests/simulation: virtual clock, network and disks). Whatever raises in here ends the process: memory
and disk must never disagree.

Voters run the engine in earnest; an observer's engine never campaigns and is fed with committed entries by its source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from msgspec import structs

from cluster import entries, membership
from cluster import messages as m
from cluster.api import Diverged, MemberRemoved, ReleaseTooOld, StateMachine
from cluster.catchup import Complete, Fetcher, Giver, Work
from cluster.configuration import NOBODY, Configuration, MemberRecord
from cluster.digest import Comparison, Recorder
from cluster.governor import Governor
from cluster.guards import Guard
from cluster.journal import Journal, applied_in
from cluster.kv.api import Environment
from cluster.limits import CATCH_UP_BYTES_S, FLOW, REPORT_S, REPORTS_ALIVE, Flow, Timing
from cluster.proposals import Proposal, Proposals, Result
from cluster.reads import Reader, Reads
from cluster.seams import Engine
from cluster.tail import Source, Tails

EARLY = (m.Append, m.Heartbeat, m.Proposed)  # a leader's, before its commit; numbered ones keep their order


class Replica:
    """`send(peer, message)` must keep the order per peer; a message that cannot be sent is dropped.
    `now()` is monotonic seconds. Call `tick` whenever something was put in and at `next_wakeup`.

    `record` is what this member says of itself; `founding` the configuration of a new data directory, of a founder;
    `level` the highest feature level it can apply; `preferred` the peer addresses of sources, for an observer.
    `in_background(work, then)` runs `work` beside the loop, and `then` on it, followed by a tick.
    Raises Diverged when an earlier life found its state to differ, MemberRemoved, ReleaseTooOld.
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
    ) -> None:
        self.id, self.record, self._level = record.id, record, level
        self._environment, self._state_machine = environment, state_machine
        self._timing, self._flow, self._now, self._send = timing, flow, now, send
        self.journal = journal = Journal(environment, founding)
        if journal.diverged:
            raise Diverged(_differs(journal.diverged))
        self._removed = self._is_removed()
        if self._removed:
            raise MemberRemoved(_removed(record))
        self._check_level(journal.applied_configuration)
        self._inbox: list[tuple[str, m.Message]] = []
        self._outbox: list[tuple[str, m.Message]] = []
        self._connected: set[str] = set()
        self._leader_seen: tuple[str | None, int] = (None, 0)
        self._announced = journal.applied
        self._retry_at = float("-inf")  # after a leader said that it is none
        self._report_at = now()
        self.reports: dict[str, tuple[m.Report, float]] = {}  # by peer, heard at
        # Not from 0: an answer to this member's previous life must not meet a call of this one.
        self._calls = rng.getrandbits(48)

        post = self._post
        self._guard = Guard(
            name=self.id,
            journal=journal,
            timing=timing,
            flow=flow,
            clock=now,
            post=post,
            must_fetch=lambda leader, index: self.fetcher.want(index),
        )
        self.engine = self._guard.engine = Engine(
            name=self.id,
            peers=sorted(self._guard.voters - {self.id}),
            journal=journal,
            transport=self._guard,
            timing=timing,
            append_bytes=flow.append_bytes,
            rng=rng,
            may_elect=self._guard.may_elect,
            became_leader=self._guard.begin_term,
            apply=self._apply,
        )
        self._proposals = Proposals(timing=timing, now=now, post=post)
        self._reads = Reads(id=self.id, is_majority=self._guard.is_majority, post=post)
        self.governor = Governor(replica=self, proposals=self._proposals, timing=timing, now=now)
        self._giver = Giver(
            environment=environment,
            journal=journal,
            flow=flow,
            bytes_s=catch_up_bytes_s,
            first_number=rng.getrandbits(48),
            now=now,
            post=post,
        )
        self.fetcher = Fetcher(environment, now, post, in_background, self._completed)
        self._complete: Complete | None = None
        self._tails = Tails(journal=journal, timing=timing, flow=flow, now=now, post=post)
        self.source = Source(
            id=self.id, datacenter=record.datacenter, preferred=preferred, timing=timing, now=now, rng=rng, post=post
        )
        self._comparison = Comparison(flow.digest_every)
        self._rng = rng

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
        return self._guard.voters

    @property
    def votes(self) -> bool:
        return self.id in self._guard.voters

    @property
    def tails(self) -> bool:
        """Whether it follows a source. A promotion that is only held may have been undone: then no leader sends it
        anything, and only what is committed tells it so."""
        return not self.votes or self.id not in self.journal.applied_configuration.voters

    @property
    def others(self) -> list[str]:
        return [member.id for member in self.configuration.members if member.id != self.id]

    def alive(self) -> set[str]:
        """Who is connected and was heard a moment ago, this member included."""
        limit = self._now() - REPORTS_ALIVE * REPORT_S
        return {peer for peer, (_, at) in self.reports.items() if at > limit and peer in self._connected} | {self.id}

    def leader_contact_s(self) -> float:
        if self.engine.leads():
            return 0.0
        return self._now() - self._guard.heard_at if self.votes else self.source.contact_s

    # ---- what goes in; each is followed by a tick, at once unless told otherwise
    def connected(self, peer: str) -> None:
        """Messages to `peer` can be sent from now on."""
        self._connected.add(peer)
        self._report_at = self._now()
        self._guard.connected(peer)
        self._probe_newest(peer)

    def disconnected(self, peer: str) -> None:
        self._connected.discard(peer)
        self._guard.disconnected(peer)
        self._tails.disconnected(peer)
        self.source.disconnected(peer)
        self._reads.ask_again(peer)
        self._proposals.give_up(peer)

    def unheard(self, peer: str) -> None:
        """What `peer` sent last may be lost: answers to calls, confirmations of reads."""
        self._reads.ask_again(peer)
        self._proposals.give_up(peer)
        self._probe_newest(peer)

    def receive(self, peer: str, message: m.Message) -> bool:
        """Whether a tick is due for it. A sign of life that says nothing new can wait for the next one: else an idle
        leader would tick for every answer to its heartbeats."""
        self._inbox.append((peer, message))
        return not (self.engine.leads() and self._guard.says_nothing_new(peer, message))

    def propose(self, command: bytes, done: Callable[[Result], None], *, change: bool = False) -> Proposal:
        """`change`: the command is an encoded membership.Change, the result an encoded membership.Changed."""
        proposal = Proposal(command, done, change=change)
        self._proposals.add(proposal)
        return proposal

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
        Between `advance` and `commit` things may be put in, but not ticked."""
        self._install()
        inbox, self._inbox = self._inbox, []
        for peer, message in inbox:
            self._receive(peer, message)
            self._guard.reconcile()
        self.governor.pass_leadership()
        self.engine.doTick(0.0)
        self._guard.reconcile()
        self._notice_leader()
        self._proposals.give_up_late()
        self._take_proposals()
        self._take_reads()
        self._catch_up()
        self._report()
        self._trim()
        self._proposals.tell()
        if self.engine.leads():
            self._flush(only=EARLY)

    def commit(self) -> None:
        """The rest of the tick: sync, then the promises. Raises MemberRemoved once its removal is durable, Diverged
        once it is known for good that the state differs."""
        self._environment.commit()
        if self.journal.applied != self._announced:
            self._announced = self.journal.applied
            self._state_machine.committed()
        self._reads.tell(self.journal.applied)
        self._flush()
        if self._removed:
            raise MemberRemoved(_removed(self.record))
        self._compare()

    def next_wakeup(self) -> float:
        """When the next tick is due if nothing arrives, on the clock given."""
        now = self._now()
        timer = self.engine.next_timer()
        if timer <= now or not self.votes:  # an election is due: at once, or when a pre-vote is asked again
            timer = self._guard.next_campaign()
        due = min(timer, self._report_at, self._proposals.next_wakeup(), self._giver.next_wakeup())
        due = min(due, self.fetcher.next_wakeup(), self._tails.next_wakeup(), self.governor.next_wakeup())
        if self.tails and not self.fetcher.wanted:  # as in _catch_up: what is not looked at must not be due
            due = min(due, self.source.next_wakeup())
        if self._retry_at > now and (self._proposals.waiting or self._reads.waiting):
            due = min(due, self._retry_at)
        return due

    def has_more(self) -> bool:
        """Work for another tick at once: what was put in since, the rest of the queue, or a lone member's own
        majority, which no message will announce."""
        if self._inbox or self._complete or not self.engine.leads():
            return bool(self._inbox or self._complete)
        lone = self.voters == {self.id} and self.engine.commit_index() < self.journal.last
        return lone or (bool(self._proposals.commands) and not self.governor.handing_over())

    def close(self) -> None:
        self._giver.close()

    def _receive(self, peer: str, message: m.Message) -> None:
        match message:
            case m.Report():
                self.reports[peer] = (message, self._now())
                self._comparison.heard(peer, message.digest_index, message.digest)
            case m.Propose() | m.ReadRequest() | m.Fetch() | m.FetchRows() | m.Tail():
                if self.configuration.get(peer):  # others are not served
                    self._serve(peer, message)
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
                self.fetcher.on_fetched(peer, message)
            case m.FetchedRows():
                self.fetcher.on_rows(peer, message)
            case m.Tailed():
                self._on_tailed(peer, message)
            case _:
                self._guard.receive(peer, message)

    def _serve(self, peer: str, message: m.Propose | m.ReadRequest | m.Fetch | m.FetchRows | m.Tail) -> None:
        leads = self.engine.leads()
        match message:
            case m.Propose():
                accept = leads and not self.governor.handing_over() and self.governor.understands(message)
                self._proposals.on_propose(peer, message, accept=accept)
            case m.ReadRequest():
                self._reads.on_request(peer, message.call, leads=leads)
            case m.Fetch():
                self._giver.on_fetch(peer, message, self.engine.term())
            case m.FetchRows():
                self._giver.on_rows(peer, message)
            case m.Tail():
                self._tails.on_tail(peer, message)

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
        recorder = Recorder(self._environment.transaction(), self.journal.digest)
        if new := entries.unpack_configuration(entry):
            self._check_level(new)
            self.journal.set_configuration(new)
            self._removed = self._is_removed()
            results = [proposal.result for proposal in self._proposals.at(index)]
        else:
            level = self.journal.applied_configuration.level
            results = [self._state_machine.apply(recorder, command, level) for command in entries.unpack(entry)]
        self.journal.set_applied(index, recorder.digest())
        self._comparison.applied(index, self.journal.digest)
        self._proposals.applied(index, term, results)

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

    def _check_level(self, configuration: Configuration) -> None:
        if configuration.level > self._level:
            text = f"feature level {configuration.level} is in force, this release can apply {self._level}"
            raise ReleaseTooOld(f"{text}: use a newer one")

    def _is_removed(self) -> bool:
        return self.journal.applied_configuration.is_removed(self.id, self.record.incarnation)

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
        self._guard.reconcile()  # first: whoever held its own removal alone would not campaign, nor let others win
        self.engine.send_appends()
        self._proposals.appended(index, self.engine.term(), proposals)

    def _take_proposals(self) -> None:
        if not self.engine.leads():
            if self._proposals.waiting:
                self._proposals.forward(self._reachable_leader(), self._next_call)
            return
        self.governor.change_members()
        if self._proposals.commands and not self.governor.handing_over():
            gathered = self._proposals.gather()
            self.append(entries.pack([proposal.command for proposal in gathered]), gathered)

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
            self._guard.adopt(message.term)
        if message.term >= term:
            self._post(peer, m.ReadConfirm(message.round, message.term))
        else:
            self._post(peer, m.HigherTerm(term))

    # ---- catching up
    def _catch_up(self) -> None:
        if self.configuration == NOBODY:
            self.fetcher.want(1)
        elif self.engine.commit_index() >= self.fetcher.wanted:
            self.fetcher.settle()
        if self.fetcher.wanted:
            self.fetcher.ask(self._choose_giver)
        elif self.tails:
            self.source.follow(self.engine.commit_index() + 1, self.configuration, self._connected)
        self._giver.give()
        self._tails.answer(term=self.engine.term(), leader=self.engine.leader(), contact_s=self.leader_contact_s())

    def _choose_giver(self) -> str | None:
        """Somebody who said that he has it; as long as nobody has, anybody who did not say that he has not. Half of
        the time not the leader, which has the most to do."""
        applied = {peer: self.reports[peer][0].applied_index for peer in self._connected & self.reports.keys()}
        ready = sorted(peer for peer, index in applied.items() if index >= self.fetcher.wanted)
        ready = ready or sorted(self._connected - applied.keys())  # among them those who only wait to be admitted
        followers = [peer for peer in ready if peer != self.engine.leader()]
        return self._rng.choice(followers if followers and self._rng.random() < 0.5 else ready) if ready else None

    def _on_tailed(self, peer: str, message: m.Tailed) -> None:
        if not self.tails or not self.source.on_tailed(peer, message):
            return
        if not self.votes or (message.entries and not self.engine.leads()):  # no sign of life puts off its campaign
            self._guard.on_tailed(message)
        if message.first_index > message.previous_index and not self.engine.leads():
            self.fetcher.want(message.first_index)

    def _completed(self, complete: Complete) -> None:
        self._complete = complete

    def _install(self) -> None:
        """Between ticks: a fetched state becomes this member's own, in one step, unless it is not needed any more."""
        complete, self._complete = self._complete, None
        if complete is None:
            return None
        fetched, journal = complete.fetched, self.journal
        if self.engine.leads() or fetched.index <= self.engine.commit_index():
            return complete.incoming.close()
        if fetched.term > self.engine.term():  # else a deposed leader would take our success for its own entries
            self._guard.adopt(fetched.term)
        if journal.holds(fetched.index, fetched.index_term):  # what follows it may have been acknowledged
            self.engine.commit_to(fetched.index)
            return complete.incoming.close()
        with complete.incoming.snapshot() as snapshot:
            applied = applied_in(snapshot)
        if applied != fetched.index:
            complete.incoming.close()
            return self.fetcher.refuse(f"it is applied up to {applied}, and was announced as {fetched.index}")
        self._environment.commit()
        self._giver.close()
        journal.prepare(complete.incoming, fetched.index, fetched.index_term)
        self._environment.replace(complete.incoming)
        journal.load()
        self._check_level(journal.applied_configuration)
        self.engine.restart_at(fetched.index)
        self._guard.reconcile()
        self._proposals.forget_log()
        self._comparison.restart()
        self._announced = journal.applied
        self._removed = self._is_removed()
        self._state_machine.installed()
        return None

    def _trim(self) -> None:
        """In ticks that write anyway."""
        if self.journal.applied != self._announced:
            flow = self._flow
            self.journal.trim(flow.log_entries, flow.log_bytes, flow.trim_entries, self._needed_index())

    def _needed_index(self) -> int:
        """The log from here on is needed behind states that are on their way to somebody."""
        alive = self.alive()
        fetching = [report.fetching for peer, (report, _) in self.reports.items() if report.fetching and peer in alive]
        return min([self._giver.oldest_index(), *fetching])

    # ---- what the others are told, and what they tell
    def _report(self) -> None:
        now = self._now()
        if now >= self._report_at:
            self._report_at = now + REPORT_S
            comparison, applied = self._comparison, self.journal.applied
            report = m.Report(applied, self._level, comparison.index, comparison.digest, self.fetcher.coming)
            for peer in self.others:
                self._post(peer, report)

    def supported_levels(self) -> dict[str, int]:
        """Of those who were heard a moment ago: who is away may come back with an older release."""
        reports = {peer: self.reports[peer][0] for peer in self.alive() & self.reports.keys()}
        return {peer: report.level for peer, report in reports.items()} | {self.id: self._level}

    def _compare(self) -> None:
        voters, leader = self._guard.voters, self.engine.leader()
        if self._comparison.is_wrong(own=self.id, leader=leader, voters=voters, is_majority=self._guard.is_majority):
            self.journal.set_diverged(self._comparison.index)
            self._environment.commit()
            raise Diverged(_differs(self._comparison.index))


def _removed(record: MemberRecord) -> str:
    return f"{record.name} was removed from the cluster; its data directory is of no use to it any more"


def _differs(index: int) -> str:
    return f"the state of this member differs from that of the others at log index {index}, although the logs agree"

"""Between the engine and the network: the rules that make PySyncObj keep what it acknowledges.

Every message passes here, both ways. The rules (docs/RAFT.md argues each of them):

  append   a follower answers a lower term with its own; skips the prefix it has and truncates only at a conflict; takes
           a commit index only as far as the message verified; answers what starts below its commit index with success
           at the commit index
  progress per peer: replies are numbered, a rejection counts once and never moves below what is matched; after a
           success sending goes on where it was (progress.py)
  votes    a pre-vote round gates every campaign; a voter that hears a leader refuses, unless leadership is being
           handed over; each voter counts once a term
  members  the engine's nodes are the voters of the newest configuration in the log; only they are counted, but every
           member's requests are answered: a voter may not know yet the one that it must elect
  install  a peer that needs what the log no longer has gets signs of life only, answers each, and fetches a state
  room     a follower whose disk is nearly full takes no entries but the start of a term, and answers that it lives

Pure but for what it is given: a clock, and `post(peer, message)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pysyncobj.node import Node
from pysyncobj.transport import Transport

from cluster import messages as m
from cluster.entries import NO_OP
from cluster.journal import Journal
from cluster.limits import Flow, Timing
from cluster.progress import Progress
from cluster.seams import NOBODY, Engine, Peer


class Guard(Transport):
    """The engine's transport. `engine` is set right after both exist."""

    engine: Engine

    def __init__(
        self,
        *,
        name: str,
        journal: Journal,
        timing: Timing,
        flow: Flow,
        clock: Callable[[], float],
        post: Callable[[str, m.Message], None],
        must_fetch: Callable[[str, int], None],
        takes_entries: Callable[[], bool],
    ) -> None:
        """`must_fetch(leader, index)`: the leader's log starts at `index`, behind the end of what is committed here.
        `takes_entries`: whether there is room for what a leader sends."""
        super().__init__(None, None, ())
        self._name, self._journal = name, journal
        self._timing, self._window_bytes, self._clock, self._post = timing, flow.window_bytes, clock, post
        self._must_fetch, self._takes_entries = must_fetch, takes_entries
        self.voters = journal.configuration.voters
        self._peers = {peer: Progress(flow.window_bytes) for peer in sorted(self.voters - {name})}
        # as a follower
        self.heard_at = float("-inf")  # an append of the current term
        self._answering = 0  # number of the append being handled; 0: none, nobody waits for the answer
        self._hint: int | None = None
        self._told: tuple[str, int, int, float] = ("", 0, 0, 0.0)  # last success: to whom, term, next index, when
        # in elections
        self._transfer_until = float("-inf")
        self._campaign: tuple[int, set[str], float] | None = None  # pre-vote: term, who would vote, asked at
        self._counted: tuple[int, set[str]] = (0, set())  # term, who voted

    # ---- the engine's transport interface
    @property
    def ready(self) -> bool:
        return True

    def addNode(self, node: Node) -> None: ...

    def dropNode(self, node: Node) -> None: ...

    def connected(self, peer: str) -> None:
        self._onNodeConnected(Peer(peer))

    def disconnected(self, peer: str) -> None:
        if progress := self._peers.get(peer):
            progress.forget_flight()
        self._onNodeDisconnected(Peer(peer))

    def reconcile(self) -> None:
        """After every message and tick: the voters are those of the newest configuration in the log."""
        voters = self._journal.configuration.voters
        if voters != self.voters:
            self.voters = voters
            others = sorted(voters - {self._name})
            self._peers = {peer: self._peers.get(peer) or Progress(self._window_bytes) for peer in others}
            self.engine.reconfigure(others, self._clock())

    def begin_term(self) -> None:
        """This member has just become leader."""
        for progress in self._peers.values():
            progress.begin_term()

    def is_majority(self, who: set[str]) -> bool:
        return len(self.voters & who) * 2 > len(self.voters)

    # ---- what the engine sends
    def send(self, node: Node, message: dict[str, Any]) -> bool:
        match message["type"]:
            case "append_entries":
                self._send_append(node.id, message)
            case "next_node_idx":
                self._reply(node.id, message["next_node_idx"], success=message["success"], reset=message["reset"])
            case "request_vote":
                transfer = self._clock() < self._transfer_until
                self._post(
                    node.id,
                    m.RequestVote(message["term"], message["last_log_term"], message["last_log_index"], transfer),
                )
            case "response_vote":
                self._post(node.id, m.Vote(message["term"]))
            case "timeout_now":
                self._post(node.id, m.TimeoutNow(message["term"]))
            case kind:
                raise AssertionError(f"the engine sent {kind}")
        return True

    def _send_append(self, peer: str, message: dict[str, Any]) -> None:
        progress, now = self._peers[peer], self._clock()
        term, commit_index = message["term"], message["commit_index"]
        previous, entries = message.get("prevLogIdx", 0), message.get("entries", ())
        size_bytes = sum(len(entry) for entry, _, _ in entries)
        if "prevLogIdx" not in message:  # the engine wants to send a dump: the log starts behind what the peer needs
            progress.install()
        if progress.installing:
            self.engine.set_next_index(peer, self._journal.last + 1)  # else its loop never ends
        elif progress.is_silent(now, self._timing.silence_s):
            # The engine's loop goes on from there in this very call.
            self.engine.set_next_index(peer, progress.restart(self.engine.match_index(peer), now))
        elif progress.must_hold(previous, size_bytes):
            self.engine.set_next_index(peer, self._journal.last + 1)  # else its loop reads the whole backlog
        else:
            progress.sent(previous + len(entries), size_bytes, now)
            number = progress.next_number()
            batch = [(entry_term, entry) for entry, _, entry_term in entries]
            self._post(peer, m.Append(number, term, commit_index, previous, message["prevLogTerm"], batch))
            return
        self._post(peer, m.Heartbeat(progress.next_number(), term, commit_index, self._journal.first))

    def _reply(self, peer: str, next_index: int, *, success: bool, reset: bool) -> None:
        if not self._answering:
            return
        if reset:
            hint = next_index if self._hint is None else min(next_index, self._hint)
            next_index = max(hint, self.engine.commit_index() + 1)
        term, now = self.engine.term(), self._clock()
        if success:
            # A commit index that moves is told in an empty append right behind the entries: the same answer twice
            # says nothing but that this member lives, which it said a moment ago.
            if self._told[:3] == (peer, term, next_index) and now - self._told[3] < self._timing.heartbeat_s / 2:
                return
            self._told = (peer, term, next_index, now)
        self._post(peer, m.AppendReply(self._answering, term, next_index, success, reset))

    # ---- what arrives
    def receive(self, peer: str, message: m.Message) -> None:
        """Every message about elections and appends; `peer` is who the connection's handshake named."""
        match message:
            case m.Append():
                self._on_append(peer, message)
            case m.Heartbeat():
                self._on_heartbeat(peer, message)
            case m.AppendReply():
                self._on_append_reply(peer, message)
            case m.HigherTerm() if message.term > self.engine.term():
                self.adopt(message.term)
            case m.PreVote():
                self._on_pre_vote(peer, message)
            case m.PreVoteReply():
                self._on_pre_vote_reply(peer, message)
            case m.RequestVote():
                self._on_request_vote(peer, message)
            case m.Vote():
                self._on_vote(peer, message)
            case m.TimeoutNow():
                self._on_timeout_now(peer, message)

    def adopt(self, term: int) -> None:
        self.engine.adopt(term, self._onMessageReceived)

    # ---- elections
    def hears_leader(self) -> bool:
        return self.engine.leads() or self._clock() - self.heard_at < self._timing.election_min_s

    def may_elect(self) -> bool:
        """Asked by the engine when its election deadline has passed: campaign only if a majority would vote."""
        term, now = self.engine.term() + 1, self._clock()
        if self._name not in self.voters:
            return False
        if now < self._transfer_until or self.voters == {self._name}:
            return True
        if self._campaign and self._campaign[0] == term:
            if self.is_majority(self._campaign[1]):
                self._campaign = None
                return True
            if now - self._campaign[2] < self._timing.pre_vote_s:
                return False
        self._campaign = (term, {self._name}, now)
        for peer in self._peers:
            self._post(peer, m.PreVote(term, self._journal.term_at(self._journal.last), self._journal.last))
        return False

    def next_campaign(self) -> float:
        """When an unanswered pre-vote is asked again; 0 without one. Who has no vote never campaigns."""
        if self._name not in self.voters:
            return float("inf")
        return self._campaign[2] + self._timing.pre_vote_s if self._campaign else 0.0

    def _on_pre_vote(self, peer: str, message: m.PreVote) -> None:
        mine = (self._journal.term_at(self._journal.last), self._journal.last)
        granted = (
            message.term > self.engine.term()
            and (message.last_term, message.last_index) >= mine
            and not self.hears_leader()
        )
        self._post(peer, m.PreVoteReply(message.term, granted, self.engine.term()))

    def _on_pre_vote_reply(self, peer: str, message: m.PreVoteReply) -> None:
        if message.term > self.engine.term():
            self.adopt(message.term)
        elif message.granted and self._campaign and self._campaign[0] == message.for_term:
            self._campaign[1].add(peer)

    def _on_request_vote(self, peer: str, message: m.RequestVote) -> None:
        if message.transfer or not self.hears_leader():
            self._deliver(
                peer,
                type="request_vote",
                term=message.term,
                last_log_term=message.last_term,
                last_log_index=message.last_index,
            )

    def _on_vote(self, peer: str, message: m.Vote) -> None:
        if message.term != self.engine.term():
            return
        if self._counted[0] != message.term:
            self._counted = (message.term, set())
        if peer in self.voters and peer not in self._counted[1]:
            self._counted[1].add(peer)
            self._deliver(peer, type="response_vote", term=message.term)

    def _on_timeout_now(self, peer: str, message: m.TimeoutNow) -> None:
        if message.term == self.engine.term() and not self.engine.leads():
            self._transfer_until = self._clock() + self._timing.election_min_s
            self._deliver(peer, type="timeout_now", term=message.term)

    # ---- appends, as a follower
    def _hear(self, peer: str, message: m.Append | m.Heartbeat) -> bool:
        """Whether the append is of the current term or a later one."""
        term = self.engine.term()
        if message.term < term:
            self._post(peer, m.HigherTerm(term))
            return False
        if message.term > term:
            self._transfer_until = float("-inf")
        self.heard_at, self._answering, self._hint, self._campaign = self._clock(), message.number, None, None
        return True

    def _on_heartbeat(self, peer: str, message: m.Heartbeat) -> None:
        if not self._hear(peer, message):
            return
        commit = self.engine.commit_index()
        if commit >= message.first_index:
            self._succeed(peer, message, commit)
            return
        self._live(peer, message)
        self._must_fetch(peer, message.first_index)

    def _live(self, peer: str, message: m.Append | m.Heartbeat) -> None:
        """An answer that moves nothing: without one the leader would count this member as dead."""
        self._deliver(peer, type="append_entries", term=message.term, commit_index=self.engine.commit_index())
        self._reply(peer, 1, success=False, reset=False)

    def on_tailed(self, message: m.Tailed) -> None:
        """Committed entries from behind this member's commit index, of another member that need not lead. What is
        committed is true in every term."""
        self._answering, self._hint = 0, None
        term, leader = max(message.term, self.engine.term()), message.leader or NOBODY.id
        if message.entries:
            previous, previous_term = message.previous_index, message.previous_term
            self._follow(leader, m.Append(0, term, message.commit_index, previous, previous_term, message.entries))
        else:
            self._deliver(leader, type="append_entries", term=term, commit_index=self.engine.commit_index())

    def _on_append(self, peer: str, message: m.Append) -> None:
        if not self._hear(peer, message):
            return
        # Not the start of a term: without it a new leader could commit nothing, and no read be served.
        takes_room = any(entry != NO_OP for _, entry in message.entries)
        beyond = takes_room or message.previous_index > self._journal.last
        if beyond and not self._takes_entries():  # a rejection would have them sent again at once
            self._live(peer, message)
        else:
            self._follow(peer, message)

    def _follow(self, peer: str, message: m.Append) -> None:
        journal, commit = self._journal, self.engine.commit_index()
        previous, previous_term = message.previous_index, message.previous_term
        entries, verified = message.entries, message.commit_index
        if previous < commit:  # a leader of our term or later holds all we know to be committed
            if previous + len(entries) <= commit:
                return self._succeed(peer, message, commit)
            entries, previous, previous_term = entries[commit - previous :], commit, journal.term_at(commit)
        if journal.holds(previous, previous_term):
            kept = 0
            while kept < len(entries) and journal.holds(previous + 1 + kept, entries[kept][0]):
                kept += 1
            if kept:
                previous, previous_term, entries = previous + kept, entries[kept - 1][0], entries[kept:]
            verified = min(verified, previous + len(entries))
            if not entries and journal.last > previous:
                return self._succeed(peer, message, previous)
        elif previous <= journal.last:  # a conflict: point to the first index of its term
            self._hint = self._first_of_term(previous)
        self._deliver(
            peer,
            type="append_entries",
            term=message.term,
            commit_index=verified,
            prevLogIdx=previous,
            prevLogTerm=previous_term,
            entries=[(entry, previous + 1 + at, term) for at, (term, entry) in enumerate(entries)],
        )
        return None

    def _first_of_term(self, index: int) -> int:
        journal, term = self._journal, self._journal.term_at(index)
        floor = max(journal.first, self.engine.commit_index())
        while index - 1 > floor and journal.term_at(index - 1) == term:
            index -= 1
        return index

    def _succeed(self, peer: str, message: m.Append | m.Heartbeat, verified: int) -> None:
        """Hand on the sign of life and what it may commit without letting the engine touch the log, and say how far
        this log is known to be the leader's."""
        commit_index = min(message.commit_index, max(verified, self.engine.commit_index()))
        self._deliver(peer, type="append_entries", term=message.term, commit_index=commit_index)
        self._reply(peer, verified + 1, success=True, reset=False)

    # ---- appends, as the leader
    def says_nothing_new(self, peer: str, message: m.Message) -> bool:
        """Of the leader: that a peer has the whole log, as is known, or which is committed without it."""
        last = self._journal.last
        return (
            isinstance(message, m.AppendReply)
            and message.success
            and message.term == self.engine.term()
            and message.next_index - 1 == last
            and last in (self.engine.match_index(peer), self.engine.commit_index())
        )

    def _on_append_reply(self, peer: str, message: m.AppendReply) -> None:
        engine, progress = self.engine, self._peers.get(peer)
        if message.term > engine.term():
            return self.adopt(message.term)
        if message.term < engine.term() or not engine.leads() or progress is None:
            return None
        next_index, reset = message.next_index, message.reset
        if progress.installing:
            reset = message.success
            if reset:
                progress.installed(next_index)
        elif reset:
            next_index = max(next_index, engine.match_index(peer) + 1)
            reset = progress.rejected(message.number, next_index)
        self._deliver(peer, type="next_node_idx", next_node_idx=next_index, reset=reset, success=message.success)
        if message.success and (go_on := progress.acknowledged(next_index - 1, self._clock())):
            engine.set_next_index(peer, go_on)
        return None

    def _deliver(self, peer: str, **message: Any) -> None:
        self._onMessageReceived(Peer(peer), message)

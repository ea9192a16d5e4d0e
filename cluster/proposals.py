"""What callers want committed: waiting here, in the log, or forwarded to the leader. Sans I/O.

A caller learns exactly one of: the result of apply; NotAttempted (it has not happened and will not); OutcomeUnknown
(it may have happened, or may still). Membership changes travel the same way, beside the commands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cluster import messages as m
from cluster.api import ClusterError, NotAttempted, OutcomeUnknown
from cluster.limits import GATHER_BYTES, GATHER_QUIET_S, GATHER_S, Timing

Result = bytes | ClusterError


@dataclass(eq=False)
class Proposal:
    command: bytes
    done: Callable[[Result], None]
    change: bool = False  # the command is a membership.Change
    remote: bool = False  # forwarded here by another member
    taken: bool = field(default=False, init=False)  # in the log or on its way to the leader: it may happen
    call: int = field(default=0, init=False)  # the last one that forwarded it
    result: bytes = field(default=b"", init=False)  # of a change, once it is committed
    handed_over: bool = field(default=False, init=False)  # leadership, so that a successor can decide it


class Proposals:
    def __init__(self, *, timing: Timing, now: Callable[[], float], post: Callable[[str, m.Message], None]) -> None:
        self._timing, self._now, self._post = timing, now, post
        self.commands: deque[Proposal] = deque()
        self.changes: deque[Proposal] = deque()
        self._in_log: dict[int, tuple[int, list[Proposal]]] = {}  # index: term
        self._applied_term = 0
        self._forwarded: dict[int, tuple[str, Proposal]] = {}  # call: leader asked
        self._deposed: dict[str, float] = {}  # leaders of before, until when they may still answer
        self._results: list[tuple[Proposal, Result]] = []
        self._expected = 0  # who was told something since the last entry, and may have more to propose
        self._told_at = self._added_at = float("-inf")

    def add(self, proposal: Proposal) -> None:
        (self.changes if proposal.change else self.commands).append(proposal)
        self._added_at = self._now()

    def withdraw(self, proposal: Proposal) -> bool:
        """Give up waiting. True: it has not happened and will not. False: it may; it is not forwarded again."""
        if not proposal.taken:
            (self.changes if proposal.change else self.commands).remove(proposal)
        self._forwarded.pop(proposal.call, None)
        return not proposal.taken

    @property
    def waiting(self) -> bool:
        return bool(self.commands or self.changes)

    # ---- as the leader
    def are_due(self) -> bool:
        """Whether it is time for the next entry. Callers come one after another, and an entry costs each member a
        sync and two ticks: those that were told something a moment ago are waited for, as long as they go on coming."""
        return bool(self.commands) and (len(self.commands) >= self._expected or self.due_at() <= self._now())

    def due_at(self) -> float:
        """When those that are here are waited with no longer."""
        return min(self._added_at + GATHER_QUIET_S, self._told_at + GATHER_S)

    def gather(self) -> list[Proposal]:
        """The commands of the next entry, once they are due: as many as fit, or one larger one alone."""
        gathered: list[Proposal] = []
        if not self.are_due():
            return gathered
        self._expected = 0
        size_bytes = 0
        while self.commands:
            size_bytes += len(self.commands[0].command)
            if gathered and size_bytes > GATHER_BYTES:
                break
            gathered.append(self.commands.popleft())
        return gathered

    def appended(self, index: int, term: int, proposals: list[Proposal]) -> None:
        for proposal in proposals:
            proposal.taken = True
        _, replaced = self._in_log.get(index, (0, []))
        self._fail(replaced, "leadership was lost before it was committed")
        self._in_log[index] = (term, proposals)

    def at(self, index: int) -> list[Proposal]:
        return self._in_log.get(index, (0, []))[1]

    def applied(self, index: int, term: int, results: Sequence[bytes]) -> None:
        in_log_term, proposals = self._in_log.pop(index, (term, []))
        if in_log_term == term:
            self._results.extend(zip(proposals, results, strict=False))
        else:
            self._lost(proposals)
        if term > self._applied_term:  # terms only rise along a log: what was appended in an earlier one has no place
            self._applied_term = term
            for later in [later for later, (appended, _) in self._in_log.items() if appended < term]:
                self._lost(self._in_log.pop(later)[1])

    def _lost(self, proposals: list[Proposal]) -> None:
        lost = NotAttempted("another leader's entry took its place")
        self._results.extend((proposal, lost) for proposal in proposals)

    def forget_log(self) -> None:
        """The log was replaced by a fetched state: what became of the entries in it is not known here."""
        for _, proposals in self._in_log.values():
            self._fail(proposals, "this member fell behind and fetched a newer state")
        self._in_log.clear()

    def settle(self, proposal: Proposal, result: Result) -> None:
        proposal.taken = True  # out of its queue, the answer on its way
        self._results.append((proposal, result))

    def on_propose(self, peer: str, message: m.Propose, *, accept: bool) -> None:
        def done(result: Result) -> None:
            if isinstance(result, bytes):
                self._post(peer, m.Proposed(message.call, True, result))
            elif isinstance(result, NotAttempted):
                self._post(peer, m.Proposed(message.call, False, b""))
            else:  # it may lead again by now, and whoever asked would wait for ever
                self._post(peer, m.Proposed(message.call, True, b"", unknown=True))

        if accept:
            self.add(Proposal(message.command, done, change=message.change, remote=True))
        else:
            self._post(peer, m.Proposed(message.call, False, b""))

    # ---- as a follower
    def forward(self, leader: str | None, next_call: Callable[[], int]) -> None:
        """To the leader, if it can be reached. What others forwarded here goes back to them."""
        self._expected = 0
        for queue in (self.commands, self.changes):
            for proposal in [proposal for proposal in queue if proposal.remote]:
                queue.remove(proposal)
                proposal.done(NotAttempted("not the leader any more"))
            if leader is None:
                continue
            for proposal in queue:
                proposal.taken, proposal.call = True, next_call()
                self._forwarded[proposal.call] = (leader, proposal)
                self._post(leader, m.Propose(proposal.call, proposal.command, proposal.change))
            queue.clear()

    def on_proposed(self, message: m.Proposed) -> str | None:
        """Returns the leader that turned out to be none."""
        asked, proposal = self._forwarded.pop(message.call, (None, None))
        if proposal is None:
            return None
        if message.unknown:
            self._fail([proposal], f"{asked} lost leadership before it was committed")
            return None
        if message.attempted:
            self._results.append((proposal, message.result))
            return None
        proposal.taken = False
        self.add(proposal)
        return asked

    def deposed(self, leader: str) -> None:
        """Another one leads; what was asked of this one may still be answered for a while."""
        self._deposed[leader] = self._now() + self._timing.step_down_s

    def leads(self, leader: str) -> None:
        self._deposed.pop(leader, None)

    def give_up(self, leader: str) -> None:
        """`leader` will not answer any more."""
        self._deposed.pop(leader, None)
        for call in [call for call, (asked, _) in self._forwarded.items() if asked == leader]:
            self._fail([self._forwarded.pop(call)[1]], f"lost contact with {leader} before it answered")

    def give_up_late(self) -> None:
        for leader in [leader for leader, until in self._deposed.items() if until <= self._now()]:
            self.give_up(leader)

    def next_wakeup(self) -> float:
        gathering = self.due_at() if self.commands and not self.are_due() else float("inf")
        return min((gathering, *self._deposed.values()))

    def tell(self) -> bool:
        """Whether there was anything to tell anybody."""
        results, self._results = self._results, []
        if results:
            self._expected, self._told_at = self._expected + len(results), self._now()
        for proposal, result in results:
            proposal.done(result)
        return bool(results)

    def _fail(self, proposals: list[Proposal], because: str) -> None:
        self._results.extend((proposal, OutcomeUnknown(because)) for proposal in proposals)

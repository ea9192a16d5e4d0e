"""Linearizable reads by read index (Ongaro, Consensus, section 6.4). Sans I/O.

A read joins the next round. The leader notes its commit index, once an entry of its own term is committed, and asks
the voters whether they are still in its term; a majority confirms, and the read may be served by any member that has
applied that index. All reads that wait when a round starts share it.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster import messages as m

Served = Callable[[int], None]  # the index from which the read is linearizable; 0: ask again
Reader = Callable[[], None]  # told when a snapshot is recent enough
Readers = dict[Reader, None]  # in order; one that gave up is found at once


class Rounds:
    def __init__(self, name: str, is_majority: Callable[[set[str]], bool]) -> None:
        self._name, self._is_majority = name, is_majority
        self._waiting: list[Served] = []
        self._open: dict[int, tuple[int, int, set[str], list[Served]]] = {}  # round: index, term, who, reads
        self._count = 0

    def add(self, served: Served) -> None:
        self._waiting.append(served)

    @property
    def newest(self) -> int | None:
        """The newest open round; whoever confirms it confirms all."""
        return max(self._open, default=None)

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    def start(self, commit_index: int, term: int) -> int | None:
        """Open a round for all waiting reads; its number, to be sent to the voters, unless it needs none."""
        self._count += 1
        who = {self._name}
        reads, self._waiting = self._waiting, []
        self._open[self._count] = (commit_index, term, who, reads)
        self._close_if_confirmed(self._count)
        return self._count if self._count in self._open else None

    def is_open(self, number: int, term: int) -> bool:
        return number in self._open and self._open[number][1] == term

    def confirm(self, number: int, term: int, voter: str) -> None:
        if self.is_open(number, term):
            self._open[number][2].add(voter)
            self._close_if_confirmed(number)

    def voters_changed(self) -> None:
        """Fewer may have to confirm now."""
        for number in sorted(self._open, reverse=True):
            if number in self._open:
                self._close_if_confirmed(number)

    def abandon(self) -> None:
        """This member leads no more: every read has to be asked again."""
        reads = self._waiting + [read for entry in self._open.values() for read in entry[3]]
        self._waiting, self._open = [], {}
        for served in reads:
            served(0)

    def _close_if_confirmed(self, number: int) -> None:
        if self._is_majority(self._open[number][2]):
            # A majority that confirms this round confirms every older one too: their messages may be lost.
            for older in [key for key in self._open if key <= number]:
                index, _, _, reads = self._open.pop(older)
                for served in reads:
                    served(index)


class Reads:
    """Linearizable reads of one member: waiting to be asked for, asked of the leader, waiting for an index."""

    def __init__(
        self, *, id: str, is_majority: Callable[[set[str]], bool], post: Callable[[str, m.Message], None]
    ) -> None:
        self._post = post
        self._rounds = Rounds(id, is_majority)
        self._readers: Readers = {}
        self._asked: dict[int, tuple[str, Readers]] = {}
        self._barriers: list[tuple[int, Readers]] = []
        self._voters: list[str] = []  # whom rounds are asked of

    @property
    def waiting(self) -> bool:
        return bool(self._readers)

    def add(self, reader: Reader) -> None:
        self._readers[reader] = None

    def withdraw(self, reader: Reader) -> None:
        """Forget it where it might wait for ever: for a leader, or for an answer that was lost."""
        self._readers.pop(reader, None)
        for call, (_, readers) in list(self._asked.items()):
            readers.pop(reader, None)
            if not readers:
                del self._asked[call]

    # ---- as the leader
    def lead(self, commit_index: int, term: int, voters: list[str], *, own_term_committed: bool) -> None:
        if voters != self._voters:
            self._voters = voters
            self._rounds.voters_changed()
        if self._readers:
            readers, self._readers = self._readers, {}
            self._rounds.add(lambda index: self.read_at(index, readers))
        if self._rounds.waiting and own_term_committed:
            number = self._rounds.start(commit_index, term)
            for peer in voters if number else ():
                self._post(peer, m.ReadProbe(number or 0, term))

    def probe_newest(self, peer: str, term: int) -> None:
        if number := self._rounds.newest:
            self._post(peer, m.ReadProbe(number, term))

    def on_request(self, peer: str, call: int, *, leads: bool) -> None:
        if leads:
            self._rounds.add(lambda index: self._post(peer, m.ReadIndex(call, index)))
        else:
            self._post(peer, m.ReadIndex(call, 0))

    def on_confirm(self, peer: str, message: m.ReadConfirm) -> None:
        self._rounds.confirm(message.round, message.term, peer)

    def awaits(self, message: m.ReadConfirm) -> bool:
        """Not what a voter says of a round that others have confirmed."""
        return self._rounds.is_open(message.round, message.term)

    def abandon(self) -> None:
        """This member leads no more."""
        self._rounds.abandon()

    # ---- as a follower
    def ask(self, leader: str, call: int) -> None:
        self._asked[call] = (leader, self._readers)
        self._readers = {}
        self._post(leader, m.ReadRequest(call))

    def on_index(self, message: m.ReadIndex) -> bool:
        """False: whoever was asked does not lead."""
        _, readers = self._asked.pop(message.call, ("", {}))
        self.read_at(message.index, readers)
        return bool(message.index)

    def ask_again(self, leader: str) -> None:
        for call in [call for call, (asked, _) in self._asked.items() if asked == leader]:
            self._readers.update(self._asked.pop(call)[1])

    # ---- once the index is known
    def read_at(self, index: int, readers: Readers) -> None:
        if index:
            self._barriers.append((index, readers))
        else:
            self._readers.update(readers)

    def are_due(self, applied: int) -> bool:
        """Whether `tell` would tell somebody."""
        return any(index <= applied for index, _ in self._barriers)

    def tell(self, applied: int) -> None:
        """The transaction that holds what they will see is committed."""
        if self._barriers:
            waiting = self._barriers
            self._barriers = [barrier for barrier in waiting if barrier[0] > applied]
            for index, readers in waiting:
                if index <= applied:
                    for reader in readers:
                        reader()

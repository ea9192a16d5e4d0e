"""Linearizable reads by read index (Ongaro, Consensus, section 6.4). Pure.

A read joins the next round. The leader notes its commit index, once an entry of its own term is committed, and asks
the voters whether they are still in its term; a majority confirms, and the read may be served by any member that has
applied that index. All reads that wait when a round starts share it.
"""

from __future__ import annotations

from collections.abc import Callable

Served = Callable[[int], None]  # the index from which the read is linearizable; 0: ask again


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

    def confirm(self, number: int, term: int, voter: str) -> None:
        if number in self._open and self._open[number][1] == term:
            self._open[number][2].add(voter)
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

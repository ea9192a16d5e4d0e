"""A row that cannot be read was met: what the next life of this member has to know of it is made durable.

Nothing else of the tick that met it is kept: memory and disk would disagree. See recovery.py for that next life.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cluster.api import DataDamaged
from cluster.journal import REPLACE, Journal, applied_in, log_index
from cluster.kv.api import Damaged, Environment


class Damage:
    """`is_only_voter`: nobody could give this member a state."""

    def __init__(self, environment: Environment, journal: Journal, is_only_voter: Callable[[], bool]) -> None:
        self._environment, self._journal, self._is_only_voter = environment, journal, is_only_voter

    @contextmanager
    def ends_the_member(self) -> Iterator[None]:
        """Raises DataDamaged for any Damaged inside."""
        try:
            yield
        except Damaged as damage:
            raise DataDamaged(self._note(damage)) from damage

    def mark(self, why: str) -> bool:
        """Durably: the next life is in repair. What the open tick has done is lost; no other may follow. False: this
        is the only voter, and nothing was done."""
        if self._is_only_voter():
            return False
        self._environment.abort()
        self._journal.mark_damaged(why)
        self._environment.commit()
        return True

    def check(self) -> None:
        """At the start. Raises DataDamaged where the state must be replaced and nobody can give one, or where others
        can and the disk cannot take in what was committed: processes beside this one would not see it."""
        if self._is_only_voter():
            if self._journal.damaged:
                raise DataDamaged(_alone(self._journal.damaged))
        elif not self._journal.damaged:
            with self.ends_the_member():
                self._environment.check()

    def _note(self, damage: Damaged) -> str:
        if index := log_index(damage):
            self._environment.abort()
            with self._environment.peek() as reader:
                applied = applied_in(reader)
            if index > applied:
                return f"{damage}. {REPLACE}"
            if index < applied:
                self._journal.drop_unreadable(index)
                self._environment.commit()
                return f"{damage}. The log up to there was dropped, nothing needs it here: start this member again"
        return repaired_by(str(damage)) if self.mark(str(damage)) else _alone(str(damage))


def repaired_by(why: str) -> str:
    return f"{why}. Started again, this member fetches its state from another one"


def _alone(why: str) -> str:
    return f"{why}. This member is the only voter: nobody can give it a state. Restore it from a backup"

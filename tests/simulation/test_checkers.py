"""The checkers can fail: each world here breaks one promise, and the same seed without that keeps it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from cluster import messages as m
from cluster.kv.api import Transaction
from cluster.kv.memory_env import MemoryEnvironment
from cluster.proposals import Proposal, Result
from cluster.reads import Reader
from cluster.replica import Replica
from tests.simulation.checkers import Checkers, Violation
from tests.simulation.play import Run, setting_of
from tests.simulation.process import Disk
from tests.simulation.state import Counting


class Forgetful(Disk):
    """Says that a commit is durable when it mostly is not: a crash takes back what was not really synced."""

    _random = Random(0)

    def __init__(self) -> None:
        super().__init__()
        self._synced = self._copy()

    def commit(self, *, synced: bool = True) -> None:
        super().commit(synced=synced)
        if self._random.random() < 0.02:
            self._synced = self._copy()

    def crash(self) -> None:
        super().crash()
        for name, rows in self._copy().items():
            for key in rows.keys() - self._synced[name].keys():
                self.transaction().delete(name, key)
            for key, value in self._synced[name].items():
                self.transaction().put(name, key, value)
        MemoryEnvironment.commit(self)

    def _copy(self) -> dict[str, dict[bytes, bytes]]:
        """What rots is copied as it was."""
        return {name: table.rows.copy() for name, table in self._tables.items()}


class Differing(Counting):
    """One member reads a command in its own way."""

    def apply(self, transaction: Transaction, command: bytes, level: int = 1) -> bytes:
        return super().apply(transaction, command + b"!" if self._name == "n1" else command)


class Twice(Counting):
    """Every hundredth write takes effect a second time, and tells of the first."""

    def apply(self, transaction: Transaction, command: bytes, level: int = 1) -> bytes:
        result = super().apply(transaction, command)
        if int(command) % 100 == 0:
            super().apply(transaction, command)
        return result


class Failing(Counting):
    """An exception in apply, as a bug would raise it."""

    def apply(self, transaction: Transaction, command: bytes, level: int = 1) -> bytes:
        if int(command) == 50:
            raise KeyError(command)
        return super().apply(transaction, command)


class Hasty(Replica):
    """Serves a read from what it has."""

    def read(self, reader: Reader) -> None:
        reader()


class Careless(Replica):
    """Says of everything withdrawn that it will not happen."""

    def withdraw(self, proposal: Proposal) -> bool:
        super().withdraw(proposal)
        return True


class Silent(Replica):
    """Tells nobody that a write failed."""

    def propose(self, command: bytes, done: Callable[[Result], None], *, change: bool = False) -> Proposal:
        def told(result: Result) -> None:
            if isinstance(result, bytes):
                done(result)

        return super().propose(command, told, change=change)


class Deaf(Replica):
    """One member takes no entries."""

    def receive(self, peer: str, message: m.Message) -> bool:
        is_deaf = self.id == "n1" and isinstance(message, m.Append) and bool(message.entries)
        return not is_deaf and super().receive(peer, message)


class Sleeper(Replica):
    """Is due a while too late."""

    def next_wakeup(self) -> float:
        return super().next_wakeup() + 100.0


class Restless(Replica):
    """Is due always."""

    def next_wakeup(self) -> float:
        return float("-inf")


SEEDS = range(60)  # one of the first shows it


def violation(seed: int, **broken: Any) -> str:
    Forgetful._random = Random(0)
    return Run(seed, setting=replace(setting_of(seed, 3), **broken)).play().violation


@pytest.mark.parametrize(
    ("promise", "broken"),
    [
        ("logs diverge", {"disk": Forgetful}),
        ("states diverge", {"disk": Forgetful}),
        ("two leaders", {"disk": Forgetful}),
        ("states diverge", {"machine": Differing}),
        ("applied twice", {"machine": Twice}),
        ("n1 fell over: KeyError", {"machine": Failing}),
        ("stale read", {"replica": Hasty}),
        ("not attempted, and applied", {"replica": Careless}),
        ("calls without an answer", {"replica": Silent}),
        ("not converged", {"replica": Deaf}),
        ("not converged", {"replica": Sleeper}),
        ("n1 spins", {"replica": Restless}),
    ],
)
def test_a_broken_promise_is_caught(promise: str, broken: dict[str, Any]) -> None:
    seed = next(seed for seed in SEEDS if violation(seed, **broken).startswith(promise))
    assert violation(seed) == ""


def test_a_disk_that_loses_what_it_synced_is_caught() -> None:
    caught = [seed for seed in range(16) if violation(seed, disk=Forgetful)]
    assert len(caught) >= 5


def test_each_checker_fails_on_what_it_checks() -> None:
    checkers = Checkers()
    checkers.leads("a", 1)
    checkers.leads("a", 1)
    with pytest.raises(Violation, match="two leaders in term 1: b and a"):
        checkers.leads("b", 1)
    checkers.committed("a", 1, 1, b"x")
    checkers.committed("b", 1, 1, b"x")
    with pytest.raises(Violation, match="logs diverge"):
        checkers.committed("c", 1, 2, b"x")
    with pytest.raises(Violation, match="logs diverge"):
        checkers.committed("c", 1, 1, b"y")
    checkers.applied("a", 1, b"x", b"d")
    checkers.applied("b", 1, b"x", b"d")
    with pytest.raises(Violation, match="states diverge"):
        checkers.applied("c", 1, b"y", b"d")
    with pytest.raises(Violation, match="states diverge"):
        checkers.applied("c", 1, b"x", b"other history")
    with pytest.raises(Violation, match="applied twice"):
        checkers.applied("a", 2, b"x", b"another digest")
    with pytest.raises(Violation, match="not attempted, and applied as 1"):
        checkers.refused(b"x")
    checkers.refused(b"z")
    with pytest.raises(Violation, match="not attempted, and applied by a"):
        checkers.applied("a", 3, b"z", b"d")
    checkers.write_done(0, 5)
    with pytest.raises(Violation, match="write lost or repeated"):
        checkers.write_done(5, 5)
    checkers.read_done(5, 5)
    with pytest.raises(Violation, match="stale read"):
        checkers.read_done(5, 4)
    checkers.survivors(5)
    with pytest.raises(Violation, match="acknowledged writes are gone"):
        checkers.survivors(4)

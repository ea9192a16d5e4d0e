"""The simulator's state machine: it counts, and keeps a digest of its history."""

from __future__ import annotations

from cluster.kv.api import Reader, Transaction
from tests.simulation.checkers import Checkers

STATE = "state"
ROWS = 40  # of the newest commands, so that a state takes some chunks
PURGE_EVERY = 150  # commands


class Counting:
    def __init__(self, name: str, checkers: Checkers, level: int) -> None:
        """`level`: the highest feature level that this release can apply."""
        self._name, self._checkers, self._level = name, checkers, level

    def apply(self, transaction: Transaction, command: bytes, level: int = 1) -> bytes:
        generation, digest = read_state(transaction)
        generation, digest = generation + 1, self._checkers.chain(digest, command)
        transaction.put(STATE, b"row %02d" % (generation % ROWS), command)
        transaction.put(STATE, b"state", generation.to_bytes(8, "big") + digest)
        self._checkers.applied(self._name, generation, command, digest)
        self.generation = generation
        return generation.to_bytes(8, "big")

    def committed(self) -> None: ...

    def forget_log(self) -> bool:
        return False

    def installed(self) -> None: ...


class Purging(Counting):
    """Now and then what was applied is to leave the logs."""

    def forget_log(self) -> bool:
        return self.generation % PURGE_EVERY == 0


def read_state(reader: Reader) -> tuple[int, bytes]:
    row = reader.get(STATE, b"state") or bytes(8)
    return int.from_bytes(row[:8], "big"), row[8:]

"""What must hold in every run; a violation ends it."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b


class Violation(Exception):
    pass


class Checkers:
    def __init__(self) -> None:
        self._history: dict[int, tuple[bytes, bytes]] = {}  # generation: command, digest of the history
        self.leaders: dict[int, str] = {}  # by term
        self._generation: dict[bytes, int] = {}  # by command: no two are alike
        self.floor = 0  # the highest generation that any finished call has seen
        self.writes = self.reads = 0
        self.failures: Counter[str] = Counter()

    @staticmethod
    def chain(digest: bytes, command: bytes) -> bytes:
        return blake2b(digest + command, digest_size=8).digest()

    def applied(self, member: str, generation: int, command: bytes, digest: bytes) -> None:
        """The same log gives the same state on every member, and each command takes effect once."""
        known = self._history.setdefault(generation, (command, digest))
        if known != (command, digest):
            raise Violation(f"states diverge: {member} applied {command!r} as {generation}, another {known[0]!r}")
        if self._generation.setdefault(command, generation) != generation:
            raise Violation(f"applied twice: {command!r} as {self._generation[command]} and {generation}")

    def leads(self, member: str, term: int) -> None:
        known = self.leaders.setdefault(term, member)
        if known != member:
            raise Violation(f"two leaders in term {term}: {member} and {known}")

    def write_done(self, floor_at_call: int, generation: int) -> None:
        """An acknowledged write survives and takes effect after the call began."""
        if generation <= floor_at_call:
            raise Violation(f"write lost or repeated: {generation} at or below {floor_at_call}")
        self.floor, self.writes = max(self.floor, generation), self.writes + 1

    def read_done(self, floor_at_call: int, generation: int) -> None:
        """A read sees every write and read that finished before it began."""
        if generation < floor_at_call:
            raise Violation(f"stale read: {generation} below {floor_at_call}")
        self.floor, self.reads = max(self.floor, generation), self.reads + 1

    def survivors(self, generation: int) -> None:
        """After healing, every member has what was acknowledged."""
        if generation < self.floor:
            raise Violation(f"acknowledged writes are gone: {generation} below {self.floor}")

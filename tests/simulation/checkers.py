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
        self._log: dict[int, tuple[int, bytes]] = {}  # index: term, entry, as first applied
        self._digests: dict[int, bytes] = {}  # index: of the state, as first told
        self.installs = 0
        self._refused: set[bytes] = set()  # commands that were said not to happen
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

        if command in self._refused:
            raise Violation(f"not attempted, and applied by {member}: {command!r}")

    def committed(self, member: str, index: int, term: int, entry: bytes) -> None:
        """Members apply the same entry of the same term at an index, whatever they make of it."""
        known = self._log.setdefault(index, (term, entry))
        if known != (term, entry):
            raise Violation(f"logs diverge: {member} applied {(term, entry)} at {index}, another {known}")

    def state(self, member: str, index: int, digest: bytes) -> None:
        """Members that have applied as far have the same digest of their states."""
        known = self._digests.setdefault(index, digest)
        if known != digest:
            raise Violation(f"digests differ: {member} has {digest.hex()} at {index}, another {known.hex()}")

    def refused(self, command: bytes) -> None:
        """What was not attempted has not happened and will not."""
        self._refused.add(command)
        if command in self._generation:
            raise Violation(f"not attempted, and applied as {self._generation[command]}: {command!r}")

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

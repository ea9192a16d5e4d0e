"""Calls at the members, and what became of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from cluster import membership
from cluster.api import NotAttempted
from cluster.membership import Change
from cluster.proposals import Proposal, Result
from tests.simulation.checkers import Violation
from tests.simulation.process import Process
from tests.simulation.state import read_state

if TYPE_CHECKING:
    from tests.simulation.world import World

CHANGE_S = 5.0  # until whoever asked for a change gives up
Told = Callable[[float], object]  # seconds since the call


class Clients:
    """A call ends with an answer, when its time is up, or with the process that it was made at."""

    def __init__(self, world: World) -> None:
        self._world, self._checkers = world, world.checkers
        self._written = self._reads = self._changes = 0
        self.changes: Counter[str] = Counter()

    def write(self, name: str, *, timeout_s: float | None = None, told: Told | None = None) -> None:
        self._written += 1
        process: Process = self._world.live[name]
        command, floor, began_s = b"%d" % self._written, self._checkers.floor, self._world.now_s
        call = f"write {self._written}"
        process.calls[call] = None
        proposals: list[Proposal] = []

        def done(result: Result) -> None:
            if call not in process.calls:
                return  # the caller gave up before
            del process.calls[call]
            if isinstance(result, bytes):
                self._checkers.write_done(floor, int.from_bytes(result, "big"))
                if told:
                    told(self._world.now_s - began_s)
            else:
                self._failed(command, result)

        def give_up() -> None:
            if call in process.calls:
                del process.calls[call]
                if process.replica.withdraw(proposals[0]):
                    self._checkers.refused(command)

        process.put(lambda: proposals.append(process.replica.propose(command, done)))
        if timeout_s is not None:
            self._world.after(timeout_s, partial(self._put, process, give_up))

    def read(self, name: str, *, timeout_s: float | None = None, told: Told | None = None) -> None:
        self._reads += 1
        process: Process = self._world.live[name]
        floor, began_s, call = self._checkers.floor, self._world.now_s, f"read {self._reads}"
        process.calls[call] = None

        def served() -> None:
            if call not in process.calls:
                return
            del process.calls[call]
            with process.disk.snapshot() as snapshot:
                self._checkers.read_done(floor, read_state(snapshot)[0])
            if told:
                told(self._world.now_s - began_s)

        def give_up() -> None:
            if call in process.calls:
                del process.calls[call]
                process.replica.withdraw_read(served)

        process.put(lambda: process.replica.read(served))
        if timeout_s is not None:
            self._world.after(timeout_s, partial(self._put, process, give_up))

    def change(self, name: str, change: Change) -> None:
        """One step of membership, asked for at this member."""
        process: Process = self._world.live[name]
        said = f"{type(change).__name__.lower()} {change.member or 'anybody'}"
        self._changes += 1
        call = f"change {self._changes}: {said}"
        process.calls[call] = None
        self._world.note(f"{name} is asked to {said}")
        proposals: list[Proposal] = []

        def done(result: Result) -> None:
            if process.calls.pop(call, call) is None:
                changed = membership.decode_changed(result) if isinstance(result, bytes) else None
                outcome = type(result).__name__ if changed is None else changed.reason or "done"
                self.changes[f"{type(change).__name__} {outcome}"] += 1
                self._world.note(f"{said}: {outcome}")

        def give_up() -> None:
            if process.calls.pop(call, call) is None:
                process.replica.withdraw(proposals[0])

        encoded = membership.encode_change(change)
        process.put(lambda: proposals.append(process.replica.propose(encoded, done, change=True)))
        self._world.after(CHANGE_S, partial(self._put, process, give_up))

    def unanswered(self) -> set[str]:
        """Of the members: whoever waits for admission has nobody to ask."""
        live = self._world.live
        return {call for name in self._world.members() if name in live for call in live[name].calls}

    def check_answered(self, calls: set[str]) -> None:
        if lost := sorted(calls & self.unanswered()):
            raise Violation(f"calls without an answer: {', '.join(lost)}")

    @staticmethod
    def _put(process: Process, call: Callable[[], None]) -> None:
        if not process.is_dead:
            process.put(call)

    def _failed(self, command: bytes, result: Result) -> None:
        self._checkers.failures[type(result).__name__] += 1
        if isinstance(result, NotAttempted):
            self._checkers.refused(command)

"""A network of members in namespaces of their own, and of the test's clients in its own. Every directed link can be
cut and delayed; `switch.py` is the wire.

Networks and mounts go when the test ends, also when it is killed: the switch sees the end of its stdin.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import pytest

from tests.faults import leftovers, switch

ROOT = Path(__file__).parents[2]
CLIENTS = "clients"  # the end at which the test itself sits


class Network:
    """A context manager. Skips the test where a network cannot be made."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._hosts = {name: number for number, name in enumerate(names, 1)} | {CLIENTS: switch.CLIENTS}
        self._subnet = f"198.18.{os.getpid() % 256}"  # of RFC 2544, for tests: routed nowhere
        self._cuts: set[tuple[str, str]] = set()
        self._delays: dict[tuple[str, str], float] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if reason := leftovers.why_not():
            pytest.skip(f"no network of our own: {reason}")
        leftovers.remove_stale()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.switch", str(os.getpid()), self._subnet, *self.names],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C ends the test, which ends the switch
        )
        self._expect_ok()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        told, answers = self._pipes()
        told.close()
        self._process.wait()
        answers.close()

    def address(self, name: str) -> str:
        return f"{self._subnet}.{self._hosts[name]}"

    def inside(self, name: str) -> list[str]:
        """What stands before a command that runs at this member's end. It becomes the command: same process id."""
        return ["nsenter", f"--net=/run/netns/{leftovers.name(name)}"]

    def others(self, name: str, *, clients: bool = True) -> list[str]:
        return [other for other in self._hosts if other != name and (clients or other != CLIENTS)]

    def cut(self, one: str, other: str) -> None:
        self._cuts |= {(one, other), (other, one)}
        self._tell()

    def cut_one_way(self, start: str, end: str) -> None:
        """Nothing from `start` arrives at `end`."""
        self._cuts.add((start, end))
        self._tell()

    def delay(self, start: str, end: str, seconds: float) -> None:
        """One way."""
        self._delays[start, end] = seconds
        self._tell()

    def heal(self) -> None:
        """No cuts, no delays."""
        self._cuts.clear()
        self._delays.clear()
        self._tell()

    def _tell(self) -> None:
        cuts = [[self._hosts[start], self._hosts[end]] for start, end in self._cuts]
        delays = [[self._hosts[start], self._hosts[end], seconds] for (start, end), seconds in self._delays.items()]
        told, _ = self._pipes()
        told.write(json.dumps({"cuts": cuts, "delays": delays}).encode() + b"\n")
        told.flush()
        self._expect_ok()

    def _expect_ok(self) -> None:
        _, answers = self._pipes()
        assert answers.readline() == b"ok\n", "the switch ended"

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

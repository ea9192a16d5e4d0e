"""What the agent's commands do on its machine: hooks, probes, and what an exec target installs."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

from registry.agent import limits
from registry.agent.guards import digest_of
from registry.agent.runner import Result
from tests.simulation.agent.disk import Crash, Disk
from tests.simulation.agent.registry import Key

LATER = Result(False, f"exit code {limits.LATER_EXIT_CODE}", later=True)
FAILED = Result(False, "exit code 1")
SUCCEEDED = Result(True, "")


class Machine:
    """`flaky`: the share of commands that fail without a reason. `bad`, `fatal`: digests of versions whose probe fails,
    and whose probe mostly takes the agent down."""

    def __init__(self, rng: Random, disk: Disk, crash: Callable[[str], None]) -> None:
        self.flaky = 0.0
        self.bad: set[str] = set()
        self.fatal: set[str] = set()
        self.live: dict[Key, str] = {}  # of exec targets; "": nothing
        self.failed: Counter[tuple[Key, str]] = Counter()  # what went wrong with a digest
        self.proven: set[tuple[Key, str]] = set()  # by a probe
        self.at_command: Callable[[str, Key, str], None] = lambda command, key, digest: None
        self.note: Callable[[str], None] = lambda what: None
        self._rng = rng
        self._disk = disk
        self._crash = crash

    async def run(
        self, command: str, environment: Mapping[str, str], *, timeout_s: float, stdin: Path = Path(os.devnull)
    ) -> Result:
        """As registry.agent.runner.run."""
        self._alive()
        key = environment["REGISTRY_WORKFLOW"], environment["REGISTRY_POINTER"]
        digest = environment["REGISTRY_DIGEST"]
        self.at_command(command, key, digest)
        if command == "shows":
            return Result(True, "", output=f"live: {self.live[key]}" if self.live.get(key) else "")
        takes_s = self._rng.choice([0.01, 0.5, 3.0]) if self._rng.random() > self.flaky / 4 else timeout_s + 1
        changes_first = self._rng.random() < 0.5
        fails = self._rng.random() < self.flaky
        result = self._result(command, digest) if not fails else self._rng.choice([FAILED, LATER])
        if command == "install" and not result.later and (changes_first or result.succeeded):
            await asyncio.sleep(takes_s / 2)
            self._alive()
            self._install(key, environment)
        await asyncio.sleep(min(takes_s, timeout_s))
        self._alive()
        if takes_s > timeout_s:
            result = Result(False, f"not finished within {timeout_s:g} s, killed")
        if command == "probe" and digest in self.fatal and self._rng.random() < 0.9:
            self._crash(f"{key[0]}: probe takes the machine down")
            raise Crash
        self._remember(command, key, digest, result)
        return result

    def _result(self, command: str, digest: str) -> Result:
        return FAILED if command == "probe" and digest in self.bad else SUCCEEDED

    def _install(self, key: Key, environment: Mapping[str, str]) -> None:
        digest = environment["REGISTRY_DIGEST"]
        if environment["REGISTRY_ACTION"] == "remove":
            self.live[key] = ""
        else:
            self.live[key] = digest_of(Path(environment["REGISTRY_CONTENT"]).read_bytes())
        self.note(f"{key[0]}: command {environment['REGISTRY_ACTION']}s {digest[7:15]}")
        self.at_command("installed", key, digest)

    def _remember(self, command: str, key: Key, digest: str, result: Result) -> None:
        if result.succeeded and command == "probe":
            self.proven.add((key, digest))
        if not result.succeeded:
            self.note(f"{key[0]}: {command} of {digest[7:15]} ends with {result.detail}")
            self.failed[key, digest] += 1

    def _alive(self) -> None:
        if self._disk.is_dead:
            raise Crash

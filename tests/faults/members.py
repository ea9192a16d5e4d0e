"""Members as a machine's supervisor runs them: each at an address of its own, started again whenever it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.faults.network import ROOT

API, PEER, HTTP = 7400, 7401, 7402  # ports at every address
MODULE = "registry.server.main"
BACKOFF_S = 0.5
LOOK_S = 0.02
PROBE_S = 1.0
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Place:
    """Where a member runs. `inside`: what stands before its command."""

    name: str
    address: str
    data_dir: Path
    inside: Sequence[str] = ()


@dataclass(frozen=True)
class Exit:
    """A member ended by itself."""

    name: str
    code: int
    at: float  # time.monotonic()


class Member:
    def __init__(self, place: Place, cluster: str, log: Path, environment: Mapping[str, str], module: str) -> None:
        self.name, self.data_dir, self.log = place.name, place.data_dir, log
        self.address = f"{place.address}:{API}"
        self.wanted = False  # up, as far as the supervisor is concerned
        self._host = place.address
        self._environment = os.environ | dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._command = [
            *place.inside,
            *(sys.executable, "-m", module, "--name", place.name, "--data-dir", str(place.data_dir), "--insecure"),
            *("--cluster", cluster, "--listen", self.address, "--peer-listen", f"{place.address}:{PEER}"),
            *("--http-listen", f"{place.address}:{HTTP}"),
        ]

    def start(self) -> None:
        self.wanted = True
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL; returns once it is dead, and it stays so until it is started."""
        self.wanted = False
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def ended(self) -> int | None:
        """Its exit code; None: it runs."""
        assert self._process is not None
        return self._process.poll()

    async def ready(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_S):
                reader, writer = await asyncio.open_connection(self._host, HTTP)
                try:
                    writer.write(f"GET /readyz HTTP/1.1\r\nHost: {self._host}\r\nConnection: close\r\n\r\n".encode())
                    status = await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False
        return status.split()[1:2] == [b"200"]


class Members:
    """An async context manager: starts all, and kills all when it is left."""

    def __init__(
        self, places: Sequence[Place], logs: Path, *, environment: Mapping[str, str], module: str = MODULE
    ) -> None:
        cluster = ",".join(f"{place.name}={place.address}:{PEER}" for place in places)
        self.all = {
            place.name: Member(place, cluster, logs / f"{place.name}.log", environment, module) for place in places
        }
        self.exits: list[Exit] = []
        self._supervisor: asyncio.Task[None] | None = None

    def __getitem__(self, name: str) -> Member:
        return self.all[name]

    @property
    def endpoints(self) -> list[str]:
        return [member.address for member in self.all.values()]

    async def __aenter__(self) -> Self:
        try:
            self.start()
            self._supervisor = asyncio.create_task(self._supervise())
            await self.until_ready()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
        self.kill()

    def start(self) -> None:
        for member in self.all.values():
            member.start()

    def kill(self) -> None:
        for member in self.all.values():
            member.kill()

    async def until_ready(self) -> None:
        """Until all are, from the same moment on."""
        async with asyncio.timeout(PATIENCE_S):
            while not all(await asyncio.gather(*(member.ready() for member in self.all.values()))):
                await asyncio.sleep(LOOK_S)

    async def _supervise(self) -> None:
        due: dict[str, float] = {}
        while True:
            await asyncio.sleep(LOOK_S)
            now = time.monotonic()
            for name, member in self.all.items():
                if not member.wanted:
                    due.pop(name, None)
                elif name in due:
                    if now >= due[name]:
                        del due[name]
                        member.start()
                elif (code := member.ended()) is not None:
                    self.exits.append(Exit(name, code, now))
                    due[name] = now + BACKOFF_S

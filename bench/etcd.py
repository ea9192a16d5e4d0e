"""etcd as it is installed: members over real data directories, and its load generator in Go.

Where that stands: REGISTRY_PEERS, a directory with etcd/build.sh and etcd/main.go; etcd and Go must be installed.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec

from bench.resources import process_bytes, thread_cpu_s
from registry.cli.local_cluster import HOST, free_ports

PEERS = Path(os.environ.get("REGISTRY_PEERS") or Path(__file__).resolve().parent.parent / "../shared/peers").resolve()
PUTS, START_S, SETTLE_S = 10, 30.0, 2.0
CALL_S = 30.0
_LAST = re.compile(r"last_p50=([0-9.]+)ms")
_LOADED = re.compile(r"ops/s=(\d+) p50=([0-9.]+)ms p99=([0-9.]+)ms fails=(\d+) loadgen_cores=([0-9.]+)")
_GAP = re.compile(r"GAP (\d+) ms")


class Watched(NamedTuple):
    last_ms: float  # median of PUTS: from the put to the last watcher's event
    cpu_ms: float  # of the server, for one of them
    agent_bytes: float  # of the server's memory, for one watcher


class Answered(NamedTuple):
    per_second: float
    p50_ms: float
    p99_ms: float
    failures: int
    load_cores: float


def missing() -> str:
    """Why there is nothing to compare with; empty: there is."""
    if not (PEERS / "etcd" / "build.sh").is_file():
        return f"no etcd/build.sh in {PEERS.name}: set REGISTRY_PEERS to the directory"
    absent = [name for name in ("etcd", "go") if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


class Etcd:
    """A cluster of `members` under `directory`."""

    def __init__(self, directory: Path, members: int = 3) -> None:
        self._directory = directory
        self._numbers = range(1, members + 1)
        free = free_ports(2 * members)
        self._client_ports = dict(zip(self._numbers, free, strict=False))
        self._peer_ports = dict(zip(self._numbers, free[members:], strict=True))
        self._servers: dict[int, subprocess.Popen[bytes]] = {}
        self._load = ""

    async def __aenter__(self) -> Self:
        command = [PEERS / "etcd" / "build.sh", self._directory]
        self._directory.mkdir(parents=True)
        built = await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, text=True)
        self._load = built.stdout.split()[-1]
        try:
            await self.start()
        except BaseException:
            self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def start(self) -> float:
        """Starts the members that do not run. Seconds until all are healthy."""
        began = time.monotonic()
        for number in self._numbers:
            server = self._servers.get(number)
            if server is None or server.poll() is not None:
                self._servers[number] = self._start(number)
        for number in self._numbers:
            while not await asyncio.to_thread(self._is_healthy, number):
                if time.monotonic() - began > START_S:
                    raise TimeoutError(f"etcd's member {number} is not healthy; its log is in {self._directory}")
                await asyncio.sleep(0.01)
        return time.monotonic() - began

    def stop(self) -> None:
        for server in self._servers.values():
            server.kill()
            server.wait()

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        client, peer = f"http://{self.address(number)}", self._peer(number)
        everybody = ",".join(f"n{each}={self._peer(each)}" for each in self._numbers)
        command = (
            *("etcd", "--name", f"n{number}", "--data-dir", str(self.data_dir(number)), "--log-level", "error"),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", everybody, "--initial-cluster-state", "new"),
            *("--quota-backend-bytes", "4000000000"),
        )
        with (self._directory / f"n{number}.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def data_dir(self, number: int) -> Path:
        return self._directory / f"n{number}"

    def address(self, number: int) -> str:
        return f"{HOST}:{self._client_ports[number]}"

    def _peer(self, number: int) -> str:
        return f"http://{HOST}:{self._peer_ports[number]}"

    def _is_healthy(self, number: int) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address(number)}/health", timeout=CALL_S) as reply:
                return b'"true"' in reply.read()
        except (OSError, urllib.error.HTTPError):
            return False

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(server.pid for server in self._servers.values())

    # Calls, through its JSON gateway

    def call(self, path: str, number: int = 1, **request: Any) -> dict[str, Any]:
        url = f"http://{self.address(number)}/v3/{path}"
        with urllib.request.urlopen(url, data=msgspec.json.encode(request), timeout=CALL_S) as reply:
            return msgspec.json.decode(reply.read(), type=dict[str, Any])

    def put(self, key: str, value: bytes) -> None:
        self.call("kv/put", key=_text(key.encode()), value=_text(value))

    def leader(self) -> int:
        """The number of its member."""
        for number in self._numbers:
            status = self.call("maintenance/status", number)
            if status["leader"] == status["header"]["member_id"]:
                return number
        raise RuntimeError("etcd has no leader")

    def term(self) -> int:
        return int(self.call("maintenance/status")["raftTerm"])

    def used_bytes(self, number: int = 1) -> int:
        """Of its database, after it was made as small as it can be."""
        self.call("maintenance/defragment", number)
        return int(self.call("maintenance/status", number)["dbSizeInUse"])

    # Load

    async def load(
        self, mode: str, *, callers: int, connections: int, seconds: float, size_bytes: int = 256
    ) -> Answered:
        """`mode`: cas, get. To the leader. Each caller has its own key."""
        leader = await asyncio.to_thread(self.leader)
        said = await self._run(
            *("-mode", mode, "-eps", self.address(leader), "-c", str(callers), "-conns", str(connections)),
            *("-d", str(seconds), "-size", str(size_bytes)),
        )
        found = _LOADED.search(said)
        if found is None:
            raise RuntimeError(f"etcd's load generator said: {said}")
        per_second, p50, p99, failures, cores = found.groups()
        return Answered(float(per_second), float(p50), float(p99), int(failures), float(cores))

    async def failover(self, before_s: float, seconds: float) -> float:
        """Milliseconds without a write around a kill -9 of the leader, while one writer for each member tries."""
        leader = await asyncio.to_thread(self.leader)
        addresses = ",".join(self.address(number) for number in self._numbers)
        running = asyncio.create_task(self._run("-mode", "failover", "-eps", addresses, "-d", str(seconds)))
        await asyncio.sleep(before_s)
        self._servers[leader].kill()
        self._servers[leader].wait()
        gaps = [int(gap) for gap in _GAP.findall(await running)]
        await self.start()
        if not gaps:
            raise RuntimeError("etcd's load generator noticed no gap")
        return float(max(gaps))

    async def _run(self, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            self._load, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )  # it complains of every write that fails, which a failover is made of
        said, _ = await process.communicate()
        return said.decode()

    async def watch(self, watchers: int, connections: int) -> Watched:
        """One round of PUTS puts to the first member, each to all watchers."""
        pid = self._servers[1].pid
        before_bytes = process_bytes(pid)
        load = await asyncio.create_subprocess_exec(
            self._load, "-mode", "watch", "-eps", self.address(1), "-n", str(watchers),
            "-conns", str(connections), "-puts", str(PUTS), "-hold", str(SETTLE_S),
            stdout=asyncio.subprocess.PIPE, env={**os.environ, "OWNSTREAM": "1"},
        )  # fmt: skip
        assert load.stdout is not None
        while (line := (await load.stdout.readline()).decode()).strip() != "READY":
            if not line:
                raise RuntimeError("etcd's load generator gave up before its watchers stood")
        await asyncio.sleep(SETTLE_S / 2)
        agent_bytes = (process_bytes(pid) - before_bytes) / watchers
        began_s = thread_cpu_s(pid)
        rest = (await load.stdout.read()).decode()
        await load.wait()
        found = _LAST.search(rest)
        if found is None or "TIMEOUT" in rest:
            raise RuntimeError(f"etcd's watchers did not all hear of it: {rest}")
        return Watched(float(found.group(1)), (thread_cpu_s(pid) - began_s) * 1000 / PUTS, agent_bytes)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()

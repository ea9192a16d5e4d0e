"""Real members in one process: loopback sockets, LMDB, the machine's clock."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path

from cluster.journal import TABLES
from cluster.kv.api import Transaction
from cluster.kv.lmdb_env import LmdbEnvironment
from cluster.member import Member, MemberConfig
from cluster.peers import PeerTls

STATE = "state"
PATIENCE_S = 10.0


class Log:
    """A state machine that keeps every command in order; `!` is one it falls over."""

    def apply(self, transaction: Transaction, command: bytes) -> bytes:
        if command == b"!":
            raise ZeroDivisionError("the state machine fell over")
        last = next(transaction.scan(STATE, reverse=True), (bytes(8), b""))[0]
        index = int.from_bytes(last, "big") + 1
        transaction.put(STATE, index.to_bytes(8, "big"), command)
        return b"%d" % index

    def committed(self) -> None: ...


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


async def until(condition: Callable[[], bool], what: str, *, within_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s:.0f} s for {what}"
        await asyncio.sleep(0.005)


class Cluster:
    """Members a, b and c; each may be stopped and started again on its directory."""

    def __init__(self, directory: Path, names: str = "abc", *, tls: Callable[[str], PeerTls] | None = None) -> None:
        self._directory, self._tls = directory, tls
        self.addresses = {name: f"127.0.0.1:{port}" for name, port in zip(names, free_ports(len(names)), strict=True)}
        self.members: dict[str, Member] = {}
        self.environments: dict[str, LmdbEnvironment] = {}

    async def start(self, *names: str, foundation: str = "foundation", incarnation: str = "") -> None:
        for name in names or self.addresses:
            environment = LmdbEnvironment(self._directory / name, [*TABLES, STATE], map_size_bytes=1 << 28)
            config = MemberConfig(
                name=name,
                listen=self.addresses[name],
                voters=self.addresses,
                foundation=foundation,
                incarnation=incarnation or f"of {name}",
                api_address=f"api of {name}",
                datacenter="dc1",
                tls=self._tls(name) if self._tls else None,
            )
            self.environments[name] = environment
            self.members[name] = member = Member(config, environment, Log())
            await member.start()

    async def stop(self, *names: str, handover_s: float = 0.0) -> None:
        for name in names or list(self.members):
            await self.members.pop(name).stop(handover_s=handover_s)
            self.environments.pop(name).close()

    async def leader(self) -> str:
        def found() -> str:
            leaders = {member.status().leader for member in self.members.values()}
            (leader,) = leaders if len(leaders) == 1 else [None]
            return leader if leader in self.members else ""

        await until(lambda: bool(found()), f"a leader among {[*self.members]}")
        return found()

    async def propose(self, name: str, command: bytes, *, timeout_s: float = PATIENCE_S) -> int:
        return int(await self.members[name].propose(command, timeout_s=timeout_s))

    def commands(self, name: str) -> list[bytes]:
        with self.environments[name].snapshot() as snapshot:
            return [command for _, command in snapshot.scan(STATE)]

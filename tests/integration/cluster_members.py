"""Real members in one process: loopback sockets, LMDB, the machine's clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.configuration import founding
from cluster.journal import TABLES
from cluster.kv.api import Transaction
from cluster.kv.lmdb_env import LmdbEnvironment
from cluster.limits import FLOW, Flow
from cluster.member import Member, MemberConfig
from cluster.membership import Change, Changed
from cluster.peers import PeerTls
from registry.cli.local_cluster import free_ports

STATE = "state"
PATIENCE_S = 10.0


class Log:
    """A state machine that keeps every command in order; `!` is one it falls over, `clear` forgets all before it."""

    def apply(self, transaction: Transaction, command: bytes, level: int) -> bytes:
        if command == b"!":
            raise ZeroDivisionError("the state machine fell over")
        if command == b"clear":
            for key, _ in transaction.scan(STATE):
                transaction.delete(STATE, key)
            return b"0"
        last = next(transaction.scan(STATE, reverse=True), (bytes(8), b""))[0]
        index = int.from_bytes(last, "big") + 1
        transaction.put(STATE, index.to_bytes(8, "big"), command)
        return b"%d" % index

    def committed(self) -> None: ...

    def forget_log(self) -> bool:
        return False

    def installed(self) -> None: ...


async def until(condition: Callable[[], bool], what: str, *, within_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s:.0f} s for {what}"
        await asyncio.sleep(0.005)


class Cluster:
    """Founders by name, others by id (`d/1`), which join; each may be stopped and started again on its directory."""

    def __init__(
        self,
        directory: Path,
        names: str = "abc",
        *,
        tls: Callable[[str], PeerTls] | None = None,
        flow: Flow = FLOW,
        levels: dict[str, int] | None = None,
    ) -> None:
        self._directory, self._tls, self._flow, self._levels = directory, tls, flow, levels or {}
        self.addresses = {name: f"127.0.0.1:{port}" for name, port in zip(names, free_ports(len(names)), strict=True)}
        self.founders = dict(self.addresses)
        self.members: dict[str, Member] = {}
        self.environments: dict[str, LmdbEnvironment] = {}

    async def start(self, *ids: str, cluster: str = "ours", incarnation: str = "", join: Sequence[str] = ()) -> None:
        """`join`: at whom, instead of all founders; an observer prefers them as sources."""
        for id in ids or self.addresses:
            if id not in self.addresses:
                self.addresses[id] = f"127.0.0.1:{free_ports(1)[0]}"
            name, _, joined = id.partition("/")
            environment = LmdbEnvironment(
                self._directory / id.replace("/", "-"), [*TABLES, STATE], map_size_bytes=1 << 28
            )
            addresses = tuple(self.addresses[other] for other in join or self.founders) if joined else ()
            config = MemberConfig(
                id=id,
                name=name,
                incarnation=joined or incarnation or f"of {name}",
                listen=self.addresses[id],
                peer_address=self.addresses[id],
                founding=None if joined else founding(cluster, self.founders),
                join=addresses,
                level=self._levels.get(id, 1),
                api_address=f"api of {name}",
                datacenter="dc1",
                tls=self._tls(name) if self._tls else None,
                flow=self._flow,
            )
            self.environments[id] = environment
            try:
                member = Member(config, environment, Log())
            except BaseException:
                self.environments.pop(id).close()
                raise
            self.members[id] = member
            await member.start()

    async def change(self, name: str, change: Change, *, timeout_s: float = PATIENCE_S) -> Changed:
        return await self.members[name].change(change, timeout_s=timeout_s)

    def roles(self, name: str) -> dict[str, str]:
        return {peer.member.id: peer.member.role for peer in self.members[name].status().peers}

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

    async def leader_of(self, id: str) -> str:
        """As this member knows it."""
        await until(lambda: self.members[id].status().leader in self.members, f"a leader that {id} knows")
        return self.members[id].status().leader or ""

    async def propose(self, name: str, command: bytes, *, timeout_s: float = PATIENCE_S) -> int:
        return int(await self.members[name].propose(command, timeout_s=timeout_s))

    def commands(self, name: str) -> list[bytes]:
        with self.environments[name].snapshot() as snapshot:
            return [command for _, command in snapshot.scan(STATE)]

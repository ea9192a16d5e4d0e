"""Bytes of a member's database file flip while it is stopped: whatever it serves then is right or a clear error, a
scrub finds it, and it has its data back from another member."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from cluster import journal
from cluster.kv.lmdb_env import LmdbEnvironment
from registry.cli.local_cluster import LocalCluster, LocalClusterError, LocalMember
from registry.client import Client
from registry.core.errors import Reason, RegistryError, Unavailable
from registry.server.identity import DATABASE
from registry.store import tables

FULL = os.environ.get("REGISTRY_FAULTS") == "full"
ROUNDS = 40 if FULL else 3
PLACES = [  # table, in the key
    (tables.CONTENTS, False),
    (tables.VERSIONS, True),
    (tables.POINTERS, False),
    (tables.CONTENTS, True),
    (tables.VERSIONS, False),
    (tables.POINTERS, True),
    (tables.CHANGES, False),
    (tables.CHANGES, True),
    (tables.REGISTRY, False),
    (tables.REGISTRY, True),
]
VERSIONS = 6
WORKFLOW = "support/triage"
PATIENCE_S = 60.0
LOOK_S = 0.05
HONEST = {Reason.CORRUPT_CONTENT, Reason.DATA_DAMAGED, Reason.NO_MEMBER, Reason.NO_QUORUM, Reason.SHUTTING_DOWN}
Row = tuple[bytes, bytes]

pytestmark = pytest.mark.timeout(900 if FULL else 180)


class Damaged:
    """Three members of one cluster, of which one is damaged while it is stopped."""

    def __init__(self, cluster: LocalCluster, client: Client) -> None:
        self.cluster, self.client = cluster, client
        self.contents: dict[int, bytes] = {}

    async def fill(self) -> None:
        rng = random.Random(7)
        for number in range(1, VERSIONS + 1):
            words = " ".join(rng.choice(("answer", "politely", "escalate", "refund", "order")) for _ in range(900))
            noise = rng.randbytes(300).hex().encode()
            content = b'{"prompt": "%d %s", "noise": "%s"}' % (number, words.encode(), noise)
            self.contents[(await self.client.publish(WORKFLOW, content)).number] = content
        await self.client.switch(WORKFLOW, 2, reason="go live")

    async def reads(self, address: str) -> list[Reason]:
        """Everything, of this member alone. Returns how it was refused; a wrong answer fails the test."""
        refused: list[Reason] = []
        async with Client([address], timeout_s=0.3) as client:
            for number, content in self.contents.items():
                try:
                    assert await client.content(WORKFLOW, number, stale=True) == content
                    version = await client.version(WORKFLOW, number, stale=True)
                    assert (version.number, version.size_bytes) == (number, len(content))
                except Unavailable as error:
                    refused.append(error.reason)
                    if error.reason is Reason.NO_MEMBER:  # it has ended
                        return refused
            try:
                assert (await client.pointer(WORKFLOW, stale=True)).version == 2
            except Unavailable as error:
                refused.append(error.reason)
        return refused

    def path(self, name: str) -> Path:
        return self.cluster[name].data_dir / DATABASE

    def rows(self, name: str) -> dict[str, list[Row]]:
        """Of a stopped member: all of the state."""
        environment = LmdbEnvironment(self.path(name), (*tables.TABLES, *journal.TABLES))
        try:
            with environment.snapshot() as reader:
                return {table: list(reader.scan(table)) for table in (*tables.TABLES, journal.APPLIED)}
        finally:
            environment.close()

    def flip(self, name: str, places: Callable[[bytes], list[int]], rng: random.Random) -> None:
        """One bit at these places in the file of a stopped member."""
        file = next(self.path(name).glob("*/data.mdb"))
        data = bytearray(file.read_bytes())
        bit = 1 << rng.randrange(8)
        for at in places(bytes(data)):
            data[at] ^= bit
        file.write_bytes(data)

    async def whole_again(self, name: str) -> None:
        """Its supervisor starts it whenever it ends; until it is ready and a scrub finds nothing."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                self.cluster[name].start()
                try:
                    await self.cluster.wait_ready([name])
                    if not (await self.client.scrub(self.cluster[name].address)).damage:
                        return
                except (LocalClusterError, RegistryError):
                    await asyncio.sleep(LOOK_S)

    async def level(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len({each.applied_index for each in (await self.client.status()).members}) > 1:
                await asyncio.sleep(LOOK_S)

    async def equal(self) -> None:
        """All tables of all members, at one index."""
        await self.level()
        await stop(*self.cluster.members.values())
        first, *others = (self.rows(name) for name in self.cluster.members)
        for other in others:
            if other[journal.APPLIED] == first[journal.APPLIED]:
                assert other == first
        await self.cluster.start()


async def stop(*members: LocalMember) -> None:
    """In order: all that they have applied is in their files then. What a killed one applied last may be in its log
    alone."""
    for member in members:
        member.signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE_S):
        while any(member.running for member in members):
            await asyncio.sleep(LOOK_S)


async def follower(client: Client) -> str:
    status = await client.status()
    return next(member.name for member in status.members if member.role == "voter")


@pytest.fixture
async def damaged(tmp_path: Path) -> AsyncIterator[Damaged]:
    async with LocalCluster(tmp_path, 3) as cluster, Client(cluster.endpoints) as client:
        made = Damaged(cluster, client)
        await made.fill()
        await made.level()
        yield made


def where(row: Row, in_key: bool) -> Callable[[bytes], list[int]]:
    """In the last byte of the key, or the middle of the value, of every copy of a row in the file: which of the pages
    are in use is not told. LMDB keeps key and value together, but for a long value, which has pages of its own."""
    key, value = row

    def places(data: bytes) -> list[int]:
        sought, offset = key + value, len(key) - 1 if in_key else len(key) + len(value) // 2
        if sought not in data:
            sought, offset = (key, len(key) - 1) if in_key else (value, len(value) // 2)
        found = [at.start() + offset for at in re.finditer(re.escape(sought), data)]
        assert found
        return found

    return places


@pytest.mark.parametrize(("table", "in_key"), PLACES if FULL else PLACES[:3])
async def test_a_flipped_byte_is_never_served_and_is_repaired(damaged: Damaged, table: str, in_key: bool) -> None:
    rng = random.Random(f"{table} {in_key}")
    name = await follower(damaged.client)
    await stop(damaged.cluster[name])
    rows = damaged.rows(name)[table]
    damaged.flip(name, where(rows[len(rows) // 2], in_key), rng)
    member = damaged.cluster[name]
    member.start()
    with suppress(LocalClusterError):  # it may have met the damage already
        await damaged.cluster.wait_ready([name])
    refused = await damaged.reads(member.address)
    assert set(refused) <= HONEST
    if member.running:
        with suppress(Unavailable):  # it may end before it has said everything
            found = await damaged.client.scrub(member.address)
            assert found.damage
            assert "fetches its data from another one" in found.repair
    async with asyncio.timeout(PATIENCE_S):
        while member.running:
            await asyncio.sleep(LOOK_S)
    assert member.process is not None
    assert member.process.returncode == 70
    await damaged.whole_again(name)
    assert await damaged.reads(member.address) == []
    await damaged.equal()


async def test_bytes_flip_anywhere(damaged: Damaged) -> None:
    """Wherever it is: in rows, in LMDB's own pages, in the log, in what is free."""
    rng = random.Random(2)
    outcomes: Counter[str] = Counter()
    for _ in range(ROUNDS):
        name = await follower(damaged.client)
        member = damaged.cluster[name]
        member.kill()
        damaged.flip(name, lambda data: [rng.randrange(8192, len(data))], rng)
        member.start()
        with suppress(LocalClusterError):
            await damaged.cluster.wait_ready([name])
        refused = await damaged.reads(member.address)
        assert set(refused) <= HONEST
        outcomes["refused reads" if refused else "right reads"] += 1
        await damaged.whole_again(name)
        assert await damaged.reads(member.address) == []
        await damaged.level()
    await damaged.equal()
    print(dict(outcomes))

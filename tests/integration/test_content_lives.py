"""One cluster, and every version that it was ever given: whatever becomes of contents and members, each comes back
exactly, or is said to be removed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import re
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import pytest

from registry.cli.local_cluster import LocalCluster, LocalMember
from registry.client import Client
from registry.client.values import Published
from registry.core.errors import NotFound, Reason
from registry.core.limits import CONTENT_BYTES_CEILING, KIB, LARGE_CONTENT_BYTES, MIB
from registry.server import upkeep
from registry.server.inspector import Inspector
from registry.store.state import Rows
from tests.corpus import CORPUS, histories, manifest, needs_corpus
from tests.integration.server_kit import Peer, answer, get, start_member, until
from tests.integration.test_disaster import REGCTL, back_up, done, restored, running, successor

MOST_BYTES = LARGE_CONTENT_BYTES if os.environ.get("REGISTRY_FAULTS") == "full" else 12 * MIB
pytestmark = [pytest.mark.corpus, needs_corpus, pytest.mark.timeout(300)]

AT_ONCE = 8
CALL_S = 60.0
FLAGS = ("--content-limit", str(CONTENT_BYTES_CEILING))
KEEP_LAST = 2
THINNED = ("history/*", "made/*", "large/thinned")
PURGED = "made/purged"
WITH_SECRET = """# kept
app: {mode: workflow, name: Ärger ☂ %d}
workflow:
  environment_variables:
  - {id: '2', name: TOKEN, value: %s, value_type: secret}
  graph: {nodes: [], edges: []}
"""


class Exact(NamedTuple):
    """What a version must come back as."""

    sha256: str
    size_bytes: int


Versions = dict[tuple[str, int], Exact | None]  # None: its content was removed


def exact(data: bytes) -> Exact:
    return Exact(hashlib.sha256(data).hexdigest(), len(data))


# ---- what is published


def real() -> dict[str, list[bytes]]:
    """Every history, and every file as a workflow of its own."""
    found = {f"history/{name}": [file.read_bytes() for file in files] for name, files in short_names().items()}
    return found | {f"file/f{place}": [(CORPUS / row["file"]).read_bytes()] for place, row in enumerate(manifest())}


def short_names() -> dict[str, list[Path]]:
    return {f"h{place}": files for place, files in enumerate(histories().values())}


def made(rng: random.Random) -> dict[str, list[bytes]]:
    """Of sizes that are read and kept as one, the largest too; edits among them."""
    sizes = (MIB // 2, 3 * MIB, CONTENT_BYTES_CEILING)
    half, three, most = (text(rng, size_bytes) for size_bytes in sizes)
    return {
        "made/random": [rng.randbytes(size_bytes) for size_bytes in sizes],
        "made/text": [half, edited(half), three, edited(three), most],
        "made/small": [b"\n", b"no line ends here", b"two\r\nlines\r\n"],
        PURGED: [rng.randbytes(64 * KIB), rng.randbytes(KIB)],
    }


def large(rng: random.Random) -> dict[str, list[bytes]]:
    """In chunks: the largest, half of it random; and what goes, what stays and an edit of that."""
    most = rng.randbytes(MOST_BYTES // 2)
    stays = rng.randbytes(4 * MIB) + text(rng, 5 * MIB + 1)
    return {
        "large/most": [most + text(rng, MOST_BYTES - len(most))],
        "large/thinned": [rng.randbytes(CONTENT_BYTES_CEILING + 1), stays, edited(stays)],
    }


def text(rng: random.Random, size_bytes: int) -> bytes:
    """Lines that repeat, but no chunk is like another."""
    lines = b"".join(b"%s is what stands here\n" % rng.randbytes(16).hex().encode() for _ in range(2000))
    return b"".join(b"part %d\n%s" % (part, lines) for part in range(size_bytes // len(lines) + 1))[:size_bytes]


def edited(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + b"one line more\n" + data[middle + 14 :]


async def publish_all(client: Client, contents: dict[str, list[bytes]], versions: Versions) -> None:
    slots = asyncio.Semaphore(AT_ONCE)

    async def publish(workflow: str, successive: list[bytes]) -> None:
        for number, data in enumerate(successive, start=1):
            async with slots:
                version = await client.publish(workflow, data, timeout_s=CALL_S)
            expect(version, number, data, versions)

    async with asyncio.TaskGroup() as group:
        for workflow, successive in contents.items():
            group.create_task(publish(workflow, successive))


def expect(version: Published, number: int, data: bytes, versions: Versions) -> None:
    """Published, and to come back, with these bytes."""
    found = exact(data)
    assert (version.number, version.created, version.digest) == (number, True, f"sha256:{found.sha256}"), version
    versions[version.workflow, number] = found


async def publish_secrets(client: Client, versions: Versions) -> None:
    """All but the values come back: the placeholder stands there instead."""
    for number in (1, 2):
        version = await client.publish("secret/token", (WITH_SECRET % (number, "a-secret-value")).encode())
        expect(version, number, (WITH_SECRET % (number, '"[__HIDDEN__]"')).encode(), versions)


# ---- how it comes back


async def check(endpoints: Sequence[str], versions: Versions, *, stale: bool = False) -> set[str]:
    """The members that answered. `stale`: as each of these members knows it; otherwise any of them is asked."""
    asked = endpoints if stale else [",".join(endpoints)]
    return {name for each in asked for name in await check_at(each, versions, stale)}


async def check_at(addresses: str, versions: Versions, stale: bool) -> set[str]:
    slots, answered = asyncio.Semaphore(AT_ONCE), set[str]()

    async def one(workflow: str, number: int, expected: Exact | None) -> None:
        async with slots:
            await comes_back(client, workflow, number, expected, stale)
            answered.update([client.info.served_by] if client.info else [])

    async with Client(addresses, timeout_s=CALL_S) as client, asyncio.TaskGroup() as group:
        for version, expected in versions.items():
            group.create_task(one(*version, expected))
    return answered


async def comes_back(client: Client, workflow: str, number: int, expected: Exact | None, stale: bool) -> None:
    if expected is None:
        with pytest.raises(NotFound) as caught:
            await client.content(workflow, number, stale=stale)
        assert caught.value.reason is Reason.CONTENT_REMOVED
    elif expected.size_bytes > CONTENT_BYTES_CEILING:
        with TemporaryFile() as copy:
            await client.download(workflow, number, copy, stale=stale)
            assert copy.tell() == expected.size_bytes
            copy.seek(0)
            assert hashlib.file_digest(copy, "sha256").hexdigest() == expected.sha256, (workflow, number)
    else:
        assert exact(await client.content(workflow, number, stale=stale)) == expected, (workflow, number)


# ---- what becomes of it


async def pack_again(cluster: LocalCluster, versions: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    """The members in this process, over the same directories, so that they need not wait until contents are old."""
    monkeypatch.setattr(upkeep, "UPKEEP_INTERVAL_S", CALL_S)  # the rounds are made here
    monkeypatch.setattr(upkeep, "REPACK_AFTER_S", 0.0)
    monkeypatch.setattr(upkeep, "REPACK_REST_S", 0.0)
    addresses = {name: member.ports.peer_address for name, member in cluster.members.items()}
    async with AsyncExitStack() as stack:
        inspector = await stack.enter_async_context(Inspector())
        peers = [
            await start_member(
                stack, cluster.directory, name, addresses, inspector, content_limit=CONTENT_BYTES_CEILING
            )
            for name in addresses
        ]
        await until(lambda: all(peer.member.ready for peer in peers))
        leader = next(peer for peer in peers if peer.leads)
        before, work = contents(leader), leader.member._parts._upkeep
        while work._next_revision <= leader.revision:
            assert leader.leads
            await work.round()
        after = contents(leader)
        assert len(after) == len(before)
        changed = [digest for digest, (_, settled) in after.items() if settled]
        assert len(changed) > 50
        assert all(after[digest][0] < before[digest][0] for digest in changed)
        await check([peer.member.api_address for peer in peers], versions)


def contents(peer: Peer) -> dict[str, tuple[int, bool]]:
    """Bytes as stored, and whether they were packed again, by digest."""
    with peer.member._environment.snapshot() as reader:
        return {digest: (len(row.data), row.settled) for digest, row in Rows(reader).contents()}


async def thin_out(client: Client, versions: Versions) -> None:
    for scope in THINNED:
        await client.set_policy(scope, {"keep_last": str(KEEP_LAST)}, reason="disks")
    newest = dict(sorted(versions))
    prefixes = tuple(scope.removesuffix("*") for scope in THINNED)
    going = {
        (workflow, number)
        for workflow, number in versions
        if workflow.startswith(prefixes) and number <= newest[workflow] - KEEP_LAST
    }
    ran = await client.retain(reason="full", timeout_s=CALL_S)
    assert {(each.workflow, each.version) for each in ran.versions} == going
    versions.update(dict.fromkeys(going))


async def purge(client: Client, cluster: LocalCluster, versions: Versions) -> None:
    """The log goes with what was purged."""
    await client.purge(PURGED, 1, reason="a key")
    versions[PURGED, 1] = None
    async with asyncio.timeout(CALL_S):
        for member in cluster.members.values():
            while "purged bytes are gone" not in member.log_tail():
                await asyncio.sleep(0.05)


async def has_whole_log(member: LocalMember) -> bool:
    page = (await answer(member.http_address, get("/metrics"))).decode()
    kept, applied = (
        float(re.findall(rf"^registry_raft_{name} (\S+)$", page, re.MULTILINE)[0])
        for name in ("log_entries", "applied_index")
    )
    return kept >= applied


async def test_every_version_comes_back_exactly_after_all_that_can_become_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(20)
    versions: Versions = {}
    async with LocalCluster(tmp_path / "cluster", 3, arguments=FLAGS) as cluster:
        async with Client(cluster.endpoints, timeout_s=CALL_S) as client:
            files = real()
            assert (len(files), sum(map(len, files.values()))) == (32 + 119, 77 + 119)
            for each in (files, made(rng), large(rng)):
                await publish_all(client, each, versions)
            await publish_secrets(client, versions)
        await check(cluster.endpoints, versions)

        for member in cluster.members.values():
            member.kill()
        await pack_again(cluster, versions, monkeypatch)

        await cluster.start()
        async with Client(cluster.endpoints, timeout_s=CALL_S) as client:
            await thin_out(client, versions)
            await check(cluster.endpoints, versions)

            for member in cluster.members.values():
                member.kill()
            await cluster.start()
            assert await check(cluster.endpoints, versions, stale=True) == {"n1", "n2", "n3"}

            await purge(client, cluster, versions)
            joined = cluster.join("n4")
            await done(*REGCTL, "cluster", "add", "n4", "--endpoints", ",".join(cluster.endpoints[:3]))
            await cluster.wait_ready(["n4"])
            assert not await has_whole_log(joined), "it has a state that it fetched"
            assert await check([joined.address], versions, stale=True) == {"n4"}

            await back_up(tmp_path / "backup", cluster.endpoints)
    again = successor(tmp_path / "restored", "n1")
    await restored(tmp_path / "backup", again)
    async with running(again):
        await check([again.address], versions)

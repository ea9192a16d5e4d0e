"""Large content from end to end: three members, programs that are killed, an agent with little memory."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from registry.cli.local_cluster import LocalCluster
from registry.client import Client
from registry.core.limits import CHUNK_BYTES, LARGE_CONTENT_BYTES, MIB
from registry.store.state import Rows
from tests.integration.server_kit import Peer, members, until

CHUNKS = LARGE_CONTENT_BYTES // CHUNK_BYTES
AGENT_ANON_BYTES = LARGE_CONTENT_BYTES * 3 // 4  # it has some thirty MiB when it does nothing
WORKFLOW = "media/voices"


def fill(path: Path, size_bytes: int, *, random_bytes: int) -> str:
    """Random bytes, then text whose chunks all differ. Its digest."""
    words = b" ".join(b"line %07d of the text" % number for number in range(MIB // 8))
    with path.open("wb") as file:
        for _ in range(random_bytes // MIB):
            file.write(os.urandom(MIB))
        while file.tell() < size_bytes:
            file.write((b"%d\n" % file.tell() + words)[: size_bytes - file.tell()])
    return digest_of(path)


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def chunk_rows(peer: Peer) -> dict[str, int]:
    """Uses by digest."""
    with peer.member._environment.snapshot() as reader:
        return dict(Rows(reader).chunks())


def has_chunks(peer: Peer, *, of_one: int, of_both: int) -> bool:
    """So many chunks are used by one version, and so many by two."""
    uses = list(chunk_rows(peer).values())
    return (uses.count(1), uses.count(2), len(uses)) == (of_one, of_both, of_one + of_both)


def calls(peers: list[Peer], method: str) -> int:
    """Answered with OK."""
    pattern = rf'registry_call_seconds_count\{{code="OK",method="{method}"\}} (\S+)'
    found = [re.search(pattern, peer.member.metrics.text().decode()) for peer in peers]
    return sum(int(float(each[1])) for each in found if each)


def anon_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def addresses(peers: list[Peer]) -> list[str]:
    return [peer.member.api_address for peer in peers]


def program(module: str, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def regctl(peers: list[Peer], *arguments: object) -> subprocess.Popen[bytes]:
    return program("registry.cli.main", "--endpoints", ",".join(addresses(peers)), *arguments)


async def ended(process: subprocess.Popen[bytes], code: int = 0) -> str:
    out, error = await asyncio.to_thread(process.communicate)
    assert process.returncode == code, error.decode()
    return out.decode() + error.decode()


async def killed(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    await asyncio.to_thread(process.communicate)


@asynccontextmanager
async def agent(peers: list[Peer], directory: Path) -> AsyncIterator[subprocess.Popen[bytes]]:
    process = program(
        "registry.agent.main",
        *("--name", "edge-1", "--site", "eu-1", "--endpoints", ",".join(addresses(peers))),
        *("--state-dir", directory / "state", "--follow", f"{WORKFLOW}={directory / 'live'}"),
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.communicate)


async def test_sixty_four_mib_come_back_and_reach_an_agent(tmp_path: Path) -> None:
    content, live = tmp_path / "content", tmp_path / "live"
    digest = fill(content, LARGE_CONTENT_BYTES, random_bytes=LARGE_CONTENT_BYTES // 4)
    async with members(tmp_path / "members", 3) as peers, Client(addresses(peers)) as client:
        made = await client.publish(WORKFLOW, content)
        assert (made.digest, made.size_bytes, made.kind) == (digest, LARGE_CONTENT_BYTES, "binary")
        assert await client.download(WORKFLOW, 1, tmp_path / "copy") == await client.version(WORKFLOW, 1)
        assert digest_of(tmp_path / "copy") == digest

        sent = calls(peers, "PutChunk")
        assert sent == CHUNKS
        with content.open("r+b") as file:
            file.seek(7 * CHUNK_BYTES)
            file.write(b"another byte")
        second = await client.publish(WORKFLOW, content)
        assert (second.number, second.digest) == (2, digest_of(content))
        assert calls(peers, "PutChunk") == sent + 1, "the other chunks are there already"
        for peer in peers:
            await until(partial(has_chunks, peer, of_one=2, of_both=CHUNKS - 1))

        await client.switch(WORKFLOW, 2, reason="go live")
        async with agent(peers, tmp_path) as process:
            most_bytes = 0
            while not live.exists():
                most_bytes = max(most_bytes, anon_bytes(process.pid))
                assert process.poll() is None
                await asyncio.sleep(0.005)
        assert digest_of(live) == second.digest
        assert 0 < most_bytes < AGENT_ANON_BYTES


async def test_a_client_that_was_killed_sends_the_rest_only(tmp_path: Path) -> None:
    content, chunks = tmp_path / "content", 32
    digest = fill(content, chunks * CHUNK_BYTES, random_bytes=chunks * CHUNK_BYTES)
    async with members(tmp_path / "members", 3) as peers:
        first = regctl(peers, "publish", WORKFLOW, content)
        await until(lambda: calls(peers, "PutChunk") >= 3)
        await killed(first)
        sent = calls(peers, "PutChunk")
        again = await ended(regctl(peers, "-o", "json", "publish", WORKFLOW, content))
        assert digest in again
        assert calls(peers, "PutChunk") - sent <= chunks - sent
        assert len(chunk_rows(peers[0])) == chunks

        copy, arrived = tmp_path / "copy", tmp_path / "copy.partial"
        reading = regctl(peers, "cat", WORKFLOW, "--file", copy)
        await until(lambda: arrived.exists() and arrived.stat().st_size >= 3 * CHUNK_BYTES)
        await killed(reading)
        assert not copy.exists()
        with arrived.open("r+b") as file:  # and the disk lost a part of it
            file.seek(2 * CHUNK_BYTES + 5)
            file.write(b"lost")
        before = calls(peers, "GetChunk")
        await ended(regctl(peers, "cat", WORKFLOW, "--file", copy))
        assert digest_of(copy) == digest
        assert calls(peers, "GetChunk") - before == chunks - 2
        out = regctl(peers, "cat", WORKFLOW)
        data, _ = await asyncio.to_thread(out.communicate)
        assert (data, out.returncode) == (content.read_bytes(), 0)


async def test_an_agent_that_was_killed_fetches_the_rest_only(tmp_path: Path) -> None:
    content, live, chunks = tmp_path / "content", tmp_path / "live", 32
    digest = fill(content, chunks * CHUNK_BYTES, random_bytes=chunks * CHUNK_BYTES)
    arriving = tmp_path / "state" / "arriving" / WORKFLOW / "active"
    async with members(tmp_path / "members", 3) as peers, Client(addresses(peers)) as client:
        await client.publish(WORKFLOW, content)
        await client.switch(WORKFLOW, 1, reason="go live")
        async with agent(peers, tmp_path) as process:
            await until(lambda: arriving.exists() and arriving.stat().st_size >= 3 * CHUNK_BYTES)
            process.kill()
        assert not live.exists()
        before, kept = calls(peers, "GetChunk"), arriving.stat().st_size // CHUNK_BYTES
        async with agent(peers, tmp_path):
            await until(live.exists)
        assert digest_of(live) == digest
        # A call of the agent that was killed may have been on its way.
        assert chunks - kept <= calls(peers, "GetChunk") - before < chunks
        assert not arriving.exists()


async def test_a_member_that_dies_between_chunks_does_not_end_the_upload(tmp_path: Path) -> None:
    content = tmp_path / "content"
    fill(content, 24 * CHUNK_BYTES, random_bytes=24 * CHUNK_BYTES)
    async with LocalCluster(tmp_path / "members", 3) as cluster, Client(cluster.endpoints, timeout_s=20) as client:
        leader = cluster[(await client.status()).leader]

        def kill_once(size_bytes: int, _: int) -> None:
            if size_bytes > 4 * CHUNK_BYTES and leader.running:
                leader.kill()

        await client.publish(WORKFLOW, content, progress=kill_once)
        assert not leader.running
        assert await client.content(WORKFLOW) == content.read_bytes()


async def test_what_an_agent_has_gathered_is_gone_on_with_only_where_it_is_right(tmp_path: Path) -> None:
    async with members(tmp_path / "members", 1) as peers, Client(addresses(peers)) as client:
        content = os.urandom(3 * CHUNK_BYTES)
        await client.publish(WORKFLOW, content)
        into = tmp_path / "into"
        into.write_bytes(content[:CHUNK_BYTES] + bytes(CHUNK_BYTES))
        assert await client.fetch(WORKFLOW, 1, into) is None
        assert into.read_bytes() == content


@pytest.mark.parametrize("size_bytes", [1 * MIB + 1, 8 * MIB, 8 * MIB + 1])
async def test_content_is_read_whenever_the_registry_can(tmp_path: Path, size_bytes: int) -> None:
    document = b'{"text": "' + b"x" * (size_bytes - 12) + b'"}'
    async with members(tmp_path / "members", 1, content_limit=8 * MIB) as peers, Client(addresses(peers)) as client:
        made = await client.publish(WORKFLOW, document)
        assert made.kind == ("json" if size_bytes <= 8 * MIB else "text")
        assert await client.content(WORKFLOW) == document

"""What the versions of real histories take on a disk, beside git and etcd for the same versions.

One cluster publishes every version of every history, in order. One git repository has a file for each history and a
commit for each version, and is packed with `git gc --aggressive`. One etcd member has a key for each history, whose
value is put anew for each version; nothing is compacted, and its database is defragmented. Rows of ours are counted as
keys and values; the Raft log, which is trimmed, and the memory of requests, which forgets, are told apart. Bytes do not
change from run to run: there is one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from bench import etcd
from bench.etcd import Etcd
from bench.report import Row
from cluster import journal
from cluster.kv.lmdb_env import LmdbEnvironment
from registry.cli.local_cluster import LocalCluster
from registry.client import Client
from registry.server.identity import DATABASE
from registry.store import tables
from tests.corpus import CORPUS, histories

CONTENT = (tables.CONTENTS, tables.DELTAS, tables.CHUNKS, tables.CHUNK_USES)
RETRIES = (tables.REQUESTS, tables.REQUEST_ORDER)
Histories = Mapping[str, list[Path]]


async def storage(directory: Path, _rounds: int) -> list[Row]:
    if not CORPUS.is_dir():
        print("storage: left out, the corpus of real Dify files is not there; set REGISTRY_CORPUS to its directory")
        return []
    found = histories()
    versions = sum(map(len, found.values()))
    exact = sum(file.stat().st_size for files in found.values() for file in files)
    rows, file_bytes = await _published(directory / "registry", found)
    content = sum(rows[table] for table in CONTENT)
    state = sum(size for table, size in rows.items() if table in tables.TABLES and table not in RETRIES)
    told = (
        f"{versions} real versions of {len(found)} workflows, {exact:,} bytes",
        f"contents alone, keys and values: {content / versions:,.0f} bytes a version",
        f"memory of requests {sum(rows[table] for table in RETRIES):,} bytes, forgotten in time; Raft log "
        f"{sum(rows[table] for table in journal.TABLES):,} bytes, trimmed in time",
        f"file on disk, compacted, with all of that: {file_bytes:,} bytes",
    )

    def row(peer_name: str, peer_bytes: int | None, bar: float, aim: float | None, *notes: str) -> Row:
        return Row(
            question="storage",
            shape="all rows about versions",
            unit="bytes a version",
            ours=(state / versions,),
            peer=() if peer_bytes is None else (peer_bytes / versions,),
            peer_name=peer_name,
            bar=bar,
            aim=aim,
            notes=notes,
        )

    pack = _packed(directory / "git", found) if shutil.which("git") else None
    used = None if etcd.missing() else await _put(directory / "etcd", found)
    beside_git, beside_etcd = "git left out: not installed", f"etcd left out: {etcd.missing()}"
    if pack is not None:
        beside_git = f"contents alone: {content / pack:.2f} of git's pack"
    if used is not None:
        beside_etcd = f"contents alone: {content / used:.2f} of etcd's"
    return [row("git", pack, 1.1, 1.0, *told, beside_git), row("etcd", used, 0.25, None, beside_etcd)]


async def _published(directory: Path, found: Histories) -> tuple[dict[str, int], int]:
    async with LocalCluster(directory, 1) as cluster, Client(cluster.endpoints) as client:
        for number, files in enumerate(found.values()):
            for file in files:
                made = await client.publish(f"bench/w{number}", file.read_bytes(), kind="dify")
                assert await client.content(made.workflow, made.number) == file.read_bytes(), file
        (member,) = cluster.members.values()
    environment = LmdbEnvironment(member.data_dir / DATABASE, (*tables.TABLES, *journal.TABLES))
    compaction = environment.compaction()
    compaction.copy()
    compaction.finish()
    with environment.snapshot() as reader:
        rows = {table: sum(len(key) + len(value) for key, value in reader.scan(table)) for table in environment.tables}
    environment.close()
    (file,) = (member.data_dir / DATABASE).glob("*/data.mdb")
    return rows, file.stat().st_blocks * 512


async def _put(directory: Path, found: Histories) -> int:
    """Bytes that etcd's database has in use for the same versions, beyond those of an empty one."""
    async with Etcd(directory, 1) as peer:

        def put() -> int:
            empty = peer.used_bytes()
            for name, files in found.items():
                for file in files:
                    peer.put(name, file.read_bytes())
            versions = sum(map(len, found.values()))
            revision = int(peer.call("maintenance/status")["header"]["revision"])
            assert revision == 1 + versions, f"etcd is at revision {revision} after {versions} puts"
            return peer.used_bytes() - empty

        return await asyncio.to_thread(put)


def _packed(directory: Path, found: Histories) -> int:
    """Bytes of the only pack of a repository with the same versions."""
    directory.mkdir()
    moment = {"GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z"}
    who = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]

    def git(*arguments: str) -> None:
        subprocess.run(
            ["git", *who, *arguments], cwd=directory, env=os.environ | moment, check=True, capture_output=True
        )

    git("init", "-q")
    for name, files in found.items():
        for file in files:
            shutil.copyfile(file, directory / f"{name}.yml")
            git("add", "-A")
            git("commit", "-q", "--allow-empty", "-m", f"{name} {file.stem}")
    git("gc", "-q", "--aggressive", "--prune=now")
    (pack,) = (directory / ".git/objects/pack").glob("*.pack")
    return pack.stat().st_size

"""What the versions of real histories take on a disk, beside git for the same versions.

One cluster publishes every version of every history, in order; one git repository has a file for each history and a
commit for each version, and is packed with `git gc --aggressive`. Rows are counted as keys and values; the Raft log,
which is trimmed, and the memory of requests, which forgets, are shown apart.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from cluster import journal
from cluster.kv.lmdb_env import LmdbEnvironment
from registry.cli.local_cluster import LocalCluster
from registry.client import Client
from registry.server.identity import DATABASE
from registry.store import tables
from tests.corpus import CORPUS, histories

CONTENT = (tables.CONTENTS, tables.DELTAS, tables.CHUNKS, tables.CHUNK_USES)
RETRIES = (tables.REQUESTS, tables.REQUEST_ORDER)


async def storage(directory: Path) -> None:
    if not CORPUS.is_dir():
        print("storage: left out, the corpus of real Dify files is not there; set REGISTRY_CORPUS to its directory")
        return
    found = histories()
    exact = sum(file.stat().st_size for files in found.values() for file in files)
    versions = sum(len(files) for files in found.values())
    rows, file_bytes = await _published(directory / "registry", found)
    content = sum(rows[table] for table in CONTENT)
    state = sum(size for table, size in rows.items() if table in tables.TABLES and table not in RETRIES)
    print(f"storage, {versions} real versions of {len(found)} workflows, {exact} bytes:")
    print(f"  contents, keys and values   {content:8} bytes, {content / versions:6.0f} a version")
    print(f"  all rows about versions     {state:8} bytes, {state / versions:6.0f} a version")
    print(f"  memory of requests          {sum(rows[table] for table in RETRIES):8} bytes, forgotten in time")
    print(f"  Raft log                    {sum(rows[table] for table in journal.TABLES):8} bytes, trimmed in time")
    print(f"  file, compacted             {file_bytes:8} bytes")
    if shutil.which("git") is None:
        print("  git is not installed: nothing to compare with")
        return
    pack = _packed(directory / "git", found)
    print(f"  git gc --aggressive, pack   {pack:8} bytes, {pack / versions:6.0f} a version")
    print(f"  contents / pack {content / pack:.2f}, all rows about versions / pack {state / pack:.2f}")


async def _published(directory: Path, found: Mapping[str, list[Path]]) -> tuple[dict[str, int], int]:
    async with LocalCluster(directory, 1) as cluster, Client(cluster.endpoints) as client:
        for number, files in enumerate(found.values()):
            for file in files:
                await client.publish(f"bench/w{number}", file.read_bytes(), kind="dify")
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


def _packed(directory: Path, found: Mapping[str, list[Path]]) -> int:
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

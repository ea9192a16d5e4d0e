"""Every real file and every version comes back exactly, however it is stored at the moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.kv.lmdb_env import LmdbEnvironment
from registry.cli.local_cluster import LocalCluster
from registry.client import Client
from registry.core.commands import Repack
from registry.core.encoding import fingerprint
from registry.core.model import Content
from registry.core.outcomes import Repacked
from registry.server.identity import DATABASE
from registry.store import content, packing, tables
from registry.store.state import Rows
from tests.corpus import CORPUS, histories, manifest, needs_corpus
from tests.unit.server.packing_kit import Bench

pytestmark = [pytest.mark.corpus, needs_corpus, pytest.mark.timeout(300)]


def contents_by_workflow() -> dict[str, list[bytes]]:
    """Every history, and every file as a workflow of its own."""
    found = {
        f"history/h{place}": [file.read_bytes() for file in files] for place, files in enumerate(histories().values())
    }
    return found | {f"file/f{place}": [(CORPUS / row["file"]).read_bytes()] for place, row in enumerate(manifest())}


async def published(bench: Bench) -> list[bytes]:
    for workflow, versions in contents_by_workflow().items():
        for data in versions:
            await bench.publish(data, workflow)
    return [data for versions in contents_by_workflow().values() for data in versions]


def repack(bench: Bench, digest: str, after: Content) -> None:
    row = bench.machine.rows.content(digest)
    assert row is not None
    outcome = bench.machine.order(Repack, digest=digest, was=fingerprint(row), content=after)
    assert isinstance(outcome, Repacked)
    assert outcome.done


def check(bench: Bench, contents: list[bytes]) -> int:
    """Bytes of all rows."""
    for data in contents:
        assert content.unpack(bench.machine.rows, content.digest(data)) == data
    return sum(content.cost_bytes(row) for _, row in bench.machine.rows.contents())


async def test_the_bytes_stay_whatever_is_packed_again() -> None:
    bench = Bench()
    contents = await published(bench)
    assert len(contents) == 77 + 119
    deltas = sum(row.encoding == "delta" for _, row in bench.machine.rows.contents())
    alone = sum(content.cost_bytes(content.encode(data)) for data in set(contents))
    stored = check(bench, contents)
    assert deltas > 100
    assert stored < alone * 2 / 3
    for workflow in list(bench.machine.rows.workflows()):
        for version in reversed(list(bench.machine.rows.versions(workflow.name, 1 << 40))):
            after = packing.repacking(bench.machine.rows, version.digest).better()
            if after is not None:
                repack(bench, version.digest, after)
    assert check(bench, contents) < stored
    everything = {digest for digest, _ in bench.machine.rows.contents()}
    for digest in everything:
        repack(bench, digest, packing.repacking(bench.machine.rows, digest, everything).again())
    assert check(bench, contents) == alone


async def test_the_bytes_come_back_from_a_member_that_stores_deltas(tmp_path: Path) -> None:
    async with LocalCluster(tmp_path, 1) as cluster, Client(cluster.endpoints) as client:
        for place, files in enumerate(histories().values()):
            workflow, versions = f"history/h{place}", [file.read_bytes() for file in files]
            for data in versions:
                await client.publish(workflow, data)
            for number, data in enumerate(versions, start=1):
                assert await client.content(workflow, number) == data
                for base in versions:
                    assert await client.content(workflow, number, base=base) == data
        (member,) = cluster.members.values()
    environment = LmdbEnvironment(member.data_dir / DATABASE, tables.TABLES)
    with environment.snapshot() as reader:
        rows = [row for _, row in Rows(reader).contents()]
    environment.close()
    assert sum(row.encoding == "delta" for row in rows) > 60

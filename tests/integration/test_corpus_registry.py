"""Every real file goes in and comes out exactly; every history publishes and compares."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.cli.local_cluster import LocalCluster
from registry.client import Client
from tests.corpus import CORPUS, histories, manifest, needs_corpus

pytestmark = [pytest.mark.corpus, needs_corpus, pytest.mark.timeout(300)]


async def test_every_file_comes_back_exactly(tmp_path: Path) -> None:
    rows = manifest()
    assert len(rows) == 119
    kinds: dict[str, int] = {}
    async with LocalCluster(tmp_path, 1) as cluster, Client(cluster.endpoints) as client:
        for number, row in enumerate(rows):
            content = (CORPUS / row["file"]).read_bytes()
            version = await client.publish(f"corpus/file-{number}", content)
            assert version.size_bytes == len(content)
            assert await client.content(f"corpus/file-{number}") == content, row["file"]
            assert version.facts.get("wrapped") == ("true" if row["wrapped"] else None), row["file"]
            kinds[version.kind] = kinds.get(version.kind, 0) + 1
    assert kinds.get("dify", 0) >= 115, kinds


async def test_every_history_publishes_and_compares(tmp_path: Path) -> None:
    known = histories()
    assert len(known) == 32
    pairs = 0
    async with LocalCluster(tmp_path, 1) as cluster, Client(cluster.endpoints) as client:
        for place, files in enumerate(known.values()):
            workflow = f"history/h{place}"
            contents = [path.read_bytes() for path in files]
            for number, content in enumerate(contents, start=1):
                version = await client.publish(workflow, content)
                assert (version.number, version.created) == (number, True)
            again = await client.publish(workflow, contents[-1])
            assert (again.number, again.created) == (len(contents), False)
            for number in range(1, len(contents)):
                comparison = await client.compare(workflow, number, workflow, number + 1)
                assert comparison.summary
                assert not comparison.comparison["identical"], (files[number - 1], files[number])
                pairs += 1
    assert pairs == 45

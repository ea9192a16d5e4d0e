"""Real Dify files through the Dify target, against a server with Dify's rules (tests/dify_server), not against Dify.

A sample; REGISTRY_FAULTS=full takes all of them. `pytest -s` shows the counts.
"""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from registry.agent.targets.base import DONE
from registry.agent.targets.dify import content
from tests.corpus import CORPUS, histories, manifest, needs_corpus
from tests.dify_server import DifyServer, rules
from tests.integration.dify_kit import MODES, Site, candidate, refused, secret_file
from tests.noise import meaning

FULL = os.environ.get("REGISTRY_FAULTS") == "full"
SAMPLE = 12
pytestmark = [pytest.mark.corpus, needs_corpus]


@pytest.fixture
def server() -> Iterator[DifyServer]:
    made = DifyServer(dsl="0.6.0")
    made.start()
    yield made
    made.stop()


def prepare(site: Site, value: dict) -> dict[str, str]:
    """Plugins and secrets that the file names; and a knowledge base here for each that it names elsewhere."""
    site.server.dify.plugins = content.plugins(value)
    workflow = value["workflow"]
    names = [each["name"] for each in workflow.get("environment_variables") or [] if each["value_type"] == "secret"]
    secret_file(site.secrets, "".join(f'"{name}" = "a value"\n' for name in names))
    nodes = [node["data"] for node in workflow["graph"]["nodes"] if node["data"].get("type") == "knowledge-retrieval"]
    ids = {str(each) for data in nodes for each in data.get("dataset_ids") or []}
    sealed = [each for each in ids if rules.decrypt_dataset(each, site.server.tenant) is None]
    return {each: str(uuid.uuid5(uuid.NAMESPACE_OID, each)) for each in sealed}


def comparable(data: bytes) -> dict:
    """What an export keeps, by rules written apart from the target's (tests/noise.py)."""
    found = meaning(data)
    for _, node in found["nodes"].values():
        of_one_server = ("dataset_ids", "credential_id", "webhook_url", "webhook_debug_url", "subscription_id")
        for key in (*of_one_server, "config") if node["type"] == "trigger-schedule" else of_one_server:
            node.pop(key, None)
    for variables in found["variables"]:
        for each in variables.values():
            each["value"] = "" if each["value_type"] == "secret" else each["value"]
            each.pop("id", None)
            each.setdefault("description", "")
    found["features"].pop("file_upload", None)
    return {key: found[key] for key in ("nodes", "edges", "variables", "features")}


async def test_real_files_go_live_and_come_back_the_same(server: DifyServer, tmp_path: Path) -> None:
    files = [CORPUS / row["file"] for row in manifest() if row["mode"] in MODES]
    counts: Counter[str] = Counter()
    for path in files if FULL else files[:: max(1, len(files) // SAMPLE)]:
        app = content.read_app(path.read_bytes())
        site = Site(server, tmp_path, app.mode)
        if "graph" not in app.value["workflow"]:
            assert refused(await site.target().apply(candidate(path))) == ("TARGET_FAILED", False), path
            counts["without a graph where Dify looks for it: refused"] += 1
            continue
        datasets = prepare(site, app.value)
        if datasets:
            assert refused(await site.target().apply(candidate(path))) == ("READ_BACK_DIFFERS", False), path
            assert site.published() == []
            counts["with knowledge bases of another workspace: refused, then mapped"] += 1
        assert await site.target(datasets=datasets).apply(candidate(path)) == DONE, path
        live = site.live()
        assert live is not None
        with server.dify.store.transaction():
            exported = server.dify.export(site.app, live["id"], secrets=False)["data"].encode()
        assert comparable(exported) == comparable(yaml.safe_dump(app.value).encode()), path
        counts["live and read back equal"] += 1
    print("\nagainst a server with Dify's rules:", dict(counts), f"of {len(files)} files")
    assert counts["live and read back equal"] >= min(SAMPLE, len(files))


async def test_histories_forward_and_back(server: DifyServer, tmp_path: Path) -> None:
    """Every version of a workflow over the one before, and a rollback to the first: one more row each time."""
    installed = 0
    for name, paths in list(histories().items())[:: 1 if FULL else 8]:
        apps = [content.read_app(path.read_bytes()) for path in paths]
        if any(app.mode != apps[0].mode or app.mode not in MODES for app in apps):
            continue
        (tmp_path / name).mkdir()
        site = Site(server, tmp_path / name, apps[0].mode)
        for number, (path, app) in enumerate([*zip(paths, apps, strict=True), (paths[0], apps[0])], 1):
            datasets = prepare(site, app.value)
            before = site.live()
            assert await site.target(datasets=datasets).apply(candidate(path, number)) == DONE, path
            again = before is not None and before["marked_comment"] == candidate(path).digest[:47]
            installed += not again
        assert await site.target().shows(candidate(paths[0]).digest)
    print("\nagainst a server with Dify's rules:", installed, "versions of histories")
    assert installed > 0

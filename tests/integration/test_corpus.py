"""Real Dify files and the real histories of workflows."""

from __future__ import annotations

import csv
import json
import os
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from registry.formats import compare, inspect
from tests.unit.formats.kit import as_rows, changes_meaning, says_something

CORPUS = Path(os.environ.get("REGISTRY_CORPUS", Path(__file__).parents[2] / "../shared/data")).resolve() / "dify"

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.skipif(not CORPUS.is_dir(), reason="no corpus of real files: set REGISTRY_CORPUS to its directory"),
]
# Graphs outside `workflow.graph`, which the manifest counts as empty.
UNNESTED = {"workflow_generator.yml": "9", "workflow_generator_agent_teams.yml": "13"}


def manifest() -> list[dict[str, str]]:
    with (CORPUS / "MANIFEST.tsv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_every_file_is_taken_for_what_the_manifest_says() -> None:
    rows = manifest()
    assert len(rows) == 119
    for row in rows:
        content = (CORPUS / row["file"]).read_bytes()
        found = inspect(content)
        facts = found.facts
        assert found.kind == "dify", row["file"]
        assert facts.get("wrapped", "") == ("true" if row["wrapped"] else ""), row["file"]
        assert (facts["mode"], facts.get("dsl_version", "")) == (row["mode"], row["dsl_version"]), row["file"]
        nodes = int(facts["nodes"]) + int(facts.get("notes", "0"))
        assert str(nodes) == UNNESTED.get(row["file"].rpartition("/")[2], row["nodes"]), row["file"]


def test_every_file_wrapped_as_a_saved_reply_is_the_same_value() -> None:
    for row in manifest():
        content = (CORPUS / row["file"]).read_bytes()
        wrapped = inspect(json.dumps({"data": content.decode()}, ensure_ascii=False).encode())
        assert (wrapped.kind, wrapped.facts["wrapped"]) == ("dify", "true"), row["file"]
        assert wrapped.value_digest == inspect(content).value_digest, row["file"]


def test_successive_versions_of_every_history_compare() -> None:
    histories = sorted(path for path in (CORPUS / "histories").iterdir() if path.is_dir())
    assert len(histories) == 32
    pairs = 0
    for history in histories:
        for old, new in pairwise(sorted(history.iterdir())):
            found = compare(old.read_bytes(), new.read_bytes())
            assert found.summary, (history.name, new.name)
            assert says_something(found) != found.same_value, (history.name, new.name)
            assert changes_meaning(found) != found.same_semantics, (history.name, new.name)
            assert bool(as_rows(found)) != found.same_value, (history.name, new.name)
            assert len(msgspec.json.encode(found)) < 200_000, (history.name, new.name)
            pairs += 1
    assert pairs == 45

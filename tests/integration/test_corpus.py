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
from registry.formats.limits import FINDINGS
from registry.formats.model import Verdict
from tests.corpus import histories
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


# True exports in which a check finds what ends a run: each reads from a node that was deleted.
BROKEN = {"workflow__LLM-Finetuning-Dataflow-dify.yml", "workflow__bedrock_knowledge_retreival_Chatbot.yml"}


def test_checks_find_what_is_broken_and_pass_what_is_not() -> None:
    for row in manifest():
        found = inspect((CORPUS / row["file"]).read_bytes()).findings
        name = row["file"].rpartition("/")[2]
        blocking = {each.code for each in found if each.level == "block"}
        if row["origin"] != "hand/LLM-written":
            assert blocking == ({"reference_missing"} if name in BROKEN else set()), (name, found)
        assert len(found) <= FINDINGS, name
        assert all(each.text for each in found), name
    broken = next(row["file"] for row in manifest() if row["file"].endswith("broken-selector.yml"))
    assert inspect((CORPUS / broken).read_bytes()).findings[0].code == "edge_dangling"


def test_every_step_of_every_history_is_judged() -> None:
    for versions in histories().values():
        for old, new in pairwise(path.read_bytes() for path in versions):
            found = compare(old, new)
            verdict = found.verdict
            assert (verdict.change == "none") == found.same_semantics, versions
            assert verdict.level == (verdict.reasons[0].level if verdict.reasons else "ok"), versions
            assert len(verdict.reasons) <= FINDINGS, versions
            assert compare(new, new).verdict == Verdict(), versions


def test_a_new_required_input_stops_a_switch() -> None:
    first, second = histories()["aws-samples__term_based_translation_workflow"][:2]
    verdict = compare(first.read_bytes(), second.read_bytes()).verdict
    assert (verdict.level, verdict.change) == ("block", "major")
    assert [reason.code for reason in verdict.reasons] == ["input_required", "input_required"]

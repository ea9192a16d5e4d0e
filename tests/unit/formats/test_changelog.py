"""A changelog entry of a comparison."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from registry.formats import Comparison, compare, limits
from registry.formats.changelog import entry
from tests.unit.formats.kit import FIRST, SECOND, START, changed, data, graph, llm, plugin


def made(comparison: Comparison, verdict: dict[str, Any] | None = None, **given: str) -> str:
    found = json.loads(msgspec.json.encode(comparison))
    found["verdict"] = verdict or {"level": "ok", "change": "none", "reasons": []}
    return entry(found, **{"version": "v1.4.0", "date": "2026-11-23", "author": "", "message": ""} | given)


def test_an_entry_lists_what_was_added_changed_and_removed() -> None:
    def edit(value: dict[str, Any]) -> None:
        first = data(value, FIRST)
        first["model"]["name"] = "gpt-4o-mini"
        first["model"]["completion_params"]["temperature"] = 0.5
        first["prompt_template"][0]["text"] = "Be polite and patient with everybody, whatever they ask for." * 3
        data(value, START)["variables"].append({"variable": "age", "type": "number"})
        graph(value)["nodes"] = [item for item in graph(value)["nodes"] if item["id"] != SECOND]
        graph(value)["nodes"].append(llm("2000", "Third", "x", name="gpt-4o"))
        value["dependencies"] = [plugin("langgenius/openai:0.2.0@aaaa")]
        value["workflow"]["environment_variables"][0]["value"] = "hunter3-hunter3"
        graph(value)["nodes"][0]["position"] = {"x": 1, "y": 1}

    reasons = [{"code": "model", "level": "confirm", "where": "", "text": "'Polite answer' has another model"}]
    verdict = {"level": "confirm", "change": "medium", "reasons": reasons}
    text = made(changed(edit), verdict, message="Cheaper answers", author="ana")
    assert text == (
        "## [v1.4.0] - 2026-11-23\n\n"
        "Cheaper answers (ana)\n\n"
        "**Impact:** medium change; nodes `Third`, `Start`, `Polite answer`, `Short answer`  \n"
        "**Verdict:** confirm: 'Polite answer' has another model\n\n"
        "### Added\n\n"
        "- model of `Third`: `openai/gpt-4o`\n"
        "- node `Third` (`llm`)\n"
        "- input `age`\n\n"
        "### Changed\n\n"
        "- model of `Polite answer`: `openai/gpt-4o` → `openai/gpt-4o-mini`\n"
        "- node `Polite answer` (`llm`): `model.completion_params.temperature`: `0.2` → `0.5`, "
        "`prompt_template[system].text`\n"
        "- environment variable `TOKEN`\n"
        "- plugin `langgenius/openai`: `0.1.0` → `0.2.0`\n"
        "- not in what it does: nodes moved: 1\n\n"
        "### Removed\n\n"
        "- model of `Short answer`: `openai/gpt-4o`\n"
        "- node `Short answer` (`llm`)\n"
        "- plugin `langgenius/cohere`: `0.2.0`\n"
    )


def test_an_entry_without_message_and_date_tells_the_summary() -> None:
    text = made(compare(b'{"a": 1}', b'{"a": 2}'), version="Unreleased", date="")
    assert text == (
        "## [Unreleased]\n\n1 value changed\n\n**Impact:** no node\n\n### Changed\n\n- setting `a`: `1` → `2`\n"
    )


def test_nothing_changed_has_no_lists() -> None:
    assert made(compare(b"{}", b"{}")) == "## [v1.4.0] - 2026-11-23\n\nidentical\n\n**Impact:** no node\n"


def test_texts_are_counted() -> None:
    assert "- text: 2 lines added, 1 removed\n" in made(compare(b"a\nb\n", b"a\nc\nd\n"))


def test_no_text_is_taken_for_markdown() -> None:
    def edit(value: dict[str, Any]) -> None:
        data(value, FIRST)["title"] = "`x`\n# Heading <script> @everyone \x1b[2J"
        data(value, FIRST)["model"]["completion_params"]["temperature"] = "``"

    text = made(changed(edit), message="1. **bold**\n## <b>", author="[x](y)")
    assert "\n1\\. \\*\\*bold\\*\\* \\#\\# \\<b> (\\[x\\](y))\n" in text
    assert "``` `` ```" in text
    assert "`` `x` # Heading <script> @everyone  [2J ``" in text
    assert "\x1b" not in text


def test_long_lists_are_cut_and_counted() -> None:
    content = json.dumps({f"k{number}": 1 for number in range(limits.CHANGELOG_LINES + 5)}).encode()
    text = made(compare(b"{}", content))
    assert text.count("- setting") == limits.CHANGELOG_LINES
    assert text.endswith("- and 5 more\n")

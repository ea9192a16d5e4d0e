"""A comparison as unified text."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from registry.formats import Comparison, compare
from registry.formats.unified import unified
from tests.unit.formats.kit import END, FIRST, START, changed, data, graph, llm, plugin


def text(comparison: Comparison, **names: str) -> list[str]:
    return unified(json.loads(msgspec.json.encode(comparison)), **names).split("\n")


def changes(comparison: Comparison) -> list[str]:
    """Without the two sides, and without what is said about the changes."""
    return [line for line in text(comparison)[2:-1] if not line.startswith("#")]


def test_every_change_is_in_its_section() -> None:
    def edit(value: dict[str, Any]) -> None:
        value["version"] = "0.6.0"
        first = data(value, FIRST)
        first["model"]["name"] = "gpt-4o-mini"
        first["model"]["completion_params"]["temperature"] = 0.5
        first["prompt_template"][0]["text"] = "Be very polite. {{#1001.vip#}}"
        data(value, START)["variables"].append({"variable": "age", "type": "number"})
        data(value, END)["title"] = "Done"
        graph(value)["nodes"].append(llm("2000", "Third", "x", name="gpt-4o"))
        graph(value)["edges"].pop(1)
        value["dependencies"][0] = plugin("langgenius/openai:0.2.0@aaaa")
        value["workflow"]["features"]["opening_statement"] = "ho"
        value["workflow"]["environment_variables"][0]["value"] = "hunter3-hunter3"
        graph(value)["nodes"][0]["position"] = {"x": 1, "y": 1}

    lines = text(changed(edit), old="kit/app@1", new="kit/app@2")
    assert lines[0].startswith("--- kit/app@1 (dify, sha256:")
    assert lines[1].startswith("+++ kit/app@2 (dify, sha256:")
    assert lines[2].startswith("# version 0.5.0 -> 0.6.0; 1 node added, ")
    assert "hunter" not in "\n".join(lines)
    assert [line for line in lines[3:] if not line.startswith("#")] == [
        "@@ app @@",
        "-version: 0.5.0",
        "+version: 0.6.0",
        "@@ models @@",
        "-Polite answer: model: openai/gpt-4o",
        "+Polite answer: model: openai/gpt-4o-mini",
        "+Third: model: openai/gpt-4o",
        "@@ nodes @@",
        "+Third (llm)",
        "@@ node 'Polite answer' (llm) @@",
        "-model.completion_params.temperature: 0.2",
        "+model.completion_params.temperature: 0.5",
        "~prompt_template[system].text: Be {+very +}polite. {{#1001.vip#}}",
        "@@ edges @@",
        "-VIP? [if] -> Polite answer",
        "@@ variables @@",
        "+input age: number",
        "-environment TOKEN: value: (secret)",
        "+environment TOKEN: value: (secret), another one",
        "@@ plugins @@",
        "-langgenius/openai 0.1.0",
        "+langgenius/openai 0.2.0",
        "@@ features @@",
        "-opening_statement: hi",
        "+opening_statement: ho",
        "@@ titles and descriptions @@",
        "-Done: title: End",
        "+Done: title: Done",
        "",
    ]
    assert lines[-2] == "# nodes moved: 1"


def test_texts_with_several_lines_show_lines_and_words() -> None:
    old, new = "Rules:\nBe polite to the customer.\nx", "Rules:\nBe short with the customer.\nAnd quick.\nx"
    assert changes(compare(json.dumps({"p": old}).encode(), json.dumps({"p": new}).encode())) == [
        "@@ values @@",
        " p:",
        "   @@ -1,3 +1,4 @@",
        "   Rules:",
        "~  Be [-polite to-]{+short with+} the customer.",
        "+  And quick.",
        "   x",
    ]


def test_text_is_a_unified_diff() -> None:
    assert changes(compare(b"a\nb\n", b"a\nc\n")) == ["@@ -1,2 +1,2 @@", " a", "-b", "+c"]


def test_identical_sides_say_so() -> None:
    assert text(compare(b"{}", b"{}"))[2:] == ["# identical", ""]


def test_an_added_text_with_several_lines_is_indented() -> None:
    found = compare(b"{}", b'{"a": "one\\ntwo"}')
    assert changes(found) == ["@@ values @@", "+a:", "+  one", "+  two"]


def test_a_verdict_comes_first() -> None:
    found = json.loads(msgspec.json.encode(compare(b'{"a": 1}', b'{"a": 2}')))
    reason = {"code": "x", "level": "confirm", "text": "another model", "where": "Classify"}
    found["verdict"] = {"level": "confirm", "change": "medium", "reasons": [reason]}
    assert unified(found).split("\n")[3:5] == ["# confirm: medium change", "#   confirm: Classify: another model"]


def test_nothing_of_the_content_drives_a_terminal_or_looks_like_a_line_of_its_own() -> None:
    def edit(value: dict[str, Any]) -> None:
        data(value, FIRST)["title"] = "evil\n+forged: line\r\x1b[2J\u202e"
        data(value, FIRST)["model"]["completion_params"]["temperature\n-x"] = "\x9b31m"

    made = unified(json.loads(msgspec.json.encode(changed(edit))))
    assert not any(line.startswith(("+forged", "-x")) for line in made.split("\n"))
    assert all(each.isprintable() for each in made.replace("\n", ""))


def test_what_was_cut_is_counted() -> None:
    content = ("{" + ",".join(f'"k{n}": 1' for n in range(3000)) + "}").encode()
    assert text(compare(b"{}", content))[-2] == "# more changes, not listed: 1000"

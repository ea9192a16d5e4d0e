"""Rows of a table from the JSON of a comparison, and nothing else."""

from __future__ import annotations

from typing import Any

from registry.formats import compare
from registry.formats.render import Row
from tests.unit.formats.kit import END, FIRST, START, as_rows, changed, data, graph, llm, plugin


def test_every_change_has_one_row_in_order_of_weight() -> None:
    def edit(value: dict[str, Any]) -> None:
        value["version"] = "0.6.0"
        first = data(value, FIRST)
        first["model"]["name"] = "gpt-4o-mini"
        first["model"]["completion_params"]["temperature"] = 0.5
        data(value, START)["variables"].append({"variable": "age", "type": "number"})
        data(value, END)["title"] = "Done"
        graph(value)["nodes"].append(llm("2000", "Third", "x", name="gpt-4o"))
        graph(value)["edges"].pop(1)
        value["dependencies"][0] = plugin("langgenius/openai:0.2.0@aaaa")
        value["workflow"]["features"]["opening_statement"] = "ho"
        value["workflow"]["environment_variables"][1]["value"] = 9
        graph(value)["nodes"][0]["position"] = {"x": 1, "y": 1}

    newer = "format version newer: 0.5.0 -> 0.6.0; older servers ask before they take it, or refuse"
    another = "is needed in another version or build"
    assert as_rows(changed(edit)) == [
        Row("", "verdict", "", "", "confirm, major change"),
        Row("", "verdict", "version", "", f"confirm: {newer}"),
        Row("", "verdict", "langgenius/openai", "", f"confirm: plugin langgenius/openai {another} (0.1.0 -> 0.2.0)"),
        Row("", "verdict", "Polite answer", "", "warn: no path leads here from where runs start"),
        Row("", "verdict", "Third", "", "warn: no path leads here from where runs start"),
        Row("", "verdict", "VIP?", "", "warn: the branch 'if' leads nowhere"),
        Row("", "verdict", "Polite answer", "", "warn: model openai/gpt-4o -> openai/gpt-4o-mini: answers may differ"),
        Row("~", "app", "version", "0.5.0", "0.6.0"),
        Row("~", "model", "Polite answer: model", "openai/gpt-4o", "openai/gpt-4o-mini"),
        Row("+", "model", "Third: model", "", "openai/gpt-4o"),
        Row("+", "node", "Third (llm)", "", ""),
        Row("~", "node", "Polite answer: model.completion_params.temperature", "0.2", "0.5"),
        Row("-", "edge", "VIP? [if] -> Polite answer", "", ""),
        Row("+", "input", "age", "", "number"),
        Row("~", "environment variable", "LIMIT: value", "3", "9"),
        Row("~", "plugin", "langgenius/openai", "0.1.0", "0.2.0"),
        Row("~", "feature", "opening_statement", "hi", "ho"),
        Row("~", "text", "Done: title", "End", "Done"),
        Row("", "layout", "nodes moved", "", "1"),
    ]


def test_multi_line_texts_show_their_changed_lines() -> None:
    (row,) = as_rows(compare(b'{"a": "x\\ny\\nz"}', b'{"a": "x\\nY\\nz"}'))
    assert row == Row("~", "value", "a", "y", "Y")


def test_lines_of_text() -> None:
    assert as_rows(compare(b"a\nb\n", b"a\nc\n")) == [
        Row("", "line", "@@ -1,2 +1,2 @@", "", ""),
        Row("", "line", " a", "", ""),
        Row("-", "line", "", "b", ""),
        Row("+", "line", "", "", "c"),
    ]


def test_no_escape_sequence_of_the_content_reaches_the_terminal() -> None:
    found = compare(b'{"a": 1}', b'{"a": "\\u001b[2J\\u202egone", "\\u001b]0;x\\u0007": 1}')
    for row in as_rows(found):
        assert not set("".join(row)) & {"\x1b", "\x07", "\u202e"}


def test_what_was_cut_is_counted() -> None:
    rows = as_rows(compare(b"{}", ("{" + ",".join(f'"k{n}": 1' for n in range(3000)) + "}").encode()))
    assert rows[-1] == Row("", "cut", "more changes, not listed", "", "1000")

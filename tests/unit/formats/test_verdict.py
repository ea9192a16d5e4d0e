"""Whether a switch may go on: each reason with a case and a near miss, and how much counts as how large a change."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.formats import compare
from registry.formats.limits import CHANGES, FINDINGS
from registry.formats.model import LEVELS, Comparison, Verdict
from registry.formats.verdict import RULES
from tests.unit.formats.flows import chatflow
from tests.unit.formats.kit import (
    END,
    FIRST,
    ROUTE,
    SECOND,
    START,
    app,
    as_rows,
    changed,
    data,
    dump,
    edge,
    graph,
    llm,
    node,
    plugin,
)

Edit = Callable[[dict[str, Any]], Any]


def variables(value: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = data(value, START)["variables"]
    return found


def environment(value: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = value["workflow"]["environment_variables"]
    return found


def prompt(text: str) -> Edit:
    return lambda value: data(value, FIRST)["prompt_template"][0].update(text=text)


def nodes(*more: dict[str, Any]) -> Edit:
    return lambda value: graph(value)["nodes"].extend(more)


def joined(more: dict[str, Any]) -> Edit:
    """A node that runs after the start."""

    def edit(value: dict[str, Any]) -> None:
        graph(value)["nodes"].append(more)
        graph(value)["edges"].append(edge(START, more["id"]))

    return edit


def codes(found: Comparison) -> list[str]:
    return [reason.code for reason in found.verdict.reasons]


KNOWLEDGE = node("8", "knowledge-retrieval", "Search", dataset_ids=["one"], top_k=3)
CASES: list[tuple[str, str, str, Edit, Edit]] = [
    # code, where, change, what gives the reason, what only looks like it
    ("kind_changed", "kind", "major", lambda a: a.update(kind="rag_pipeline"), lambda a: a.pop("kind")),
    ("mode_changed", "app.mode", "major", lambda a: a["app"].update(mode="advanced-chat"), prompt("Other mode.")),
    (
        "input_removed",
        "Start",
        "major",
        lambda a: variables(a).pop(),
        lambda a: variables(a)[0].update(label="Important customer"),
    ),
    ("input_removed", "Start", "major", lambda a: variables(a)[0].update(variable="rank"), prompt("x")),
    ("input_removed", "Start", "major", lambda a: variables(a)[1].update(variable="words"), prompt("x")),
    (
        "input_required",
        "Start",
        "major",
        lambda a: variables(a).append({"variable": "age", "type": "number", "required": True}),
        lambda a: variables(a).append({"variable": "age", "type": "number", "required": False}),
    ),
    (
        "input_required",
        "Start",
        "major",
        lambda a: variables(a)[1].update(required=True),
        lambda a: variables(a)[0].update(required=False),
    ),
    (
        "input_required",
        "Start",
        "major",
        lambda a: variables(a).append({"variable": "age", "type": "number", "required": "true"}),
        lambda a: variables(a).append({"variable": "age", "type": "number", "required": "false"}),
    ),
    (
        "input_required",
        "Start",
        "major",
        lambda a: variables(a)[1].update(required=1),
        lambda a: variables(a)[0].update(required="yes"),
    ),
    (
        "input_type_changed",
        "Start",
        "major",
        lambda a: variables(a)[1].update(type="number"),
        lambda a: variables(a)[1].update(type="paragraph"),
    ),
    ("dsl_newer", "version", "major", lambda a: a.update(version="0.6.0"), lambda a: a.update(version="0.5.3")),
    ("dsl_newer", "version", "major", lambda a: a.update(version="1.0.0"), lambda a: a.update(version="0.5.0-rc1")),
    ("dsl_older", "version", "major", lambda a: a.update(version="0.4.9"), lambda a: a.update(version="0.5.3")),
    ("dsl_older", "version", "major", lambda a: a.pop("version"), lambda a: a.update(version="0.5")),
    (
        "plugin_added",
        "langgenius/x",
        "medium",
        lambda a: a["dependencies"].append(plugin("langgenius/x:1@a")),
        lambda a: a["dependencies"].reverse(),
    ),
    (
        "plugin_changed",
        "langgenius/openai",
        "medium",
        lambda a: a["dependencies"].__setitem__(0, plugin("langgenius/openai:0.2.0@aaaa")),
        lambda a: a["dependencies"][0].pop("current_identifier"),
    ),
    ("plugin_removed", "langgenius/cohere", "medium", lambda a: a["dependencies"].pop(), nodes()),
    (
        "datasets_changed",
        "Knowledge",
        "medium",
        lambda a: data(a, "7")["dataset_ids"].append("two"),
        lambda a: data(a, "7").update(top_k=4),
    ),
    ("datasets_changed", "Search", "medium", joined(KNOWLEDGE), joined(node("8", "tool", "Search", tool_name="x"))),
    (
        "secret_added",
        "KEY",
        "medium",
        lambda a: environment(a).append({"id": "e9", "name": "KEY", "value_type": "secret", "value": "[__HIDDEN__]"}),
        lambda a: environment(a).append({"id": "e9", "name": "KEY", "value_type": "string", "value": "x"}),
    ),
    ("secret_added", "LIMIT", "medium", lambda a: environment(a)[1].update(value_type="secret"), prompt("x")),
    (
        "secret_exposed",
        "TOKEN",
        "medium",
        lambda a: environment(a)[0].update(value_type="string", value="harmless"),
        lambda a: environment(a).pop(0),
    ),
    (
        "secret_exposed",
        "TOKEN",
        "medium",
        lambda a: environment(a)[0].pop("value_type"),
        lambda a: environment(a)[0].update(value_type="Secret"),
    ),
    (
        "secret_value_missing",
        "TOKEN",
        "medium",
        lambda a: environment(a)[0].update(value=""),
        lambda a: environment(a)[0].update(value="[__HIDDEN__]"),
    ),
    (
        "input_changed",
        "Start",
        "medium",
        lambda a: variables(a)[0].update(options=["yes"]),
        lambda a: variables(a)[0].update(label="Important"),
    ),
    *(
        (
            "input_changed",
            "Start",
            "medium",
            lambda a, field=field: variables(a)[0].update({field: ["image"]}),
            lambda a: variables(a)[0].update(hint="An image"),
        )
        for field in ("allowed_file_types", "allowed_file_extensions", "allowed_file_upload_methods")
    ),
    (
        "output_removed",
        "End",
        "medium",
        lambda a: data(a, END)["outputs"].clear(),
        lambda a: data(a, END)["outputs"].append({"variable": "more", "value_selector": [FIRST, "text"]}),
    ),
    (
        "output_changed",
        "End",
        "medium",
        lambda a: data(a, END)["outputs"][0].update(value_selector=[SECOND, "text"]),
        prompt("x"),
    ),
    (
        "model_changed",
        "Polite answer",
        "medium",
        lambda a: data(a, FIRST)["model"].update(name="gpt-4o-mini"),
        lambda a: data(a, FIRST)["model"].update(provider="langgenius/openai/openai"),
    ),
    (
        "model_changed",
        "Polite answer",
        "medium",
        lambda a: data(a, FIRST).pop("model"),
        lambda a: graph(a)["nodes"].pop(2),
    ),
    (
        "environment_removed",
        "LIMIT",
        "medium",
        lambda a: environment(a).pop(),
        lambda a: environment(a)[1].update(value=4),
    ),
    (
        "environment_added",
        "URL",
        "medium",
        lambda a: environment(a).append({"name": "URL", "value_type": "string", "value": "x"}),
        lambda a: environment(a).append({"name": "URL", "value_type": "secret", "value": "x"}),
    ),
    (
        "feature_off",
        "opening_statement",
        "minor",
        lambda a: a["workflow"]["features"].update(opening_statement=""),
        lambda a: a["workflow"]["features"].update(opening_statement="ho"),
    ),
    (
        "feature_off",
        "speech.enabled",
        "medium",
        lambda a: a["workflow"]["features"]["speech"].update(enabled=False),
        lambda a: a["workflow"]["features"]["file_upload"].update(enabled=True),
    ),
    (
        "feature_off",
        "speech",
        "medium",
        lambda a: a["workflow"]["features"].pop("speech"),
        lambda a: a["workflow"]["features"].pop("file_upload"),
    ),
    (
        "trigger_changed",
        "Nightly",
        "medium",
        nodes(node("9", "trigger-schedule", "Nightly")),
        joined(node("9", "tool", "Nightly", tool_name="x")),
    ),
    # What checks find is a reason too.
    ("edge_dangling", "End -> 9999", "medium", lambda a: graph(a)["edges"].append(edge(END, "9999")), nodes()),
    ("node_type_unknown", "Odd", "medium", joined(node("9", "quantum", "Odd")), joined(node("9", "code", "Odd"))),
    (
        "secret_literal",
        "workflow.graph.nodes[Polite answer].data.prompt_template[0].text",
        "minor",
        prompt(f"sk-{'a1b2c3d4' * 3}"),
        prompt("sk-..."),
    ),
]
FIXED = ("changes_omitted", "form_changed", "secret_value_changed")  # have tests of their own


def wide() -> dict[str, Any]:
    """The kit's app with a second input, a knowledge base and a feature that is on."""
    value = app()
    variables(value).append({"id": "v2", "variable": "text", "type": "text-input", "required": False})
    value["workflow"]["features"]["speech"] = {"enabled": True}
    joined(node("7", "knowledge-retrieval", "Knowledge", dataset_ids=["one"], top_k=3))(value)
    return value


def edited(edit: Edit) -> Comparison:
    old, new = wide(), copy.deepcopy(wide())
    edit(new)
    return compare(dump(old), dump(new))


@pytest.mark.parametrize(("code", "where", "change", "cause", "near"), CASES)
def test_each_reason_has_its_cause(code: str, where: str, change: str, cause: Edit, near: Edit) -> None:
    verdict = edited(cause).verdict
    (reason,) = [reason for reason in verdict.reasons if reason.code == code]
    assert reason.where == where
    assert reason.text
    assert {(c, level) for c, level, _ in RULES if c == code} <= {(code, reason.level)}
    assert LEVELS.index(verdict.level) >= LEVELS.index(reason.level)
    assert verdict.change == change
    assert code not in codes(edited(near))


def test_every_reason_has_a_case() -> None:
    assert {code for code, _, _ in RULES} <= {code for code, *_ in CASES} | set(FIXED)


CLASSES: list[tuple[str, Edit]] = [
    ("none", lambda a: graph(a)["nodes"][0].update(position={"x": 5, "y": 6})),
    ("none", lambda a: data(a, FIRST).update(title="Kind answer")),
    ("none", lambda a: graph(a)["nodes"].reverse()),
    ("minor", prompt("Be kind.")),
    ("minor", lambda a: data(a, FIRST)["model"]["completion_params"].update(temperature=1)),
    ("minor", lambda a: a["workflow"]["features"].update(opening_statement="ho")),
    ("minor", lambda a: a.update(version="0.5.1")),
    ("medium", lambda a: data(a, FIRST)["model"].update(name="gpt-4o-mini")),
    ("medium", lambda a: data(a, FIRST).update(vision={"enabled": True})),
    ("medium", lambda a: data(a, ROUTE)["cases"][0]["conditions"][0].update(value="no")),
    ("medium", lambda a: graph(a)["edges"].append(edge(START, SECOND))),
    ("medium", joined(llm("9", "Third", "x"))),
    ("medium", lambda a: environment(a)[1].update(value=4)),
    ("medium", lambda a: variables(a).append({"variable": "age", "type": "number"})),
    ("medium", lambda a: a["workflow"].update(brand_new=1)),
    ("medium", lambda a: a["app"].update(brand_new=1)),
    ("major", lambda a: a.update(version="0.6.0")),
]
CODE = node(
    "9",
    "code",
    "Code",
    variables=[{"variable": "text", "value_selector": [START, "vip"]}],
    outputs={"answer": {"type": "string"}},
    tool_parameters={"text": {"value": "a"}},
    cases=[{"case_id": "label", "text": "a"}],
    prompt_template=[{"role": "text", "query_selector": [START, "vip"], "text": "a", "type": "a"}],
    instruction="a",
)
NAMED: list[tuple[str, Edit]] = [
    ("medium", lambda code: code["variables"][0].update(value_selector=[START, "other"])),
    ("medium", lambda code: code["outputs"]["answer"].update(type="object")),
    ("medium", lambda code: code["tool_parameters"]["text"].update(value="b")),
    ("medium", lambda code: code["cases"][0].update(text="b")),
    ("medium", lambda code: code["prompt_template"][0].update(query_selector=[START, "other"])),
    ("medium", lambda code: code["prompt_template"][0].update(type="b")),
    ("medium", lambda code: code["prompt_template"][0].update(required=True)),
    ("minor", lambda code: code["prompt_template"][0].update(text="b")),
    ("minor", lambda code: code.update(instruction="b")),
]


@pytest.mark.parametrize(("change", "edit"), CLASSES)
def test_how_much_changes(change: str, edit: Edit) -> None:
    assert changed(edit).verdict.change == change


@pytest.mark.parametrize(("change", "edit"), NAMED)
def test_a_name_that_someone_chose_is_no_field_of_words(change: str, edit: Edit) -> None:
    old, new = app(), app()
    joined(copy.deepcopy(CODE))(old)
    joined(copy.deepcopy(CODE))(new)
    edit(data(new, "9"))
    assert compare(dump(old), dump(new)).verdict.change == change


def test_the_two_forms_of_a_comfyui_workflow_are_no_versions_of_a_format() -> None:
    api = {"3": {"class_type": "X", "inputs": {}}}
    ui = {"nodes": [{"id": 3, "type": "X", "mode": 0}], "links": [], "version": 1}
    for before, after, said in ((ui, api, "ui -> api"), (api, ui, "api -> ui")):
        (reason,) = [r for r in compare(dump(before), dump(after)).verdict.reasons if r.where in ("form", "version")]
        assert (reason.code, reason.level, reason.text) == ("form_changed", "warn", f"form changed: {said}")
    older = compare(dump(ui), dump(ui | {"version": 0.4})).verdict
    assert (older.level, older.change) == ("ok", "medium")


def test_another_type_of_a_flowise_flow_is_another_mode() -> None:
    old = chatflow() | {"type": "CHATFLOW"}
    (reason,) = compare(dump(old), dump(old | {"type": "AGENTFLOW"})).verdict.reasons
    assert (reason.code, reason.level, reason.where) == ("mode_changed", "block", "type")
    assert reason.text == "type changed: CHATFLOW -> AGENTFLOW"
    assert compare(dump(chatflow()), dump(old)).verdict.reasons == []  # not every export says its type


def test_a_fault_that_stays_still_blocks_and_says_so() -> None:
    old = app()
    graph(old)["edges"].append(edge(END, "9999"))
    new = copy.deepcopy(old)
    prompt("Be kind.")(new)
    (reason,) = [r for r in compare(dump(old), dump(new)).verdict.reasons if r.level == "block"]
    assert reason.text == "an edge ends at 9999, which is no node (so it was before)"
    assert compare(dump(new), dump(app())).verdict.level == "ok"


def test_what_was_found_before_and_blocks_nothing_is_no_reason() -> None:
    old = app()
    del old["version"]
    new = copy.deepcopy(old)
    prompt("Be kind.")(new)
    assert compare(dump(old), dump(new)).verdict == Verdict(change="minor")


def test_reasons_come_worst_first_and_the_level_is_of_the_worst() -> None:
    def edit(value: dict[str, Any]) -> None:
        data(value, FIRST)["model"]["name"] = "gpt-4o-mini"
        value["dependencies"].pop()
        variables(value).clear()

    verdict = changed(edit).verdict
    assert [reason.level for reason in verdict.reasons][:1] == [verdict.level] == ["block"]
    ranks = [LEVELS.index(reason.level) for reason in verdict.reasons]
    assert ranks == sorted(ranks, reverse=True)
    assert {"input_removed", "plugin_removed", "model_changed"} <= set(codes(changed(edit)))


def test_what_is_not_listed_was_not_judged() -> None:
    def edit(value: dict[str, Any]) -> None:
        value["workflow"]["more"] = {f"k{index}": index for index in range(CHANGES + 5)}

    assert "changes_omitted" not in codes(changed(edit))  # one change: the whole mapping
    old, new = app(), app()
    for value, offset in ((old, 0), (new, 1)):
        value["workflow"]["more"] = {f"k{index}": index + offset for index in range(CHANGES + 5)}
    (reason,) = compare(dump(old), dump(new)).verdict.reasons
    assert (reason.code, reason.level) == ("changes_omitted", "confirm")
    assert reason.text == "5 more changes are not listed and were not judged"


@pytest.mark.parametrize(
    ("old", "new", "level", "change"),
    [
        (b'{"a": 1}', b'{"a": 2}', "ok", "minor"),
        (b"a: 1\n", b"a: 1 # x\n", "ok", "none"),
        (b"words\n", b"other words\n", "ok", "minor"),
        (b"\xff", b"\xfe", "ok", "minor"),
        (b'{"a": 1}', b"a: 2\n", "block", "major"),
        (b'{"a": 1}', b"a: 1\n", "block", "major"),
        (b"words\n", b"\xfe", "block", "major"),
        (b'{"a": 1}', b'{"a": "sk-a1b2c3d4a1b2c3d4a1b2c3d4"}', "warn", "minor"),
    ],
)
def test_of_other_kinds_only_the_kind_and_literals_count(old: bytes, new: bytes, level: str, change: str) -> None:
    verdict = compare(old, new).verdict
    assert (verdict.level, verdict.change) == (level, change)


def test_a_whole_start_node_that_comes_brings_required_inputs() -> None:
    old = app()
    data(old, START).update(type="trigger-webhook", variables=[])
    found = compare(dump(old), dump(app()))
    assert ("input_required", "Start") in [(r.code, r.where) for r in found.verdict.reasons]


def test_the_verdict_stands_first_in_the_table() -> None:
    rows = as_rows(changed(lambda a: variables(a)[0].update(type="number")))
    assert [(row.what, row.where, row.new) for row in rows[:2]] == [
        ("verdict", "", "block, major change"),
        ("verdict", "Start", "block: input 'vip' has another type"),
    ]
    assert all(row.what != "verdict" for row in as_rows(changed(prompt("Be kind."))))


# Whatever is in there.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8) | st.sampled_from([START, "0.6.0", "source"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def odd_apps(draw: st.DrawFn) -> dict[str, Any]:
    """The kit's app with anything in some of its places."""
    value = wide()
    for _ in range(draw(st.integers(0, 4))):
        at: Any = value
        for _ in range(draw(st.integers(1, 7))):
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if not isinstance(at[key], (dict, list)) or draw(st.integers(0, 4)) == 0:
                at[key] = draw(JSON)
                break
            at = at[key]
    return value


@given(odd_apps(), odd_apps())
def test_every_pair_is_judged(old: dict[str, Any], new: dict[str, Any]) -> None:
    before, after = json.dumps(old).encode(), json.dumps(new).encode()
    found = compare(before, after)
    verdict = found.verdict
    assert len(verdict.reasons) <= FINDINGS
    assert verdict.level == (verdict.reasons[0].level if verdict.reasons else "ok")
    assert verdict.change in ("none", "minor", "medium", "major")
    assert (verdict.change == "none") <= found.same_semantics
    as_rows(found)
    assert compare(after, after).verdict == Verdict()

"""Apps compared in words of the app; what is noise; what is secret."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from registry.formats import Comparison, compare, inspect
from registry.formats.dify_view import provider, short_provider
from registry.formats.model import DependencyChange, ModelName, Rematch
from registry.formats.secrets import HIDDEN
from tests.unit.formats.kit import (
    END,
    FIRST,
    ROUTE,
    SECOND,
    START,
    app,
    as_rows,
    changed,
    changes_meaning,
    data,
    dump,
    edge,
    graph,
    llm,
    node,
    plugin,
    says_something,
)

Edit = Callable[[dict[str, Any]], Any]


def _replace_ids(value: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(value)
    for node_id in (START, ROUTE, FIRST, SECOND, END):
        text = text.replace(node_id, "77" + node_id)
    result: dict[str, Any] = json.loads(text)
    return result


def _legacy_cases(value: dict[str, Any]) -> None:
    route = data(value, ROUTE)
    case = route.pop("cases")[0]
    route |= {"logical_operator": case["logical_operator"], "conditions": case["conditions"]}


NOISE: dict[str, tuple[Edit, str]] = {
    "moved": (lambda a: graph(a)["nodes"][0].update(position={"x": 5, "y": 6}), "1 node moved"),
    "resized": (lambda a: graph(a)["nodes"][0].update(width=300, height=90), "1 item redrawn"),
    "selected": (lambda a: data(a, FIRST).update(selected=True), "1 item redrawn"),
    "dragged": (lambda a: graph(a)["nodes"][1].update(dragging=True, zIndex=1002), "1 item redrawn"),
    "connected": (lambda a: data(a, FIRST).update(_connectedSourceHandleIds=["source"]), "1 item redrawn"),
    "viewport": (lambda a: graph(a)["viewport"].update(zoom=2), "viewport moved"),
    "edge": (lambda a: graph(a)["edges"][0].update(id="e", zIndex=9, selected=True, data={}), "1 item redrawn"),
    "node order": (lambda a: graph(a)["nodes"].reverse(), "order of nodes"),
    "edge order": (lambda a: graph(a)["edges"].reverse(), "order of edges"),
    "plugin order": (lambda a: a["dependencies"].reverse(), "order of dependencies"),
    "plugin fields": (
        lambda a: [d.pop("current_identifier") for d in a["dependencies"]],
        "1 filled-in default differs",
    ),
    "plugin version null": (
        lambda a: [d["value"].update(version=None) for d in a["dependencies"]],
        "1 filled-in default differs",
    ),
    "variable order": (lambda a: a["workflow"]["environment_variables"].reverse(), "order of variables"),
    "selector": (
        lambda a: [v.pop("selector") for v in a["workflow"]["environment_variables"]],
        "1 filled-in default differs",
    ),
    "integer": (
        lambda a: a["workflow"]["environment_variables"][1].update(value_type="integer"),
        "1 filled-in default differs",
    ),
    "false": (lambda a: data(a, FIRST).update(isInIteration=False, isInLoop=False), "1 filled-in default differs"),
    "item ids": (
        lambda a: data(a, FIRST)["prompt_template"][0].update(id="9b2f"),
        "1 filled-in default differs",
    ),
    "condition ids": (
        lambda a: data(a, ROUTE)["cases"][0]["conditions"][0].update(id="new"),
        "1 filled-in default differs",
    ),
    "case id": (lambda a: data(a, ROUTE)["cases"][0].update(id="true"), "1 filled-in default differs"),
    "legacy cases": (_legacy_cases, "1 filled-in default differs"),
    "provider": (
        lambda a: data(a, FIRST)["model"].update(provider="langgenius/openai/openai"),
        "1 filled-in default differs",
    ),
    "empty text": (lambda a: data(a, FIRST).pop("desc"), "1 filled-in default differs"),
    "kind": (lambda a: a.pop("kind"), "1 filled-in default differs"),
    "title": (lambda a: data(a, FIRST).update(title="Kind answer"), "1 title or description changed"),
    "icon": (lambda a: a["app"].update(icon="y", name="Other"), "2 titles or descriptions changed"),
    "note": (lambda a: data(a, "n1").update(text="other"), "1 note changed"),
    "note gone": (lambda a: graph(a)["nodes"].pop(), "1 note changed"),
}


@pytest.mark.parametrize("name", NOISE)
def test_noise_changes_the_value_and_not_the_meaning(name: str) -> None:
    edit, said = NOISE[name]
    found = changed(edit)
    assert not found.same_value
    assert found.same_semantics
    assert not changes_meaning(found)
    assert says_something(found)
    assert found.summary == f"no change in what it does: {said}"


MEANING: dict[str, tuple[Edit, str]] = {
    "prompt": (lambda a: data(a, FIRST)["prompt_template"][0].update(text="Be kind."), "1 node changed"),
    "model": (
        lambda a: data(a, FIRST)["model"].update(name="gpt-4o-mini"),
        "1 node changed; model gpt-4o -> gpt-4o-mini in 'Polite answer'",
    ),
    "provider": (
        lambda a: data(a, FIRST)["model"].update(provider="anthropic", name="claude"),
        "1 node changed; model openai/gpt-4o -> anthropic/claude in 'Polite answer'",
    ),
    "temperature": (lambda a: data(a, FIRST)["model"]["completion_params"].update(temperature=0.3), "1 node changed"),
    "container": (lambda a: graph(a)["nodes"][2].update(parentId=ROUTE), "1 node changed"),
    "unknown node field": (lambda a: data(a, FIRST).update(brand_new=1), "1 node changed"),
    "node type": (lambda a: data(a, FIRST).update(type="agent"), "1 node added, 1 removed; 2 edges added, 2 removed"),
    "input": (
        lambda a: data(a, START)["variables"].append({"variable": "age", "type": "number"}),
        "1 node changed; input age added",
    ),
    "input required": (
        lambda a: data(a, START)["variables"][0].update(required=False),
        "1 node changed; input vip changed",
    ),
    "output": (lambda a: data(a, END)["outputs"].clear(), "1 node changed; output out removed"),
    "edge added": (lambda a: graph(a)["edges"].append(edge(START, SECOND)), "1 edge added"),
    "edge removed": (lambda a: graph(a)["edges"].pop(), "1 edge removed"),
    "handle": (lambda a: graph(a)["edges"][1].update(sourceHandle="false"), "1 edge added, 1 removed"),
    "edge field": (lambda a: graph(a)["edges"][0].update(condition="x"), "1 setting changed"),
    "environment": (
        lambda a: a["workflow"]["environment_variables"][1].update(value=4),
        "environment variable LIMIT changed",
    ),
    "conversation": (lambda a: a["workflow"]["conversation_variables"].clear(), "conversation variable seen removed"),
    "plugin version": (
        lambda a: a["dependencies"].__setitem__(0, plugin("langgenius/openai:0.1.1@cccc")),
        "plugin langgenius/openai 0.1.0 -> 0.1.1",
    ),
    "plugin build": (
        lambda a: a["dependencies"].__setitem__(0, plugin("langgenius/openai:0.1.0@cccc")),
        "plugin langgenius/openai rebuilt",
    ),
    "plugin removed": (lambda a: a["dependencies"].pop(), "plugin langgenius/cohere removed"),
    "feature": (lambda a: a["workflow"]["features"].update(opening_statement="ho"), "features: 1 change"),
    "mode": (lambda a: a["app"].update(mode="advanced-chat"), "app.mode workflow -> advanced-chat"),
    "dsl": (lambda a: a.update(version="0.6.0"), "version 0.5.0 -> 0.6.0"),
    "unknown field": (lambda a: a["workflow"].update(brand_new={"x": 1}), "1 setting changed"),
    "odd node": (lambda a: graph(a)["nodes"].append("not a node"), "1 setting changed"),
}


@pytest.mark.parametrize("name", MEANING)
def test_what_an_app_does_is_in_the_semantic_digest_and_the_summary(name: str) -> None:
    edit, said = MEANING[name]
    found = changed(edit)
    assert not found.same_value
    assert not found.same_semantics
    assert changes_meaning(found)
    assert found.summary.startswith(said), found.summary


def _node_changes(found: Comparison) -> list[tuple[str, str, str, Any, Any]]:
    return [(n.title, c.sign, c.path, c.old, c.new) for n in found.nodes.changed for c in n.changes]


def test_changes_of_a_node_are_by_field() -> None:
    def edit(value: dict[str, Any]) -> None:
        first = data(value, FIRST)
        first["model"]["completion_params"] = {"temperature": 0.9, "top_p": 1}
        first["vision"] = {"enabled": False}
        data(value, END)["outputs"][0]["value_selector"] = [SECOND, "text"]

    assert _node_changes(changed(edit)) == [
        ("Polite answer", "~", "model.completion_params.temperature", 0.2, 0.9),
        ("Polite answer", "+", "model.completion_params.top_p", None, 1),
        ("Polite answer", "+", "vision", None, {"enabled": False}),
        ("End", "~", "outputs[out].value_selector", "1003.text", "1004.text"),
    ]


def test_a_changed_prompt_has_its_lines() -> None:
    old, new = app(), app()
    data(old, FIRST)["prompt_template"][0]["text"] = "One.\nTwo.\nThree."
    data(new, FIRST)["prompt_template"][0]["text"] = "One.\nTwo!\nThree."
    (node_change,) = compare(dump(old), dump(new)).nodes.changed
    assert node_change.changes[0].diff == ["@@ -1,3 +1,3 @@", " One.", "-Two.", "+Two!", " Three."]


def test_models_of_added_and_removed_nodes_are_listed() -> None:
    def edit(value: dict[str, Any]) -> None:
        graph(value)["nodes"][3] = llm("2000", "Other", "Other words", name="command-r", provider="cohere")

    models = changed(edit).models
    assert [(m.sign, m.where, m.old, m.new) for m in models] == [
        ("-", "Short answer", ModelName(provider="openai", name="gpt-4o"), None),
        ("+", "Other", None, ModelName(provider="cohere", name="command-r")),
    ]


def test_models_are_found_wherever_they_hide() -> None:
    def search(embedding: str, rerank: str, extract: str) -> dict[str, Any]:
        value = app()
        config = {
            "reranking_model": {"provider": "cohere", "model": rerank},
            "weights": {"vector_setting": {"embedding_provider_name": "openai", "embedding_model_name": embedding}},
        }
        agent = {"model": {"type": "constant", "value": {"provider": "openai", "model": extract, "model_type": "llm"}}}
        graph(value)["nodes"] += [
            node("8", "knowledge-retrieval", "Search", multiple_retrieval_config=config),
            node("9", "agent", "Agent", agent_parameters=agent),
        ]
        return value

    found = compare(dump(search("e1", "r1", "m1")), dump(search("e2", "r2", "m2")))
    assert {(m.path, m.old.name, m.new.name) for m in found.models if m.old and m.new} == {
        ("multiple_retrieval_config.reranking_model", "r1", "r2"),
        ("multiple_retrieval_config.weights.vector_setting.embedding_model_name", "e1", "e2"),
        ("agent_parameters.model.value", "m1", "m2"),
    }


def test_edges_say_what_their_branch_means() -> None:
    def edit(value: dict[str, Any]) -> None:
        classes = [{"id": "17", "name": "billing"}]
        graph(value)["nodes"] += [
            node("8", "question-classifier", "Sort", classes=classes),
            node("9", "http-request", "Call", error_strategy="fail-branch"),
            node("10", "human-input", "Approve", user_actions=[{"id": "ok", "title": "Yes"}]),
        ]
        handles = [("8", "17"), ("9", "fail-branch"), ("9", "source"), ("10", "ok"), (ROUTE, "gone")]
        graph(value)["edges"] += [edge(source, END, handle) for source, handle in handles]
        del graph(value)["edges"][1:3]

    edges = changed(edit).edges
    assert [(e.source_title, e.branch) for e in edges.added] == [
        ("Sort", "billing"),
        ("Call", "on failure"),
        ("Call", ""),
        ("Approve", "Yes"),
        ("VIP?", "gone"),
    ]
    assert [(e.branch, e.target_title) for e in edges.removed] == [("if", "Polite answer"), ("else", "Short answer")]


def test_a_graph_made_anew_is_recognised() -> None:
    found = compare(dump(app()), dump(_replace_ids(app())))
    assert found.nodes.rematched == [
        Rematch(old_id=START, new_id="77" + START, type="start", title="Start"),
        Rematch(old_id=ROUTE, new_id="77" + ROUTE, type="if-else", title="VIP?"),
        Rematch(old_id=FIRST, new_id="77" + FIRST, type="llm", title="Polite answer"),
        Rematch(old_id=SECOND, new_id="77" + SECOND, type="llm", title="Short answer"),
        Rematch(old_id=END, new_id="77" + END, type="end", title="End"),
    ]
    assert (found.nodes.added, found.nodes.removed, found.nodes.changed) == ([], [], [])
    assert (found.edges.added, found.edges.removed) == ([], [])
    assert found.summary == "5 nodes under new ids"


def test_a_change_in_a_graph_made_anew_stands_out() -> None:
    new = _replace_ids(app())
    data(new, "77" + SECOND)["prompt_template"][0]["text"] = "Be very short."
    data(new, "77" + END)["outputs"][0]["value_selector"] = ["77" + SECOND, "text"]
    found = compare(dump(app()), dump(new))
    assert len(found.nodes.rematched) == 5
    assert _node_changes(found) == [
        ("Short answer", "~", "prompt_template[system].text", "Be short.", "Be very short."),
        ("End", "~", "outputs[out].value_selector", "1003.text (now 771003)", "771004.text"),
    ]


def test_a_reused_id_of_another_type_is_another_node() -> None:
    def edit(value: dict[str, Any]) -> None:
        graph(value)["nodes"][3] = node(SECOND, "code", "Code", code="x")

    found = changed(edit)
    assert [n.title for n in found.nodes.removed] == ["Short answer"]
    assert [n.title for n in found.nodes.added] == ["Code"]
    assert len(found.edges.removed) == len(found.edges.added) == 2


def test_two_nodes_with_one_id_are_both_compared() -> None:
    old, new = app(), app()
    for value, text in ((old, "a"), (new, "b")):
        graph(value)["nodes"].append(llm(FIRST, "Twin", text))
    found = compare(dump(old), dump(new))
    assert [(n.id, n.title) for n in found.nodes.changed] == [(f"{FIRST}#2", "Twin")]


def test_secrets_of_an_app_are_hidden_and_their_change_is_not() -> None:
    def edit(value: dict[str, Any]) -> None:
        value["workflow"]["environment_variables"][0]["value"] = "correct-horse"
        value["workflow"]["environment_variables"].append(
            {"id": "e3", "name": "X", "value_type": "secret", "value": "battery"}
        )

    found = changed(edit)
    assert [(v.name, v.sign) for v in found.variables] == [("TOKEN", "~"), ("X", "+")]
    change = found.variables[0].changes[0]
    assert (change.path, change.old, change.new, change.masked) == ("value", HIDDEN, HIDDEN, True)
    encoded = msgspec.json.encode(found)
    assert not any(secret in encoded for secret in (b"hunter2", b"correct-horse", b"battery"))
    assert ("~", "environment variable", "TOKEN: value", HIDDEN, f"{HIDDEN}, another one") in as_rows(found)


def test_a_blanked_secret_is_seen() -> None:
    change = changed(lambda a: a["workflow"]["environment_variables"][0].update(value="")).variables[0].changes[0]
    assert (change.old, change.new) == (HIDDEN, "")


def test_a_renamed_variable_is_one_change() -> None:
    found = changed(lambda a: a["workflow"]["environment_variables"][1].update(name="MAXIMUM"))
    assert [(v.name, v.sign, v.changes[0].path) for v in found.variables] == [("MAXIMUM", "~", "name")]


def test_plugins_of_all_sources() -> None:
    old, new = app(), app()
    github = {"repo": "a/b", "version": "v1", "package": "b.difypkg", "github_plugin_unique_identifier": "a/b:0.1@x"}
    old["dependencies"] = [{"type": "github", "value": github}, plugin("o/p:1.0.0@h")]
    newer = github | {"version": "v2", "github_plugin_unique_identifier": "a/b:0.2@y"}
    package = {"type": "package", "value": {"plugin_unique_identifier": "o/p:1.0.0@h"}}
    new["dependencies"] = [{"type": "github", "value": newer}, package, plugin("n/e:1@z")]
    assert compare(dump(old), dump(new)).dependencies == [
        DependencyChange(name="a/b", sign="~", old="0.1", new="0.2", detail="build x -> y"),
        DependencyChange(name="n/e", sign="+", new="1"),
        DependencyChange(name="o/p", sign="~", old="1.0.0", new="1.0.0", detail="source marketplace -> package"),
    ]


def test_chat_apps_are_compared_by_setting() -> None:
    old = {
        "kind": "app",
        "version": "0.5.0",
        "app": {"name": "c", "mode": "chat"},
        "model_config": {
            "model": {"provider": "openai", "name": "gpt-4o", "mode": "chat"},
            "pre_prompt": "Hello",
            "user_input_form": [{"text-input": {"variable": "who", "required": False}}],
        },
    }
    new = copy.deepcopy(old)
    config: Any = new["model_config"]
    config["model"]["name"] = "gpt-4o-mini"
    config["pre_prompt"] = "Hi"
    config["user_input_form"].append({"select": {"variable": "tone"}})
    found = compare(dump(old), dump(new))
    assert found.summary == "model gpt-4o -> gpt-4o-mini in 'app'; input tone added; 3 settings changed"
    assert [change.path for change in found.changes] == [
        "model_config.model.name",
        "model_config.pre_prompt",
        "model_config.user_input_form[1]",
    ]


def test_hand_written_files_without_the_graph_level() -> None:
    def value(text: str) -> dict[str, Any]:
        ask = {"id": "a", "type": "llm", "title": "Ask", "data": {"prompt_template": [{"role": "user", "text": text}]}}
        return {"app": {"mode": "workflow", "name": "x"}, "workflow": {"nodes": [ask], "edges": []}}

    assert inspect(dump(value("a"))).facts["nodes"] == "1"
    found = compare(dump(value("a")), dump(value("b")))
    assert [(n.type, n.title, n.changes[0].path) for n in found.nodes.changed] == [
        ("llm", "Ask", "prompt_template[user].text")
    ]


@pytest.mark.parametrize(
    ("name", "long", "short"),
    [
        ("openai", "langgenius/openai/openai", "openai"),
        ("google", "langgenius/gemini/google", "google"),
        ("langgenius/google/google", "langgenius/gemini/google", "google"),
        ("acme/openai/openai", "acme/openai/openai", "acme/openai/openai"),
        ("", "", ""),
        ("Built In", "Built In", "Built In"),
    ],
)
def test_providers_have_one_spelling(name: str, long: str, short: str) -> None:
    assert provider(name) == long
    assert short_provider(long) == short


def test_a_wrapped_app_is_the_same_value() -> None:
    plain = dump(app())
    found = compare(plain, json.dumps({"data": plain.decode()}).encode())
    assert (found.identical, found.same_value, found.summary) == (False, True, "the same value, written differently")


def test_an_app_and_another_kind_are_compared_by_value() -> None:
    found = compare(dump(app()), b'{"kind": "other"}')
    assert found.old is not None
    assert found.new is not None
    assert (found.old.kind, found.new.kind) == ("dify", "json")
    assert ("~", "kind") in [(change.sign, change.path) for change in found.changes]

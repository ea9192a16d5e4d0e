"""Apps compared in words of the app; what is noise; what is secret."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from registry.formats import Comparison, compare, inspect, read
from registry.formats.graph.compare import compare_graphs
from registry.formats.graph.model import Edge, Graph, Node, Plugin
from registry.formats.graph.parts import dependency_changes
from registry.formats.graph.rules import Rules
from registry.formats.kinds.dify import rules as dify_rules
from registry.formats.kinds.dify.view import provider, short_provider
from registry.formats.limits import DRAWN_EDGES
from registry.formats.model import DependencyChange, ModelName, Rematch
from registry.formats.picture.draw import draw
from registry.formats.secrets.masking import HIDDEN
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


def test_the_ways_to_leave_a_secret_out_are_told_apart() -> None:
    """Imported, Dify's word keeps what the server has, nothing empties it, and asterisks are stored as they are."""

    def left_out(value: str) -> bytes:
        made = app()
        made["workflow"]["environment_variables"][0]["value"] = value
        return dump(made)

    values = ("[__HIDDEN__]", "", "***", "****")
    assert len({inspect(left_out(value)).semantic_digest for value in values}) == len(values)
    found = compare(left_out("[__HIDDEN__]"), left_out(""))
    assert [(v.name, v.changes[0].old, v.changes[0].new) for v in found.variables] == [("TOKEN", "[__HIDDEN__]", "")]


def test_a_blanked_secret_is_seen() -> None:
    change = changed(lambda a: a["workflow"]["environment_variables"][0].update(value="")).variables[0].changes[0]
    assert (change.old, change.new) == (HIDDEN, "")


def test_a_renamed_variable_is_one_change() -> None:
    found = changed(lambda a: a["workflow"]["environment_variables"][1].update(name="MAXIMUM"))
    assert [(v.name, v.sign, v.changes[0].path) for v in found.variables] == [("MAXIMUM", "~", "name")]


def test_variables_of_one_name_have_an_order() -> None:
    def twice(first: int, second: int) -> bytes:
        value = app()
        value["workflow"]["environment_variables"] = [
            {"name": "N", "value_type": "number", "value": first},
            {"name": "OTHER", "value_type": "number", "value": 0},
            {"name": "N", "value_type": "number", "value": second},
        ]
        return dump(value)

    found = compare(twice(1, 2), twice(2, 1))
    assert not found.same_semantics
    assert [(v.name, v.changes[0].old, v.changes[0].new) for v in found.variables] == [("N", 1, 2), ("N#2", 2, 1)]


def test_a_repeated_id_is_not_one_that_looks_like_it() -> None:
    def second(node_id: str) -> bytes:
        value = app()
        graph(value)["nodes"].append(llm(node_id, "Twin", "x"))
        return dump(value)

    found = compare(second(FIRST), second(f"{FIRST}#2"))
    assert not found.same_semantics
    assert _node_changes(found) == [("Twin", "~", "node.repeated", True, False)]
    codes = [finding.code for finding in inspect(second(f"{FIRST}#2")).findings]
    assert "node_id_repeated" not in codes


@pytest.mark.parametrize("end", ["source", "target", "sourceHandle", "targetHandle"])
def test_an_end_of_an_edge_that_is_a_number_is_not_the_text_of_it(end: str) -> None:
    def edges(value: dict[str, Any], to: Any) -> None:
        graph(value)["edges"].append(edge(START, END) | {end: to})

    old, new = app(), app()
    edges(old, START)
    edges(new, int(START))
    found = compare(dump(old), dump(new))
    assert not found.same_semantics
    assert [(c.sign, c.new) for c in found.changes] == [("+", "number")]
    assert found.changes[0].path.endswith(f"].{end}")


def test_an_id_that_is_a_number_is_not_the_text_of_it() -> None:
    found = changed(lambda a: graph(a)["nodes"][0].update(id=int(START)))
    assert not found.same_semantics
    assert _node_changes(found) == [("Start", "+", "node.id", None, "number")]
    twins = app(), app()
    graph(twins[0])["nodes"].append(llm(START, "Twin", "x"))
    graph(twins[1])["nodes"].append(llm(START, "Twin", "x") | {"id": int(START)})
    assert _node_changes(compare(*map(dump, twins))) == [("Twin", "+", "node.id", None, "number")]


def test_edges_of_one_key_are_compared_with_all_that_they_hold() -> None:
    def twice(*conditions: str) -> bytes:
        value = app()
        graph(value)["edges"] += [edge(START, END) | {"condition": condition} for condition in conditions]
        return dump(value)

    found = compare(twice("a", "b"), twice("c", "b"))
    assert not found.same_semantics
    assert [(c.sign, c.old, c.new) for c in found.changes] == [
        ("-", {"condition": "a"}, None),
        ("+", None, {"condition": "c"}),
    ]
    assert compare(twice("a", "b"), twice("b", "a", "a")).same_semantics
    more = compare(twice("b"), twice("a", "b"))
    assert not more.same_semantics
    assert [(c.sign, c.new) for c in more.changes] == [("+", {"condition": "a"})]


def test_a_graph_that_stands_one_level_too_high_is_another_app() -> None:
    def lift(value: dict[str, Any]) -> None:
        value["workflow"] |= value["workflow"].pop("graph")

    found = changed(lift)
    assert not found.same_semantics
    assert [(c.sign, c.path, c.new) for c in found.app] == [("+", "graph", "missing")]
    assert (found.nodes.added, found.nodes.removed, found.edges.added) == ([], [], [])


def test_what_stands_in_the_place_of_a_graph_is_compared_too() -> None:
    def odd(graph: Any) -> bytes:
        return dump({"app": {"mode": "workflow"}, "workflow": {"graph": graph, "nodes": ["odd"]}})

    found = compare(odd(1), odd(2))
    assert [(c.path, c.old, c.new) for c in found.changes] == [("workflow.graph", 1, 2)]


@pytest.mark.parametrize(("node_id", "field", "scope"), [(START, "variables", "input"), (END, "outputs", "output")])
def test_inputs_and_outputs_removed_with_the_list_around_them(node_id: str, field: str, scope: str) -> None:
    def shown(edit: Edit) -> list[tuple[str, str, str]]:
        old, new = app(), app()
        edit(new)
        there, back = compare(dump(old), dump(new)), compare(dump(new), dump(old))
        assert [c.shown_as for c in there.nodes.changed[0].changes] == [scope]
        assert [c.shown_as for c in back.nodes.changed[0].changes] == [scope]
        return [(v.scope, v.sign, v.name) for v in there.variables + back.variables]

    name = "vip" if node_id == START else "out"
    expected = [(scope, "-", name), (scope, "+", name)]
    assert shown(lambda a: data(a, node_id).pop(field)) == expected
    assert shown(lambda a: data(a, node_id).update({field: None})) == expected


def test_a_list_of_inputs_that_became_something_else_is_still_shown() -> None:
    found = changed(lambda a: data(a, START).update(variables="none"))
    assert [(v.sign, v.name) for v in found.variables] == [("-", "vip")]
    assert [(c.path, c.shown_as) for c in found.nodes.changed[0].changes] == [("variables", "")]


def test_names_of_plugins_and_builds_are_bounded_and_masked() -> None:
    token = "sk-" + "a1b2c3d4" * 3
    new = app()
    new["dependencies"][0] |= {"type": f"{token} " + "x" * 999}
    new["dependencies"][0]["value"] = {"plugin_unique_identifier": f"langgenius/openai:0.1.0@{token} " + "y" * 999}
    (only,) = compare(dump(app()), dump(new)).dependencies
    assert token[:8] not in only.detail
    assert len(only.detail) < 400


def test_plugins_of_one_name_are_compared_in_proportion_to_their_number() -> None:
    class Counted(str):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counted.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    def plugins(first: int) -> list[Plugin]:
        return [Plugin(name="p", version=Counted(f"{number}.0")) for number in range(first, first + 1000)]

    found = dependency_changes(plugins(0), plugins(500))
    assert len(found) == 500
    assert Counted.compared < 20_000


def test_a_node_with_many_branches_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def mappings(value: Any) -> list[Any]:
        looked.append(len(value))
        return list(value)

    old, new = app(), app()
    cases = [{"case_id": f"c{number}", "logical_operator": "and", "conditions": []} for number in range(300)]
    for value in (old, new):
        data(value, ROUTE)["cases"] = cases
    graph(new)["edges"] += [edge(ROUTE, FIRST, f"c{number}") for number in range(300)]
    monkeypatch.setattr(dify_rules, "_mappings", mappings)
    before, after = read(dump(old)), read(dump(new))
    found = before.format.compare(before.read, after.read)
    assert [each.branch for each in found.edges.added[:3]] == ["if", "else if 1", "else if 2"]
    assert looked == [300]
    looked.clear()
    picture = draw(before.read.view, after.read.view, found, rules=dify_rules.DifyRules())
    assert "else if 17<" in picture
    assert looked == [300]


def test_only_edges_that_are_listed_or_drawn_are_put_in_words() -> None:
    class Counting(Rules):
        named = 0

        def branch(self, source: Node | None, handle: str) -> str:
            Counting.named += 1
            return handle

    nodes = [Node(id=name, type="step", title=name, config={}) for name in ("a", "b")]
    edges = [Edge(source="a", source_handle=f"h{n}", target="b", target_handle="") for n in range(10_000)]
    old, new = Graph(nodes=nodes), Graph(nodes=nodes, edges=edges)
    found = compare_graphs(old, new, Counting())
    assert Counting.named == len(found.edges.added) < 2000
    assert found.omitted == 10_000 - len(found.edges.added)
    Counting.named = 0
    draw(old, new, found, rules=Counting())
    assert Counting.named == DRAWN_EDGES


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


def test_variables_whose_ids_are_no_text_are_compared_by_name() -> None:
    def rename(value: dict[str, Any]) -> None:
        value["workflow"]["environment_variables"][1] |= {"id": ["a", "list"], "name": "OTHER"}

    found = changed(rename)
    assert [(each.sign, each.name) for each in found.variables] == [("-", "LIMIT"), ("+", "OTHER")]
    again = copy.deepcopy(app())
    rename(again)
    assert compare(dump(again), dump(app())).variables[0].name == "OTHER"


def test_an_app_of_mode_agent_has_its_settings_where_others_have_a_graph() -> None:
    value = {
        "version": "0.7.0",
        "kind": "app",
        "app": {"name": "Helper", "mode": "agent"},
        "agent": {"model": {"provider": "openai", "name": "small"}, "prompt": "Be short"},
        "agent_packages": [],
    }
    other = copy.deepcopy(value)
    other["agent"]["model"]["name"] = "large"  # type: ignore[index]
    found = inspect(dump(value))
    assert (found.kind, found.facts["mode"], found.findings) == ("dify", "agent", ())
    changes = compare(dump(value), dump(other))
    assert [(each.old, each.new) for each in changes.models] == [
        (ModelName(provider="openai", name="small"), ModelName(provider="openai", name="large"))
    ]
    assert changes.verdict.level == "warn"

"""Flowise flows: what they are taken for, what is noise, what changed in words of the flow, what is secret."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from registry.formats import compare, compare_read, inspect, read, without_secrets
from registry.formats.kinds.flowise import Flowise, FlowiseRules
from registry.formats.model import ModelName, Rematch, Secret
from registry.formats.secrets.masking import HIDDEN
from registry.formats.secrets.redact import PLACEHOLDER
from registry.formats.values.canonical import canonical
from tests.unit.formats.flows import (
    API_KEY,
    agentflow,
    by_id,
    chatflow,
    dumped,
    edited,
    flowise_edge,
    flowise_node,
    known,
    langflow,
    with_ids,
)
from tests.unit.formats.kit import app, changes_meaning, dump, graph, says_something

Edit = Callable[[dict[str, Any]], Any]


def data(value: dict[str, Any], node_id: str) -> dict[str, Any]:
    found: dict[str, Any] = by_id(value, node_id)["data"]
    return found


def paths(value: dict[str, Any], edit: Edit) -> list[tuple[str, str]]:
    return [(c.sign, c.path) for node in edited(value, edit).nodes.changed for c in node.changes]


def test_flows_are_known_by_what_flowise_fills_in() -> None:
    assert inspect(dumped(chatflow())).facts == {"nodes": "3", "edges": "2", "flow": "chatflow", "notes": "1"}
    assert inspect(dumped(agentflow())).facts == {"nodes": "5", "edges": "3", "flow": "agentflow v2"}
    sequential = {"nodes": [flowise_node("seqStart_0", "seqStart", {}, category="Sequential Agents")], "edges": []}
    assert inspect(dumped(sequential)).facts["flow"] == "agentflow v1"
    assert inspect(dump(chatflow())).kind == "flowise"  # as YAML


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("json", {"nodes": [], "edges": []}),
        ("json", {"nodes": [{"id": "1", "type": "customNode", "data": {"label": "x", "name": "n"}}], "edges": []}),
        ("json", {"nodes": chatflow()["nodes"]}),
        ("json", {"nodes": chatflow()["nodes"], "edges": {}}),
        ("json", graph(app())),
        ("dify", app()),
        ("langflow", langflow()),
    ],
)
def test_other_formats_are_left_alone(kind: str, value: Any) -> None:
    assert not Flowise().fits(value)
    assert inspect(dumped(value)).kind == kind


NOISE: dict[str, tuple[Edit, str]] = {
    "moved": (lambda a: a["nodes"][0].update(position={"x": 5, "y": 6}), "1 node moved"),
    "resized": (lambda a: a["nodes"][0].update(width=301, style={"width": 301}), "1 item redrawn"),
    "selected": (lambda a: a["nodes"][0]["data"].update(selected=True), "1 item redrawn"),
    "viewport": (lambda a: a["viewport"].update(zoom=2), "viewport moved"),
    "edge id": (lambda a: a["edges"][0].update(id="x", data={"label": "y"}), "1 item redrawn"),
    "order": (lambda a: a["nodes"].reverse(), "order of nodes"),
    "parameters": (lambda a: data(a, "chatOpenAI_0")["inputParams"].pop(0), "1 filled-in default differs"),
    "types": (lambda a: data(a, "chatOpenAI_0").update(type="T", category="C"), "1 filled-in default differs"),
    "word of a node": (lambda a: data(a, "chatOpenAI_0").update(description="x"), "1 filled-in default differs"),
    "path": (lambda a: data(a, "chatOpenAI_0").update(filePath="/x.js"), "1 filled-in default differs"),
    "left out": (lambda a: data(a, "bufferMemory_0").pop("id"), "1 filled-in default differs"),
    "label": (lambda a: data(a, "chatOpenAI_0").update(label="My model"), "1 title or description changed"),
    "description": (lambda a: a.update(description="other"), "1 title or description changed"),
    "note": (lambda a: data(a, "stickyNote_0")["inputs"].update(note="x"), "1 note changed"),
}


@pytest.mark.parametrize("name", NOISE)
def test_noise_is_counted_and_changes_nothing(name: str) -> None:
    edit, said = NOISE[name]
    found = edited(chatflow(), edit)
    assert found.same_semantics
    assert not found.same_value
    assert found.summary == f"no change in what it does: {said}"
    assert not changes_meaning(found)


def test_order_says_nothing_about_meaning() -> None:
    new = chatflow()
    new["nodes"].reverse()
    new["edges"].reverse()
    new["nodes"] = [dict(reversed(node.items())) for node in new["nodes"]]
    assert inspect(dumped(new)).semantic_digest == inspect(dumped(chatflow())).semantic_digest


def test_types_in_a_handle_follow_from_the_node() -> None:
    """A node of a newer release gives more base classes, and its handles name them all."""
    new = chatflow()
    handle = "chatOpenAI_0-output-chatOpenAI-ChatOpenAI|BaseChain|Runnable"
    data(new, "chatOpenAI_0")["outputAnchors"][0]["id"] = handle
    new["edges"][0]["sourceHandle"] = handle
    found = compare(dumped(chatflow()), dumped(new))
    assert found.same_semantics
    assert (found.layout.redrawn, found.layout.derived) == (1, 1)


MEANING: dict[str, tuple[Edit, list[tuple[str, str]]]] = {
    "input": (lambda a: data(a, "chatOpenAI_0")["inputs"].update(temperature=0.1), [("~", "inputs.temperature")]),
    "version": (lambda a: data(a, "chatOpenAI_0").update(version=2), [("~", "version")]),
    "output": (lambda a: data(a, "chatOpenAI_0").update(outputs={"output": "x"}), [("+", "outputs.output")]),
    "credential": (lambda a: data(a, "chatOpenAI_0").update(credential="c1"), [("+", "credential")]),
    "unknown": (lambda a: data(a, "chatOpenAI_0").update(brandNew=[1]), [("+", "brandNew")]),
    "beside": (lambda a: a["nodes"][0].update(brandNew=[1]), [("+", "node.brandNew")]),
    "container": (lambda a: a["nodes"][0].update(parentNode="x"), [("+", "node.parentNode")]),
    "other id inside": (lambda a: data(a, "chatOpenAI_0").update(id="x"), [("+", "id")]),
}


@pytest.mark.parametrize("name", MEANING)
def test_what_runs_is_meaning(name: str) -> None:
    edit, expected = MEANING[name]
    assert paths(chatflow(), edit) == expected
    assert not edited(chatflow(), edit).same_semantics


def test_unknown_fields_of_a_flow_and_its_edges_are_meaning() -> None:
    def edit(value: dict[str, Any]) -> None:
        value["brandNew"] = 1
        value["edges"][0]["condition"] = "x"

    assert [change.path for change in edited(chatflow(), edit).changes] == [
        "brandNew",
        "edges[chatOpenAI_0.chatOpenAI -> conversationChain_0.model].condition",
    ]


def test_rewiring() -> None:
    def edit(value: dict[str, Any]) -> None:
        value["edges"][1] |= {
            "targetHandle": "conversationChain_0-input-model-Base",
        }

    found = edited(chatflow(), edit)
    assert not found.same_semantics
    assert [(edge.target_title, edge.target_handle) for edge in found.edges.removed] == [
        ("ConversationChain", "memory")
    ]
    assert [(edge.source_handle, edge.target_handle) for edge in found.edges.added] == [("bufferMemory", "model")]
    assert found.edges.added[0].branch == ""


def test_a_handle_of_no_known_anchor_keeps_its_whole_name() -> None:
    old, new = chatflow(), chatflow()
    for value, name in ((old, "next-a"), (new, "next-b")):
        value["edges"].append(flowise_edge("bufferMemory_0", "chatOpenAI_0", f"bufferMemory_0-output-{name}", "x"))
    assert [edge.branch for edge in compare(dumped(old), dumped(new)).edges.added] == ["next-b"]


def test_inputs_that_share_a_name_are_told_apart_by_their_handles() -> None:
    node = flowise_node("a", "chain", {})
    node["data"]["inputAnchors"] = [{"id": f"a-input-doc-{kind}", "name": "doc", "type": kind} for kind in ("X", "Y")]
    edges = [flowise_edge("a", "a", "a-output-chain-Chain|BaseChain", f"a-input-doc-{kind}") for kind in ("X", "Y")]
    view = known({"nodes": [node], "edges": edges}).read.view
    assert [edge.key for edge in view.edges] == [("a", "chain", "a", "doc-X"), ("a", "chain", "a", "doc-Y")]


def test_ids_of_outputs_to_choose_from() -> None:
    handle = "llmChain_0-output-outputPrediction-string|json"
    choice = {"name": "output", "type": "options", "options": [{"id": handle, "name": "outputPrediction"}]}
    node = flowise_node("llmChain_0", "llmChain", {}, outputAnchors=[choice])
    value = {"nodes": [node], "edges": [flowise_edge("llmChain_0", "llmChain_0", handle, "llmChain_0")]}
    edge = known(value).read.view.edges[0]
    assert edge.key == ("llmChain_0", "outputPrediction", "llmChain_0", "")


def test_branches_in_words() -> None:
    found = edited(agentflow(), lambda value: value.update(edges=[]))
    assert [edge.branch for edge in found.edges.removed] == ["", "wants a refund", "just chats"]
    rules, view = (
        FlowiseRules(),
        known(
            {
                "edges": [],
                "nodes": [
                    flowise_node("a", "conditionAgentflow", {"conditions": [{}, {}]}),
                    flowise_node("b", "humanInputAgentflow", {}),
                    flowise_node("c", "seqCondition", {}),
                ],
            }
        ).read.view,
    )
    condition, human, other = view.nodes
    assert [rules.branch(condition, way) for way in "012"] == ["if", "else if 1", "else"]
    assert [rules.branch(human, way) for way in "019"] == ["proceed", "reject", "9"]
    assert [rules.branch(other, "end"), rules.branch(None, "0"), rules.branch(other, "9" * 5000)[:3]] == [
        "end",
        "",
        "999",
    ]


def test_ids_that_were_replaced() -> None:
    """Copied into another canvas every node has a new id, also in what refers to it."""
    names = {
        "chatOpenAI_0": "chatOpenAI_7",
        "bufferMemory_0": "bufferMemory_7",
        "conversationChain_0": "conversationChain_7",
    }
    found = compare(dumped(chatflow()), dumped(with_ids(chatflow(), names)))
    assert found.nodes.rematched == [
        Rematch(old_id=old, new_id=new, type=old[:-2], title=(old[:1].upper() + old[1:])[:-2])
        for old, new in names.items()
    ]
    assert (found.nodes.changed, found.nodes.added, found.nodes.removed) == ([], [], [])
    assert (found.edges.added, found.edges.removed) == ([], [])

    names = {each["id"]: each["id"].replace("_0", "_42") for each in agentflow()["nodes"]}
    found = compare(dumped(agentflow()), dumped(with_ids(agentflow(), names)))
    assert len(found.nodes.rematched) == 5
    assert (found.nodes.changed, found.edges.added, found.edges.removed) == ([], [], [])


def test_a_change_beside_replaced_ids_is_the_only_one_listed() -> None:
    names = {each["id"]: each["id"].replace("_0", "_42") for each in agentflow()["nodes"]}
    new = with_ids(agentflow(), names)
    data(new, "loopAgentflow_42")["inputs"]["maxLoopCount"] = 9
    found = compare(dumped(agentflow()), dumped(new))
    assert [(node.id, [c.path for c in node.changes]) for node in found.nodes.changed] == [
        ("loopAgentflow_42", ["inputs.maxLoopCount"])
    ]


def test_places_and_containers() -> None:
    view = known(agentflow()).read.view
    inner = next(node for node in view.nodes if node.id == "llmAgentflow_0")
    assert (inner.at, inner.inside, view.nodes[0].inside) == ((10.0, 20.0), "iterationAgentflow_0", "")


def test_models_with_their_provider() -> None:
    found = edited(chatflow(), lambda value: data(value, "chatOpenAI_0")["inputs"].update(modelName="gpt-4.1"))
    change = found.models[0]
    assert change.where == "ChatOpenAI"
    assert (change.old, change.new) == (
        ModelName(provider="openai", name="gpt-4o"),
        ModelName(provider="openai", name="gpt-4.1"),
    )
    assert found.summary == "1 node changed; model gpt-4o -> gpt-4.1 in 'ChatOpenAI'"

    def choose(value: dict[str, Any]) -> None:
        inputs = data(value, "conditionAgentAgentflow_0")["inputs"]
        inputs |= {"conditionAgentModel": "chatOpenAI", "conditionAgentModelConfig": {"modelName": "gpt-4o"}}

    change = edited(agentflow(), choose).models[0]
    assert change.old == ModelName(provider="anthropic", name="claude-3-7-sonnet-latest")
    assert change.new == ModelName(provider="openai", name="gpt-4o")


@pytest.mark.parametrize(
    ("component", "provider"),
    [("openAIEmbeddings", "openai"), ("chatOpenAI_LlamaIndex", "openai"), ("chatOllama", "ollama"), ("chat", "chat")],
)
def test_providers_of_components(component: str, provider: str) -> None:
    node = known({"nodes": [flowise_node("a", component, {"model": "m"})], "edges": []}).read.view.nodes[0]
    assert dict(FlowiseRules().models(node.type, node.config)) == {
        "inputs.model": ModelName(provider=provider, name="m")
    }


def test_a_model_that_comes_by_an_edge_is_named_by_its_own_node() -> None:
    nodes = known(chatflow()).read.view.nodes
    assert [len(list(FlowiseRules().models(node.type, node.config))) for node in nodes] == [1, 0, 0]


def test_secrets_are_the_passwords_that_are_written_down() -> None:
    content = known(chatflow())
    expected = [Secret(name="ChatOpenAI.licence", path=("nodes", 0, "data", "inputs", "licence"), value=API_KEY)]
    assert content.format.secrets(content.read) == expected
    odd = chatflow()
    odd["nodes"][0]["id"] = []
    content = known(odd)
    assert [secret.path for secret in content.format.secrets(content.read)] == [expected[0].path]
    for value in ("", None, "{{$vars.key}}", PLACEHOLDER, "****", True, [], {}, ["", None]):
        old = chatflow()
        data(old, "chatOpenAI_0")["inputs"]["licence"] = value
        content = known(old)
        assert content.format.secrets(content.read) == []


def test_secrets_in_lists_and_on_tabs_and_of_twins() -> None:
    inner = [{"name": "header", "type": "string"}, {"name": "pin", "type": "password"}]
    params = [
        {"name": "rows", "type": "array", "array": inner},
        {"name": "t", "type": "tabs", "tabs": [{"name": "code", "type": "password"}]},
    ]
    inputs = {"rows": [{"pin": ""}, {"pin": 1234, "header": "x"}, "odd"], "code": "open sesame"}
    nodes = [flowise_node(node_id, "http", copy.deepcopy(inputs), inputParams=params) for node_id in ("a", "b", "b")]
    content = known({"nodes": nodes, "edges": []})
    found = content.format.secrets(content.read)
    assert [secret.name for secret in found] == [
        "Http (a).code",
        "Http (a).rows.1.pin",
        "Http (b).code",
        "Http (b).rows.1.pin",
        "Http (b).code#2",
        "Http (b).rows.1.pin#2",
    ]
    assert found[1].path == ("nodes", 0, "data", "inputs", "rows", 1, "pin")
    for secret in found:
        value: Any = content.read.value
        for key in secret.path:
            value = value[key]
        assert str(value) == secret.value
    nodes[0]["data"]["inputs"]["rows"][1]["pin"] = 4321
    text = msgspec.json.encode(compare_read(content, known({"nodes": nodes, "edges": []}))).decode()
    assert HIDDEN in text
    assert not any(secret in text for secret in ("1234", "4321", "open sesame"))


@pytest.mark.parametrize("value", [["one-literal", "", {"a": ["another-literal", 7]}], {"k": "one-literal", "n": None}])
def test_a_password_that_is_a_list_or_a_mapping_is_hidden_and_left_out(value: Any) -> None:
    new = chatflow()
    data(new, "chatOpenAI_0")["inputs"]["licence"] = value
    content = known(new)
    found = content.format.secrets(content.read)
    assert {secret.value for secret in found} >= {"one-literal"}
    for secret in found:
        held: Any = content.read.value
        for key in secret.path:
            held = held[key]
        assert str(held) == secret.value
    redacted = without_secrets(content, b"k" * 32).content
    literals = (API_KEY.encode(), b"one-literal", b"another-literal")
    assert known(json.loads(redacted)).read.semantic_digest != content.read.semantic_digest
    across = compare(dumped(chatflow()), dumped(new), kind_new="json")
    back = compare(dumped(new), dumped(chatflow()), kind_new="json")
    texts = [redacted, *map(msgspec.json.encode, (edited(chatflow(), lambda a: a.update(new)), across, back))]
    assert not any(literal in text for text in texts for literal in literals)


@pytest.mark.parametrize(
    "edit",
    [
        lambda a: data(a, "chatOpenAI_0")["inputs"].update(licence="another-literal"),
        lambda a: data(a, "chatOpenAI_0")["inputs"].pop("licence"),
        lambda a: data(a, "chatOpenAI_0").update(inputs={}),
        lambda a: data(a, "chatOpenAI_0").pop("inputs"),
        lambda a: a["nodes"].pop(0),
        lambda a: a.update(nodes=[a["nodes"][2]]),
        lambda a: data(a, "chatOpenAI_0").pop("inputParams"),  # the new side declares nothing
        lambda a: a["nodes"][0].update(id=[]),  # no node any more, and its inputs stay what they are
    ],
)
def test_passwords_are_hidden_and_seen_to_change(edit: Edit) -> None:
    found = edited(chatflow(), edit)
    assert not found.same_semantics
    new = chatflow()
    edit(new)
    across = compare(dumped(chatflow()), dumped(new), kind_new="json")  # by value, as is a difference of kinds
    for text in map(msgspec.json.encode, (found, across, inspect(dumped(chatflow())))):
        assert API_KEY.encode() not in text
        assert b"another-literal" not in text


def test_a_password_that_an_export_left_out_is_as_if_absent() -> None:
    old = chatflow()
    del data(old, "chatOpenAI_0")["inputs"]["licence"]
    for value in ("", None, PLACEHOLDER):
        new = copy.deepcopy(old)
        data(new, "chatOpenAI_0")["inputs"]["licence"] = value
        found = compare(dumped(old), dumped(new))
        assert found.same_semantics
        assert found.summary == "no change in what it does: 1 filled-in default differs"


def test_flows_that_it_calls() -> None:
    nodes = [
        flowise_node("a", "executeFlowAgentflow", {"executeFlowSelectedFlow": "id-1"}),
        flowise_node("b", "ChatflowTool", {"selectedChatflow": "id-2"}),
        flowise_node("c", "ChatflowTool", {"selectedChatflow": "{{$vars.flow}}"}),
        flowise_node("d", "ChatflowTool", {"selectedChatflow": ""}),
        flowise_node(
            "e", "agentAgentflow", {"agentTools": [{"agentSelectedToolConfig": {"selectedChatflow": "id-2"}}]}
        ),
    ]
    content = known({"nodes": nodes, "edges": []})
    assert content.format.requires(content.read) == ["flowise:id-1", "flowise:id-2"]


def test_repeated_ids_and_odd_parts_are_kept_apart() -> None:
    value = chatflow()
    twin = copy.deepcopy(value["nodes"][0])
    value["nodes"] += [twin, {"id": "x"}, {"data": {}}, None, 7, {"id": [], "data": {}}]
    value["edges"] += [
        {"source": "a"},
        None,
        {"source": "a", "target": "b", "sourceHandle": 7, "targetHandle": {"a": 1}},
    ]
    view = known(value).read.view
    assert [node.id for node in view.nodes if node.type == "chatOpenAI"] == ["chatOpenAI_0", "chatOpenAI_0#2"]
    assert len(view.rest["nodes"]) == 5
    assert len(view.rest["edges"]) == 2
    assert view.edges[-1].key == ("a", "7", "b", '{"a":1}')


def test_a_named_kind_is_refused_for_something_else() -> None:
    with pytest.raises(Exception, match="not a Flowise flow"):
        read(b"{}", "flowise")


def test_every_part_of_a_flow_shows() -> None:
    """Whatever is removed, something says so."""
    whole = chatflow()

    def parts(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return [found for key, item in items for found in [(*path, key), *parts(item, (*path, key))]]

    for path in parts(whole):
        new = copy.deepcopy(whole)
        holder: Any = new
        for key in path[:-1]:
            holder = holder[key]
        del holder[path[-1]]
        if Flowise().fits(new):
            found = compare(dumped(whole), dumped(new))
            assert says_something(found), path
            assert changes_meaning(found) != found.same_semantics, path
            assert canonical(new) != canonical(whole)

"""What holds for every n8n and every ComfyUI workflow."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.formats import compare, inspect
from tests.unit.formats import test_comfyui as comfyui_kit
from tests.unit.formats import test_n8n as n8n_kit
from tests.unit.formats.kit import as_rows, changes_meaning, says_something

WORDS = st.sampled_from(["", "a", "line\nline", "sk-abcdefghijklmnop1234", "x.safetensors"])
LEAVES = st.none() | st.booleans() | st.integers(-3, 3) | WORDS
NAMES = ["Start", "It's", "Do it", "7", "«7»"]
KINDS = ["n8n-nodes-base.set", "n8n-nodes-base.if", "@n8n/n8n-nodes-langchain.lmChatOpenAi", "n8n-nodes-x.y"]
KINDS += ["n8n-nodes-base.stickyNote", "@n8n/n8n-nodes-langchain.toolCode", "n8n-nodes-base.formTrigger"]


def dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def shuffled(draw: st.DrawFn, value: Any) -> Any:
    """The same value with the keys of every mapping in another order."""
    if isinstance(value, dict):
        return {key: shuffled(draw, value[key]) for key in draw(st.permutations(sorted(value)))}
    return [shuffled(draw, item) for item in value] if isinstance(value, list) else value


@st.composite
def parameters(draw: st.DrawFn) -> dict[str, Any]:
    named = st.sampled_from(NAMES).map(lambda name: f'={{{{ $("{name}").item }}}}')
    dotted = st.just("=$node.Start.json")
    picked = st.builds(lambda v, n: {"__rl": True, "value": v, "cachedResultName": n}, WORDS, WORDS)
    field = st.fixed_dictionaries({}, optional={"fieldLabel": WORDS, "name": WORDS, "requiredField": st.booleans()})
    forms = st.lists(field, max_size=2).map(lambda values: {"values": values})
    keys = st.sampled_from(["text", "jsCode", "model", "inputs", "path"])
    found: dict[str, Any] = draw(st.dictionaries(keys, named | dotted | picked | LEAVES, max_size=3))
    return found | draw(st.fixed_dictionaries({}, optional={"formFields": forms}))


@st.composite
def workflows(draw: st.DrawFn) -> dict[str, Any]:
    nodes = []
    for index, name in enumerate(draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1))):
        item = n8n_kit.node(str(5 + index), name, draw(st.sampled_from(KINDS)), **draw(parameters()))
        extra = {
            "disabled": st.booleans(),
            "notes": WORDS,
            "webhookId": WORDS,
            "credentials": st.just({"a": {"id": "1"}}),
        }
        nodes.append(item | draw(st.fixed_dictionaries({}, optional=extra)))
    target = st.builds(n8n_kit.to, st.sampled_from(NAMES), st.sampled_from(["main", "ai_tool"]), st.integers(0, 1))
    outputs = st.lists(st.none() | st.lists(target, max_size=2), max_size=2)
    kinds = st.dictionaries(st.sampled_from(["main", "ai_tool"]), outputs, max_size=2)
    connections = draw(st.dictionaries(st.sampled_from(NAMES), kinds, max_size=3))
    top = {"name": WORDS, "active": LEAVES, "pinData": LEAVES, "settings": st.dictionaries(st.just("a"), LEAVES)}
    return {"nodes": nodes, "connections": connections} | draw(st.fixed_dictionaries({}, optional=top))


@st.composite
def redrawn_workflows(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A workflow, and the same one after someone played with it in the editor and exported it elsewhere."""
    old = draw(workflows())
    new = copy.deepcopy(old)
    new["nodes"] = draw(st.permutations(new["nodes"]))
    for item in new["nodes"]:
        item["position"] = [draw(st.integers(0, 2)), 0]
    new |= {"versionId": "v", "meta": {}, "active": draw(st.booleans()), "name": draw(WORDS)}
    return old, shuffled(draw, new)


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Any]:
    """The kit's ComfyUI workflow with more nodes, links and settings, in its subgraph too."""
    value = comfyui_kit.with_subgraph() if draw(st.booleans()) else comfyui_kit.ui()
    places = [value, *value.get("definitions", {}).get("subgraphs", [])]
    for place in places:
        for index in range(draw(st.integers(0, 2))):
            widgets = draw(st.lists(LEAVES | st.dictionaries(st.sampled_from(["lora", "on"]), LEAVES), max_size=2))
            slots = [(draw(st.sampled_from(["x", "y"])), None) for _ in range(draw(st.integers(0, 2)))]
            kind = draw(st.sampled_from(["LoraLoader", "Note", "s-1", "Any"]))
            place["nodes"].append(
                comfyui_kit.node(30 + index, kind, *widgets, inputs=slots, mode=draw(st.integers(0, 2)))
            )
        ids = [item["id"] for item in place["nodes"]] + [99, -10]
        for index in range(draw(st.integers(0, 2))):
            ends = draw(st.tuples(st.sampled_from(ids), st.integers(0, 1), st.sampled_from(ids), st.integers(0, 2)))
            place["links"].append([40 + index, *ends, "*"])
    value["extra"] |= draw(st.fixed_dictionaries({}, optional={"ds": LEAVES, "info": LEAVES, "other": LEAVES}))
    return value


@st.composite
def prompts(draw: st.DrawFn) -> dict[str, Any]:
    value = comfyui_kit.api()
    for key in draw(st.sets(st.sampled_from(["3", "10", "20"]))):
        inputs = st.dictionaries(st.sampled_from(["a", "lora_name"]), LEAVES | st.just(["4", 0]), max_size=2)
        value[key] = {"class_type": draw(st.sampled_from(["LoraLoader", "X"])), "inputs": draw(inputs)}
        value[key] |= draw(st.fixed_dictionaries({}, optional={"_meta": st.dictionaries(st.just("title"), LEAVES)}))
    return value


@st.composite
def redrawn_graphs(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    old = draw(graphs())
    new = copy.deepcopy(old)
    for place in [new, *new.get("definitions", {}).get("subgraphs", [])]:
        place["nodes"] = draw(st.permutations(place["nodes"]))
        place["links"] = draw(st.permutations(place["links"]))
        for item in place["nodes"]:
            item.update(pos=[draw(st.integers(0, 2)), 0], order=draw(st.integers(0, 2)), flags={})
    new["extra"]["ds"] = draw(LEAVES)
    new["last_node_id"] = draw(st.integers(0, 3))
    return old, shuffled(draw, new)


@settings(max_examples=80, deadline=None)
@given(redrawn_workflows() | redrawn_graphs())
def test_drawing_never_changes_what_a_workflow_does(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    old, new = map(dump, pair)
    found = compare(old, new)
    assert found.same_semantics
    assert inspect(old).semantic_digest == inspect(new).semantic_digest
    assert not changes_meaning(found)
    assert found.same_value != says_something(found)


@settings(max_examples=60, deadline=None)
@given(st.data(), workflows())
def test_a_rename_that_is_followed_is_only_a_name(data: st.DataObject, old: dict[str, Any]) -> None:
    """But of a tool, whose name the model of an agent sees, and of a form whose address it is part of."""
    item = data.draw(st.sampled_from(old["nodes"]))
    found = compare(dump(old), dump(_renamed(old, item["name"], "Fresh")))
    seen = "toolCode" in item["type"] or ("formTrigger" in item["type"] and "webhookId" not in item)
    assert found.same_semantics != seen
    assert (found.nodes.added, found.nodes.removed, found.edges.added, found.edges.removed) == ([], [], [], [])
    assert says_something(found)


def _renamed(value: Any, name: str, fresh: str, key: str = "") -> Any:
    """What n8n's editor does: the node's name, connections from it and to it, and expressions that name it."""
    if isinstance(value, dict):
        named = key == "connections"
        return {
            fresh if named and each == name else each: _renamed(item, name, fresh, each) for each, item in value.items()
        }
    if isinstance(value, list):
        return [_renamed(item, name, fresh) for item in value]
    if isinstance(value, str) and value.startswith("="):
        dotted = value.replace("$node.Start.", f"$node.{fresh}.") if name == "Start" else value
        return dotted.replace(f'$("{name}")', f'$("{fresh}")')
    return fresh if value == name and key in ("name", "node") else value


@settings(max_examples=60, deadline=None)
@given(st.tuples(workflows(), workflows()) | st.tuples(graphs(), graphs()) | st.tuples(prompts() | graphs(), prompts()))
def test_two_workflows_differ_in_meaning_exactly_when_a_section_says_so(
    pair: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    found = compare(*map(dump, pair))
    assert changes_meaning(found) != found.same_semantics
    assert says_something(found) != found.same_value
    assert b"sk-abcdefghijklmnop1234" not in msgspec.json.encode(found)
    assert found.summary


PARTS = ["nodes", "links", "connections", "main", "node", "type", "index", "id", "name", "parameters", "position"]
PARTS += ["inputs", "outputs", "link", "class_type", "properties", "widgets_values", "pos", "extra", "definitions"]
PARTS += ["subgraphs", "groups", "title", "0", "cnr_id", "ver", "credentials", "inputNode", "outputNode", "__rl"]
ODD = st.recursive(
    LEAVES | st.sampled_from([*KINDS, "Note", "=$('a')"]),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from(PARTS), v, max_size=5),
    max_leaves=15,
)
MAPPINGS = st.dictionaries(st.sampled_from(PARTS), ODD, max_size=6)


@st.composite
def odd_values(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """Taken for a workflow by its outer shape, with anything inside."""
    items = draw(st.lists(MAPPINGS | ODD, max_size=3))
    top = draw(MAPPINGS)
    if draw(st.booleans()):
        sure = n8n_kit.node("a", "a", draw(st.sampled_from(KINDS))) | {"parameters": draw(MAPPINGS)}
        connections = draw(st.dictionaries(st.sampled_from(["a", "b"]), ODD, max_size=2))
        return "n8n", top | {"nodes": [sure, *items], "connections": connections}
    nodes = [comfyui_kit.node(1, "A") | draw(MAPPINGS) | {"id": 1, "type": "A", "mode": 0}, *items]
    subgraph = inner = draw(MAPPINGS) | {"id": "s", "nodes": draw(st.lists(MAPPINGS | ODD, max_size=2))}
    links = draw(st.lists(st.lists(st.integers(-1, 2), min_size=5, max_size=6) | MAPPINGS, max_size=3))
    top |= {"nodes": nodes, "links": links, "definitions": {"subgraphs": [subgraph, inner, draw(ODD)]}}
    top.pop("connections", None)
    return "comfyui", top


@settings(max_examples=80, deadline=None)
@given(odd_values(), odd_values())
def test_malformed_workflows_are_inspected_and_compared(
    old: tuple[str, dict[str, Any]], new: tuple[str, dict[str, Any]]
) -> None:
    for kind, value in (old, new):
        assert inspect(dump(value)).kind == kind
    found = compare(dump(old[1]), dump(new[1]))
    assert says_something(found) != found.same_value
    msgspec.json.encode(found)
    as_rows(found)

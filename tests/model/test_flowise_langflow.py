"""What holds for every flow of Flowise and LangFlow: drawing changes nothing, no edit is lost, nothing raises."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.formats import compare, inspect, read
from tests.unit.formats.flows import API_KEY, agentflow, by_id, chatflow, fields, langflow
from tests.unit.formats.kit import as_rows, changes_meaning, says_something

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
LEAVES = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(-1e9, 1e9) | TEXT
KEYS = [
    "id",
    "type",
    "data",
    "nodes",
    "edges",
    "node",
    "template",
    "value",
    "name",
    "password",
    "load_from_db",
    "show",
    "file_path",
    "inputs",
    "inputParams",
    "array",
    "tabs",
    "inputAnchors",
    "outputAnchors",
    "options",
    "outputs",
    "baseClasses",
    "label",
    "selected",
    "position",
    "parentNode",
    "source",
    "target",
    "sourceHandle",
    "targetHandle",
    "fieldName",
    "flow",
    "display_name",
    "description",
    "model_name",
    "model",
    "provider",
    "modelName",
    "llmModel",
    "llmModelConfig",
    "selectedChatflow",
    "flow_name_selected",
    "viewport",
    "tags",
    "endpoint_name",
    "conditions",
    "frozen",
]
WORDS = ["a", "b", "a-output-x-T", "password", "noteNode", "stickyNote", "chatOpenAI", "RunFlow", "{œ", "[__HIDDEN__]"]
ODD = st.recursive(
    LEAVES | st.sampled_from(WORDS),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from(KEYS), v, max_size=5),
    max_leaves=15,
)
PARTS = st.lists(st.dictionaries(st.sampled_from(KEYS), ODD, max_size=6) | ODD, max_size=4)


def dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


@st.composite
def shuffled(draw: st.DrawFn, value: Any) -> Any:
    """The same value with the keys of every mapping in another order."""
    if isinstance(value, dict):
        return {key: draw(shuffled(value[key])) for key in draw(st.permutations(sorted(value)))}
    return [draw(shuffled(item)) for item in value] if isinstance(value, list) else value


def graph_of(value: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = value.get("data", value)
    return found


WHOLE = st.sampled_from([chatflow, agentflow, langflow]).map(lambda make: make())


@st.composite
def redrawn(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A flow, and the same one after someone played with the canvas."""
    old = draw(WHOLE)
    new = copy.deepcopy(old)
    graph = graph_of(new)
    graph["nodes"] = draw(st.permutations(graph["nodes"]))
    graph["edges"] = draw(st.permutations(graph["edges"]))
    for node in graph["nodes"]:
        node["position"] = {"x": draw(st.integers(0, 20)), "y": 20}
        node["selected"] = draw(st.booleans())
        node["measured"] = draw(ODD)
    for edge in graph["edges"]:
        edge["animated"] = draw(st.booleans())
    graph["viewport"] = draw(ODD)
    return old, new | draw(st.sampled_from([{}, {"description": "other"}]))


@settings(max_examples=40, deadline=None)
@given(redrawn(), st.data())
def test_drawing_never_changes_what_a_flow_does(pair: tuple[Any, Any], data: st.DataObject) -> None:
    old, new = dumped(pair[0]), dumped(data.draw(shuffled(pair[1])))
    found = compare(old, new)
    assert found.same_semantics
    assert inspect(old).semantic_digest == inspect(new).semantic_digest
    assert not changes_meaning(found)
    assert says_something(found) != found.same_value


EDITS = {
    "flowise input": lambda a, x: by_id(a, "chatOpenAI_0")["data"]["inputs"].update(temperature=x),
    "flowise secret": lambda a, x: by_id(a, "chatOpenAI_0")["data"]["inputs"].update(licence=f"lit {x}"),
    "flowise name": lambda a, x: by_id(a, "chatOpenAI_0")["data"].update(name=x),
    "flowise edge": lambda a, x: a["edges"][0].update(sourceHandle=f"chatOpenAI_0-output-{x}"),
    "flowise rest": lambda a, x: a.update(other=x),
    "langflow value": lambda a, x: fields(a, "OpenAIModel-ccccc")["temperature"].update(value=x),
    "langflow secret": lambda a, x: fields(a, "OpenAIModel-ccccc")["licence"].update(value=f"lit {x}"),
    "langflow code": lambda a, x: fields(a, "OpenAIModel-ccccc")["code"].update(value=x),
    "langflow edge": lambda a, x: a["data"]["edges"][0]["data"]["targetHandle"].update(fieldName=x),
    "langflow app": lambda a, x: a.update(endpoint_name=x),
}


@pytest.mark.parametrize("name", EDITS)
@settings(max_examples=15, deadline=None)
@given(text=st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=9))
def test_an_edit_is_never_lost(name: str, text: str) -> None:
    old = chatflow() if name.startswith("flowise") else langflow()
    new = copy.deepcopy(old)
    EDITS[name](new, f"edited {text}")
    found = compare(dumped(old), dumped(new))
    assert not found.same_semantics
    assert changes_meaning(found)
    assert found.summary
    assert any(row.sign for row in as_rows(found))
    assert inspect(dumped(old)).semantic_digest != inspect(dumped(new)).semantic_digest
    shown = msgspec.json.encode(found)
    assert API_KEY.encode() not in shown
    assert not name.endswith("secret") or f"lit edited {text}".strip().encode() not in shown


@st.composite
def odd_flows(draw: st.DrawFn) -> dict[str, Any]:
    """Taken for a flow by one node, with anything beside it and in it."""
    inner: dict[str, Any] = draw(st.dictionaries(st.sampled_from(KEYS), ODD, max_size=6))
    if draw(st.booleans()):
        first = {"id": "a", "data": inner | {"name": draw(st.sampled_from(WORDS)), "inputParams": draw(PARTS)}}
        return draw(st.dictionaries(st.sampled_from(KEYS), ODD, max_size=4)) | {
            "nodes": [first, *draw(PARTS)],
            "edges": draw(PARTS),
        }
    template = draw(st.dictionaries(st.sampled_from(KEYS), ODD, max_size=6))
    more: dict[str, Any] = draw(st.dictionaries(st.sampled_from(KEYS), ODD, max_size=4))
    first = {"id": "a", "data": inner | {"node": more | {"template": template}}}
    outer: dict[str, Any] = draw(st.dictionaries(st.sampled_from(KEYS), ODD, max_size=4))
    return outer | {"data": {"nodes": [first, *draw(PARTS)], "edges": draw(PARTS), "x": draw(ODD)}}


@settings(max_examples=200, deadline=None)
@given(odd_flows(), odd_flows())
def test_malformed_flows_are_inspected_and_compared(old: dict[str, Any], new: dict[str, Any]) -> None:
    first, second = dumped(old), dumped(new)
    assert inspect(first).kind in ("flowise", "langflow")
    for content in (read(first), read(second)):
        secrets = content.format.secrets(content.read)
        assert len({secret.name for secret in secrets}) == len(secrets)
        for secret in secrets:
            value: Any = content.read.value
            for key in secret.path:
                value = value[key]
            assert str(value) == secret.value
        assert all(name.startswith(f"{content.format.kind}:") for name in content.format.requires(content.read))
    found = compare(first, second)
    assert says_something(found) != found.same_value
    msgspec.json.encode(found)
    as_rows(found)


@st.composite
def with_a_part_replaced(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A flow, and itself with something else at one place."""
    old = draw(WHOLE)
    new = copy.deepcopy(old)
    holder: Any = new
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = draw(st.sampled_from(keys))
        if not isinstance(holder[key], (dict, list)) or not holder[key] or draw(st.integers(0, 4)) == 0:
            break
        holder = holder[key]
    holder[key] = draw(ODD)
    return old, new


@settings(max_examples=200, deadline=None)
@given(with_a_part_replaced())
def test_any_part_replaced_shows_as_meaning_or_as_noise(pair: tuple[Any, Any]) -> None:
    old, new = map(dumped, pair)
    found = compare(old, new)
    assert says_something(found) != found.same_value
    if inspect(new).kind == inspect(old).kind:
        assert changes_meaning(found) != found.same_semantics
    assert API_KEY.encode() not in msgspec.json.encode(found)

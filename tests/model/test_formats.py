"""What holds for every value and every app."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.core.errors import Invalid
from registry.formats import compare, inspect
from registry.formats.reading.parse import read_json
from registry.formats.reading.yaml_reader import read_yaml
from registry.formats.values.canonical import canonical
from registry.formats.values.compare import Listing, differences
from tests.unit.formats.kit import (
    ROUTE,
    app,
    as_rows,
    changes_meaning,
    data,
    dump,
    edge,
    graph,
    llm,
    node,
    says_something,
)

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUES = st.recursive(LEAVES, lambda v: st.lists(v, max_size=4) | st.dictionaries(TEXT, v, max_size=4), max_leaves=20)
FINITE = (
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
)
JSON_VALUES = st.recursive(
    FINITE, lambda v: st.lists(v, max_size=4) | st.dictionaries(TEXT, v, max_size=4), max_leaves=20
)


@settings(max_examples=80, deadline=None)
@given(JSON_VALUES)
def test_canonical_is_total_and_stable_over_json(value: Any) -> None:
    read = read_json(json.dumps(value)).value
    text = canonical(read)
    assert canonical(read_json(text).value) == text
    text.encode()


@settings(max_examples=80, deadline=None)
@given(VALUES)
def test_yaml_of_any_value_is_read_back_or_refused_clearly(value: Any) -> None:
    try:
        read = read_yaml(yaml.safe_dump(value, allow_unicode=True)).value
    except Invalid:
        return
    msgspec.json.encode(differences(None, read, Listing()))
    assert canonical(read) == canonical(read_yaml(yaml.safe_dump(read, allow_unicode=True)).value)


@settings(max_examples=80, deadline=None)
@given(st.binary(min_size=1, max_size=200) | st.text(min_size=1, max_size=100).map(str.encode))
def test_any_bytes_are_of_some_kind_and_equal_to_themselves(content: bytes) -> None:
    found = compare(content, content)
    assert found.identical
    assert found.same_value
    assert not says_something(found)
    assert inspect(content, kind=inspect(content).kind) == inspect(content)


@settings(max_examples=80, deadline=None)
@given(JSON_VALUES, JSON_VALUES)
def test_differences_are_empty_exactly_for_equal_values(old: Any, new: Any) -> None:
    old, new = read_json(json.dumps(old)).value, read_json(json.dumps(new)).value
    changes = differences(old, new, Listing())
    assert bool(changes) == (canonical(old) != canonical(new))
    msgspec.json.encode(changes)


@st.composite
def apps(draw: st.DrawFn) -> dict[str, Any]:
    """The kit's app with more nodes, edges and settings."""
    value = app()
    words = st.sampled_from(["", "a", "{{#1003.text#}}", "line\nline", "sk-abcdefghijklmnop1234"])
    extra = draw(st.integers(0, 4))
    for index in range(extra):
        node_id = str(2000 + index)
        if draw(st.booleans()):
            graph(value)["nodes"].append(llm(node_id, draw(words), draw(words), draw(st.sampled_from(["m1", "m2"]))))
        else:
            graph(value)["nodes"].append(node(node_id, "code", draw(words), code=draw(words), variables=[]))
    ids = [item["id"] for item in graph(value)["nodes"]]
    for _ in range(draw(st.integers(0, 4))):
        graph(value)["edges"].append(edge(draw(st.sampled_from(ids)), draw(st.sampled_from(ids)), draw(words)))
    value["workflow"]["features"] = draw(st.dictionaries(st.sampled_from(["a", "b"]), JSON_VALUES, max_size=2))
    return value


def shuffled(draw: st.DrawFn, value: Any) -> Any:
    """The same value with the keys of every mapping in another order."""
    if isinstance(value, dict):
        return {key: shuffled(draw, value[key]) for key in draw(st.permutations(sorted(value)))}
    return [shuffled(draw, item) for item in value] if isinstance(value, list) else value


@st.composite
def redrawn(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """An app, and the same one after someone played with the canvas."""
    old = draw(apps())
    new = copy.deepcopy(old)
    graph(new)["nodes"] = draw(st.permutations(graph(new)["nodes"]))
    graph(new)["edges"] = draw(st.permutations(graph(new)["edges"]))
    new["dependencies"] = draw(st.permutations(new["dependencies"]))
    for item in graph(new)["nodes"]:
        item["position"] = {"x": draw(st.integers(0, 3)), "y": 0}
        item["data"]["selected"] = draw(st.booleans())
    for item in graph(new)["edges"]:
        item["zIndex"] = draw(st.integers(0, 2))
    graph(new)["viewport"] = draw(JSON_VALUES)
    return old, shuffled(draw, new)


@settings(max_examples=40, deadline=None)
@given(redrawn())
def test_drawing_never_changes_what_an_app_does(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    old, new = map(dump, pair)
    found = compare(old, new)
    assert found.same_semantics
    assert inspect(old).semantic_digest == inspect(new).semantic_digest
    assert not changes_meaning(found)
    assert found.same_value or says_something(found)


EDITS = {
    "prompt": lambda value, text: data(value, "1003")["prompt_template"][0].update(text=text),
    "model": lambda value, text: data(value, "1004")["model"].update(name=text),
    "condition": lambda value, text: data(value, ROUTE)["cases"][0]["conditions"][0].update(value=text),
    "edge": lambda value, text: graph(value)["edges"].append(edge("1001", "1005", "new" + text)),
    "secret": lambda value, text: value["workflow"]["environment_variables"][0].update(value=text),
    "feature": lambda value, text: value["workflow"]["features"].update(new=text),
}


@settings(max_examples=60, deadline=None)
@given(
    apps(), st.sampled_from(sorted(EDITS)), st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=9)
)
def test_an_edit_is_never_lost(old: dict[str, Any], name: str, text: str) -> None:
    new = copy.deepcopy(old)
    EDITS[name](new, f"edited {text}")
    found = compare(dump(old), dump(new))
    assert not found.same_semantics
    assert changes_meaning(found)
    assert any(row.sign for row in as_rows(found))
    assert found.summary
    assert inspect(dump(old)).semantic_digest != inspect(dump(new)).semantic_digest


@settings(max_examples=40, deadline=None)
@given(apps(), apps())
def test_two_apps_differ_in_meaning_exactly_when_a_section_says_so(old: dict[str, Any], new: dict[str, Any]) -> None:
    found = compare(dump(old), dump(new))
    assert changes_meaning(found) != found.same_semantics
    assert says_something(found) != found.same_value
    assert b"sk-abcdefghijklmnop1234" not in msgspec.json.encode(found)


PARTS = [
    "nodes",
    "edges",
    "graph",
    "workflow",
    "app",
    "dependencies",
    "environment_variables",
    "model_config",
    "id",
    "data",
]
PARTS += [
    "type",
    "source",
    "target",
    "sourceHandle",
    "cases",
    "conditions",
    "model",
    "provider",
    "name",
    "variables",
    "title",
]
ODD = st.recursive(
    FINITE | st.sampled_from(["start", "end", "if-else", "llm", "custom-note", "openai"]),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from(PARTS), v, max_size=5),
    max_leaves=15,
)


@st.composite
def odd_apps(draw: st.DrawFn) -> dict[str, Any]:
    """Taken for an app by its outer shape, with anything inside."""
    inner = st.lists(st.dictionaries(st.sampled_from(PARTS), ODD, max_size=6) | ODD, max_size=3) | ODD
    nodes = draw(st.lists(st.dictionaries(st.sampled_from(PARTS), ODD, max_size=6), max_size=3))
    value: dict[str, Any] = {"workflow": {"graph": {"nodes": nodes, "edges": draw(inner)}}}
    for key in draw(st.sets(st.sampled_from(["features", "environment_variables", "conversation_variables", "x"]))):
        value["workflow"][key] = draw(inner)
    for key in draw(
        st.sets(st.sampled_from(["app", "dependencies", "model_config", "kind", "version", "rag_pipeline"]))
    ):
        value[key] = draw(inner)
    return value


@settings(max_examples=120, deadline=None)
@given(odd_apps(), odd_apps())
def test_malformed_apps_are_inspected_and_compared(old: dict[str, Any], new: dict[str, Any]) -> None:
    first, second = dump(old), dump(new)
    assert inspect(first).kind == "dify"
    found = compare(first, second)
    assert says_something(found) != found.same_value
    msgspec.json.encode(found)
    as_rows(found)

"""Small Dify apps to change one thing in."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import msgspec
import yaml

from registry.formats import Comparison, compare
from registry.formats.render import Row, rows

START, ROUTE, FIRST, SECOND, END = "1001", "1002", "1003", "1004", "1005"


def node(node_id: str, kind: str, title: str, x: int = 0, **data: Any) -> dict[str, Any]:
    return {
        "id": node_id,
        "type": "custom",
        "position": {"x": x, "y": 0},
        "width": 244,
        "data": {"type": kind, "title": title, "desc": "", "selected": False, **data},
    }


def llm(node_id: str, title: str, text: str, name: str = "gpt-4o", provider: str = "openai") -> dict[str, Any]:
    model = {"provider": provider, "name": name, "mode": "chat", "completion_params": {"temperature": 0.2}}
    return node(node_id, "llm", title, model=model, prompt_template=[{"role": "system", "text": text}])


def edge(source: str, target: str, handle: str = "source") -> dict[str, Any]:
    return {
        "id": f"{source}-{handle}-{target}",
        "source": source,
        "sourceHandle": handle,
        "target": target,
        "targetHandle": "target",
        "type": "custom",
        "data": {"isInIteration": False},
        "zIndex": 0,
    }


def plugin(identifier: str) -> dict[str, Any]:
    return {
        "current_identifier": None,
        "type": "marketplace",
        "value": {"marketplace_plugin_unique_identifier": identifier},
    }


def app() -> dict[str, Any]:
    """start -> if-else -> two LLMs -> end, with variables, a plugin and a note."""
    condition = {"comparison_operator": "is", "value": "yes", "variable_selector": [START, "vip"], "id": "c1"}
    nodes = [
        node(START, "start", "Start", variables=[{"variable": "vip", "type": "select", "required": True}]),
        node(
            ROUTE,
            "if-else",
            "VIP?",
            1,
            cases=[{"case_id": "true", "logical_operator": "and", "conditions": [condition]}],
        ),
        llm(FIRST, "Polite answer", "Be polite. {{#1001.vip#}}"),
        llm(SECOND, "Short answer", "Be short."),
        node(END, "end", "End", 3, outputs=[{"variable": "out", "value_selector": [FIRST, "text"]}]),
        {
            "id": "n1",
            "type": "custom-note",
            "position": {"x": 9, "y": 9},
            "data": {"type": "", "text": "hello", "title": ""},
        },
    ]
    edges = [
        edge(START, ROUTE),
        edge(ROUTE, FIRST, "true"),
        edge(ROUTE, SECOND, "false"),
        edge(FIRST, END),
        edge(SECOND, END),
    ]
    return {
        "kind": "app",
        "version": "0.5.0",
        "app": {"name": "Kit", "mode": "workflow", "icon": "x", "description": "d"},
        "dependencies": [plugin("langgenius/openai:0.1.0@aaaa"), plugin("langgenius/cohere:0.2.0@bbbb")],
        "workflow": {
            "graph": {"nodes": nodes, "edges": edges, "viewport": {"x": 0, "y": 0, "zoom": 1}},
            "features": {"opening_statement": "hi", "file_upload": {"enabled": False}},
            "environment_variables": [
                {
                    "id": "e1",
                    "name": "TOKEN",
                    "value_type": "secret",
                    "value": "hunter2-hunter2",
                    "selector": ["env", "TOKEN"],
                },
                {"id": "e2", "name": "LIMIT", "value_type": "number", "value": 3, "selector": ["env", "LIMIT"]},
            ],
            "conversation_variables": [{"id": "c1", "name": "seen", "value_type": "string", "value": ""}],
        },
    }


def graph(value: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = value["workflow"]["graph"]
    return found


def data(value: dict[str, Any], node_id: str) -> dict[str, Any]:
    found: dict[str, Any] = next(item["data"] for item in graph(value)["nodes"] if item["id"] == node_id)
    return found


def dump(value: Any) -> bytes:
    return yaml.safe_dump(value, allow_unicode=True).encode()


def changed(edit: Callable[[dict[str, Any]], Any]) -> Comparison:
    """The kit's app compared with itself after `edit`."""
    old, new = app(), copy.deepcopy(app())
    edit(new)
    return compare(dump(old), dump(new))


def as_rows(comparison: Comparison) -> list[Row]:
    return rows(json.loads(msgspec.json.encode(comparison)))


def says_something(comparison: Comparison) -> bool:
    """Whether any section, or any count of noise, holds anything."""
    skipped = {"summary", "identical", "same_value", "same_semantics", "old", "new", "verdict"}

    def filled(value: Any) -> bool:
        return any(map(filled, value.values())) if isinstance(value, dict) else bool(value)

    return any(filled(value) for key, value in msgspec.to_builtins(comparison).items() if key not in skipped)


def changes_meaning(comparison: Comparison) -> bool:
    nodes, edges = comparison.nodes, comparison.edges
    lists = (comparison.app, comparison.models, comparison.variables, comparison.dependencies, comparison.features)
    graphs = (nodes.added, nodes.removed, nodes.changed, nodes.rematched, edges.added, edges.removed)
    return any(lists) or any(graphs) or bool(comparison.changes)

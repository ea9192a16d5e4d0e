"""Would this Dify app run? Checks one file without a server: `python probe.py PATH`, exit 0 or 1 with what is wrong.

Edges lead to nodes, every branch leads on, every referenced variable exists, every node can be reached, and no
HTTP request waits for long.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import yaml

READ_TIMEOUT_S = 30
REFERENCE = re.compile(r"\{\{#([\w-]+)\.([\w.-]+)#\}\}")
FAILED = {"error_message", "error_type"}
OUTPUTS = {
    "answer": {"answer"},
    "http-request": {"body", "status_code", "headers", "files"},
    "knowledge-retrieval": {"result"},
    "llm": {"text", "reasoning_content", "usage", "structured_output"},
    "question-classifier": {"class_name", "class_id", "usage"},
    "template-transform": {"output"},
    "variable-aggregator": {"output"},
}


def check(app: dict[str, Any]) -> list[str]:
    """Everything that is wrong, in words."""
    workflow = app["workflow"]
    nodes = {node["id"]: node["data"] for node in workflow["graph"]["nodes"] if node["type"] != "custom-note"}
    edges = workflow["graph"]["edges"]
    problems = [
        f"an edge has the {end} {edge[end]}, which is no node"
        for edge in edges
        for end in ("source", "target")
        if edge[end] not in nodes
    ]
    problems += _branches(nodes, edges)
    problems += _references(nodes, _variables(workflow, nodes))
    problems += _unreachable(nodes, edges)
    for data in nodes.values():
        if data["type"] == "http-request" and (data.get("timeout") or {}).get("read", 0) > READ_TIMEOUT_S:
            problems.append(f"{data['title']!r} waits longer than {READ_TIMEOUT_S} s for an answer")
    return problems


def _branches(nodes: dict[str, Any], edges: list[dict[str, Any]]) -> list[str]:
    used = {(edge["source"], edge["sourceHandle"]) for edge in edges}
    problems = []
    for node_id, data in nodes.items():
        handles = {"source": ""}
        if data["type"] == "question-classifier":
            handles = {item["id"]: f"the class {item['name']!r}" for item in data["classes"]}
        elif data["type"] == "if-else":
            handles = {case["case_id"]: f"case {case['case_id']}" for case in data["cases"]} | {"false": "else"}
        elif data["type"] == "answer":
            handles = {}
        if data.get("error_strategy") == "fail-branch":
            handles["fail-branch"] = "failure"
        for handle, name in handles.items():
            if (node_id, handle) not in used:
                problems.append(f"{data['title']!r} leads nowhere" + (f" for {name}" if name else ""))
    return problems


def _variables(workflow: dict[str, Any], nodes: dict[str, Any]) -> dict[str, set[str]]:
    """What can be referred to: variables by the first part of their name."""
    known = {
        "sys": {"query", "files", "conversation_id", "user_id", "dialogue_count", "app_id", "workflow_id"},
        "env": {item["name"] for item in workflow["environment_variables"]},
        "conversation": {item["name"] for item in workflow["conversation_variables"]},
    }
    for node_id, data in nodes.items():
        names = set(OUTPUTS.get(data["type"], ()))
        if data["type"] == "start":
            names = {item["variable"] for item in data["variables"]} | {f"sys.{name}" for name in known["sys"]}
        elif data["type"] == "code":
            names = set(data["outputs"])
        elif data["type"] == "parameter-extractor":
            names = {item["name"] for item in data["parameters"]} | {"__is_success", "__reason", "__usage"}
        known[node_id] = names | (FAILED if "error_strategy" in data else set())
    return known


def _references(nodes: dict[str, Any], known: dict[str, set[str]]) -> list[str]:
    problems = []
    for data in nodes.values():
        for root, name in _referred(data):
            if root not in known:
                problems.append(f"{data['title']!r} reads {name!r} of {root}, which is no node")
            elif name not in known[root] and name.split(".")[0] not in known[root]:
                problems.append(f"{data['title']!r} reads {name!r} of {root}, which has no such variable")
    return problems


def _referred(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _referred(item, name)
    elif isinstance(value, list):
        selector = key.endswith("selector") or key in ("query", "variables")
        if selector and len(value) > 1 and all(isinstance(item, str) for item in value):
            yield value[0], ".".join(value[1:])
        else:
            for item in value:
                yield from _referred(item, key)
    elif isinstance(value, str):
        yield from REFERENCE.findall(value)


def _unreachable(nodes: dict[str, Any], edges: list[dict[str, Any]]) -> list[str]:
    reached: set[str] = set()
    front = [node_id for node_id, data in nodes.items() if data["type"] == "start"]
    while front:
        node_id = front.pop()
        if node_id not in reached:
            reached.add(node_id)
            front += [edge["target"] for edge in edges if edge["source"] == node_id]
    return [f"{data['title']!r} is never reached" for node_id, data in nodes.items() if node_id not in reached]


def main(path: str) -> int:
    try:
        with open(path, encoding="utf-8") as file:
            problems = check(yaml.safe_load(file))
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        problems = [f"not a readable app ({type(error).__name__}: {error})"]
    print("\n".join(problems) if problems else "ok")
    return 1 if problems else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: probe.py PATH")
    sys.exit(main(sys.argv[1]))

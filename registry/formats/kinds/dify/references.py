"""What a Dify node refers to: variables of other nodes, by selector `[node, name]` or by `{{#node.name#}}` in a text,
and workflows that were published as tools."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from registry.formats.graph.model import Node

_IN_TEXT = re.compile(r"\{\{#([^.#{}\s]{1,200})\.([^.#{}]{1,200})")
# Program text, where `{{#` means something else; Jinja texts beside them get their variables by selector.
_PROGRAMS = {"code": "code", "template-transform": "template"}
_OFFERED = {
    # What nodes with declared results offer beside them.
    "start": frozenset({"sys", "userinput"}),
    "code": frozenset({"error_message", "error_type"}),
}


class Reference(NamedTuple):
    root: str  # id of a node, or one of the roots that are no nodes
    name: str


def references(node: Node) -> Iterator[Reference]:
    """In order, each once."""
    program = _PROGRAMS.get(node.type)
    config = {key: item for key, item in node.config.items() if key != program}
    yield from dict.fromkeys(_within(config, ""))


def offered(node: Node) -> frozenset[str] | None:
    """First parts of the names that others can read of a node. None: not known from the file."""
    if node.type == "start" and isinstance(node.config.get("variables"), list):
        names = [item.get("variable") for item in node.config["variables"] if isinstance(item, dict)]
    elif node.type == "code" and isinstance(node.config.get("outputs"), dict):
        names = list(node.config["outputs"])
    else:
        return None
    return _OFFERED[node.type] | {str(name) for name in names}


def workflow_tools(value: Any) -> Iterator[str]:
    """Names of the tools, anywhere in a value, that are workflows: of tool nodes, and of what agents may use."""
    queue = [value]
    while queue:
        item = queue.pop()
        if isinstance(item, dict):
            queue += item.values()
            name = item.get("tool_name")
            if "workflow" in (item.get("provider_type"), item.get("type")) and isinstance(name, str) and name:
                yield name
        elif isinstance(item, list):
            queue += item


def _within(value: Any, key: str) -> Iterator[Reference]:
    """`key`: the one that `value` stands under, through lists."""
    if isinstance(value, str):
        if "{{#" in value:
            yield from (Reference(*found) for found in _IN_TEXT.findall(value))
    elif isinstance(value, dict):
        if value.get("enabled") is False:
            return
        variable = value.get("type") == "variable" or value.get("input_type") == "variable"
        for below, item in value.items():
            if _is_selector(item) and (below.endswith("selector") or (variable and below == "value")):
                yield Reference(item[0], item[1].partition(".")[0])
            else:
                yield from _within(item, below)
    elif isinstance(value, list):
        for item in value:
            if key == "variables" and _is_selector(item):  # of an aggregator
                yield Reference(item[0], item[1].partition(".")[0])
            else:
                yield from _within(item, key)


def _is_selector(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(part, str) and part for part in value)

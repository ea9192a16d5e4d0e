"""Which node of the old graph is which of the new one, also after every id was replaced."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from registry.formats.canonical import canonical
from registry.formats.dify_view import Node

_IN_TEMPLATE = re.compile(r"\{\{#([^.#{}]+)(?=[.#])")
VARIABLE_ROOTS = frozenset({"sys", "env", "conversation", "rag"})  # first parts of selectors that are no node
_ID_FIELDS = frozenset({"start_node_id", "iteration_id", "loop_id", "parentId", "outputNodeId"})


class _Loose(NamedTuple):
    """A node without its like yet, and its content with node ids blanked."""

    id: str
    type: str
    title: str
    content: str


_STEPS: tuple[tuple[Callable[[_Loose], tuple[str, ...]], bool], ...] = (
    (lambda node: (node.type, node.title, node.content), False),
    (lambda node: (node.type, node.content), False),
    (lambda node: (node.type, node.title), True),
    (lambda node: ("start",) if node.type == "start" else (node.type, node.id), True),
)


def match(old: list[Node], new: list[Node]) -> dict[str, str]:
    """Old id -> new id. Same id and type first; then what is left by type, title and content, by type and content,
    and, where that names one node on each side, by type and title; at last the start node."""
    by_id = {node.id: node for node in new}
    pairs = {node.id: node.id for node in old if node.id in by_id and by_id[node.id].type == node.type}
    left, right = _loose(old, pairs), _loose(new, pairs)
    for key, only_unique in _STEPS:
        olds, news = _groups(left, key), _groups(right, key)
        for name, group in olds.items():
            others = news.get(name, [])
            if not only_unique or len(group) == len(others) == 1:
                pairs |= {before.id: after.id for before, after in zip(group, others, strict=False)}
        taken = set(pairs.values())
        left = [node for node in left if node.id not in pairs]
        right = [node for node in right if node.id not in taken]
    return pairs


def _loose(nodes: list[Node], pairs: Mapping[str, str]) -> list[_Loose]:
    blank = {node.id: "" for node in nodes}
    return [
        _Loose(node.id, node.type, node.title, canonical(rename(node.config, blank)))
        for node in nodes
        if node.id not in pairs
    ]


def _groups(nodes: list[_Loose], key: Callable[[_Loose], tuple[str, ...]]) -> dict[tuple[str, ...], list[_Loose]]:
    groups: dict[tuple[str, ...], list[_Loose]] = defaultdict(list)
    for node in nodes:
        groups[key(node)].append(node)
    return groups


def rename(value: Any, names: Mapping[str, str]) -> Any:
    """`value` with node ids replaced where they refer to nodes: selectors, `{{#id.name#}}` and container fields."""
    if isinstance(value, dict):
        return {
            key: names.get(item, item) if key in _ID_FIELDS and isinstance(item, str) else rename(item, names)
            for key, item in value.items()
        }
    if isinstance(value, list):
        selector = len(value) > 1 and all(isinstance(item, str) for item in value) and value[0] in names
        return [names[value[0]], *value[1:]] if selector else [rename(item, names) for item in value]
    if isinstance(value, str) and "{{#" in value:
        return _IN_TEMPLATE.sub(lambda found: "{{#" + names.get(found[1], found[1]), value)
    return value


def selectors(value: Any, roots: Collection[str]) -> Any:
    """`value` with variable selectors as one text, `node.variable`, so that they differ as a whole."""
    if isinstance(value, dict):
        return {key: selectors(item, roots) for key, item in value.items()}
    if isinstance(value, list):
        if len(value) > 1 and all(isinstance(item, str) for item in value) and value[0] in roots:
            return ".".join(value)
        return [selectors(item, roots) for item in value]
    return value


def as_written(shown: Any, was: Mapping[str, str]) -> Any:
    """What a comparison shows of the old side, with the old ids of nodes that have new ones."""
    if isinstance(shown, str):
        root, dot, rest = shown.partition(".")
        if root in was:
            return f"{was[root]}{dot}{rest} (now {root})"
    return rename(shown, was)

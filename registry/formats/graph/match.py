"""Which node of the old graph is which of the new one, also after every id was replaced."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from registry.formats.graph.model import Node
from registry.formats.graph.rules import Rules
from registry.formats.values.canonical import canonical


class _Loose(NamedTuple):
    """A node without its like yet, and its content with node ids blanked."""

    id: str
    type: str
    title: str
    content: str


_STEPS: tuple[tuple[Callable[[_Loose], tuple[object, ...]], bool], ...] = (
    (lambda node: (node.type, node.title, node.content), False),
    (lambda node: (node.type, node.content), False),
    (lambda node: (node.type, node.title), True),
)


def match(old: list[Node], new: list[Node], rules: Rules) -> dict[str, str]:
    """Old id -> new id. Same id and type first; then what is left by type, title and content, by type and content,
    and, where that names one node on each side, by type and title; at last the start node."""
    by_id = {node.id: node for node in new}
    pairs = {node.id: node.id for node in old if node.id in by_id and by_id[node.id].type == node.type}
    left, right = _loose(old, pairs, rules), _loose(new, pairs, rules)
    for key, only_unique in (*_STEPS, (lambda node: (node.type, node.type == rules.start or node.id), True)):
        olds, news = _groups(left, key), _groups(right, key)
        for name, group in olds.items():
            others = news.get(name, [])
            if not only_unique or len(group) == len(others) == 1:
                pairs |= {before.id: after.id for before, after in zip(group, others, strict=False)}
        taken = set(pairs.values())
        left = [node for node in left if node.id not in pairs]
        right = [node for node in right if node.id not in taken]
    return pairs


def _loose(nodes: list[Node], pairs: Mapping[str, str], rules: Rules) -> list[_Loose]:
    blank = {node.id: "" for node in nodes}
    return [
        _Loose(node.id, node.type, node.title, canonical(rules.rename(node.config, blank)))
        for node in nodes
        if node.id not in pairs
    ]


def _groups(nodes: list[_Loose], key: Callable[[_Loose], tuple[object, ...]]) -> dict[tuple[object, ...], list[_Loose]]:
    groups: dict[tuple[object, ...], list[_Loose]] = defaultdict(list)
    for node in nodes:
        groups[key(node)].append(node)
    return groups


def as_written(shown: Any, was: Mapping[str, str], rules: Rules) -> Any:
    """What a comparison shows of the old side, with the old ids of nodes that have new ones."""
    if isinstance(shown, str):
        root, dot, rest = shown.partition(".")
        if root in was:
            return f"{was[root]}{dot}{rest} (now {root})"
    return rules.rename(shown, was)

"""What adapters build a view with: ids, lists taken apart, places."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from registry.formats.graph.model import Node
from registry.formats.limits import NODE_ID_CHARS
from registry.formats.secrets.masking import short


class Fields(NamedTuple):
    """The fields of one node as written, sorted by what they are for: see `Node`."""

    config: dict[str, Any]
    outer: dict[str, Any]
    text: dict[str, Any]
    layout: dict[str, Any]
    derived: dict[str, Any]

    def node(self, node_id: str, node_type: str, title: str, *, note: bool, inside: str = "") -> Node:
        """`title` is cut already; `inside` is the id of its container."""
        return Node(
            id=node_id,
            type="note" if note else short(node_type),
            title=title,
            config=self.config,
            outer=self.outer,
            text=self.text,
            layout=self.layout,
            derived=self.derived,
            note=note,
            at=point(self.layout.get("position")),
            inside=inside,
        )


def is_id(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool) and len(str(value)) <= NODE_ID_CHARS


def with_unique_ids(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A repeated id gets a number, so that every node has its own. See `flag_repeated`."""
    ids = UniqueIds()
    named = [(node, ids.of(str(node["id"]))) for node in nodes]
    return [node if node_id == str(node["id"]) else node | {"id": node_id} for node, node_id in named]


class UniqueIds:
    """Gives an id that was given before a number: `7`, `7#2`."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}  # of each id: how often it was asked for

    def of(self, name: str) -> str:
        unique = name
        while unique in self._counts:
            self._counts[name] += 1
            unique = f"{name}#{self._counts[name]}"
        self._counts[unique] = 1
        return unique


def flag_repeated(nodes: list[Node], written: Iterable[str]) -> None:
    """Flags the nodes that have not the id they were `written` with, which another node has too."""
    for node, node_id in zip(nodes, written, strict=True):
        node.repeated = node.id != node_id


def split(block: dict[str, Any], key: str, fits: Any) -> tuple[list[Any], Any]:
    """Takes a list out of a block: the items that fit, and the others (or what stood there instead of a list)."""
    items = block.pop(key, None)
    if not isinstance(items, list):
        return [], items
    return [item for item in items if fits(item)], [item for item in items if not fits(item)]


def filled(block: dict[str, Any]) -> dict[str, Any]:
    """Without what is empty."""
    return {key: item for key, item in block.items() if item}


def point(value: Any) -> tuple[float, float] | None:
    """`{x, y}` or `[x, y]` as a place; anything else: none."""
    pair = (value.get("x"), value.get("y")) if isinstance(value, dict) else value
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        return None
    x, y = pair
    if all(isinstance(each, (int, float)) and not isinstance(each, bool) and abs(each) < 1e9 for each in pair):
        return float(x), float(y)
    return None

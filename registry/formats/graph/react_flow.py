"""What formats drawn with React Flow share: nodes with `data`, edges between handles, secrets in fields of nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from registry.formats.graph.build import is_id
from registry.formats.graph.model import Edge
from registry.formats.model import Secret
from registry.formats.secrets.masking import says_secret, short

_NODE_LAYOUT = frozenset(
    {"position", "positionAbsolute", "width", "height", "selected", "dragging", "zIndex", "sourcePosition"}
    | {"targetPosition", "extent", "draggable", "selectable", "measured", "resizing", "style", "className"}
    | {"expandParent", "initialWidth", "initialHeight", "connectable", "deletable", "focusable", "dragHandle"}
)
# What a handle means is in the edge's key; `data` holds a label, colours and, in LangFlow, the handles once more.
_EDGE_LAYOUT = frozenset(
    {"id", "type", "selected", "zIndex", "data", "animated", "style", "className", "markerStart", "markerEnd"}
    | {"interactionWidth", "label", "updatable", "reconnectable", "deletable", "focusable"}
    | {"sourceHandle", "targetHandle"}
)
_ENDS = ("source", "target")
PARENTS = ("parentNode", "parentId")


def is_node(item: Any) -> bool:
    return isinstance(item, dict) and is_id(item.get("id")) and isinstance(item.get("data"), dict)


def is_edge(item: Any) -> bool:
    return isinstance(item, dict) and all(is_id(item.get(end)) for end in _ENDS)


def take_layout(outer: dict[str, Any]) -> dict[str, Any]:
    """Takes what only the canvas reads out of a node."""
    return {key: outer.pop(key) for key in list(outer) if key in _NODE_LAYOUT}


def take_same_id(data: dict[str, Any], node_id: str, derived: dict[str, Any]) -> None:
    """The node's id once more, in its data: said where it is another one only."""
    if "id" in data and str(data["id"]) == node_id:
        derived["id"] = type(data.pop("id")).__name__


def first_text(*values: Any) -> str:
    """The first that is a text and not empty."""
    return next((value for value in values if isinstance(value, str) and value), "")


def container(outer: dict[str, Any]) -> str:
    """Id of the node that this one is drawn in."""
    return next((str(outer[key]) for key in PARENTS if is_id(outer.get(key))), "")


def edge(raw: dict[str, Any], source_port: str, target_port: str) -> Edge:
    """`raw` is one that `is_edge`; ports are the names behind its handles, without ids of nodes."""
    return Edge(
        source=str(raw["source"]),
        source_handle=source_port,
        target=str(raw["target"]),
        target_handle=target_port,
        extra={key: item for key, item in raw.items() if key not in _ENDS and key not in _EDGE_LAYOUT},
        layout={key: item for key, item in raw.items() if key in _EDGE_LAYOUT},
    )


class Declared(NamedTuple):
    """A secret that a node's field says it holds."""

    title: str
    node_id: str
    field: str
    path: tuple[str | int, ...]
    value: Any


def literals(value: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """What is secret below the place of a secret, with the path of each: itself, or what a list or mapping holds."""
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            for path, found in literals(item):
                yield (key, *path), found
    elif says_secret(value):
        yield (), value


def named_secrets(found: Sequence[Declared]) -> list[Secret]:
    """`title.field`; with the node's id where two nodes would share that, and a number where they share that too."""
    titles = Counter(f"{each.title}.{each.field}" for each in found)
    taken: Counter[str] = Counter()
    out = []
    for each in found:
        name = f"{each.title}.{each.field}"
        if titles[name] > 1:
            name = f"{each.title} ({short(each.node_id)}).{each.field}"
        taken[name] += 1
        unique = name if taken[name] == 1 else f"{name}#{taken[name]}"
        out.append(Secret(name=unique, path=each.path, value=str(each.value)))
    return out

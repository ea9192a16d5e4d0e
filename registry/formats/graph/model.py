"""A workflow taken apart into nodes, edges, variables and dependencies: what every graph format is compared as.

An adapter's `view` puts every field of its format into exactly one place here, so that no difference of two workflows
can go unseen: what it does (`config`, `outer`, `extra`, `settings`, `rest`), text for people, or noise (`layout`,
`derived`).
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from msgspec import Struct

from registry.formats.values.canonical import canonical

Scope = Literal["environment", "conversation", "input", "output"]


class Node(Struct, kw_only=True):
    id: str
    type: str
    title: str
    config: dict[str, Any]  # what it does
    outer: dict[str, Any] = {}  # what the format keeps beside the config: container, unknown fields
    text: dict[str, Any] = {}  # for people: changes nothing that runs
    layout: dict[str, Any] = {}  # `position`, and whatever else only an editor reads
    derived: dict[str, Any] = {}  # fields as written that were dropped or respelled
    note: bool = False
    repeated: bool = False  # another node has the id that this one is written with
    at: tuple[float, float] | None = None  # where it is drawn, in the coordinates of its container
    inside: str = ""  # id of the container it is drawn in

    def meaning(self) -> dict[str, Any]:
        meaning = {"id": self.id, "data": self.config, "node": self.outer}
        return meaning | {"repeated": True} if self.repeated else meaning


class Edge(Struct, kw_only=True):
    source: str
    source_handle: str
    target: str
    target_handle: str
    extra: dict[str, Any] = {}  # unknown fields
    layout: dict[str, Any] = {}

    @property
    def key(self) -> tuple[str, str, str, str]:
        return (self.source, self.source_handle, self.target, self.target_handle)


class Graph(Struct, kw_only=True):
    app: dict[str, Any] = {}  # format version, mode and the like
    text: dict[str, Any] = {}
    nodes: list[Node] = []
    notes: list[Node] = []
    edges: list[Edge] = []
    environment: list[Any] = []  # variables: mappings with a `name`
    conversation: list[Any] = []
    dependencies: list[Any] = []
    features: Any = {}
    model_config: Any = None  # of apps that have a configuration instead of a graph
    rest: dict[str, Any] = {}  # whatever has no place above
    viewport: Any = None
    derived: dict[str, Any] = {}  # as written, of everything outside nodes

    def meaning(self) -> dict[str, Any]:
        """What the semantic digest is made of: order of graph parts, variables and dependencies does not count,
        except among variables of one name."""
        return {
            "app": self.app,
            "nodes": unordered([node.meaning() for node in self.nodes]),
            "edges": unordered([[*edge.key, edge.extra] for edge in self.edges], once=True),
            "environment": unordered(_numbered(self.environment)),
            "conversation": unordered(_numbered(self.conversation)),
            "dependencies": unordered(self.dependencies, once=True),
            "features": self.features,
            "model_config": self.model_config,
            "rest": self.rest,
        }


class Plugin(Struct, frozen=True, kw_only=True):
    """Something that must be installed where the workflow runs."""

    name: str
    version: str = ""
    source: str = ""
    build: str = ""
    rest: str = ""  # whatever else is said, canonical


def _numbered(variables: list[Any]) -> list[Any]:
    """Those whose name was there before say so."""
    counts: Counter[str] = Counter()
    out = []
    for variable in variables:
        counts[variable["name"]] += 1
        number = counts[variable["name"]]
        out.append(variable if number == 1 else [number, variable])
    return out


def unordered(items: list[Any], *, once: bool = False) -> list[str]:
    texts = [canonical(item) for item in items]
    return sorted(set(texts) if once else texts)

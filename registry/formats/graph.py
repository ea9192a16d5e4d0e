"""A workflow taken apart into nodes, edges, variables and dependencies: what every graph format is compared as.

An adapter's `view` puts every field of its format into exactly one place here, so that no difference of two workflows
can go unseen: what it does (`config`, `outer`, `extra`, `settings`, `rest`), text for people, or noise (`layout`,
`derived`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal

from msgspec import Struct

from registry.formats.canonical import canonical
from registry.formats.limits import NODE_ID_CHARS
from registry.formats.model import ModelName
from registry.formats.secrets import short

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


class Rules:
    """What comparing needs to know of one format. These defaults suit a graph whose configs name no other nodes."""

    contract: ClassVar[Mapping[str, tuple[str, Scope]]] = {}  # node type -> its list of inputs or outputs, and which
    roots: ClassVar[frozenset[str]] = frozenset()  # first parts of selectors that are no node
    start: ClassVar[str] = ""  # type of the one node that everything starts at; empty: none
    entries: ClassVar[frozenset[str]] = frozenset()  # other types of nodes that a run can start at
    cycles: ClassVar[bool] = True  # whether edges may lead back
    ids_unique: ClassVar[bool] = False  # whether a repeated id breaks a run

    def container(self, node: Node) -> str:
        """Id of the node that this one runs inside of. Empty: none."""
        return node.inside

    def branch(self, source: Node | None, handle: str) -> str:
        """What an edge's source handle means in words. Empty: the node's only way out."""
        return short(handle)

    def branches(self, source: Node | None) -> Callable[[str], str]:
        """`branch` of one node, for many handles: whatever takes long is done once."""
        return lambda handle: self.branch(source, handle)

    def rename(self, value: Any, names: Mapping[str, str]) -> Any:
        """`value` with node ids replaced wherever it refers to nodes."""
        return value

    def selectors(self, value: Any, roots: Collection[str]) -> Any:
        """`value` with references to variables as one text each, so that they differ as a whole."""
        return value

    def models(self, node_type: str, config: Any) -> Iterator[tuple[str, ModelName]]:
        """Models that a config names, with the path of each: the field of its name, or the mapping around both."""
        return iter(())

    def inputs(self, model_config: Any) -> list[Any]:
        """The inputs of an app without a graph, as mappings with a `variable`."""
        return []

    def plugins(self, dependencies: list[Any]) -> list[Plugin]:
        return [
            Plugin(name=short(str(item.get("name", "unnamed"))), version=short(str(item.get("version", ""))))
            for item in dependencies
        ]


class Branches:
    """What edges' source handles mean: `Rules.branches` of each node, asked for once. The nodes must not change."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._known: dict[int, tuple[Node | None, Callable[[str], str]]] = {}  # by identity; the node keeps its own

    def __call__(self, source: Node | None, handle: str) -> str:
        if id(source) not in self._known:
            self._known[id(source)] = source, self._rules.branches(source)
        return self._known[id(source)][1](handle)


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

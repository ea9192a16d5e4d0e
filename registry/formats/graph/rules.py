"""What comparing and checking ask of one format."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, ClassVar

from registry.formats.graph.model import Node, Plugin, Scope
from registry.formats.model import ModelName
from registry.formats.secrets.masking import short


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

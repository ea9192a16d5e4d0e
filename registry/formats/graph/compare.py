"""What differs between two workflows, in words of the workflow: nodes, branches, models, variables, plugins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeAlias

from registry.formats.graph.match import as_written, match
from registry.formats.graph.model import Edge as ViewEdge
from registry.formats.graph.model import Graph, Node
from registry.formats.graph.parts import dependency_changes, model_changes, variable_changes
from registry.formats.graph.rules import Branches, Rules
from registry.formats.limits import EDGE_CHARS, MOVED
from registry.formats.model import (
    Change,
    Comparison,
    Edge,
    Edges,
    Layout,
    ModelName,
    NodeChange,
    Rematch,
    Sign,
    VariableChange,
)
from registry.formats.model import Node as ShownNode
from registry.formats.secrets.masking import short
from registry.formats.summary import of_graph
from registry.formats.values.canonical import canonical, same, surely_same
from registry.formats.values.compare import Listing, added, differences, removed

_EdgeKey: TypeAlias = tuple[str, str, str, str]


def compare_graphs(old: Graph, new: Graph, rules: Rules) -> Comparison:
    """Nodes are matched first (`graph_match.match`); `rules` are the format's."""
    return _Comparing(old, new, rules).result()


class _Comparing:
    def __init__(self, old: Graph, new: Graph, rules: Rules) -> None:
        self._old, self._new, self._rules = old, new, rules
        self._branch = Branches(rules)
        self._listing = Listing()
        self._contracts = Listing()  # inputs and outputs are listed a second time, beside the nodes that hold them
        self._before = {node.id: node for node in old.nodes}
        self._after = {node.id: node for node in new.nodes}
        self._pairs = match(old.nodes, new.nodes, rules)
        self._renamed = {key: value for key, value in self._pairs.items() if key != value}
        self._was = {value: key for key, value in self._renamed.items()}
        self._roots = self._before.keys() | self._after.keys() | rules.roots

    def result(self) -> Comparison:
        old, new, listing = self._old, self._new, self._listing
        plugins = self._rules.plugins
        result = Comparison(
            app=differences(old.app, new.app, listing),
            dependencies=dependency_changes(plugins(old.dependencies), plugins(new.dependencies)),
            features=differences(old.features, new.features, listing),
            changes=differences(old.model_config, new.model_config, listing, path="model_config")
            + differences(old.rest, new.rest, listing),
            text=differences(old.text, new.text, listing),
        )
        self._nodes(result)
        edges = self._edges(result)
        self._variables(result)
        self._model_config(result)
        self._annotations(result)
        self._bound(result, *edges)
        result.layout = _layout(old, new, self._pairs)
        result.omitted = listing.omitted
        result.summary = of_graph(result)
        return result

    def _nodes(self, result: Comparison) -> None:
        origin = {value: key for key, value in self._pairs.items()}
        for node in self._new.nodes:
            if node.id in origin:
                self._node(self._before[origin[node.id]], node, result)
        for sign, nodes, matched, listed in (
            ("-", self._old.nodes, self._pairs, result.nodes.removed),
            ("+", self._new.nodes, origin, result.nodes.added),
        ):
            for node in nodes:
                if node.id not in matched:
                    listed.append(_shown(node))
                    models = self._models(node)
                    sides = (models, {}) if sign == "-" else ({}, models)
                    result.models += model_changes(*sides, node.title, [])
                    result.variables += self._whole_contract(node, "-" if sign == "-" else "+")
        result.nodes.rematched = [
            Rematch(old_id=one, new_id=other, type=self._after[other].type, title=self._after[other].title)
            for one, other in self._renamed.items()
        ]

    def _node(self, one: Node, other: Node, result: Comparison) -> None:
        rules, listing, renamed, roots = self._rules, self._listing, self._renamed, self._roots
        config = rules.rename(one.config, renamed) if renamed else one.config
        outer = rules.rename(one.outer, renamed) if renamed else one.outer
        kept = surely_same(config, other.config)
        sides = (config, config) if kept else (rules.selectors(config, roots), rules.selectors(other.config, roots))
        changes = [] if kept else differences(*sides, listing)
        if not changes and not kept and not listing.full and not same(config, other.config):
            changes = differences(config, other.config, listing)  # "a.b" beside ["a", "b"]
        changes += differences(outer, other.outer, listing, path="node")
        changes += differences(one.repeated, other.repeated, listing, path="node.repeated")
        for change in changes:
            change.old = as_written(change.old, self._was, rules)
        result.text += differences(one.text, other.text, listing, where=other.title)
        if not kept:
            result.models += model_changes(self._models(one), self._models(other), other.title, changes)
        if not kept and other.type in rules.contract:
            result.variables += self._contract(*sides, other, changes)
        if changes:
            result.nodes.changed.append(
                NodeChange(id=other.id, old_id=one.id, type=other.type, title=other.title, changes=changes)
            )
        if not same(one.layout.get("position"), other.layout.get("position")):
            result.nodes.moved.append(_shown(other))

    def _models(self, node: Node) -> dict[str, ModelName]:
        return dict(self._rules.models(node.type, node.config))

    def _contract(
        self, old: dict[str, Any], new: dict[str, Any], node: Node, changes: list[Change]
    ) -> list[VariableChange]:
        """Inputs of a start node and outputs of an end node, by name. Their lines stay in the node's own changes."""
        field, scope = self._rules.contract[node.type]
        before, after = _items(old, field), _items(new, field)
        found = variable_changes(before, after, scope, "variable", self._contracts, where=node.title)
        names = {variable.name for variable in found}
        whole = old.get(field) is None or new.get(field) is None
        for change in changes:
            if change.path == field:
                listed = whole and len(found) == len(before) + len(after)
            else:
                item = change.path.removeprefix(f"{field}[").partition("]")[0]
                listed = change.path.startswith(f"{field}[") and item in names
            if listed:
                change.shown_as = scope
        return found

    def _whole_contract(self, node: Node, sign: Sign) -> list[VariableChange]:
        if node.type not in self._rules.contract:
            return []
        field, scope = self._rules.contract[node.type]
        whole = _items(node.config, field)
        sides: tuple[list[Any], list[Any]] = ([], whole) if sign == "+" else (whole, [])
        return variable_changes(*sides, scope, "variable", self._contracts, where=node.title)

    def _edges(self, result: Comparison) -> tuple[list[ViewEdge], list[ViewEdge]]:
        """Those removed and those added. Of the others, what they hold beside their ends is listed."""
        before: dict[_EdgeKey, list[ViewEdge]] = {}
        after: dict[_EdgeKey, list[ViewEdge]] = {}
        for edge in self._old.edges:
            source, target = self._mapped(edge.source), self._mapped(edge.target)
            before.setdefault((source, edge.source_handle, target, edge.target_handle), []).append(edge)
        for edge in self._new.edges:
            after.setdefault(edge.key, []).append(edge)
        for key in after:
            one, other = _extras(before.get(key, [])), _extras(after[key])
            if one and one != other:
                path = f"edges[{short(f'{key[0]}.{key[1]} -> {key[2]}.{key[3]}')}]"
                single = len(one) == len(other) == 1
                sides: tuple[Any, Any] = (one[0], other[0]) if single else (one, other)
                result.changes += differences(*sides, self._listing, path=path)
        removed = [edges[-1] for key, edges in before.items() if key not in after]
        return removed, [edges[-1] for key, edges in after.items() if key not in before]

    def _mapped(self, node_id: str) -> str:
        if node_id in self._pairs:
            return self._pairs[node_id]
        # A removed node whose id now belongs to another node is not that node.
        return f"{node_id} (removed)" if node_id in self._before and node_id in self._after else node_id

    def _edge(self, edge: ViewEdge, nodes: Mapping[str, Node]) -> Edge:
        source, target = nodes.get(edge.source), nodes.get(edge.target)
        return Edge(
            source=edge.source,
            source_title=source.title if source else "",
            source_handle=short(edge.source_handle),
            branch=self._branch(source, edge.source_handle),
            target=edge.target,
            target_title=target.title if target else "",
            target_handle=short(edge.target_handle),
        )

    def _variables(self, result: Comparison) -> None:
        old, new, listing = self._old, self._new, self._listing
        result.variables += variable_changes(old.environment, new.environment, "environment", "name", listing)
        result.variables += variable_changes(old.conversation, new.conversation, "conversation", "name", listing)

    def _model_config(self, result: Comparison) -> None:
        """Chat, agent and completion apps: the model and the inputs are in model_config."""
        rules, configs = self._rules, (self._old.model_config, self._new.model_config)
        before, after = (dict(rules.models("", config)) for config in configs)
        result.models += model_changes(before, after, "app", result.changes, prefix="model_config.")
        forms = rules.inputs(configs[0]), rules.inputs(configs[1])
        result.variables += variable_changes(*forms, "input", "variable", self._contracts, where="app")

    def _annotations(self, result: Comparison) -> None:
        listing = self._listing
        before = {note.id: note for note in self._old.notes}
        after = {note.id: note for note in self._new.notes}
        for note_id, note in before.items():
            if note_id not in after:
                result.annotations += removed(_note(note), listing, path="text", where=note_id)
            else:
                result.annotations += differences(_note(note), _note(after[note_id]), listing, where=note_id)
        for note_id, note in after.items():
            if note_id not in before:
                result.annotations += added(_note(note), listing, path="text", where=note_id)

    def _bound(self, result: Comparison, gone: list[ViewEdge], come: list[ViewEdge]) -> None:
        """The lists that are not made of changes, within what is left to list. Only listed edges are put in words."""
        nodes, listing = result.nodes, self._listing
        nodes.removed, nodes.added = listing.within(nodes.removed), listing.within(nodes.added)
        nodes.rematched = listing.within(nodes.rematched)
        gone, come = listing.within(gone, EDGE_CHARS), listing.within(come, EDGE_CHARS)
        result.edges = Edges(
            added=[self._edge(edge, self._after) for edge in come],
            removed=[self._edge(edge, self._before) for edge in gone],
        )
        result.models = listing.within(result.models)
        whole = listing.within([variable for variable in result.variables if not variable.changes])
        result.variables = [variable for variable in result.variables if variable.changes] + whole
        result.dependencies = listing.within(result.dependencies)
        nodes.moved = nodes.moved[:MOVED]


def _items(config: dict[str, Any], field: str) -> list[Any]:
    """A list of inputs or outputs; what is no list has none."""
    items = config.get(field)
    return items if isinstance(items, list) else []


def _extras(edges: list[ViewEdge]) -> list[dict[str, Any]]:
    """What edges of one key hold beside it, each once, in one order: as in the semantic digest."""
    if len(edges) == 1:
        return [edges[0].extra]
    return [extra for _, extra in sorted({canonical(edge.extra): edge.extra for edge in edges}.items())]


def _shown(node: Node) -> ShownNode:
    return ShownNode(id=node.id, type=node.type, title=node.title)


def _note(note: Node) -> dict[str, Any]:
    return note.config | note.text | ({"node": note.outer} if note.outer else {})


def _layout(old: Graph, new: Graph, pairs: dict[str, str]) -> Layout:
    layout = Layout(viewport=not same(old.viewport, new.viewport))
    before = {node.id: node for node in old.nodes + old.notes}
    after = {node.id: node for node in new.nodes + new.notes}
    notes = {note.id: note.id for note in old.notes if note.id in after and after[note.id].note}
    for old_id, new_id in (pairs | notes).items():
        one, other = before[old_id].layout, after[new_id].layout
        moved = not same(one.get("position"), other.get("position"))
        layout.moved += moved
        layout.redrawn += not same(_drawn(one, moved), _drawn(other, moved))
        layout.derived += not same(before[old_id].derived, after[new_id].derived)
    drawn_old = Counter(canonical([edge.key, edge.layout]) for edge in old.edges)
    drawn_new = Counter(canonical([edge.key, edge.layout]) for edge in new.edges)
    if not any(one != other for one, other in pairs.items()):
        kept = {edge.key for edge in old.edges} & {edge.key for edge in new.edges}
        lost = (drawn_old - drawn_new).total() - sum(edge.key not in kept for edge in old.edges)
        gained = (drawn_new - drawn_old).total() - sum(edge.key not in kept for edge in new.edges)
        layout.redrawn += max(lost, gained, 0)
    layout.derived += sum(not same(old.derived.get(key), new.derived.get(key)) for key in old.derived | new.derived)
    layout.reordered = _reordered(old, new, pairs)
    return layout


def _drawn(layout: dict[str, Any], moved: bool) -> dict[str, Any]:
    """Without the place. `positionAbsolute` follows from it, and says something of its own where it stayed."""
    places = ("position", "positionAbsolute") if moved else ("position",)
    return {key: item for key, item in layout.items() if key not in places}


def _reordered(old: Graph, new: Graph, pairs: Mapping[str, str]) -> list[str]:
    ids_new = [node.id for node in new.nodes + new.notes]
    lists: dict[str, tuple[list[Any], list[Any]]] = {
        "nodes": ([pairs.get(node.id, node.id) for node in old.nodes + old.notes], ids_new),
        "edges": ([edge.key for edge in old.edges], [edge.key for edge in new.edges]),
        "dependencies": ([canonical(d) for d in old.dependencies], [canonical(d) for d in new.dependencies]),
        "variables": (
            [variable["name"] for variable in old.environment + old.conversation],
            [variable["name"] for variable in new.environment + new.conversation],
        ),
    }
    return [name for name, (before, after) in lists.items() if _order(before, after) != _order(after, before)]


def _order(items: list[Any], others: list[Any]) -> list[Any]:
    common = set(others)
    return [item for item in items if item in common]

"""What differs between two Dify apps, in words of the app: nodes, branches, models, variables, plugins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from registry.formats.canonical import canonical, same
from registry.formats.dify_match import VARIABLE_ROOTS, as_written, match, rename, selectors
from registry.formats.dify_parts import branch_name, dependency_changes, model_changes, variable_changes
from registry.formats.dify_view import App, Node
from registry.formats.dify_view import Edge as ViewEdge
from registry.formats.limits import EDGE_CHARS
from registry.formats.model import (
    Change,
    Comparison,
    Edge,
    Edges,
    Layout,
    NodeChange,
    Rematch,
    VariableChange,
)
from registry.formats.model import Node as ShownNode
from registry.formats.secrets import short
from registry.formats.summary import of_app
from registry.formats.values import Listing, added, differences, removed

# Fields that name what a list section shows on its own.
_LISTED = {"start": ("variables", "input"), "end": ("outputs", "output")}


def compare_apps(old: App, new: App) -> Comparison:
    listing = Listing()
    pairs = match(old.nodes, new.nodes)
    result = Comparison(
        app=differences(old.app, new.app, listing),
        dependencies=dependency_changes(old.dependencies, new.dependencies),
        features=differences(old.features, new.features, listing),
        changes=_other(old, new, listing),
        text=differences(old.text, new.text, listing),
    )
    contracts = Listing()  # inputs and outputs are listed a second time, beside the nodes that hold them
    _compare_nodes(old, new, pairs, result, listing, contracts)
    result.edges = _compare_edges(old, new, pairs, result, listing)
    _compare_variables(old, new, result, listing)
    _compare_models_of_config(old, new, result, contracts)
    _compare_annotations(old, new, result, listing)
    _bound(result, listing)
    result.layout = _layout(old, new, pairs)
    result.omitted = listing.omitted
    result.summary = of_app(result)
    return result


def _bound(result: Comparison, listing: Listing) -> None:
    """The lists that are not made of changes, within what is left to list."""
    nodes, edges = result.nodes, result.edges
    nodes.removed, nodes.added = listing.within(nodes.removed), listing.within(nodes.added)
    nodes.rematched = listing.within(nodes.rematched)
    edges.removed, edges.added = listing.within(edges.removed, EDGE_CHARS), listing.within(edges.added, EDGE_CHARS)
    result.models = listing.within(result.models)
    whole = listing.within([variable for variable in result.variables if not variable.changes])
    result.variables = [variable for variable in result.variables if variable.changes] + whole
    result.dependencies = listing.within(result.dependencies)


def _other(old: App, new: App, listing: Listing) -> list[Change]:
    config = differences(old.model_config, new.model_config, listing, path="model_config")
    return config + differences(old.rest, new.rest, listing)


def _compare_nodes(
    old: App, new: App, pairs: dict[str, str], result: Comparison, listing: Listing, contracts: Listing
) -> None:
    before = {node.id: node for node in old.nodes}
    after = {node.id: node for node in new.nodes}
    renamed = {key: value for key, value in pairs.items() if key != value}
    was = {value: key for key, value in renamed.items()}
    roots = before.keys() | after.keys() | VARIABLE_ROOTS
    origin = {value: key for key, value in pairs.items()}
    for other in new.nodes:
        if other.id not in origin:
            continue
        one = before[origin[other.id]]
        config = rename(one.config, renamed) if renamed else one.config
        outer = rename(one.outer, renamed) if renamed else one.outer
        changes = differences(selectors(config, roots), selectors(other.config, roots), listing)
        if not changes and not listing.full and not same(config, other.config):
            changes = differences(config, other.config, listing)  # "a.b" beside ["a", "b"]
        changes += differences(outer, other.outer, listing, path="node")
        for change in changes:
            change.old = as_written(change.old, was)
        result.text += differences(one.text, other.text, listing, where=other.title)
        result.models += model_changes(config, other.config, other.title, changes)
        if other.type in _LISTED:
            sides = selectors(config, roots), selectors(other.config, roots)
            result.variables += _contract(*sides, other, changes, contracts)
        if changes:
            result.nodes.changed.append(
                NodeChange(id=other.id, old_id=one.id, type=other.type, title=other.title, changes=changes)
            )
    for node in old.nodes:
        if node.id not in pairs:
            result.nodes.removed.append(_shown(node))
            result.models += model_changes(node.config, {}, node.title, [])
            result.variables += _contract_of(node, "-")
    for node in new.nodes:
        if node.id not in origin:
            result.nodes.added.append(_shown(node))
            result.models += model_changes({}, node.config, node.title, [])
            result.variables += _contract_of(node, "+")
    result.nodes.rematched = [
        Rematch(old_id=one, new_id=other, type=after[other].type, title=after[other].title)
        for one, other in renamed.items()
    ]


def _shown(node: Node) -> ShownNode:
    return ShownNode(id=node.id, type=node.type, title=node.title)


def _contract(
    old: dict[str, Any], new: dict[str, Any], node: Node, changes: list[Change], listing: Listing
) -> list[VariableChange]:
    """Inputs of a start node and outputs of an end node, by name. Their lines stay in the node's own changes."""
    field, scope = _LISTED[node.type]
    if not (isinstance(old.get(field), list) and isinstance(new.get(field), list)):
        return []
    found = variable_changes(old[field], new[field], _scope(scope), "variable", listing, where=node.title)
    names = {variable.name for variable in found}
    for change in changes:
        if change.path.startswith(f"{field}[") and change.path[len(field) + 1 :].partition("]")[0] in names:
            change.shown_as = scope
    return found


def _contract_of(node: Node, sign: Literal["+", "-"]) -> list[VariableChange]:
    field, scope = _LISTED.get(node.type, ("", ""))
    items = node.config.get(field) if field else None
    if not isinstance(items, list):
        return []
    return [
        VariableChange(scope=_scope(scope), name=short(str(item["variable"])), sign=sign, where=node.title)
        for item in items
        if isinstance(item, dict) and "variable" in item
    ]


def _scope(scope: str) -> Literal["input", "output"]:
    return "input" if scope == "input" else "output"


def _compare_edges(old: App, new: App, pairs: Mapping[str, str], result: Comparison, listing: Listing) -> Edges:
    nodes_old = {node.id: node for node in old.nodes}
    nodes_new = {node.id: node for node in new.nodes}
    ids_new = set(nodes_new)

    def mapped(node_id: str) -> str:
        if node_id in pairs:
            return pairs[node_id]
        # A removed node whose id now belongs to another node is not that node.
        return f"{node_id} (removed)" if node_id in nodes_old and node_id in ids_new else node_id

    before = {(mapped(e.source), e.source_handle, mapped(e.target), e.target_handle): e for e in old.edges}
    after = {edge.key: edge for edge in new.edges}
    for key in before.keys() & after.keys():
        path = short(f"{key[0]}.{key[1]} -> {key[2]}.{key[3]}")
        result.changes += differences(before[key].extra, after[key].extra, listing, path=f"edges[{path}]")
    return Edges(
        added=[_edge(edge, nodes_new) for key, edge in after.items() if key not in before],
        removed=[_edge(edge, nodes_old) for key, edge in before.items() if key not in after],
    )


def _edge(edge: ViewEdge, nodes: Mapping[str, Node]) -> Edge:
    source, target = nodes.get(edge.source), nodes.get(edge.target)
    return Edge(
        source=edge.source,
        source_title=source.title if source else "",
        source_handle=short(edge.source_handle),
        branch=branch_name(source, edge.source_handle),
        target=edge.target,
        target_title=target.title if target else "",
        target_handle=short(edge.target_handle),
    )


def _compare_variables(old: App, new: App, result: Comparison, listing: Listing) -> None:
    result.variables += variable_changes(old.environment, new.environment, "environment", "name", listing)
    result.variables += variable_changes(old.conversation, new.conversation, "conversation", "name", listing)


def _compare_models_of_config(old: App, new: App, result: Comparison, listing: Listing) -> None:
    """Chat, agent and completion apps: the model and the inputs are in model_config."""
    before = old.model_config if isinstance(old.model_config, dict) else {}
    after = new.model_config if isinstance(new.model_config, dict) else {}
    result.models += model_changes(before, after, "app", result.changes, prefix="model_config.")
    result.variables += variable_changes(_form(before), _form(after), "input", "variable", listing, where="app")


def _form(config: dict[str, Any]) -> list[Any]:
    """`[{"text-input": {...}}]` as a list of inputs with their type."""
    form = config.get("user_input_form")
    fields = [item for item in form if isinstance(item, dict) and len(item) == 1] if isinstance(form, list) else []
    pairs = [next(iter(item.items())) for item in fields]
    return [{"type": kind} | field for kind, field in pairs if isinstance(field, dict)]


def _compare_annotations(old: App, new: App, result: Comparison, listing: Listing) -> None:
    before = {note.id: note for note in old.notes}
    after = {note.id: note for note in new.notes}
    for note_id, note in before.items():
        if note_id not in after:
            result.annotations += removed(_note(note), listing, path="text", where=note_id)
        else:
            result.annotations += differences(_note(note), _note(after[note_id]), listing, where=note_id)
    for note_id, note in after.items():
        if note_id not in before:
            result.annotations += added(_note(note), listing, path="text", where=note_id)


def _note(note: Node) -> dict[str, Any]:
    return note.config | note.text | ({"node": note.outer} if note.outer else {})


def _layout(old: App, new: App, pairs: dict[str, str]) -> Layout:
    layout = Layout(viewport=not same(old.viewport, new.viewport))
    before = {node.id: node for node in old.nodes + old.notes}
    after = {node.id: node for node in new.nodes + new.notes}
    notes = {note.id: note.id for note in old.notes if note.id in after and after[note.id].note}
    for old_id, new_id in (pairs | notes).items():
        one, other = before[old_id].layout, after[new_id].layout
        layout.moved += not same(one.get("position"), other.get("position"))
        layout.redrawn += not same(_drawn(one), _drawn(other))
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


def _drawn(layout: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in layout.items() if key not in ("position", "positionAbsolute")}


def _reordered(old: App, new: App, pairs: Mapping[str, str]) -> list[str]:
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

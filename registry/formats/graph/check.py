"""Whether a graph holds together: edges that lead nowhere, repeated ids, nodes that no run comes to, cycles."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from registry.formats.findings import alike, finding
from registry.formats.graph.model import Edge, Graph, Node
from registry.formats.graph.rules import Rules
from registry.formats.limits import CYCLE_NODES
from registry.formats.model import Finding
from registry.formats.secrets.masking import short


def check_graph(graph: Graph, rules: Rules) -> list[Finding]:
    """In time linear in nodes and edges."""
    nodes = {node.id: node for node in graph.nodes}
    out = alike("edge_dangling", "block", _dangling(graph, nodes), lambda edge: _said_of(edge, nodes))
    if not nodes:
        return out if graph.model_config is not None else [*out, finding("graph_empty", "warn", "there are no nodes")]
    out += alike(
        "node_id_repeated",
        "block" if rules.ids_unique else "warn",
        (node for node in graph.nodes if node.repeated),
        lambda node: (f"another node has the id {short(node.id.rpartition('#')[0])} too", node.title),
    )
    if not rules.cycles:
        out += _cycle(graph, nodes)
    return out + _unreachable(graph, rules, nodes)


def reached(graph: Graph, rules: Rules) -> set[str] | None:
    """Ids of the nodes that a run can come to. None: there is no node that one is known to start at."""
    entries = rules.entries | {rules.start}
    queue = [node.id for node in graph.nodes if node.type in entries]
    if not queue:
        return None
    after: dict[str, list[str]] = defaultdict(list)
    for edge in graph.edges:
        after[edge.source].append(edge.target)
    for node in graph.nodes:
        if container := rules.container(node):
            after[container].append(node.id)
    seen = set(queue)
    while queue:
        for target in after.get(queue.pop(), ()):
            if target not in seen:
                seen.add(target)
                queue.append(target)
    return seen


def _dangling(graph: Graph, nodes: dict[str, Node]) -> Iterator[Edge]:
    return (edge for edge in graph.edges if edge.source not in nodes or edge.target not in nodes)


def _said_of(edge: Edge, nodes: dict[str, Node]) -> tuple[str, str]:
    source, target = (nodes[end].title if end in nodes else short(end) for end in (edge.source, edge.target))
    missing = target if edge.target not in nodes else source
    return f"an edge ends at {missing}, which is no node", f"{source} -> {target}"


def _unreachable(graph: Graph, rules: Rules, nodes: dict[str, Node]) -> list[Finding]:
    twins = {node.id for node in graph.nodes if node.repeated}
    seen = reached(graph, rules)
    if seen is not None:
        return alike(
            "node_unreachable",
            "warn",
            (node for node in graph.nodes if node.id not in seen and node.id not in twins),
            lambda node: ("no path leads here from where runs start", node.title),
        )
    joined = {end for edge in graph.edges for end in (edge.source, edge.target)} | twins
    joined |= {end for node in graph.nodes if rules.container(node) for end in (node.id, rules.container(node))}
    return alike(
        "node_unreachable",
        "warn",
        (node for node in graph.nodes if node.id not in joined) if len(nodes) > 1 else (),
        lambda node: ("connected to no other node", node.title),
    )


def _cycle(graph: Graph, nodes: dict[str, Node]) -> list[Finding]:
    """One cycle, as an example: once it is broken, the next one shows."""
    after: dict[str, list[str]] = defaultdict(list)
    into = dict.fromkeys(nodes, 0)
    for edge in graph.edges:
        if edge.source in nodes and edge.target in nodes:
            after[edge.source].append(edge.target)
            into[edge.target] += 1
    free = [node_id for node_id, count in into.items() if not count]
    while free:
        for target in after[free.pop()]:
            into[target] -= 1
            if not into[target]:
                free.append(target)
    # What is left lies on a cycle or behind one: backwards, every step stays within, until a node comes again.
    stuck = [source for source, count in into.items() if count]
    before = {target: source for source in stuck for target in after[source] if into[target]}
    if not before:
        return []
    path: dict[str, int] = {}
    at = next(iter(before))
    while at not in path:
        path[at] = len(path)
        at = before[at]
    ring = list(path)[path[at] :][::-1]
    titles = [nodes[node_id].title for node_id in ring[:CYCLE_NODES]]
    more = [f"{len(ring) - CYCLE_NODES} more"] if len(ring) > CYCLE_NODES else []
    return [finding("cycle", "block", f"runs go in a circle: {' -> '.join([*titles, *more, titles[0]])}", titles[0])]

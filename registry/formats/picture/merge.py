"""Two compared graphs laid over each other: matched nodes once, and removed ones where they were."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct

from registry.formats.graph.match import match
from registry.formats.graph.model import Edge, Graph, Node
from registry.formats.graph.rules import Branches, Rules
from registry.formats.limits import DRAWN_NODES
from registry.formats.model import Change, Comparison
from registry.formats.picture.layout import NOWHERE, Point

Sign: TypeAlias = Literal["+", "-", "~", "="]

_MOVED = 1.0  # less is no move, in units of the editor


class Item(Struct, kw_only=True):
    """One node of the picture: of the new graph, or a removed one of the old."""

    node: Node
    sign: Sign
    inside: int  # index of its container, or NOWHERE
    at: Point | None  # in the coordinates of the new graph
    moved: bool = False
    changes: list[Change] = []
    was: str = ""  # its old title, if it has a new one


class Link(NamedTuple):
    """An edge of the picture, by index of items."""

    source: int
    target: int
    sign: Sign
    edge: Edge


class Merged:
    def __init__(self, old: Graph, new: Graph, comparison: Comparison, rules: Rules) -> None:
        pairs = match(old.nodes, new.nodes, rules)
        gone = [node for node in old.nodes if node.id not in pairs]
        self._branch = Branches(rules)
        self._before = {node.id: node for node in old.nodes}
        self._new = {node.id: index for index, node in enumerate(new.nodes)}
        self._old = {one: self._new[other] for one, other in pairs.items()}
        self._old |= {node.id: len(new.nodes) + index for index, node in enumerate(gone)}
        self._origin = {other: self._before[one] for one, other in pairs.items()}
        self._offsets = self._common_moves(new)
        changes = {change.id: change.changes for change in comparison.nodes.changed}
        self.items = [self._kept_or_added(node, changes) for node in new.nodes] + [self._removed(node) for node in gone]
        self._leave_circles()
        self.dangling = 0
        self.links = self._links(old, new)

    def chosen(self) -> list[int]:
        """Items to draw: all, or of a large graph what changed, then what that is linked to or stands in."""
        if len(self.items) <= DRAWN_NODES:
            return list(range(len(self.items)))
        found = {index: None for index, item in enumerate(self.items) if item.sign != "="}
        found |= {end: None for link in self.links if link.sign != "=" for end in link[:2]}
        near = {index: None for link in self.links for index in link[:2] if link[0] in found or link[1] in found}
        around = {item.inside: None for index, item in enumerate(self.items) if index in found and item.inside >= 0}
        return sorted(list(found | around | near)[:DRAWN_NODES])

    def branch(self, link: Link) -> str:
        """What the edge's handle means: in the old graph, if it was removed from that."""
        node = self._before[link.edge.source] if link.sign == "-" else self.items[link.source].node
        return self._branch(node, link.edge.source_handle)

    def _kept_or_added(self, node: Node, changes: Mapping[str, list[Change]]) -> Item:
        inside = self._new.get(node.inside, NOWHERE)
        origin = self._origin.get(node.id)
        if origin is None:
            return Item(node=node, sign="+", inside=inside, at=node.at)
        return Item(
            node=node,
            sign="~" if node.id in changes else "=",
            inside=inside,
            at=node.at,
            moved=self._moved(origin, node, inside),
            changes=changes.get(node.id, []),
            was=origin.title if origin.title != node.title else "",
        )

    def _removed(self, node: Node) -> Item:
        inside = self._old.get(node.inside, NOWHERE)
        dx, dy = self._offsets.get(inside, (0.0, 0.0))
        at = (node.at[0] + dx, node.at[1] + dy) if node.at else None
        return Item(node=node, sign="-", inside=inside, at=at)

    def _common_moves(self, new: Graph) -> dict[int, Point]:
        """How far the nodes of each container moved together: the median, which a few moved ones do not change."""
        steps: dict[int, list[Point]] = {}
        for node in new.nodes:
            inside = self._new.get(node.inside, NOWHERE)
            origin = self._origin.get(node.id)
            if origin and origin.at and node.at and self._old.get(origin.inside, NOWHERE) == inside:
                steps.setdefault(inside, []).append((node.at[0] - origin.at[0], node.at[1] - origin.at[1]))
        return {
            inside: (statistics.median_low(x for x, _ in found), statistics.median_low(y for _, y in found))
            for inside, found in steps.items()
        }

    def _moved(self, old: Node, new: Node, inside: int) -> bool:
        """Whether a node has another place among the others."""
        if self._old.get(old.inside, NOWHERE) != inside:
            return True
        if old.at is None or new.at is None:
            return False
        dx, dy = self._offsets[inside]
        return abs(new.at[0] - old.at[0] - dx) > _MOVED or abs(new.at[1] - old.at[1] - dy) > _MOVED

    def _leave_circles(self) -> None:
        """A node that is inside itself, by however many steps, is in no container."""
        known = {NOWHERE}
        for index in range(len(self.items)):
            chain: dict[int, None] = {}
            while index not in known and index not in chain:
                chain[index] = None
                index = self.items[index].inside
            if index in chain:
                self.items[index].inside = NOWHERE
            known.update(chain)  # `|=` with the keys would copy all that is known

    def _links(self, old: Graph, new: Graph) -> list[Link]:
        before, after = _keyed(old, self._old), _keyed(new, self._new)
        links = []
        for key, edge in (before | after).items():
            source, _, target, _ = key
            if isinstance(source, str) or isinstance(target, str):
                self.dangling += 1
                continue
            links.append(Link(source, target, "-" if key not in after else "=" if key in before else "+", edge))
        return links


def _keyed(graph: Graph, index: Mapping[str, int]) -> dict[tuple[int | str, str, int | str, str], Edge]:
    """Edges by what makes them the same; ends are items, or ids that name none."""
    return {
        (
            index.get(edge.source, edge.source),
            edge.source_handle,
            index.get(edge.target, edge.target),
            edge.target_handle,
        ): edge
        for edge in graph.edges
    }

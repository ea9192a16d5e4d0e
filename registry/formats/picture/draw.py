"""A compared workflow as one picture: what was added, removed and changed, where it stands in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct

from registry.formats.graph.model import Graph
from registry.formats.graph.rules import Rules
from registry.formats.limits import DRAWN_EDGES, DRAWN_NODES
from registry.formats.model import Comparison
from registry.formats.picture import svg
from registry.formats.picture.layout import NOWHERE, Box, Point, arrange
from registry.formats.picture.merge import Item, Merged, Sign
from registry.formats.picture.routes import Curve, Routes, along
from registry.formats.summary import counted

CLASSES: dict[Sign, str] = {"+": "added", "-": "removed", "~": "changed", "=": "same"}

_WIDTH, _PAD = 216.0, 12.0  # of a box, and between its side and its words
_TOP, _BOTTOM = 10.0, 9.0
_TITLE, _LINE, _BRANCH = 18.0, 15.0, 17.0  # heights of lines
_FIELDS = 3  # changed ones named in a box
_TOLD = 20  # changed ones named in its tooltip
_BRANCHES = 30  # named beside one box
_MARGIN = 24.0
_LEAST_WIDTH = 760.0
_SUMMARY_LINES = 4


class _Way(NamedTuple):
    """An edge as it is drawn, by index of cards."""

    source: int
    target: int
    sign: Sign
    branch: str


class _Card(Struct, kw_only=True):
    """A node as it is drawn."""

    item: Item
    box: Box
    title: list[str]
    said: list[str]  # type, old title, changed fields
    branches: dict[str, Sign]  # ways out, and whether all edges of one were added or removed
    frame: bool

    def port_y(self, branch: str, target: Box) -> float | None:
        """Where an edge leaves the placed box to the right, if it leaves there because it is one of several ways."""
        if branch not in self.branches or (len(self.branches) == 1 and target.x < self.box.x + self.box.width):
            return None
        above = list(self.branches).index(branch)
        return self.box.y + _TOP + _TITLE * len(self.title) + _LINE * len(self.said) + _BRANCH * (above + 0.5)


def draw(old: Graph, new: Graph, comparison: Comparison, *, rules: Rules) -> str:
    """One SVG document that needs nothing else; the same arguments give the same text.

    `comparison` is that of the two graphs under `rules`. Of the workflow it shows titles, types, branches and names of
    fields, never a value.
    """
    merged = Merged(old, new, comparison, rules)
    chosen = merged.chosen()
    place = {index: position for position, index in enumerate(chosen)}
    near = [link for link in merged.links if link.source in place and link.target in place]
    links = [
        _Way(place[link.source], place[link.target], link.sign, merged.branch(link))
        for link in sorted(near, key=lambda link: link.sign == "=")[:DRAWN_EDGES]
    ]
    cards = _cards([merged.items[index] for index in chosen], place, links)
    size = arrange([card.box for card in cards], [(place[link.source], place[link.target]) for link in near])
    routes = Routes([card.box for card in cards], [index for index, card in enumerate(cards) if not card.frame])
    ports = [cards[link.source].port_y(link.branch, cards[link.target].box) for link in links]
    curves = [routes.curve(*link[:2], port) for link, port in zip(links, ports, strict=True)]
    left, above, right, below = _bounds(size, curves)
    width = max(right - left + 2 * _MARGIN, _LEAST_WIDTH)
    head, top = _head(merged, comparison, _left_out(merged, comparison, len(cards), len(near) - len(links)), width)
    shift = (width - right - left) / 2, top - above
    frames = sorted((card for card in cards if card.frame), key=lambda card: -card.box.width * card.box.height)
    edges = [_edge(link, curve, cards, routes) for link, curve in zip(links, curves, strict=True)]
    parts = [
        *head,
        f'<g transform="translate({svg.number(shift[0])} {svg.number(shift[1])})">',
        *map(_node, frames),
        *reversed(edges),
        *(_node(card) for card in cards if not card.frame),
        "</g>",
    ]
    return svg.document(width, shift[1] + below + _MARGIN, comparison.summary or "workflow", parts)


def _bounds(size: Point, curves: Sequence[Curve]) -> tuple[float, float, float, float]:
    """Of everything drawn: curves may swing out of the room of the boxes."""
    points = [(0.0, 0.0), size, *(along(curve, share / 8) for curve in curves for share in range(1, 8))]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return min(xs), min(ys), max(xs), max(ys)


def _cards(items: Sequence[Item], place: dict[int, int], links: Sequence[_Way]) -> list[_Card]:
    frames = {place[item.inside] for item in items if item.inside in place}
    branches: list[dict[str, Sign]] = [{} for _ in items]
    for link in sorted(links, key=lambda link: (items[link.target].at or (0.0, 0.0))[1]):
        ways = branches[link.source]
        if link.branch and (link.branch in ways or len(ways) < _BRANCHES):
            ways[link.branch] = link.sign if ways.get(link.branch, link.sign) == link.sign else "="
    cards = []
    for position, item in enumerate(items):
        title = svg.wrapped(item.node.title, _WIDTH - 2 * _PAD, 15, 2) or ["(no title)"]
        said = [svg.squeezed(words, _WIDTH - 2 * _PAD, 11) for words in _said(item)]
        height = _TOP + _TITLE * len(title) + _LINE * len(said) + _BRANCH * len(branches[position]) + _BOTTOM
        box = Box(width=_WIDTH, height=height, at=item.at, inside=place.get(item.inside, NOWHERE))
        cards.append(
            _Card(item=item, box=box, title=title, said=said, branches=branches[position], frame=position in frames)
        )
    return cards


def _said(item: Item) -> list[str]:
    fields = list(dict.fromkeys(f"{change.sign} {change.path}" for change in item.changes))
    more = [f"and {len(fields) - _FIELDS} more"] if len(fields) > _FIELDS else []
    return [item.node.type, *([f"was: {item.was}"] if item.was else []), *fields[:_FIELDS], *more]


def _node(card: _Card) -> str:
    item, box = card.item, card.box
    kind = CLASSES[item.sign]
    fields = [f"{change.sign} {change.path}" for change in item.changes[:_TOLD]]
    told = "\n".join(map(svg.escaped, [f"{item.node.title} ({item.node.type})", *fields]))
    x, y = box.x + _PAD, box.y + _TOP
    frame, moved = " frame" if card.frame else "", ' data-moved="true"' if item.moved else ""
    parts = [
        f'<g class="node {kind}{frame}" data-id="{svg.escaped(item.node.id)}" data-sign="{item.sign}"{moved}>',
        f"<title>{told}</title>",
        svg.rectangle(box, "box"),
    ]
    for line in card.title:
        parts.append(svg.text_at(x, y + 15, line, "title"))
        y += _TITLE
    for line in card.said:
        parts.append(svg.text_at(x, y + 11, line, "type"))
        y += _LINE
    for branch, sign in card.branches.items():
        words = svg.squeezed(branch if sign == "=" else f"{sign} {branch}", _WIDTH - 2 * _PAD, 11)
        parts.append(svg.text_at(box.x + box.width - _PAD, y + 12, words, f"branch {CLASSES[sign]}"))
        y += _BRANCH
    if item.moved:
        parts.append(svg.corner(box.x + box.width, box.y + box.height))
    if item.sign != "=":
        parts.append(svg.badge(box.x + 2, box.y + 2, item.sign))
    return "".join([*parts, "</g>"])


def _edge(link: _Way, curve: Curve, cards: Sequence[_Card], routes: Routes) -> str:
    ends = [
        f'data-{end}="{svg.escaped(cards[index].item.node.id)}"'
        for end, index in (("source", link.source), ("target", link.target))
    ]
    line = svg.path(curve, CLASSES[link.sign], " ".join([*ends, f'data-sign="{link.sign}"']))
    if link.sign == "=":
        return line
    return f'{line}<g class="{CLASSES[link.sign]}">{svg.badge(*routes.sign_at(curve), link.sign)}</g>'


def _left_out(merged: Merged, comparison: Comparison, nodes: int, edges: int) -> list[str]:
    """What a reader would miss in the picture without being told."""
    lines = []
    if nodes < len(merged.items):
        missing = counted(len(merged.items) - nodes, "node")
        lines.append(f"{missing} not drawn: of more than {DRAWN_NODES}, only changed ones and their neighbours are")
    if edges:
        lines.append(f"{counted(edges, 'edge')} between these nodes not drawn")
    if merged.dangling:
        lines.append(f"{counted(merged.dangling, 'edge')} not drawn: no node at one end")
    if comparison.omitted:
        lines.append(f"{counted(comparison.omitted, 'change')} not listed: nodes shown as unchanged may have changed")
    return lines


def _head(merged: Merged, comparison: Comparison, notes: list[str], width: float) -> tuple[list[str], float]:
    """Summary, legend and notes; and where the graph begins."""
    parts, y = [], _MARGIN
    for line in svg.wrapped(comparison.summary, width - 2 * _MARGIN, 15, _SUMMARY_LINES):
        parts.append(svg.text_at(_MARGIN, y + 12, line, "summary"))
        y += 21
    x, y = _MARGIN, y + 16
    for sample, words in _legend(merged):
        if x + 30 + svg.text_width(words, 13) > width - _MARGIN:
            x, y = _MARGIN, y + 24
        parts.append(f'<g transform="translate({svg.number(x)} {svg.number(y)})">{sample}</g>')
        parts.append(svg.text_at(x + 30, y + 5, words, "legend"))
        x += 52 + svg.text_width(words, 13)
    for note in notes:
        y += 22
        parts.append(svg.text_at(_MARGIN, y + 4, note, "note"))
    return parts, y + 34


def _legend(merged: Merged) -> list[tuple[str, str]]:
    """A sample, drawn around (12, 0), and what there is of it."""
    entries = []
    for sign, kind in CLASSES.items():
        count = sum(item.sign == sign for item in merged.items)
        words = f"{counted(count, 'node')} {'unchanged' if sign == '=' else kind}"
        entries.append((f'<g class="{kind}">{svg.badge(12, 0, sign)}</g>', words))
    moved = sum(item.moved for item in merged.items)
    if moved:
        entries.append((svg.corner(20, 3), f"{moved} moved"))
    for sign in ("+", "-"):
        count = sum(link.sign == sign for link in merged.links)
        if count:
            line = svg.path(((0, 0), (8, 0), (16, 0), (24, 0)), CLASSES[sign], "")
            entries.append((line, f"{counted(count, 'edge')} {CLASSES[sign]}"))
    return entries

"""Where the boxes of a picture go: as in the editor, or in layers, and never one over another. Only geometry.

Lengths are user units of the picture, y goes down. Both ways are quadratic at worst in the boxes of one container,
and a picture has at most `limits.DRAWN_NODES` of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from msgspec import Struct

Point = tuple[float, float]
Link = tuple[int, int]  # from box to box, by index

NOWHERE = -1  # the container of what is in none
GAP_X, GAP_Y = 64.0, 30.0  # at least, between boxes beside and below each other
EMPTY_X, EMPTY_Y = 96.0, 64.0  # a wider empty strip across the whole picture is cut to this
FRAME = 20.0  # between a frame and what is in it
_SNAP = 0.25  # boxes whose places differ by less of a box are lined up
_NEAR = 0.2  # the share of boxes that may stand nearer to their neighbours than the scale is made for
_STRETCH = (0.1, 8.0)
_SWEEPS = 4


class Box(Struct, kw_only=True):
    width: float
    height: float  # of a frame, until it is arranged: of its head
    at: Point | None = None  # in the editor: top left, in the coordinates of its container
    inside: int = NOWHERE
    x: float = 0.0
    y: float = 0.0


def arrange(boxes: Sequence[Box], links: Sequence[Link]) -> Point:
    """Sets x and y of all boxes and the size of frames, and returns the size of the picture.

    Boxes are drawn where the editor has them if it says so for most, otherwise in layers along `links`. Containers
    grow around what is in them. `inside` must be free of cycles.
    """
    depth = _depths(boxes)
    members: dict[int, list[int]] = {NOWHERE: []}
    for index, box in enumerate(boxes):
        members.setdefault(box.inside, []).append(index)
    beside: dict[int, list[Link]] = {}
    for link in links:
        pair = _lifted(link, boxes, depth)
        if pair[0] != pair[1]:
            beside.setdefault(boxes[pair[0]].inside, []).append(pair)
    size = (0.0, 0.0)
    for container in sorted(members, key=lambda index: -1 if index == NOWHERE else depth[index], reverse=True):
        size = _arrange_group(boxes, members[container], beside.get(container, []))
        if container != NOWHERE:
            frame = boxes[container]
            for index in members[container]:
                boxes[index].x += FRAME
                boxes[index].y += frame.height
            frame.width = max(frame.width, size[0] + 2 * FRAME)
            frame.height += size[1] + FRAME
    for index in sorted(range(len(boxes)), key=lambda index: depth[index]):
        if boxes[index].inside != NOWHERE:
            boxes[index].x += boxes[boxes[index].inside].x
            boxes[index].y += boxes[boxes[index].inside].y
    return size


def _depths(boxes: Sequence[Box]) -> list[int]:
    depths = [-1] * len(boxes)
    for index in range(len(boxes)):
        chain = []
        while index != NOWHERE and depths[index] < 0:
            chain.append(index)
            index = boxes[index].inside
        known = 0 if index == NOWHERE else depths[index] + 1
        for level, inner in enumerate(reversed(chain), known):
            depths[inner] = level
    return depths


def _lifted(link: Link, boxes: Sequence[Box], depth: list[int]) -> Link:
    """The two boxes of one container that a link leads between, or through."""
    one, other = link
    while boxes[one].inside != boxes[other].inside:
        if depth[one] >= depth[other]:
            one = boxes[one].inside
        else:
            other = boxes[other].inside
    return one, other


def _arrange_group(boxes: Sequence[Box], group: list[int], links: list[Link]) -> Point:
    """Places the boxes of one container from (0, 0) on; returns the size of them together."""
    places = {boxes[index].at for index in group} - {None}
    if 2 * len(places) >= len(group) and group:
        _as_in_editor(boxes, group, links)
    else:
        _in_layers(boxes, group, links)
    _close_gaps(boxes, group)
    return (
        max((boxes[index].x + boxes[index].width for index in group), default=0.0),
        max((boxes[index].y + boxes[index].height for index in group), default=0.0),
    )


def _as_in_editor(boxes: Sequence[Box], group: list[int], links: list[Link]) -> None:
    points = _points(boxes, group, links)
    scale_x, scale_y = _scales(boxes, group, points)
    for index in group:
        boxes[index].x, boxes[index].y = points[index][0] * scale_x, points[index][1] * scale_y
    smallest = min(boxes[index].width for index in group), min(boxes[index].height for index in group)
    columns = _snapped([boxes[index].x for index in group], smallest[0] * _SNAP)
    lines = _snapped([boxes[index].y for index in group], smallest[1] * _SNAP)
    for index, column, line in zip(group, columns, lines, strict=True):
        boxes[index].x, boxes[index].y = column, line
    _push_right(boxes, group)
    _push_down(boxes, group)


def _points(boxes: Sequence[Box], group: list[int], links: list[Link]) -> dict[int, Point]:
    """Places in the editor; what has none goes beside a neighbour that has one, or below everything."""
    points = {index: at for index in group if (at := boxes[index].at) is not None}
    lowest = min(x for x, _ in points.values()), max(y for _, y in points.values()) + 1.0
    for source, target in links:
        if source in points and target not in points:
            points[target] = (points[source][0] + 1.0, points[source][1])
        elif target in points and source not in points:
            points[source] = (points[target][0] - 1.0, points[target][1])
    return {index: points.get(index, lowest) for index in group}


def _scales(boxes: Sequence[Box], group: list[int], points: dict[int, Point]) -> Point:
    """Editors differ in the size of a box, and do not say it: what sets the scale is how far neighbours stand apart."""
    right, below = [], []
    for index in group:
        x, y = points[index]
        steps = [(other_x - x, other_y - y) for other_x, other_y in points.values()]
        right.append(min((dx for dx, dy in steps if dx > 0 and abs(dy) <= dx), default=0.0))
        below.append(min((dy for dx, dy in steps if dy > 0 and abs(dx) < dy), default=0.0))
    width = sorted(boxes[index].width for index in group)[len(group) // 2]
    height = sorted(boxes[index].height for index in group)[len(group) // 2]
    return _scale(right, width + GAP_X), _scale(below, height + GAP_Y)


def _scale(steps: list[float], wanted: float) -> float:
    known = sorted(step for step in steps if step > 1.0)
    return min(max(wanted / known[int(len(known) * _NEAR)], _STRETCH[0]), _STRETCH[1]) if known else 1.0


def _snapped(values: list[float], near: float) -> list[float]:
    out = list(values)
    start = -math.inf
    for position in sorted(range(len(values)), key=values.__getitem__):
        if values[position] - start > near:
            start = values[position]
        out[position] = start
    return out


def _push_right(boxes: Sequence[Box], group: list[int]) -> None:
    """Makes room to the right of boxes that reach into the next ones: everything further right moves along."""
    columns: dict[float, list[Box]] = {}
    for index in group:
        columns.setdefault(boxes[index].x, []).append(boxes[index])
    done: list[Box] = []
    shift = 0.0
    for x in sorted(columns):
        for box in columns[x]:
            box.x = x + shift
        more = max((_too_near(other, box) for other in done for box in columns[x]), default=0.0)
        for box in columns[x]:
            box.x += more
        shift += more
        done += columns[x]


def _too_near(left: Box, box: Box) -> float:
    """How far `box` must move right, if that is the lesser move; otherwise 0."""
    missing_x = left.x + left.width + GAP_X - box.x
    upper, lower = (left, box) if left.y <= box.y else (box, left)
    missing_y = upper.y + upper.height + GAP_Y - lower.y
    if missing_x <= 0 or missing_y <= 0:
        return 0.0
    return missing_x if missing_x / left.width < missing_y / upper.height else 0.0


def _push_down(boxes: Sequence[Box], group: list[int]) -> None:
    """Moves every box down to the first room there is for it: after this no two overlap."""
    done: list[Box] = []
    for index in sorted(group, key=lambda index: (boxes[index].y, boxes[index].x, index)):
        box = boxes[index]
        taken = sorted(
            (other.y - GAP_Y, other.y + other.height + GAP_Y)
            for other in done
            if other.x - GAP_X / 2 < box.x + box.width and box.x < other.x + other.width + GAP_X / 2
        )
        for top, bottom in taken:
            if box.y + box.height > top and box.y < bottom:
                box.y = bottom
        done.append(box)


def _close_gaps(boxes: Sequence[Box], group: list[int]) -> None:
    """Cuts empty strips across all boxes, and moves the first box to (0, 0)."""
    end, cut = 0.0, None
    for box in sorted((boxes[index] for index in group), key=lambda box: box.x):
        cut = box.x if cut is None else cut + max(box.x - cut - end - EMPTY_X, 0.0)
        box.x -= cut
        end = max(end, box.x + box.width)
    end, cut = 0.0, None
    for box in sorted((boxes[index] for index in group), key=lambda box: box.y):
        cut = box.y if cut is None else cut + max(box.y - cut - end - EMPTY_Y, 0.0)
        box.y -= cut
        end = max(end, box.y + box.height)


def _in_layers(boxes: Sequence[Box], group: list[int], links: list[Link]) -> None:
    """From left to right along the links; boxes without any stand in a grid below."""
    linked = {index for link in links for index in link}
    flow = [index for index in group if index in linked]
    forward = _forward(flow, links)
    layers = _layers(flow, forward)
    before: dict[int, list[int]] = {index: [] for index in flow}
    after: dict[int, list[int]] = {index: [] for index in flow}
    for source, target in forward:
        after[source].append(target)
        before[target].append(source)
    _untangle(layers, before, after)
    x = 0.0
    for layer in layers:
        for index in layer:
            boxes[index].x = x
        x += max(boxes[index].width for index in layer) + GAP_X
        _stack(boxes, layer, [0.0] * len(layer))
    for sweep in range(_SWEEPS):
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            _level(boxes, layer, before if sweep % 2 == 0 else after)
    lowest = max((boxes[index].y + boxes[index].height for index in flow), default=-GAP_Y)
    _in_grid(boxes, [index for index in group if index not in linked], lowest + GAP_Y)


def _forward(flow: list[int], links: list[Link]) -> list[Link]:
    """Links without those that lead back, so that there is no cycle; each once."""
    after: dict[int, list[int]] = {index: [] for index in flow}
    for source, target in dict.fromkeys(links):
        after[source].append(target)
    entered = {target for _, target in links}
    finished: dict[int, int] = {}
    seen: set[int] = set()
    for root in sorted(flow, key=lambda index: index in entered):
        walk: list[tuple[int, Iterator[int]]] = [] if root in seen else [(root, iter(after[root]))]
        seen.add(root)
        while walk:
            index, targets = walk[-1]
            following = next((target for target in targets if target not in seen), None)
            if following is None:
                finished[index] = len(finished)
                walk.pop()
            else:
                seen.add(following)
                walk.append((following, iter(after[following])))
    order = sorted(flow, key=lambda index: finished[index], reverse=True)
    return [(index, target) for index in order for target in after[index] if finished[target] < finished[index]]


def _layers(flow: list[int], forward: list[Link]) -> list[list[int]]:
    """By the longest way to each box; what nothing leads to stands just before what it leads to.

    `forward` goes in topological order of the sources."""
    rank = dict.fromkeys(flow, 0)
    for source, target in forward:
        rank[target] = max(rank[target], rank[source] + 1)
    nearest: dict[int, int] = {}
    for source, target in forward:
        nearest[source] = min(rank[target], nearest.get(source, rank[target]))
    entered = {target for _, target in forward}
    for index, following in nearest.items():
        if index not in entered:
            rank[index] = following - 1
    layers: list[list[int]] = [[] for _ in range(max(rank.values(), default=-1) + 1)]
    for index in flow:
        layers[rank[index]].append(index)
    return [layer for layer in layers if layer]


def _untangle(layers: list[list[int]], before: dict[int, list[int]], after: dict[int, list[int]]) -> None:
    """Orders each layer by the mean place of its neighbours, back and forth: few crossings, not the fewest."""
    place = {index: float(position) for layer in layers for position, index in enumerate(layer)}
    for sweep in range(_SWEEPS):
        beside = before if sweep % 2 == 0 else after
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            means = {
                index: sum(place[other] for other in beside[index]) / len(beside[index])
                if beside[index]
                else place[index]
                for index in layer
            }
            layer.sort(key=means.__getitem__)
            place |= {index: float(position) for position, index in enumerate(layer)}


def _level(boxes: Sequence[Box], layer: list[int], beside: dict[int, list[int]]) -> None:
    """Moves the boxes of a layer towards the height of their neighbours, in the order they have."""
    _stack(
        boxes,
        layer,
        [
            sum(boxes[other].y for other in beside[index]) / len(beside[index]) if beside[index] else boxes[index].y
            for index in layer
        ],
    )


def _stack(boxes: Sequence[Box], layer: list[int], wanted: list[float]) -> None:
    free = -math.inf
    for index, y in zip(layer, wanted, strict=True):
        boxes[index].y = max(y, free)
        free = boxes[index].y + boxes[index].height + GAP_Y
    drift = sum(boxes[index].y - y for index, y in zip(layer, wanted, strict=True)) / len(layer)
    for index in layer:
        boxes[index].y -= drift


def _in_grid(boxes: Sequence[Box], loose: list[int], top: float) -> None:
    columns = max(1, math.ceil(math.sqrt(len(loose) / 2)))
    x, below = 0.0, top
    for position, index in enumerate(loose):
        if position % columns == 0:
            x, top = 0.0, below
        boxes[index].x, boxes[index].y = x, top
        x += boxes[index].width + GAP_X
        below = max(below, top + boxes[index].height + GAP_Y)

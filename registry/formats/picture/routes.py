"""The way of an edge from box to box: one smooth curve, around boxes where there is room. Only geometry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from registry.formats.picture.layout import Box, Point

Curve = tuple[Point, Point, Point, Point]  # a cubic: start, two controls, end

PORT_Y = 22.0  # edges meet a box so far below its top, so that boxes in one row are joined by straight lines
_BOWS = (60.0, 110.0, 170.0, 260.0)  # how far a curve may go above or below the straight way,
_STEEPEST = 0.4  # and in share of its length
_PULL = (18.0, 160.0)  # least and most
_TURN = 40.0  # of an edge that begins by leading away from its end
_SAMPLES = tuple(step / 16 for step in range(1, 16))
_SIGN_AT = (0.5, 0.375, 0.625, 0.25, 0.75)
_SIGN = 20.0  # the room of one
_CELL_X, _CELL_Y = 128.0, 64.0


class Routes:
    """`boxes` are placed. Those at `solid` hide what is behind them; frames do not."""

    def __init__(self, boxes: Sequence[Box], solid: Sequence[int]) -> None:
        self._boxes = boxes
        self._cells: dict[tuple[int, int], list[int]] = {}
        self._signs: set[tuple[int, int]] = set()
        for index in solid:
            box = boxes[index]
            for column in range(int(box.x // _CELL_X), int((box.x + box.width) // _CELL_X) + 1):
                for row in range(int(box.y // _CELL_Y), int((box.y + box.height) // _CELL_Y) + 1):
                    self._cells.setdefault((column, row), []).append(index)

    def curve(self, source: int, target: int, port_y: float | None) -> Curve:
        """The least bowed of those that hide least. `port_y`: of the branch an edge leaves by, to the right."""
        one, other = self._boxes[source], self._boxes[target]
        best, hidden = _direct(one, other, port_y), 0
        for found in (best, *_bowed(best, one, other)):
            now = sum(self.hides(along(found, share)) for share in _SAMPLES)
            if found is best or now < hidden:
                best, hidden = found, now
            if not hidden:
                break
        return best

    def sign_at(self, curve: Curve) -> Point:
        """A place on the curve for its sign: if there is one, where it is seen and no other sign was put."""
        places = [along(curve, share) for share in _SIGN_AT]
        seen = [place for place in places if not self.hides(place)] or places
        chosen = next((place for place in seen if _spot(place) not in self._signs), seen[0])
        self._signs.add(_spot(chosen))
        return chosen

    def hides(self, point: Point) -> bool:
        x, y = point
        near = (self._boxes[index] for index in self._cells.get((int(x // _CELL_X), int(y // _CELL_Y)), ()))
        return any(box.x <= x <= box.x + box.width and box.y <= y <= box.y + box.height for box in near)


def _spot(point: Point) -> tuple[int, int]:
    return int(point[0] // _SIGN), int(point[1] // _SIGN)


def along(curve: Curve, share: float) -> Point:
    """The point of a curve at a share of its parameter."""
    (a, b), (c, d), (e, f), (g, h) = curve
    rest = 1 - share
    w0, w1, w2, w3 = rest**3, 3 * rest**2 * share, 3 * rest * share**2, share**3
    return w0 * a + w1 * c + w2 * e + w3 * g, w0 * b + w1 * d + w2 * f + w3 * h


def _direct(source: Box, target: Box, port_y: float | None) -> Curve:
    """From the right side to the left one; if the target is not to the right, from below to above, or back."""
    start: Point = (source.x + source.width, source.y + PORT_Y if port_y is None else port_y)
    end: Point = (target.x, target.y + PORT_Y)
    out: Point = (1.0, 0.0)
    back: Point = (-1.0, 0.0)
    if target.x < source.x + source.width:
        over = target.y + target.height <= source.y
        under = target.y >= source.y + source.height
        middle, foot = target.x + target.width / 2, target.y + target.height
        end, back = ((middle, target.y), (0.0, -1.0)) if under or source is target else ((middle, foot), (0.0, 1.0))
        if port_y is None and source is not target:
            side, way = (source.y, -1.0) if over else (source.y + source.height, 1.0)
            start, out = (source.x + source.width / 2, side), (0.0, way)
    return (start, _pulled(start, end, out), _pulled(end, start, back), end)


def _pulled(point: Point, other: Point, way: Point) -> Point:
    """A control: ahead of a point, further the further away the other one is."""
    dx, dy = abs(other[0] - point[0]), abs(other[1] - point[1])
    ahead, aside = (dx, dy) if way[0] else (dy, dx)
    turns = (other[0] - point[0]) * way[0] + (other[1] - point[1]) * way[1] < 0
    pull = _TURN if turns else min(max(ahead / 2, min(aside / 4, _TURN), _PULL[0]), _PULL[1])
    return point[0] + way[0] * pull, point[1] + way[1] * pull


def _bowed(direct: Curve, source: Box, target: Box) -> Iterator[Curve]:
    if target.x <= source.x + source.width:
        return
    start, _, _, end = direct
    pull = min((end[0] - start[0]) / 4, _PULL[1])
    for bow in _BOWS:
        if bow > (end[0] - start[0]) * _STEEPEST:
            return
        for lift in (-bow / 0.75, bow / 0.75):  # the middle of a cubic moves by three quarters of its controls
            yield (start, (start[0] + pull, start[1] + lift), (end[0] - pull, end[1] + lift), end)

"""The picture of growth."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from itertools import pairwise

from bench import plot

SVG = "{http://www.w3.org/2000/svg}"


def test_every_line_has_its_points_on_both_scales_and_a_name_apart_from_the_others() -> None:
    drawn = {name: [(1e3, y), (1e5, y + 1), (1e6, 2 * y)] for name, y in (("a & b", 4.0), ("c", 4.01), ("d", 0.1))}
    picture = ElementTree.fromstring(plot.lines("title", "versions", "ms", drawn))

    lines = picture.findall(f"{SVG}polyline")
    assert len(lines) == len(drawn)
    for line in lines:
        (x1, _), (x2, _), (x3, _) = points = [tuple(map(float, at.split(","))) for at in line.attrib["points"].split()]
        assert (x2 - x1) / (x3 - x2) == 2  # two powers of ten, and one
        assert all(plot.TOP <= y <= plot.HEIGHT - plot.BOTTOM for _, y in points)
    names = sorted(float(text.attrib["y"]) for text in picture.findall(f"{SVG}text") if text.text in drawn)
    assert len(names) == len(drawn)
    assert all(lower - upper >= plot.NAME_PX for upper, lower in pairwise(names))

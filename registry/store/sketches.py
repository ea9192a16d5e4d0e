"""How alike contents are, by their lines, at the cost of one look at each. CPU-bound; no I/O."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from heapq import nlargest

LINES = 64  # of a sketch
_ALIKE = 4  # lines in common, below which packing over it is not tried
_LINE_BYTES = 4  # shorter lines are in every content

Sketch = frozenset[int]


def sketch(data: bytes) -> Sketch:
    """The smallest checksums of its lines: two contents that share a part of their lines share that part of these."""
    lines = [line for line in set(map(bytes.strip, data.split(b"\n"))) if len(line) >= _LINE_BYTES]
    return frozenset(sorted(map(zlib.crc32, lines))[:LINES])


def most_alike(asked: Sketch, known: Mapping[str, Sketch], most: int) -> list[str]:
    """The names that have most in common with it, best first; none that have hardly anything."""
    common = {name: len(asked & each) for name, each in known.items()}
    return [name for name in nlargest(most, common, key=common.__getitem__) if common[name] >= _ALIKE]

from __future__ import annotations

import os

from registry.store.sketches import LINES, most_alike, sketch


def text(start: int, stop: int) -> bytes:
    return b"\n".join(b"  this is line %d" % number for number in range(start, stop))


def test_the_one_with_most_lines_in_common_comes_first() -> None:
    known = {"half": sketch(text(100, 300)), "all": sketch(text(0, 200)), "none": sketch(text(500, 700))}
    assert most_alike(sketch(text(0, 200)), known, 4) == ["all", "half"]
    assert most_alike(sketch(text(0, 200)), known, 1) == ["all"]


def test_indentation_and_order_and_short_lines_do_not_count() -> None:
    lines = text(0, 50).split(b"\n")
    other = b"\n}\n".join(b"\t" + line.strip() + b"\r" for line in reversed(lines))
    assert sketch(other) == sketch(text(0, 50))


def test_it_is_small_whatever_comes() -> None:
    assert len(sketch(text(0, 10_000))) == LINES
    assert sketch(b"") == sketch(b"{}\n\n}") == frozenset()
    assert len(sketch(os.urandom(1000))) <= LINES

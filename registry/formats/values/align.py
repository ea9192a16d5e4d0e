"""Which items of two lists are the same ones, in bounded time, and texts compared by line."""

from __future__ import annotations

import difflib
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from registry.formats.limits import ALIGN_WORK, ALIGN_WORK_TOTAL, DIFF_CONTEXT_LINES, DIFF_LINE_CHARS, DIFF_LINES

Stretch = tuple[int, int, int, int]  # old start, old end, new start, new end
T = TypeVar("T", bound=Hashable)


class Work:
    """Steps that the alignments of one comparison may still take together."""

    __slots__ = ("left",)

    def __init__(self, left: int = ALIGN_WORK_TOTAL) -> None:
        self.left = left


def stretches(
    old: Sequence[T], new: Sequence[T], work: Work | None = None, junk: Callable[[T], bool] | None = None
) -> list[Stretch]:
    """Where two lists differ. What is left between them is equal; stretches neither touch nor overlap.

    Aligned as a whole if that is cheap enough (ALIGN_WORK, and what is left of `work`). If not, items that are in both
    lists exactly once hold them together; between two of those the lists are aligned while there is work left, and
    count as replaced after it. Items that are `junk` hold nothing together: they only go with what is beside them.
    """
    work = work or Work()
    head, tail = _equal_ends(old, new)
    whole = (head, len(old) - tail, head, len(new) - tail)
    limit = min(ALIGN_WORK, work.left)
    out: list[Stretch] = []
    for gap in [whole] if _cost(old, new, whole, junk) <= limit else _gaps(old, new, whole):
        cost = _cost(old, new, gap, junk)
        if cost > limit:
            _append(out, gap)
            continue
        limit -= cost
        work.left -= cost
        start_old, end_old, start_new, end_new = gap
        matcher = difflib.SequenceMatcher(junk, old[start_old:end_old], new[start_new:end_new], autojunk=False)
        for tag, a, b, c, d in matcher.get_opcodes():
            if tag != "equal":
                _append(out, (start_old + a, start_old + b, start_new + c, start_new + d))
    return out


def _equal_ends(old: Sequence[T], new: Sequence[T]) -> tuple[int, int]:
    shorter = min(len(old), len(new))
    head = 0
    while head < shorter and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < shorter - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    return head, tail


def _append(out: list[Stretch], stretch: Stretch) -> None:
    if out and out[-1][1] == stretch[0] and out[-1][3] == stretch[2]:
        stretch = (out[-1][0], stretch[1], out[-1][2], stretch[3])
        out.pop()
    out.append(stretch)


def _cost(old: Sequence[T], new: Sequence[T], gap: Stretch, junk: Callable[[T], bool] | None) -> int:
    """Steps that SequenceMatcher may take: pairs of equal items, looked through once for each block it finds."""
    before, after = old[gap[0] : gap[1]], new[gap[2] : gap[3]]
    if not before or not after:
        return 0
    seen = Counter(after)
    if junk is not None:
        seen = Counter({item: count for item, count in seen.items() if not junk(item)})
    return (sum(seen[item] for item in before) + len(before)) * min(len(before), len(after))


def _gaps(old: Sequence[T], new: Sequence[T], whole: Stretch) -> Iterator[Stretch]:
    """`whole` without the unique items that are in the same order in both."""
    at_old, end_old, at_new, end_new = whole
    for anchor_old, anchor_new in [*_anchors(old, new, whole), (end_old, end_new)]:
        if at_old < anchor_old or at_new < anchor_new:
            yield at_old, anchor_old, at_new, anchor_new
        at_old, at_new = anchor_old + 1, anchor_new + 1


def _anchors(old: Sequence[T], new: Sequence[T], whole: Stretch) -> list[tuple[int, int]]:
    """Places of items that are unique on both sides, as many as are in the same order."""
    middle_old, middle_new = old[whole[0] : whole[1]], new[whole[2] : whole[3]]
    once_old = {item for item, count in Counter(middle_old).items() if count == 1}
    once_new = {item for item, count in Counter(middle_new).items() if count == 1}
    both = once_old & once_new
    place = {item: index for index, item in enumerate(middle_new, whole[2]) if item in both}
    pairs = [(index, place[item]) for index, item in enumerate(middle_old, whole[0]) if item in both]
    # The longest rising run of new places: `ends[k]` is the lowest end of a run of k + 1.
    ends: list[int] = []
    last: list[int] = []  # index into pairs of that end
    before: list[int] = []  # of each pair: the one before it in its run
    for index, (_, position) in enumerate(pairs):
        rank = bisect_left(ends, position)
        before.append(last[rank - 1] if rank else -1)
        if rank == len(ends):
            ends.append(position)
            last.append(index)
        else:
            ends[rank], last[rank] = position, index
    run: list[tuple[int, int]] = []
    index = last[-1] if last else -1
    while index >= 0:
        run.append(pairs[index])
        index = before[index]
    return run[::-1]


class Hunk(NamedTuple):
    """Stretches whose contexts touch, with the lines around them."""

    header: str
    stretches: list[Stretch]
    start: int  # first and last line shown of the old text
    end: int


class Lines:
    """Two texts aligned by line."""

    def __init__(self, old: str, new: str, work: Work | None = None) -> None:
        self.old, self.new = old.splitlines(), new.splitlines()
        self.stretches = stretches(self.old, self.new, work)

    def hunks(self) -> Iterator[Hunk]:
        hunks: list[list[Stretch]] = []
        for stretch in self.stretches:
            if hunks and stretch[0] - hunks[-1][-1][1] <= 2 * DIFF_CONTEXT_LINES:
                hunks[-1].append(stretch)
            else:
                hunks.append([stretch])
        for hunk in hunks:
            first, last = hunk[0], hunk[-1]
            lead = min(first[0], DIFF_CONTEXT_LINES)
            trail = min(len(self.old) - last[1], DIFF_CONTEXT_LINES)
            size_old, size_new = last[1] - first[0] + lead + trail, last[3] - first[2] + lead + trail
            header = f"@@ -{first[0] - lead + 1},{size_old} +{first[2] - lead + 1},{size_new} @@"
            yield Hunk(header, hunk, first[0] - lead, last[1] + trail)

    def unified(self) -> list[str]:
        """Bounded: the last line counts what is cut."""
        out: list[str] = []
        for hunk in self.hunks():
            out.append(hunk.header)
            at = hunk.start
            for a, b, c, d in hunk.stretches:
                out += [f" {line}" for line in self.old[at:a]]
                out += [f"-{line}" for line in self.old[a:b]]
                out += [f"+{line}" for line in self.new[c:d]]
                at = b
            out += [f" {line}" for line in self.old[at : hunk.end]]
            if len(out) > DIFF_LINES:
                break
        if len(out) > DIFF_LINES:
            out = out[:DIFF_LINES]
            changed = sum(b - a + d - c for a, b, c, d in self.stretches)
            out.append(f"… {changed - sum(line[0] in '+-' for line in out)} more changed lines")
        return [_short_line(line) for line in out]


def line_diff(old: str, new: str) -> tuple[list[str], int, int]:
    """Unified lines, lines added, lines removed."""
    lines = Lines(old, new)
    plus = sum(d - c for _, _, c, d in lines.stretches)
    minus = sum(b - a for a, b, _, _ in lines.stretches)
    return lines.unified(), plus, minus


def _short_line(line: str) -> str:
    return line if len(line) <= DIFF_LINE_CHARS else f"{line[:DIFF_LINE_CHARS]}… ({len(line) - 1} characters)"

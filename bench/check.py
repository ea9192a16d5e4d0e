"""Whether a few ratios are as good as the newest that were kept: `make bench-check`, about two minutes.

Only ratios to a peer in the same run are compared, of those that have a bar: they hold on another machine, or a busier
one, better than any figure of ours alone.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from bench import calls, report
from bench.compare import compare
from bench.report import Row
from bench.resources import load_average
from bench.storage import storage

# A ratio may be worse by so much. Without a change of code those of CPU time and of bytes differ by less, those of
# synced writes by more where others use the disk.
TOLERANCE = 0.25
ROUNDS, SECONDS, CALLERS = 3, 1.5, 64
SHAPES = {
    "switch": [shape for shape in calls.SWITCH if shape.callers <= CALLERS],
    "read": [shape for shape in calls.READ if shape.callers == CALLERS and not shape.independent],
    "publish": [shape for shape in calls.PUBLISH if shape.bar is not None],
}


def check() -> int:
    """What to exit with: 1 when a ratio is worse, or nothing could be compared."""
    kept = report.kept()
    if not kept:
        print(f"{report.ROWS.name} keeps nothing to compare with; python -m bench --write measures and keeps")
        return 1
    print(f"{load_average()} before it: what others do falls on synced writes first")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as directory:
        measured = asyncio.run(measure(Path(directory)))
    judged = [judge(row, kept) for row in measured]
    bad = sum(worse is True for _, worse in judged)
    print("\n".join(said for said, _ in judged))
    print(f"{bad} worse, {time.monotonic() - began:.0f} s, {load_average()}")
    return 1 if bad or all(worse is None for _, worse in judged) else 0


async def measure(directory: Path) -> list[Row]:
    rows: list[Row] = []
    async with calls.both(directory / "calls", callers=CALLERS) as (side, peer):
        for mode, shapes in SHAPES.items():
            # etcd publishes more than twice as fast while its file is small: that phase must be one round of many
            seconds = calls.SECONDS if mode == "publish" else SECONDS
            rows += await calls.measure(side, peer, mode, shapes, ROUNDS, seconds)
    rows += await storage(directory / "storage", 1)
    rows += await compare(directory, 1)  # of CPU time: it hardly differs from round to round
    return [row for row in rows if row.bar is not None]


def judge(row: Row, kept: Mapping[str, Row]) -> tuple[str, bool | None]:
    """In words, and whether it is worse than the tolerance allows; None: it cannot be compared."""
    before = kept.get(row.key)
    if row.ratio is None:
        return f"{row.key}: skipped, {'no peer' if not row.peer_name else f'{row.peer_name} is absent'}", None
    if before is None or before.ratio is None:
        return f"{row.key}: {row.ratio:.2f}, skipped, no ratio is kept", None
    change = row.ratio / before.ratio
    worse = change < 1 - TOLERANCE if row.more_is_better else change > 1 + TOLERANCE
    return f"{row.key}: {row.ratio:.2f}, kept {before.ratio:.2f}{', WORSE' * worse}", worse

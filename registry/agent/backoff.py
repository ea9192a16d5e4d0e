"""How long to wait before trying again. Pure."""

from __future__ import annotations

from random import Random


def delay_s(failures: int, bounds: tuple[float, float], random: Random) -> float:
    """After the `failures`-th failure in a row (from 1): doubling from the first to the longest delay, of which the
    lower half is certain and the upper half is chance, so that agents that failed together do not return together."""
    first, longest = bounds
    return min(longest, first * 2.0 ** min(failures - 1, 32)) * random.uniform(0.5, 1.0)

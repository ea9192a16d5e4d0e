"""Figures of what was measured."""

from __future__ import annotations

from collections.abc import Sequence


def percentile_ms(took_ms: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of at least one duration."""
    ordered = sorted(took_ms)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]

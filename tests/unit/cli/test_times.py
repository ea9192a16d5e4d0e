from __future__ import annotations

import pytest

from registry.cli.times import parse, parse_ahead

NOW_MS = 1_770_000_000_123
DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2d", NOW_MS - 2 * DAY_MS),
        ("90s", NOW_MS - 90_000),
        ("1w", NOW_MS - 7 * DAY_MS),
        ("999999w", 0),
        ("2026-02-02", 1_769_990_400_000),
        ("2026-02-02T02:40", 1_770_000_000_000),
        ("2026-02-02T02:40Z", 1_770_000_000_000),
        ("2026-02-02T03:40:00.5+01:00", 1_770_000_000_500),
        ("1900-01-01", 0),
    ],
)
def test_moments(text, ms):
    assert parse(text, NOW_MS) == ms


@pytest.mark.parametrize("text", ["", "yesterday", "2 d", "d", "-2d", "2026-13-01", "2026-02-02T25:00", "٢d"])
def test_what_is_no_moment(text):
    assert parse(text, NOW_MS) is None


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("+10m", NOW_MS + 600_000),
        ("+0s", NOW_MS),
        ("+2d", NOW_MS + 2 * DAY_MS),
        ("2026-02-02T02:40Z", 1_770_000_000_000),
        ("2026-02-02T03:40:00.5+01:00", 1_770_000_000_500),
        ("1900-01-01T00:00Z", 0),
    ],
)
def test_moments_to_come(text, ms):
    assert parse_ahead(text, NOW_MS) == ms


@pytest.mark.parametrize("text", ["", "10m", "+", "+10", "++10m", "-10m", "tomorrow", "2026-02-02", "2026-02-02T02:40"])
def test_what_is_no_moment_to_come_or_leaves_its_zone_open(text):
    assert parse_ahead(text, NOW_MS) is None

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from cluster import seams


@pytest.fixture(autouse=True)
def _real_clock_afterwards() -> Iterator[None]:
    """The engine's clock belongs to the process: give it back."""
    yield
    seams.use_clock(time.monotonic)

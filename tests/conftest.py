"""How `make test` shares tests among processes: a file stays together, and so do all that kill or cut off members."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        faults = "faults" in item.path.parts
        item.add_marker(pytest.mark.xdist_group("faults" if faults else str(item.path)))

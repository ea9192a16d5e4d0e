"""PySyncObj as shipped stops replicating after cuts; under the guards it does not. `make sim-table` counts seeds."""

from __future__ import annotations

import pytest

from tests.simulation import table
from tests.simulation.table import ROWS, Row, guarded, shipped


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.title)
def test_as_shipped_it_does_not_converge_where_it_does_under_the_guards(row: Row) -> None:
    stuck = next(seed for seed in range(5) if shipped(row, seed).startswith("not converged"))
    assert guarded(row, stuck) == ""


def test_as_shipped_it_converges_without_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is not the simulator that keeps it from it."""
    monkeypatch.setattr(table, "CUTS_A_SECOND", 0.0)
    monkeypatch.setattr(table, "RESTARTS_A_SECOND", 0.0)
    assert [shipped(row, 0) for row in ROWS] == ["", "", ""]

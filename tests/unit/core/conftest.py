from __future__ import annotations

import pytest

from tests.unit.core.kit import Machine


@pytest.fixture
def machine() -> Machine:
    """Founded: revision 1."""
    machine = Machine()
    machine.found()
    return machine

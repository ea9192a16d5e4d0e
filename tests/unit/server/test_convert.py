from __future__ import annotations

from typing import get_args

import pytest

from registry.core import model
from registry.server import convert
from registry.store import queries


def report(generation: int, phase: model.Phase, running_generation: int) -> model.Agent:
    return model.Agent(
        agent="edge-1",
        workflow="a/b",
        pointer="active",
        incarnation="i",
        sequence=1,
        generation=generation,
        phase=phase,
        running_generation=running_generation,
    )


@pytest.mark.parametrize(
    ("generation", "phase", "running", "state"),
    [
        (3, "installed", 3, "installing"),
        (3, "confirmed", 3, "current"),
        (3, "reverted", 2, "error"),
        (3, "refused", 2, "error"),
        (2, "confirmed", 2, "behind"),
        (2, "refused", 1, "behind"),
    ],
)
def test_an_agents_state_is_seen_from_the_pointers_generation(
    generation: int, phase: model.Phase, running: int, state: str
) -> None:
    assert phase in get_args(model.Phase)
    assert convert.agent_state(report(generation, phase, running), 3, age_ms=60_000) == state
    assert convert.agent_state(report(generation, phase, running), 3, age_ms=121_000) == "silent"


def test_age_counts_from_the_last_contact_and_is_never_negative() -> None:
    target = model.Pointer(workflow="a/b", pointer="active", version=1, digest="", generation=3, revision=9)
    row = queries.AgentReport(report(3, "reverted", 2), 5_000, target)
    shown = convert.agent(row, now_ms=7_500)
    assert (shown.generation, shown.target_generation, shown.age_ms) == (2, 3, 2_500)
    assert convert.agent(row, now_ms=4_000).age_ms == 0

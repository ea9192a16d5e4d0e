"""Without any of these guards a seed breaks a promise, as told here. With all of them test_simulation.py plays."""

from __future__ import annotations

import pytest

from registry.agent import guards
from tests.simulation.agent import rules


@pytest.mark.parametrize("rule", rules.RULES)
def test_a_seed_needs_the_rule(rule: str) -> None:
    assert rules.shown(rule), f"look for another seed with python -m tests.simulation.agent.rules {rule}"


def test_a_rule_comes_back() -> None:
    before = guards.judge_bytes
    with rules.without("digest"):
        assert guards.judge_bytes is not before
    assert guards.judge_bytes is before

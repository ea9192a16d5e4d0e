from __future__ import annotations

from collections.abc import Mapping

from registry.core.commands import ForgottenAgent
from registry.core.model import Agent, LastContact, Policy
from registry.core.retention import DAY_MS
from registry.server.expiry import Expiry

NOW_MS = 1_000 * DAY_MS
SAID = {
    "*": Policy(agents_expire_days="30"),
    "a/*": Policy(checks="refuse"),
    "b/*": Policy(agents_expire_days="7"),
    "b/kept": Policy(agents_expire_days="never"),
}


def found(
    silent_days: Mapping[str, float],
    follows: Mapping[str, tuple[str, ...]],
    said: Mapping[str, Policy] = SAID,
    most: int = 100,
) -> list[ForgottenAgent]:
    expiry = Expiry(said, NOW_MS, most)
    for agent, days in silent_days.items():
        expiry.see_contact(agent, LastContact(time_ms=heard_ms(days)))
    for agent, workflows in follows.items():
        for workflow in workflows:
            expiry.see_row(Agent(agent=agent, workflow=workflow, pointer="active", incarnation="i", sequence=1))
    forgotten = list(expiry.forgotten())
    assert not forgotten or (expiry.is_ruled and expiry.found)
    return forgotten


def heard_ms(days: float) -> int:
    return NOW_MS - int(days * DAY_MS)


def gone(agent: str, days: float, *workflows: str, entirely: bool = True) -> ForgottenAgent:
    rows = tuple((workflow, "active") for workflow in workflows)
    return ForgottenAgent(agent=agent, rows=rows, heard_ms=heard_ms(days), entirely=entirely)


def test_an_agent_expires_by_the_narrowest_rule_of_each_workflow_that_it_follows() -> None:
    follows = {"edge": ("a/x", "b/x", "b/kept")}
    assert found({"edge": 6.9}, follows) == []
    assert found({"edge": 7}, follows) == [gone("edge", 7, "b/x", entirely=False)]
    assert found({"edge": 30}, follows) == [gone("edge", 30, "a/x", "b/x", entirely=False)]
    assert found({"edge": 30}, {"edge": ("a/x", "b/x")}) == [gone("edge", 30, "a/x", "b/x")]
    assert found({"edge": 7}, {"edge": ("b/x",)}) == [gone("edge", 7, "b/x")]


def test_one_that_never_reported_expires_as_the_policy_of_all_says() -> None:
    assert found({"edge": 29.9}, {}) == []
    assert found({"edge": 30}, {}) == [gone("edge", 30)]
    assert found({"edge": 900}, {}, {"b/*": SAID["b/*"]}) == []


def test_those_who_are_heard_of_stay() -> None:
    follows = {"old": ("b/x",), "young": ("b/x",), "unknown": ("b/x",)}
    assert found({"old": 8, "young": 0.1}, follows) == [gone("old", 8, "b/x")]


def test_without_a_rule_nobody_expires() -> None:
    rules: list[dict[str, Policy]] = [{}, {"*": Policy(checks="refuse")}, {"*": Policy(agents_expire_days="never")}]
    for said in rules:
        assert not Expiry(said, NOW_MS, 100).is_ruled
        assert found({"edge": 900}, {"edge": ("a/x",)}, said) == []


def test_so_many_are_looked_at_in_one_go() -> None:
    silent = {f"edge-{number}": 8.0 for number in range(5)}
    follows = dict.fromkeys(silent, ("b/x",))
    assert [each.agent for each in found(silent, follows, most=2)] == ["edge-0", "edge-1"]


def test_the_next_time_goes_on_behind_the_last_one_and_then_anew() -> None:
    names = [f"edge-{number}" for number in range(4)]
    seen, after = [], ""
    for _ in range(3):
        expiry = Expiry(SAID, NOW_MS, 2)
        for name in names:
            if name > after:
                expiry.see_contact(name, LastContact(time_ms=heard_ms(40)))
        seen.append([each.agent for each in expiry.forgotten()])
        after = expiry.next_after
    assert seen == [names[:2], names[2:], []]
    assert after == ""

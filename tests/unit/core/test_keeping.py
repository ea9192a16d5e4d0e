"""What the policy fields of retention say."""

from __future__ import annotations

import pytest

from registry.core import keeping, limits
from registry.core.errors import Reason
from registry.core.model import Policy
from registry.core.outcomes import PolicySet
from tests.unit.core.kit import WORKFLOW, Machine, assert_rejected


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("all", None),
        ("10", {"published": 10, "manual": 10, "periodic": 10, "terminal": 10}),
        ("0", {"published": 0, "manual": 0, "periodic": 0, "terminal": 0}),
        ("periodic=3", {"published": None, "manual": None, "periodic": 3, "terminal": None}),
        (
            "published=10,manual=all,periodic=3,terminal=0",
            {"published": 10, "manual": None, "periodic": 3, "terminal": 0},
        ),
    ],
)
def test_last(text: str, last: dict[str, int | None] | None) -> None:
    assert keeping.parse_last(text) == last


@pytest.mark.parametrize(("text", "days"), [("all", None), ("0", 0), ("30", 30), (str(limits.KEEP_DAYS), 36500)])
def test_days(text: str, days: int | None) -> None:
    assert keeping.parse_days(text) == days


@pytest.mark.parametrize(("text", "days"), [("never", None), ("1", 1), ("30", 30), (str(limits.KEEP_DAYS), 36500)])
def test_expiry(text: str, days: int | None) -> None:
    assert keeping.parse_expiry(text) == days
    assert keeping.agents_expire_days(Policy(agents_expire_days=text)) == days
    assert keeping.agents_expire_days(Policy()) is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"agents_expire_days": "0"}, Reason.INVALID_REQUEST),
        ({"agents_expire_days": "all"}, Reason.INVALID_REQUEST),
        ({"agents_expire_days": "7d"}, Reason.INVALID_REQUEST),
        ({"agents_expire_days": str(limits.KEEP_DAYS + 1)}, Reason.TOO_LARGE),
        ({"keep_last": "ten"}, Reason.INVALID_REQUEST),
        ({"keep_last": "-1"}, Reason.INVALID_REQUEST),
        ({"keep_last": "1٣"}, Reason.INVALID_REQUEST),
        ({"keep_last": "published"}, Reason.INVALID_REQUEST),
        ({"keep_last": "published="}, Reason.INVALID_REQUEST),
        ({"keep_last": "published=1,published=2"}, Reason.INVALID_REQUEST),
        ({"keep_last": "published=1,"}, Reason.INVALID_REQUEST),
        ({"keep_last": "weekly=1"}, Reason.INVALID_REQUEST),
        ({"keep_last": "published=1, manual=2"}, Reason.INVALID_REQUEST),
        ({"keep_last": "1" * (limits.KEEP_CHARS + 1)}, Reason.INVALID_REQUEST),
        ({"keep_last": str(limits.KEEP_LAST + 1)}, Reason.TOO_LARGE),
        ({"keep_last": f"manual={limits.KEEP_LAST + 1}"}, Reason.TOO_LARGE),
        ({"keep_days": "30d"}, Reason.INVALID_REQUEST),
        ({"keep_days": "1.5"}, Reason.INVALID_REQUEST),
        ({"keep_days": str(limits.KEEP_DAYS + 1)}, Reason.TOO_LARGE),
    ],
)
def test_what_says_nothing_is_refused(machine: Machine, fields: dict[str, str], reason: Reason) -> None:
    before = machine.dump()
    assert_rejected(machine.set_policy("*", **fields), reason)
    assert machine.dump() == before


def test_a_policy_that_says_neither_keeps_everything() -> None:
    assert keeping.of(Policy(verdict="warn")).everything
    assert keeping.of(Policy(keep_last="all", keep_days="3")).everything
    assert keeping.of(Policy(keep_last="3", keep_days="all")).everything
    only_days = keeping.of(Policy(keep_days="3"))
    assert (only_days.everything, only_days.days, set(only_days.last.values())) == (False, 3, {0})
    only_last = keeping.of(Policy(keep_last="manual=3"))
    assert (only_last.everything, only_last.days, only_last.last["manual"]) == (False, 0, 3)


def test_a_policy_of_a_workflow_is_in_its_history(machine: Machine) -> None:
    machine.set_policy(WORKFLOW, keep_last="3")
    machine.published(b"1")
    outcome = machine.set_policy(WORKFLOW, keep_last="10", keep_days="30")
    assert isinstance(outcome, PolicySet)
    machine.set_policy("support/*", keep_last="3")
    assert list(machine.rows.workflow_revisions(WORKFLOW)) == [outcome.revision, 3]

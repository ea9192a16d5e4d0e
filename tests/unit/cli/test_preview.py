"""What is shown before a switch: what is not known is said, and ends nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs

from registry.cli import preview
from registry.cli.pointers import otherwise
from registry.cli.preview import ROLLBACK, SWITCH, confirm
from registry.client import Move
from registry.core.errors import NotFound, Reason, Refused, RegistryError, Unavailable
from registry.core.model import Pointer, Policy
from registry.core.outcomes import Switched

WORKFLOW = "support/triage"
LIVE = Pointer(
    workflow=WORKFLOW, pointer="active", version=2, digest="", previous_version=1, generation=4, revision=9,
    reason="go", principal="ada", time_ms=1, rollback=False,
)  # fmt: skip
BACK = Switched(revision=9, pointers=(structs.replace(LIVE, version=1, generation=5),), notes=("not stable",))
NO_QUORUM = Unavailable(Reason.NO_QUORUM, "no majority", hint="wait")


class Half:
    """A client that knows pointers and versions, and of the rest only what the policy says."""

    def __init__(self, live: Pointer | None, worst: str) -> None:
        self._live = live
        self._worst = worst
        self.tried: Switched | Exception = NO_QUORUM  # what a rollback would lead to

    async def pointer(self, workflow: str, pointer: str) -> Pointer:
        if self._live is None:
            raise NotFound(Reason.POINTER_NOT_FOUND, "no pointer", hint="switch")
        return self._live

    async def version(self, workflow: str, target: str | int) -> Any:
        return SimpleNamespace(number=int(target), status="candidate")

    async def preview_rollback(self, moves: list[Move], *, force: bool) -> Switched:
        if isinstance(self.tried, Exception):
            raise self.tried
        return self.tried

    async def policy(self, workflow: str) -> Any:
        return SimpleNamespace(effective=Policy(verdict=self._worst))

    async def compare(self, *_: object) -> Any:
        raise NO_QUORUM

    async def impact(self, workflow: str) -> Any:
        raise NO_QUORUM

    async def agents(self, workflow: str) -> AsyncIterator[Any]:
        raise NO_QUORUM
        yield

    async def history(self, workflow: str, pointer: str) -> AsyncIterator[Any]:
        raise NO_QUORUM
        yield


class Shown:
    """A session whose person says yes."""

    def __init__(self, live: Pointer | None, worst: str = "block") -> None:
        self.client = Half(live, worst)
        self.lines: list[str] = []

    async def doing(self, call: Awaitable[Any]) -> Any:
        return await call

    def say(self, text: str) -> None:
        self.lines.append(text.strip())


@pytest.fixture(autouse=True)
def agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "ask", lambda question: None)


@pytest.mark.parametrize("verb", [SWITCH, ROLLBACK])
@pytest.mark.parametrize("target", ["3", ""])
async def test_what_is_not_known_ends_no_preview(verb: str, target: str) -> None:
    shown: Any = Shown(LIVE)
    assert await confirm(shown, verb, [Move(WORKFLOW, target, "active")]) == [(Move(WORKFLOW, target, "active", 4), 0)]
    assert shown.lines[1:] == [
        *(["not tried before: no majority"] if verb == ROLLBACK else []),
        "not compared: no majority" if target else "live before: not known: no majority",
        "agents that follow it: not known: no majority",
        "workflows that depend on it: not known: no majority",
    ]


async def test_when_agents_may_install_it_is_the_last_that_is_said() -> None:
    shown: Any = Shown(LIVE)
    await confirm(shown, SWITCH, [Move(WORKFLOW, "3", "active")], when="not before noon")
    assert shown.lines[-1] == "agents fetch it at once, and install it not before noon"


@pytest.mark.parametrize(("worst", "told"), [("warn", True), ("block", False)])
async def test_a_first_switch_says_what_the_policy_will_hold_against_it(worst: str, told: bool) -> None:
    shown: Any = Shown(None, worst)
    assert await confirm(shown, SWITCH, [Move(WORKFLOW, "3", "active")]) == [(Move(WORKFLOW, "3", "active", 0), 0)]
    warned = "not judged before: nothing is live; the policy takes warn at worst, and may refuse it without --force"
    assert (warned in shown.lines) is told


async def test_a_rollback_shows_the_version_that_it_would_pick_now() -> None:
    shown: Any = Shown(LIVE)
    shown.client.tried = BACK
    assert await confirm(shown, ROLLBACK, [Move(WORKFLOW, "", "active")]) == [(Move(WORKFLOW, "", "active", 4), 1)]
    assert shown.lines[:4] == [
        "support/triage active: version 2 -> version 1, candidate (generation 5)",
        "not stable",
        "live before: not known: no majority",
        "not compared: no majority",
    ]


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("", Refused(Reason.NO_ROLLBACK_TARGET, "no earlier version", hint="choose one")),
        ("3", Refused(Reason.VERDICT_REFUSED, "active never named version 3", hint="regctl switch")),
        ("", NotFound(Reason.POINTER_NOT_FOUND, "no pointer active", hint="its pointers: none yet")),
    ],
)
async def test_a_rollback_that_the_registry_would_refuse_says_so(target: str, error: RegistryError) -> None:
    shown: Any = Shown(LIVE)
    shown.client.tried = error
    assert await confirm(shown, ROLLBACK, [Move(WORKFLOW, target)]) == [(Move(WORKFLOW, target, "active", 4), 0)]
    assert shown.lines[1:3] == [f"this will be refused: {error.message}", f"hint: {error.hint}"]


def test_only_another_pick_than_the_one_shown_is_said() -> None:
    move = Move(WORKFLOW, "", "active", 4)
    assert (
        otherwise([preview.Shown(move, 1)], BACK) == otherwise([preview.Shown(move)], BACK) == otherwise([], BACK) == []
    )
    (said,) = otherwise([preview.Shown(move, 2)], BACK)
    assert "picked version 1, not version 2" in said


async def test_nothing_is_judged_in_a_rollback() -> None:
    shown: Any = Shown(LIVE, "ok")
    await confirm(shown, ROLLBACK, [Move(WORKFLOW, "3", "active")])
    assert not any("policy" in line for line in shown.lines)

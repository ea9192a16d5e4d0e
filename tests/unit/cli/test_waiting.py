"""What is said while a switch is waited for, and at its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs

from registry.cli import waiting
from registry.client import AgentRow, Confirmations
from registry.core import limits
from registry.core.errors import Reason, Unavailable
from registry.core.model import Pointer
from registry.server.limits import CONFIRMATIONS_WATCHES

NAME = "support/triage"
LIVE = Pointer(workflow=NAME, pointer="active", version=2, digest="", generation=5, revision=9)
GONE = Unavailable(Reason.NO_MEMBER, "no member could say it")


def row(name: str, state: str, generation: int = 4, code: str = "") -> AgentRow:
    return AgentRow(
        agent=name, site="eu-1", labels={}, workflow=NAME, pointer="active", version=1, digest="",
        generation=generation, target_generation=5, state=state, code=code, detail="", reported_ms=1, age_ms=2000,
    )  # fmt: skip


def found(
    confirmed: int, *behind: AgentRow, agents: int, silent: int = 0, nacked: int = 0, done: bool = False
) -> Confirmations:
    return Confirmations(
        workflow=NAME, pointer="active", generation=5, agents=agents, confirmed=confirmed, nacked=nacked,
        silent=silent, behind=behind, done=done,
    )  # fmt: skip


NACKED = found(
    183,
    row("eu-7", "nacked", code="PROBE_FAILED"),
    *(row(f"eu-{number}", "behind") for number in range(10, 16)),
    row("eu-9", "silent"),
    agents=200,
    silent=3,
    nacked=1,
)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (found(200, agents=200), "confirmed 200/200"),
        (
            NACKED,
            "confirmed 183/200, behind: eu-7 (nacked PROBE_FAILED), eu-10, eu-11, eu-12, eu-13 and 9 more, silent: 3",
        ),
        (found(1, row("eu-1", "silent"), agents=2, silent=1), "confirmed 1/2, silent: 1"),
        (found(1, row("eu-1", "installing"), agents=2), "confirmed 1/2, behind: eu-1 (installing)"),
    ],
)
def test_progress_in_words(state: Confirmations, words: str) -> None:
    assert waiting.progress_words(state) == words


def waited(state: Confirmations | None, failure: Unavailable | None = None) -> waiting.Waited:
    return waiting.Waited(pointer=LIVE, found=state, took_s=1.23, failure=failure)


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (waited(found(0, agents=0)), f"{NAME} active: no agent reports for it"),
        (waited(found(1, agents=1)), f"{NAME} active: confirmed by the only agent in 1.2 s"),
        (waited(found(200, agents=200)), f"{NAME} active: confirmed by all 200 agents in 1.2 s"),
        (waited(None, GONE), f"{NAME} active: not known who has confirmed it: no member could say it"),
    ],
)
def test_the_end_in_words(outcome: waiting.Waited, words: str) -> None:
    assert waiting.words(outcome) == words


def test_the_end_says_why_it_is_early_and_where_to_look() -> None:
    said = waiting.words(waited(NACKED, GONE))
    assert said.startswith(f"{NAME} active: confirmed 183/200, behind: eu-7 (nacked PROBE_FAILED)")
    assert said.endswith(f"(no member could say it); see all with: regctl agents {NAME} --behind")


async def test_a_switch_that_agents_may_not_install_yet_says_from_when_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ms = 1_800_000_000_000
    monkeypatch.setattr("time.time_ns", lambda: now_ms * 1_000_000)
    why = "agents install it from 2027-01-15 09:00:00 UTC on"
    state = found(0, row("eu-1", "behind"), agents=1, done=True)
    later = structs.replace(LIVE, not_before_ms=now_ms + 3_600_000)
    made, said = session(Scripted(state), given_s=60.0)
    (outcome,) = await waiting.wait(made, [later])
    assert said == [f"{NAME} active: {why}; the wait ends before that"]
    assert f"after 0 s: {why}; see all" in waiting.words(outcome)
    soon = structs.replace(LIVE, not_before_ms=now_ms + 60_000)
    made, said = session(Scripted(found(1, agents=1, done=True)), given_s=60.0)
    (outcome,) = await waiting.wait(made, [soon])
    assert said == []
    assert waiting.words(outcome).startswith(f"{NAME} active: confirmed by the only agent")


class Scripted:
    """A client that says what it is told to, and lists agents."""

    def __init__(self, *says: Confirmations | Exception, rows: tuple[AgentRow, ...] = ()) -> None:
        self.says, self.rows = says, rows
        self.asked: tuple[Any, ...] = ()

    async def confirmations(self, *asked: Any, **more: Any) -> AsyncIterator[Confirmations]:
        self.asked = (*asked, more)
        for each in self.says:
            if isinstance(each, Exception):
                raise each
            yield each

    async def agents(self, workflow: str, *, page_size: int) -> AsyncIterator[AgentRow]:
        for each in self.rows:
            yield each


def session(client: Scripted, *, json: bool = False, given_s: float | None = None) -> tuple[Any, list[str]]:
    said: list[str] = []
    return SimpleNamespace(client=client, json=json, quiet=json, given_timeout_s=given_s, say=said.append), said


async def test_lines_are_few_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    client = Scripted(*(found(number, row("eu-1", "behind"), agents=9) for number in range(9)), found(9, agents=9))
    made, said = session(client)
    (outcome,) = await waiting.wait(made, [LIVE])
    assert outcome.complete
    assert said == ["confirmed 0/9, behind: eu-1 and 8 more"]
    assert capsys.readouterr().err == ""
    *named, more = client.asked
    assert named == [NAME, "active", 5]
    assert more == {"wait_s": pytest.approx(60.0, abs=5.0), "min_revision": 9, "timeout_s": more["wait_s"]}


async def test_a_line_changes_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    made, said = session(Scripted(NACKED, found(200, agents=200, done=True)), given_s=3.0)
    await waiting.wait(made, [LIVE, LIVE])
    shown = capsys.readouterr().err
    assert said == []
    assert shown.startswith("\r\x1b[Ksupport/triage: confirmed 183/200, beh…")
    assert shown.endswith("\r\x1b[K")
    assert "200/200" not in shown  # the end has words of its own


async def test_json_names_who_has_confirmed_and_who_has_not(capsys: pytest.CaptureFixture[str]) -> None:
    rows = (
        row("good", "current", 5),
        row("bad", "nacked", 4, "PROBE_FAILED"),
        row("old", "behind"),
        row("now", "installing", 5),
    )
    state = found(1, *rows[1:], agents=4, nacked=1, done=True)
    made, said = session(Scripted(state, rows=rows), json=True, given_s=0.1)
    (outcome,) = await waiting.wait(made, [LIVE])
    payload = waiting.payload(outcome)
    assert (payload["complete"], payload["confirmed"], payload["nacked"]) == (False, 1, 1)
    assert payload["confirmed_by"] == ("good",)
    assert [each["agent"] for each in payload["behind"]] == ["bad", "old", "now"]
    assert (said, capsys.readouterr().err) == ([], "")


async def test_a_failure_on_the_way_is_no_failure_of_the_switch() -> None:
    made, _ = session(Scripted(found(1, row("eu-1", "behind"), agents=2), GONE), json=True)
    (outcome,) = await waiting.wait(made, [LIVE])
    assert not outcome.complete
    assert waiting.payload(outcome)["error"] == GONE.message
    made, _ = session(Scripted(GONE), json=True)
    (outcome,) = await waiting.wait(made, [LIVE])
    assert waiting.payload(outcome) == {
        "complete": False,
        "waited_s": outcome.took_s.__round__(3),
        "error": GONE.message,
    }


class Crowded(Scripted):
    """Follows each to the end of its time."""

    def __init__(self) -> None:
        super().__init__()
        self.open = self.most = 0
        self.waits_s: list[float] = []

    async def confirmations(self, *asked: Any, wait_s: float, **more: Any) -> AsyncIterator[Confirmations]:
        self.open += 1
        self.most = max(self.most, self.open)
        self.waits_s.append(wait_s)
        await asyncio.sleep(wait_s)
        self.open -= 1
        yield found(1, row("eu-1", "behind"), agents=2, done=True)


async def test_many_pointers_share_the_time_and_no_more_are_followed_than_members_take() -> None:
    client = Crowded()
    made, _ = session(client, given_s=0.05)
    outcomes = await waiting.wait(made, [LIVE] * limits.MOVES)
    assert len(outcomes) == limits.MOVES
    assert all(each.found is not None and not each.complete for each in outcomes)
    assert client.most == waiting.AT_ONCE <= CONFIRMATIONS_WATCHES
    assert client.waits_s[waiting.AT_ONCE :] == [0] * (limits.MOVES - waiting.AT_ONCE)

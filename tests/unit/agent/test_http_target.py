"""The http target: its table as a pure thing, and against a real server that fails and dies as told."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec import structs

from registry.agent import limits
from registry.agent.guards import digest_of
from registry.agent.home import AgentFile, Home, HomeError
from registry.agent.status import callbacks
from registry.agent.targets.base import DONE, Candidate
from registry.agent.targets.http import Callback, HttpSpec, HttpTarget, load, plan, retry, shown
from registry.agent.transitions import Code
from tests.unit.agent.receiver import Receiver

WORKFLOW = "support/triage"
INSTALL = Callback(id=0, action="install", url="http://x", version=2, generation=5, digest="d2")


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver().serving() as receiver:
        yield receiver


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "state")
    os.close(home.lock())
    home.save_agent(AgentFile(agent="edge-1", incarnation="i", follows=((WORKFLOW, "active"),)))
    return home


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CALLBACK_BACKOFF_S", (0.001, 0.01))


def target_of(home: Home, spec: HttpSpec) -> HttpTarget:
    return HttpTarget(
        spec,
        home,
        agent="edge-1",
        workflow=WORKFLOW,
        pointer="active",
        random=Random(1),
        clock_ms=lambda: 1_700_000_000_000,
    )


def candidate(home: Home, data: bytes, generation: int = 1, *, force: bool = False) -> Candidate:
    digest = digest_of(data)
    home.put_content(digest, data)
    return Candidate(
        WORKFLOW, "active", generation, generation, digest, len(data), home.content_path(digest), "", force
    )


def rows(home: Home) -> tuple[Callback, ...]:
    return load(home, WORKFLOW, "active")


# The table


def made(number: int, **changes: Any) -> Callback:
    return structs.replace(INSTALL, id=number, **changes)


def test_a_delivery_is_gone_on_with_until_it_is_settled_or_something_came_between() -> None:
    assert plan([], INSTALL) == made(1)
    waiting = made(4, status="retries", attempts=3)
    assert plan([made(3, generation=4), waiting], INSTALL) == waiting
    back = made(5, action="revert", generation=4, status="success")
    assert plan([waiting, back], INSTALL) == made(6, attempts=3), "another key: the address has had others since"
    assert plan([made(4, status="success"), back], INSTALL) == made(6)
    dead = made(4, status="dead", attempts=30)
    assert plan([dead, back], INSTALL) == dead
    assert plan([made(1, status="success", url="http://other")], INSTALL) == made(2)


def test_what_the_address_has_is_what_the_newest_settled_row_says() -> None:
    one = made(1, status="success", digest="d1")
    assert shown([], "http://x") == ""
    assert shown([one], "http://x") == "d1"
    assert shown([one], "http://y") == ""
    assert shown([one, made(2, status="retries", attempts=2)], "http://x") == "d1", "it never got there"
    assert shown([one, made(2, status="retries", doubtful=True)], "http://x") is None
    assert shown([one, made(2, doubtful=True), made(3, status="success")], "http://x") == "d2"
    assert shown([one, made(2, action="remove", status="success", digest="")], "http://x") == ""


# Against a server


async def test_the_exact_bytes_arrive_with_everything_about_them(home: Home, receiver: Receiver) -> None:
    target = target_of(home, HttpSpec(receiver.url))
    data = os.urandom(700_000)
    wanted = candidate(home, data, 7)
    assert await target.shows(None)
    assert await target.check(wanted) == await target.apply(wanted) == DONE
    ((line, headers, body),) = receiver.requests
    assert line == "POST /hook?x=1 HTTP/1.1"
    assert body == data
    assert {name: value for name, value in headers.items() if name.startswith(("x-registry", "idem", "content"))} == {
        "content-type": "application/octet-stream",
        "content-length": "700000",
        "idempotency-key": "edge-1/i/support/triage:active/7/install/1",
        "x-registry-action": "install",
        "x-registry-agent": "edge-1",
        "x-registry-workflow": WORKFLOW,
        "x-registry-pointer": "active",
        "x-registry-version": "7",
        "x-registry-generation": "7",
        "x-registry-digest": wanted.digest,
        "x-registry-time": "1700000000",
    }
    assert await target_of(home, HttpSpec(receiver.url)).shows(wanted.digest)
    assert await target.apply(wanted) == DONE
    assert len(receiver.requests) == 1, "done is done, also after a crash before it was noted elsewhere"


async def test_what_may_pass_is_tried_again_under_one_key(home: Home, receiver: Receiver) -> None:
    target, wanted = target_of(home, HttpSpec(receiver.url)), candidate(home, b"one")
    receiver.script = [503, 429, 500, "cut"]
    for answer in ("HTTP status 503: because 503", "HTTP status 429: because 429", "HTTP status 500: because 500"):
        applied = await target.apply(wanted)
        assert (applied.code, applied.later, applied.detail) == (Code.TARGET_FAILED, True, answer)
        assert rows(home)[0].status == "retries"
    applied = await target_of(home, HttpSpec(receiver.url)).apply(wanted)
    assert (applied.later, applied.detail) == (True, "the connection ended before a reply came")
    assert await target.apply(wanted) == DONE
    assert len({headers["idempotency-key"] for _, headers, _ in receiver.requests}) == 1
    (row,) = callbacks(home)
    assert {name: row[name] for name in ("id", "status", "attempts", "answer", "url", "tried_ms")} == {
        "id": "support/triage:active/1",
        "status": "success",
        "attempts": 5,
        "answer": "",
        "url": receiver.url,
        "tried_ms": 1_700_000_000_000,
    }


@pytest.mark.parametrize(
    ("told", "certain"), [(503, True), (429, True), (403, True), (500, False), (504, False), ("cut", False)]
)
async def test_what_is_there_is_known_or_in_doubt(
    told: int | str, certain: bool, home: Home, receiver: Receiver
) -> None:
    target, one, two = target_of(home, HttpSpec(receiver.url)), candidate(home, b"one"), candidate(home, b"two", 2)
    await target.apply(one)
    receiver.script = [told]
    await target.apply(two)
    assert await target.shows(one.digest) is certain
    assert not await target.shows(two.digest)
    assert await target.apply(one._replace(force=True)) == DONE
    assert receiver.requests[-1][1]["idempotency-key"] == "edge-1/i/support/triage:active/1/revert/3"
    assert await target.shows(one.digest)


@pytest.mark.parametrize("later", [503, 403])
async def test_a_doubt_is_not_settled_by_an_answer_to_another_attempt(
    later: int, home: Home, receiver: Receiver
) -> None:
    target, one, two = target_of(home, HttpSpec(receiver.url)), candidate(home, b"one"), candidate(home, b"two", 2)
    await target.apply(one)
    receiver.script = ["cut", later]
    for _ in range(2):
        await target.apply(two)
    assert rows(home)[-1].answer.startswith(f"HTTP status {later}")
    assert not await target.shows(one.digest)


@pytest.mark.parametrize("told", [302, 400, 403, 404, "early"])
async def test_other_answers_refuse_for_good(told: int | str, home: Home, receiver: Receiver) -> None:
    target = target_of(home, HttpSpec(receiver.url))
    wanted = candidate(home, b"x" * 20_000_000 if told == "early" else b"one")
    receiver.script = [told]
    for _ in range(2):
        async with asyncio.timeout(5):
            applied = await target.apply(wanted)
        assert (applied.code, applied.later) == (Code.TARGET_FAILED, False)
        assert applied.detail.startswith(f"refused: HTTP status {413 if told == 'early' else told}")
    receiver.refused.set()
    assert len(receiver.requests) == (told != "early")
    assert (await target.check(wanted)).code is Code.TARGET_FAILED
    with pytest.raises(HomeError, match=r"was refused .* switch again"):
        retry(home, WORKFLOW, "active", 1)


async def test_nobody_there_changes_nothing(home: Home) -> None:
    async with Receiver().serving() as receiver:
        target, one = target_of(home, HttpSpec(receiver.url)), candidate(home, b"one")
        await target.apply(one)
    applied = await target.apply(candidate(home, b"two", 2))
    assert applied.later
    assert "Connect call failed" in applied.detail
    assert await target.shows(one.digest)


async def test_silence_ends_in_time(home: Home, receiver: Receiver) -> None:
    receiver.script = ["silent"]
    applied = await target_of(home, HttpSpec(receiver.url, timeout_s=0.1)).apply(candidate(home, b"one"))
    assert (applied.later, applied.detail) == (True, "no answer within 0.1 s")


async def test_a_delivery_that_is_cut_off_is_in_doubt_and_goes_on(home: Home, receiver: Receiver) -> None:
    target, one, two = target_of(home, HttpSpec(receiver.url)), candidate(home, b"one"), candidate(home, b"two", 2)
    await target.apply(one)
    receiver.script = ["silent"]
    applying = asyncio.create_task(target.apply(two))
    async with asyncio.timeout(10):
        while len(receiver.requests) < 2:
            await asyncio.sleep(0.002)
    applying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await applying
    again = target_of(home, HttpSpec(receiver.url))
    assert not await again.shows(one.digest)
    assert await again.apply(two) == DONE
    keys = [headers["idempotency-key"] for _, headers, _ in receiver.requests]
    assert keys[1] == keys[2]


async def test_a_dead_one_is_left_alone_until_the_operator_asks(
    home: Home, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CALLBACK_ATTEMPTS", 3)
    target, wanted = target_of(home, HttpSpec(receiver.url)), candidate(home, b"one")
    receiver.script = [503] * 4
    for _ in range(5):
        applied = await target.apply(wanted)
    assert len(receiver.requests) == 3
    assert (applied.code, applied.later) == (Code.TARGET_FAILED, True)
    assert applied.detail.startswith(
        "given up after 3 attempts (registry-agent callbacks --retry support/triage:active/1)"
    )
    assert await target.check(wanted) == applied
    with pytest.raises(HomeError, match="no callback support/triage:active/9"):
        retry(home, WORKFLOW, "active", 9)
    retry(home, WORKFLOW, "active", 1)
    assert await target.check(wanted) == DONE
    assert (await target.apply(wanted)).detail.startswith("HTTP status 503"), "asked again, and attempts are its own"
    assert await target.apply(wanted) == DONE
    with pytest.raises(HomeError, match="not dead: success"):
        retry(home, WORKFLOW, "active", 1)


async def test_a_step_back_is_tried_for_a_while(home: Home, receiver: Receiver) -> None:
    target = target_of(home, HttpSpec(receiver.url))
    receiver.script = [502, "cut", 503]
    assert await target.apply(candidate(home, b"one", force=True)) == DONE
    assert len(receiver.requests) == 4
    assert rows(home)[0].attempts == 4


@pytest.mark.parametrize("told", [204, 404, 405])
async def test_nothing_is_a_delete(told: int, home: Home, receiver: Receiver) -> None:
    target, wanted = target_of(home, HttpSpec(receiver.url)), candidate(home, b"one")
    await target.apply(wanted)
    receiver.script = [told]
    assert await target.apply(None) == DONE
    line, headers, body = receiver.requests[-1]
    assert (line.split()[0], headers["x-registry-action"], body) == ("DELETE", "remove", b"")
    assert await target.shows(None)
    assert await target.apply(wanted) == DONE
    assert len(receiver.requests) == 3, "what was removed is sent again"


async def test_requests_are_signed(home: Home, receiver: Receiver, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    secret.chmod(0o600)
    wanted = candidate(home, b"one")
    assert await target_of(home, HttpSpec(receiver.url, secret_file=secret)).apply(wanted) == DONE
    ((_, headers, body),) = receiver.requests
    # as docs/agent.md tells receivers to do it
    names = ["x-registry-time", "idempotency-key", "x-registry-workflow", "x-registry-pointer", "x-registry-version"]
    names += ["x-registry-generation", "x-registry-digest"]
    text = "\n".join(["POST", *(headers[name] for name in names)])
    assert headers["x-registry-signature"] == "sha256=" + hmac.new(b"s3cret", text.encode(), "sha256").hexdigest()
    assert headers["x-registry-digest"] == "sha256:" + hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize(
    ("mode", "text", "said"), [(0o644, "x", "chmod 600"), (0o600, "\n", "is empty"), (0, None, "")]
)
async def test_a_secret_that_cannot_be_used_is_said_before_anything_is_sent(
    mode: int, text: str | None, said: str, home: Home, receiver: Receiver, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    if text is not None:
        secret.write_text(text)
        secret.chmod(mode)
    target = target_of(home, replace(HttpSpec(receiver.url), secret_file=secret))
    wanted = candidate(home, b"one")
    for refused in (await target.check(wanted), await target.apply(wanted)):
        assert refused.code is Code.INSTALL_FAILED
        assert said in refused.detail
    assert not receiver.requests


async def test_a_damaged_table_is_doubt_and_is_written_anew(home: Home, receiver: Receiver) -> None:
    target, wanted = target_of(home, HttpSpec(receiver.url)), candidate(home, b"one")
    await target.apply(wanted)
    (home.directory / "targets" / WORKFLOW / "active.http.json").write_bytes(b"[{]")
    assert not await target.shows(wanted.digest)
    assert not await target.shows(None)
    assert await target.apply(wanted) == DONE
    assert await target.shows(wanted.digest)
    keys = [headers["idempotency-key"] for _, headers, _ in receiver.requests]
    assert keys[0] != keys[1]


async def test_the_table_stays_small(home: Home, receiver: Receiver) -> None:
    target = target_of(home, HttpSpec(receiver.url))
    for generation in range(1, limits.CALLBACKS_KEPT + 6):
        await target.apply(candidate(home, b"%d" % generation, generation))
    assert [row.id for row in rows(home)] == list(range(6, limits.CALLBACKS_KEPT + 6))

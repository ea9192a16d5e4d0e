"""The Dify target when the server, the network or the agent fails in the middle; against a server with Dify's rules."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from registry.agent import limits
from registry.agent.targets.base import DONE
from registry.agent.targets.dify import DifySpec, DifyTarget
from registry.agent.targets.dify.console import Console
from registry.agent.targets.dify.preflight import comment
from tests.dify_server import DifyServer, Fault
from tests.dify_server.app import Problem
from tests.integration.dify_kit import DATA, OPENAI, TOKEN, Site, candidate, refused, secret_file

ONE, TWO = candidate(DATA / "orders-1.yml", 1), candidate(DATA / "orders-2.yml", 2)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def server() -> Iterator[DifyServer]:
    made = DifyServer(plugins=[OPENAI])
    made.start()
    yield made
    made.stop()


@pytest.fixture
def new_site(server: DifyServer, tmp_path: Path) -> Callable[[], Site]:
    """Apps of their own on one server."""
    count = iter(range(1000))

    def make() -> Site:
        root = tmp_path / str(next(count))
        root.mkdir()
        return Site(server, root)

    return make


async def steps_of(site: Site) -> int:
    """Requests of one installation over another one."""
    await site.target().apply(ONE)
    before = len(site.server.requests)
    await site.target().apply(TWO)
    return len(site.server.requests) - before


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


def whole(site: Site) -> str:
    """The comment of the live row, whose prompt is of the same version."""
    live = site.live()
    assert live is not None
    words = live["graph"]["nodes"][1]["data"]["prompt_template"][0]["text"]
    said = comment(TWO.digest) if "two sentences" in words else comment(ONE.digest)
    assert live["marked_comment"] == said
    assert site.secret() == TOKEN
    return said


async def finishes(site: Site) -> None:
    """After a restart of the agent it goes on by itself, and publishes once."""
    assert await site.target().apply(TWO) == DONE
    assert await site.target().shows(TWO.digest)
    assert whole(site) == comment(TWO.digest)
    assert [row["marked_name"] for row in site.published()] == ["@2", "@1"]
    assert await site.target().apply(ONE) == DONE  # no drift is left of it


@pytest.mark.parametrize("kind", ["hang", "hang_after"])
async def test_the_agent_dies_at_every_step(new_site: Callable[[], Site], kind: str) -> None:
    for step in range(await steps_of(new_site())):
        site = new_site()
        await site.target().apply(ONE)
        start = len(site.server.requests)
        rows = len(site.published())
        site.server.faults[:] = [Fault(kind, skip=step)]
        applying = asyncio.ensure_future(site.target().apply(TWO))
        await until(lambda start=start, step=step, site=site: len(site.server.requests) > start + step)
        if kind == "hang_after" and "POST" in (asked := site.server.requests[-1]) and "publish" in asked:
            await until(lambda site=site, rows=rows: len(site.published()) > rows)
        applying.cancel()
        with suppress(asyncio.CancelledError):
            await applying
        whole(site)
        await finishes(site)


@pytest.mark.parametrize("kind", ["drop", "drop_after", "502", "503", "429"])
async def test_the_server_fails_at_every_step(new_site: Callable[[], Site], kind: str) -> None:
    for step in range(await steps_of(new_site())):
        site = new_site()
        await site.target().apply(ONE)
        site.server.faults[:] = [Fault(kind, skip=step)]
        assert refused(await site.target().apply(TWO)) == ("TARGET_FAILED", True), step
        whole(site)
        await finishes(site)


async def test_a_server_that_cannot_show_rows_is_given_no_new_one(
    new_site: Callable[[], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = new_site()
    await site.target().apply(ONE)
    export = site.server.dify.export

    def of_draft_only(app: str, row: str, *, secrets: bool) -> object:
        if row:
            raise Problem(500, "internal_server_error", "cannot export")
        return export(app, row, secrets=secrets)

    monkeypatch.setattr(site.server.dify, "export", of_draft_only)
    for _ in range(3):
        assert refused(await site.target().check(TWO)) == ("TARGET_FAILED", True)
        assert refused(await site.target().apply(TWO)) == ("TARGET_FAILED", True)
    assert [row["marked_name"] for row in site.published()] == ["@1"]


async def test_the_first_installation_is_interrupted_at_every_step(new_site: Callable[[], Site]) -> None:
    site = new_site()
    await site.target().apply(ONE)
    steps = len(site.server.requests)
    for step in range(steps):
        site = new_site()
        site.server.faults[:] = [Fault("drop_after", skip=step)]
        answer = await site.target().apply(ONE)
        assert refused(answer) == ("TARGET_FAILED", True), step
        assert await site.target().apply(TWO) == DONE, step  # another version, and what the first one left is no drift
        assert whole(site) == comment(TWO.digest)


async def test_a_reply_to_publish_that_is_lost_is_not_asked_for_again(new_site: Callable[[], Site]) -> None:
    site = new_site()
    site.server.faults.append(Fault("drop_after", "POST .*/workflows/publish"))
    assert refused(await site.target().apply(ONE)) == ("TARGET_FAILED", True)
    assert len(site.published()) == 1
    assert not await site.target().shows(ONE.digest)  # not proven yet
    imports = sum("POST /apps/imports" in each for each in site.server.requests)
    assert await site.target().check(ONE) == DONE
    assert await site.target().apply(ONE) == DONE
    assert len(site.published()) == 1
    assert sum("POST /apps/imports" in each for each in site.server.requests) == imports
    assert await site.target().shows(ONE.digest)


async def test_a_lost_reply_before_a_version_that_is_refused(new_site: Callable[[], Site]) -> None:
    """What is live is what was published, also for an agent that never heard of it."""
    site = new_site()
    await site.target().apply(ONE)
    site.server.faults += [Fault("drop_after", "POST .*/workflows/publish"), Fault("502", "POST /apps/imports", skip=1)]
    assert refused(await site.target().apply(TWO)) == ("TARGET_FAILED", True)
    assert refused(await site.target().apply(ONE)) == ("TARGET_FAILED", True)
    assert await site.target().shows(TWO.digest)
    assert not await site.target().shows(ONE.digest)


async def test_a_server_that_hangs_is_given_up(new_site: Callable[[], Site], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DIFY_CALL_S", 0.2)
    site = new_site()
    site.server.faults.append(Fault("hang", "workflows/draft"))
    answer = await site.target().check(ONE)
    assert refused(answer) == ("TARGET_FAILED", True)
    assert "no answer within 0.2 s" in answer.detail
    assert await site.target().check(ONE) == DONE


async def test_replies_are_bounded(new_site: Callable[[], Site], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DIFY_REPLY_BYTES", 1024 * 1024)
    site = new_site()
    site.server.faults.append(Fault("endless", "workflows/publish"))
    answer = await site.target().check(ONE)
    assert refused(answer) == ("TARGET_FAILED", True)
    assert "more than 1,048,576 bytes" in answer.detail


async def test_nobody_there(new_site: Callable[[], Site]) -> None:
    site = new_site()
    gone = site.target(url="http://127.0.0.1:1")
    assert refused(await gone.apply(ONE)) == ("TARGET_FAILED", True)
    assert not await gone.shows(ONE.digest)
    assert await gone.facts() == {}
    elsewhere = site.target(url=f"{site.server.url}/not-the-console")
    assert refused(await elsewhere.apply(ONE)) == ("TARGET_FAILED", True)


async def test_a_wrong_key(new_site: Callable[[], Site]) -> None:
    site = new_site()
    secret_file(site.key, "not-the-key")
    answer = await site.target().apply(ONE)
    assert refused(answer) == ("TARGET_FAILED", True)
    assert "not let in" in answer.detail
    assert "not-the-key" not in answer.detail
    secret_file(site.key, "admin-key\n")  # repaired while the agent runs
    assert await site.target().apply(ONE) == DONE


# Logins


@pytest.mark.parametrize("version", ["1.12.1", "1.11.1", "1.9.0"])  # base64 and cookies; cookies; neither
async def test_a_login_in_the_way_of_each_release(new_site: Callable[[], Site], version: str) -> None:
    site = new_site()
    site.server.version = version
    target = site.login()
    assert await target.apply(ONE) == DONE
    assert await target.shows(ONE.digest)


async def test_a_session_that_is_over_is_renewed_at_every_step(new_site: Callable[[], Site]) -> None:
    for step in range(await steps_of(new_site())):
        site = new_site()
        target = site.login()
        await target.apply(ONE)
        logins = sum("POST /login" in each for each in site.server.requests)
        site.server.faults[:] = [Fault("401", skip=step)]
        assert await target.apply(TWO) == DONE, step
        assert sum("POST /login" in each for each in site.server.requests) == logins + 1
        assert [row["marked_name"] for row in site.published()] == ["@2", "@1"]


async def test_a_session_ends_by_time(new_site: Callable[[], Site]) -> None:
    site = new_site()
    target = site.login()
    await target.apply(ONE)
    site.server.dify.clock_s += 2 * 3600
    assert await target.apply(TWO) == DONE


async def test_a_wrong_password_is_not_told(new_site: Callable[[], Site]) -> None:
    site = new_site()
    target = site.login()
    secret_file(site.root / "password", "not-the-password")
    answer = await target.apply(ONE)
    assert refused(answer) == ("TARGET_FAILED", True)
    assert "not-the-password" not in answer.detail
    assert site.server.requests == ["POST /login"]  # one try: servers lock accounts


# A process that is killed


async def test_a_server_process_is_killed_after_the_commit(tmp_path: Path) -> None:
    def start(*more: str) -> tuple[subprocess.Popen[str], dict[str, str]]:
        command = [sys.executable, "-m", "tests.dify_server", "--db", str(tmp_path / "dify.db"), "--plugin", OPENAI]
        made = subprocess.Popen([*command, *more], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert made.stdout is not None
        return made, json.loads(made.stdout.readline())

    def end(process: subprocess.Popen[str]) -> None:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()

    process, told = start("--fault", "hang_after:POST .*/workflows/publish")
    key = secret_file(tmp_path / "key", told["admin_key"])
    secrets = secret_file(tmp_path / "secrets", f'ORDERS_TOKEN = "{TOKEN}"')
    spec = DifySpec(told["url"], told["app"], api_key_file=key, workspace=told["workspace"], secrets_file=secrets)
    try:
        applying = asyncio.ensure_future(DifyTarget(spec, tmp_path).apply(ONE))
        watching = Console(spec)
        async with asyncio.timeout(20):
            while not (await watching.live()).id:
                await asyncio.sleep(0.01)
        end(process)
        assert refused(await applying) == ("TARGET_FAILED", True)
    finally:
        end(process)
    process, _ = start("--port", told["url"].rpartition(":")[2])
    try:
        assert await DifyTarget(spec, tmp_path).apply(ONE) == DONE
        assert await DifyTarget(spec, tmp_path).shows(ONE.digest)
    finally:
        end(process)

"""The Dify target against a server with Dify's rules (tests/dify_server), not against Dify."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.agent import limits
from registry.agent.targets.base import DONE
from registry.agent.targets.dify import DifyTarget
from tests.dify_server import DifyServer, Fault
from tests.dify_server.app import Problem
from tests.integration.dify_kit import DATA, OPENAI, TOKEN, Site, candidate, refused, secret_file, version

ONE, TWO = candidate(DATA / "orders-1.yml", 1), candidate(DATA / "orders-2.yml", 2)
TRIAGE = Path(__file__).parents[2] / "examples" / "triage"


@pytest.fixture
def server() -> Iterator[DifyServer]:
    made = DifyServer(plugins=[OPENAI, "acme/tools:1.0.0@" + "a" * 64])
    made.start()
    yield made
    made.stop()


@pytest.fixture
def site(server: DifyServer, tmp_path: Path) -> Site:
    return Site(server, tmp_path)


def refuse(said: str) -> bool:
    raise Problem(401, "unauthorized", f"not known: {said}")


def prompt(row: dict) -> str:
    return str(row["graph"]["nodes"][1]["data"]["prompt_template"][0]["text"])


def say_otherwise(row: dict) -> None:
    row["graph"]["nodes"][1]["data"]["prompt_template"][0]["text"] = "edited by hand"


# Publish and go back


async def test_a_version_goes_live_with_its_number_and_digest(site: Site) -> None:
    target = site.target()
    assert await target.check(ONE) == DONE
    assert site.published() == []  # a check changes nothing
    assert await target.apply(ONE) == DONE
    live = site.live()
    assert live is not None
    assert (live["marked_name"], live["marked_comment"]) == ("@1", ONE.digest[: len("sha256:") + 40])
    assert await target.shows(ONE.digest)
    assert not await target.shows(TWO.digest)
    assert not await target.shows(None)


async def test_a_rollback_publishes_the_older_bytes_again(site: Site) -> None:
    target = site.target()
    for each in (ONE, TWO, ONE):
        assert await target.apply(each) == DONE
        assert await target.shows(each.digest)
    assert [row["marked_name"] for row in site.published()] == ["@1", "@2", "@1"]


async def test_the_same_version_is_not_published_twice(site: Site) -> None:
    assert await site.target().apply(ONE) == DONE
    assert await site.target().apply(ONE) == DONE
    assert len(site.published()) == 1


async def test_the_app_keeps_its_own_name(site: Site) -> None:
    await site.target().apply(ONE)
    with site.server.dify.store.transaction():
        assert site.server.dify.detail(site.app)["name"] == "Triage"


async def test_with_nothing_before_it_the_first_version_cannot_be_taken_back(site: Site) -> None:
    target = site.target()
    assert await target.apply(None) == DONE  # nothing was done yet
    assert await target.shows(None)
    await target.apply(ONE)
    answer = await target.apply(None)
    assert refused(answer) == ("TARGET_FAILED", False)
    assert "cannot take back" in answer.detail
    assert await target.shows(ONE.digest)


async def test_what_was_live_before_the_first_version_comes_back(site: Site) -> None:
    another = DifyTarget(site.spec(), site.root / "another agent, long ago")
    assert await another.apply(TWO) == DONE
    target = site.target()
    assert await target.apply(ONE) == DONE
    assert await target.apply(None) == DONE
    live = site.live()
    assert live is not None
    assert "two sentences" in prompt(live)
    assert site.secret() == TOKEN
    assert await target.shows(None)


# Secrets


async def test_secrets_come_from_the_file_and_stay_on_the_server(site: Site) -> None:
    assert await site.target().apply(ONE) == DONE
    assert site.secret() == TOKEN
    assert await site.target(secrets_file=None).apply(TWO) == DONE  # the server has it: no file needed
    assert site.secret() == TOKEN
    secret_file(site.secrets, 'ORDERS_TOKEN = "rotated"')
    assert await site.target().apply(ONE) == DONE
    assert site.secret() == "rotated"


async def test_an_export_with_a_blank_secret_does_not_blank_the_one_on_the_server(site: Site) -> None:
    await site.target().apply(ONE)
    value = [
        {"id": "0c2d9f7e-41c4-4f8c-b1a9-6f1d0a9be201", "name": "ORDERS_TOKEN", "value": "", "value_type": "secret"}
    ]
    blank = version(site.root, "blank", workflow__environment_variables=value)
    assert await site.target(secrets_file=None).apply(blank) == DONE
    assert site.secret() == TOKEN


async def test_a_secret_that_nobody_knows_is_refused_by_name(site: Site) -> None:
    answer = await site.target(secrets_file=None).check(ONE)
    assert refused(answer) == ("SECRETS_MISSING", False)
    assert "ORDERS_TOKEN" in answer.detail
    assert refused(await site.target(secrets_file=None).apply(ONE)) == ("SECRETS_MISSING", False)
    assert site.published() == []


async def test_secrets_that_others_may_read_are_not_used(site: Site) -> None:
    site.secrets.chmod(0o640)
    answer = await site.target().apply(ONE)
    assert refused(answer) == ("TARGET_FAILED", True)
    assert "chmod 600" in answer.detail
    assert TOKEN not in answer.detail


async def test_a_server_that_repeats_what_it_was_given_tells_no_secret(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def repeat(body: dict) -> tuple[int, dict]:
        assert TOKEN in body["yaml_content"]
        return 400, {"id": "1", "status": "failed", "error": f"cannot read value: {TOKEN}"}

    monkeypatch.setattr(site.server.dify, "start_import", repeat)
    answer = await site.target().apply(ONE)
    assert refused(answer) == ("TARGET_FAILED", False)
    assert "cannot read value: (secret)" in answer.detail


async def test_a_secret_that_is_cut_or_written_otherwise_is_hidden_too(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = 'first  line with "quotes"\nand another one'
    secret_file(site.secrets, f"ORDERS_TOKEN = {json.dumps(secret)}\n")
    for error in (f"{'.' * 285} {secret}", json.dumps({"value": secret})):
        monkeypatch.setattr(
            site.server.dify,
            "start_import",
            lambda _, error=error: (400, {"id": "1", "status": "failed", "error": error}),
        )
        detail = (await site.target().apply(ONE)).detail
        assert "(secret" in detail
        assert "first" not in detail


async def test_a_server_that_repeats_the_key_does_not_spread_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site.server, "let_in", lambda headers, _: refuse(headers["authorization"]))
    answer = await site.target().check(ONE)
    assert "not let in" in answer.detail
    assert site.server.admin_key not in answer.detail


async def test_a_server_that_repeats_the_password_does_not_spread_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.server, "login", lambda body: (401, {"message": f"no: {body['password']}"}, []))
    answer = await site.login().check(ONE)
    assert "not let in" in answer.detail
    assert site.server.password not in answer.detail
    assert base64.b64encode(site.server.password.encode()).decode() not in answer.detail


# Refusals before anything is changed


async def test_a_version_of_another_mode(site: Site) -> None:
    chat = candidate(TRIAGE / "v1.yml")
    assert refused(await site.target().check(chat)) == ("MODE_MISMATCH", False)
    assert refused(await site.target(mode="advanced-chat").check(ONE)) == ("MODE_MISMATCH", False)
    config = version(site.root, "chat", app__mode="chat")
    assert "imports only" in (await site.target().check(config)).detail


async def test_plugins_are_asked_for_by_name_and_build(site: Site) -> None:
    site.server.dify.plugins[0] = "langgenius/openai:0.3.0@" + "b" * 64
    answer = await site.target().check(ONE)
    assert refused(answer) == ("PLUGINS_MISSING", False)
    assert "langgenius/openai:0.2.6" in answer.detail
    assert await site.target(confirm="minor").apply(ONE) == DONE  # another version will do
    site.server.dify.plugins.pop(0)
    assert refused(await site.target(confirm="always").check(TWO)) == ("PLUGINS_MISSING", False)


async def test_a_plugin_that_goes_during_the_import(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.target().apply(ONE)
    start_import = site.server.dify.start_import

    def uninstall(body: dict) -> tuple[int, dict]:
        site.server.dify.plugins.clear()
        return start_import(body)

    monkeypatch.setattr(site.server.dify, "start_import", uninstall)
    assert refused(await site.target().apply(TWO)) == ("PLUGINS_MISSING", False)
    assert await site.target().shows(ONE.digest)
    site.server.dify.plugins.append(OPENAI)
    monkeypatch.undo()
    assert await site.target().apply(TWO) == DONE  # the draft of the refused one is no drift


async def test_what_an_import_before_needed_is_not_asked_of_this_one(site: Site) -> None:
    """Servers keep that list for ten minutes."""
    await site.target().apply(ONE)
    without = version(site.root, "without", dependencies=[])
    site.server.dify.plugins.clear()
    assert await site.target().apply(without) == DONE


async def test_content_that_is_no_app(site: Site, tmp_path: Path) -> None:
    for name, text in (
        ("a.yml", "just: data\n"),
        ("b.yml", "{"),
        ("c.yml", "app: {mode: 3}\nworkflow: {graph: {nodes: []}}\n"),
    ):
        (tmp_path / name).write_text(text)
        assert refused(await site.target().check(candidate(tmp_path / name))) == ("TARGET_FAILED", False)
    empty = version(site.root, "empty", workflow={"nodes": [], "edges": []})
    assert "empty app" in (await site.target().check(empty)).detail
    float_version = version(site.root, "float", version=0.5)
    assert "`version`" in (await site.target().check(float_version)).detail


async def test_a_server_that_cannot_show_what_is_live(site: Site) -> None:
    site.server.version = "1.8.0"
    assert refused(await site.target().apply(ONE)) == ("TARGET_FAILED", False)
    assert site.published() == []


async def test_content_past_the_limit_is_not_read(site: Site) -> None:
    large = ONE._replace(size_bytes=limits.DIFY_CONTENT_BYTES + 1, content=Path("/nowhere"))
    assert refused(await site.target().check(large)) == ("TOO_LARGE", False)
    site.server.most_bytes = 1000
    assert refused(await site.target().apply(ONE)) == ("TOO_LARGE", False)


# DSL versions and confirmation


async def test_a_newer_dsl(site: Site) -> None:
    await site.target().apply(ONE)
    newer = version(site.root, "newer", version="0.7.0")
    last = version(site.root, "last", version="0.6.1")
    for confirm in ("never", "minor"):
        assert refused(await site.target(confirm=confirm).check(newer)) == ("DSL_TOO_NEW", False)
    assert refused(await site.target().check(last)) == ("DSL_TOO_NEW", False)
    assert len(site.published()) == 1
    assert await site.target(confirm="minor").apply(last) == DONE
    assert await site.target(confirm="always").apply(newer) == DONE
    assert sum("confirm" in each for each in site.server.requests) == 2


async def test_a_server_that_asks_is_told_no(site: Site) -> None:
    newer = version(site.root, "newer", version="0.7.0")  # the app has no draft yet: nothing says what the server reads
    answer = await site.target().apply(newer)
    assert refused(answer) == ("NEEDS_CONFIRMATION", False)
    assert refused(await site.target(confirm="minor").apply(newer)) == ("NEEDS_CONFIRMATION", False)
    with site.server.dify.store.transaction():
        assert site.server.dify.store.draft(site.app) is None


async def test_a_confirmation_that_comes_too_late_is_tried_again(site: Site) -> None:
    newer = version(site.root, "newer", version="0.7.0")
    site.server.faults.append(Fault("delay", "confirm"))
    applying = asyncio.ensure_future(site.target(confirm="always").apply(newer))
    while not any("confirm" in each for each in site.server.requests):
        await asyncio.sleep(0.005)
    site.server.dify.clock_s += 11 * 60
    site.server.released.set()
    assert refused(await applying) == ("TARGET_FAILED", True)
    assert await site.target(confirm="always").apply(newer) == DONE


# Drift


async def test_an_edited_draft_stops_the_next_version(site: Site) -> None:
    await site.target().apply(ONE)
    site.server.edit_draft(site.app, say_otherwise)
    answer = await site.target().check(TWO)
    assert refused(answer) == ("DRIFTED", False)
    assert refused(await site.target().apply(TWO)) == ("DRIFTED", False)
    assert prompt(site.draft()) == "edited by hand"
    assert await site.target().shows(ONE.digest)  # live is what it was
    assert await site.target().apply(TWO._replace(force=True)) == DONE


@pytest.mark.parametrize("what", ["environment", "features"])
async def test_variables_and_features_are_part_of_the_draft(site: Site, what: str) -> None:
    await site.target().apply(ONE)
    site.server.edit_draft(
        site.app,
        lambda row: row["environment"][1].update(value=5) if what == "environment" else row["features"].update(more=1),
    )
    assert refused(await site.target().check(TWO)) == ("DRIFTED", False)
    assert await site.target(allow_drift=True).apply(TWO) == DONE


async def test_moved_nodes_are_no_drift(site: Site) -> None:
    await site.target().apply(ONE)
    site.server.edit_draft(site.app, lambda row: row["graph"]["nodes"][0].update(position={"x": 9, "y": 9}))
    assert await site.target().apply(TWO) == DONE


async def test_what_somebody_else_published_stops_the_next_version(site: Site) -> None:
    await site.target().apply(ONE)
    with site.server.dify.store.transaction():
        site.server.dify.publish(site.app, "by hand", "")
    assert not await site.target().shows(ONE.digest)
    answer = await site.target().apply(TWO)
    assert refused(answer) == ("DRIFTED", False)
    assert "published" in answer.detail


async def test_an_app_with_something_in_it_is_taken_over_only_when_told(site: Site) -> None:
    assert await site.target().apply(ONE) == DONE
    (site.root / "state" / "dify" / f"{site.app}.json").unlink()
    site.server.edit_draft(site.app, say_otherwise)
    assert refused(await site.target().check(TWO)) == ("DRIFTED", False)
    assert await site.target(adopt=True).apply(TWO) == DONE
    site.server.edit_draft(site.app, say_otherwise)
    assert refused(await site.target(adopt=True).check(ONE)) == ("DRIFTED", False)  # adopted once


async def test_a_lost_state_directory_is_no_drift_where_nothing_changed(site: Site) -> None:
    assert await site.target().apply(ONE) == DONE
    (site.root / "state" / "dify" / f"{site.app}.json").unlink()
    assert await site.target().apply(TWO) == DONE


async def test_a_damaged_record_is_said_and_nothing_is_changed(site: Site) -> None:
    await site.target().apply(ONE)
    (site.root / "state" / "dify" / f"{site.app}.json").write_text("{")
    answer = await site.target().apply(TWO)
    assert refused(answer) == ("TARGET_FAILED", True)
    assert "adopt" in answer.detail
    assert len(site.published()) == 1


# What comes back


async def test_knowledge_bases_of_another_workspace(site: Site) -> None:
    knowledge = candidate(DATA / "knowledge.yml")
    foreign = "vGk0bGVmdCBieSBhbm90aGVyIHdvcmtzcGFjZQ=="
    answer = await site.target().apply(knowledge)
    assert refused(answer) == ("READ_BACK_DIFFERS", False)
    assert foreign in answer.detail
    assert site.published() == []
    here = {foreign: "3f0b7d0e-6e55-4f5e-9a6b-1d2c3b4a5f60"}
    assert await site.target(datasets=here).apply(knowledge) == DONE
    live = site.live()
    assert live is not None
    assert live["graph"]["nodes"][1]["data"]["dataset_ids"] == [here[foreign]]


async def test_what_the_server_makes_of_an_import_is_not_published_and_no_drift_later(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.target().apply(ONE)
    write = site.server.dify.save_draft
    monkeypatch.setattr(
        site.server.dify, "save_draft", lambda app, graph, *rest: write(app, {**graph, "edges": []}, *rest)
    )
    answer = await site.target().apply(TWO)
    assert refused(answer) == ("READ_BACK_DIFFERS", False)
    assert "edges removed" in answer.detail
    assert await site.target().shows(ONE.digest)
    monkeypatch.undo()
    assert await site.target().apply(TWO) == DONE


async def test_somebody_saves_between_the_comparison_and_publish(site: Site) -> None:
    await site.target().apply(ONE)
    site.server.faults.append(Fault("race", "POST .*/publish"))
    assert refused(await site.target().apply(TWO)) == ("READ_BACK_DIFFERS", False)
    assert not await site.target().shows(TWO.digest)
    assert await site.target().apply(ONE._replace(force=True)) == DONE  # what the agent does then
    assert await site.target().shows(ONE.digest)


async def test_somebody_publishes_the_same_draft_at_the_same_moment(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = site.server.dify.publish

    def twice(app: str, name: str, comment: str) -> dict:
        publish(app, name, comment)
        return publish(app, "by hand", "")

    monkeypatch.setattr(site.server.dify, "publish", twice)
    answer = await site.target().apply(ONE)
    assert refused(answer) == ("READ_BACK_DIFFERS", False)
    assert "somebody else published" in answer.detail
    monkeypatch.undo()
    assert await site.target().apply(ONE._replace(force=True)) == DONE


async def test_the_editor_is_told_that_the_draft_is_another_one(site: Site) -> None:
    """The server's own rule, which a person meets after an import: 409."""
    await site.target().apply(ONE)
    with site.server.dify.store.transaction():
        old = site.server.dify.draft(site.app)
    await site.target().apply(TWO)
    with pytest.raises(Exception, match="modified"):
        site.server.dify.sync_draft(site.app, {"graph": old["graph"], "features": {}, "hash": old["hash"]})


# Facts


async def test_facts(site: Site) -> None:
    target = site.target()
    await target.apply(ONE)
    known = {"dify": "1.12.1", "dsl": "0.6.0", "plugin:langgenius/openai": "0.2.6", "plugin:acme/tools": "1.0.0"}
    assert await target.facts() == known
    site.server.faults.append(Fault("502", times=99))
    assert await target.facts() == known

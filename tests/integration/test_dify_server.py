"""The test server keeps Dify's rules: what a target is tested against does what Dify does, also where that hurts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from tests.dify_server import DifyServer, rules
from tests.dify_server.app import DifyApp, Problem
from tests.integration.dify_kit import DATA, OPENAI

SECRET = {"id": "s1", "name": "TOKEN", "value": "real", "value_type": "secret"}


@pytest.fixture
def dify() -> Iterator[DifyApp]:
    server = DifyServer(plugins=[OPENAI, "langgenius/gemini:1.0.0@" + "b" * 64])
    server.start()
    with server.dify.store.transaction():
        yield server.dify
    server.stop()


def document(*variables: dict, **top: object) -> str:
    value = yaml.safe_load((DATA / "orders-1.yml").read_text())
    value["workflow"]["environment_variables"] = list(variables)
    return yaml.safe_dump(value | top)


def put(dify: DifyApp, app: str, text: str) -> tuple[int, dict]:
    return dify.start_import({"mode": "yaml-content", "yaml_content": text, "app_id": app})


def secret_of(dify: DifyApp, app: str) -> str:
    row = dify.store.draft(app)
    assert row is not None
    return str(row["environment"][0]["value"])


@pytest.mark.parametrize(
    ("imported", "current", "status"),
    [
        ("0.6.0", "0.6.0", "completed"),
        ("0.5.0", "0.6.0", "completed-with-warnings"),
        ("0.6.0", "0.6.1", "completed"),
        ("0.6.1", "0.6.0", "pending"),
        ("0.7.0", "0.6.0", "pending"),
        ("0.9.0", "1.0.0", "pending"),
        ("words", "0.6.0", "failed"),
    ],
)
def test_versions_of_the_dsl(imported: str, current: str, status: str) -> None:
    assert rules.import_status(imported, current) == status


def test_imports_blank_keep_or_set_secrets(dify: DifyApp) -> None:
    app = dify.store.add_app(dify.tenant, "a", "workflow")
    assert put(dify, app, document(SECRET))[0] == 200
    assert put(dify, app, document(SECRET | {"value": rules.HIDDEN}))[0] == 200
    assert secret_of(dify, app) == "real"
    assert put(dify, app, document(SECRET | {"value": rules.HIDDEN, "id": "other"}))[0] == 200
    assert secret_of(dify, app) == rules.HIDDEN  # as a value: no such id was there
    assert put(dify, app, document(SECRET | {"value": ""}))[0] == 200
    assert secret_of(dify, app) == ""


def test_secrets_are_shown_as_asterisks_and_exported_as_nothing(dify: DifyApp) -> None:
    app = dify.store.add_app(dify.tenant, "a", "workflow")
    put(dify, app, document(SECRET))
    assert dify.draft(app)["environment_variables"][0]["value"] == rules.MASK
    assert "real" not in dify.export(app, "", secrets=False)["data"]
    assert "real" in dify.export(app, "", secrets=True)["data"]


def test_a_pending_import_is_kept_for_ten_minutes(dify: DifyApp) -> None:
    app = dify.store.add_app(dify.tenant, "a", "workflow")
    status, reply = put(dify, app, document(version="0.7.0"))
    assert (status, reply["status"], dify.store.draft(app)) == (202, "pending", None)
    dify.clock_s += 601
    assert dify.confirm_import(reply["id"])[0] == 400
    status, reply = put(dify, app, document(version="0.7.0"))
    dify.clock_s += 599
    assert dify.confirm_import(reply["id"])[0] == 200
    assert dify.confirm_import(reply["id"])[0] == 400  # once


@pytest.mark.parametrize("top", [{"version": 0.5}, {"app": None}, {"app": {"name": "x"}}, {"workflow": None}])
def test_imports_that_fail(dify: DifyApp, top: dict) -> None:
    app = dify.store.add_app(dify.tenant, "a", "workflow")
    status, reply = put(dify, app, document(**top))
    assert (status, reply["status"]) == (400, "failed")
    assert reply["error"]


def test_another_mode_is_not_refused_and_a_chat_app_is(dify: DifyApp) -> None:
    chat = dify.store.add_app(dify.tenant, "a", "advanced-chat")
    assert put(dify, chat, document())[0] == 200
    assert put(dify, dify.store.add_app(dify.tenant, "b", "chat"), document())[0] == 400


def test_an_import_overwrites_what_somebody_saved_and_an_editor_may_not(dify: DifyApp) -> None:
    app = dify.store.add_app(dify.tenant, "a", "workflow")
    put(dify, app, document())
    old = dify.draft(app)
    saved = dify.sync_draft(app, {"graph": {"nodes": []}, "features": {}, "hash": old["hash"]})
    with pytest.raises(Problem, match="modified"):
        dify.sync_draft(app, {"graph": {"nodes": []}, "features": {}, "hash": old["hash"]})
    put(dify, app, document())
    assert dify.draft(app)["hash"] == old["hash"] != saved["hash"]


def test_publications_are_rows_and_the_draft_is_listed_first(dify: DifyApp) -> None:
    app = dify.store.add_app(dify.tenant, "a", "workflow")
    put(dify, app, document(SECRET))
    assert dify.versions(app, 1, 10)["items"] == []  # not before the first publication
    dify.publish(app, "one", "")
    first = dify.live(app)["id"]
    put(dify, app, document(SECRET | {"value": ""}))
    dify.publish(app, "two", "")
    assert [row["marked_name"] for row in dify.versions(app, 1, 10)["items"]] == ["", "two", "one"]
    assert dify.versions(app, 1, 10)["items"][0]["version"] == "draft"
    dify.restore(app, first)
    assert secret_of(dify, app) == "real"  # since 1.13: the server copies, the browser did not know it
    with pytest.raises(Problem, match="20 characters"):
        dify.publish(app, "a" * 21, "")


def test_dependencies_are_what_is_used_and_installed_in_any_order(dify: DifyApp) -> None:
    app = dify.store.add_app(dify.tenant, "a", "workflow")
    value = yaml.safe_load(document())
    extra = {"id": "9", "data": {"type": "llm", "model": {"provider": "gemini", "name": "g"}}}
    value["workflow"]["graph"]["nodes"].append(extra)
    put(dify, app, yaml.safe_dump(value))
    seen = set()
    for _ in range(100):
        exported = yaml.safe_load(dify.export(app, "", secrets=False)["data"])
        seen.add(tuple(rules.identifier(each) for each in exported["dependencies"]))
    assert len(seen) == 2
    dify.plugins[0] = "langgenius/openai:0.3.0@" + "c" * 64
    assert dify.leaked(app)["leaked_dependencies"][0]["current_identifier"] == dify.plugins[0]


def test_only_its_own_tenant_reads_a_dataset_id() -> None:
    plain = "3f0b7d0e-6e55-4f5e-9a6b-1d2c3b4a5f60"
    sealed = rules.encrypt_dataset(plain, "one")
    assert rules.decrypt_dataset(sealed, "one") == rules.decrypt_dataset(plain, "two") == plain
    assert rules.decrypt_dataset(sealed, "two") is None
    assert rules.decrypt_dataset("not base64!", "one") is None

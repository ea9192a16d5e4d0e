from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from registry.agent.private import Unusable, private_text
from registry.agent.tables import follow_from
from registry.agent.targets.dify import content
from registry.agent.targets.dify.record import Record
from registry.agent.targets.dify.spec import DifySpec, read_secrets
from registry.core.errors import Invalid

DATA = Path(__file__).parents[2] / "data" / "dify"
EXAMPLES = Path(__file__).parents[3] / "examples"
APP = "6e0c1ca0-8d2f-4b0a-9b3c-0123456789ab"
ORDERS = (DATA / "orders-1.yml").read_bytes()


def app(*nodes: dict[str, Any], **workflow: Any) -> dict[str, Any]:
    graph = {"nodes": [{"id": str(at), "type": "custom", "data": data} for at, data in enumerate(nodes)], "edges": []}
    return {"app": {"mode": "workflow"}, "kind": "app", "version": "0.5.0", "workflow": {"graph": graph} | workflow}


def knows(*ids: str) -> content.App:
    return content.App(app({"type": "knowledge-retrieval", "dataset_ids": list(ids)}), "workflow", "0.5.0")


@pytest.mark.parametrize(
    ("dsl", "server", "newer"),
    [
        ("0.5.0", "0.5.0", ""),
        ("0.4.9", "0.5.0", ""),
        ("0.5.1", "0.5.0", "micro"),
        ("0.6.0", "0.5.9", "major"),
        ("1.0.0", "0.9.0", "major"),
        ("9.0.0", "", ""),  # not known yet: the server decides
    ],
)
def test_newer(dsl: str, server: str, newer: str) -> None:
    assert content.newer(dsl, server) == newer


def test_what_belongs_to_one_server_is_no_difference() -> None:
    here = app(
        {"type": "tool", "credential_id": "c1", "tool_name": "search"},
        {"type": "agent", "agent_parameters": {"tools": {"value": [{"name": "t", "credential_id": "c1"}]}}},
        {"type": "trigger-webhook", "webhook_url": "https://here/1", "method": "post"},
        {"type": "trigger-schedule", "config": {"time": "9"}},
        {"type": "trigger-plugin", "subscription_id": "s"},
        {
            "type": "start",
            "variables": [{"variable": "f", "type": "file", "default": {"transfer_method": "local_file"}}],
        },
        dependencies=[],
    )
    there = app(
        {"type": "tool", "tool_name": "search"},
        {"type": "agent", "agent_parameters": {"tools": {"value": [{"name": "t"}]}}},
        {"type": "trigger-webhook", "webhook_url": "", "webhook_debug_url": "", "method": "post"},
        {"type": "trigger-schedule", "config": {"time": "12"}},
        {"type": "trigger-plugin", "subscription_id": ""},
        {"type": "start", "variables": [{"variable": "f", "type": "file"}]},
        rag_pipeline_variables=[],
    ) | {"version": "0.6.0", "dependencies": [{"type": "package", "value": {}}]}
    assert content.digest(here) == content.digest(there)
    changed = copy.deepcopy(there)
    changed["workflow"]["graph"]["nodes"][2]["data"]["method"] = "get"
    assert content.digest(here) != content.digest(changed)


def test_variables_differ_by_value_and_secrets_do_not() -> None:
    def of(**changed: Any) -> str:
        base = {"id": "1", "name": "A", "value_type": "string", "value": "x", "description": ""}
        return content.digest(app(environment_variables=[base | changed]))

    assert of(id="2", selector=["env", "A"]) == of()
    assert of(value="y") != of()
    assert of(value_type="secret", value="") == of(value_type="secret", value="[__HIDDEN__]")
    assert of(value_type="secret") != of()
    assert of(value_type="number", value=1) == of(value_type="integer", value=1)


def test_an_empty_list_of_variables_is_none() -> None:
    assert content.digest(app(environment_variables=[], features={})) == content.digest(app())


def test_knowledge_bases_are_compared_by_id_where_both_are_written_alike() -> None:
    plain, other = APP, APP.replace("6e", "7e")
    assert content.same_there(knows("sealed=="), knows("sealed=="))
    assert not content.same_there(knows("sealed=="), knows("other=="))
    assert content.same_there(knows(plain), knows("sealed=="))  # an export seals what was plain
    assert not content.same_there(knows(plain), knows(other))
    assert not content.same_there(knows("sealed==", plain), knows("sealed=="))
    assert "sealed==" in content.difference(knows("sealed=="), knows())


def test_a_site_puts_its_own_knowledge_bases_in_place() -> None:
    ours = content.with_datasets(knows("sealed==", "other=="), {"sealed==": APP})
    assert ours.value["workflow"]["graph"]["nodes"][0]["data"]["dataset_ids"] == [APP, "other=="]


def test_secrets_are_bound_in_order() -> None:
    """The site's file, then what the server has, then what the version has."""

    def bound(own: str, on_target: set[str], secrets: dict[str, str]) -> Any:
        variable = {"id": "1", "name": "K", "value_type": "secret", "value": own}
        value = app(environment_variables=[variable])
        found = content.bind(content.App(value, "workflow", "0.5.0"), on_target, secrets)
        assert variable["value"] == own  # the version itself stays
        if found.missing:
            assert found.yaml == ""
            return found.missing
        return yaml.safe_load(found.yaml)["workflow"]["environment_variables"][0]["value"]

    assert bound("own", {"1"}, {"K": "filed"}) == "filed"
    assert bound("own", {"1"}, {}) == "[__HIDDEN__]"
    assert bound("own", set(), {}) == "own"
    for placeholder in ("", "[__HIDDEN__]", "*" * 20):
        assert bound(placeholder, set(), {"OTHER": "x"}) == ["K"]


def test_what_is_imported_is_what_was_published() -> None:
    read = content.read_app(ORDERS)
    text = content.bind(read, {"0c2d9f7e-41c4-4f8c-b1a9-6f1d0a9be201"}, {}).yaml
    assert yaml.safe_load(text) == yaml.safe_load(ORDERS)
    odd = app({"type": "code", "code": "a\u2028b\x85c 😀\n\ttab: '", "when": "2026-01-02", "no": "no"})
    bound = content.bind(content.App(odd, "workflow", "0.5.0"), (), {})
    assert yaml.safe_load(bound.yaml) == odd


@pytest.mark.parametrize("change", [{"version": 0.5}, {"version": "new"}, {"app": {"name": "x"}}])
def test_what_dify_refuses_is_not_read(change: dict[str, Any]) -> None:
    value = yaml.safe_load(ORDERS) | change
    with pytest.raises(Invalid):
        content.read_app(yaml.safe_dump(value).encode())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"url": "dify.example.com"}, "http"),
        ({"url": "https://d/?x=1"}, "url"),
        ({"app": "triage"}, "UUID"),
        ({"workspace": ""}, "either"),
        ({"email": "a@b.c"}, "either"),
        ({"confirm": "maybe"}, "confirm"),
        ({"mode": "chat"}, "mode"),
        ({"datasets": {"a": "b"}}, "knowledge base"),
    ],
)
def test_a_spec_says_what_is_wrong(changed: dict[str, Any], said: str) -> None:
    good: dict[str, Any] = {"url": "https://d", "app": APP, "api_key_file": Path("/key"), "workspace": "w"}
    assert DifySpec(**good).console == "https://d/console/api"
    assert DifySpec(**(good | {"url": "https://d/x/console/api/"})).console == "https://d/x/console/api"
    with pytest.raises(ValueError, match=said):
        DifySpec(**(good | changed))


def test_files_of_secrets(tmp_path: Path) -> None:
    path = tmp_path / "secrets.toml"
    with pytest.raises(Unusable, match="cannot be read"):
        private_text(path)
    path.write_text('A = "1"\n')
    path.chmod(0o644)
    with pytest.raises(Unusable, match="chmod 600"):
        read_secrets(path)
    path.chmod(0o600)
    assert read_secrets(path) == {"A": "1"}
    assert read_secrets(None) == {}
    for text in ("A = the secret", "A = 987654321", 'A = ""'):
        path.write_text(text)
        with pytest.raises(Unusable) as caught:
            read_secrets(path)
        assert "the secret" not in str(caught.value)
        assert "987654321" not in str(caught.value)


def test_a_draft_that_an_older_agent_noted_is_known_by_the_hash_of_the_server() -> None:
    record = Record(app=APP, draft="d1s1:aa", draft_hash="h")
    assert record.knows_draft("d1s1:aa", "other")
    assert not record.knows_draft("d1s1:bb", "h")  # same rules: what is not in the hash was changed
    assert record.knows_draft("d2s1:bb", "h")
    assert not record.knows_draft("d2s1:bb", "")
    assert not record.knows_draft("d2s1:bb", "g")


def test_the_example_is_read() -> None:
    table = tomllib.loads((EXAMPLES / "dify" / "agent.toml").read_text())["follow"][0]
    follow = follow_from({key: value for key, value in table.items() if key != "probe"}, {})
    assert isinstance(follow.target, DifySpec)
    assert (follow.name, follow.target.confirm) == ("support/triage:active", "never")
    assert len(follow.target.datasets) == 1

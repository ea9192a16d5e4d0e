"""What the Dify target promises, through HTTP alone: against a server with Dify's rules, and against a true Dify server
where one is named: DIFY_URL, DIFY_API_KEY (its ADMIN_API_KEY) and DIFY_WORKSPACE (the workspace's id).

On the true server each test makes an app of its own and deletes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from registry.agent.http import request
from registry.agent.targets.base import DONE
from registry.agent.targets.dify import DifySpec, DifyTarget
from tests.dify_server import DifyServer
from tests.integration.dify_kit import DATA, candidate, refused, secret_file

ONE, TWO = candidate(DATA / "echo-1.yml", 1), candidate(DATA / "echo-2.yml", 2)
NEEDED = ("DIFY_URL", "DIFY_API_KEY", "DIFY_WORKSPACE")


class Place(NamedTuple):
    url: str
    key: str
    workspace: str
    app: str
    root: Path

    def target(self, **changed: Any) -> DifyTarget:
        key = secret_file(self.root / "key", self.key)
        secrets = secret_file(self.root / "secrets.toml", 'ECHO_KEY = "a secret of this site"\n')
        given: dict[str, Any] = {"api_key_file": key, "workspace": self.workspace, "secrets_file": secrets}
        return DifyTarget(DifySpec(self.url, self.app, **(given | changed)), self.root / "state")

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        headers = {
            "Authorization": f"Bearer {self.key}",
            "X-WORKSPACE-ID": self.workspace,
            "Content-Type": "application/json",
        }
        reply = await request(
            method,
            f"{self.url}/console/api{path}",
            timeout_s=60,
            headers=headers,
            content=None if body is None else json.dumps(body).encode(),
            body_bytes=10_000_000,
        )
        assert reply.status < 300, reply
        return json.loads(reply.body) if reply.body else None

    async def rows(self) -> list[dict[str, Any]]:
        """Published ones, newest first."""
        listed = await self.ask("GET", f"/apps/{self.app}/workflows?page=1&limit=20")
        return [row for row in listed["items"] if row["version"] != "draft"]

    async def edit(self, template: str) -> None:
        """As the editor saves."""
        draft = await self.ask("GET", f"/apps/{self.app}/workflows/draft")
        draft["graph"]["nodes"][1]["data"]["template"] = template
        saved = {key: draft[key] for key in ("graph", "features", "hash", "conversation_variables")}
        environment = [each | {"value": "[__HIDDEN__]"} for each in draft["environment_variables"]]
        await self.ask("POST", f"/apps/{self.app}/workflows/draft", saved | {"environment_variables": environment})


@pytest.fixture(params=["a server with Dify's rules", "a true Dify server"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    if request.param == "a server with Dify's rules":
        server = DifyServer()
        server.start()
        yield Place(server.url, server.admin_key, server.tenant, server.add_app(), tmp_path)
        server.stop()
        return
    if not all(os.environ.get(name) for name in NEEDED):
        pytest.skip(f"no Dify server is named: set {', '.join(NEEDED)}")
    there = Place(*(os.environ[name] for name in NEEDED), app="", root=tmp_path)
    wanted = {"name": "workflow-registry test", "mode": "workflow", "icon_type": "emoji", "icon": "🔁"}
    made = await there.ask("POST", "/apps", wanted | {"icon_background": "#FFEAD5", "description": ""})
    yield there._replace(app=made["id"])
    await there.ask("DELETE", f"/apps/{made['id']}")


async def test_forward_and_back(place: Place) -> None:
    target = place.target()
    for each in (ONE, TWO, ONE):
        assert await target.check(each) == DONE
        assert await target.apply(each) == DONE
        assert await target.shows(each.digest)
        assert await target.apply(each) == DONE  # once is enough
    assert [row["marked_name"] for row in await place.rows()] == ["@1", "@2", "@1"]


async def test_the_row_says_what_it_is(place: Place) -> None:
    await place.target().apply(TWO)
    live = await place.ask("GET", f"/apps/{place.app}/workflows/publish")
    assert live["marked_comment"] == TWO.digest[: len("sha256:") + 40]
    assert live["graph"]["nodes"][1]["data"]["template"] == "You have said: {{ text }}"


async def test_a_secret_that_the_server_has_is_kept(place: Place) -> None:
    await place.target().apply(ONE)
    assert await place.target(secrets_file=None).apply(TWO) == DONE
    held = await place.ask("GET", f"/apps/{place.app}/export?include_secret=true")
    assert "a secret of this site" in held["data"]
    assert "__HIDDEN__" not in held["data"]


async def test_refusals_change_nothing(place: Place) -> None:
    assert refused(await place.target(secrets_file=None).apply(ONE)) == ("SECRETS_MISSING", False)
    chat = candidate(Path(__file__).parents[2] / "examples" / "triage" / "v1.yml")
    assert refused(await place.target().apply(chat)) == ("MODE_MISMATCH", False)
    assert await place.rows() == []


async def test_an_edited_draft_is_drift(place: Place) -> None:
    await place.target().apply(ONE)
    await place.edit("by hand: {{ text }}")
    assert refused(await place.target().apply(TWO)) == ("DRIFTED", False)
    assert await place.target().shows(ONE.digest)
    assert await place.target().apply(TWO._replace(force=True)) == DONE


async def test_the_server_says_what_it_is(place: Place) -> None:
    await place.target().apply(ONE)
    assert {"dify", "dsl"} <= (await place.target().facts()).keys()

"""A Dify target against a server with Dify's rules (tests/dify_server), and what tests of it share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from registry.agent import files
from registry.agent.targets.base import Applied, Candidate
from registry.agent.targets.dify import DifySpec, DifyTarget
from tests.dify_server import DifyServer

DATA = Path(__file__).parent.parent / "data" / "dify"
OPENAI = "langgenius/openai:0.2.6@" + "7c1f" * 16
TOKEN = "tok-of-this-site"
MODES = ("workflow", "advanced-chat")


class Site:
    """One app on one server, and the agent's state directory. `target` is made anew for each restart."""

    def __init__(self, server: DifyServer, root: Path, mode: str = "workflow") -> None:
        self.server = server
        self.root = root
        self.app = server.add_app(mode=mode)
        self.key = secret_file(root / "key", server.admin_key)
        self.secrets = secret_file(root / "secrets.toml", f'ORDERS_TOKEN = "{TOKEN}"\n')

    def spec(self, **changed: Any) -> DifySpec:
        given: dict[str, Any] = {
            "url": self.server.url,
            "app": self.app,
            "api_key_file": self.key,
            "workspace": self.server.tenant,
            "secrets_file": self.secrets,
        }
        return DifySpec(**(given | changed))

    def target(self, **changed: Any) -> DifyTarget:
        return DifyTarget(self.spec(**changed), self.root / "state")

    def login(self, **changed: Any) -> DifyTarget:
        password = secret_file(self.root / "password", self.server.password)
        return self.target(api_key_file=None, workspace="", email=self.server.email, password_file=password, **changed)

    def published(self) -> list[dict[str, Any]]:
        """Newest first."""
        with self.server.dify.store.transaction():
            return [row for row in self.server.dify.store.rows(self.app) if row["version"] != "draft"]

    def draft(self) -> dict[str, Any]:
        with self.server.dify.store.transaction():
            row = self.server.dify.store.draft(self.app)
        assert row is not None
        return row

    def live(self) -> dict[str, Any] | None:
        with self.server.dify.store.transaction():
            app = self.server.dify.store.app(self.server.tenant, self.app)
            assert app is not None
            return self.server.dify.store.row(self.app, app["live"] or "")

    def secret(self, name: str = "ORDERS_TOKEN") -> str:
        """Its value in the live row."""
        live = self.live()
        assert live is not None
        return next(str(each["value"]) for each in live["environment"] if each["name"] == name)


def secret_file(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text)
    return path


def candidate(path: Path, version: int = 1, *, force: bool = False) -> Candidate:
    digest = files.digest(path)
    assert digest is not None
    return Candidate("shop/orders", "active", version, version, digest, path.stat().st_size, path, force=force)


def version(root: Path, name: str, source: Path = DATA / "orders-1.yml", **changes: Any) -> Candidate:
    """A version made of another one; `changes`: dotted paths (`__` for dots), and what stands there."""
    value = yaml.safe_load(source.read_text())
    for path, item in changes.items():
        *above, last = path.split("__")
        holder = value
        for key in above:
            holder = holder[key]
        holder[last] = item
    made = root / f"{name}.yml"
    made.write_text(yaml.safe_dump(value, allow_unicode=True, sort_keys=False))
    return candidate(made, sum(map(ord, name)))


def refused(applied: Applied) -> tuple[str, bool]:
    return str(applied.code), applied.later

"""regctl retention, hold and purge against a real member."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry.cli.local_cluster import LocalCluster
from registry.cli.main import run
from tests.integration.cli_kit import Result, in_terminal, ok, refused

Regctl = Callable[..., Result]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    made = LocalCluster(tmp_path_factory.mktemp("cluster"), 1)
    try:
        asyncio.run(made.start())
        yield made
    finally:
        asyncio.run(made.stop())


@pytest.fixture
def regctl(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, capfdbinary) -> Regctl:
    monkeypatch.setenv("REGCTL_ENDPOINTS", ",".join(cluster.endpoints))

    def call(*arguments: str) -> Result:
        code = run(arguments)
        out, err = capfdbinary.readouterr()
        return code, out, err.decode()

    return call


def publish(regctl: Regctl, tmp_path: Path, workflow: str, *contents: bytes) -> None:
    for content in contents:
        path = tmp_path / "content"
        path.write_bytes(content)
        ok(regctl("publish", workflow, str(path), "--kind", "text"))


def table(result: Result) -> str:
    code, out, err = result
    assert code == 0, err
    return " ".join(out.decode().split())


def indexed(regctl: Regctl) -> None:
    """A member does it within its first rounds of upkeep."""
    while regctl("retention", "run", "--dry-run")[0] == 6:
        pass


def test_retention_shows_what_it_would_do_then_does_it_and_says_so(regctl: Regctl, tmp_path: Path) -> None:
    name = "keep/some"
    publish(regctl, tmp_path, name, b"1", b"2", b"3", b"4")
    indexed(regctl)
    held = ok(regctl("hold", f"{name}@1", "--reason", "audit 2026"))
    assert (held["version"], held["hold"]) == (1, "audit 2026")
    ok(regctl("policy", "set", "keep/*", "keep_last=2", "--reason", "disks"))

    shown = ok(regctl("retention", "run", name, "--dry-run"))
    rules = {each["version"]: each["kept_by"] for each in shown["versions"]}
    assert (shown["dry_run"], shown["removed"], shown["kept"]) == (True, 1, 3)
    assert (rules[1], rules[2]) == (["held"], [])
    assert regctl("cat", f"{name}@2")[1] == b"2"
    shown = table(regctl("-o", "table", "retention", "run", name, "--dry-run"))
    assert "2 would be removed 1 kept: held 1 would be removed, about 1 B; 3 kept" in shown

    done = ok(regctl("retention", "run", name, "--reason", "full"))
    assert (done["dry_run"], done["removed"]) == (False, 1)
    code, error = refused(regctl("-o", "json", "cat", f"{name}@2"))
    assert (code, error["reason"], error["cause"]) == (3, "CONTENT_REMOVED", "retention")
    removed = ok(regctl("show", f"{name}@2"))["removed"]
    assert (removed["cause"], removed["reason"]) == ("retention", "full")
    assert f"removed {removed['time'][:10]} by retention" in table(regctl("-o", "table", "show", f"{name}@2"))
    assert f"removed {removed['time'][:10]} by" in table(regctl("-o", "table", "versions", name))
    newest = ok(regctl("history", name))[0]
    assert (newest["action"], [each["version"] for each in newest["removed"]]) == ("retention", [2])
    assert "content of 2 removed" in table(regctl("-o", "table", "history", name))

    ok(regctl("hold", f"{name}@1", "--release", "--reason", "over"))
    assert ok(regctl("show", f"{name}@1"))["hold"] == ""
    assert [each["version"] for each in ok(regctl("retention", "run"))["versions"]] == [1]


def test_purge_shows_what_goes_and_asks(regctl: Regctl, tmp_path: Path, cluster: LocalCluster) -> None:
    secret = os.urandom(20).hex().encode()
    publish(regctl, tmp_path, "purge/one", secret, b"other")
    publish(regctl, tmp_path, "purge/two", secret)
    indexed(regctl)
    ok(regctl("cluster", "backup", str(tmp_path / "backup")))
    arguments = ["--endpoints", ",".join(cluster.endpoints), "purge", "purge/one@1", "--reason", "a key"]
    code, screen = in_terminal(arguments, b"n\n")
    assert code == 1
    assert "purge/one 1; purge/two 1" in " ".join(screen.split())
    assert "a backup holds it: taken 2" in screen
    assert regctl("cat", "purge/one@1")[1] == secret

    code, error = refused(regctl("-o", "json", "purge", "purge/one@1", "--reason", "a key"))
    assert (code, error["reason"]) == (2, "USAGE")
    ok(regctl("switch", "purge/two@1", "--reason", "live"))
    code, error = refused(regctl("-o", "json", "purge", "purge/one@1", "--reason", "a key", "--yes"))
    assert (code, error["reason"]) == (6, "VERSION_IN_USE")
    publish(regctl, tmp_path, "purge/two", b"clean")
    ok(regctl("switch", "purge/two@2", "--reason", "clean"))

    done = ok(regctl("purge", "purge/one@1", "--reason", "a key", "--yes"))
    assert [(each["workflow"], each["version"]) for each in done["removed"]] == [("purge/one", 1), ("purge/two", 1)]
    assert len(done["backups"]) == 1
    code, error = refused(regctl("-o", "json", "publish", "purge/one", str(write(tmp_path, secret))))
    assert (code, error["reason"]) == (6, "CONTENT_PURGED")
    code, error = refused(regctl("-o", "json", "purge", "purge/one@1", "--reason", "again", "--yes"))
    assert (code, error["reason"]) == (3, "CONTENT_REMOVED")
    assert ok(regctl("history", "purge/two"))[0]["action"] == "purge"


def write(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / "again").write_bytes(content)
    return tmp_path / "again"

"""regctl against three real members: output, exit codes, questions."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry.cli.local_cluster import LocalCluster
from registry.cli.main import run
from tests.integration.cli_kit import REGCTL, in_terminal, ok, on_terminal

OLD = b'{"model": "small", "temperature": 0.7}\n'
NEW = b'{"model": "large", "temperature": 0.7}\n'


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    made = LocalCluster(tmp_path_factory.mktemp("cluster"))
    try:
        asyncio.run(made.start())
        yield made
    finally:
        asyncio.run(made.stop())


@pytest.fixture
def regctl(cluster, monkeypatch, capfdbinary) -> Callable[..., tuple[int, bytes, str]]:
    """Runs one command in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("REGCTL_ENDPOINTS", ",".join(cluster.endpoints))

    def call(*arguments: str) -> tuple[int, bytes, str]:
        code = run(arguments)
        out, err = capfdbinary.readouterr()
        return code, out, err.decode()

    return call


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "old.json").write_bytes(OLD)
    (tmp_path / "new.json").write_bytes(NEW)
    return str(tmp_path / "old.json"), str(tmp_path / "new.json")


def test_the_main_job(regctl, files):
    old, new = files
    first = ok(regctl("publish", "cli/main", old, "-m", "first", "-l", "semver=v1.0.0"))
    assert (first["version"], first["kind"], first["created"], first["size_bytes"]) == (1, "json", True, len(OLD))
    assert ok(regctl("publish", "cli/main", old))["created"] is False
    assert ok(regctl("publish", "cli/main", new))["version"] == 2

    live = ok(regctl("switch", "cli/main@v1.0.0", "--reason", "go live"))
    assert (live["version"], live["previous_version"], live["generation"], live["reason"]) == (1, 0, 1, "go live")
    assert live["time"].endswith("Z")
    ok(regctl("mark", "cli/main@1", "stable", "--reason", "proven"))
    ok(regctl("switch", "cli/main@2", "--expect", "1", "--reason", "next"))
    back = ok(regctl("rollback", "cli/main", "--reason", "5xx", "--yes"))
    assert (back["version"], back["previous_version"], back["generation"]) == (1, 2, 3)
    assert back["took_ms"] > 0

    assert ok(regctl("pointer", "cli/main"))["generation"] == 3
    assert [each["status"] for each in ok(regctl("versions", "cli/main"))] == ["failed", "stable"]
    actions = [change["action"] for change in ok(regctl("history", "cli/main"))]
    assert actions == ["rollback", "switch", "mark", "switch", "publish", "publish"]
    assert ok(regctl("show", "cli/main@active~1"))["version"] == 2
    assert [each["workflow"] for each in ok(regctl("workflows", "cli/"))] == ["cli/main"]
    assert regctl("cat", "cli/main@active") == (0, OLD, "")
    assert ok(regctl("agents")) == []
    assert [each["pointer"] for each in ok(regctl("workflows", "cli/main"))[0]["pointers"]] == ["active"]


def test_several_references_switch_together(regctl, files):
    for name in ("cli/x", "cli/y"):
        ok(regctl("publish", name, files[0]))
    rows = ok(regctl("switch", "cli/x@1", "cli/y@1", "--expect", "0", "--expect", "0", "--reason", "both"))
    assert [row["workflow"] for row in rows] == ["cli/x", "cli/y"]
    assert len({row["revision"] for row in rows}) == 1


def test_compare_by_the_registry_and_offline_say_the_same(regctl, files, monkeypatch):
    for file in files:
        ok(regctl("publish", "cli/compare", file))
    online = ok(regctl("compare", "cli/compare@1", "cli/compare@2"))
    monkeypatch.setenv("REGCTL_ENDPOINTS", "127.0.0.1:1")
    offline = ok(regctl("compare", *files))
    assert (online.pop("from"), online.pop("to")) == ("cli/compare@1", "cli/compare@2")
    assert (offline.pop("from"), offline.pop("to")) == files
    assert online == offline
    code, out, _ = regctl("compare", *files, "-o", "table")
    assert code == 0
    assert b"small" in out
    assert b"large" in out


def test_compare_of_references_as_text_patch_and_changelog(regctl, tmp_path):
    for number, (name, label) in enumerate([("small", "v1.0.0"), ("large", "v1.1.0")], 1):
        file = tmp_path / f"{number}.txt"
        file.write_text(json.dumps({"model": name, "temperature": 0.7}))
        ok(regctl("publish", "cli/shown", str(file), "-l", f"semver={label}", "-m", f"the {name} one"))
    references = ("cli/shown@v1.0.0", "cli/shown@2")
    code, out, _ = regctl("compare", *references, "--unified")
    assert code == 0
    assert out.decode().startswith("--- cli/shown@1 (json, sha256:")
    assert b"\n-model: small\n+model: large\n" in out
    assert ok(regctl("compare", *references, "--patch")) == [{"op": "replace", "path": "/model", "value": "large"}]
    code, out, _ = regctl("compare", *references, "--changelog")
    assert code == 0
    assert out.decode().startswith("## [v1.1.0] - 20")
    assert "\n\nthe large one" in out.decode()
    assert "- setting `model`: `small` → `large`\n" in out.decode()


def test_a_patch_reads_versions_as_the_kind_they_were_published_as(regctl, files):
    for file in files:
        ok(regctl("publish", "cli/texts", file, "--kind", "text"))
    code, out, err = regctl("compare", "cli/texts@1", "cli/texts@2", "--patch", "-o", "json")
    assert (code, out, json.loads(err)["reason"]) == (2, b"", "INVALID_CONTENT")


def test_refusals_have_their_exit_codes(regctl, files):
    ok(regctl("publish", "cli/codes", files[0]))
    ok(regctl("switch", "cli/codes@1", "--reason", "go"))
    assert regctl("show", "cli/nothing")[0] == 3
    code, out, err = regctl("switch", "cli/codes@1", "--expect", "9", "--reason", "x", "-o", "json")
    error = json.loads(err)
    assert (code, out, error["reason"], error["generation"]) == (4, b"", "GENERATION_MISMATCH", "1")
    code, _, err = regctl("rollback", "cli/codes", "--reason", "x", "--yes")
    assert code == 6
    assert err.startswith("error: ")
    assert regctl("publish", "cli/codes", "/dev/null")[0] == 2


def test_status_shows_members_and_leader(regctl):
    status = ok(regctl("cluster", "status"))
    assert [member["name"] for member in status["members"]] == ["n1", "n2", "n3"]
    assert status["leader"] in {"n1", "n2", "n3"}
    assert [member["role"] for member in status["members"]].count("leader") == 1
    code, out, _ = regctl("cluster", "status", "-o", "table")
    assert code == 0
    assert status["cluster_id"].encode() in out


def test_watch_prints_one_object_a_line(regctl, files, cluster):
    first = ok(regctl("publish", "cli/watched", files[0]))
    ok(regctl("switch", "cli/watched@1", "--reason", "go"))
    with subprocess.Popen(
        [*REGCTL, "watch", "cli/watched", "--from", str(first["revision"])], stdout=subprocess.PIPE
    ) as watch:
        assert watch.stdout is not None
        lines = [json.loads(watch.stdout.readline()) for _ in range(2)]
        watch.send_signal(signal.SIGINT)
        assert watch.wait(10) == 130
    assert [line["action"] for line in lines] == ["publish", "switch"]


def test_on_a_terminal_it_shows_and_asks(regctl, files):
    for file in files:
        ok(regctl("publish", "cli/asks", file))
    ok(regctl("switch", "cli/asks@1", "--reason", "go"))
    code, shown = in_terminal(["switch", "cli/asks@2", "--reason", "next"], b"n\n")
    assert code == 1
    assert "cli/asks active: version 1 -> version 2, candidate (generation 2)" in shown
    assert "agents that follow it: 0" in shown
    assert "nothing was changed" in shown
    assert ok(regctl("pointer", "cli/asks"))["generation"] == 1
    code, shown = in_terminal(["switch", "cli/asks@2", "--reason", "next"], b"\x03")
    assert code == 130, "one Ctrl-C is enough"
    assert ok(regctl("pointer", "cli/asks"))["generation"] == 1
    code, shown = in_terminal(["switch", "cli/asks@2", "--reason", "next"], b"y\n")
    assert code == 0
    assert "cli/asks active 1 -> 2 (generation 2)" in shown
    code, shown = in_terminal(["rollback", "cli/asks", "--reason", "5xx"], b"y\n")
    assert code == 0
    assert "cli/asks active: version 2 -> version 1, candidate (generation 3)" in shown
    assert "no stable version was live before; picked version 1" in shown
    assert "live before: 1 (candidate)" in shown
    assert "verdict ok" in shown
    assert "the registry picked" not in shown
    assert "cli/asks active 2 -> 1 (generation 3)" in shown
    assert "cli/asks@2 is now failed" in shown


def test_another_pick_than_the_one_shown_is_said(regctl, files):
    """Someone marks an earlier version stable while the question stands."""
    old, new = files
    for number, file in enumerate((old, new, old), start=1):
        ok(regctl("publish", "cli/picks", file))
        ok(regctl("switch", f"cli/picks@{number}", "--reason", "go"))
    process, terminal = on_terminal(["rollback", "cli/picks", "--reason", "5xx"])
    shown = b""
    while b"[y/N]" not in shown:
        shown += os.read(terminal, 4096)
    assert b"version 3 -> version 2, candidate (generation 4)" in shown
    ok(regctl("mark", "cli/picks@1", "stable", "--reason", "proven"))
    os.write(terminal, b"y\n")
    while b"took" not in shown or b"regctl versions" not in shown:
        shown += os.read(terminal, 4096)
    assert process.wait() == 0
    os.close(terminal)
    assert b"the registry picked version 1, not version 2" in b" ".join(shown.split())


def test_what_was_shown_is_what_is_switched(regctl, files):
    """Someone else switches while the question stands: refused, not overwritten."""
    for file in files:
        ok(regctl("publish", "cli/meanwhile", file))
    process, terminal = on_terminal(["switch", "cli/meanwhile@2", "--reason", "mine"])
    shown = b""
    while b"[y/N]" not in shown:
        shown += os.read(terminal, 4096)
    ok(regctl("switch", "cli/meanwhile@1", "--reason", "theirs"))
    os.write(terminal, b"y\n")
    assert process.wait() == 4
    os.close(terminal)
    assert ok(regctl("pointer", "cli/meanwhile"))["reason"] == "theirs"

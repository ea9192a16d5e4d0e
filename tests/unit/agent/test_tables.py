from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from registry.agent import limits
from registry.agent.config import ConfigError, FollowSpec, HookSpec
from registry.agent.probe import ProbeSpec
from registry.agent.tables import follow_from
from registry.agent.targets.dify import DifySpec
from registry.agent.targets.directory import DirectorySpec
from registry.agent.targets.exec_ import ExecSpec
from registry.agent.targets.file import FileSpec
from registry.agent.targets.http import HttpSpec

FLAGS: dict[str, Any] = {
    "reload": "systemctl reload all",
    "reload_timeout": 30.0,
    "pre_check": "",
    "pre_check_timeout": 30.0,
    "post": "",
    "post_timeout": 30.0,
    "probe": "http://127.0.0.1/health",
    "probe_interval": 2.0,
    "probe_start_delay": 0.0,
    "probe_timeout": 5.0,
    "probe_failures": 3,
    "probe_successes": 1,
    "probe_contains": "",
    "smoke": (),
    "smoke_timeout": 30.0,
}


@pytest.mark.parametrize(
    ("table", "target"),
    [
        ({"path": "/srv/x.yml"}, FileSpec(Path("/srv/x.yml"))),
        ({"path": "x.yml"}, FileSpec(Path("x.yml").absolute())),
        ({"target": "directory", "directory": "/srv/d"}, DirectorySpec(Path("/srv/d"), "b")),
        ({"target": "directory", "directory": "/srv/d", "name": "x"}, DirectorySpec(Path("/srv/d"), "x")),
        (
            {"target": "exec", "command": "put $REGISTRY_CONTENT", "timeout_s": 5, "stdin": True},
            ExecSpec("put $REGISTRY_CONTENT", timeout_s=5.0, stdin=True),
        ),
        (
            {"target": "http", "url": "http://127.0.0.1/x", "secret_file": "/etc/secret"},
            HttpSpec("http://127.0.0.1/x", Path("/etc/secret")),
        ),
        (
            {
                "target": "dify",
                "url": "https://dify.example",
                "app": "0b4bb5a5-7f0b-4a4e-8a4e-0b4bb5a57f0b",
                "api_key_file": "/etc/key",
                "workspace": "w",
            },
            DifySpec(
                "https://dify.example",
                "0b4bb5a5-7f0b-4a4e-8a4e-0b4bb5a57f0b",
                api_key_file=Path("/etc/key"),
                workspace="w",
            ),
        ),
    ],
)
def test_each_target_has_a_table(table: dict[str, Any], target: object) -> None:
    assert follow_from({"workflow": "a/b", **table}, FLAGS) == FollowSpec("a/b", "active", target)  # type: ignore[arg-type]


def test_hooks_of_a_table_go_before_those_of_the_agent() -> None:
    table = {"workflow": "a/b", "pointer": "canary", "path": "/x", "probe_failures": 1, "smoke": ["tcp://h:1"]}
    found = follow_from({**table, "reload": "", "post": "logger ok"}, FLAGS)
    assert found.pointer == "canary"
    probe = ProbeSpec("http://127.0.0.1/health", failures=1, smoke=("tcp://h:1",))
    assert found.hooks == HookSpec(probe=probe, post="logger ok")
    assert follow_from({"workflow": "a/b", "path": "/x", "probe": ""}, FLAGS).hooks == HookSpec(
        reload="systemctl reload all", reload_timeout_s=limits.RELOAD_TIMEOUT_S
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "without a workflow"),
        ({"workflow": 3}, "expected a text, got 3"),
        ({"workflow": "a/b", "target": "ftp"}, "no target 'ftp'; there are file, directory, exec, http, dify"),
        ({"workflow": "a/b"}, "missing required field `path`"),
        ({"workflow": "a/b", "path": "/x", "urll": "x"}, r"unknown urll; target file has path, and every follow work"),
        ({"workflow": "a/b", "path": 3}, "expected a path"),
        ({"workflow": "a/b", "path": "/x", "probe_interval": "2s"}, "probe_interval: Expected `float`, got `str`"),
        ({"workflow": "a/b", "target": "http", "url": "ftp://x"}, r"write http\(s\)://HOST"),
        ({"workflow": "a/b", "target": "http", "url": "http://x", "timeout_s": 0}, "seconds above 0"),
        ({"workflow": "a/b", "target": "exec", "command": " "}, "give the command"),
        ({"workflow": "a/b", "target": "directory", "directory": "/d", "name": "../x"}, "no name of a file"),
        ({"workflow": "a/b", "target": "dify", "url": "http://x", "app": "7"}, "write the app's id"),
    ],
)
def test_what_is_wrong_is_said(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        follow_from(table, FLAGS)

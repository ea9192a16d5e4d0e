from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from registry.agent.config import AgentConfig, ConfigError, FollowSpec, parse_follow, parse_label
from registry.agent.probe import ProbeSpec
from registry.core import limits

FOLLOW = FollowSpec("support/triage", "active", Path("/srv/triage.yml"))


def config(**changes: Any) -> AgentConfig:
    fields: dict[str, Any] = {"name": "edge-1", "state_dir": Path("/var/lib/agent"), "follows": (FOLLOW,)}
    return AgentConfig(**(fields | changes))


def test_follows_are_read() -> None:
    assert parse_follow("support/triage=/srv/triage.yml") == FOLLOW
    assert parse_follow("a/b:canary=/x=y") == FollowSpec("a/b", "canary", Path("/x=y"))
    assert parse_follow("a/b=x.yml").path == Path.cwd() / "x.yml"
    assert FOLLOW.name == "support/triage:active"


@pytest.mark.parametrize("text", ["", "a/b", "a/b=", "=/x"])
def test_what_is_no_follow_says_how_to_write_one(text: str) -> None:
    with pytest.raises(ConfigError, match="write NAMESPACE/NAME"):
        parse_follow(text)


def test_labels_are_read() -> None:
    assert parse_label("ring=canary=1") == ("ring", "canary=1")
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_label("ring")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../edge"}, "agent name"),
        ({"site": "eu 1"}, "site name"),
        ({"labels": {"a b": "c"}}, "label key"),
        ({"follows": ()}, "nothing to follow"),
        ({"follows": (FollowSpec("../etc", "active", Path("/x")),)}, "workflow name"),
        ({"follows": (FollowSpec("a/b", "v1.2", Path("/x")),)}, "pointer name"),
        ({"follows": (FOLLOW, FollowSpec("support/triage", "active", Path("/y")))}, "followed twice"),
        ({"follows": (FOLLOW, FollowSpec("a/b", "active", FOLLOW.path))}, "followed twice"),
        ({"follows": (FollowSpec("a/b", "active", Path("/var/lib/agent/objects/x")),)}, "lies in the state directory"),
        ({"reload_timeout_s": 0}, "reload-timeout"),
        ({"probe": ProbeSpec("true", timeout_s=0)}, "probe times"),
        ({"probe": ProbeSpec("true", failures=0)}, "1 or more"),
        (
            {"follows": tuple(FollowSpec(f"a/b{n}", "active", Path(f"/x/{n}")) for n in range(limits.FOLLOWS + 1))},
            "at most 1000",
        ),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**changes)

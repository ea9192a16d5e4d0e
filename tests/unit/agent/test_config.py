from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from registry.agent.config import AgentConfig, ConfigError, FollowSpec, HookSpec, parse_fact, parse_follow, parse_label
from registry.agent.probe import ProbeSpec
from registry.agent.targets.dify import DifySpec
from registry.agent.targets.directory import DirectorySpec
from registry.agent.targets.file import FileSpec
from registry.core import limits

APP = "0b9d7f34-5a55-4c0e-8f1b-6f4b6a1f2c11"
FOLLOW = FollowSpec("support/triage", "active", FileSpec(Path("/srv/triage.yml")))


def config(**changes: Any) -> AgentConfig:
    fields: dict[str, Any] = {"name": "edge-1", "state_dir": Path("/var/lib/agent"), "follows": (FOLLOW,)}
    return AgentConfig(**(fields | changes))


def test_follows_are_read() -> None:
    assert parse_follow("support/triage=/srv/triage.yml") == FOLLOW
    assert parse_follow("a/b:canary=/x=y") == FollowSpec("a/b", "canary", FileSpec(Path("/x=y")))
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
        ({"follows": (FollowSpec("../etc", "active", FileSpec(Path("/x"))),)}, "workflow name"),
        ({"follows": (FollowSpec("a/b", "v1.2", FileSpec(Path("/x"))),)}, "pointer name"),
        ({"follows": (FOLLOW, FollowSpec("support/triage", "active", FileSpec(Path("/y"))))}, "followed twice"),
        ({"follows": (FOLLOW, FollowSpec("a/b", "active", FOLLOW.target))}, "followed twice"),
        (
            {"follows": (FollowSpec("a/b", "active", FileSpec(Path("/var/lib/agent/objects/x"))),)},
            "lies in the state directory",
        ),
        (
            {
                "follows": (
                    FollowSpec("a/b", "active", DirectorySpec(Path("/srv/d"), "x")),
                    FollowSpec("a/c", "active", DirectorySpec(Path("/srv/d"), "x")),
                )
            },
            "/srv/d/x is followed twice",
        ),
        (
            {
                "follows": (
                    FollowSpec("a/b", "active", DirectorySpec(Path("/srv/d"), "x")),
                    FollowSpec("a/c", "active", FileSpec(Path("/srv/d/y"))),
                )
            },
            "overlap",
        ),
        (
            {
                "follows": (
                    FollowSpec("a/b", "active", DirectorySpec(Path("/srv/d"), "x")),
                    FollowSpec("a/c", "active", FileSpec(Path("/srv/d"))),
                )
            },
            "overlap",
        ),
        (
            {"follows": (FOLLOW, FollowSpec("a/b", "active", FileSpec(Path("/srv/x/../triage.yml"))))},
            "followed twice",
        ),
        (
            {"follows": (FollowSpec("a/b", "active", FileSpec(Path("/srv/../var/lib/agent/objects/x"))),)},
            "lies in the state directory",
        ),
        (
            {
                "follows": (
                    FollowSpec("a/b", "active", DifySpec("https://one", APP, Path("/key"), "w")),
                    FollowSpec("a/c", "active", DifySpec("https://one/console/api", APP.upper(), Path("/key"), "w")),
                )
            },
            "is followed twice",
        ),
        ({"namespaces": ("sales",)}, "only namespaces sales may be"),
        ({"namespaces": ("a/b",)}, "namespace"),
        ({"facts": {"dify>=1": "1"}}, "dify>=1"),
        ({"facts": {"dify": "1\n2"}}, "control characters"),
        ({"facts": {f"cap:{n}": "" for n in range(limits.FACTS + 1)}}, "at most 32"),
        ({"pre_check_timeout_s": 0}, "pre-check-timeout"),
        ({"probe": ProbeSpec("")}, "proves nothing"),
        ({"probe": ProbeSpec("tcp://nowhere")}, "write tcp://HOST:PORT"),
        ({"probe": ProbeSpec("true", smoke=("grpc://x",))}, "write grpc://HOST:PORT"),
        ({"probe": ProbeSpec("true", smoke=("true",) * 33)}, "at most 32"),
        ({"reload_timeout_s": 0}, "reload-timeout"),
        ({"probe": ProbeSpec("true", timeout_s=0)}, "probe times"),
        ({"probe": ProbeSpec("true", failures=0)}, "1 or more"),
        (
            {
                "follows": tuple(
                    FollowSpec(f"a/b{n}", "active", FileSpec(Path(f"/x/{n}"))) for n in range(limits.FOLLOWS + 1)
                )
            },
            "at most 1000",
        ),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**changes)


def test_facts_are_read() -> None:
    assert [parse_fact(text) for text in ("dify=1.9.2", "cap:gpu")] == [("dify", "1.9.2"), ("cap:gpu", "")]
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        parse_fact("=1")


def test_a_follow_has_its_own_hooks_or_those_of_the_agent() -> None:
    own = FollowSpec("a/b", "active", FileSpec(Path("/x")), HookSpec(post="true"))
    made = config(follows=(FOLLOW, own), reload="reload", pre_check_timeout_s=7)
    assert made.hooks_of(FOLLOW) == HookSpec(reload="reload", pre_check_timeout_s=7)
    assert made.hooks_of(own) == HookSpec(post="true")
    with pytest.raises(ConfigError, match="post-timeout"):
        config(follows=(FollowSpec("a/b", "active", FileSpec(Path("/x")), HookSpec(post_timeout_s=0)),))

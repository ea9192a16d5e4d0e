"""registry-agent with [[follow]] tables, and its callbacks command."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from registry.agent.home import AgentFile, Home
from registry.agent.targets.http import KIND, Callback
from registry.cli.local_cluster import LocalCluster
from registry.client import Client
from tests.integration.agent_bench import WORKFLOW, until
from tests.integration.test_agent_cli import invoke, start
from tests.unit.agent.receiver import Receiver

OTHER, THIRD = "support/router", "support/greeter"


async def test_each_follow_has_its_own_target_and_hooks(tmp_path: Path) -> None:
    config, posted = tmp_path / "agent.toml", tmp_path / "posted"
    async with (
        LocalCluster(tmp_path / "cluster", 1) as cluster,
        Client(cluster.endpoints) as client,
        Receiver().serving() as receiver,
    ):
        config.write_text(
            f"""
            state_dir = "{tmp_path}/state"
            endpoints = "{",".join(cluster.endpoints)}"
            namespace = ["support"]
            fact = ["dify=1.9.2"]
            post = "echo $REGISTRY_WORKFLOW >> {posted}"

            [[follow]]
            workflow = "{THIRD}"
            path = "{tmp_path}/greeter.yml"

            [[follow]]
            workflow = "{WORKFLOW}"
            target = "directory"
            directory = "{tmp_path}/srv"
            name = "t.yml"

            [[follow]]
            workflow = "{OTHER}"
            target = "http"
            url = "{receiver.url}"
            post = ""
            smoke = ['test "$(cat $REGISTRY_CONTENT)" != bad']
            """
        )
        receiver.script = [503]
        agent = start("--config", str(config), log=tmp_path / "agent.log")
        try:
            async with asyncio.timeout(60):
                for workflow in (WORKFLOW, OTHER, THIRD):
                    await client.publish(workflow, b"good")
                    await client.switch(workflow, 1, reason="go live")
                while len([row async for row in client.agents() if row.state == "current"]) < 3:
                    await asyncio.sleep(0.02)
                await until(lambda: posted.exists() and len(posted.read_text().split()) == 2)
        finally:
            agent.send_signal(signal.SIGTERM)
            assert agent.wait(30) == 0, (tmp_path / "agent.log").read_text()
    assert (tmp_path / "srv" / "t.yml").read_bytes() == (tmp_path / "greeter.yml").read_bytes() == b"good"
    assert {body for _, _, body in receiver.requests} == {b"good"}
    assert sorted(posted.read_text().split()) == [THIRD, WORKFLOW]
    (row,) = json.loads(invoke("callbacks", "--state-dir", tmp_path / "state", "-o", "json").stdout)
    assert (row["id"], row["status"], row["attempts"]) == (f"{OTHER}:active/1", "success", 2)


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ('[[follow]]\nworkflow = "a/b"\ntarget = "ftp"', [], "no target 'ftp'; there are file, directory, exec"),
        ('[[follow]]\nworkflow = "a/b"\npath = "{tmp}/x"\nprobe = "tcp://x"', [], "write tcp://HOST:PORT"),
        ('[[follow]]\nworkflow = "a/b"\npath = "{tmp}/x"', ["--namespace", "c"], "only namespaces c may be"),
        ('[[follow]]\nworkflow = "a/b"\npath = "{tmp}/x"', ["--fact", "a>1=2"], "write NAME=VALUE"),
        (
            '[[follow]]\nworkflow = "a/b"\npath = "{tmp}/x"',
            ["--smoke-timeout", "0", "--smoke", "true"],
            "timeouts above 0",
        ),
        ('[[follow]]\nworkflow = "a/b"\ntarget = "directory"\ndirectory = "{tmp}/mine"', [], "move it away"),
        ('[[follow]]\ntarget = "ftp"', ["--follow", "a/b={tmp}/mine"], "move it away"),
    ],
)
def test_what_is_wrong_is_said(text: str, arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "agent.toml").write_text(text.replace("{tmp}", str(tmp_path)))
    common = ("--name", "e", "--state-dir", tmp_path / "s", "--config", tmp_path / "agent.toml")
    result = invoke(*common, *(argument.format(tmp=tmp_path) for argument in arguments))
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_callbacks_are_shown_and_retried(tmp_path: Path) -> None:
    home = Home(tmp_path / "state")
    os.close(home.lock())
    home.save_agent(AgentFile(agent="edge-1", incarnation="i", follows=((WORKFLOW, "active"),)))
    dead = Callback(
        id=7, action="install", url="http://x", version=3, generation=9, digest="d", status="dead", attempts=30,
        tried_ms=1_700_000_000_000, answer="HTTP status 503: [busy]",
    )  # fmt: skip
    home.save_target(WORKFLOW, "active", KIND, (dead,))
    for command in ("callbacks", "status"):
        shown = " ".join(invoke(command, "--state-dir", home.directory, COLUMNS="160").stdout.split())
        for part in (f"{WORKFLOW}:active/7", "dead", "30", "2023-11-14", "[busy]"):
            assert part in shown
    for number, exit_code, said in ((8, 2, "no callback"), (7, 0, "")):
        result = invoke("callbacks", "--state-dir", home.directory, "--retry", f"{WORKFLOW}:active/{number}")
        assert result.exit_code == exit_code
        assert said in result.stderr
    assert invoke("callbacks", "--state-dir", home.directory, "--retry", "seven").exit_code == 2

"""registry-agent as a process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from registry.agent.main import main
from registry.cli.local_cluster import LocalCluster
from registry.client import Client
from tests.integration.agent_bench import WORKFLOW, until

COMMAND = [sys.executable, "-m", "registry.agent.main"]


def invoke(*arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env=environment)


def status(state_dir: Path) -> dict[str, object]:
    result = invoke("status", "--state-dir", state_dir, "-o", "json")
    (follow,) = json.loads(result.stdout)["follows"] if result.exit_code == 0 else [{}]
    return dict(follow)


def start(*arguments: str, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(
            [*COMMAND, *arguments], env={**os.environ, "REGISTRY_AGENT_NAME": "edge-1"}, stderr=file
        )


async def test_follows_a_real_member_and_tells_it_what_runs(tmp_path: Path) -> None:
    path, state_dir = tmp_path / "live.yml", tmp_path / "state"
    config = tmp_path / "agent.toml"
    async with LocalCluster(tmp_path / "cluster", 1) as cluster, Client(cluster.endpoints) as client:
        config.write_text(
            f'name = "from-file"\nsite = "eu-1"\nlabel = ["ring=canary"]\nstate_dir = "{state_dir}"\n'
            f'endpoints = "{",".join(cluster.endpoints)}"\n'
            'probe = "! grep -q bad $REGISTRY_PATH"\nprobe_interval = 0.01\n'
        )
        agent = start("--config", str(config), "--follow", f"{WORKFLOW}={path}", log=tmp_path / "agent.log")
        try:
            async with asyncio.timeout(60):
                await client.publish(WORKFLOW, b"good: 1\n")
                await client.publish(WORKFLOW, b"bad: 2\n")
                await client.switch(WORKFLOW, 1, reason="go live")
                await until(lambda: status(state_dir).get("last_good"))
                assert path.read_bytes() == b"good: 1\n"
                await client.switch(WORKFLOW, 2, reason="try")
                while not (rows := [row async for row in client.agents() if row.code]):
                    await asyncio.sleep(0.02)
        finally:
            agent.send_signal(signal.SIGTERM)
            assert agent.wait(30) == 0, (tmp_path / "agent.log").read_text()
    (row,) = rows
    assert (row.agent, row.site, row.labels) == ("edge-1", "eu-1", {"ring": "canary"}), "environment before file"
    assert (row.version, row.generation, row.target_generation, row.code) == (1, 1, 2, "PROBE_FAILED")
    assert path.read_bytes() == b"good: 1\n"
    found = status(state_dir)
    assert set(found) == {
        *("workflow", "pointer", "generation", "version", "digest"),
        *("state", "age_s", "step", "next", "last_contact_s", "last_error", "last_good"),
    }
    assert (found["state"], found["version"]) == ("error", 1)
    table = invoke("status", "--state-dir", state_dir).stdout
    assert "PROBE_FAILED at generation 2" in table
    assert "ERROR for" in table
    log = [json.loads(line) for line in (tmp_path / "agent.log").read_text().splitlines()]
    assert [line["event"] for line in log][-1] == "agent stopped"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "e", "--state-dir", "{tmp}/s", "--follow", "nonsense"], "write NAMESPACE/NAME"),
        (["--name", "e", "--state-dir", "{tmp}/s"], "nothing to follow"),
        (["--name", "e e", "--state-dir", "{tmp}/s", "--follow", "a/b={tmp}/x"], "not a valid agent name"),
        (["--name", "e", "--follow", "a/b={tmp}/x"], "Missing option '--state-dir'"),
        (["--name", "e", "--state-dir", "{tmp}/s", "--follow", "a/b={tmp}/mine"], "is left as it is; move it away"),
        (["--name", "e", "--state-dir", "{tmp}/mine", "--follow", "a/b={tmp}/x"], "cannot be used"),
        (["--config", "{tmp}/mine"], "cannot be read"),
        (["--config", "{tmp}/odd.toml"], "unknown nmae; known are"),
        (["status", "--state-dir", "{tmp}/nowhere"], "no agent has run with the state directory"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine, no TOML")
    (tmp_path / "odd.toml").write_text('nmae = "e"')
    result = invoke(*[argument.format(tmp=tmp_path) for argument in arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("flag", "value"), [("--endpoints", "nowhere"), ("--tls-ca", "/nonexistent/ca.pem")])
def test_a_wrong_way_to_the_registry_is_one_line(tmp_path: Path, flag: str, value: str) -> None:
    follow = f"{WORKFLOW}={tmp_path / 'live.yml'}"
    result = invoke("--name", "e", "--state-dir", tmp_path / "s", "--follow", follow, flag, value)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert value in result.stderr
    assert "; " in result.stderr

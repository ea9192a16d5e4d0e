"""regctl dev: real members, stopped in order, data kept."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from registry.cli.local_cluster import LocalCluster, LocalClusterError
from registry.client import Client
from tests.unit.client.member import UNKNOWN, Member, World

REGCTL = [sys.executable, "-m", "registry.cli.main"]


def start(directory: Path) -> tuple[subprocess.Popen[bytes], Any]:
    process = subprocess.Popen(
        [*REGCTL, "dev", "--dir", str(directory), "--nodes", "1", "--port-base", "0", "-o", "json"],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def stop(process: subprocess.Popen[bytes], number: int) -> int:
    with process:
        process.send_signal(number)
        return process.wait(30)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_stops_in_order_and_keeps_its_data(tmp_path, number):
    process, ready = start(tmp_path)
    async with Client(ready["endpoints"]) as client:
        await client.publish("dev/a", b"{}")
        await client.switch("dev/a", 1, reason="go")
    assert stop(process, number) == 0
    log = (tmp_path / "n1.log").read_text()
    assert "stopped" in log.splitlines()[-1]
    process, again = start(tmp_path)
    assert again == ready
    async with Client(again["endpoints"]) as client:
        assert (await client.pointer("dev/a")).generation == 1
    assert stop(process, number) == 0


async def test_an_unknown_outcome_is_7_and_names_the_way_out():
    member = await Member(World()).start()
    member.always["Switch"] = UNKNOWN
    try:
        process = await asyncio.create_subprocess_exec(
            *[*REGCTL, "switch", "a/b@1", "--reason", "x", "--endpoints", member.address, "--timeout", "0.5"],
            stderr=asyncio.subprocess.PIPE,
        )
        _, err = await process.communicate()
    finally:
        await member.stop()
    request_id = member.calls[0][1].request_id
    assert process.returncode == 7
    assert f"--request-id {request_id}" in err.decode()


async def test_a_member_that_cannot_start_is_reported_with_its_log(tmp_path):
    cluster = LocalCluster(tmp_path, 1, arguments=["--no-such-flag"])
    try:
        with pytest.raises(LocalClusterError, match="no-such-flag"):
            await cluster.start()
    finally:
        await cluster.stop()

"""kill -9 under a constant load of switches: nothing acknowledged is lost, nothing takes effect twice."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from registry.cli.local_cluster import LocalCluster
from registry.client import Client
from tests.faults.load import Load, check

FULL = os.environ.get("REGISTRY_FAULTS") == "full"
LEADER_KILLS = 20 if FULL else 4
POWER_CUTS = 10 if FULL else 2
WORKFLOW = "faults/target"
PROGRESS_S = 30.0

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


async def _published(client: Client) -> list[int]:
    versions = [await client.publish(WORKFLOW, b'{"value": %d}' % number) for number in range(3)]
    return [version.number for version in versions]


async def _leader(client: Client) -> str:
    return (await client.status()).leader


async def test_the_leader_is_killed_again_and_again(tmp_path: Path) -> None:
    async with LocalCluster(tmp_path, 3) as cluster, Client(cluster.endpoints) as client:
        load = Load(list(cluster.endpoints), WORKFLOW, await _published(client))
        load.start()
        await load.progress(20, limit_s=PROGRESS_S)
        for _ in range(LEADER_KILLS):
            leader = await _leader(client)
            cluster[leader].kill()
            await load.progress(20, limit_s=PROGRESS_S)
            await cluster.restart(leader)
            await load.progress(20, limit_s=PROGRESS_S)
        await load.stop()
        counts = await check(load, client, WORKFLOW)
        print(f"{LEADER_KILLS} kills of the leader: {dict(counts)}")


async def test_all_members_are_killed_at_once(tmp_path: Path) -> None:
    rng = random.Random(1)
    async with LocalCluster(tmp_path, 3) as cluster, Client(cluster.endpoints) as client:
        load = Load(list(cluster.endpoints), WORKFLOW, await _published(client))
        load.start()
        for _ in range(POWER_CUTS):
            await load.progress(20 + rng.randrange(50), limit_s=PROGRESS_S)
            for member in cluster.members.values():
                member.kill()
            await cluster.start()
        await load.progress(20, limit_s=PROGRESS_S)
        await load.stop()
        counts = await check(load, client, WORKFLOW)
        print(f"{POWER_CUTS} kills of all: {dict(counts)}")

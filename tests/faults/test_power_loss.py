"""When all members lose power at once, unsynced writes are gone, and nothing acknowledged is."""

from __future__ import annotations

import os
import random
from itertools import product
from pathlib import Path

import pytest

from registry.client import Client
from tests.faults.load import Load, check
from tests.faults.members import Members, Place
from tests.faults.power import PAGE_BYTES, Mode, Power, Write, take_back

FULL = os.environ.get("REGISTRY_FAULTS") == "full"
POWER_CUTS = 10 if FULL else 3
WORKFLOW = "faults/target"
PROGRESS_S = 30.0
UNSYNCED_MODULE = "tests.faults.unsynced_member"

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


def places(directory: Path) -> list[Place]:
    """Loopback addresses that other runs do not use."""
    subnet = f"127.{1 + os.getpid() // 256 % 254}.{os.getpid() % 256}"
    return [Place(name, f"{subnet}.{number}", directory / name) for number, name in enumerate(("n1", "n2", "n3"), 1)]


async def published(client: Client) -> list[int]:
    return [(await client.publish(WORKFLOW, b'{"value": %d}' % number)).number for number in range(3)]


async def test_nothing_acknowledged_is_lost_with_the_power(tmp_path: Path) -> None:
    power, rng, lost = Power(tmp_path), random.Random(1), 0
    async with Members(places(tmp_path), tmp_path, environment=power.environment) as members:
        async with Client(members.endpoints) as client:
            load = Load(members.endpoints, WORKFLOW, await published(client))
            load.start()
            for _ in range(POWER_CUTS):
                await load.progress(20 + rng.randrange(30), limit_s=PROGRESS_S)
                members.kill()
                lost += sum(power.lose(member.data_dir, rng) for member in members.all.values())
                members.start()
                await members.until_ready()
            await load.progress(20, limit_s=PROGRESS_S)
            await load.stop()
            print(f"{POWER_CUTS} power cuts: {dict(await check(load, client, WORKFLOW))}, {lost} writes not synced")


async def test_members_that_do_not_sync_lose_what_they_acknowledged(tmp_path: Path) -> None:
    """The layer works: the test above fails for members that sync at first and then no longer."""
    power = Power(tmp_path)
    members = Members(places(tmp_path), tmp_path, environment=power.environment)
    async with members, Client(members.endpoints) as client:
        versions = await published(client)
        await client.switch(WORKFLOW, 1, reason="synced")
    members = Members(places(tmp_path), tmp_path, environment=power.environment, module=UNSYNCED_MODULE)
    async with members, Client(members.endpoints) as client:
        load = Load(members.endpoints, WORKFLOW, versions)
        load.start()
        await load.progress(20, limit_s=PROGRESS_S)
        await load.stop()
        members.kill()
        for member in members.all.values():
            assert power.lose(member.data_dir, random.Random(1), ("all",)) >= 5
        members.start()
        await members.until_ready()
        with pytest.raises(AssertionError, match="acknowledged and lost"):
            await check(load, client, WORKFLOW)


@pytest.mark.parametrize("mode", ["all", "after", "some"])
def test_what_was_not_synced_is_taken_back(tmp_path: Path, mode: Mode) -> None:
    before, after, durable = b"before" + bytes(PAGE_BYTES * 2), b"a" * PAGE_BYTES * 2, b"durable"
    path = tmp_path / "data.mdb"
    history = [
        Write("W", 0, len(before), before[: len(after)], after),
        Write("W", len(before), len(before), b"", after),
        Write("D", 8, len(before) + len(after), after[8:15], durable),
    ]
    rng, seen = random.Random(1), set()
    for _ in range(300):
        path.write_bytes(before)
        with path.open("r+b") as file:
            for write in history:
                file.seek(write.offset)
                file.write(write.written)
        take_back(path, history, mode, rng)
        data = path.read_bytes()
        assert data[8:15] == durable
        seen.add((data[:6] == b"before", data[PAGE_BYTES : PAGE_BYTES + 1] == b"a", len(data) - len(before)))
    expected = {
        "all": {(True, False, 0)},
        "after": {(True, False, 0), (False, True, 0), (False, True, len(after))},
        "some": {*product((True, False), (True, False), (0, PAGE_BYTES, PAGE_BYTES * 2))},
    }
    assert seen == expected[mode]

"""Random faults against three real members under mixed load: whatever the clients were told is linearizable, and all of
it stands in the audit log.

REGISTRY_FAULTS_SEED=N repeats the faults of a run, REGISTRY_FAULTS=full is the long form, REGISTRY_FAULTS_S its length.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from registry.client import Client
from registry.v1 import registry_pb2, registry_pb2_grpc
from tests.faults.disk import Disk
from tests.faults.linearizability import violations
from tests.faults.members import Members, Place
from tests.faults.nemesis import Nemesis
from tests.faults.network import Network
from tests.faults.power import Power
from tests.faults.workload import POINTERS, Workload, audit, channel_to

FULL = os.environ.get("REGISTRY_FAULTS") == "full"
SECONDS = float(os.environ.get("REGISTRY_FAULTS_S", "1800")) if FULL else 30.0
DISK_BYTES = 4 << 30 if FULL else 256 << 20
UNAVAILABLE_S = 1.5  # at most, at p95, after a single fault
ALL = "of all"
LAST_EVENTS, LAST_VIOLATIONS = 30, 10
AFTERWARDS = 50  # writes without faults at the end
PATIENCE_S, LOOK_S = 30.0, 0.2

pytestmark = [pytest.mark.faults, pytest.mark.timeout(SECONDS + 300)]


@contextmanager
def machines(directory: Path, names: list[str]) -> Iterator[tuple[Network, dict[str, Disk]]]:
    """Network ends and disks."""
    with Network(names) as network, ExitStack() as stack:
        disks: dict[str, Disk] = {}
        for name in names:
            disks[name] = Disk(directory, name, DISK_BYTES)
            stack.callback(disks[name].unmount)
        yield network, disks


async def play(nemesis: Nemesis, workload: Workload) -> None:
    """Load and faults, and a while of load without them."""
    await workload.start()
    faults = asyncio.create_task(nemesis.run(time.monotonic() + SECONDS))
    try:
        while not faults.done():
            workload.check_alive()
            await asyncio.wait({faults}, timeout=LOOK_S)
        faults.result()
        async with asyncio.timeout(PATIENCE_S):
            goal = len(workload.writes_done) + AFTERWARDS
            while len(workload.writes_done) < goal:
                workload.check_alive()
                await asyncio.sleep(LOOK_S)
        await workload.stop()
    finally:
        faults.cancel()
        await asyncio.gather(faults, return_exceptions=True)
        await workload.close()


async def converge(members: Members) -> None:
    """Every member shows the same pointers, by its own state."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            shown = [await _pointers(member.address) for member in members.all.values()]
            if shown[0] == shown[1] == shown[2]:
                return


async def _pointers(address: str) -> list[tuple[int, int]]:
    shown = []
    async with channel_to(address) as channel:
        stub: Any = registry_pb2_grpc.RegistryServiceStub(channel)  # type: ignore[no-untyped-call]
        for workflow, pointer in POINTERS:
            request = registry_pb2.GetPointerRequest(workflow=workflow, pointer=pointer, stale=True)
            reply = (await stub.GetPointer(request, timeout=PATIENCE_S, wait_for_ready=True)).pointer
            shown.append((reply.generation, reply.version))
    return shown


def unavailability(nemesis: Nemesis, workload: Workload) -> dict[str, list[float]]:
    """Seconds without a successful write, by kind of fault, shortest first."""
    gaps: dict[str, list[float]] = defaultdict(list)
    for single in nemesis.singles:
        gaps[single.kind].append(workload.longest_gap_s(single.began, single.ended))
    gaps[ALL] = [gap for each in gaps.values() for gap in each]
    return {kind: sorted(gaps[kind]) for kind in sorted(gaps)}


def at(share: float, ascending: list[float]) -> float:
    return ascending[math.ceil(share * len(ascending)) - 1]


def report(gaps: dict[str, list[float]]) -> str:
    lines = [f"{'longest time without a write, s':32}{'faults':>7}{'p50':>7}{'p95':>7}{'max':>7}"]
    for kind, ascending in gaps.items():
        p50, p95 = at(0.5, ascending), at(0.95, ascending)
        lines.append(f"{kind:32}{len(ascending):7}{p50:7.2f}{p95:7.2f}{ascending[-1]:7.2f}")
    return "\n".join(lines)


def keep(directory: Path, nemesis: Nemesis, workload: Workload) -> None:
    """For whoever has to find out why; the end of it is printed."""
    start = nemesis.events[0].at
    events = [f"{event.at - start:9.2f} s  {event.what}" for event in nemesis.events]
    (directory / "events.txt").write_text("\n".join(events))
    (directory / "history.txt").write_text("\n".join(map(str, workload.operations)))
    print("the last events:", *events[-LAST_EVENTS:], sep="\n")


async def test_random_faults_under_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("REGISTRY_FAULTS_SEED", random.SystemRandom().randrange(1_000_000)))
    print(f"REGISTRY_FAULTS_SEED={seed}; logs of the members in {tmp_path}")
    names = ["n1", "n2", "n3"]
    power = Power(tmp_path)
    with machines(tmp_path, names) as (network, disks):
        places = [Place(name, network.address(name), disks[name].path / "data", network.inside(name)) for name in names]
        async with Members(places, tmp_path, environment=power.environment) as members:
            workload = Workload({name: member.address for name, member in members.all.items()}, seed)
            async with Client(members.endpoints) as client:
                nemesis = Nemesis(members, network, disks, power, client, seed)
                try:
                    await play(nemesis, workload)
                    await converge(members)
                    wrong = violations(workload.operations, await audit(members.endpoints))
                except BaseException:
                    keep(tmp_path, nemesis, workload)
                    raise
            exits = [*members.exits]  # by themselves: full disks end nobody
    gaps = unavailability(nemesis, workload)
    with capsys.disabled() if FULL else nullcontext():
        print(f"\nseed {seed}: {len(nemesis.events)} events, {dict(sorted(workload.outcomes().items()))}")
        print(report(gaps))
    if wrong or exits or workload.overdue():
        keep(tmp_path, nemesis, workload)
        print(*wrong[:LAST_VIOLATIONS], *exits, *workload.overdue()[:LAST_VIOLATIONS], sep="\n")
    assert not wrong, f"{len(wrong)} violations, the first: {wrong[0]}"
    assert not exits, f"members ended that should not have: {exits}"
    assert not workload.overdue(), "calls went on past their deadlines"
    if FULL:
        assert at(0.95, gaps[ALL]) <= UNAVAILABLE_S

"""A batch: pointers are read together, and every operation still has its own outcome."""

from __future__ import annotations

from typing import Any

import pytest

from registry.core import commands
from registry.core.errors import Reason
from registry.server.replies import Replies
from registry.server.rpc import Rpc
from registry.server.services.batch import Batch
from registry.server.services.writes import Writes
from registry.v1 import registry_pb2
from tests.unit.server.lone_cluster import LoneCluster, Member

Operation = registry_pb2.Operation
NAMES = ("a/one", "a/two", "a/three")


class Bench:
    """`barriers`: asked for. `meanwhile`: pointers that somebody moves to version 2 while a barrier is waited for."""

    def __init__(self) -> None:
        self.member = Member()
        self.barriers = 0
        self.meanwhile: list[str] = []
        cluster: Any = self.member.cluster
        cluster.barrier = self._barrier
        nobody: Any = None
        reads = self.member.reads
        replies = Replies("n1", cluster, self.member.cluster.feed)
        writes = Writes(proposer=self.member.proposer, reads=reads, replies=replies, inspector=nobody)
        self._batch = Batch(
            {"switch": writes.switch, "get_pointer": reads.get_pointer},
            Rpc(self.member.metrics, self.member.repairs).failed,
            get_pointers=reads.get_pointers,
        )

    async def _barrier(self, *, timeout_s: float) -> None:
        self.barriers += 1
        while self.meanwhile:
            await self.move(self.meanwhile.pop(), 2)
        await LoneCluster.barrier(self.member.cluster, timeout_s=timeout_s)

    async def move(self, workflow: str, target: int) -> None:
        move = commands.Move(workflow=workflow, pointer="active", target=target)
        switch = commands.Switch(**self.member.stamp(), principal="ada", moves=(move,), reason="because")
        await self.member.apply(switch)

    async def results(self, *operations: registry_pb2.Operation) -> list[registry_pb2.OperationResult]:
        request = registry_pb2.BatchRequest(operations=operations)
        return list((await self._batch.batch(request, 5.0)).results)


@pytest.fixture
async def bench() -> Bench:
    bench = Bench()
    for name in NAMES:
        await bench.member.publish(name, b"1")
        await bench.member.publish(name, b"2")
        await bench.move(name, 1)
    return bench


def read(workflow: str, *, stale: bool = False) -> registry_pb2.Operation:
    return Operation(get_pointer=registry_pb2.GetPointerRequest(workflow=workflow, stale=stale))


def switch(workflow: str) -> registry_pb2.Operation:
    moves = [registry_pb2.Move(workflow=workflow, target="2")]
    return Operation(switch=registry_pb2.SwitchRequest(moves=moves, reason="because"))


def reason(result: registry_pb2.OperationResult) -> str:
    assert result.WhichOneof("result") == "error", result
    return result.error.details[0].value.decode(errors="ignore")


async def test_pointers_are_read_at_one_barrier_and_after_it(bench: Bench) -> None:
    bench.meanwhile = [NAMES[1]]
    results = await bench.results(*map(read, NAMES))
    assert [each.get_pointer.pointer.workflow for each in results] == list(NAMES)
    assert [each.get_pointer.pointer.version for each in results] == [1, 2, 1]
    assert {each.get_pointer.info.revision for each in results} == {bench.member.cluster.feed.registry.revision}
    assert bench.barriers == 1


async def test_each_read_fails_alone(bench: Bench) -> None:
    results = await bench.results(read("a/none"), read(NAMES[0]), read("no name"))
    assert results[1].get_pointer.pointer.version == 1
    assert Reason.WORKFLOW_NOT_FOUND in reason(results[0])
    assert Reason.INVALID_NAME in reason(results[2])


async def test_results_stand_in_the_order_of_the_operations(bench: Bench) -> None:
    operations = (switch(NAMES[0]), read(NAMES[1]), Operation(), read(NAMES[2], stale=True), switch(NAMES[2]))
    results = await bench.results(*operations, read(NAMES[0]))
    kinds = [each.WhichOneof("result") for each in results]
    assert kinds == ["switch", "get_pointer", "error", "get_pointer", "switch", "get_pointer"]
    assert [results[n].switch.pointers[0].workflow for n in (0, 4)] == [NAMES[0], NAMES[2]]
    assert [results[n].get_pointer.pointer.workflow for n in (1, 3, 5)] == [NAMES[1], NAMES[2], NAMES[0]]
    assert results[3].get_pointer.info.stale


async def test_without_a_majority_only_stale_reads_are_answered(bench: Bench) -> None:
    bench.member.cluster.has_majority = False
    results = await bench.results(read(NAMES[0]), read(NAMES[1], stale=True), read(NAMES[2]))
    assert results[1].get_pointer.pointer.version == 1
    assert all(Reason.NO_QUORUM in reason(results[n]) for n in (0, 2))


async def test_a_batch_without_reads_asks_for_no_barrier(bench: Bench) -> None:
    (result,) = await bench.results(switch(NAMES[0]))
    assert result.switch.pointers[0].version == 2
    assert bench.barriers == 0

"""Mixed calls on a few pointers by patient and impatient clients, every one of them recorded for `linearizability`."""

from __future__ import annotations

import asyncio
import random
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import grpc

from registry.client import Client
from registry.core.errors import Ambiguous, Reason, Rejected, Unavailable
from registry.v1 import registry_pb2, registry_pb2_grpc
from tests.faults.linearizability import Entry, Operation

CLIENTS = 8  # with time enough for a retry; whether they can write is what availability means
IMPATIENT = 2  # they give up so early that they often do not know what became of a write
TIMEOUT_S, IMPATIENT_TIMEOUTS_S = 8.0, (0.05, 1.0)
READ_TIMEOUT_S = 2.0
THINK_S = 0.03  # at most, between two calls of a client
VERSIONS = 4  # of each workflow that are switched between
POINTERS = (("faults/a", "active"), ("faults/a", "canary"), ("faults/b", "active"))
KINDS, WEIGHTS = ("switch", "expect", "rollback", "publish"), (37, 44, 15, 4)
PAGE = 1000
CHANNEL_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # in fact the time a connection may take
    ("grpc.max_reconnect_backoff_ms", 500),
)
SLACK_S = 2.0  # past a call's deadline, on a machine that runs everything at once


def channel_to(address: str) -> grpc.aio.Channel:
    """To this member and no other. gRPC's own patience after a refused connection is longer than a fault."""
    return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)


def register(workflow: str, pointer: str) -> str:
    return f"{workflow} {pointer}"


def numbers(workflow: str) -> str:
    """The register of a workflow's version numbers: publishing raises them as switching raises generations."""
    return f"{workflow} versions"


@dataclass
class _Caller:
    """One client: a write at a time, and a read at a time."""

    name: str
    client: Client
    rng: random.Random
    timeouts_s: tuple[float, float]
    known: dict[str, int]  # the newest generation it heard of
    calls: int = 0


class Workload:
    """`endpoints`: members by name. Clients run until `stop`; what they raise comes out of `check_alive`."""

    def __init__(self, endpoints: Mapping[str, str], seed: int) -> None:
        self._endpoints, self._seed = dict(endpoints), seed
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._channels = {name: channel_to(address) for name, address in endpoints.items()}
        self._reads: dict[str, Any] = {
            name: registry_pb2_grpc.RegistryServiceStub(channel)  # type: ignore[no-untyped-call]
            for name, channel in self._channels.items()
        }
        self.operations: list[Operation] = []
        self.writes_done: list[float] = []  # when a patient client's write succeeded, in order

    async def start(self) -> None:
        """Versions to switch between, then the clients."""
        async with Client(list(self._endpoints.values()), principal="setup") as client:
            caller = _Caller("setup", client, random.Random(self._seed), (TIMEOUT_S, TIMEOUT_S), {})
            for workflow in dict(POINTERS):
                for _ in range(VERSIONS):
                    await self._publish(caller, workflow)
        for number in range(CLIENTS + IMPATIENT):
            self._tasks.append(asyncio.create_task(self._run(number)))

    async def stop(self) -> None:
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for channel in self._channels.values():
            await channel.close(None)

    def check_alive(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()

    def longest_gap_s(self, began: float, ended: float) -> float:
        """The longest time without a successful write of a patient client."""
        first, last = bisect_right(self.writes_done, began), bisect_right(self.writes_done, ended)
        points = [began, *self.writes_done[first:last], ended]
        return max(after - before for before, after in pairwise(points))

    def outcomes(self) -> Counter[str]:
        return Counter(f"{each.kind} {each.outcome}" for each in self.operations)

    def overdue(self) -> list[Operation]:
        return [each for each in self.operations if each.ended - each.began > TIMEOUT_S + SLACK_S]

    async def _run(self, number: int) -> None:
        patient = number < CLIENTS
        rng = random.Random(f"{self._seed} client {number}")
        name, timeouts_s = f"client-{number}", (TIMEOUT_S, TIMEOUT_S) if patient else IMPATIENT_TIMEOUTS_S
        async with Client(list(self._endpoints.values()), principal=name) as client:
            caller = _Caller(name, client, rng, timeouts_s, {})
            await asyncio.gather(self._keep_writing(caller, patient), self._keep_reading(caller))

    async def _keep_writing(self, caller: _Caller, patient: bool) -> None:
        while not self._stopping.is_set():
            workflow, pointer = caller.rng.choice(POINTERS)
            (kind,) = caller.rng.choices(KINDS, WEIGHTS)
            if kind == "publish":
                done = await self._publish(caller, workflow)
            else:
                done = await self._move(caller, workflow, pointer, kind)
            if done.written and patient:
                self.writes_done.append(done.ended)
            await asyncio.sleep(caller.rng.uniform(0, THINK_S))

    async def _keep_reading(self, caller: _Caller) -> None:
        """Beside its writes: a read that waits for a member that is gone must not count as a write that does."""
        while not self._stopping.is_set():
            await self._read(caller, *caller.rng.choice(POINTERS))
            await asyncio.sleep(caller.rng.uniform(0, THINK_S))

    async def _publish(self, caller: _Caller, workflow: str) -> Operation:
        caller.calls += 1
        name = f"{caller.name} call {caller.calls}"

        async def publish() -> tuple[int, int]:
            done = await caller.client.publish(
                workflow,
                b'{"by": "%s"}' % name.encode(),
                message=name,
                timeout_s=caller.rng.uniform(*caller.timeouts_s),
            )
            return done.number, done.number

        return await self._recorded(Operation(numbers(workflow), name, "write", 0, 0, "done"), publish())

    async def _move(self, caller: _Caller, workflow: str, pointer: str, kind: str) -> Operation:
        """A switch or a rollback; every switch to a named version, rollbacks also to where the registry picks."""
        caller.calls += 1
        where = register(workflow, pointer)
        target = caller.rng.randint(1, VERSIONS)
        asked = Operation(
            where,
            f"{caller.name} call {caller.calls}",
            "write",
            0,
            0,
            "done",
            target=0 if kind == "rollback" and caller.rng.random() < 0.5 else target,
            expected=caller.known.get(where, 0) if kind == "expect" else None,
        )
        timeout_s = caller.rng.uniform(*caller.timeouts_s)

        async def move() -> tuple[int, int]:
            if kind == "rollback":
                done = await caller.client.rollback(
                    workflow,
                    to=asked.target or None,
                    pointer=pointer,
                    reason=asked.name,
                    keep_status=True,
                    timeout_s=timeout_s,
                )
            else:
                done = await caller.client.switch(
                    workflow,
                    target,
                    pointer=pointer,
                    expected_generation=asked.expected,
                    reason=asked.name,
                    timeout_s=timeout_s,
                )
            return done.generation, done.version

        return self._learned(caller, await self._recorded(asked, move()))

    async def _read(self, caller: _Caller, workflow: str, pointer: str) -> Operation:
        """From a member at random, not from the leader as clients do."""
        caller.calls += 1
        stub = self._reads[caller.rng.choice(list(self._reads))]

        async def read() -> tuple[int, int]:
            request = registry_pb2.GetPointerRequest(workflow=workflow, pointer=pointer)
            try:
                reply = await stub.GetPointer(request, timeout=READ_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    return 0, 0
                raise Unavailable(Reason.NO_MEMBER, error.details() or "") from None
            return reply.pointer.generation, reply.pointer.version

        asked = Operation(register(workflow, pointer), f"{caller.name} call {caller.calls}", "read", 0, 0, "done")
        return self._learned(caller, await self._recorded(asked, read()))

    def _learned(self, caller: _Caller, done: Operation) -> Operation:
        caller.known[done.register] = max(done.generation, caller.known.get(done.register, 0))
        return done

    async def _recorded(self, asked: Operation, call: Awaitable[tuple[int, int]]) -> Operation:
        began, outcome, told = time.monotonic(), "done", (0, 0)
        try:
            told = await call
        except Ambiguous:
            outcome = "unknown"
        except Unavailable:
            outcome = "unavailable"
        except Rejected as error:
            outcome = "refused"
            told = (int(error.metadata.get("generation", 0)), int(error.metadata.get("version", 0)))
        generation, version = told
        done = replace(
            asked,
            began=began,
            ended=time.monotonic(),
            outcome=outcome,  # type: ignore[arg-type]
            generation=generation,
            version=version,
        )
        self.operations.append(done)
        return done


async def audit(endpoints: Sequence[str]) -> dict[str, list[Entry]]:
    """What the registry's log says of every register, oldest first."""
    found: dict[str, list[Entry]] = {}
    async with Client(endpoints, timeout_s=30.0) as client:
        for workflow, pointer in POINTERS:
            entries = [
                Entry(moved.generation, moved.version, change.reason)
                async for change in client.history(workflow, pointer, page_size=PAGE)
                for moved in change.pointers
            ]
            found[register(workflow, pointer)] = entries[::-1]
        for workflow in dict(POINTERS):
            versions = [each async for each in client.versions(workflow, page_size=PAGE)]
            found[numbers(workflow)] = [Entry(each.number, each.number, each.message) for each in versions[::-1]]
    return found

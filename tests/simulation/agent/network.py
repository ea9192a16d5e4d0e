"""What lies between the agent and the registry: members that are late, behind, of another epoch, or hostile."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random

from msgspec import structs

from registry.agent.api import Ack, Holding, Instruction, Poll, Polled, PollReply, Progress
from registry.agent.guards import digest_of
from registry.core import frames
from registry.core.errors import Reason, error
from tests.simulation.agent.checkers import Checkers
from tests.simulation.agent.disk import Crash, Disk
from tests.simulation.agent.registry import CHUNK_BYTES, LARGE_BYTES, Key, Registry, State, Switch, Version

CLUSTER = "c1"
Lie = Callable[[Random, Instruction], Instruction]

# What a hostile member says of the newest switch. Bytes that lead to these digests do not exist.
LIES: dict[str, Lie] = {
    "another digest": lambda rng, told: structs.replace(told, digest=digest_of(rng.randbytes(8))),
    "no digest": lambda rng, told: structs.replace(told, digest=rng.choice(["", "sha256:", "../../etc/x"])),
    "higher generation, another digest": lambda rng, told: structs.replace(
        told, generation=told.generation + rng.choice([1, 10, 10**12]), digest=digest_of(rng.randbytes(8))
    ),
    "higher generation, no digest": lambda rng, told: structs.replace(
        told, generation=told.generation + rng.choice([1, 10, 10**12]), digest="md5:0"
    ),
    "lower generation": lambda rng, told: structs.replace(
        told, generation=rng.randint(-1, told.generation - 1), digest=digest_of(rng.randbytes(8))
    ),
    "another size": lambda rng, told: structs.replace(told, size_bytes=rng.choice([0, 1, told.size_bytes + 1, 10**6])),
    "huge": lambda rng, told: structs.replace(told, size_bytes=rng.choice([-1, 2**40, 2**62])),
    "another base": lambda rng, told: structs.replace(told, how="delta", delta_base=digest_of(rng.randbytes(8))),
    "have": lambda rng, told: structs.replace(told, how="have"),
    "full": lambda rng, told: structs.replace(told, how="full"),
    "somebody else's": lambda rng, told: structs.replace(told, workflow="other/workflow"),
}  # fmt: skip


class Network:
    """RegistryApi of the simulated agent. `faults`: how often each happens to a call; empty: never."""

    def __init__(self, rng: Random, registry: Registry, disk: Disk, checkers: Checkers) -> None:
        self.faults: dict[str, float] = {}
        self.hostile = False
        self.counts: Counter[str] = Counter()
        self._rng = rng
        self._registry = registry
        self._disk = disk
        self._checkers = checkers
        self._replies: list[Polled] = []
        self._changed = asyncio.Event()
        self.is_known = False  # the agent knows its cluster

    def wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # RegistryApi

    async def poll(self, poll: Poll, *, timeout_s: float) -> Polled:
        fault = await self._sent()
        if poll.cluster_id:
            self.is_known = True
        if fault == "duplicate" and self._replies:
            return self._rng.choice(self._replies[-20:])
        polled = await self._answered(poll, fault)
        if fault in ("late", "lost answer"):
            await self._travel(self._rng.uniform(0, poll.wait_ms / 1000))
        if fault == "lost answer":
            raise error(Reason.NO_MEMBER, "the connection broke")
        if fault == "hostile" and self.hostile:
            polled = self._falsified(polled)
        elif fault == "foreign" and self.is_known:
            if self._rng.random() < 0.5:
                raise error(Reason.CLUSTER_MISMATCH, "this is cluster c2")
            polled = self._foreign(polled)
        elif fault != "older epoch":
            self._replies.append(polled)
        await self._travel()
        return polled

    async def content(
        self, workflow: str, version: int, *, min_revision: int, base: bytes, into: Path, progress: Progress
    ) -> bytes | None:
        fault = await self._sent()
        state = self._state(fault)
        if state.revision < min_revision:
            raise error(Reason.NO_MEMBER, f"no member has revision {min_revision}")
        if (workflow, version) not in state.versions:
            raise error(Reason.VERSION_NOT_FOUND, f"{workflow} has no version {version}")
        data = state.versions[workflow, version].data
        await self._travel()
        if fault in ("late", "lost answer"):
            await self._travel(self._rng.uniform(0, 90))
        if fault == "hostile" and self.hostile:
            data = self._garbled(data)
        if len(data) >= LARGE_BYTES:
            await self._arrive(data, into, progress, breaks=fault == "lost answer")
            return None
        if fault == "lost answer":
            raise error(Reason.NO_MEMBER, "the connection broke")
        return data

    async def acknowledge(self, acks: Sequence[Ack]) -> None:
        fault = await self._sent()
        self._checkers.heard(acks)
        await self._travel()
        if fault == "lost answer":
            raise error(Reason.NO_MEMBER, "the connection broke")

    # How it travels

    async def _sent(self) -> str:
        """The fault of this call; some end it here."""
        await self._travel()
        names, shares = list(self.faults), list(self.faults.values())
        (fault,) = self._rng.choices(["", *names], [max(0.0, 1 - sum(shares)), *shares])
        if fault:
            self.counts[fault] += 1
        if fault == "busy":
            raise error(Reason.BUSY, "too many wait")
        if fault == "lost":
            await self._travel(self._rng.uniform(0, 100))
            raise error(Reason.NO_MEMBER, "no member reachable")
        if fault == "timeout":
            raise TimeoutError
        return fault

    async def _travel(self, seconds: float | None = None) -> None:
        if self._disk.is_dead:
            raise Crash
        await asyncio.sleep(self._rng.uniform(0.0005, 0.02) if seconds is None else seconds)
        if self._disk.is_dead:
            raise Crash

    def _state(self, fault: str) -> State:
        if fault == "older epoch":
            return self._registry.of_older_epoch() or self._registry.now
        return self._registry.behind() if fault == "behind" else self._registry.now

    async def _answered(self, poll: Poll, fault: str) -> Polled:
        end_s = asyncio.get_running_loop().time() + poll.wait_ms / 1000
        while True:
            state = self._state(fault)
            if poll.cluster_id and poll.cluster_id != CLUSTER:
                raise error(Reason.CLUSTER_MISMATCH, f"this is cluster {CLUSTER}")
            found = _different(state, poll) if poll.epoch <= state.epoch or fault == "older epoch" else []
            if found or fault in ("older epoch", "hostile", "foreign"):
                break
            changed, left_s = self._changed, end_s - asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(left_s):
                    await changed.wait()
            except TimeoutError:
                break
        made = {(each.workflow, each.pointer): frame for each, frame in found if frame}
        told = tuple(each for each, _ in found)
        reply = PollReply(cluster_id=CLUSTER, epoch=state.epoch, revision=state.revision, instructions=told)
        return Polled(reply, made)

    def _foreign(self, polled: Polled) -> Polled:
        """Of a cluster that has other bytes for pointers of the same name."""
        data = self._rng.randbytes(100)
        told = tuple(
            Instruction(
                workflow=key[0],
                pointer=key[1],
                generation=switch.generation + 1,
                version=1,
                digest=digest_of(data),
                size_bytes=len(data),
                how="full",
            )
            for key, switch in self._registry.now.pointers.items()
        )
        frame = frames.pack(data, 3)
        reply = structs.replace(polled.reply, cluster_id="c2", instructions=told)
        return Polled(reply, {(each.workflow, each.pointer): frame for each in told})

    def _falsified(self, polled: Polled) -> Polled:
        rng = self._rng
        state = self._registry.now
        told = []
        for key, switch in state.pointers.items():
            (lie,) = rng.choices(list(LIES))
            self.counts[f"told {lie}"] += 1
            told.append(LIES[lie](rng, instruction_of(key, switch, state.versions)))
        made = {key: self._garbled(frame or b"frame") for key, frame in polled.frames.items()}
        if rng.random() < 0.5:
            made |= {key: rng.randbytes(rng.choice([1, 100, 200_000])) for key in state.pointers}
        return Polled(structs.replace(polled.reply, instructions=tuple(told), epoch=state.epoch), made)

    def _garbled(self, data: bytes) -> bytes:
        rng = self._rng
        at = rng.randrange(len(data))
        return rng.choice([data[:at], data + b"x", data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], b""])

    async def _arrive(self, data: bytes, into: Path, progress: Progress, *, breaks: bool) -> None:
        """In whole chunks, after those that are there and right."""
        there = into.read_bytes() if into.exists() else b""
        kept = 0
        while kept < len(data) and there[kept : kept + CHUNK_BYTES] == data[kept : kept + CHUNK_BYTES]:
            kept = min(len(data), kept + CHUNK_BYTES)
        descriptor = os.open(into, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.ftruncate(descriptor, kept)
            os.lseek(descriptor, kept, os.SEEK_SET)
            while kept < len(data):
                if breaks and self._rng.random() < 0.5:
                    raise error(Reason.NO_MEMBER, "the connection broke")
                view = memoryview(data)[kept : kept + CHUNK_BYTES]
                while view:
                    written = os.write(descriptor, view)
                    kept, view = kept + written, view[written:]
                progress(kept, len(data))
                await self._travel()
        finally:
            os.close(descriptor)


def _different(state: State, poll: Poll) -> list[tuple[Instruction, bytes]]:
    found = []
    for holding in poll.follows:
        key = holding.workflow, holding.pointer
        switch = state.pointers.get(key)
        if switch and (poll.epoch != state.epoch or switch.generation > holding.generation):
            found.append(_delivered(state, instruction_of(key, switch, state.versions), holding))
    return found


def instruction_of(key: Key, switch: Switch, versions: Mapping[tuple[str, int], Version]) -> Instruction:
    """As it stands in a reply: the epoch does not."""
    return Instruction(
        workflow=key[0],
        pointer=key[1],
        generation=switch.generation,
        version=switch.version,
        digest=switch.digest,
        size_bytes=len(versions[key[0], switch.version].data),
        base_digest=switch.base_digest,
        needs=switch.needs,
        rollback=switch.rollback,
        min_revision=switch.revision,
        not_before_ms=switch.not_before_ms,
        deadline_ms=switch.deadline_ms,
    )


def _delivered(state: State, told: Instruction, holding: Holding) -> tuple[Instruction, bytes]:
    if told.digest in (holding.digest, *holding.kept):
        return structs.replace(told, how="have"), b""
    data = state.versions[told.workflow, told.version].data
    if len(data) >= LARGE_BYTES or len(data) % 3 == 0:
        return told, b""
    mine = (version.data for (name, _), version in state.versions.items() if name == told.workflow)
    base = next((each for each in mine if digest_of(each) == holding.digest), None)
    if base is None:
        made, frame = structs.replace(told, how="full"), frames.pack(data, 3)
    else:
        made = structs.replace(told, how="delta", delta_base=holding.digest)
        frame = frames.pack_over(base, data, 3)
    return structs.replace(made, content_bytes=len(frame)), frame

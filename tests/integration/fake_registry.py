"""A registry in memory, as agents see one. `test_agent_contract.py` holds it to the semantics of a real one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import structs

from registry.agent.api import Ack, Holding, Instruction, Poll, Polled, PollReply, Progress
from registry.agent.guards import digest_of
from registry.core import frames
from registry.core.errors import Reason, error


class FakeRegistry:
    def __init__(self, cluster_id: str = "c1") -> None:
        self.cluster_id = cluster_id
        self.epoch = 1
        self.age_ms = 0  # since it heard the leader
        self.acks: list[Ack] = []  # each (agent, incarnation, sequence) once, in order of arrival
        self.unavailable = 0  # this many of the next calls fail
        self.fetched: list[tuple[str, int]] = []
        self.bases: list[bytes] = []  # that each of them could have come as a delta of
        self.corrupt = False  # content arrives with other bytes
        self.inline = False  # small content comes inside the replies to polls
        self.corrupt_frames = False
        self.asked: list[Poll] = []
        self.told: list[tuple[int, str]] = []  # (generation, how) of every instruction
        self._digests: dict[str, bytes] = {}
        self._contents: dict[tuple[str, int], bytes] = {}
        self._instructions: dict[tuple[str, str], Instruction] = {}
        self._revision = 0
        self._changed = asyncio.Condition()

    async def publish(self, workflow: str, data: bytes) -> int:
        version = sum(name == workflow for name, _ in self._contents) + 1
        self._contents[workflow, version] = data
        self._digests[digest_of(data)] = data
        self._revision += 1
        return version

    async def switch(
        self, workflow: str, version: int, *, pointer: str = "active", rollback: bool = False, **fields: Any
    ) -> int:
        """The new generation."""
        data = self._contents[workflow, version]
        before = self._instructions.get((workflow, pointer))
        self._revision += 1
        made = Instruction(
            workflow=workflow,
            pointer=pointer,
            generation=before.generation + 1 if before else 1,
            version=version,
            digest=digest_of(data),
            size_bytes=len(data),
            base_digest=before.digest if before else "",
            rollback=rollback,
            min_revision=self._revision,
            **fields,
        )
        self._instructions[workflow, pointer] = made
        await self.wake()
        return made.generation

    async def restore(self, epoch: int, generations: dict[tuple[str, str], tuple[int, int]]) -> None:
        """Another history: (workflow, pointer) -> (generation, version), as after a restore from a backup."""
        self.epoch = epoch
        self._instructions.clear()
        for (workflow, pointer), (generation, version) in generations.items():
            await self.switch(workflow, version, pointer=pointer)
            made = self._instructions[workflow, pointer]
            self._instructions[workflow, pointer] = structs.replace(made, generation=generation)
        await self.wake()

    async def wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until_acked(self, phase: str, generation: int, workflow: str = "support/triage") -> Ack:
        async with self._changed:
            while True:
                for ack in self.acks:
                    if (ack.workflow, ack.phase, ack.generation) == (workflow, phase, generation):
                        return ack
                await self._changed.wait()

    # RegistryApi

    async def poll(self, poll: Poll, *, timeout_s: float) -> Polled:
        self.asked.append(poll)
        self._fail_if_unavailable()
        if poll.cluster_id and poll.cluster_id != self.cluster_id:
            raise error(Reason.CLUSTER_MISMATCH, f"this is cluster {self.cluster_id}")
        try:
            async with asyncio.timeout(poll.wait_ms / 1000), self._changed:
                while not (found := self._different(poll)):
                    await self._changed.wait()
        except TimeoutError:
            found = []
        made = {(each.workflow, each.pointer): frame for each, frame in found if frame}
        self.told += [(each.generation, each.how) for each, _ in found]
        told = tuple(each for each, _ in found)
        reply = PollReply(cluster_id=self.cluster_id, epoch=self.epoch, instructions=told, age_ms=self.age_ms)
        return Polled(reply, made)

    async def content(
        self, workflow: str, version: int, *, min_revision: int, base: bytes, into: Path, progress: Progress
    ) -> bytes | None:
        self._fail_if_unavailable()
        self.fetched.append((workflow, version))
        self.bases.append(base)
        if (workflow, version) not in self._contents:
            raise error(Reason.VERSION_NOT_FOUND, f"{workflow} has no version {version}")
        data = self._contents[workflow, version]
        return data[:-1] + bytes([data[-1] ^ 1]) if self.corrupt else data

    async def acknowledge(self, acks: Sequence[Ack]) -> None:
        self._fail_if_unavailable()
        known = {(ack.agent, ack.incarnation, ack.sequence) for ack in self.acks}
        self.acks += [ack for ack in acks if (ack.agent, ack.incarnation, ack.sequence) not in known]
        await self.wake()

    def _fail_if_unavailable(self) -> None:
        if self.unavailable > 0:
            self.unavailable -= 1
            raise error(Reason.NO_MEMBER, "no member reachable")

    def _different(self, poll: Poll) -> list[tuple[Instruction, bytes]]:
        """Only what is above the generation that the agent has; of another epoch it has nothing."""
        found = []
        for follow in poll.follows:
            made = self._instructions.get((follow.workflow, follow.pointer))
            if made and (poll.epoch != self.epoch or made.generation > follow.generation):
                found.append(self._delivered(made, follow, poll.inline_bytes))
        return found

    def _delivered(self, made: Instruction, follow: Holding, inline_bytes: int) -> tuple[Instruction, bytes]:
        data, base = self._contents[made.workflow, made.version], self._digests.get(follow.digest)
        if made.digest in follow.kept:
            return structs.replace(made, how="have"), b""
        if not self.inline or len(data) > inline_bytes or not data:
            return made, b""
        if base is None:
            told, frame = structs.replace(made, how="full"), frames.pack(data, 3)
        else:
            told = structs.replace(made, how="delta", delta_base=follow.digest)
            frame = frames.pack_over(base, data, 3)
        if self.corrupt_frames:
            frame = frame[:-1] + bytes([frame[-1] ^ 1])
        return structs.replace(told, content_bytes=len(frame)), frame

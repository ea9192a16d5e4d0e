"""A registry in memory, as agents see one. `test_agent_contract.py` holds it to the semantics of a real one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from registry.agent.api import Ack, Holding, Instruction, PollReply, Progress
from registry.agent.guards import digest_of
from registry.core.errors import Reason, error


class FakeRegistry:
    def __init__(self, cluster_id: str = "c1") -> None:
        self.cluster_id = cluster_id
        self.epoch = 1
        self.acks: list[Ack] = []  # each (agent, incarnation, sequence) once, in order of arrival
        self.unavailable = 0  # this many of the next calls fail
        self.polls = 0
        self.fetched: list[tuple[str, int]] = []
        self.bases: list[bytes] = []  # that each of them could have come as a delta of
        self.corrupt = False  # content arrives with other bytes
        self._contents: dict[tuple[str, int], bytes] = {}
        self._instructions: dict[tuple[str, str], Instruction] = {}
        self._revision = 0
        self._changed = asyncio.Condition()

    async def publish(self, workflow: str, data: bytes) -> int:
        version = sum(name == workflow for name, _ in self._contents) + 1
        self._contents[workflow, version] = data
        self._revision += 1
        return version

    async def switch(self, workflow: str, version: int, *, pointer: str = "active", rollback: bool = False) -> int:
        """The new generation."""
        data = self._contents[workflow, version]
        before = self._instructions.get((workflow, pointer))
        self._revision += 1
        made = Instruction(
            workflow=workflow,
            pointer=pointer,
            epoch=self.epoch,
            generation=before.generation + 1 if before else 1,
            version=version,
            digest=digest_of(data),
            size_bytes=len(data),
            base_digest=before.digest if before else "",
            rollback=rollback,
            min_revision=self._revision,
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
            fields = {name: getattr(made, name) for name in made.__struct_fields__}
            self._instructions[workflow, pointer] = Instruction(**(fields | {"generation": generation}))
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

    async def poll(
        self,
        *,
        cluster_id: str,
        epoch: int,
        agent: str,
        site: str,
        labels: dict[str, str],
        follows: Sequence[Holding],
        wait_s: float,
    ) -> PollReply:
        self.polls += 1
        self._fail_if_unavailable()
        if cluster_id and cluster_id != self.cluster_id:
            raise error(Reason.CLUSTER_MISMATCH, f"this is cluster {self.cluster_id}")
        try:
            async with asyncio.timeout(wait_s), self._changed:
                while not (found := self._different(follows, epoch)):
                    await self._changed.wait()
        except TimeoutError:
            found = ()
        return PollReply(cluster_id=self.cluster_id, epoch=self.epoch, instructions=found)

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

    def _different(self, follows: Sequence[Holding], epoch: int) -> tuple[Instruction, ...]:
        """Only what is above the generation that the agent has; of another epoch it has nothing."""
        found = []
        for follow in follows:
            made = self._instructions.get((follow.workflow, follow.pointer))
            if made and (epoch != self.epoch or made.generation > follow.generation):
                found.append(made)
        return tuple(found)

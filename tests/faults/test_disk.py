"""Disks that fill up under members: refusals that say so, nobody ends, nothing acknowledged is lost, and writes go on
by themselves once there is room."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from registry.client import Client
from registry.core.errors import Ambiguous, NotFound, Reason, RegistryError, Unavailable
from tests.faults import leftovers
from tests.faults.disk import Disk
from tests.faults.members import Member, Members, Place

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

FULL = os.environ.get("REGISTRY_FAULTS") == "full"
RESERVE_BYTES = 16 << 20
DISK_BYTES, LEFT_BYTES = 400 << 20, 48 << 20
CONTENT_BYTES = 256 * 1024
WORKFLOW, BESIDE = "faults/disk", "faults/beside"
REFUSED_S = 1.0  # the disks stay full for so long behind the first refusal
PATIENCE_S = 60.0
LOOK_S = 0.02


def test_a_full_disk_takes_nothing_until_it_is_freed(tmp_path: Path) -> None:
    with disks(tmp_path, {"n1": 64 << 20}) as made:
        disk = made["n1"]
        file = disk.path / "file"
        file.write_bytes(b"before")
        disk.fill()
        with pytest.raises(OSError) as failed:
            file.write_bytes(bytes(1 << 20))
        assert failed.value.errno == errno.ENOSPC
        disk.free()
        file.write_bytes(bytes(1 << 20))
        disk.leave(8 << 20)
        file.write_bytes(bytes(4 << 20))
        with pytest.raises(OSError):
            file.with_name("more").write_bytes(bytes(16 << 20))
    assert not disk.path.is_mount()


@contextmanager
def disks(directory: Path, sizes: dict[str, int]) -> Iterator[dict[str, Disk]]:
    if reason := leftovers.why_not():
        pytest.skip(f"no disks of our own: {reason}")
    made: dict[str, Disk] = {}
    try:
        for name, size_bytes in sizes.items():
            made[name] = Disk(directory, name, size_bytes)
        yield made
    finally:
        for disk in made.values():
            disk.unmount()


@dataclass
class Writer:
    """Publishes new content on and on, each version under its own label, and knows what was acknowledged."""

    client: Client
    acknowledged: dict[int, bytes] = field(default_factory=dict)
    refusals: list[RegistryError] = field(default_factory=list)
    others: list[RegistryError] = field(default_factory=list)
    reads: int = 0
    stopped: bool = False
    pause_s: float = 0.0
    _rng: random.Random = field(default_factory=lambda: random.Random(1))

    async def write(self) -> None:
        while not self.stopped:
            content = self._rng.randbytes(CONTENT_BYTES)
            try:
                version = await self.client.publish(WORKFLOW, content, kind="binary")
                self.acknowledged[version.number] = content
                await asyncio.sleep(self.pause_s)
            except (Unavailable, Ambiguous) as error:
                full = error.reason is Reason.NO_SPACE
                (self.refusals if full else self.others).append(error)
                await asyncio.sleep(LOOK_S)

    async def read(self) -> None:
        """What was acknowledged can be read at any time. Raises what a read raises."""
        while True:
            if self.acknowledged:
                number, content = self._rng.choice(list(self.acknowledged.items()))
                try:
                    assert await self.client.content(WORKFLOW, number) == content
                except NotFound:
                    assert number not in self.acknowledged, "it was not let go of"
                self.reads += 1
            await asyncio.sleep(LOOK_S)


@dataclass
class Scene:
    disks: dict[str, Disk]
    members: Members
    client: Client
    writer: Writer

    async def until(self, condition: Callable[[], bool | Awaitable[bool]], what: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not (found if isinstance(found := condition(), bool) else await found):
                    assert not self.members.exits, f"a member ended while waiting for {what}"
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            pytest.fail(f"waited {PATIENCE_S:g} s for {what}; others: {self.writer.others[-3:]}")

    async def leader(self) -> Member:
        return self.members[(await self.client.status()).leader]

    async def level(self) -> bool:
        status = await self.client.status()
        indexes = {member.applied_index for member in status.members}
        return len(indexes) == 1 and all(member.alive for member in status.members)

    async def progress(self, what: str, more: int = 20) -> None:
        goal = len(self.writer.acknowledged) + more
        await self.until(lambda: len(self.writer.acknowledged) >= goal, what)

    async def check(self) -> None:
        """Every member has everything that was acknowledged, and nobody ended meanwhile."""
        self.writer.stopped = True
        acknowledged = dict(self.writer.acknowledged)
        await self.until(self.level, "all members to have it")
        for member in self.members.all.values():
            async with Client([member.address]) as client:
                for number, content in acknowledged.items():
                    assert await client.content(WORKFLOW, number, stale=True) == content
                scrubbed = await client.scrub(member.address)
                assert (scrubbed.damage, scrubbed.contents >= len(acknowledged)) == ((), True)
        assert not self.members.exits


@asynccontextmanager
async def scene(directory: Path, small: Sequence[str] = ()) -> AsyncIterator[Scene]:
    """A writer and a reader upon three members. Of the disks of `small` not much is left."""
    names = ["n1", "n2", "n3"]
    with disks(directory, dict.fromkeys(names, DISK_BYTES)) as made:
        for name in small:
            made[name].leave(LEFT_BYTES)
        network = os.getpid() % 250
        places = [Place(name, f"127.{network}.7.{at}", made[name].path / "data") for at, name in enumerate(names, 1)]
        environment = {"REGISTRY_RESERVE": str(RESERVE_BYTES)}
        async with Members(places, directory, environment=environment) as members:
            async with Client(members.endpoints) as client:
                for number in (1, 2):
                    await client.publish(BESIDE, b"%d" % number)
                    await client.switch(BESIDE, number, reason="live")
                writer = Writer(client)
                tasks = [asyncio.create_task(work) for work in (writer.write(), writer.write(), writer.read())]
                try:
                    yield Scene(made, members, client, writer)
                    assert not [task for task in tasks if task.done() and task.exception()], "one fell over"
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)


async def while_refused(at: Scene) -> None:
    """What holds while there is no room: refusals say why and what to do, reads and deletions go on, nobody ends."""
    await at.until(lambda: _refused_by_all(at), "all members to refuse")
    first, refused_before = len(at.writer.acknowledged), len(at.writer.refusals)
    assert (await at.client.status()).leader
    await at.until(lambda: len(at.writer.refusals) > refused_before, "a refusal")
    refusal = at.writer.refusals[-1]
    assert "too little space is left" in refusal.message
    assert "nothing was done" in refusal.message
    assert "regctl cluster compact" in refusal.hint
    with pytest.raises(Unavailable) as refused:
        await at.client.switch(WORKFLOW, 1, reason="no room for that either")
    assert refused.value.reason is Reason.NO_SPACE
    assert (await at.client.rollback(BESIDE, reason="a bad version has to go")).version == 1
    reads, refusals = at.writer.reads, len(at.writer.refusals)
    await asyncio.sleep(REFUSED_S)
    assert at.writer.reads > reads
    assert len(at.writer.refusals) > refusals
    victim = min(at.writer.acknowledged)
    del at.writer.acknowledged[victim]
    await at.client.purge(WORKFLOW, victim, reason="a deletion needs no room")
    with pytest.raises(NotFound):
        await at.client.content(WORKFLOW, victim)
    assert (await at.client.status()).leader
    assert not at.members.exits
    assert len(at.writer.acknowledged) <= first + 2  # those that were under way


@pytest.mark.parametrize("full", [1, 2, 3] if FULL else [3])
async def test_disks_are_filled_by_writing(tmp_path: Path, full: int) -> None:
    """One full disk stops nobody; more do, until there is room."""
    names = ["n1", "n2", "n3"][:full]
    async with scene(tmp_path, names) as at:
        if full == 1:
            await at.until(lambda: _any_full(at), "the disk to be full")
            await at.progress("writes beside a full disk", 40)
        else:
            await while_refused(at)
        for name in names:
            at.disks[name].free()
        await at.progress("writes after there was room again")
        await at.check()


@pytest.mark.parametrize("full", [1, 2, 3] if FULL else [2])
async def test_disks_are_filled_at_once_by_another_program(tmp_path: Path, full: int) -> None:
    """The leader's is always among them."""
    async with scene(tmp_path) as at:
        await at.progress("the first writes", 40)
        leader = (await at.leader()).name
        names = [leader, *(name for name in at.disks if name != leader)][:full]
        for name in names:
            at.disks[name].fill()
        if full == 1:
            await at.until(lambda: _any_full(at), "the disk to be full")
            await at.progress("writes beside a full disk", 40)
        else:
            await while_refused(at)
        for name in names:
            at.disks[name].free()
        await at.progress("writes after there was room again")
        await at.check()


async def test_compaction_gives_space_back_while_a_writer_goes_on(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.progress("something to let go of", 120)
        for number in [number for number in at.writer.acknowledged if number <= 100]:
            del at.writer.acknowledged[number]
        at.writer.pause_s = 0.2
        await at.client.set_policy(WORKFLOW, {"keep_last": "20"}, reason="little is needed")
        keep = max(at.writer.acknowledged) - 10
        for number in [number for number in at.writer.acknowledged if number <= keep]:
            del at.writer.acknowledged[number]
        removed = (await at.client.retain(WORKFLOW, reason="little is needed")).removed
        assert removed >= 90
        for name, member in at.members.all.items():
            used_bytes, written = at.disks[name].used_bytes(), len(at.writer.acknowledged)
            done = await at.client.compact(member.address)
            given_back_bytes = done.before_bytes - done.after_bytes
            # What the writer has written since took its pages from those that were let go of.
            assert given_back_bytes > removed * CONTENT_BYTES // 2
            await at.until(
                lambda name=name, used=used_bytes, given=given_back_bytes: (
                    at.disks[name].used_bytes() < used - given // 2
                ),
                "the file system to have it back",
            )
            await at.until(lambda written=written: len(at.writer.acknowledged) > written, "a write beside or after it")
        at.writer.stopped = True
        recent = {number: content for number, content in at.writer.acknowledged.items() if number > keep}
        at.writer.acknowledged = recent
        await at.check()


async def _any_full(at: Scene) -> bool:
    return any(member.no_space for member in (await at.client.status()).members)


async def _refused_by_all(at: Scene) -> bool:
    """And for good: a leader that is the first one without room refuses, and hands over; the next one goes on taking
    writes until it hears of a second one."""
    for member in at.members.all.values():
        async with Client([member.address]) as client:
            status = await client.status()
        if not status.no_space or sum(each.no_space for each in status.members) < 2:
            return False
    return True

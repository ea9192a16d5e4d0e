"""Commands that members of an older release cannot read are not proposed while one is there."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

import pytest

from registry.core import commands, limits, outcomes, request_ids
from registry.core.errors import Reason, Refused, Unavailable
from registry.core.model import Backup, Content
from registry.server.limits import LEVEL_SETTLES_S
from registry.server.metrics import Metrics
from registry.server.proposer import Proposer

ID = request_ids.make(1, b"0" * request_ids.RANDOM_BYTES)
DIGEST = f"sha256:{hashlib.sha256(b'x').hexdigest()}"
RAW = Content(encoding="raw", data=b"x", size_bytes=1)
NEW: dict[type[commands.Command], commands.Command] = {
    commands.Label: commands.Label(
        request_id=ID, time_ms=1, principal="", workflow="a/b", version=1, labels={"a": "b"}
    ),
    commands.SetPolicy: commands.SetPolicy(
        request_id=ID, time_ms=1, principal="", scope="*", fields={"checks": "refuse"}, reason="r"
    ),
    commands.KeepKey: commands.KeepKey(request_id=ID, time_ms=1, key=b"k" * 32),
    commands.Hold: commands.Hold(request_id=ID, time_ms=1, principal="", workflow="a/b", version=1, reason="r"),
    commands.Retain: commands.Retain(
        request_id=ID, time_ms=1, principal="", workflow="a/b", versions=(1,), reason="r", keep_days="1"
    ),
    commands.Purge: commands.Purge(
        request_id=ID, time_ms=1, principal="", workflow="a/b", version=1, digest=DIGEST, reason="r"
    ),
    commands.PutChunk: commands.PutChunk(request_id=ID, time_ms=1, digest=DIGEST, content=RAW),
    commands.Collect: commands.Collect(request_id=ID, time_ms=1, digests=(DIGEST,)),
    commands.Repack: commands.Repack(request_id=ID, time_ms=1, digest=DIGEST, was=b"w" * 16, content=RAW),
    commands.Index: commands.Index(request_id=ID, time_ms=1),
    commands.NoteBackup: commands.NoteBackup(
        request_id=ID, time_ms=1, backup=Backup(revision=1, index=1, taken_ms=1, member="n1")
    ),
    commands.ForgetAgents: commands.ForgetAgents(
        request_id=ID, time_ms=1, agents=(commands.ForgottenAgent(agent="a", rows=(("a/b", "active"),)),)
    ),
}
ACK = commands.Ack(
    agent="a", incarnation="i", sequence=1, workflow="a/b", pointer="active", generation=1, phase="confirmed"
)
WRITES = (
    *(NEW[kind] for kind in (commands.Label, commands.SetPolicy, commands.Hold, commands.PutChunk)),
    commands.Switch(
        request_id=ID,
        time_ms=1,
        principal="",
        moves=(commands.Move(workflow="a/b", pointer="active", target=1),),
        reason="r",
    ),
    commands.Acknowledge(request_id=ID, time_ms=1, acks=(ACK,)),
)
TAKEN = (
    commands.Switch(
        request_id=ID,
        time_ms=1,
        principal="",
        moves=(commands.Move(workflow="a/b", pointer="active"),),
        reason="r",
        rollback=True,
    ),
    *(NEW[kind] for kind in (commands.Retain, commands.Purge, commands.Collect, commands.Repack, commands.Index)),
    NEW[commands.ForgetAgents],
    commands.SetPolicy(request_id=ID, time_ms=1, principal="", scope="*", fields={"keep_last": "3"}, reason="r"),
)


class OneLevel:
    """rises_after: asked so many times, the cluster is at the level of this release."""

    def __init__(self, level: int, *, rises_after: int = 1 << 30) -> None:
        self._level = level
        self.full: tuple[str, ...] = ()  # members without room
        self.proposed: list[commands.Command] = []
        self.asked = 0
        self._rises_after = rises_after

    @property
    def has_room(self) -> bool:
        return not self.full

    @property
    def level(self) -> int:
        self.asked += 1
        return limits.FEATURE_LEVEL if self.asked > self._rises_after else self._level

    def status(self) -> Any:
        peers = [SimpleNamespace(member=SimpleNamespace(name=name), has_room=False) for name in self.full]
        return SimpleNamespace(has_room=not self.full, peers=peers, name="n1", headroom_bytes=5 << 20)

    async def propose(self, command: bytes, *, timeout_s: float) -> bytes:
        self.proposed.append(commands.decode(command))
        return outcomes.encode(outcomes.KeyKept(revision=1))


def proposer(cluster: OneLevel, *, age_s: float) -> Proposer:
    """Of a member that started age_s ago."""
    times = iter([0.0])
    return Proposer(cluster, Metrics(), monotonic_s=lambda: next(times, age_s))  # type: ignore[arg-type]


def test_every_new_command_is_tried_here() -> None:
    assert set(NEW) == set(commands.SINCE_LEVEL_2)


@pytest.mark.parametrize("command", NEW.values(), ids=lambda command: type(command).__name__)
async def test_new_commands_wait_for_their_level(command: commands.Command) -> None:
    old, new = OneLevel(1), OneLevel(2)
    with pytest.raises(Refused) as caught:
        await proposer(old, age_s=LEVEL_SETTLES_S).propose(command, 1.0)
    assert caught.value.reason is Reason.LEVEL_TOO_LOW
    assert "regctl cluster status" in caught.value.hint
    assert not old.proposed
    await proposer(new, age_s=0.0).propose(command, 1.0)
    assert new.proposed == [command]


async def test_the_level_may_still_rise_right_after_the_start() -> None:
    """A new cluster is at level 1 until the leader has raised it."""
    founded = OneLevel(1, rises_after=3)
    await proposer(founded, age_s=0.0).propose(NEW[commands.Label], 60.0)
    assert founded.proposed == [NEW[commands.Label]]


async def test_while_the_level_may_still_rise_callers_are_asked_to_retry() -> None:
    founded = OneLevel(1)
    with pytest.raises(Unavailable) as caught:
        await proposer(founded, age_s=LEVEL_SETTLES_S - 1).propose(NEW[commands.Label], 0.02)
    assert caught.value.reason is Reason.NO_QUORUM
    assert not founded.proposed


async def test_a_level_that_stays_is_not_waited_for_long() -> None:
    started, settled = OneLevel(1), OneLevel(1)
    assert await proposer(started, age_s=0.0).level_in_force(0.02) == 1
    assert started.asked > 1
    assert await proposer(settled, age_s=LEVEL_SETTLES_S).level_in_force(60.0) == 1
    assert settled.asked == 1


@pytest.mark.parametrize("command", WRITES, ids=lambda command: type(command).__name__)
async def test_without_room_nothing_is_proposed_that_takes_some(command: commands.Command) -> None:
    cluster = OneLevel(2)
    cluster.full = ("n1", "n3")
    with pytest.raises(Unavailable) as caught:
        await proposer(cluster, age_s=LEVEL_SETTLES_S).propose(command, 1.0)
    assert caught.value.reason is Reason.NO_SPACE
    assert "on n1, n3 (n1 can still write 5 MiB); nothing was done" in caught.value.message
    assert caught.value.metadata == {"members": "n1, n3", "headroom_bytes": str(5 << 20)}
    for way in ("regctl retention run", "regctl purge", "regctl cluster compact"):
        assert way in caught.value.hint
    assert not cluster.proposed
    cluster.full = ()
    await proposer(cluster, age_s=LEVEL_SETTLES_S).propose(command, 1.0)
    assert cluster.proposed == [command]


@pytest.mark.parametrize("command", TAKEN, ids=lambda command: type(command).__name__)
async def test_rollbacks_and_what_gives_space_back_are_taken_without_room(command: commands.Command) -> None:
    cluster = OneLevel(2)
    cluster.full = ("n1",)
    await proposer(cluster, age_s=LEVEL_SETTLES_S).propose(command, 1.0)
    assert cluster.proposed == [command]

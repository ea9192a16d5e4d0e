"""What is answered to a poll, over a machine in memory."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import msgspec
import pytest

from registry.core import commands, frames, limits
from registry.core.delivery import Holding, Poll, PollReply
from registry.core.errors import Reason, RegistryError
from registry.server import delivery as deliveries
from registry.server.delivery import Ask, Build, Delivery, Piece
from registry.server.hub import Hub
from registry.server.limits import AGE_TOLD_MS
from registry.store.state import StoreState
from tests.unit.server.lone_cluster import Member, near

FLOW = "a/b"
CONTENTS = near(4)
DIGESTS = [f"sha256:{hashlib.sha256(each).hexdigest()}" for each in CONTENTS]


class Fleet:
    """A member with four versions of FLOW, and its delivery."""

    def __init__(self) -> None:
        self.member = Member()
        self.age_ms = 0
        self.feed = self.member.cluster.feed
        self.hub = Hub()
        environment: Any = self.member.cluster.environment
        self.delivery = Delivery(
            environment=environment,
            feed=self.feed,
            hub=self.hub,
            contents=self.member.reads.contents,
            repairs=self.member.repairs,
            age_ms=lambda: self.age_ms,
        )

    async def found(self) -> None:
        await self.member.apply(commands.Found(**self.member.stamp(), cluster_id="c1"))
        await self.member.chain(FLOW, CONTENTS)

    async def switch(self, version: int, *, rollback: bool = False, **fields: Any) -> None:
        move = commands.Move(workflow=FLOW, pointer="active", target=version)
        outcome = await self.member.apply(
            commands.Switch(
                **self.member.stamp(), principal="ada", moves=(move,), reason="because", rollback=rollback, **fields
            )
        )
        assert not hasattr(outcome, "message"), outcome

    async def begin_epoch(self) -> None:
        await self.member.apply(
            commands.BeginEpoch(**self.member.stamp(), principal="ada", cause="recover", reason="all was lost")
        )

    def ask(self, generation: int = 0, digest: str = "", *kept: str, **fields: Any) -> Ask:
        holding = Holding(workflow=FLOW, generation=generation, digest=digest, kept=kept)
        return self.delivery.ask(Poll(**{"agent": "edge-1", "epoch": 1, "follows": (holding,)} | fields))

    async def answer(self, ask: Ask) -> list[Piece]:
        """Once what it needs is packed."""
        while isinstance(found := self.delivery.answer(ask), Build):
            await asyncio.gather(*self.delivery._tasks)
        return found

    async def only(self, *holding: Any, **fields: Any) -> Piece:
        (piece,) = await self.answer(self.ask(*holding, **fields))
        return piece


@pytest.fixture
async def fleet() -> Fleet:
    made = Fleet()
    await made.found()
    return made


INLINE = {"inline_bytes": limits.INLINE_BYTES}


async def test_an_agent_that_has_it_hears_nothing(fleet: Fleet) -> None:
    assert await fleet.answer(fleet.ask()) == [], "there is no pointer yet"
    await fleet.switch(1)
    assert await fleet.answer(fleet.ask(1, DIGESTS[0])) == []
    assert await fleet.answer(fleet.ask(2, DIGESTS[0])) == [], "it was told by a member ahead of this one"
    assert (await fleet.only()).instruction.generation == 1


async def test_a_switch_that_the_look_at_another_pointer_commits_is_answered(fleet: Fleet) -> None:
    await fleet.switch(1)
    both = [Holding(workflow=name, generation=generation, digest="") for name, generation in ((FLOW, 1), ("c/d", 0))]
    ask = fleet.ask(follows=tuple(both))
    assert fleet.delivery.answer(ask) == []

    cluster = fleet.member.cluster
    move = commands.Move(workflow=FLOW, pointer="active", target=2)
    switch = commands.Switch(**fleet.member.stamp(), principal="ada", moves=(move,), reason="because")
    cluster.machine.apply(cluster.environment.transaction(), commands.encode(switch), limits.FEATURE_LEVEL)

    def commit() -> None:  # as a member that has told its callers, and holds the commit back
        cluster.environment.before_snapshot = lambda: None
        cluster.environment.commit()
        cluster.machine.committed()

    cluster.environment.before_snapshot = commit
    (found,) = await fleet.answer(ask)
    assert (found.instruction.workflow, found.instruction.generation) == (FLOW, 2)


async def test_how_content_comes_depends_on_what_the_agent_has(fleet: Fleet) -> None:
    await fleet.switch(1)
    await fleet.switch(2)
    kept = (await fleet.only(1, DIGESTS[0], DIGESTS[3], DIGESTS[1], **INLINE)).instruction
    assert (kept.how, kept.content_bytes, kept.base_digest) == ("have", 0, DIGESTS[0])
    assert (await fleet.only(1, DIGESTS[1], **INLINE)).instruction.how == "have"
    delta = await fleet.only(1, DIGESTS[0], **INLINE)
    assert (delta.instruction.how, delta.instruction.delta_base) == ("delta", DIGESTS[0])
    assert frames.unpack_over(CONTENTS[0], delta.frame, delta.instruction.size_bytes) == CONTENTS[1]
    full = await fleet.only(0, **INLINE)
    assert (full.instruction.how, full.instruction.delta_base) == ("full", "")
    assert frames.unpack(full.frame, full.instruction.size_bytes) == CONTENTS[1]
    assert (await fleet.only(1, DIGESTS[0])).instruction.how == "fetch", "it wants nothing inside"
    for piece in (delta, full):
        assert piece.instruction.content_bytes == len(piece.frame) > 0


async def test_a_base_that_no_version_has_gets_everything(fleet: Fleet) -> None:
    await fleet.switch(2)
    drifted = await fleet.only(0, f"sha256:{'0' * 64}", **INLINE)
    assert (drifted.instruction.how, frames.unpack(drifted.frame, 3000)) == ("full", CONTENTS[1])


async def test_what_is_too_large_to_come_along_is_fetched(fleet: Fleet) -> None:
    await fleet.switch(2)
    full = await fleet.only(0, **INLINE)
    assert (await fleet.only(0, inline_bytes=len(full.frame) - 1)).instruction.how == "fetch"
    assert (await fleet.only(0, inline_bytes=len(full.frame))).instruction.how == "full"


async def test_the_same_answer_is_made_once_for_all_until_the_pointer_moves(fleet: Fleet) -> None:
    await fleet.switch(1)
    await fleet.switch(2)
    first = [await fleet.only(1, DIGESTS[0], **INLINE), await fleet.only(0), await fleet.only(1, DIGESTS[1])]
    built = fleet.delivery.built
    for _ in range(100):
        again = [await fleet.only(1, DIGESTS[0], **INLINE), await fleet.only(0), await fleet.only(1, DIGESTS[1])]
        assert all(one is other for one, other in zip(first, again, strict=True))
    assert fleet.delivery.built == built == 3
    await fleet.switch(3)
    assert (await fleet.only(2, DIGESTS[1], **INLINE)).instruction.delta_base == DIGESTS[1]
    assert fleet.delivery.built == built + 1


async def test_an_answer_being_packed_is_waited_for_by_all_and_packed_once(fleet: Fleet) -> None:
    await fleet.switch(2)
    asks = [fleet.ask(0, **INLINE) for _ in range(50)]
    builds = {id(fleet.delivery.answer(ask)) for ask in asks}
    assert len(builds) == 1
    assert [piece.instruction.how for piece in fleet.delivery.answer_now(asks[0])] == ["fetch"], "whoever cannot wait"
    await asyncio.gather(*fleet.delivery._tasks)
    assert fleet.delivery.built == 2
    assert len({id(fleet.delivery.answer(ask)[0]) for ask in asks}) == 1  # type: ignore[index]


async def test_a_pointer_that_moves_while_its_content_is_packed_is_told_as_it_is_then(fleet: Fleet) -> None:
    await fleet.switch(1)
    ask = fleet.ask(0, **INLINE)
    assert isinstance(fleet.delivery.answer(ask), Build)
    await fleet.switch(2)
    (piece,) = await fleet.answer(ask)
    assert (piece.instruction.generation, frames.unpack(piece.frame, 3000)) == (2, CONTENTS[1])


async def test_a_rollback_says_so_and_names_its_revision(fleet: Fleet) -> None:
    await fleet.switch(1)
    await fleet.switch(2)
    await fleet.switch(1, rollback=True)
    told = (await fleet.only(2, DIGESTS[1], DIGESTS[0])).instruction
    assert (told.rollback, told.reason, told.version, told.how) == (True, "because", 1, "have")
    assert told.min_revision == fleet.feed.registry.revision


async def test_schedules_and_needs_are_passed_on(fleet: Fleet) -> None:
    await fleet.switch(1, not_before_ms=1_900_000_000_000, deadline_ms=1_900_000_001_000)
    told = (await fleet.only(0)).instruction
    assert (told.not_before_ms, told.deadline_ms) == (1_900_000_000_000, 1_900_000_001_000)


async def test_generations_count_within_an_epoch(fleet: Fleet) -> None:
    await fleet.switch(1)
    assert (await fleet.only(99, DIGESTS[1], epoch=0)).instruction.generation == 1
    assert await fleet.answer(fleet.ask(0, epoch=2)) == [], "this member is behind the agent's epoch"
    await fleet.only(0)
    await fleet.begin_epoch()
    again = await fleet.only(1, DIGESTS[0], epoch=1)
    assert again.instruction.how == "have"
    assert msgspec.json.decode(fleet.delivery.reply([again]), type=PollReply).epoch == 2


async def test_a_state_that_was_replaced_is_read_anew(fleet: Fleet) -> None:
    await fleet.switch(1)
    await fleet.only(0)
    fleet.delivery._targets[FLOW, "active"].generation = 77
    fleet.member.cluster.machine.installed()
    assert (await fleet.only(0)).instruction.generation == 1


async def test_a_snapshot_ahead_of_the_feed_is_waited_for(fleet: Fleet) -> None:
    """As in a process that hears of commits later than the environment shows them."""
    await fleet.switch(1)
    before = fleet.feed.registry
    await fleet.begin_epoch()
    after, fleet.feed.registry = fleet.feed.registry, before
    assert await fleet.answer(fleet.ask(0)) == []
    fleet.feed.replaced(after)
    assert (await fleet.only(0)).instruction.generation == 1


async def test_replies_carry_what_both_sides_know_of_a_poll(fleet: Fleet) -> None:
    await fleet.switch(2)
    pieces = [await fleet.only(0, **INLINE), await fleet.only(0)]
    reply = msgspec.json.decode(fleet.delivery.reply(pieces), type=PollReply)
    assert reply.instructions == tuple(piece.instruction for piece in pieces)
    assert (reply.cluster_id, reply.epoch, reply.revision) == ("c1", 1, fleet.feed.registry.revision)
    assert msgspec.json.decode(fleet.delivery.reply([]), type=PollReply).instructions == ()


async def test_a_member_that_is_cut_off_says_so_after_a_poll_in_vain(fleet: Fleet) -> None:
    known = fleet.delivery.reply([])
    fleet.age_ms = AGE_TOLD_MS - 1
    assert fleet.delivery.reply([]) is known
    fleet.age_ms = 91_000
    reply = msgspec.json.decode(fleet.delivery.reply([]), type=PollReply)
    assert reply == msgspec.structs.replace(msgspec.json.decode(known, type=PollReply), age_ms=91_000)


@pytest.mark.parametrize(("name", "value"), [("BUILDS", 0), ("INLINED", 0)])
async def test_past_a_bound_content_is_to_be_fetched(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, name: str, value: int
) -> None:
    monkeypatch.setattr(deliveries, name, value)
    await fleet.switch(2)
    assert (await fleet.only(0, **INLINE)).instruction.how == "fetch"


async def test_what_is_kept_is_bounded_and_made_again(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "PIECES_BYTES", 2 * deliveries._PIECE_BYTES)
    await fleet.switch(2)
    for _ in range(3):
        await fleet.only(0)
        await fleet.only(0, DIGESTS[1])
        assert len(fleet.delivery._targets[FLOW, "active"].pieces) == 2
    fleet.delivery._piece(fleet.delivery._targets[FLOW, "active"], DIGESTS[2])
    assert len(fleet.delivery._targets[FLOW, "active"].pieces) == 1
    monkeypatch.setattr(deliveries, "TARGETS", 0)
    await fleet.switch(3)
    await fleet.only(0)
    assert len(fleet.delivery._targets) == 1


async def test_content_that_cannot_be_read_here_does_not_hold_the_word_back(fleet: Fleet) -> None:
    await fleet.switch(2)
    environment = fleet.member.cluster.environment
    StoreState(environment.transaction(), level=2).delete_content(DIGESTS[1])
    environment.commit()
    assert (await fleet.only(0, **INLINE)).instruction.how == "fetch"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"agent": ""}, Reason.INVALID_NAME),
        ({"agent": "a" * 64}, Reason.INVALID_NAME),
        ({"site": "eu 1"}, Reason.INVALID_NAME),
        ({"labels": {"a b": "c"}}, Reason.INVALID_NAME),
        ({"labels": {f"k{n}": "" for n in range(limits.LABELS + 1)}}, Reason.TOO_LARGE),
        ({"facts": {f"f{n}": "" for n in range(limits.FACTS + 1)}}, Reason.TOO_LARGE),
        ({"facts": {"f": "x" * (limits.FACT_CHARS + 1)}}, Reason.TOO_LARGE),
        ({"session": "s" * 64}, Reason.TOO_LARGE),
        ({"follows": (Holding(workflow="nowhere"),)}, Reason.INVALID_NAME),
        ({"follows": (Holding(workflow="a/\udc80"),)}, Reason.INVALID_NAME),
        ({"follows": (Holding(workflow=FLOW, pointer="v1"),)}, Reason.INVALID_NAME),
        ({"follows": (Holding(workflow=FLOW, digest="have"),)}, Reason.INVALID_REFERENCE),
        ({"follows": (Holding(workflow=FLOW, kept=("x",) * (limits.KEPT + 1)),)}, Reason.TOO_LARGE),
        ({"follows": tuple(Holding(workflow=f"a/{n}") for n in range(limits.FOLLOWS + 1))}, Reason.TOO_LARGE),
        ({"cluster_id": "c2"}, Reason.CLUSTER_MISMATCH),
    ],
)
async def test_polls_that_are_none(fleet: Fleet, fields: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(RegistryError) as caught:
        fleet.delivery.ask(Poll(**{"agent": "edge-1"} | fields))
    assert caught.value.reason is reason


async def test_a_pointer_named_twice_counts_once(fleet: Fleet) -> None:
    ask = fleet.delivery.ask(
        Poll(agent="edge-1", follows=(Holding(workflow=FLOW), Holding(workflow=FLOW, generation=3)))
    )
    assert ask.keys == ((FLOW, "active"),)
    assert ask.follows[0][0] == 3


async def test_the_short_way_to_a_known_answer_leads_where_the_long_one_does(fleet: Fleet) -> None:
    await fleet.switch(1)
    await fleet.switch(2)
    known = 0
    for _ in range(2):
        for generation in (0, 1, 2, 3):
            for digest in ("", *DIGESTS[:2], f"sha256:{'0' * 64}"):
                for kept in ((), (DIGESTS[1],), (DIGESTS[3],)):
                    for fields in ({}, INLINE, {"inline_bytes": 10}, {"epoch": 0}, {"epoch": 2}):
                        ask = fleet.ask(generation, digest, *kept, **fields)
                        short = fleet.delivery.known(ask)
                        assert short is None or [short] == fleet.delivery.answer_now(ask)
                        known += short is not None
                        await fleet.answer(ask)
    assert known > 100

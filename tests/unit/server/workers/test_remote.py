"""What a worker asks of its member, over a real link: services see no difference to a member of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from cluster.api import CommandTooLarge, NotAttempted, OutcomeUnknown
from cluster.kv.api import Damaged
from registry.core.errors import Ambiguous, NotFound, Reason, Unavailable, error
from registry.server.limits import LINK_AHEAD
from registry.server.workers import messages as m
from registry.server.workers import remote as remotes
from registry.server.workers.remote import FailedInside
from tests.unit.server.workers.kit import STATE, counted, linked


async def settled() -> None:
    """Long enough for a few messages each way."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_proposals_come_back_each_with_its_own_result() -> None:
    async with linked() as pair:
        pair.cluster.results = [b"one", NotAttempted("no leader"), OutcomeUnknown("it left"), CommandTooLarge("big")]
        results = await asyncio.gather(
            *(pair.remote.propose(b"%d" % number, timeout_s=5) for number in range(4)), return_exceptions=True
        )
        assert pair.cluster.proposed == [b"0", b"1", b"2", b"3"]
        assert results[0] == b"one"
        assert pair.cluster.checkpoints == 1  # so that its next snapshot has it
        assert [(type(each), str(each)) for each in results[1:]] == [
            (NotAttempted, "no leader"),
            (OutcomeUnknown, "it left"),
            (CommandTooLarge, "big"),
        ]


async def test_barriers_of_one_turn_are_one_and_a_later_one_is_another() -> None:
    async with linked() as pair:
        pair.cluster.gate.clear()
        first = [asyncio.ensure_future(pair.remote.barrier(timeout_s=5)) for _ in range(10)]
        while pair.cluster.barriers < 1:
            await asyncio.sleep(0)
        later = asyncio.ensure_future(pair.remote.barrier(timeout_s=5))  # what it must see may have come meanwhile
        while pair.cluster.barriers < 2:
            await asyncio.sleep(0)
        pair.cluster.gate.set()
        await asyncio.gather(*first, later)
        assert pair.cluster.barriers == 2
        pair.cluster.no_majority = NotAttempted("no majority")
        failed = await asyncio.gather(*(pair.remote.barrier(timeout_s=5) for _ in range(3)), return_exceptions=True)
        assert [(type(each), str(each)) for each in failed] == [(NotAttempted, "no majority")] * 3
        assert pair.cluster.barriers == 3


async def test_one_that_gives_up_waiting_takes_no_other_with_it() -> None:
    async with linked() as pair:
        pair.cluster.gate.clear()
        patient = asyncio.ensure_future(pair.remote.barrier(timeout_s=5))
        with pytest.raises(NotAttempted):
            await pair.remote.barrier(timeout_s=0.01)
        pair.cluster.gate.set()
        await patient


async def test_a_member_that_does_not_answer_leaves_the_outcome_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remotes, "LINK_MARGIN_S", 0.01)
    async with linked() as pair:
        pair.cluster.gate.clear()
        pair.cluster.results = [b"late"]
        with pytest.raises(OutcomeUnknown):
            await pair.remote.propose(b"x", timeout_s=0.01)
        pair.cluster.gate.set()
        await settled()  # the late answer reaches nobody
        pair.cluster.results = [b"next"]
        assert await pair.remote.propose(b"y", timeout_s=5) == b"next"


async def test_proposals_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remotes, "PROPOSALS_BYTES", 100)
    async with linked() as pair:
        pair.cluster.gate.clear()
        pair.cluster.results = [b"done", b"done"]
        waiting = asyncio.ensure_future(pair.remote.propose(bytes(60), timeout_s=5))
        await asyncio.sleep(0)
        with pytest.raises(NotAttempted):
            await pair.remote.propose(bytes(60), timeout_s=5)
        pair.cluster.gate.set()
        await waiting
        await pair.remote.propose(bytes(60), timeout_s=5)


async def test_the_status_grows_older_until_the_next_one() -> None:
    async with linked() as pair:
        assert pair.remote.leader_address() == "127.0.0.1:7400"
        first = pair.remote.status()
        await asyncio.sleep(0.02)
        assert pair.remote.status().leader_contact_s >= first.leader_contact_s + 0.01
        pair.remote.state(m.State(STATE.status, "127.0.0.1:7500", "", None))
        assert pair.remote.leader_address() == "127.0.0.1:7500"
        assert pair.remote.status().leader_contact_s < 0.01
        assert pair.remote.status().term == 3


async def test_what_only_the_member_can_do_is_asked_of_it() -> None:
    async def twice(request: bytes, timeout_s: float) -> bytes:
        return request * int(timeout_s)

    async def refuse(request: bytes, timeout_s: float) -> bytes:
        raise error(Reason.UNKNOWN_MEMBER, "no such member", hint="look", metadata={"member": "n9"})

    async def fail(request: bytes, timeout_s: float) -> bytes:
        raise ZeroDivisionError("a defect")

    async def meet_damage(request: bytes, timeout_s: float) -> bytes:
        raise Damaged("versions", b"k", "its checksum is another one")

    unary = {"twice": twice, "refuse": refuse, "fail": fail, "damaged": meet_damage}
    async with linked(unary=unary) as pair:
        assert await pair.remote.ask("twice", b"ab", 2.0) == b"abab"
        with pytest.raises(NotFound) as refused:
            await pair.remote.ask("refuse", b"", 1.0)
        assert refused.value.reason is Reason.UNKNOWN_MEMBER
        assert (refused.value.message, refused.value.hint) == ("no such member", "look")
        assert refused.value.metadata == {"member": "n9"}
        with pytest.raises(FailedInside, match="fail failed in the member: ZeroDivisionError"):
            await pair.remote.ask("fail", b"", 1.0)
        with pytest.raises(Unavailable) as damaged:
            await pair.remote.ask("damaged", b"", 1.0)
        assert damaged.value.reason is Reason.DATA_DAMAGED


async def test_an_answer_that_never_comes_may_have_been_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remotes, "LINK_MARGIN_S", 0.01)

    async def hang(request: bytes, timeout_s: float) -> bytes:
        await asyncio.Event().wait()
        return b""

    async with linked(unary={"hang": hang}) as pair:
        with pytest.raises(Ambiguous) as unknown:
            await pair.remote.ask("hang", b"", 0.01)
        assert unknown.value.reason is Reason.OUTCOME_UNKNOWN


async def test_a_stream_is_passed_on_and_never_far_ahead_of_its_caller() -> None:
    given = 0

    async def many(request: bytes) -> AsyncGenerator[bytes, None]:
        nonlocal given
        async for data in counted(request):
            given += 1
            yield data

    async with linked(streams={"many": many}) as pair:
        assert [data async for data in pair.remote.stream("many", b"50")] == [b"%d" % number for number in range(50)]
        given, taken = 0, 0
        async for _ in pair.remote.stream("many", b"30"):
            taken += 1
            await settled()
            assert given <= taken + LINK_AHEAD + 1
        assert taken == 30


async def test_a_caller_that_leaves_ends_its_stream_in_the_member() -> None:
    ended = asyncio.Event()

    async def endless(request: bytes) -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"more"
        finally:
            ended.set()

    async with linked(streams={"endless": endless}) as pair:
        async with aclosing(pair.remote.stream("endless", b"")) as replies:
            assert await anext(replies) == b"more"
        async with asyncio.timeout(5):
            await ended.wait()


async def test_a_stream_that_fails_says_so_after_what_it_gave() -> None:
    async def failing(request: bytes) -> AsyncGenerator[bytes, None]:
        yield b"one"
        raise error(Reason.BUSY, "no more")

    async with linked(streams={"failing": failing}) as pair:
        replies = pair.remote.stream("failing", b"")
        assert await anext(replies) == b"one"
        with pytest.raises(Unavailable, match="no more"):
            await anext(replies)


async def test_a_caller_that_the_member_gives_up_is_left() -> None:
    """As a backup does whose caller takes nothing."""

    async def impatient(request: bytes) -> AsyncGenerator[bytes, None]:
        task = asyncio.current_task()
        assert task is not None
        yield b"one"
        task.cancel()
        await asyncio.sleep(1)

    async def hang_in_it() -> None:
        async for _ in pair.remote.stream("impatient", b""):
            await asyncio.Event().wait()

    async with linked(streams={"impatient": impatient}) as pair:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.create_task(hang_in_it()), 5)


async def test_calls_of_a_worker_that_is_gone_are_dropped() -> None:
    async with linked() as pair:
        pair.cluster.gate.clear()
        waiting = asyncio.ensure_future(pair.remote.propose(b"x", timeout_s=5))
        while not pair.cluster.proposed:
            await asyncio.sleep(0)
        pair.answering.close()
        await settled()
        assert not waiting.done()
        waiting.cancel()

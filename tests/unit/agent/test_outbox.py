from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from registry.agent import limits
from registry.agent.api import Ack, RegistryApi
from registry.agent.home import AgentFile, Home
from registry.agent.outbox import Outbox, coalesce
from registry.core.errors import Reason, error
from tests.integration.fake_registry import FakeRegistry
from tests.unit.agent.samples import ack


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "state")
    os.close(home.lock())
    home.save_agent(AgentFile(agent="edge-1", incarnation="i1"))
    return home


def opened(home: Home, api: RegistryApi, limit: int = limits.OUTBOX_ACKS) -> Outbox:
    return Outbox(home, api, Random(1), limit=limit)


async def sent(outbox: Outbox) -> None:
    task = asyncio.create_task(outbox.run())
    await outbox.wait_sent(timeout_s=10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_within_the_limit_everything_stays() -> None:
    acks = [ack(1), ack(2), ack(3)]
    assert coalesce(acks, 3) == acks


def test_past_it_the_newest_of_each_follow() -> None:
    acks = [ack(1, "a/a"), ack(2, "b/b"), ack(3, "a/a"), ack(4, "c/c")]
    assert [each.sequence for each in coalesce(acks, 3)] == [2, 3, 4]
    assert [each.sequence for each in coalesce(acks, 2)] == [3, 4]


async def test_an_acknowledgement_is_on_disk_before_it_is_sent_and_gone_after(home: Home) -> None:
    api = FakeRegistry()
    outbox = opened(home, api)
    await outbox.add(ack())
    assert [each.sequence for each in home.load_outbox()] == [1]
    await sent(outbox)
    assert [each.sequence for each in api.acks] == [1]
    assert home.load_outbox() == []
    assert len(outbox) == 0


async def test_what_was_not_sent_is_sent_after_a_restart(home: Home) -> None:
    api = FakeRegistry()
    await opened(home, api).add(ack(generation=7))
    await sent(opened(home, api))
    assert [each.generation for each in api.acks] == [7]


async def test_sequences_rise_over_restarts_also_when_the_outbox_is_empty(home: Home) -> None:
    api = FakeRegistry()
    for _ in range(3):
        outbox = opened(home, api)
        await outbox.add(ack())
        await sent(outbox)
        home.open_agent()
    sequences = [each.sequence for each in api.acks]
    assert len(set(sequences)) == 3
    assert sequences == sorted(sequences)


async def test_it_is_sent_again_until_it_arrives(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ACK_BACKOFF_S", (0.001, 0.001))
    api = FakeRegistry()
    api.unavailable = 5
    outbox = opened(home, api)
    await outbox.add(ack())
    await sent(outbox)
    assert api.unavailable == 0
    assert len(api.acks) == 1


class Picky(FakeRegistry):
    async def acknowledge(self, acks: Sequence[Ack]) -> None:
        if any(each.workflow == "bad/bad" for each in acks):
            raise error(Reason.INVALID_NAME, "not a name")
        await super().acknowledge(acks)


async def test_one_that_is_refused_does_not_hold_up_the_others(home: Home) -> None:
    api = Picky()
    outbox = opened(home, api)
    for workflow in ("a/a", "bad/bad", "b/b"):
        await outbox.add(ack(workflow=workflow))
    await sent(outbox)
    assert [each.workflow for each in api.acks] == ["a/a", "b/b"]
    assert home.load_outbox() == []


async def test_a_full_outbox_keeps_the_newest_of_each_follow(home: Home) -> None:
    outbox = opened(home, FakeRegistry(), limit=4)
    for generation in range(1, 6):
        await outbox.add(ack(workflow="a/a", generation=generation))
        await outbox.add(ack(workflow="b/b", generation=generation))
    left = home.load_outbox()
    assert len(left) <= 4
    assert {(each.workflow, each.generation) for each in left} >= {("a/a", 5), ("b/b", 5)}

"""Switches under a verdict policy, while others move the same pointer."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from registry.core import commands, outcomes
from registry.core.errors import Conflict, Reason, Refused
from registry.formats.model import Finding, Verdict
from registry.server.feed import Feed
from registry.server.limits import REFUSAL_REASONS, VERDICT_ATTEMPTS
from registry.server.metrics import Metrics
from registry.server.proposer import Proposer
from registry.server.replies import Replies
from registry.server.services.reads import Reads
from registry.server.services.writes import Writes
from registry.v1 import registry_pb2
from tests.unit.core.kit import START_MS, WORKFLOW, Machine

BUDGET_S = 60.0
Hook = Callable[[], None]


class OneMember:
    """A cluster that commits at once. `before`: what happens as a proposal is on its way."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.entries = 0
        self.before: Hook = lambda: None

    has_room = True

    def status(self) -> Any:
        return SimpleNamespace(level=self._machine.level)

    def leader_address(self) -> str:
        return ""

    async def propose(self, command: bytes, *, timeout_s: float) -> bytes:
        self.entries += 1
        self.before()
        return outcomes.encode(self._machine.apply(commands.decode(command)))

    async def barrier(self, *, timeout_s: float) -> None:
        pass


class Judge:
    """Gives `verdict` for everything, and counts. `during`: what happens as it does."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        self.jobs = 0
        self.during: Hook = lambda: None

    async def judge(self, *_: object) -> Verdict:
        self.jobs += 1
        self.during()
        return self.verdict


class Bench:
    def __init__(self, verdict: Verdict) -> None:
        self.machine = Machine()
        self.machine.found()
        self.machine.published(b"1", b"2", b"3")
        self.machine.switched(1)
        self.machine.set_policy(WORKFLOW, verdict="warn")
        self.cluster, self.judge = OneMember(self.machine), Judge(verdict)
        cluster: Any = self.cluster
        inspector: Any = self.judge
        feed = Feed(self.machine.registry)
        proposer = Proposer(cluster, Metrics(), clock_ms=lambda: START_MS)
        replies = Replies("n1", cluster, feed)
        reads = Reads(
            proposer=proposer,
            environment=self.machine.environment,
            feed=feed,
            replies=replies,
            inspector=inspector,
        )
        self._writes = Writes(proposer=proposer, reads=reads, replies=replies, inspector=inspector)

    async def switch(self, target: int, request_id: str = "") -> int:
        """Through the service; the generation."""
        move = registry_pb2.Move(workflow=WORKFLOW, target=str(target))
        request = registry_pb2.SwitchRequest(request_id=request_id, moves=[move], reason="because")
        return int((await self._writes.switch(request, BUDGET_S)).pointers[0].generation)

    def other(self) -> None:
        """Someone else moves the pointer, to another version each time."""
        named = self.machine.pointer().version
        move = commands.Move(workflow=WORKFLOW, pointer="active", target=named % 3 + 1)
        assert isinstance(self.machine.apply(self.machine.switch_command(move, force=True)), outcomes.Switched)

    def others(self, times: int) -> Hook:
        left = iter(range(times))

        def once() -> None:
            if next(left, None) is not None:
                self.other()

        return once


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.server.services.writes.VERDICT_BACKOFF_S", 0.0)


def blocked(count: int) -> Verdict:
    return Verdict(
        level="block", reasons=[Finding(code="x", level="block", text=f"reason {n}", where="N") for n in range(count)]
    )


async def test_a_refusal_says_the_worst_reasons() -> None:
    bench = Bench(blocked(9))
    with pytest.raises(Refused) as caught:
        await bench.switch(2)
    lines = caught.value.metadata["reasons"].splitlines()
    assert (caught.value.reason, caught.value.metadata["verdict"]) == (Reason.VERDICT_REFUSED, "block")
    assert (lines[0], len(lines)) == ("block: reason 0 (N)", REFUSAL_REASONS)
    assert bench.machine.pointer().generation == 1


async def test_a_pointer_that_moves_while_it_is_judged_costs_no_log_entry() -> None:
    bench = Bench(Verdict(level="ok"))
    bench.judge.during = bench.others(2)
    assert await bench.switch(2) == 4
    assert bench.cluster.entries == 1


async def test_a_pointer_that_moves_on_and_on_is_judged_until_it_is_done() -> None:
    """From three versions: what was judged once is known."""
    bench = Bench(Verdict(level="ok"))
    bench.cluster.before = bench.others(20)
    assert await bench.switch(2) == 22
    assert (bench.cluster.entries, bench.judge.jobs) == (21, 3)


async def test_it_ends_at_some_time() -> None:
    bench = Bench(Verdict(level="ok"))
    bench.cluster.before = bench.other
    with pytest.raises(Conflict) as caught:
        await bench.switch(2)
    assert caught.value.reason is Reason.VERDICT_OUTDATED
    assert bench.cluster.entries == VERDICT_ATTEMPTS


async def test_a_retry_gets_its_first_outcome_without_a_judge() -> None:
    bench = Bench(Verdict(level="ok"))
    request_id = bench.machine.request_id()
    assert await bench.switch(2, request_id) == 2
    bench.judge.verdict, bench.judge.jobs = blocked(1), 0
    bench.other()
    assert await bench.switch(2, request_id) == 2
    assert bench.judge.jobs == 0

"""What the simulation of the agent found once: content that is damaged or not durable, members that tell nonsense."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec import structs

from registry.agent import files, guards, limits
from registry.agent.acts import Acts, Shared
from registry.agent.api import Ack, Instruction
from registry.agent.config import AgentConfig, FollowSpec
from registry.agent.follower import Follower
from registry.agent.guards import Machine, digest_of
from registry.agent.home import AgentFile, Home
from registry.agent.journal import Failure, Outcome, Record, evolve, of_target
from registry.agent.mending import mend
from registry.agent.outbox import Outbox
from registry.agent.targets import file
from registry.agent.targets.file import FileSpec, FileTarget
from registry.agent.transitions import Act, Code, Event, State, decide
from tests.unit.agent.samples import WORKFLOW, instruction

GOOD, BAD = instruction(1, b"one"), instruction(2, b"two")
DONE = Outcome(Event.DONE)


class Unreachable:
    """A registry that nobody reaches."""

    async def poll(self, *_: Any, **__: Any) -> Any:
        raise TimeoutError

    content = acknowledge = poll


class Bench:
    """One follow of a file; `acks`: what is in its outbox."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "triage.yml"
        self.spec = FollowSpec(WORKFLOW, "active", FileSpec(self.path))
        self.home = Home(directory / "state")
        os.close(self.home.lock())
        self.home.save_agent(AgentFile(agent="edge-1", incarnation="i1"))
        self.target = FileTarget(FileSpec(self.path), self.home, self.spec.name)
        for data in (b"one", b"two"):
            self.home.put_content(digest_of(data), data)
        api: Any = Unreachable()
        self.shared = Shared(
            config=AgentConfig(name="edge-1", state_dir=self.home.directory, follows=(self.spec,)),
            home=self.home,
            api=api,
            outbox=Outbox(self.home, api, Random(1)),
            fetches=asyncio.Semaphore(1),
            random=Random(1),
            clock_ms=lambda: 0,
            facts={},
            prune=lambda: None,
        )

    def record(self, state: State, **changes: Any) -> Record:
        """After `BAD` was installed over `GOOD`."""
        known = {"epoch": 1, "generation": 1, "target": BAD, "running": of_target(BAD), "last_good": of_target(GOOD)}
        return Record(workflow=WORKFLOW, pointer="active", path=str(self.path), state=state, **(known | changes))

    def follower(self, record: Record) -> Follower:
        return Follower(self.spec, record, self.target, self.shared)

    def damage(self, data: bytes) -> None:
        path = self.home.content_path(digest_of(data))
        path.chmod(0o644)
        path.write_bytes(b"other")

    def acks(self) -> list[Ack]:
        return self.home.load_outbox()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# What is on the disk


def test_content_that_cannot_be_read_is_not_here(bench: Bench) -> None:
    path = bench.home.content_path(GOOD.digest)
    path.unlink()
    path.mkdir()
    assert not bench.home.has_content(GOOD.digest)


async def test_a_damaged_last_good_version_is_not_gone_back_to(bench: Bench) -> None:
    bench.home.show(bench.path, BAD.digest)
    bench.damage(b"one")
    record = bench.record(State.REVERT, shown=True)
    outcome = await Acts(bench.spec, bench.target, bench.shared).perform(Act.SWAP_BACK, record)
    assert (outcome.event, outcome.code) == (Event.FAILED, Code.REVERT_FAILED)
    assert bench.path.read_bytes() == b"two"


@pytest.mark.parametrize("last_good", [GOOD, None])
async def test_a_step_back_that_a_crash_left_unsynced_is_synced(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, last_good: Instruction | None
) -> None:
    """The path shows it already, perhaps not on the disk: what it shows there is deleted next."""
    if last_good:
        bench.home.show(bench.path, last_good.digest)
    synced: list[Path] = []
    monkeypatch.setattr(file, "sync_directory", synced.append)
    record = bench.record(State.REVERT, shown=True, last_good=last_good and of_target(last_good))
    outcome = await Acts(bench.spec, bench.target, bench.shared).perform(Act.SWAP_BACK, record)
    assert (outcome, synced) == (DONE, [bench.path.parent])


async def test_what_was_damaged_since_it_was_staged_is_not_installed(bench: Bench) -> None:
    bench.home.show(bench.path, GOOD.digest)
    bench.damage(b"two")
    record = bench.record(State.INSTALL, running=of_target(GOOD))
    outcome = await Acts(bench.spec, bench.target, bench.shared).perform(Act.SWAP, record)
    assert (outcome.event, outcome.code) == (Event.FAILED, Code.DIGEST_MISMATCH)
    assert bench.path.read_bytes() == b"one"


@pytest.mark.parametrize("state", [State.IDLE, State.POST, State.FETCH, State.HOLD, State.REFUSE])
async def test_damage_is_repaired_whatever_was_under_way(bench: Bench, state: State) -> None:
    bench.damage(b"two")
    _, repair = await mend(bench.record(state), bench.spec, bench.target, bench.home, frozenset())
    assert repair is not None
    assert repair.digest == BAD.digest


@pytest.mark.parametrize(("code", "generation"), [(Code.PROBE_FAILED, 3), (Code.EXPIRED, 2)])
async def test_damage_does_not_hide_that_a_newer_version_was_refused(bench: Bench, code: Code, generation: int) -> None:
    bench.damage(b"two")
    newer = Failure(generation=3, version=3, code=code, detail="because")
    record, repair = await mend(
        bench.record(State.IDLE, target=None, generation=generation, failure=newer),
        bench.spec, bench.target, bench.home, frozenset(),
    )  # fmt: skip
    assert record.failure == newer
    repaired = _steps(record, Outcome(Event.DAMAGED), DONE, DONE, DONE, DONE, DONE, offered=repair)
    assert (repaired.state, repaired.failure, repaired.fence) == (State.CONFIRM, newer, (1, generation))


def test_what_a_path_leads_to_stays_though_its_record_is_lost(bench: Bench) -> None:
    bench.home.show(bench.path, GOOD.digest)
    bench.home.drop_content_except([], [bench.path])
    assert bench.path.read_bytes() == b"one"
    assert not bench.home.has_content(BAD.digest)


def test_what_an_earlier_run_may_not_have_synced_is_synced(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the rename and the sync, it left bytes that a loss of power takes away."""
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync_directory", synced.append)
    again = Home(bench.home.directory)
    content = again.content_path(GOOD.digest)
    assert again.has_content(GOOD.digest)
    assert {content.parent, again.objects} <= set(synced)
    synced.clear()
    assert again.has_content(GOOD.digest)
    assert synced == []


# What members tell


def test_a_generation_told_with_nonsense_does_not_count() -> None:
    """Otherwise one such reply would make the agent deaf to all that follow."""
    nonsense = instruction(10**12, digest="nonsense")
    record = Record(workflow=WORKFLOW, pointer="active", epoch=1, generation=1)
    outcome = guards.judge_instruction(record, nonsense, Machine())
    assert outcome is not None
    refused = _steps(record, Outcome(Event.OFFERED), outcome, DONE, offered=nonsense)
    assert refused.failure is not None
    assert (refused.failure.code, refused.fence) == (Code.INVALID_INSTRUCTION, (1, 1))


def test_a_generation_told_with_nonsense_does_not_count_after_a_restart_either(bench: Bench) -> None:
    """Else a poll would wait for more than there is."""
    nonsense = Failure(generation=2, version=2, code=Code.INVALID_INSTRUCTION, detail="not a digest")
    record = bench.record(State.REFUSE, running=of_target(GOOD), failure=nonsense)
    assert bench.follower(record).holding(epoch=1).generation == 1
    refused = structs.replace(record, failure=structs.replace(nonsense, code=Code.PROBE_FAILED))
    assert bench.follower(refused).holding(epoch=1).generation == 2


def test_a_generation_that_was_never_tried_does_not_count_though_the_step_back_fails(bench: Bench) -> None:
    """The swap back of what was shown before fails, while a newer one could not be fetched."""
    unfetched = Failure(generation=10**12, version=3, code=Code.FETCH_FAILED, detail="because")
    target = instruction(10**12, b"three")
    record = bench.record(State.REVERT, shown=True, target=target, failure=unfetched, attempt=limits.REVERT_ATTEMPTS)
    refused = _steps(record, Outcome(Event.FAILED, Code.REVERT_FAILED, "disk"))
    assert refused.failure is not None
    assert (refused.state, refused.failure.code, refused.fence) == (State.REFUSE, Code.FETCH_FAILED, (1, 1))
    tried = structs.replace(record, failure=structs.replace(unfetched, code=Code.PROBE_FAILED))
    final = _steps(tried, Outcome(Event.FAILED, Code.REVERT_FAILED, "disk"))
    assert final.failure is not None
    assert (final.failure.code, final.fence) == (Code.REVERT_FAILED, (1, 10**12))


async def test_kept_bytes_of_another_length_are_not_confirmed(bench: Bench) -> None:
    bench.home.show(bench.path, BAD.digest)
    told = instruction(3, b"two", size_bytes=1)
    acts = Acts(bench.spec, bench.target, bench.shared)
    for running in (of_target(BAD), of_target(GOOD)):  # shown already, or kept
        record = bench.record(State.GUARD, target=told, running=running)
        outcome = await acts.perform(Act.JUDGE, record)
        assert outcome.code is Code.LENGTH_MISMATCH


# What is told


@pytest.mark.parametrize("state", [State.INSTALL, State.RELOAD, State.PROBE, State.REVERT])
async def test_what_is_not_proven_is_never_told_as_confirmed(bench: Bench, state: State) -> None:
    await bench.follower(bench.record(state, shown=state is not State.INSTALL)).report_standing()
    assert bench.acks() == []


async def test_a_refusal_stays_the_last_word_when_a_trouble_is_over(bench: Bench) -> None:
    failure = Failure(generation=2, version=2, code=Code.PROBE_FAILED, detail="because")
    record = bench.record(State.IDLE, target=None, running=of_target(GOOD), generation=2, failure=failure)
    await bench.follower(record).report_standing()
    (ack,) = bench.acks()
    assert (ack.phase, ack.code, ack.generation, ack.running_generation) == ("refused", "PROBE_FAILED", 2, 1)


def _steps(record: Record, *outcomes: Outcome, offered: Any = None) -> Record:
    for outcome in outcomes:
        row = decide(record.state, outcome.event, record.facts(has_reload=False, has_probe=False))
        record = evolve(record, row, outcome, offered)
        offered = None
    return record

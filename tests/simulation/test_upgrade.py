"""A cluster of two releases: members of the older and of the newer one apply alike, under load and faults, and the
feature level rises when the last member can follow. The newer release reads some commands in its own way."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from msgspec import structs

from cluster import membership
from cluster.api import ReleaseTooOld
from cluster.kv.api import Transaction
from cluster.limits import LOCAL, REPORT_S, REPORTS_ALIVE
from tests.simulation import faults
from tests.simulation.checkers import Violation
from tests.simulation.network import between
from tests.simulation.play import WRITE_EVERY_S, Mix, Report, Run, setting_of
from tests.simulation.run import Played, explain, fresh, pool_of
from tests.simulation.state import Counting
from tests.simulation.world import Setting, World

SEEDS = 24
RAISED_S = 5.0  # after the last upgrade
FORGOTTEN_S = REPORTS_ALIVE * REPORT_S + 1.0  # what a process last said of itself counts no more


class ReleaseTooOldError(Exception):
    """As the registry's state machine does: it applies nothing that it does not know."""


class Versioned(Counting):
    """From level 2 on, every second command means something else."""

    def apply(self, transaction: Transaction, command: bytes, level: int = 1) -> bytes:
        if level > self._level:
            raise ReleaseTooOldError(f"level {level} is in force, this release applies levels up to {self._level}")
        return super().apply(transaction, command + b"!" if level > 1 and int(command) % 2 else command)


def levels(world: World) -> set[int]:
    """In force at the end of the members' logs."""
    return {world.live[name].replica.configuration.level for name in world.members() if name in world.live}


def change_release(world: World, name: str, level: int, down_s: float | None = None) -> None:
    """The process ends, and the other release starts on its data."""
    world.note(f"{name} gets the release of level {level}")
    world.levels[name] = level
    if name in world.live:
        world.stop(name, down_s=down_s)


# ---- faults: as an operator does it, one at a time
def upgrade(world: World) -> None:
    older = [name for name in world.present() if world.levels[name] == 1]
    if older and set(world.present()) == world.live.keys():
        change_release(world, world.rng.choice(older), 2)


def downgrade(world: World) -> None:
    """Only while another member keeps the level down."""
    older = [name for name in world.members() if world.levels[name] == 1]
    newer = [name for name in world.members() if world.levels[name] == 2]
    if older and newer and set(world.present()) == world.live.keys():
        change_release(world, world.rng.choice(newer), 1, FORGOTTEN_S)


UPGRADING = Mix(
    calls=40.0,
    faults={
        upgrade: 0.5,
        downgrade: 0.2,
        faults.cut: 0.3,
        faults.partition: 0.1,
        faults.drop: 0.2,
        faults.stall: 0.2,
        faults.crash: 0.2,
        faults.power_loss: 0.03,
        faults.pause: 0.1,
        faults.hand_over: 0.1,
        faults.transfer: 0.05,
        faults.join: 0.05,
        faults.admit: 0.4,
    },
)


def upgraded(played: Played) -> tuple[Report, bool]:
    """A run; and whether the level was raised before the end of the faults."""
    seed, voters = played
    run = Run(seed, voters, setting=replace(setting_of(seed, voters), machine=Versioned), mix=UPGRADING)
    report, world = run.play(), run.world
    was_raised = levels(world) == {2}
    if not report.violation:
        try:
            _upgrade_the_others(world)
        except Violation as violation:
            report.violation, report.trace = str(violation), list(world.trace)
    return report, was_raised


def _upgrade_the_others(world: World) -> None:
    for name in world.members():
        if world.levels[name] == 1:
            if levels(world) != {1}:
                raise Violation(f"levels {levels(world)} are in force, and {name} cannot follow")
            change_release(world, name, 2)
            world.until(world.converged, 10.0, "not converged")
    world.until(lambda: levels(world) == {2}, RAISED_S, "the level is not raised")
    wanted = world.checkers.writes + 20
    while world.checkers.writes < wanted:
        world.clients.write(world.rng.choice(world.members()), timeout_s=5.0)
        world.advance(WRITE_EVERY_S)
    world.until(world.converged, 10.0, "not converged")


def test_members_of_two_releases_apply_alike_until_all_can_follow() -> None:
    with pool_of(os.cpu_count() or 1) as pool:
        told = pool.map(upgraded, fresh(0, SEEDS), chunksize=2)
    assert not [explain(report) for report, _ in told if report.violation]
    assert {was_raised for _, was_raised in told} == {False, True}


# ---- one step at a time
@pytest.fixture
def world() -> World:
    world = World(1, Setting(delay=between(0.001, 0.003), timing=LOCAL, machine=Versioned))
    world.until(lambda: bool(world.leaders()), 5.0, "no leader")
    world.advance(3.0)
    return world


def write(world: World, count: int = 10) -> None:
    for _ in range(count):
        world.clients.write(world.rng.choice(sorted(world.live)))
        world.advance(WRITE_EVERY_S)


def seen(world: World, event: str) -> bool:
    return any(event in told for _, told in world.trace)


def test_a_member_that_went_back_keeps_the_level_down(world: World) -> None:
    """What it said before it was stopped counts no more, although its leader heard it."""
    change_release(world, "n1", 2)
    world.advance(5.0)
    world.clients.change("n1", membership.Transfer("n1"))
    world.until(lambda: world.leaders() == ["n1"], 5.0, "no transfer")
    change_release(world, "n0", 2)
    world.advance(5.0)
    change_release(world, "n0", 1, down_s=20.0)
    world.advance(FORGOTTEN_S)
    change_release(world, "n2", 2)
    world.advance(5.0)
    write(world)
    assert levels(world) == {1}
    world.until(lambda: "n0" in world.live and world.converged(), 20.0, "not converged")
    write(world)
    assert (levels(world), world.leaders()) == ({1}, ["n1"])
    change_release(world, "n0", 2)
    world.until(lambda: levels(world) == {2}, RAISED_S, "the level is not raised")


def test_an_observer_keeps_the_level_down(world: World) -> None:
    world.join("o3/1")
    world.advance(2.0)
    world.clients.change("n0", membership.Add("o3"))
    world.until(lambda: "o3/1" in world.members(), 5.0, "not admitted")
    for name in world.founders:
        change_release(world, name, 2)
        world.advance(5.0)
    assert levels(world) == {1}
    change_release(world, "o3/1", 2)
    world.until(lambda: levels(world) == {2}, RAISED_S, "the level is not raised")
    write(world)
    world.until(world.converged, 5.0, "not converged")


def test_an_older_release_does_not_start_afterwards(world: World) -> None:
    for name in world.founders:
        change_release(world, name, 2)
        world.advance(5.0)
    world.until(lambda: levels(world) == {2}, RAISED_S, "the level is not raised")
    change_release(world, "n1", 1, down_s=1.0)
    with pytest.raises(ReleaseTooOld, match="feature level 2 is in force, this release can apply 1"):
        world.advance(2.0)
    said = structs.replace(world.live["n0"].hello("n2"), id="n1", name="n1", incarnation="n1-founder", level=1)
    assert "knows feature level 1; 2 is in force" in world.live["n2"].judge(said)
    write(world)
    world.levels["n1"] = 2
    world.start_again("n1")
    world.until(world.converged, 5.0, "not converged")
    assert world.checkers.writes == 10


def test_an_older_release_is_not_admitted_afterwards(world: World) -> None:
    for name in world.founders:
        change_release(world, name, 2)
        world.advance(5.0)
    world.until(lambda: levels(world) == {2}, RAISED_S, "the level is not raised")
    world.join("o3/1", level=1)
    world.advance(1.0)
    for level, outcome in ((1, "RELEASE_TOO_OLD"), (2, "done")):
        change_release(world, "o3/1", level)
        world.advance(4.0)
        world.clients.change("n0", membership.Add("o3"))
        world.advance(1.0)
        assert world.clients.changes[f"Add {outcome}"] == 1
    world.until(world.converged, 5.0, "not converged")

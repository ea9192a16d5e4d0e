"""Each fault does to a member what its name says, and ends."""

from __future__ import annotations

import pytest

from tests.simulation import faults
from tests.simulation.clients import Clients
from tests.simulation.network import between
from tests.simulation.world import Setting, World


@pytest.fixture
def world() -> World:
    world = World(1, Setting(delay=between(0.001, 0.002)))
    world.until(lambda: bool(world.leaders()), 5.0, "no leader")
    world.advance(2.0)
    return world


def seen(world: World, event: str) -> bool:
    return any(event in told for _, told in world.trace)


def test_a_full_disk_ends_the_member_until_there_is_space(world: World) -> None:
    faults.full_disk(world)
    (full,) = [name for name in world.names if world.disks[name].is_full]
    clients = Clients(world)
    clients.write(next(name for name in world.names if name != full))
    world.until(lambda: full not in world.live, 0.1, "it goes on", step_s=0.01)
    assert seen(world, f"{full} ends: its disk is full")
    world.start_again(full)
    assert full not in world.live
    world.until(lambda: full in world.live and world.converged(), 10.0, "it stays down")
    clients.write(full)
    world.until(lambda: world.checkers.writes > 0, 2.0, "it takes no writes")


def test_a_paused_member_ticks_no_more_and_handles_everything_afterwards(world: World) -> None:
    (leader,) = world.leaders()
    paused = next(name for name in world.names if name != leader)
    process = world.live[paused]
    process.pause()
    applied = process.replica.journal.applied
    clients = Clients(world)
    for _ in range(5):
        clients.write(leader)
        world.advance(0.2)
    assert (world.checkers.writes, process.replica.journal.applied) == (5, applied)
    process.resume()
    world.until(world.converged, 1.0, "it does not catch up")
    assert world.live[paused] is process


def test_a_paused_leader_is_replaced_and_follows(world: World) -> None:
    (leader,) = world.leaders()
    world.live[leader].pause()
    world.advance(5.0)
    assert len(world.leaders()) == 2  # its memory is the old one
    world.live[leader].resume()
    world.advance(1.0)
    assert leader not in world.leaders()


def test_a_slow_disk_keeps_the_member_from_everything_else(world: World) -> None:
    (leader,) = world.leaders()
    slow = next(name for name in world.names if name != leader)
    world.disks[slow].slow_s = 0.4
    Clients(world).write(leader)
    world.advance(0.1)
    assert world.checkers.writes == 1  # without it
    assert world.live[slow]._is_syncing
    world.advance(0.2)
    assert world.live[slow]._waiting  # heartbeats
    world.until(world.converged, 5.0, "it does not catch up")


def test_a_clock_that_jumps_wakes_the_member_at_once(world: World) -> None:
    (leader,) = world.leaders()
    jumped = next(name for name in world.names if name != leader)
    world.live[jumped].jump(3.0)
    world.advance(0.01)
    assert seen(world, f"{jumped} sounds")


def test_what_is_swallowed_is_lost_and_the_connection_with_it(world: World) -> None:
    a, b = world.names[:2]
    connection = world.network.link(a, b).connection
    world.network.swallow(a, b)
    world.advance(5.0)
    world.network.spit(a, b)
    world.advance(5.0)
    assert world.network.link(a, b).is_open
    assert world.network.link(a, b).connection > connection
    world.until(world.converged, 1.0, "not converged")


@pytest.mark.parametrize("where", ["advanced", "before", "after"])
def test_a_crash_in_a_tick_keeps_what_was_synced_and_no_more(world: World, where: str) -> None:
    (leader,) = world.leaders()
    disk, last = world.disks[leader], world.live[leader].replica.journal.last
    disk.crash_at = where
    Clients(world).write(leader)
    world.until(lambda: leader not in world.live, 0.1, "it lives", step_s=0.01)
    world.until(lambda: leader in world.live, 5.0, "it stays down", step_s=0.0001)
    assert (world.live[leader].replica.journal.last > last) == (where == "after")


def test_a_power_loss_takes_what_was_under_way(world: World) -> None:
    faults.power_loss(world)
    assert not world.live
    delivered = world.network.trace.hexdigest()
    world.advance(0.01)
    assert world.network.trace.hexdigest() == delivered
    world.until(lambda: len(world.live) == 3 and world.converged(), 10.0, "not converged")


def test_a_row_that_rots_ends_the_member_which_then_gets_a_state(world: World) -> None:
    clients = Clients(world)
    for name in world.names:
        clients.write(name)
    world.until(lambda: world.converged() and world.checkers.writes == 3, 2.0, "nothing is written")
    while not any(b"state" in world.disks[name].rotten_rows for name in world.names):
        faults.rot(world)
        world.advance(0.1)
        faults.rot(world)  # of another one: too many
        assert len(world.rotten()) <= 1
        if not any(b"state" in world.disks[name].rotten_rows for name in world.names):
            world.heal()
            world.until(world.converged, 20.0, "not converged")
    (rotten,) = world.rotten()
    clients.write(next(name for name in world.names if name != rotten))
    world.until(lambda: rotten not in world.live, 1.0, "it goes on", step_s=0.01)
    assert seen(world, f"{rotten} ends: table state, key b'state'")
    world.until(lambda: rotten in world.live, 5.0, "it stays down", step_s=0.01)
    assert world.live[rotten].replica.recovery.in_repair
    world.until(world.converged, 10.0, "it is not repaired")
    assert not world.rotten()


def test_a_member_without_room_takes_no_entries_lives_and_catches_up(world: World) -> None:
    (leader,) = world.leaders()
    full = next(name for name in world.names if name != leader)
    process, clients = world.live[full], Clients(world)
    world.disks[full].give_room(0)
    world.advance(2.0)
    last = process.replica.journal.last
    for _ in range(20):
        clients.write(leader)
        world.advance(0.1)
    assert (process.replica.journal.last, world.checkers.writes) == (last, 20)
    assert not world.live[leader].replica.reports.of(full).has_room
    world.disks[full].give_room()
    world.until(world.converged, 5.0, "it does not catch up")
    assert world.live[full] is process


def test_three_members_without_room_lose_nothing_and_go_on(world: World) -> None:
    clients = Clients(world)
    before = dict(world.live)
    for disk in world.disks.values():
        disk.give_room(0)
    world.advance(2.0)
    for _ in range(10):
        clients.write(world.rng.choice(world.names))
        world.advance(0.5)
    assert (world.checkers.writes, world.live) == (0, before)
    assert not any(process.replica.has_room() for process in world.live.values())
    for disk in world.disks.values():
        disk.give_room()
    world.until(lambda: world.checkers.writes == 10 and world.converged(), 10.0, "they do not go on")
    assert world.live == before


def test_a_leader_without_room_is_followed_by_one_that_has_some(world: World) -> None:
    (leader,) = world.leaders()
    world.disks[leader].give_room(0)
    world.until(lambda: world.leaders() not in ([leader], []), 5.0, "it leads on")
    clients = Clients(world)
    clients.write(leader)
    world.until(lambda: world.checkers.writes == 1, 2.0, "it takes no writes")

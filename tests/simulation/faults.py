"""What goes wrong. Each fault begins now, ends by itself after a while, and takes all its chances from the seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from cluster import membership
from cluster.limits import RESERVE_BYTES, ROOM_LOOK_S
from tests.simulation.state import STATE

if TYPE_CHECKING:
    from tests.simulation.world import World

Fault = Callable[["World"], None]

LASTS_S = (0.1, 4.0)


def _pair(world: World) -> list[tuple[str, str]]:
    """One; none where a process is left alone."""
    names = world.present()
    if len(names) < 2:
        return []
    a, b = world.rng.sample(names, 2)
    return [(a, b)]


def _lasting(world: World) -> float:
    return world.rng.uniform(*LASTS_S)


def _any_live(world: World) -> str | None:
    live = sorted(world.live)
    leaders = world.leaders()
    if leaders and world.rng.random() < 0.5:
        return world.rng.choice(leaders)
    return world.rng.choice(live) if live else None


# ---- connections
def cut(world: World) -> None:
    """Two members lose each other, and what was under way between them."""
    for a, b in _pair(world):
        world.note(f"cut between {a} and {b}")
        world.network.cut(a, b)
        world.after(_lasting(world), partial(world.network.mend, a, b))


def partition(world: World) -> None:
    """The members fall into two groups."""
    names = world.rng.sample(world.present(), len(world.present()))
    if len(names) < 2:
        return
    size = world.rng.randrange(1, len(names))
    lasting_s = _lasting(world)
    world.note(f"partition: {' '.join(sorted(names[:size]))} and {' '.join(sorted(names[size:]))}")
    for a in names[:size]:
        for b in names[size:]:
            world.network.cut(a, b)
            world.after(lasting_s, partial(world.network.mend, a, b))


def drop(world: World) -> None:
    """One direction's connection ends, the other stands: the peer is unheard."""
    for a, b in _pair(world):
        world.note(f"connection from {a} to {b} drops")
        world.network.drop(a, b)


def swallow(world: World) -> None:
    """One way: what is sent disappears and nobody is told before it ends."""
    for a, b in _pair(world):
        world.note(f"{a} to {b} is swallowed")
        world.network.swallow(a, b)
        world.after(_lasting(world), partial(world.network.spit, a, b))


def stall(world: World) -> None:
    """One way: what is sent arrives late, all at once."""
    for a, b in _pair(world):
        world.note(f"{a} to {b} stalls")
        world.network.stall(a, b, _lasting(world) / 2)


# ---- processes
def crash(world: World) -> None:
    """A process dies: now, or at the next chance at a point of its tick."""
    if name := _any_live(world):
        where = world.rng.choice(["now", "advanced", "before", "after", "sending"])
        world.note(f"crash of {name}: {where}")
        match where:
            case "now":
                world.stop(name)
            case "sending":
                world.live[name].sends_left = world.rng.randrange(6)
            case _:
                world.disks[name].crash_at = where


def restart(world: World) -> None:
    """A process dies between two ticks."""
    if name := _any_live(world):
        world.note(f"{name} dies")
        world.stop(name)


def power_loss(world: World) -> None:
    """All machines at once; what was under way is lost with them."""
    world.note("power loss of all")
    for name in sorted(world.live):
        world.stop(name, power=True)


def pause(world: World) -> None:
    """SIGSTOP: connections stand and what is sent to it waits; then it goes on with its old memory."""
    if name := _any_live(world):
        process = world.live[name]
        world.note(f"{name} is paused")
        process.pause()
        world.after(_lasting(world), partial(_resume, world, name))


def _resume(world: World, name: str) -> None:
    if name in world.live and world.live[name].is_paused:
        world.note(f"{name} goes on")
        world.live[name].resume()


def clock_jump(world: World) -> None:
    """A member's monotonic clock runs ahead at once."""
    if name := _any_live(world):
        ahead_s = _lasting(world)
        world.note(f"the clock of {name} jumps {ahead_s:.1f} s ahead")
        world.live[name].jump(ahead_s)


def hand_over(world: World) -> None:
    if leaders := world.leaders():
        name = world.rng.choice(leaders)
        process = world.live[name]
        world.note(f"{name} hands over")
        process.put(lambda: process.replica.hand_over(process.now() + 2 * world.setting.timing.election_min_s))


# ---- disks
def slow_disk(world: World) -> None:
    """Each sync takes long; the member handles nothing meanwhile."""
    name = world.rng.choice(world.present())
    disk = world.disks[name]
    disk.slow_s = world.rng.uniform(0.02, 0.5)
    world.note(f"the disk of {name} is slow: {disk.slow_s:.2f} s a sync")
    world.after(_lasting(world), partial(setattr, disk, "slow_s", 0.0))


def full_disk(world: World) -> None:
    """A commit is refused and the member is down until there is space."""
    name = world.rng.choice(world.present())
    world.note(f"the disk of {name} is full")
    world.disks[name].is_full = True
    world.after(_lasting(world), partial(_give_space, world, name))


def no_room(world: World) -> None:
    """What can be written shrinks below the reserve, or to nothing: the member says so, and lives."""
    name = world.rng.choice(world.present())
    left_bytes = world.rng.choice([0, 0, RESERVE_BYTES // 2])
    world.note(f"the disk of {name} has room for {left_bytes} bytes")
    world.disks[name].give_room(left_bytes)
    world.after(_lasting(world) + ROOM_LOOK_S, world.disks[name].give_room)


def rot(world: World) -> None:
    """A row of the state of one member is not what was written. Others keep a majority whole: nobody else could bring
    them further than what this member has applied."""
    name = world.rng.choice(world.present())
    disk = world.disks[name]
    if (rows := disk.state_rows()) and _can_do_without(world, name):
        key = world.rng.choice([b"state", world.rng.choice(rows)])
        world.note(f"row {key.decode()} of the state of {name} rots")
        disk.damage(STATE, key)


def _give_space(world: World, name: str) -> None:
    if world.disks[name].is_full:
        world.disks[name].is_full = False
        world.start_again(name)


# ---- members
def join(world: World) -> None:
    """A new process asks to be admitted: a voter to be, or an observer."""
    if len(world.names) < MOST_PROCESSES:
        kind = world.rng.choice(["v", "v", "o"])
        name = f"{kind}{len(world.names)}/{world.rng.getrandbits(16):04x}"
        world.note(f"{name} asks to join")
        world.join(name)


def admit(world: World) -> None:
    """Somewhere the next step of a process that waits is asked for: admission, or its promotion."""
    at = _any_live(world)
    if at is None:
        return
    configuration = world.live[at].replica.configuration
    waiting = [name for name in world.present() if name not in configuration.ids]
    observers = sorted(configuration.ids - configuration.voters)
    if waiting and world.rng.random() < 0.5:
        world.clients.change(at, membership.Add(world.rng.choice(waiting)))
    elif observers and len(configuration.voters) < MOST_VOTERS:
        world.clients.change(at, membership.Promote(world.rng.choice(observers), force=_risk(world, 0.2)))


def _risk(world: World, chance: float) -> bool:
    """A forced change may stop all writes for good where a disk is lost: nobody is to blame then."""
    return world.rng.random() < chance and not world.lost and not world.rotten()


def remove(world: World) -> None:
    """A member is to go: first one whose disk is lost. Not while the state of another one has to be replaced: those who
    stay could not do without it."""
    at = _any_live(world)
    if at is None or world.rotten():
        return
    ids = sorted(world.live[at].replica.configuration.ids)
    lost = [id for id in ids if id in world.gone]
    if lost or len(ids) > 3:
        world.clients.change(at, membership.Remove(world.rng.choice(lost or ids), force=_risk(world, 0.1)))


def transfer(world: World) -> None:
    if (at := _any_live(world)) and (voters := sorted(world.live[at].replica.voters)):
        world.clients.change(at, membership.Transfer(world.rng.choice(["", *voters])))


def lose_disk(world: World) -> None:
    """For ever."""
    name = world.rng.choice(world.present())
    if _can_do_without(world, name):
        world.note(f"the disk of {name} is lost")
        world.lost.add(name)
        world.end(name)


def _can_do_without(world: World, name: str) -> bool:
    """Whether every configuration that may count keeps a majority of others, also if this one is being promoted."""
    if set(world.present()) - world.live.keys():
        return False  # who is down may know another configuration
    if any(process.is_asked_to_change() for process in world.live.values()):
        return False  # forced, perhaps, although this disk would be missed then
    # Whoever waits for another state is of no use either, also when the row has been written anew meanwhile.
    in_repair = {other for other, process in world.live.items() if process.replica.recovery.in_repair}
    missing = world.gone | world.rotten() | in_repair | {name}
    journals = [process.replica.journal for process in world.live.values()]
    voters = [each.voters | {name} for one in journals for each in (one.configuration, one.applied_configuration)]
    return all(2 * len(ids & missing) < len(ids) for ids in voters)


MOST_PROCESSES, MOST_VOTERS = 20, 7

# How many of each in a second, before the seed makes some more frequent and leaves others out.
RATES: dict[Fault, float] = {
    cut: 0.5,
    partition: 0.1,
    drop: 0.3,
    swallow: 0.2,
    stall: 0.2,
    crash: 0.4,
    power_loss: 0.05,
    pause: 0.2,
    clock_jump: 0.15,
    hand_over: 0.15,
    slow_disk: 0.15,
    full_disk: 0.08,
    no_room: 0.08,
    rot: 0.4,
    join: 0.08,
    admit: 0.6,
    remove: 0.2,
    transfer: 0.1,
    lose_disk: 0.03,
}

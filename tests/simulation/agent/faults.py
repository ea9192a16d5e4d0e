"""What happens to a simulated agent, and how often beside the others."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.simulation.agent.registry import Key
from tests.simulation.agent.world import World

Fault = Callable[[World], Awaitable[None]]
NETWORK = {
    "lost": 0.05,
    "lost answer": 0.05,
    "timeout": 0.02,
    "busy": 0.05,
    "late": 0.08,
    "behind": 0.1,
    "duplicate": 0.08,
    "older epoch": 0.04,
    "foreign": 0.04,
    "hostile": 0.08,
}
HOUR_MS = 3_600_000


# The registry moves on


def switch(world: World, key: Key) -> None:
    """To a new version mostly, to an older one, or of all to an older state."""
    rng, registry = world.rng, world.registry
    workflow = key[0]
    last = max((number for name, number in registry.now.versions if name == workflow), default=0)
    back = last > 1 and rng.random() < 0.3
    unmet = rng.random() < 0.05
    number = rng.randint(1, last) if back else registry.publish(workflow, needs=("dify>=2.0",) if unmet else ())
    soon = rng.random() < 0.15 and not back
    ends = rng.random() < 0.1 and not back
    made = registry.switch(
        key,
        number,
        rollback=back,
        not_before_ms=world.wall_ms() + rng.choice([3_000, 60_000]) if soon else 0,
        deadline_ms=world.wall_ms() + rng.choice([2_000, 90_000]) if ends else 0,
    )
    if not back and rng.random() < 0.1:
        world.machine.bad.add(made.digest)
    elif not back and rng.random() < 0.1:
        world.machine.fatal.add(made.digest)
    world.note(
        f"{workflow} is switched to version {number}, generation {made.generation} {made.digest[7:15]} {made[6:]}"
    )
    world.network.wake()


def switch_to_newest(world: World, key: Key) -> None:
    last = max(number for name, number in world.registry.now.versions if name == key[0])
    made = world.registry.switch(key, last)
    world.note(f"{key[0]} is switched to version {last}, generation {made.generation} {made.digest[7:15]}, at last")
    world.network.wake()


async def restore(world: World) -> None:
    world.registry.restore()
    for key in world.keys:
        if key not in world.registry.now.pointers:
            switch(world, key)
    now = world.registry.now
    pointers = {key[0]: (each.generation, each.digest[7:15]) for key, each in now.pointers.items()}
    world.note(f"the registry is restored, epoch {now.epoch}: {pointers}")
    world.network.wake()


# The process and the machine


async def crash_soon(world: World) -> None:
    """At one of the next steps of the disk."""
    world.disk.crash_at = world.disk.steps + world.rng.choice([1, 3, 10, 30])


async def crash_now(world: World) -> None:
    if world.runs:
        world.crash("an instant")


async def stop(world: World) -> None:
    await world.stop()


async def fill(world: World) -> None:
    world.disk.full = True
    world.note("the disk is full")
    world.loop.call_later(world.rng.choice([0.5, 5, 40]), _room, world)


def _room(world: World) -> None:
    if world.disk.full:
        world.disk.full = False
        world.note("there is room again")


async def fail(world: World) -> None:
    world.disk.failing = world.rng.choice([0.05, 0.3, 1.0])
    world.note(f"{world.disk.failing:.0%} of the steps of the disk fail")
    world.loop.call_later(world.rng.choice([0.5, 5, 20]), _works, world)


def _works(world: World) -> None:
    if world.disk.failing:
        world.disk.failing = 0.0
        world.note("the disk works again")


async def damage(world: World) -> None:
    """Content on the disk: other bytes, too few, gone, or a bad sector. Found at a restart, or when it is needed; not
    while it is being installed, since nobody could find it then."""
    if world.rng.random() < 0.5:
        await world.stop()
    found = sorted((world.config.state_dir / "objects").glob("*/content"))
    if not found or (world.runs and world.checkers.is_swapping()):
        return
    path = world.rng.choice(found)
    how = world.rng.choice(["flip", "cut", "remove", "remove all", "unreadable"])
    world.note(f"{path.parent.name[:15]} is damaged: {how}")
    world.checkers.damaged.add(path.parent.name.replace("-", ":", 1))
    with world.disk.aside():
        _damage(world, path, how)


def _damage(world: World, path: Path, how: str) -> None:
    data = path.read_bytes() if path.stat().st_ino not in world.disk.unreadable else b""
    if how == "unreadable" or not data:
        world.disk.unreadable.add(path.stat().st_ino)
        return
    at = world.rng.randrange(len(data))
    path.unlink()
    if how == "remove all":
        shutil.rmtree(path.parent)
    elif how != "remove":
        path.write_bytes(data[:at] if how == "cut" else data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        path.chmod(0o444)


async def damage_record(world: World) -> None:
    """While the agent is not running; it says which one, and somebody moves it away."""
    await world.stop()
    spec = world.rng.choice(world.config.follows)
    path = world.config.state_dir / "follows" / spec.workflow / f"{spec.pointer}.json"
    if not path.exists():
        return
    world.checkers.forget((spec.workflow, spec.pointer))
    with world.disk.aside():
        if world.rng.random() < 0.5:
            path.unlink()
            world.note(f"the record of {spec.name} is gone")
            return
        path.write_bytes(path.read_bytes()[: world.rng.randrange(path.stat().st_size)])
    world.checkers.damaged_records.add(path)
    world.note(f"the record of {spec.name} is damaged")


async def jump(world: World) -> None:
    world.jump(world.rng.choice([-1, 1]) * world.rng.choice([1_000, 60_000, HOUR_MS, 24 * HOUR_MS]))


# What lies around it


async def trouble_network(world: World) -> None:
    share = world.rng.choice([0.0, 0.5, 1.0, 2.0, 8.0])
    chosen = {name: rate for name, rate in NETWORK.items() if world.rng.random() < 0.6}
    total = sum(chosen.values()) * share
    world.network.faults = {name: rate * share / max(1.0, total) for name, rate in chosen.items()}
    world.network.hostile = world.rng.random() < 0.5
    world.note(f"the network: {', '.join(f'{name} {rate:.2f}' for name, rate in world.network.faults.items())}")


async def trouble_commands(world: World) -> None:
    world.machine.flaky = world.rng.choice([0.0, 0.1, 0.4])
    world.note(f"{world.machine.flaky:.0%} of the commands fail")


RATES: dict[Fault, float] = {
    crash_soon: 2.0,
    crash_now: 1.0,
    stop: 0.5,
    fill: 0.7,
    fail: 0.7,
    damage: 1.0,
    damage_record: 0.2,
    jump: 0.5,
    restore: 0.4,
    trouble_network: 2.0,
    trouble_commands: 0.7,
}


def heal(world: World) -> None:
    """No faults from here on. Damage of what runs is only looked for when an agent starts, so it starts anew."""
    world.network.faults, world.network.hostile = {}, False
    world.machine.flaky = 0.0
    world.disk.full, world.disk.failing, world.disk.crash_at = False, 0.0, None
    world.machine.fatal.clear()
    if world.runs:
        world.crash("the end of all faults")
    world.note("healed")

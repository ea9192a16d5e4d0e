"""Schedules made by hand, each for a rule whose lack seldom shows at random. They raise Violation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from cluster import membership
from cluster import messages as m
from cluster.kv.api import Transaction
from cluster.limits import LOCAL, Flow
from tests.simulation.checkers import Checkers, Violation
from tests.simulation.network import between
from tests.simulation.state import STATE, Counting
from tests.simulation.world import NARROW, TIGHT, Setting, World

NEAR = between(0.001, 0.003)
FAR = between(0.15, 0.15)
LONG_S = 1000.0


@dataclass(frozen=True)
class Scenario:
    seed: int
    setting: Setting
    play: Callable[[World], None]
    violation: str  # its beginning, without the rule


def elected(world: World) -> list[str]:
    """The leader, then the others."""
    world.until(lambda: bool(world.leaders()), 5.0, "no leader")
    world.advance(3.0)
    (leader,) = world.leaders()
    return [leader, *(name for name in world.names if name != leader)]


def admitted(world: World, leader: str) -> str:
    """An observer."""
    world.join("o9/1")
    world.advance(1.0)
    world.clients.change(leader, membership.Add("o9"))
    world.until(lambda: "o9/1" in world.members() and world.converged(), 5.0, "not admitted")
    world.advance(1.0)
    return "o9/1"


def cut(world: World, name: str, others: list[str]) -> None:
    for other in others:
        world.network.cut(name, other)


def write(world: World, at: list[str], for_s: float, every_s: float = 0.02) -> None:
    end_s = world.now_s + for_s
    while world.now_s < end_s:
        for name in at:
            if name in world.live:
                world.clients.write(name)
        world.advance(every_s)


def undisturbed(world: World, leader: str, term: int) -> None:
    if world.leaders() != [leader] or max(world.checkers.leaders) != term:
        raise Violation(f"a healthy leader is deposed: term {term} became {max(world.checkers.leaders)}")


def returns(world: World) -> None:
    """A follower was away, and comes back."""
    leader, *others = elected(world)
    term = max(world.checkers.leaders)
    cut(world, others[1], [leader, others[0]])
    world.advance(10.0)
    for other in (leader, others[0]):
        world.network.mend(other, others[1])
    world.advance(5.0)
    undisturbed(world, leader, term)
    world.until(world.converged, 5.0, "not converged")


def hears_half(world: World) -> None:
    """A follower has lost the leader, and the other one has not."""
    leader, _, other = elected(world)
    term = max(world.checkers.leaders)
    world.network.cut(leader, other)
    world.advance(10.0)
    undisturbed(world, leader, term)


def long_conflict(world: World) -> None:
    """A leader goes on alone for a while, then the others' log takes the place of its own; who leads them now begins
    to send at the end of it."""
    leader, *others = elected(world)
    cut(world, leader, others)
    write(world, [leader], 1.0)
    world.until(lambda: world.leaders() != [leader], 5.0, "no other leader")
    write(world, others, 2.0)
    second = next(name for name in others if name in world.leaders())
    world.clients.change(second, membership.Transfer())
    world.until(lambda: bool(set(world.leaders()) & set(others) - {second}), 5.0, "no third leader")
    world.network.heal()
    world.until(world.converged, 6.0, "not converged")


def fetch_under_load(world: World) -> None:
    """A member needs a state, which takes a while to come, and writes go on."""
    leader, one, behind = elected(world)
    world.stop(behind, down_s=8.0)
    write(world, [leader], 8.0)
    world.until(lambda: behind in world.live, 1.0, "it stays down")
    write(world, [leader, one], 15.0)
    applied = {name: world.live[name].replica.journal.applied for name in world.names}
    if applied[leader] - applied[behind] > 100:
        raise Violation(f"left behind: {behind} has applied {applied[behind]}, the leader {applied[leader]}")


def fetches_alone(world: World) -> None:
    """One of three is down, another one needs a state: the leader cannot do without it, and waits."""
    leader, gone, behind = elected(world)
    world.stop(behind, down_s=8.0)
    write(world, [leader], 8.0)
    world.until(lambda: behind in world.live, 1.0, "it stays down")
    world.stop(gone, down_s=LONG_S)
    term = max(world.checkers.leaders)
    world.until(lambda: bool(world.live[behind].replica.recovery.fetcher.wanted), 2.0, "it fetches nothing")
    world.until(lambda: not world.live[behind].replica.recovery.fetcher.wanted, 20.0, "it fetches for ever")
    undisturbed(world, leader, term)


def lost_campaign(world: World) -> None:
    """A member that was to take over has raised its term, and nobody has heard of it."""
    leader, target, _ = elected(world)
    send = world.network.send

    def losing(sender: str, receiver: str, frame: bytes) -> None:
        if not (sender == target and isinstance(m.decode_message(frame[4:]), m.RequestVote)):
            send(sender, receiver, frame)

    world.network.send = losing  # type: ignore[method-assign]
    world.clients.change(leader, membership.Transfer(target))
    world.until(lambda: world.live[target].replica.engine.term() > 1, 2.0, "it does not campaign")
    world.advance(3.0)
    world.network.send = send  # type: ignore[method-assign]
    write(world, [leader], 1.0)
    world.until(world.converged, 10.0, "not converged")


def late_confirmation(world: World) -> None:
    """A deposed leader that does not know it asks for its term to be confirmed."""
    leader, *others = elected(world)
    cut(world, leader, others)
    world.until(lambda: len(world.leaders()) == 2, 5.0, "no other leader", step_s=0.001)
    (successor,) = set(world.leaders()) - {leader}
    world.clients.write(successor)
    world.advance(0.05)
    world.clients.read(leader)
    world.network.mend(leader, next(name for name in others if name != successor))
    world.advance(1.0)


def two_removals(world: World) -> None:
    """A leader that has lost the others is to go on without them."""
    leader, *others = elected(world)
    cut(world, leader, others)
    for other in others:
        world.clients.change(leader, membership.Remove(other, force=True))
    world.until(lambda: bool(set(world.leaders()) & set(others)), 5.0, "no other leader", step_s=0.01)
    write(world, [leader, *others], 1.0)
    world.network.heal()
    world.until(world.converged, 10.0, "not converged")


def two_majorities(world: World) -> None:
    """Ongaro's schedule of July 2015: an added voter that only the deposed leader knows of, and a removal by its
    successor, before that has committed anything, make two majorities that have no member in common."""
    first, second, third, fourth = elected(world)
    added = admitted(world, first)
    cut(world, first, [second, third, fourth])
    cut(world, added, [second, third, fourth])
    world.clients.change(first, membership.Promote(added, force=True))
    world.until(lambda: world.live[added].replica.votes, 1.0, "it does not hear of its promotion", step_s=0.01)
    successors = {second, third, fourth}
    world.until(lambda: bool(set(world.leaders()) & successors), 5.0, "no other leader", step_s=0.0005)
    (leader,) = set(world.leaders()) & successors
    away, *_ = sorted(successors - {leader})
    cut(world, away, sorted(successors - {away}))
    world.clients.change(leader, membership.Remove(first, force=True))
    world.advance(0.5)
    for name in (first, added):
        world.network.mend(name, away)
    world.until(lambda: bool({first, added, away} & set(world.leaders()) - {leader}), 20.0, "no third leader")
    world.advance(1.0)
    world.network.heal()
    world.until(world.converged, 10.0, "not converged")


def unknown_candidate(world: World) -> None:
    """Only a new voter can be elected, and a voter whose vote it needs does not know it yet."""
    first, second, third = elected(world)
    added = admitted(world, first)
    cut(world, third, [first, second, added])
    world.clients.change(first, membership.Promote(added))
    world.until(lambda: added in world.live[second].replica.journal.applied_configuration.voters, 2.0, "no promotion")
    world.network.cut(first, second)
    world.clients.write(first)
    world.advance(0.1)
    world.stop(first, down_s=LONG_S)
    for other in (second, added):
        world.network.mend(other, third)
    world.until(lambda: bool(world.leaders()), 10.0, "no leader")


class Damaged(Counting):
    """One member writes something else, once, and nobody is told."""

    def apply(self, transaction: Transaction, command: bytes, level: int = 1) -> bytes:
        if self._name == "n1" and command == b"20":
            transaction.put(STATE, b"damage", b"")
        return super().apply(transaction, command)


class Patient(Checkers):
    """States may differ until the members have compared them and the one that is wrong has ended."""

    PATIENCE = 5 * NARROW.digest_every  # entries

    def __init__(self) -> None:
        super().__init__()
        self._differs_from = 2**62

    def state(self, member: str, index: int, digest: bytes) -> None:
        try:
            super().state(member, index, digest)
        except Violation:
            self._differs_from = min(self._differs_from, index)
            if index > self._differs_from + self.PATIENCE:
                raise


def damage(world: World) -> None:
    world.checkers.__class__ = Patient
    world.checkers.__init__()  # type: ignore[misc]
    leader, *_ = elected(world)
    write(world, [leader], 10.0, every_s=0.1)
    world.until(world.converged, 5.0, "not converged")
    if set(world.live) != {"n0", "n2"}:
        raise Violation(f"there are {' '.join(sorted(world.live))}")


def removed_while_away(world: World) -> None:
    """It learns of it from nobody but those that it dials."""
    leader, _, away = elected(world)
    world.advance(5.0)
    world.stop(away, down_s=10.0)
    world.clients.change(leader, membership.Remove(away, force=True))
    world.advance(15.0)
    if away in world.live:
        raise Violation(f"removed and still there: {away}")


def repaired_from_behind(world: World) -> None:
    """A write is acknowledged by the leader and one other, which does not know that, and whose state has to be replaced
    by that of the third, who has not heard of the write. Then the leader is gone."""
    leader, one, third = elected(world)
    write(world, [leader], 0.2)
    world.until(world.converged, 5.0, "not converged")
    cut(world, third, [leader, one])
    send, appends = world.network.send, list[m.Message]()

    def losing(sender: str, receiver: str, frame: bytes) -> None:
        message = m.decode_message(frame[4:])
        if (sender, receiver) == (leader, one) and isinstance(message, m.Append | m.Heartbeat):
            if appends:
                return
            if isinstance(message, m.Append) and message.entries:
                appends.append(message)
        send(sender, receiver, frame)

    world.network.send = losing  # type: ignore[method-assign]
    before = world.checkers.writes
    world.clients.write(leader)
    world.until(lambda: world.checkers.writes > before, 1.0, "not written", step_s=0.001)
    world.stop(leader, down_s=LONG_S)
    world.network.send = send  # type: ignore[method-assign]
    world.live[one].scrub()
    world.stop(one, down_s=0.0)
    world.network.mend(one, third)
    world.until(lambda: bool(world.leaders()), 10.0, "no leader")
    write(world, [one, third], 1.0)


def read_without_room(world: World) -> None:
    """No disk has any room, and another leader is elected: everything that was written can still be read."""
    members = elected(world)
    write(world, members, 0.2)
    world.until(world.converged, 5.0, "not converged")
    for name in members:
        world.disks[name].give_room(0)
    world.advance(1.0)
    world.stop(world.leaders()[0], down_s=0.5)
    world.advance(3.0)
    served: list[str] = []
    for leader in world.leaders():
        world.live[leader].replica.read(partial(served.append, leader))
    world.until(lambda: bool(served), 5.0, "nothing is read")


NARROWER = Flow(append_bytes=100, window_bytes=600, chunk_bytes=100, log_entries=40, trim_entries=20, digest_every=8)

# By rule.
SCENARIOS = {
    "prevote": Scenario(1, Setting(delay=NEAR, timing=LOCAL), returns, "a healthy leader is deposed"),
    "sticky": Scenario(1, Setting(delay=NEAR, timing=LOCAL), hears_half, "a healthy leader is deposed"),
    "hint": Scenario(1, Setting(delay=FAR), long_conflict, "not converged"),
    "needed": Scenario(2, Setting(delay=FAR, flow=NARROWER), fetch_under_load, "left behind"),
    "lifesign": Scenario(1, Setting(delay=FAR, flow=NARROWER), fetches_alone, "a healthy leader is deposed"),
    "start": Scenario(1, Setting(delay=NEAR, timing=LOCAL), read_without_room, "nothing is read"),
    "keeprest": Scenario(1, Setting(delay=NEAR, timing=LOCAL), repaired_from_behind, "logs diverge"),
    "lowterm": Scenario(1, Setting(delay=NEAR, timing=LOCAL), lost_campaign, "not converged"),
    "onechange": Scenario(1, Setting(delay=NEAR, timing=LOCAL), two_removals, "logs diverge"),
    "owncommit": Scenario(1, Setting(4, delay=NEAR, timing=LOCAL), two_majorities, "logs diverge"),
    "memvote": Scenario(1, Setting(delay=NEAR, timing=LOCAL), unknown_candidate, "no leader"),
    "readterm": Scenario(2, Setting(delay=NEAR, timing=TIGHT), late_confirmation, "stale read"),
    "compare": Scenario(1, Setting(delay=NEAR, timing=LOCAL, flow=NARROW, machine=Damaged), damage, "digests differ"),
    "removed": Scenario(1, Setting(delay=NEAR, timing=LOCAL), removed_while_away, "removed and still there"),
}


def violation(scenario: Scenario) -> str:
    world = World(scenario.seed, scenario.setting)
    try:
        scenario.play(world)
    except Violation as violation:
        return str(violation)
    return ""

"""A configuration counts from its append on, committed or not: found by a seed as an observer that held a promotion
which the others had undone, waited for appends as a voter, and was sent none."""

from __future__ import annotations

from cluster import membership
from cluster.limits import LOCAL
from tests.simulation.network import between
from tests.simulation.world import Setting, World


def test_an_observer_whose_promotion_was_undone_follows_on() -> None:
    world = World(2, Setting(delay=between(0.001, 0.003), timing=LOCAL))
    world.until(lambda: bool(world.leaders()), 5.0, "no leader")
    world.join("o3/1")
    world.advance(1.0)
    (leader,) = world.leaders()
    others = [name for name in world.founders if name != leader]
    world.clients.change(leader, membership.Add("o3"))
    world.until(lambda: "o3/1" in world.members() and world.converged(), 5.0, "not admitted")
    world.advance(1.0)
    for other in others:
        world.network.cut(leader, other)
    world.clients.change(leader, membership.Promote("o3", force=True))
    observer = world.live["o3/1"].replica
    world.until(lambda: observer.votes, 1.0, "it does not hear of its promotion", step_s=0.01)
    world.network.cut(leader, "o3/1")
    world.until(lambda: bool(set(world.leaders()) & set(others)), 5.0, "no other leader")
    world.clients.write(others[0])
    world.advance(1.0)
    world.network.heal()
    world.until(world.converged, 10.0, "not converged")

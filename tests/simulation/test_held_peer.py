"""Flow control and lost acknowledgements: found by a seed as a follower that was never sent the rest of the log."""

from __future__ import annotations

from cluster.limits import LOCAL
from tests.simulation.clients import Clients
from tests.simulation.network import between
from tests.simulation.world import NARROW, Setting, World


def test_a_peer_held_back_behind_a_lost_acknowledgement_is_sent_everything_again() -> None:
    """The next entry does not fit behind the one in flight, so only heartbeats go; their answers acknowledge nothing
    of what is in flight, and must not keep silence from being noticed."""
    world = World(1, Setting(delay=between(0.001, 0.003), timing=LOCAL, flow=NARROW))
    world.until(lambda: bool(world.leaders()), 5.0, "no leader")
    world.advance(2.0)
    (leader,) = world.leaders()
    follower = next(name for name in world.names if name != leader)
    send, process = world.network.send, world.live[leader]

    def losing(sender: str, receiver: str, frame: bytes) -> None:
        if (sender, receiver) != (follower, leader):
            send(sender, receiver, frame)

    world.network.send = losing  # type: ignore[method-assign]
    Clients(world).write(leader)
    world.advance(0.003)
    process.put(lambda: process.replica.propose(b"9" * 2 * NARROW.window_bytes, lambda result: None))
    world.advance(0.3)
    world.network.send = send  # type: ignore[method-assign]
    world.until(world.converged, 5.0, "not converged")

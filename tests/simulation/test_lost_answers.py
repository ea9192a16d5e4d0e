"""Connections have two directions: a member's own may stand while the one its answers come on has ended."""

from __future__ import annotations

import pytest

from cluster import messages as m
from tests.simulation.clients import Clients
from tests.simulation.network import between
from tests.simulation.world import Setting, World


@pytest.mark.parametrize(("asked_at", "lost"), [("follower", m.ReadIndex), ("leader", m.ReadConfirm)])
def test_a_read_whose_answer_is_lost_is_asked_again(asked_at: str, lost: type[m.Message]) -> None:
    world = World(1, Setting(delay=between(0.01, 0.02)))
    world.until(lambda: bool(world.leaders()), 5.0, "no leader")
    world.advance(1.0)
    (leader,) = world.leaders()
    follower, other = (name for name in world.names if name != leader)
    world.network.cut(leader, other)
    send, cut, served = world.network.send, list[str](), list[float]()

    def losing(sender: str, receiver: str, frame: bytes) -> None:
        if isinstance(m.decode_message(frame[4:]), lost) and not cut:
            cut.append(sender)
            world.network.drop(sender, receiver)
        else:
            send(sender, receiver, frame)

    world.network.send = losing  # type: ignore[method-assign]
    Clients(world).read(leader if asked_at == "leader" else follower, told=served.append)
    world.advance(2.0)
    assert (len(cut), len(served)) == (1, 1)

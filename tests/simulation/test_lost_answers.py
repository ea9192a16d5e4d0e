"""Connections have two directions: a member's own may stand while the one its answers come on has ended."""

from __future__ import annotations

import pytest

from cluster import messages as m
from tests.simulation.world import World


@pytest.mark.parametrize(("asked_at", "lost"), [("follower", m.ReadIndex), ("leader", m.ReadConfirm)])
def test_a_read_whose_answer_is_lost_is_asked_again(asked_at: str, lost: type[m.Message]) -> None:
    world = World(1, 3, delays_s=[0.01])
    while not world.leaders():
        world.advance()
    for _ in range(100):
        world.advance()
    leader = world.leaders()[0].name
    follower, other = (name for name in world.names if name != leader)
    world.network.cut(leader, other)
    deliver, cut, served = world.network.send, list[str](), list[str]()

    def send(sender: str, receiver: str, message: m.Message) -> None:
        if isinstance(message, lost) and not cut:
            cut.append(sender)
            world.live[receiver].unheard(sender)
        else:
            deliver(sender, receiver, message)

    world.network.send = send  # type: ignore[method-assign]
    world.live[leader if asked_at == "leader" else follower].read(lambda: served.append(asked_at))
    for _ in range(100):
        world.advance()
    assert (len(cut), served) == (1, [asked_at])

"""What becomes of a damaged row, whoever met it: this member ends, and fetches its state anew when it is started again.

Not before the others are a majority without it: two damaged members must not leave together.
"""

from __future__ import annotations

import asyncio

import structlog

from cluster.api import Cluster, ClusterStatus
from cluster.kv.api import Damaged
from registry.core.errors import Reason, Unavailable
from registry.server.limits import REPAIR_LOOK_S, REPAIR_TURN_S

log = structlog.get_logger()


class Repairs:
    def __init__(self) -> None:
        self._why = ""
        self._noted = asyncio.Event()
        self._alone = False

    @property
    def needed(self) -> str:
        """The damage in words; empty: none was met."""
        return self._why

    def note(self, why: str) -> None:
        """Damage in the state. The first one counts: with it everything is replaced."""
        if not self._why:
            self._why = why
            log.error("damage in the data of this member", what=why)
            self._noted.set()

    async def run(self, cluster: Cluster) -> None:
        """Wait for damage, and end the member through the cluster once the others can go on without it. For ever."""
        await self._noted.wait()
        told = False
        await asyncio.sleep(_turn_s(cluster.status()))
        while not others_go_on(cluster.status()):
            if not told:
                log.warning("this member repairs itself once the other voters are alive", what=self._why)
                told = True
            await asyncio.sleep(REPAIR_LOOK_S)
            if others_go_on(cluster.status()):
                await asyncio.sleep(_turn_s(cluster.status()))
        if not await cluster.damaged(self._why):
            log.error(
                "nobody could give this member a state: it is the only voter",
                what=self._why,
                advice="take what can be read with `regctl cluster backup`, or restore a backup over a new directory",
            )
        await asyncio.Event().wait()

    def failure(self, damage: Damaged) -> Unavailable:
        """What callers are told."""
        self.note(str(damage))
        return damaged(f"a row of this member's data is damaged (table {damage.table or '?'})")


def damaged(what: str) -> Unavailable:
    return Unavailable(
        Reason.DATA_DAMAGED,
        f"{what}; nothing of it was given out",
        hint="ask another member; this one fetches its data from one, its log tells how it goes",
    )


def _turn_s(status: ClusterStatus) -> float:
    """Members that met damage at the same time, in a scrub, leave one after the other: who is next sees that the one
    before is away, and waits for it. Two that left together could not give each other a state."""
    ids = sorted(peer.member.id for peer in status.peers)
    return REPAIR_TURN_S * (ids.index(status.id) if status.id in ids else 0)


def others_go_on(status: ClusterStatus) -> bool:
    """Of two voters, one can give the state to the other but not lead without it: then there is nothing to wait for."""
    voters = [peer for peer in status.peers if peer.member.role == "voter"]
    others = sum(peer.alive for peer in voters if peer.member.id != status.id)
    return others >= min(len(voters) // 2 + 1, len(voters) - 1)

"""One running member: a replica on the running asyncio loop, over sockets, a clock and an environment.

Event-driven: a proposal or a message schedules a tick behind the callbacks that are ready now, so that everything that
arrived together shares one sync; a timer wakes it for heartbeats and elections. A tick that raises ends the member:
`failure` tells, and the process has to end.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from cluster import messages as m
from cluster.api import (
    ClusterStatus,
    CommandTooLarge,
    MemberInfo,
    NotAttempted,
    OutcomeUnknown,
    PeerStatus,
    StateMachine,
)
from cluster.kv.api import Environment
from cluster.limits import COMMAND_BYTES, LOCAL, PROPOSALS, PROPOSALS_BYTES, READS, REPORT_S, TIMER_SLACK_S, Timing
from cluster.peers import Identity, Peers, PeerTls
from cluster.replica import Replica, Result

_T = TypeVar("_T")


@dataclass(frozen=True)
class MemberConfig:
    name: str
    listen: str  # peer address to bind
    voters: dict[str, str]  # name: peer address, this member included
    foundation: str  # digest of the founding configuration
    incarnation: str
    api_address: str = ""
    datacenter: str = ""
    tls: PeerTls | None = None
    timing: Timing = LOCAL


class Member:
    """Implements `cluster.api.Cluster`. The environment must have the tables of `cluster.journal.TABLES`."""

    def __init__(self, config: MemberConfig, environment: Environment, state_machine: StateMachine) -> None:
        self._config = config
        self._peers = Peers(
            identity=Identity(
                config.foundation, config.name, config.incarnation, config.api_address, config.datacenter
            ),
            listen=config.listen,
            addresses={name: address for name, address in config.voters.items() if name != config.name},
            tls=config.tls,
            on_message=self._on_message,
            on_connected=self._on_connected,
            on_disconnected=self._on_disconnected,
            on_unheard=self._on_unheard,
        )
        self._replica = Replica(
            name=config.name,
            voters=config.voters,
            environment=environment,
            state_machine=state_machine,
            timing=config.timing,
            now=time.monotonic,
            rng=random.Random(),
            send=self._peers.send,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticking = self._again = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._failure: asyncio.Future[BaseException] | None = None
        self._stopped = False
        self._proposals = self._proposals_bytes = self._reads = 0

    async def start(self) -> None:
        """Bind and take part. Raises OSError when the peer address cannot be had."""
        self._loop = asyncio.get_running_loop()
        self._failure = self._loop.create_future()
        await self._peers.listen()
        self._peers.dial()
        self._wake()

    async def stop(self, *, handover_s: float) -> None:
        if self._loop is None:
            return
        engine, until, beat_s = self._replica.engine, time.monotonic() + handover_s, self._config.timing.heartbeat_s
        if self._replica.peers and engine.leads() and not self._stopped:
            self._replica.hand_over(until)
            self._wake()
            while engine.leads() and time.monotonic() < until and not self._stopped:
                await asyncio.sleep(beat_s / 4)
            if not engine.leads():
                await asyncio.sleep(beat_s)  # to refuse what was on its way here
        self._halt()
        await self._peers.close()

    async def failure(self) -> BaseException:
        assert self._failure is not None, "not started"
        return await asyncio.shield(self._failure)

    # ---- the interface of api.Cluster
    async def propose(self, command: bytes, *, timeout_s: float) -> bytes:
        if len(command) > COMMAND_BYTES:
            raise CommandTooLarge(f"a command of {len(command)} bytes; the limit is {COMMAND_BYTES}")
        if self._stopped:
            raise NotAttempted("this member is stopping")
        if self._proposals >= PROPOSALS or self._proposals_bytes + len(command) > PROPOSALS_BYTES:
            raise NotAttempted(f"{self._proposals} proposals are waiting already")
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        proposal = self._replica.propose(command, partial(_settle, future))
        self._proposals += 1
        self._proposals_bytes += len(command)
        self._wake()
        try:
            async with asyncio.timeout(timeout_s):
                result = await future
        except TimeoutError:
            result = self._give_up(future, timeout_s, taken=not self._replica.withdraw(proposal))
        except asyncio.CancelledError:
            self._replica.withdraw(proposal)
            raise
        finally:
            self._proposals -= 1
            self._proposals_bytes -= len(command)
        if isinstance(result, bytes):
            return result
        raise result

    def _give_up(self, future: asyncio.Future[Result], timeout_s: float, *, taken: bool) -> Result:
        if future.done() and not future.cancelled():
            return future.result()
        if taken:
            return OutcomeUnknown(f"no majority answered within {timeout_s:.1f} s")
        return NotAttempted(f"no leader within {timeout_s:.1f} s")

    async def barrier(self, *, timeout_s: float) -> None:
        if self._stopped or self._reads >= READS:
            raise NotAttempted("this member is stopping" if self._stopped else f"{READS} reads are waiting already")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        reader = partial(_settle, future, None)
        self._replica.read(reader)
        self._reads += 1
        self._wake()
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            raise NotAttempted(f"no majority confirmed the leader within {timeout_s:.1f} s") from None
        finally:
            self._reads -= 1
            if not future.done() or future.cancelled():
                self._replica.withdraw_read(reader)

    def leader_address(self) -> str:
        leader = self._replica.engine.leader()
        if leader == self._config.name:
            return self._config.api_address
        heard = self._peers.heard.get(leader or "")
        return heard.api_address if heard else ""

    def status(self) -> ClusterStatus:
        replica, now = self._replica, time.monotonic()
        peers = []
        for name, address in self._config.voters.items():
            if name == self._config.name:
                info = MemberInfo(name, address, self._config.api_address, self._config.datacenter)
                peers.append(PeerStatus(info, True, replica.journal.applied))
                continue
            heard = self._peers.heard.get(name)
            info = MemberInfo(name, address, heard.api_address if heard else "", heard.datacenter if heard else "")
            applied, at = replica.reports.get(name, (0, float("-inf")))
            peers.append(PeerStatus(info, now - at < 4 * REPORT_S, applied))
        return ClusterStatus(
            name=self._config.name,
            leader=replica.engine.leader(),
            term=replica.engine.term(),
            commit_index=replica.engine.commit_index(),
            applied_index=replica.journal.applied,
            last_index=replica.journal.last,
            leader_contact_s=replica.leader_contact_s(),
            peers=tuple(peers),
        )

    # ---- events
    def _on_message(self, peer: str, message: m.Message) -> None:
        self._replica.receive(peer, message)
        self._wake()

    def _on_connected(self, peer: str) -> None:
        self._replica.connected(peer)
        self._wake()

    def _on_disconnected(self, peer: str) -> None:
        self._replica.disconnected(peer)
        self._wake()

    def _on_unheard(self, peer: str) -> None:
        self._replica.unheard(peer)
        self._wake()

    def _wake(self) -> None:
        if self._ticking:
            self._again = True
        elif not self._stopped and self._loop:
            self._ticking = True
            self._loop.call_soon(self._advance)

    def _advance(self) -> None:
        """The first half of a tick. The second one, which waits for the disk, stands behind the callbacks of the
        callers it told, so that their replies leave first."""
        if not self._stopped and self._ran(self._replica.advance):
            assert self._loop is not None
            self._loop.call_soon(self._commit)

    def _commit(self) -> None:
        if self._stopped or not self._ran(self._replica.commit):
            return
        again, self._ticking, self._again = self._again or self._replica.has_more(), False, False
        if again:
            self._wake()
        self._arm()

    def _ran(self, half: Callable[[], object]) -> bool:
        """Run half a tick. False: it failed, memory and disk may disagree now, and the process must end."""
        try:
            half()
        except BaseException as error:  # noqa: BLE001
            self._halt()
            assert self._failure is not None
            if not self._failure.done():
                self._failure.set_result(error)
            return False
        return True

    def _arm(self) -> None:
        """A timer that is early enough stays: firing for nothing costs less than moving it at every tick."""
        assert self._loop is not None
        due = self._replica.next_wakeup()
        if self._timer is None or due < self._timer_due:
            if self._timer:
                self._timer.cancel()
            self._timer_due = due
            self._timer = self._loop.call_later(max(0.0, due - time.monotonic()) + TIMER_SLACK_S, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._wake()

    def _halt(self) -> None:
        self._stopped = True
        if self._timer:
            self._timer.cancel()


def _settle(future: asyncio.Future[_T], value: _T) -> None:
    """The caller may have given up."""
    if not future.done():
        future.set_result(value)

"""One running member: a replica on the running asyncio loop, over sockets, a clock and an environment.

Event-driven: a proposal that is due or a message schedules a tick behind the callbacks that are ready now, so that
everything that arrived together shares one sync; a timer wakes it for heartbeats, elections and proposals that waited
for others. A tick that raises ends the member: `failure` tells, and the process has to end.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from cluster import membership
from cluster import messages as m
from cluster.api import (
    ClusterStatus,
    CommandTooLarge,
    Compacted,
    CompactionRefused,
    DataDamaged,
    MemberRemoved,
    NotAttempted,
    OutcomeUnknown,
    StateMachine,
)
from cluster.catchup import Work
from cluster.compact import Compactor
from cluster.configuration import NOBODY, Configuration, MemberRecord, Role
from cluster.damage import repaired_by
from cluster.kv.api import CompactionLost, Environment
from cluster.limits import (
    CATCH_UP_BYTES_S,
    CHECKPOINT_S,
    COMMAND_BYTES,
    FLOW,
    LOCAL,
    PROPOSALS,
    PROPOSALS_BYTES,
    READS,
    REPLY_TURNS,
    REPLY_TURNS_S,
    RESERVE_BYTES,
    TIMER_SLACK_S,
    Flow,
    Timing,
)
from cluster.membership import Candidate, Change, Changed
from cluster.peers import Peers, PeerTls
from cluster.proposals import Result
from cluster.replica import Replica
from cluster.status import cluster_status

_T = TypeVar("_T")
log = logging.getLogger("cluster.member")


@dataclass(frozen=True)
class MemberConfig:
    id: str
    name: str
    incarnation: str
    listen: str  # peer address to bind
    peer_address: str  # where the others dial it
    founding: Configuration | None = None  # of a founder; used once, by a new data directory
    join: tuple[str, ...] = ()  # peer addresses of members; observers prefer them as sources
    role: Role = "voter"  # the one it wants
    level: int = 1  # highest feature level it can apply
    api_address: str = ""
    datacenter: str = ""
    tls: PeerTls | None = None
    timing: Timing = LOCAL
    flow: Flow = FLOW
    catch_up_bytes_s: float = CATCH_UP_BYTES_S
    reserve_bytes: int = RESERVE_BYTES  # of headroom: with less it has no room

    @property
    def record(self) -> MemberRecord:
        return MemberRecord(
            id=self.id,
            name=self.name,
            incarnation=self.incarnation,
            peer_address=self.peer_address,
            api_address=self.api_address,
            datacenter=self.datacenter,
            role=self.role,
        )


class Member:
    """Implements `cluster.api.Cluster`. The environment must have the tables of `cluster.journal.TABLES`.
    Raises Diverged, MemberRemoved and DataDamaged: the data directory must not be used any more."""

    def __init__(self, config: MemberConfig, environment: Environment, state_machine: StateMachine) -> None:
        self._config = config
        self._peers = Peers(
            record=config.record,
            level=config.level,
            listen=config.listen,
            join=config.join,
            tls=config.tls,
            events=self,
        )
        self._replica = Replica(
            record=config.record,
            environment=environment,
            state_machine=state_machine,
            timing=config.timing,
            now=time.monotonic,
            rng=random.Random(),
            send=self._peers.send,
            in_background=self._in_background,
            founding=config.founding or NOBODY,
            preferred=config.join,
            level=config.level,
            flow=config.flow,
            catch_up_bytes_s=config.catch_up_bytes_s,
            reserve_bytes=config.reserve_bytes,
        )
        self._configured = NOBODY, NOBODY  # newest and applied
        self._beside: asyncio.Future[None] | None = None  # work in a thread, one at a time
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticking = self._again = False
        self._between: list[tuple[Callable[[], int], asyncio.Future[int]]] = []  # to be called between two ticks
        self._compactor = Compactor(environment, self._between_ticks)
        self._commit_due: asyncio.Handle | None = None
        self._checkpoint_due: asyncio.TimerHandle | None = None
        self._environment = environment
        environment.before_snapshot = self.show
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._failure: asyncio.Future[BaseException] | None = None
        self._stopped = False
        self._proposals = self._proposals_bytes = self._reads = 0

    async def start(self) -> None:
        """Bind and take part. Raises OSError when the peer address cannot be had."""
        self._loop = asyncio.get_running_loop()
        self._failure = self._loop.create_future()
        self._environment.failed = self._fail
        await self._peers.listen()
        self._configure()
        if self._replica.configuration == NOBODY:
            self._peers.join()
        self._wake()

    async def stop(self, *, handover_s: float) -> None:
        if self._loop is None:
            return
        await self._hand_over(handover_s)
        self._halt()
        self._compactor.abandon()
        await self._peers.close()
        if self._beside:  # it works on the environment, which is closed next
            await asyncio.wait([self._beside])
        self._replica.close()

    async def _hand_over(self, handover_s: float) -> None:
        engine, until, beat_s = self._replica.engine, time.monotonic() + handover_s, self._config.timing.heartbeat_s
        if engine.leads() and len(self._replica.voters) > 1 and not self._stopped:
            self._replica.hand_over(until)
            self._wake()
            while engine.leads() and time.monotonic() < until and not self._stopped:
                await asyncio.sleep(beat_s / 4)
            if not engine.leads():
                await asyncio.sleep(beat_s)  # to refuse what was on its way here

    async def failure(self) -> BaseException:
        assert self._failure is not None, "not started"
        return await asyncio.shield(self._failure)

    # ---- the interface of api.Cluster
    async def propose(self, command: bytes, *, timeout_s: float) -> bytes:
        return await self._propose(command, timeout_s, change=False)

    async def change(self, change: Change, *, timeout_s: float) -> Changed:
        result = await self._propose(membership.encode_change(change), timeout_s, change=True)
        return membership.decode_changed(result)

    async def _propose(self, command: bytes, timeout_s: float, *, change: bool) -> bytes:
        if len(command) > COMMAND_BYTES:
            raise CommandTooLarge(f"a command of {len(command)} bytes; the limit is {COMMAND_BYTES}")
        if self._stopped:
            raise NotAttempted("this member is stopping")
        if self._proposals >= PROPOSALS or self._proposals_bytes + len(command) > PROPOSALS_BYTES:
            raise NotAttempted(f"{self._proposals} proposals are waiting already")
        future: asyncio.Future[Result | _Late] = asyncio.get_running_loop().create_future()
        proposal = self._replica.propose(command, partial(_settle, future), change=change)
        self._proposals += 1
        self._proposals_bytes += len(command)
        if due := self._replica.gathers_until:
            self._arm(due)
        else:
            self._wake()
        try:
            result: Result = await _within(future, timeout_s)
        except TimeoutError:
            if self._replica.withdraw(proposal):
                raise NotAttempted(f"no leader within {timeout_s:.1f} s") from None
            raise OutcomeUnknown(f"no majority answered within {timeout_s:.1f} s") from None
        except asyncio.CancelledError:
            self._replica.withdraw(proposal)
            raise
        finally:
            self._proposals -= 1
            self._proposals_bytes -= len(command)
        if isinstance(result, bytes):
            return result
        raise result

    async def barrier(self, *, timeout_s: float) -> None:
        if self._stopped or self._reads >= READS:
            raise NotAttempted("this member is stopping" if self._stopped else f"{READS} reads are waiting already")
        future: asyncio.Future[bool | _Late] = asyncio.get_running_loop().create_future()
        reader = partial(_settle, future, True)
        self._replica.read(reader)
        self._reads += 1
        self._wake()
        try:
            await _within(future, timeout_s)
        except (TimeoutError, asyncio.CancelledError) as error:
            self._replica.withdraw_read(reader)
            if isinstance(error, asyncio.CancelledError):
                raise
            raise NotAttempted(f"no majority confirmed the leader within {timeout_s:.1f} s") from None
        finally:
            self._reads -= 1

    async def damaged(self, why: str) -> bool:
        log.error("damage in the state of this member: %s", why)
        await self._hand_over(2 * self._config.timing.election_max_s)
        if self._stopped or self._replica.recovery.in_repair:
            return True
        try:
            marked = self._replica.damage.mark(why)
        except BaseException as error:  # noqa: BLE001
            self._fail(error)
            return True
        if marked:
            self._fail(DataDamaged(repaired_by(why)))
        else:
            log.error("this member is the only voter, nobody can give it a state: restore it from a backup")
        return marked

    async def compact(self) -> Compacted:
        if self._stopped or self._loop is None:
            raise CompactionRefused("this member is not running")
        if self._replica.recovery.fetcher.wanted:
            raise CompactionRefused("this member is fetching a state, which begins a new file: ask again afterwards")
        return await self._compactor.run()

    async def _between_ticks(self, call: Callable[[], int]) -> int:
        """No transaction is open then. Raises CompactionLost once this member is stopping."""
        assert self._loop is not None
        future: asyncio.Future[int] = self._loop.create_future()
        if self._stopped:
            raise CompactionLost
        self._between.append((call, future))
        self._wake()
        return await future

    def _call_between(self) -> None:
        between, self._between = self._between, []
        for call, future in between:
            if future.done():
                continue
            if self._stopped:
                future.set_exception(CompactionLost())
            else:
                try:
                    future.set_result(call())
                except Exception as error:  # noqa: BLE001
                    future.set_exception(error)

    def leader_address(self) -> str:
        leader = self._replica.engine.leader()
        if leader == self._config.id:
            return self._config.api_address
        if heard := self._peers.heard.get(leader or ""):
            return heard.record.api_address
        record = self._replica.configuration.get(leader or "")
        return record.api_address if record else ""

    @property
    def has_room(self) -> bool:
        return self._replica.has_room()

    @property
    def level(self) -> int:
        return self._replica.journal.applied_configuration.level

    def status(self) -> ClusterStatus:
        return cluster_status(self._config.record, self._config.level, self._replica, self._peers)

    # ---- events
    def on_message(self, peer: str, message: m.Message) -> None:
        if self._replica.receive(peer, message):
            self._wake()

    def on_connected(self, peer: str) -> None:
        self._replica.connected(peer)
        self._wake()

    def on_disconnected(self, peer: str) -> None:
        self._replica.disconnected(peer)
        self._wake()

    def on_unheard(self, peer: str) -> None:
        self._replica.unheard(peer)
        self._wake()

    def on_introduced(self, candidate: Candidate) -> None:
        self._replica.introduce(candidate)
        self._wake()

    def on_removed(self, why: str, cluster: str) -> None:
        """A history that was restored or recovered says so of all members of before. It is believed only where there is
        no leader of the own one: it may have begun by mistake."""
        contact_s = self._replica.leader_contact_s()
        if cluster != self._replica.configuration.cluster and contact_s < self._config.timing.step_down_s:
            log.error("another history of this cluster has begun beside this one, which has a leader: %s", why)
        else:
            self._fail(MemberRemoved(why))

    def _in_background(self, work: Work, then: Work) -> None:
        assert self._loop is not None
        self._beside = self._loop.run_in_executor(None, work)
        self._beside.add_done_callback(partial(self._done_beside, then))

    def _done_beside(self, then: Work, work: asyncio.Future[None]) -> None:
        if self._stopped or work.cancelled():
            return
        if error := work.exception():
            self._fail(error)
            return
        then()
        self._wake()

    def _configure(self) -> None:
        journal = self._replica.journal
        configurations = journal.configuration, journal.applied_configuration
        if self._configured != configurations:
            self._configured = configurations
            self._peers.configure(self._replica.reachable)

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
            turns = REPLY_TURNS if self._replica.may_wait else 1
            self._commit_later(turns, time.monotonic() + REPLY_TURNS_S)

    def _commit_later(self, turns: int, until: float) -> None:
        """When the loop has gone around so often, or `until` has passed; or before that, once somebody is to see it."""
        if turns and time.monotonic() < until:
            assert self._loop is not None
            self._commit_due = self._loop.call_soon(self._commit_later, turns - 1, until)
        else:
            self._commit()

    def show(self) -> None:
        if self._commit_due:
            self._commit_due.cancel()
            self._commit()

    def checkpoint(self) -> None:
        self.show()
        if self._checkpoint_due:
            self._checkpoint_due.cancel()
            self._checkpoint_due = None
        if self._stopped or not self._ran(self._replica.checkpoint):
            raise OutcomeUnknown("this member is stopping")

    def _on_checkpoint(self) -> None:
        with suppress(OutcomeUnknown):
            self.checkpoint()

    def _commit(self) -> None:
        self._commit_due = None
        if self._stopped or not self._ran(self._replica.commit):
            return
        again, self._ticking, self._again = self._again or self._replica.has_more(), False, False
        self._call_between()
        self._configure()
        if self._checkpoint_due is None and self._environment.is_behind:
            assert self._loop is not None
            self._checkpoint_due = self._loop.call_later(CHECKPOINT_S, self._on_checkpoint)
        if again:
            self._wake()
        self._arm(self._replica.next_wakeup())

    def _ran(self, half: Callable[[], object]) -> bool:
        """Run half a tick. False: it failed, memory and disk may disagree now, and the process must end."""
        try:
            half()
        except BaseException as error:  # noqa: BLE001
            self._fail(error)
            return False
        return True

    def _fail(self, error: BaseException) -> None:
        self._halt()
        assert self._failure is not None
        if not self._failure.done():
            self._failure.set_result(error)

    def _arm(self, due: float) -> None:
        """A timer that is early enough stays: firing for nothing costs less than moving it at every tick."""
        assert self._loop is not None
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
        self._call_between()
        for timer in (self._timer, self._checkpoint_due):
            if timer:
                timer.cancel()


class _Late:
    """In the place of a result that has not come in time. An exception in the future would keep its frames, and with
    them the command, in a cycle."""


async def _within(future: asyncio.Future[_T | _Late], timeout_s: float) -> _T:
    """Raises TimeoutError. Far cheaper than asyncio.timeout, for one future."""
    timer = future.get_loop().call_later(timeout_s, _settle, future, _Late())
    try:
        result = await future
    finally:
        timer.cancel()
    if isinstance(result, _Late):
        raise TimeoutError
    return result


def _settle(future: asyncio.Future[_T], value: _T) -> None:
    """The caller may have given up."""
    if not future.done():
        future.set_result(value)

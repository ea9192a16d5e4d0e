"""One member's process: what cluster/member.py is to the replica in production, on virtual time.

Whatever is put in is followed by a tick, its first half at once and its second a moment later; things may be put in
between. The second half lasts as long as the disk's sync: the process handles nothing meanwhile, what arrives waits.
Without anything put in it ticks when the replica's `next_wakeup` is due, on the member's own clock, and never else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from cluster import messages as m
from cluster.api import DataDamaged, Diverged, MemberRemoved
from cluster.configuration import MemberRecord
from cluster.handshake import judge
from cluster.journal import TABLES
from cluster.kv.api import Environment
from cluster.kv.memory_env import CAPACITY_BYTES, MemoryEnvironment
from cluster.limits import TIMER_SLACK_S
from cluster.membership import Candidate
from cluster.replica import Replica
from tests.simulation.checkers import Violation
from tests.simulation.state import STATE

if TYPE_CHECKING:
    from tests.simulation.world import World

ADDRESS = "sim:1"
BESIDE_S = (0.001, 1.0)  # work in a thread beside the loop
LOOP_S = (0.0, 0.0, 0.0001, 0.002)  # until the loop comes to the next half of a tick
CLOCKS_S = 1000.0  # members' clocks differ by up to this
WAKEUPS = 200  # by the timer in a second: the periods here need some forty


class Crash(Exception):
    """The process is gone, in the middle of what it did."""


class DiskFull(Exception):
    """A commit was refused: the member ends itself."""


class Disk(MemoryEnvironment):
    """What was committed survives. `crash_at` ends the process before or after the next durable step."""

    def __init__(self) -> None:
        super().__init__([*TABLES, STATE])
        self.crash_at = ""
        self.slow_s = 0.0
        self.is_full = False

    def give_room(self, capacity_bytes: int = CAPACITY_BYTES) -> None:
        self.capacity_bytes = capacity_bytes

    def state_rows(self) -> list[bytes]:
        return list(self._tables[STATE].keys)

    @property
    def rotten_rows(self) -> set[bytes]:
        return self._tables[STATE].damaged

    @property
    def is_dirty(self) -> bool:
        return self._transaction is not None

    def commit(self, *, synced: bool = True) -> None:
        if self.is_dirty:
            self._step(partial(super().commit, synced=synced))

    def replace(self, incoming: Environment) -> None:
        self._step(partial(super().replace, incoming))

    def _step(self, step: Callable[[], None]) -> None:
        if self.is_full:
            raise DiskFull
        if self.crash_at == "before":
            raise Crash
        step()
        if self.crash_at == "after":
            raise Crash


class Process:
    def __init__(self, world: World, name: str, build: Callable[[Process], Replica]) -> None:
        self.world, self.name, self.disk = world, name, world.disks[name]
        short, _, joined = name.partition("/")
        self.is_founder = not joined
        self.record = MemberRecord(
            id=name,
            name=short,
            incarnation=incarnation_of(name),
            peer_address=ADDRESS,
            role="observer" if short.startswith("o") else "voter",
        )
        self.clock_ahead_s = world.rng.uniform(0.0, CLOCKS_S)
        self.is_dead = self.is_paused = self._is_syncing = False
        self._ticking = self._again = False
        self._waiting: list[Callable[[], object]] = []  # what arrived while paused or in a sync
        self._interrupted: list[Callable[[], None]] = []  # what a pause keeps from going on
        self._timer_at = float("inf")
        self._wakeups: tuple[int, int] = (0, 0)  # second, in it
        self.sends_left = -1  # before it crashes; -1: it does not
        self.calls: dict[str, None] = {}  # of clients, unanswered
        self._seen: tuple[bool, int] = (False, 0)
        self._asked: tuple[str, int] = ("", 0)
        self._enter()
        self.replica = build(self)
        self._checked = self.replica.journal.first
        self._wake()

    def now(self) -> float:
        """The member's monotonic clock."""
        return self.world.now_s + self.clock_ahead_s

    def _enter(self) -> None:
        """PySyncObj has one clock for all engines of a process: set it before anything that reads it."""
        self.world.engine_clock_ahead_s = self.clock_ahead_s

    # ---- what is put in
    def put(self, call: Callable[[], object]) -> None:
        if self.is_paused or self._is_syncing:
            self._waiting.append(call)
        else:
            self._enter()
            if call() is not False:
                self._wake()

    def receive(self, peer: str, frame: bytes) -> None:
        """Not everything is worth a tick."""
        self.put(partial(self.replica.receive, peer, m.decode_message(frame[4:])))

    def connected(self, peer: str) -> None:
        self.put(partial(self.replica.connected, peer))

    def disconnected(self, peer: str) -> None:
        self.put(partial(self.replica.disconnected, peer))

    def unheard(self, peer: str) -> None:
        self.put(partial(self.replica.unheard, peer))

    # ---- what comes out
    def send(self, peer: str, message: m.Message) -> None:
        if self.sends_left == 0:
            raise Crash
        self.sends_left -= 1 if self.sends_left > 0 else 0
        self._note_campaign(message)
        self.world.network.send(self.name, peer, m.frame(message))

    def beside(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        """What production runs in a thread, and then on the loop."""

        def run() -> None:
            if not self.is_dead:
                work()
                self.put(then)

        self.world.after(self.world.rng.uniform(*BESIDE_S) + self.disk.slow_s, run)

    # ---- the handshake
    def hello(self, to: str) -> m.Hello:
        """What it says when it dials, as cluster/peers.py does."""
        record, configuration = self.record, self.replica.configuration
        return m.Hello(
            oldest_protocol=m.OLDEST_PROTOCOL,
            protocol=m.PROTOCOL,
            cluster=configuration.cluster,
            id=record.id,
            name=record.name,
            incarnation=record.incarnation,
            to=to,
            peer_address=record.peer_address,
            api_address="",
            datacenter="",
            role=record.role,
            level=self.world.levels[self.name],
        )

    def judge(self, hello: m.Hello) -> str:
        """Why it refuses a peer; empty: it welcomes it."""
        refusal = judge(hello, self.name, self.replica.reachable, hello.incarnation, self.world.names)
        if not refusal:
            record = self.world.live[hello.id].record
            self.put(partial(self.replica.introduce, Candidate(record, hello.level)))
        return refusal

    def is_asked_to_change(self) -> bool:
        """Whether a change of the members waits here, or was asked for here and is on its way."""
        return bool(self.replica._proposals.changes) or any(call.startswith("change") for call in self.calls)

    def refuses(self, peer: str) -> bool:
        """Whether it knows that the peer was removed."""
        return self.replica.reachable.is_removed(peer, incarnation_of(peer))

    def removed(self) -> None:
        self.world.note(f"{self.name} ends: it was removed")
        self.world.end(self.name)

    # ---- faults
    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        """It goes on with its old memory; what waited for it comes after what it was doing."""
        if self.is_paused:
            self.is_paused = False
            interrupted, self._interrupted = self._interrupted, []
            for step in interrupted:
                step()
            self._drain()

    def scrub(self) -> None:
        """Damage that nothing has met so far is found."""
        self.world.note(f"{self.name} is scrubbed")
        self._enter()
        self.replica.damage.mark("found by a scrub")

    def jump(self, ahead_s: float) -> None:
        self.clock_ahead_s += ahead_s
        self._arm()

    # ---- the loop
    def _wake(self) -> None:
        if self._ticking:
            self._again = True
        else:
            self._ticking = True
            self._soon(self._advance)

    def _soon(self, step: Callable[[], None]) -> None:
        self.world.after(self.world.rng.choice(LOOP_S), partial(self._step, step))

    def _step(self, step: Callable[[], None]) -> None:
        if self.is_dead:
            return
        if self.is_paused:
            self._interrupted.append(partial(self._step, step))
            return
        self._enter()
        try:
            step()
        except Crash:
            self.world.note(f"{self.name} crashes in a tick")
            self.world.stop(self.name)
        except DiskFull:
            self.world.note(f"{self.name} ends: its disk is full")
            self.world.stop(self.name)
        except DataDamaged as why:
            self.world.note(f"{self.name} ends: {why}")
            self.world.stop(self.name)
        except MemberRemoved:
            self.removed()
        except Diverged as why:
            self.world.note(f"{self.name} ends: {why}")
            self.world.end(self.name)

    def _run(self, half: Callable[[], object]) -> None:
        try:
            half()
        except (Crash, DataDamaged, DiskFull, Diverged, MemberRemoved, Violation):
            raise
        except Exception as error:
            raise Violation(f"{self.name} fell over: {error!r}") from error
        self._observe()

    def _advance(self) -> None:
        self._run(self.replica.advance)
        if self.disk.crash_at == "advanced":
            raise Crash
        self._soon(self._sync)

    def _sync(self) -> None:
        if not self.disk.is_dirty:
            self._commit()
        else:
            self._is_syncing = True
            sync_s = self.world.setting.sync_s * self.world.rng.random() + self.disk.slow_s
            self.world.after(sync_s, partial(self._step, self._commit))

    def _commit(self) -> None:
        self._run(self.replica.commit)
        self.world.ticks += 1
        self._is_syncing = False
        again, self._ticking, self._again = self._again or self.replica.has_more(), False, False
        if again:
            self._wake()
        self._drain()
        self._arm()

    def _drain(self) -> None:
        if not (self._is_syncing or self.is_dead):
            waiting, self._waiting = self._waiting, []
            for call in waiting:
                self.put(call)

    def _arm(self) -> None:
        due = self.replica.next_wakeup() - self.clock_ahead_s
        if due < self._timer_at:
            self._timer_at = due
            self.world.at(max(due, self.world.now_s) + TIMER_SLACK_S, partial(self._step, partial(self._on_timer, due)))

    def _on_timer(self, due: float) -> None:
        if due == self._timer_at:
            self._timer_at = float("inf")
            second, count = int(self.world.now_s), self._wakeups[1] + 1
            self._wakeups = (second, count if second == self._wakeups[0] else 1)
            if self._wakeups[1] > WAKEUPS:
                raise Violation(f"{self.name} spins: its timer is due more than {WAKEUPS} times a second")
            self._wake()

    # ---- what is seen from outside
    def leads(self) -> bool:
        return self.replica.engine.leads()

    def members(self) -> tuple[int, frozenset[str]]:
        """How far it has applied, and who belongs to the cluster there: ids."""
        journal = self.replica.journal
        return journal.applied, journal.applied_configuration.ids

    def is_level(self) -> tuple[int, bytes, bool]:
        """How far it has applied and to what, and whether that is all it has, on its disk, undamaged."""
        journal = self.replica.journal
        is_all = journal.applied == journal.last and not self.disk.is_dirty and not journal.damaged
        return journal.applied, journal.digest, is_all

    def describe(self) -> str:
        engine, journal = self.replica.engine, self.replica.journal
        replica = self.replica
        role = "leads" if engine.leads() else f"follows {engine.leader() or 'nobody'}"
        if not replica.votes:
            role += f", an observer of {replica.recovery.source.id or 'nobody'}"
        if replica.recovery.in_repair:
            role = "is in repair"
        if replica.recovery.fetcher.wanted:
            role += f", fetching {replica.recovery.fetcher.describe()}"
        ends = f"log {journal.first}..{journal.last} committed {engine.commit_index()} applied {journal.applied}"
        return f"{self.name} {role} in term {engine.term()}, {ends}"

    def _observe(self) -> None:
        """After each half of a tick, before anything else happens."""
        engine, journal, checkers = self.replica.engine, self.replica.journal, self.world.checkers
        if (leads := engine.leads()) != self._seen[0] or engine.term() != self._seen[1]:
            if leads:
                self.world.note(f"{self.name} leads in term {engine.term()}")
            elif self._seen[0]:
                self.world.note(f"{self.name} leads no more (term {engine.term()})")
            self._seen = (leads, engine.term())
        if leads:
            checkers.leads(self.name, engine.term())
        # The first entry of a log behind a fetched state stands for the one that it does not have.
        for index in range(max(self._checked, journal.first) + 1, journal.applied + 1):
            entry, _, term = journal.at(index)
            checkers.committed(self.name, index, term, entry)
        if self._checked != journal.applied:
            checkers.state(self.name, journal.applied, journal.digest)
        if journal.first > self._checked:
            checkers.installs += 1
            self.world.note(f"{self.name} installs the state at {journal.first}")
        self._checked = journal.applied

    def _note_campaign(self, message: m.Message) -> None:
        if isinstance(message, m.PreVote | m.RequestVote):
            asks = "sounds" if isinstance(message, m.PreVote) else "campaigns for"
            if self._asked != (asks, message.term):
                self._asked = (asks, message.term)
                self.world.note(f"{self.name} {asks} term {message.term}")


def incarnation_of(id: str) -> str:
    return id.partition("/")[2] or f"{id}-founder"


Host = Any  # a Process, or what stands in its place: see shipped.py

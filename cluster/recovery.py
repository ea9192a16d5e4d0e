"""How a member comes by what it lacks, and gives what others lack: entries from a source, states from a giver.

A state that was fetched takes the place of the own one between two ticks, in one step. A member whose state is damaged
is *in repair*: it does nothing but fetch one, and keeps its promises: term, vote, and the log behind the fetched state.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING

from cluster import messages as m
from cluster.catchup import Complete, Fetcher, Giver, Work
from cluster.configuration import NOBODY
from cluster.journal import applied_in
from cluster.kv.api import Environment
from cluster.limits import Flow, Timing
from cluster.tail import Source, Tails

if TYPE_CHECKING:
    from cluster.replica import Replica

log = logging.getLogger("cluster.recovery")


class Recovery:
    def __init__(
        self,
        *,
        replica: Replica,
        environment: Environment,
        timing: Timing,
        flow: Flow,
        bytes_s: float,
        preferred: Sequence[str],
        now: Callable[[], float],
        rng: Random,
        post: Callable[[str, m.Message], None],
        in_background: Callable[[Work, Work], None],
    ) -> None:
        self._replica, self._environment, self._rng = replica, environment, rng
        journal, record = replica.journal, replica.record
        self.giver = Giver(
            environment=environment,
            journal=journal,
            flow=flow,
            bytes_s=bytes_s,
            first_number=rng.getrandbits(48),
            now=now,
            post=post,
        )
        self.fetcher = Fetcher(environment, now, post, in_background, self._completed)
        self._complete: Complete | None = None
        self.tails = Tails(journal=journal, timing=timing, flow=flow, now=now, post=post)
        self.source = Source(
            id=record.id,
            datacenter=record.datacenter,
            preferred=preferred,
            timing=timing,
            now=now,
            rng=rng,
            post=post,
        )

    @property
    def in_repair(self) -> bool:
        return bool(self._replica.journal.damaged)

    @property
    def is_complete(self) -> bool:
        """A fetched state waits for the next tick."""
        return self._complete is not None

    def disconnected(self, peer: str) -> None:
        self.tails.disconnected(peer)
        self.source.disconnected(peer)
        self.fetcher.disconnected(peer)

    def next_wakeup(self) -> float:
        due = min(self.giver.next_wakeup(), self.tails.next_wakeup())
        if self._replica.room.takes_entries():  # as in tick: what is not looked at must not be due
            due = min(due, self.fetcher.next_wakeup())
            if self._follows_source():
                due = min(due, self.source.next_wakeup())
        return due

    def close(self) -> None:
        self.giver.close()

    # ---- in every tick
    def tick(self, connected: set[str]) -> None:
        replica, commit = self._replica, self._replica.engine.commit_index()
        if self.in_repair:
            self.fetcher.want(replica.journal.applied)  # callers and readers may have been told what is applied
        elif replica.configuration == NOBODY:
            self.fetcher.want(1)
        elif commit >= self.fetcher.wanted:
            self.fetcher.settle()
        if not replica.room.takes_entries():
            if self.fetcher.coming:
                self.fetcher.refuse("there is no room for it on the disk")
        elif self.fetcher.wanted:
            self.fetcher.ask(lambda: self._choose_giver(connected))
        elif self._follows_source():
            self.source.follow(commit + 1, replica.configuration, connected)
        self.giver.give()
        self.tails.answer(
            term=replica.engine.term(), leader=replica.engine.leader(), contact_s=replica.leader_contact_s()
        )

    def _follows_source(self) -> bool:
        return self._replica.tails and not self.fetcher.wanted

    def _choose_giver(self, connected: set[str]) -> str | None:
        """Somebody who said that he has it; as long as nobody has, anybody who did not say that he has not. Half of
        the time not the leader, which has the most to do."""
        heard = self._replica.reports.applied()
        applied = {peer: heard[peer] for peer in connected & heard.keys()}
        ready = sorted(peer for peer, index in applied.items() if index >= self.fetcher.wanted)
        ready = ready or sorted(connected - applied.keys())  # among them those who only wait to be admitted
        followers = [peer for peer in ready if peer != self._replica.engine.leader()]
        return self._rng.choice(followers if followers and self._rng.random() < 0.5 else ready) if ready else None

    def on_tailed(self, peer: str, message: m.Tailed) -> None:
        replica, leads = self._replica, self._replica.engine.leads()
        if not replica.tails or not self.source.on_tailed(peer, message) or not replica.room.takes_entries():
            return
        if not replica.votes or (message.entries and not leads):  # no sign of life puts off its campaign
            replica.guard.on_tailed(message)
        if message.first_index > message.previous_index and not leads:
            self.fetcher.want(message.first_index)

    # ---- a fetched state
    def _completed(self, complete: Complete) -> None:
        self._complete = complete

    def install(self) -> bool:
        """Between ticks: a fetched state becomes this member's own, in one step, unless it is not needed any more.
        Whether one has."""
        complete, self._complete = self._complete, None
        if complete is None or not self._is_needed(complete):
            return False
        fetched, journal, engine = complete.fetched, self._replica.journal, self._replica.engine
        if fetched.term > engine.term():  # else a deposed leader would take our success for its own entries
            self._replica.guard.adopt(fetched.term)
        # What is applied is committed: every state of that index has the same entry there.
        held = fetched.index == journal.applied or journal.holds(fetched.index, fetched.index_term)
        if held and not self.in_repair:  # what follows it may have been acknowledged
            engine.commit_to(fetched.index)
            complete.incoming.close()
            return False
        with complete.incoming.snapshot() as snapshot:
            applied = applied_in(snapshot)
        if applied != fetched.index:
            complete.incoming.close()
            self.fetcher.refuse(f"it is applied up to {applied}, and was announced as {fetched.index}")
            return False
        self._environment.commit()
        self.giver.close()
        journal.prepare(complete.incoming, fetched.index, fetched.index_term, keep_rest=held)
        self._environment.replace(complete.incoming)
        journal.load()
        engine.restart_at(fetched.index)
        return True

    def _is_needed(self, complete: Complete) -> bool:
        engine = self._replica.engine
        if self.in_repair or (not engine.leads() and complete.fetched.index > engine.commit_index()):
            return True
        complete.incoming.close()
        return False

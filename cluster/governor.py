"""What only a leader does beside replicating: passing leadership on, and changing who belongs to the cluster.

The rules of a change are in membership.py; this decides when one may be appended, and answers those who asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cluster import entries, membership
from cluster import messages as m
from cluster.configuration import MemberRecord
from cluster.limits import CANDIDATES, PROMOTE_LAG, Timing
from cluster.membership import Candidate, Changed
from cluster.proposals import Proposal, Proposals

if TYPE_CHECKING:
    from cluster.replica import Replica

NEVER = float("inf")


class Governor:
    def __init__(self, *, replica: Replica, proposals: Proposals, timing: Timing, now: Callable[[], float]) -> None:
        self._replica, self._proposals, self._timing, self._now = replica, proposals, timing, now
        self._heard: dict[str, Candidate] = {}  # by id, in order of hearing
        self._until = self._next = float("-inf")  # while leadership is handed over
        self._target: str | None = None
        self._transfer: Proposal | None = None  # who asked for it

    # ---- who is there
    def introduce(self, candidate: Candidate) -> None:
        self._heard.pop(candidate.record.id, None)
        self._heard[candidate.record.id] = candidate
        strangers = [id for id in self._heard if not self._replica.configuration.get(id)]
        for id in strangers[:-CANDIDATES]:
            del self._heard[id]

    def waiting(self) -> list[Candidate]:
        """Processes that ask to be admitted."""
        configuration = self._replica.configuration
        removed = set(configuration.removed)
        return [
            candidate
            for id, candidate in self._heard.items()
            if not configuration.get(id)
            and self._replica.connected_to(id)
            and candidate.record.incarnation not in removed
        ]

    def understands(self, message: m.Propose) -> bool:
        """A change that this release does not know is refused before anything is made of it."""
        if not message.change:
            return True
        try:
            membership.decode_change(message.command)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            return False
        return True

    # ---- handing over
    def hand_over(self, until: float, target: str | None = None) -> None:
        """Until it has happened or `until`; without a target to the most advanced voter."""
        self._until, self._next, self._target = until, float("-inf"), target

    def handing_over(self) -> bool:
        return self._now() < self._until

    def make_room(self) -> None:
        """Leader only, that has no room: a voter with room is to lead, if there is one that can soon. After an attempt
        it rests for as long: deletions must get through, whatever keeps the successor from it."""
        replica, lasts_s = self._replica, 2 * self._timing.election_max_s
        if self._now() < self._until + lasts_s:
            return
        matched, level = replica.engine.match_index, replica.journal.last - PROMOTE_LAG
        with_room = replica.voters & replica.reports.alive() - replica.reports.without_room() - {replica.id}
        if ready := [peer for peer in with_room if matched(peer) >= level]:
            self.hand_over(self._now() + lasts_s, max(ready, key=lambda peer: (matched(peer), peer)))

    def pass_leadership(self) -> None:
        """Ask the successor to campaign, at every heartbeat; the engine does so only once it has the whole log."""
        replica, now = self._replica, self._now()
        if self._transfer and not self.handing_over():
            self._answer_transfer(Changed("TRANSFER_FAILED", f"nobody took over in time; {_leads_on(replica)}"))
        if not (replica.engine.leads() and self.handing_over() and now >= self._next):
            return
        self._next = now + self._timing.heartbeat_s
        ready = sorted(peer for peer in replica.voters if peer != replica.id and replica.connected_to(peer))
        if self._target:
            ready = [peer for peer in ready if peer == self._target]
        alive = replica.reports.alive()  # one that only is connected is in repair, perhaps, and takes nothing over
        ready = [peer for peer in ready if peer in alive] or ready
        if ready:
            replica.engine.hand_over(max(ready, key=lambda peer: (replica.engine.match_index(peer), peer)))

    def leader_changed(self, leader: str | None) -> None:
        if leader is None or leader == self._replica.id:
            return
        if self._transfer:
            self._answer_transfer(Changed(member=leader))

    def next_wakeup(self) -> float:
        now = self._now()
        if self._until > now:
            return min(self._next, self._until) if self._replica.engine.leads() else self._until
        return now if self._transfer else NEVER

    # ---- changes
    def change_members(self) -> None:
        """Leader only. One change at a time, and only after an entry of the own term is committed."""
        replica = self._replica
        for proposal in [each for each in self._proposals.changes if _is_transfer(each)]:
            self._proposals.changes.remove(proposal)
            proposal.taken = True
            self._start_transfer(proposal)
        journal = replica.journal
        pending = journal.configuration_index > replica.engine.commit_index()
        if pending or not replica.own_term_committed() or self.handing_over():
            return
        heard = {id: candidate.record for id, candidate in self._heard.items()} | {replica.id: replica.record}
        new = membership.describe(journal.configuration, heard)
        new = new or membership.raise_level(journal.configuration, replica.supported_levels())
        if new:
            replica.append(entries.pack_configuration(new), [])
            return
        while self._proposals.changes and not self._take(self._proposals.changes.popleft()):
            pass

    def _take(self, proposal: Proposal) -> bool:
        """Decide a change; whether no other may follow now."""
        replica = self._replica
        change = membership.decode_change(proposal.command)
        assert not isinstance(change, membership.Transfer)
        decided = membership.decide(replica.configuration, change, self._health())
        if isinstance(decided, Changed):
            self._settle(proposal, decided)
            return False
        if replica.id not in decided.voters:
            return self._leave_first(proposal)
        (meant,) = {record.id for record in set(replica.configuration.members) ^ set(decided.members)}
        proposal.result = membership.encode_changed(Changed(member=meant))
        replica.append(entries.pack_configuration(decided), [proposal])
        return True

    def _leave_first(self, proposal: Proposal) -> bool:
        """A leader does not remove itself: its successor does, to whom the proposal goes on."""
        if proposal.handed_over:
            refusal = Changed("TRANSFER_FAILED", "the leader is to be removed, and nobody took over from it in time")
            self._settle(proposal, refusal)
            return False
        proposal.handed_over = True
        self._proposals.changes.appendleft(proposal)
        self.hand_over(self._now() + 2 * self._timing.election_max_s)
        return True

    def _start_transfer(self, proposal: Proposal) -> None:
        replica = self._replica
        change = membership.decode_change(proposal.command)
        assert isinstance(change, membership.Transfer)
        target: MemberRecord | None = None
        if change.member:
            found = membership.find(replica.configuration.members, change.member)
            if isinstance(found, Changed):
                return self._settle(proposal, found)
            target = found
            if target.id == replica.id:
                return self._settle(proposal, Changed(member=target.id))
            if target.role != "voter" or target.id not in replica.reports.alive():
                why = "is an observer" if target.role != "voter" else "is not heard"
                refusal = Changed("TRANSFER_REFUSED", f"{target.name} {why}; it cannot lead", target.id)
                return self._settle(proposal, refusal)
        if self._transfer or self.handing_over() or not replica.voters - {replica.id}:
            why = "there is no other voter" if not replica.voters - {replica.id} else "another hand-over is going on"
            return self._settle(proposal, Changed("TRANSFER_REFUSED", why))
        self._transfer = proposal
        self.hand_over(self._now() + 2 * self._timing.election_max_s, target.id if target else None)
        return None

    def _answer_transfer(self, changed: Changed) -> None:
        proposal, self._transfer = self._transfer, None
        assert proposal is not None
        self._until = float("-inf")
        self._settle(proposal, changed)

    def _settle(self, proposal: Proposal, changed: Changed) -> None:
        self._proposals.settle(proposal, membership.encode_changed(changed))

    def _health(self) -> membership.Health:
        replica = self._replica
        commit = replica.engine.commit_index()
        lags = {peer: max(commit - applied, 0) for peer, applied in replica.reports.applied().items()}
        waiting = {candidate.record.id: candidate for candidate in self.waiting()}
        return membership.Health(leader=replica.id, alive=replica.reports.alive(), lags=lags, candidates=waiting)


def _leads_on(replica: Replica) -> str:
    return f"{replica.record.name} leads on" if replica.engine.leads() else "no leader is known now"


def _is_transfer(proposal: Proposal) -> bool:
    return isinstance(membership.decode_change(proposal.command), membership.Transfer)

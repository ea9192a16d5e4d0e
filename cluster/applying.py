"""What is committed goes into the state: commands through the state machine, configurations, the digest of it all."""

from __future__ import annotations

from collections.abc import Callable, Collection

from cluster import entries
from cluster.api import Diverged, MemberRemoved, ReleaseTooOld, StateMachine
from cluster.configuration import Configuration, MemberRecord
from cluster.digest import Comparison, Recorder
from cluster.journal import Journal
from cluster.kv.api import Environment
from cluster.proposals import Proposals


class Applying:
    """Raises Diverged when an earlier life found its state to differ, MemberRemoved, ReleaseTooOld."""

    def __init__(
        self,
        *,
        record: MemberRecord,
        level: int,
        environment: Environment,
        journal: Journal,
        state_machine: StateMachine,
        proposals: Proposals,
        digest_every: int,
    ) -> None:
        """`level`: the highest feature level that this release can apply."""
        if journal.diverged:
            raise Diverged(_differs(journal.diverged))
        self._record, self._level, self._environment, self._journal = record, level, environment, journal
        self._state_machine, self._proposals = state_machine, proposals
        self.comparison = Comparison(digest_every)
        self._announced = journal.applied
        self._is_removed = False
        self._look_at(journal.applied_configuration)
        if self._is_removed:
            raise MemberRemoved(_removed(record))

    @property
    def has_news(self) -> bool:
        """Whether something was applied that is not committed yet."""
        return self._journal.applied != self._announced

    def apply(self, index: int, entry: bytes, term: int) -> None:
        journal = self._journal
        recorder = Recorder(self._environment.transaction(), journal.digest)
        if new := entries.unpack_configuration(entry):
            self._look_at(new)
            journal.set_configuration(new)
            results = [proposal.result for proposal in self._proposals.at(index)]
        else:
            results = [self._apply_command(recorder, command, index) for command in entries.unpack(entry)]
        journal.set_applied(index, recorder.digest())
        self.comparison.applied(index, journal.digest)
        self._proposals.applied(index, term, results)

    def _apply_command(self, recorder: Recorder, command: bytes, index: int) -> bytes:
        result = self._state_machine.apply(recorder, command, self._journal.applied_configuration.level)
        if self._state_machine.forget_log():
            self._journal.forget(index)
        return result

    def _look_at(self, applied: Configuration) -> None:
        if applied.level > self._level:
            text = f"feature level {applied.level} is in force, this release can apply {self._level}"
            raise ReleaseTooOld(f"{text}: use a newer one")
        self._is_removed = applied.is_removed(self._record.id, self._record.incarnation)

    def installed(self) -> None:
        """The state and the log have been replaced by another member's."""
        self._look_at(self._journal.applied_configuration)
        self._proposals.forget_log()
        self.comparison.restart()
        self._announced = self._journal.applied
        self._state_machine.installed()

    def committed(self) -> None:
        """The tick's transaction is committed."""
        if self.has_news:
            self._announced = self._journal.applied
            self._state_machine.committed()

    def check_removed(self) -> None:
        """Raises MemberRemoved, once that is durable."""
        if self._is_removed:
            raise MemberRemoved(_removed(self._record))

    def compare(self, *, leader: str | None, voters: Collection[str], is_majority: Callable[[set[str]], bool]) -> None:
        """Raises Diverged, once it is known for good that the state differs from that of the others."""
        if self.comparison.is_wrong(own=self._record.id, leader=leader, voters=voters, is_majority=is_majority):
            self._journal.set_diverged(self.comparison.index)
            self._environment.commit()
            raise Diverged(_differs(self.comparison.index))


def _removed(record: MemberRecord) -> str:
    return f"{record.name} was removed from the cluster; its data directory is of no use to it any more"


def _differs(index: int) -> str:
    return f"the state of this member differs from that of the others at log index {index}, although the logs agree"

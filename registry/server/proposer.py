"""Commands on their way into the log: request ids, deadlines, and what became of them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from cluster.api import Access, CommandTooLarge, NotAttempted, OutcomeUnknown
from registry.core import commands, limits, outcomes, request_ids, validation
from registry.core.errors import Ambiguous, Invalid, Reason, Refused, RegistryError, Unavailable
from registry.server import space, status
from registry.server.barriers import Barriers
from registry.server.budget import Budget
from registry.server.limits import LEVEL_LOOK_S, LEVEL_SETTLES_S
from registry.server.metrics import Metrics

NO_QUORUM_HINT = "retry; if it lasts, check with `regctl cluster status` that a majority of the members is up"


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class Proposer:
    """Proposes commands and returns decided outcomes, or raises why there is none."""

    def __init__(
        self,
        cluster: Access,
        metrics: Metrics,
        *,
        clock_ms: Callable[[], int] = wall_clock_ms,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._barriers = Barriers(lambda timeout_s: cluster.barrier(timeout_s=timeout_s))
        self._metrics = metrics
        self.clock_ms = clock_ms
        self._monotonic_s = monotonic_s
        self._started_s = monotonic_s()

    def new_request_id(self) -> str:
        return request_ids.make(self.clock_ms(), os.urandom(request_ids.RANDOM_BYTES))

    def request_id(self, given: str) -> str:
        """The caller's id, checked, or a new one if it gave none. Raises Invalid(INVALID_REQUEST)."""
        if not given:
            return self.new_request_id()
        ahead_ms = request_ids.issued_ms(request_ids.check(given)) - self.clock_ms()
        if ahead_ms > limits.CLOCK_AHEAD_S * 1000:
            raise Invalid(
                Reason.INVALID_REQUEST,
                f"the request id was made {ahead_ms / 1000:.0f} s ahead of this member's clock; nothing was done",
                hint="set the clock of the caller (or of this member) and make a new id",
                metadata={"ahead_ms": str(ahead_ms)},
            )
        return given

    @property
    def level(self) -> int:
        """Feature level in force, as far as this member has applied."""
        return self._cluster.level

    async def level_in_force(self, timeout_s: float) -> int:
        """The level, once it has settled: a new cluster is at level 1 until its leader has raised it. Only a member
        that has just started waits for that, and half of timeout_s at most: something is to be done yet."""
        wait = Budget(min(self._unsettled_s(), timeout_s / 2))
        while (level := self.level) < limits.FEATURE_LEVEL and wait.left_s() > 0:
            await asyncio.sleep(LEVEL_LOOK_S)
        return level

    async def require_level_2(self, what: str, timeout_s: float) -> None:
        """Raises Refused(LEVEL_TOO_LOW), and Unavailable(NO_QUORUM) as long as the level may rise by itself."""
        if (level := await self.level_in_force(timeout_s)) >= 2:
            return
        said = f"{what} needs feature level 2, level {level} is in force"
        if self._unsettled_s() > 0:
            raise no_quorum(f"{said}, which rises once all members have said what they support; nothing was done")
        raise Refused(
            Reason.LEVEL_TOO_LOW,
            f"{said}: a member runs an older release; nothing was done",
            hint="see with `regctl cluster status` which one it is, start it with this release, and try again",
            metadata={"level": str(level)},
        )

    def _unsettled_s(self) -> float:
        """For how long from now the level may still rise without anybody's doing."""
        return LEVEL_SETTLES_S - (self._monotonic_s() - self._started_s)

    def _require_space(self, command: commands.Command) -> None:
        """Raises Unavailable(NO_SPACE). For agents' reports too: each is little, but there is no end to them."""
        if not self._cluster.has_room and not space.is_taken_when_full(command):
            self._metrics.proposal(type(command).__name__.lower(), "unavailable")
            raise space.no_space(self._cluster.status())

    async def propose(self, command: commands.Command, timeout_s: float, *, checked: bool = False) -> outcomes.Outcome:
        """What apply decided, at most after timeout_s. `checked`: by the caller, with validation.check.

        Raises RegistryError: a rejection as the exception of its reason, Invalid before anything was proposed,
        Unavailable(NO_QUORUM, NO_SPACE), Ambiguous(OUTCOME_UNKNOWN)."""
        if not checked:
            validation.check(command)  # a bad request costs no log entry
        self._require_space(command)
        budget = Budget(timeout_s)
        if isinstance(command, commands.SINCE_LEVEL_2):
            await self.require_level_2(f"a command {type(command).__name__}", budget.left_s())
        kind = type(command).__name__.lower()
        try:
            result = await self._cluster.propose(commands.encode(command), timeout_s=budget.left_s())
        except NotAttempted as error:
            self._metrics.proposal(kind, "unavailable")
            raise no_quorum(f"no majority took the change: {error}; nothing was done") from error
        except OutcomeUnknown as error:
            self._metrics.proposal(kind, "ambiguous")
            raise Ambiguous(
                Reason.OUTCOME_UNKNOWN,
                f"the change may have happened or may still happen: {error}",
                hint="retry with the same request id, it takes effect at most once; or read what is live now",
                metadata={"request_id": command.request_id},
            ) from error
        except CommandTooLarge as error:
            self._metrics.proposal(kind, "rejected")
            raise Invalid(
                Reason.TOO_LARGE, f"the change does not fit into one log entry: {error}", hint="send less at once"
            ) from error
        outcome: outcomes.Outcome = outcomes.decode(result)
        if isinstance(outcome, outcomes.Rejected):
            self._metrics.proposal(kind, "rejected")
            raise status.rejection(outcome)
        self._metrics.proposal(kind, "done")
        return outcome

    async def barrier(self, timeout_s: float) -> None:
        """Return when a look taken now is linearizable. Raises Unavailable(NO_QUORUM)."""
        try:
            await self._barriers.wait(timeout_s)
        except NotAttempted as error:
            raise no_quorum(f"no majority confirmed the read: {error}; nothing was done") from error


def no_quorum(message: str) -> RegistryError:
    return Unavailable(Reason.NO_QUORUM, message, hint=NO_QUORUM_HINT)

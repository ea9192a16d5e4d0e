"""Commands on their way into the log: request ids, deadlines, and what became of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from cluster.api import Cluster, CommandTooLarge, NotAttempted, OutcomeUnknown
from registry.core import commands, limits, outcomes, request_ids, validation
from registry.core.errors import Ambiguous, Invalid, Reason, RegistryError, Unavailable
from registry.server import status
from registry.server.metrics import Metrics

NO_QUORUM_HINT = "retry; if it lasts, check with `regctl cluster status` that a majority of the members is up"


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class Proposer:
    """Proposes commands and returns decided outcomes, or raises why there is none."""

    def __init__(self, cluster: Cluster, metrics: Metrics, *, clock_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._cluster = cluster
        self._metrics = metrics
        self.clock_ms = clock_ms

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

    async def propose(self, command: commands.Command, timeout_s: float) -> outcomes.Outcome:
        """What apply decided, at most after timeout_s. Raises RegistryError: a rejection as the exception of its
        reason, Invalid before anything was proposed, Unavailable(NO_QUORUM), Ambiguous(OUTCOME_UNKNOWN)."""
        validation.check(command)  # a bad request costs no log entry
        kind = type(command).__name__.lower()
        try:
            result = await self._cluster.propose(commands.encode(command), timeout_s=timeout_s)
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
        """Return when a snapshot taken now is linearizable. Raises Unavailable(NO_QUORUM)."""
        try:
            await self._cluster.barrier(timeout_s=timeout_s)
        except NotAttempted as error:
            raise no_quorum(f"no majority confirmed the read: {error}") from error


def no_quorum(message: str) -> RegistryError:
    return Unavailable(Reason.NO_QUORUM, message, hint=NO_QUORUM_HINT)

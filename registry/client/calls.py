"""One intended call: attempts on one member after the other, until done, refused, or out of time."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from msgspec import Struct

from registry.client import failures, limits
from registry.client.endpoints import Endpoint, Endpoints
from registry.client.failures import AttemptError
from registry.core.errors import Ambiguous, Reason, RegistryError, Unavailable
from registry.v1 import registry_pb2

Reply = TypeVar("Reply")
Attempt = Callable[[Endpoint, float], Awaitable[Reply]]  # (member, seconds this attempt may take); raises AttemptError
OnFailedAttempt = Callable[[str, RegistryError], None]


class Plan(Struct, frozen=True):
    """What is intended. `request_id` is empty for reads; `slow` calls get longer attempts. `repeatable`: a change
    without a request id, which the cluster does not make twice."""

    what: str
    timeout_s: float
    request_id: str = ""
    leader_first: bool = False
    slow: bool = False
    repeatable: bool = False
    attempt_s: float = limits.ATTEMPT_S

    @property
    def changes(self) -> bool:
        return self.repeatable or bool(self.request_id)

    def attempt_timeout_s(self, left_s: float) -> float:
        """A slow call may take half of what is left, so that another member still has a chance."""
        return min(left_s, max(self.attempt_s, left_s / 2) if self.slow else self.attempt_s)


class Calls:
    def __init__(
        self, endpoints: Endpoints, rng: random.Random, on_failed_attempt: OnFailedAttempt | None = None
    ) -> None:
        self._endpoints = endpoints
        self._rng = rng
        self._on_failed_attempt = on_failed_attempt

    async def run(self, plan: Plan, attempt: Attempt[Reply]) -> Reply:
        """The reply. Raises what the registry decided (Rejected), Unavailable or Ambiguous when time is over."""
        deadline = time.monotonic() + plan.timeout_s
        tried: dict[str, RegistryError] = {}
        executed = False
        rounds = 0
        this_round: set[str] = set()
        while (left_s := deadline - time.monotonic()) > (limits.ATTEMPT_MIN_S if tried else 0):
            endpoint = self._endpoints.next(this_round, leader_first=plan.leader_first)
            if endpoint is None:
                await asyncio.sleep(min(self._backoff_s(rounds), left_s))
                rounds += 1
                this_round.clear()
                continue
            this_round.add(endpoint.address)
            try:
                reply: Any = await attempt(endpoint, plan.attempt_timeout_s(left_s))
            except AttemptError as failed:
                failure = failed.failure
            else:
                self._endpoints.answered(endpoint, reply.info)
                return reply  # type: ignore[no-any-return]
            executed = executed or failure.executed
            tried[endpoint.address] = failure.error
            if failure.error.reason is Reason.NO_SPACE and not executed:
                raise failure.error  # room does not come within a call
            if not failure.retry:
                if executed and failure.error.reason is Reason.REQUEST_EXPIRED:
                    break  # an earlier attempt may have been in time
                raise failure.error
            self._endpoints.failed(endpoint)
            if self._on_failed_attempt is not None:
                self._on_failed_attempt(endpoint.address, failure.error)
        raise _out_of_time(plan, tried, executed=executed)

    def _backoff_s(self, rounds: int) -> float:
        longest = min(limits.BACKOFF_MAX_S, limits.BACKOFF_FIRST_S * limits.BACKOFF_GROWTH ** min(rounds, 64))
        return longest * self._rng.uniform(0.5, 1.0)


def operation(message: registry_pb2.Operation) -> Attempt[Any]:
    """Attempts that travel with other operations towards the same member."""

    async def attempt(endpoint: Endpoint, timeout_s: float) -> Any:
        return await endpoint.batcher.submit(message, await endpoint.connect(timeout_s))

    return attempt


def rpc(service: str, name: str, request: Any) -> Attempt[Any]:
    """Attempts that are calls of their own; `service` is an attribute of Endpoint."""

    async def attempt(endpoint: Endpoint, timeout_s: float) -> Any:
        timeout_s = await endpoint.connect(timeout_s)
        try:
            return await getattr(getattr(endpoint, service), name)(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise AttemptError(failures.of_call(error)) from None

    return attempt


_TELLING = (Reason.NO_SPACE, Reason.CORRUPT_CONTENT, Reason.DATA_DAMAGED)  # before "nobody answered"


def _out_of_time(plan: Plan, tried: dict[str, RegistryError], *, executed: bool) -> RegistryError:
    causes = "; ".join(f"{address}: {error.message}" for address, error in tried.items()) or "no attempt was possible"
    metadata = {"tried": ", ".join(tried), "timeout_s": f"{plan.timeout_s:g}"}
    if plan.changes and executed:
        repeat = "repeat it with the same request id" if plan.request_id else "repeat it"
        return Ambiguous(
            Reason.OUTCOME_UNKNOWN,
            f"whether {plan.what} took effect is unknown after {plan.timeout_s:g} s ({causes})",
            hint=f"look at the current state, or {repeat}: it takes effect at most once",
            metadata=metadata | ({"request_id": plan.request_id} if plan.request_id else {}),
        )
    reasons = {error.reason for error in tried.values()}
    reason = next((each for each in (*_TELLING, Reason.NO_QUORUM, Reason.BUSY) if each in reasons), Reason.NO_MEMBER)
    return Unavailable(
        reason,
        f"no member could {plan.what} within {plan.timeout_s:g} s ({causes})",
        hint="nothing was changed; check that a majority of the members runs and can be reached, then try again"
        if plan.changes
        else "check that a majority of the members runs and can be reached, then try again",
        metadata=metadata,
    )

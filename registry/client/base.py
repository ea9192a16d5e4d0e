"""What every part of the client stands on: members, attempts, and where the newest reply came from."""

from __future__ import annotations

import getpass
import os
import random
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, Self

from registry.client import convert, limits, values
from registry.client.calls import Attempt, Calls, OnFailedAttempt, Plan, rpc
from registry.client.endpoints import Endpoints
from registry.client.large import Chunks
from registry.client.membership import Members
from registry.core.limits import PRINCIPAL_CHARS


class Base:
    def __init__(
        self,
        endpoints: Sequence[str] | str,
        *,
        principal: str | None = None,
        timeout_s: float = limits.TIMEOUT_S,
        tls: values.TlsConfig | None = None,
        on_failed_attempt: OnFailedAttempt | None = None,
    ) -> None:
        """`principal` None: the user of this process. `on_failed_attempt(address, error)` is told of every attempt
        that will be retried."""
        rng = random.Random()
        addresses = endpoints.split(",") if isinstance(endpoints, str) else endpoints
        self.principal = _user() if principal is None else principal
        self.timeout_s = timeout_s
        self._endpoints = Endpoints(addresses, tls=tls, rng=rng)
        self._calls = Calls(self._endpoints, rng, on_failed_attempt)
        self._on_failed_attempt = on_failed_attempt
        self.members = Members(self._run, self._plan_step)
        self._info: values.ReplyInfo | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Running calls fail."""
        await self._endpoints.close()

    @property
    def info(self) -> values.ReplyInfo | None:
        """Where the newest reply came from: cluster, revision, member, and the age of a stale read."""
        return self._info

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Addresses given and learned."""
        return self._endpoints.addresses

    def _plan(
        self,
        what: str,
        timeout_s: float | None,
        *,
        request_id: str = "",
        leader_first: bool = False,
        slow: bool = False,
        repeatable: bool = False,
        attempt_s: float = limits.ATTEMPT_S,
    ) -> Plan:
        return Plan(
            what=what,
            timeout_s=self.timeout_s if timeout_s is None else timeout_s,
            request_id=request_id,
            leader_first=leader_first or repeatable or bool(request_id),
            slow=slow,
            repeatable=repeatable,
            attempt_s=attempt_s,
        )

    def _plan_step(self, what: str, timeout_s: float | None) -> Plan:
        """Slow: a leader that is to be removed hands over first."""
        return self._plan(what, timeout_s, slow=True, repeatable=True)

    def _chunks(self, timeout_s: float | None) -> Chunks:
        return Chunks(self._run, self.timeout_s if timeout_s is None else timeout_s)

    async def _run(self, plan: Plan, attempt: Attempt[Any]) -> Any:
        reply = await self._calls.run(plan, attempt)
        self._info = convert.info(reply.info)
        return reply

    async def _pages(
        self,
        what: str,
        name: str,
        request: Any,
        field: str,
        value: Callable[[Any], Any],
        timeout_s: float | None,
    ) -> AsyncIterator[Any]:
        while True:
            reply = await self._run(self._plan(what, timeout_s, slow=True), rpc("registry", name, request))
            for each in getattr(reply, field):
                yield value(each)
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token


def _user() -> str:
    try:
        return getpass.getuser()[:PRINCIPAL_CHARS]
    except (KeyError, OSError):  # a container's user id may have no name
        return f"uid-{os.getuid()}"

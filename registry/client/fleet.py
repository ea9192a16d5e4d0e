"""The fleet: counted, waited for, forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from msgspec import Struct, structs

from registry.client import convert, limits, streams
from registry.client.base import Base
from registry.client.calls import rpc
from registry.client.endpoints import Endpoint
from registry.client.failures import is_unknown_call
from registry.client.values import AgentRow
from registry.client.writing import new_request_id
from registry.core.errors import Invalid, Reason, Unavailable
from registry.core.model import DEFAULT_POINTER
from registry.v1 import fleet_pb2


class SiteSummary(Struct, frozen=True, kw_only=True):
    """The agents of one site that report for one pointer. Each is counted once, and twins once more."""

    workflow: str
    pointer: str
    site: str  # empty: agents without one
    generation: int  # of the pointer now
    version: int
    agents: int
    on_target: int
    behind: int  # also while they install it
    nacked: int
    drifted: int
    silent: int
    twins: int
    oldest_behind_ms: int  # for how long the slowest of those behind has been so
    oldest_contact_ms: int  # since the one heard of least was heard of


class Confirmations(Struct, frozen=True, kw_only=True):
    """How far a generation of a pointer has come. `done`: nothing more follows: all have confirmed it, or the time is
    over."""

    workflow: str
    pointer: str
    generation: int
    agents: int
    confirmed: int
    nacked: int
    silent: int
    behind: tuple[AgentRow, ...]  # those that have not, the nacked ones first; the first 20
    done: bool

    @property
    def complete(self) -> bool:
        return self.confirmed == self.agents


class Fleet(Base):
    async def fleet(
        self, workflow: str = "", *, stale: bool = False, timeout_s: float | None = None
    ) -> tuple[SiteSummary, ...]:
        """Agents by workflow, pointer and site, in this order; `workflow` empty: of all."""
        request = fleet_pb2.SummarizeRequest(workflow=workflow, stale=stale)
        plan = self._plan("count the agents", timeout_s, slow=True)
        reply = await self._run(plan, rpc("fleet", "Summarize", request))
        return tuple(_site(message) for message in reply.sites)

    async def confirmations(
        self,
        workflow: str,
        pointer: str = DEFAULT_POINTER,
        generation: int = 0,
        *,
        wait_s: float,
        min_revision: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Confirmations, None]:
        """Who has confirmed a generation (0: the pointer's now) or a later one: at once, as agents report, and a last
        time, `done`, when all have or wait_s is over. `min_revision`: of the switch, so that no member answers that
        does not know it. Survives the death of members. Raises Unavailable when no member gave a sign of life for
        timeout_s, and Invalid when all are of a release that has no such call.
        """
        silent_s = self.timeout_s if timeout_s is None else timeout_s
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        is_last = True

        def begin(endpoint: Endpoint) -> Any:
            nonlocal is_last
            left_s = max(deadline - loop.time(), 0)
            is_last = left_s <= limits.CONFIRMATIONS_WAIT_S
            return endpoint.fleet.WatchConfirmations(
                fleet_pb2.WatchConfirmationsRequest(
                    workflow=workflow,
                    pointer=pointer,
                    generation=generation,
                    wait_ms=int(min(left_s, limits.CONFIRMATIONS_WAIT_S) * 1000),
                    min_revision=min_revision,
                )
            )

        messages = streams.messages(
            self._endpoints,
            begin,
            silence_s=limits.CONFIRMATIONS_SILENCE_S,
            timeout_s=silent_s,
            silence=lambda causes: _silence(causes, silent_s),
            is_passing=is_unknown_call,
            decided=lambda causes: _old_release(workflow) if all(map(is_unknown_call, causes)) else None,
            on_failed_attempt=self._on_failed_attempt,
        )
        async with aclosing(messages):
            async for message in messages:
                generation = message.generation  # also at the next member
                found = _confirmations(message)
                goes_on = found.done and not found.complete and not is_last
                yield structs.replace(found, done=False) if goes_on else found
                if found.done and not goes_on:
                    return

    async def forget_agent(self, agent: str, *, timeout_s: float | None = None) -> int:
        """Forgets an agent that is gone for good; for how many pointers it had reported. One that still runs comes back
        with its next report."""
        request = fleet_pb2.ForgetAgentRequest(request_id=new_request_id(), agent=agent, principal=self.principal)
        plan = self._plan("forget an agent", timeout_s, request_id=request.request_id, slow=True)
        return int((await self._run(plan, rpc("fleet", "ForgetAgent", request))).forgotten)


def _site(message: fleet_pb2.SiteSummary) -> SiteSummary:
    return SiteSummary(**{name: getattr(message, name) for name in SiteSummary.__struct_fields__})


def _confirmations(message: fleet_pb2.Confirmations) -> Confirmations:
    return Confirmations(
        workflow=message.workflow,
        pointer=message.pointer,
        generation=message.generation,
        agents=message.agents,
        confirmed=message.confirmed,
        nacked=message.nacked,
        silent=message.silent,
        behind=tuple(map(convert.agent_row, message.behind)),
        done=message.done,
    )


def _old_release(workflow: str) -> Invalid:
    return Invalid(
        Reason.INVALID_REQUEST,
        "the members' release cannot tell who has confirmed it",
        hint=f"ask for what each runs, until the members are newer: regctl agents {workflow}",
    )


def _silence(causes: str, timeout_s: float) -> Unavailable:
    return Unavailable(
        Reason.NO_MEMBER,
        f"no member could say who has confirmed it for {timeout_s:g} s ({causes})",
        hint="ask again once members can be reached: regctl agents",
    )

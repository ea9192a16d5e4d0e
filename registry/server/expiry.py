"""Which agents have been silent for as long as policy says (agents_expire_days). Pure: the rows are walked by upkeep.

Contacts first, one for each agent: those silent for the shortest time that any scope says. Then all rows of agents, as
each workflow has its own rule. The last contact of an agent goes with its last row; of one that never reported
anything, as the policy of `*` says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from registry.core import keeping, policies
from registry.core.commands import ForgottenAgent
from registry.core.model import Agent, LastContact, Policy
from registry.core.retention import DAY_MS


class Expiry:
    """`said`: policies by scope; `now_ms`: unix; `most`: agents kept in mind, the rest waits for the next time, which
    begins behind `next_after`. Agents come in order of their names."""

    def __init__(self, said: Mapping[str, Policy], now_ms: int, most: int) -> None:
        self._said = _Said(said)
        self._now_ms = now_ms
        self._most = most
        days = [each for policy in said.values() if (each := keeping.agents_expire_days(policy)) is not None]
        self._shortest_days = min(days, default=None)
        self._days: dict[str, int | None] = {}  # by scope
        self._silent: dict[str, int] = {}  # agent: last contact
        self._going: dict[str, list[tuple[str, str]]] = {}
        self._staying: set[str] = set()
        self.next_after = ""  # the last name kept in mind; empty: there was room for all

    @property
    def is_ruled(self) -> bool:
        """Whether any scope lets agents expire."""
        return self._shortest_days is not None

    @property
    def found(self) -> bool:
        """Whether any agent was silent for so long that its rows have to be looked at."""
        return bool(self._silent)

    def see_contact(self, agent: str, contact: LastContact) -> None:
        if len(self._silent) < self._most and self._is_over(contact.time_ms, self._shortest_days):
            self._silent[agent] = contact.time_ms
            self.next_after = agent if len(self._silent) == self._most else ""

    def see_row(self, row: Agent) -> None:
        heard_ms = self._silent.get(row.agent)
        if heard_ms is None:
            return
        if self._is_over(heard_ms, self._rule(row.workflow)):
            self._going.setdefault(row.agent, []).append((row.workflow, row.pointer))
        else:
            self._staying.add(row.agent)

    def forgotten(self) -> Iterator[ForgottenAgent]:
        everywhere = self._rule(policies.EVERYWHERE)
        for agent, heard_ms in self._silent.items():
            rows = tuple(self._going.get(agent, ()))
            entirely = agent not in self._staying and (bool(rows) or self._is_over(heard_ms, everywhere))
            if rows or entirely:
                yield ForgottenAgent(agent=agent, rows=rows, heard_ms=heard_ms, entirely=entirely)

    def _rule(self, scope: str) -> int | None:
        if scope not in self._days:
            self._days[scope] = keeping.agents_expire_days(policies.effective(self._said, scope))
        return self._days[scope]

    def _is_over(self, heard_ms: int, days: int | None) -> bool:
        return days is not None and self._now_ms - heard_ms >= days * DAY_MS


class _Said:
    def __init__(self, said: Mapping[str, Policy]) -> None:
        self._said = said

    def policy(self, scope: str) -> Policy | None:
        return self._said.get(scope)

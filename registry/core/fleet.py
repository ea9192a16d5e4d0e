"""What is known of agents: who runs what, who is silent, who shares a name. Pure.

Every run of an agent (its process, from start to end) polls under a session of its own. A session that comes back after
another one was heard of means that two agents use one name, as cloned machines do; one that restarts never comes back
to an old one. Contacts may arrive late or twice: only one that is newer than the newest says anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, get_args

from msgspec import structs

from registry.core import keeping, limits, policies
from registry.core.commands import Contact, ForgetAgents, ForgottenAgent
from registry.core.model import Agent, LastContact, Pointer
from registry.core.outcomes import AgentsForgotten
from registry.core.state import State

Standing = Literal["silent", "nacked", "drifted", "behind", "installing", "on_target"]
STANDINGS: tuple[Standing, ...] = get_args(Standing)


def standing(
    agent: Agent, pointer: Pointer, contact: LastContact, now_ms: int, *, newest: int | None = None
) -> Standing:
    """Of what an agent reported for a pointer, against what the pointer names now; or, where its `newest` generation is
    said beside, what it named after an earlier switch. `now_ms`: unix, by a member's clock.

    silent      not heard of for limits.AGENT_SILENT_S: what it said may not hold any more
    nacked      it refused the newest generation, or went back from it
    drifted     it confirmed the newest, and runs another digest than the pointer names
    behind      it has not answered for the newest generation yet, or only in an older epoch
    installing  it has, and confirms it or goes back
    on_target   it runs what the pointer names
    """
    if now_ms - contact.time_ms > limits.AGENT_SILENT_S * 1000:
        return "silent"
    if agent.generation < pointer.generation or is_outdated(agent, pointer.generation if newest is None else newest):
        return "behind"
    if agent.phase in ("reverted", "refused"):
        return "nacked"
    if agent.phase != "confirmed":
        return "installing"
    return "on_target" if agent.running_digest in ("", pointer.digest) else "drifted"  # empty: it did not say


def is_outdated(agent: Agent, newest: int) -> bool:
    """Whether a report is of an older epoch, in which the pointer came further than its `newest` generation: in this
    epoch nobody is ahead of it. Reports name no epoch, and may come long after a restore."""
    return agent.generation > newest


def has_twins(contact: LastContact, now_ms: int) -> bool:
    """Whether two agents have used this name lately."""
    return contact.twins_ms > 0 and now_ms - contact.twins_ms < limits.AGENT_TWINS_S * 1000


def heard(known: LastContact, contact: Contact) -> LastContact:
    """After a contact that is newer than what is known."""
    after = structs.replace(known, time_ms=contact.time_ms)
    if contact.session in ("", known.session):
        return after
    is_back = contact.session == known.previous_session
    return structs.replace(
        after,
        session=contact.session,
        previous_session=known.session,
        twins_ms=contact.time_ms if is_back else known.twins_ms,
    )


def batches(agents: Iterable[ForgottenAgent]) -> Iterator[tuple[ForgottenAgent, ...]]:
    """For one command each; an agent with more rows than fit into one is forgotten in parts, entirely with the last."""
    batch: list[ForgottenAgent] = []
    weight = 0
    for part in (part for agent in agents for part in _parts(agent)):
        if weight + part.weight > limits.FORGOTTEN:
            yield tuple(batch)
            batch, weight = [], 0
        batch.append(part)
        weight += part.weight
    if batch:
        yield tuple(batch)


def _parts(agent: ForgottenAgent) -> Iterator[ForgottenAgent]:
    most = limits.FORGOTTEN - 1
    for start in range(0, max(len(agent.rows), 1), most):
        rows = agent.rows[start : start + most]
        yield structs.replace(agent, rows=rows, entirely=agent.entirely and start + most >= len(agent.rows))


def forget(state: State, command: ForgetAgents) -> AgentsForgotten:
    """One that was heard of since it was found silent stays, and so does what no rule lets go of by now."""
    forgotten = sum(_forget(state, agent) for agent in command.agents)
    return AgentsForgotten(revision=state.registry().revision, rows=forgotten)


def _forget(state: State, agent: ForgottenAgent) -> int:
    by_rule = agent.heard_ms is not None
    if by_rule and state.contact(agent.agent).time_ms != agent.heard_ms:
        return 0
    stay = {workflow for workflow, _ in agent.rows if by_rule and _never(state, workflow)}
    forgotten = 0
    for workflow, pointer in dict.fromkeys(agent.rows):
        if workflow not in stay and state.agent(workflow, pointer, agent.agent) is not None:
            state.delete_agent(workflow, pointer, agent.agent)
            forgotten += 1
    if agent.entirely and not stay:
        state.delete_contact(agent.agent)
    return forgotten


def _never(state: State, workflow: str) -> bool:
    return keeping.agents_expire_days(policies.effective(state, workflow)) is None

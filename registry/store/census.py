"""What the agents reported, read and counted."""

from __future__ import annotations

from functools import cache

from cluster.kv.api import Reader
from registry.core.census import Census, RollCall
from registry.core.errors import NotFound, Reason
from registry.core.model import Agent, LastContact, Pointer
from registry.store import queries
from registry.store.state import Rows


def census(reader: Reader, workflow: str, now_ms: int) -> Census:
    """Of one workflow, or of all. Takes some ten microseconds for each agent. Raises WORKFLOW_NOT_FOUND."""
    rows = Rows(reader)
    if workflow and rows.workflow(workflow) is None:
        raise NotFound(
            Reason.WORKFLOW_NOT_FOUND,
            f"there is no workflow {workflow}",
            hint="see all with: regctl workflows",
            metadata={"workflow": workflow},
        )

    @cache
    def switched_ms(name: tuple[str, str], generation: int) -> int:
        switched = rows.switch(*name, generation)
        return 0 if switched is None else switched.time_ms

    found = Census(now_ms, lambda target, generation: switched_ms((target.workflow, target.pointer), generation))
    target: Pointer | None = None
    for _, agent in rows.agents(workflow):
        if target is None or (target.workflow, target.pointer) != (agent.workflow, agent.pointer):
            target = queries.pointer(reader, agent.workflow, agent.pointer)
        found.add(agent, target, rows.contact(agent.agent))
    return found


def target(reader: Reader, workflow: str, pointer: str, generation: int) -> Pointer:
    """A pointer after the switch to a generation; 0: as it is now. Raises POINTER_NOT_FOUND, also for a generation that
    it does not have here."""
    now = queries.pointer(reader, workflow, pointer)
    if not generation or generation == now.generation:
        return now
    switched = Rows(reader).switch(workflow, pointer, generation)
    if switched is None:
        raise NotFound(
            Reason.POINTER_NOT_FOUND,
            f"{workflow} {pointer} has no generation {generation} here, it is at {now.generation}",
            hint="name the revision of the switch with it, so that a member that is behind waits for it",
            metadata={"workflow": workflow, "pointer": pointer, "generation": str(now.generation)},
        )
    return switched


def newest(reader: Reader, target: Pointer) -> int:
    """The generation of a pointer now, after all its switches."""
    return queries.pointer(reader, target.workflow, target.pointer).generation


def roll_call(reader: Reader, target: Pointer, now_ms: int) -> RollCall:
    """All agents that report for the pointer."""
    rows = Rows(reader)
    found, generation = RollCall(target), newest(reader, target)
    for _, agent in rows.agents(target.workflow, pointer=target.pointer):
        found.put(agent, rows.contact(agent.agent), now_ms, newest=generation)
    return found


def report(rows: Rows, pointer: Pointer, name: str) -> tuple[Agent, LastContact] | None:
    """What one agent reported for a pointer."""
    agent = rows.agent(pointer.workflow, pointer.pointer, name)
    return None if agent is None else (agent, rows.contact(name))


def reported_for(reader: Reader, name: str) -> list[tuple[str, str]]:
    """Workflow and pointer of everything that an agent reported for."""
    return [(agent.workflow, agent.pointer) for _, agent in Rows(reader).agents() if agent.agent == name]

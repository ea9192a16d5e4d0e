"""What an agent says of itself: from its state directory alone, whether it runs or not."""

from __future__ import annotations

from typing import Any

from registry.agent import limits
from registry.agent.home import Home
from registry.agent.journal import Record


def status(home: Home, now_s: float) -> dict[str, Any]:
    """{agent, cluster_id, epoch, follows: [{workflow, pointer, generation, version, digest, state, last_contact_s,
    last_error, last_good}]}. `now_s`: unix time. generation, version and digest are of what PATH shows, 0 and empty: of
    nothing. last_contact_s is None before the first contact; last_error None without one. Raises home.HomeError."""
    agent = home.agent
    contact = home.last_contact_s()
    age_s = None if contact is None else max(0, round(now_s - contact))
    follows = []
    for workflow, pointer in agent.follows:
        record = home.load_record(workflow, pointer) or Record(workflow=workflow, pointer=pointer, path="")
        error = _error(record, agent.trouble)
        running, good = record.running, record.last_good
        follows.append(
            {
                "workflow": workflow,
                "pointer": pointer,
                "generation": running.generation if running else 0,
                "version": running.version if running else 0,
                "digest": running.digest if running else "",
                "state": _state(error, age_s),
                "last_contact_s": age_s,
                "last_error": error,
                "last_good": good and {"generation": good.generation, "version": good.version, "digest": good.digest},
            }
        )
    return {
        "agent": agent.agent,
        "cluster_id": agent.identity.cluster_id,
        "epoch": agent.identity.epoch,
        "follows": follows,
    }


def _error(record: Record, trouble: str) -> str | None:
    if trouble:
        return trouble
    failure = record.failure
    return f"{failure.code} at generation {failure.generation}: {failure.detail}" if failure else None


def _state(error: str | None, age_s: int | None) -> str:
    if error:
        return "error"
    return "stale" if age_s is None or age_s > limits.STALE_AFTER_S else "current"

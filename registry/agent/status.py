"""What an agent says of itself: from its state directory alone, whether it runs or not."""

from __future__ import annotations

from typing import Any

from registry.agent import limits
from registry.agent.home import Home
from registry.agent.journal import Record
from registry.agent.targets import http as http_target


def status(home: Home, now_s: float) -> dict[str, Any]:
    """{agent, cluster_id, epoch, follows: [{workflow, pointer, generation, version, digest, state, age_s, step, next,
    last_contact_s, last_error, last_good}], callbacks}. `now_s`: unix time. generation, version and digest are of what
    the target shows, 0 and empty: of nothing.

    state: current (the table says LIVE); stale (no contact for limits.STALE_AFTER_S, what runs may be outdated); error
    (see last_error).
    age_s: for how long what runs has been confirmed (current), nothing was heard (stale), or the error lasts (error);
    None: not known. step: what the machine does, a transitions.State; next: {generation, version, not_before_ms} of
    what it is about, or None. last_contact_s is None before the first contact; last_error None without one.
    Raises home.HomeError."""
    agent = home.agent
    contact = home.last_contact_s()
    contact_age_s = _age_s(now_s, contact)
    follows = []
    for workflow, pointer in agent.follows:
        record = home.load_record(workflow, pointer) or Record(workflow=workflow, pointer=pointer, path="")
        error = _error(record, agent.trouble)
        running, good, target = record.running, record.last_good, record.target
        state = _state(error, contact_age_s)
        follows.append(
            {
                "workflow": workflow,
                "pointer": pointer,
                "generation": running.generation if running else 0,
                "version": running.version if running else 0,
                "digest": running.digest if running else "",
                "state": state,
                "age_s": contact_age_s if state == "stale" else _age_s(now_s, _since_s(record, agent.trouble)),
                "step": str(record.state),
                "next": target
                and {
                    "generation": target.generation,
                    "version": target.version,
                    "not_before_ms": target.not_before_ms,
                },
                "last_contact_s": contact_age_s,
                "last_error": error,
                "last_good": good and {"generation": good.generation, "version": good.version, "digest": good.digest},
            }
        )
    return {
        "agent": agent.agent,
        "cluster_id": agent.identity.cluster_id,
        "epoch": agent.identity.epoch,
        "follows": follows,
        "callbacks": callbacks(home),
    }


def callbacks(home: Home) -> list[dict[str, Any]]:
    """What became of deliveries to http targets, for each follow newest last: {id, workflow, pointer, action, url,
    version, generation, digest, status: pending|success|retries|dead, attempts, created_ms, tried_ms, answer}. Times
    are unix milliseconds, 0: never. Raises home.HomeError."""
    return [
        {
            "id": f"{workflow}:{pointer}/{row.id}",
            "workflow": workflow,
            "pointer": pointer,
            "action": row.action,
            "url": row.url,
            "version": row.version,
            "generation": row.generation,
            "digest": row.digest,
            "status": row.status,
            "attempts": row.attempts,
            "created_ms": row.created_ms,
            "tried_ms": row.tried_ms,
            "answer": row.answer,
        }
        for workflow, pointer in home.agent.follows
        for row in http_target.load(home, workflow, pointer)
    ]


def _error(record: Record, trouble: str) -> str | None:
    if trouble:
        return trouble
    failure = record.failure
    return f"{failure.code} at generation {failure.generation}: {failure.detail}" if failure else None


def _since_s(record: Record, trouble: str) -> float | None:
    """Since when the error lasts, or without one what runs is confirmed."""
    since_ms = record.failure.since_ms if record.failure else record.running.since_ms if record.running else 0
    return None if trouble or not since_ms else since_ms / 1000


def _age_s(now_s: float, then_s: float | None) -> int | None:
    return None if then_s is None else max(0, round(now_s - then_s))


def _state(error: str | None, age_s: int | None) -> str:
    if error:
        return "error"
    return "stale" if age_s is None or age_s > limits.STALE_AFTER_S else "current"

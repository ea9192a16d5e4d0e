"""Which versions keep their content: those that any rule keeps. The rules, by name:

all        no policy lets go of anything (keep_last, keep_days), or one of them says `all`
newest     the newest version of its workflow
pointer    a pointer names it
previous   a rollback of a pointer would pick it now
agent      an agent runs it, or acts on a switch to it, as it said last
stable, held, labelled
last       one of the last N of its class that still have their content (keep_last)
young      younger than D days (keep_days)

The leader plans, by the clock; apply looks at all rules but age again. Both count the same way, except that apply looks
at limits.RETENTION_SEARCHED versions at most, and keeps what it did not reach.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from itertools import islice

from registry.core import keeping, limits, policies, switching
from registry.core.keeping import Keep
from registry.core.model import Snapshot, Version
from registry.core.state import View

DAY_MS = 24 * 60 * 60 * 1000
Rules = tuple[str, ...]  # empty: none keeps it
_NEWEST = 1 << 62


def plan(view: View, workflow: str, now_ms: int) -> list[tuple[Version, Rules]]:
    """The versions whose content is kept so far, newest first, and what keeps each of them at `now_ms` (unix).
    Raises KeyError: there is no such workflow."""
    keep = keeping.of(policies.effective(view, workflow))
    named = _Named(view, workflow)
    counts: Counter[Snapshot] = Counter()
    planned = []
    for version in view.versions(workflow, _NEWEST):
        if version.removed is not None:
            continue
        rules = _timeless(version, keep, named, counts[version.snapshot])
        if keep.days and version.created_ms > now_ms - keep.days * DAY_MS:
            rules = (*rules, "young")
        planned.append((version, rules))
        counts[version.snapshot] += 1
    return planned


def kept_by(view: View, workflow: str, numbers: Collection[int]) -> dict[int, Rules]:
    """What keeps some versions, whatever their age; those that are not there or lost their content are left out.
    Raises KeyError: there is no such workflow."""
    found = [view.version(workflow, number) for number in sorted(set(numbers), reverse=True)]
    versions = [version for version in found if version is not None and version.removed is None]
    keep = keeping.of(policies.effective(view, workflow))
    named = _Named(view, workflow)
    newer = _newer(view, workflow, versions, keep)
    return {version.number: _timeless(version, keep, named, newer[version.number]) for version in versions}


def _timeless(version: Version, keep: Keep, named: _Named, newer: int) -> Rules:
    """All but age. `newer`: versions of the same class that still have their content."""
    rules = ["all"] if keep.everything else []
    rules += named.rules(version.number)
    if version.status == "stable":
        rules.append("stable")
    if version.hold:
        rules.append("held")
    if version.labels:
        rules.append("labelled")
    last = keep.last[version.snapshot]
    if not keep.everything and (last is None or newer < last):
        rules.append("last")
    return tuple(rules)


def _newer(view: View, workflow: str, versions: list[Version], keep: Keep) -> dict[int, int]:
    """How many newer versions of its class still have their content, for each of `versions` (newest first): exactly, or
    so many at least where that is enough to know that it is none of the last ones."""
    waiting = {version.number: version.snapshot for version in versions}
    undecided = {snapshot for snapshot in waiting.values() if keep.last[snapshot]}
    counts: Counter[Snapshot] = Counter()
    newer: dict[int, int] = {}
    for version in islice(view.versions(workflow, _NEWEST), limits.RETENTION_SEARCHED):
        if not undecided or not waiting:
            break
        if waiting.pop(version.number, None) is not None:
            newer[version.number] = counts[version.snapshot]
        counts[version.snapshot] += version.removed is None
        if counts[version.snapshot] == keep.last[version.snapshot]:
            undecided.discard(version.snapshot)
    return newer | {number: counts[snapshot] for number, snapshot in waiting.items()}


class _Named:
    """The versions of a workflow that something names."""

    def __init__(self, view: View, workflow: str) -> None:
        row = view.workflow(workflow)
        if row is None:
            raise KeyError(f"workflow {workflow} is missing")
        self._newest = row.versions
        pointers = list(view.pointers(workflow))
        self._pointers = {pointer.version for pointer in pointers}
        most = limits.ROLLBACK_SWITCHES // max(len(pointers), 1)
        ways_back = [switching.way_back(view, pointer, most=most) for pointer in pointers]
        self._previous = {version.number for version in ways_back if version is not None}
        self._agents = _run_by_agents(view, workflow)

    def rules(self, number: int) -> list[str]:
        rules = {
            "newest": number == self._newest,
            "pointer": number in self._pointers,
            "previous": number in self._previous,
            "agent": self._agents is None or number in self._agents,
        }
        return [rule for rule, applies in rules.items() if applies]


def _run_by_agents(view: View, workflow: str) -> set[int] | None:
    """None: there are too many agents to say."""
    said: set[tuple[str, int, int, int]] = set()  # many agents say the same
    for count, (_, agent) in enumerate(view.agents(workflow)):
        if count == limits.RETENTION_AGENTS:
            return None
        said.add((agent.pointer, agent.generation, agent.running_generation, agent.running_version))
    switches = {(pointer, generation) for pointer, *generations, _ in said for generation in generations}
    found = [view.switch(workflow, *switch) for switch in switches]
    return {running for *_, running in said} | {pointer.version for pointer in found if pointer is not None}

"""Who depends on a workflow: what a switch of it may touch.

Versions name what they require: `ns/name`, or as their format names it (`n8n:ID`). Versions provide such tokens by
their name, by labels and by facts about their content. Only versions that matter count: those that a pointer names, and
the newest one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from registry.core import limits
from registry.core.model import Pointer, Version, Workflow

TOOL_LABEL = "tool"  # the name under which a workflow is published as a tool of others


class Lookup(Protocol):
    def workflow(self, name: str) -> Workflow | None: ...

    def version(self, workflow: str, number: int) -> Version | None: ...

    def pointers(self, workflow: str) -> Iterator[Pointer]: ...

    def requirers(self, token: str) -> Iterator[tuple[str, int]]: ...


@dataclass(frozen=True)
class Dependent:
    workflow: str
    version: int  # the newest of those that require it and are named by a pointer, else the newest of all
    pointers: tuple[str, ...]  # that name a version that requires it; empty: only the newest does
    via: str  # what it requires, as it names it
    through: str  # the dependent workflow before it on the way; empty: it depends directly
    distance: int  # 1: directly


@dataclass(frozen=True)
class Impact:
    dependents: tuple[Dependent, ...]  # nearest first, each workflow once
    more: bool  # there are more than limits.DEPENDENTS, or too many versions to look at


def provides(version: Version) -> tuple[str, ...]:
    """What others may call it in `requires`."""
    tokens = [version.workflow]
    if id_ := version.facts.get("n8n_id"):
        tokens.append(f"n8n:{id_}")
    if tool := version.labels.get(TOOL_LABEL):
        tokens.append(f"dify-tool:{tool}")
    if id_ := version.facts.get("flowise_id"):
        tokens.append(f"flowise:{id_}")
    if version.kind == "langflow" and (name := version.facts.get("name")):
        tokens.append(f"langflow:{name}")
    return tuple(tokens)


def dependents(lookup: Lookup, workflow: str) -> Impact:
    """Of a workflow that exists. Bounded by limits.DEPENDENTS and limits.SEARCHED."""
    return _Search(lookup, workflow).run()


@dataclass(frozen=True)
class _Live:
    """The versions of a workflow that matter, newest first, and the pointers that name each."""

    versions: tuple[tuple[Version, tuple[str, ...]], ...]

    def tokens(self) -> list[str]:
        return sorted({token for version, _ in self.versions for token in provides(version)})


class _Search:
    def __init__(self, lookup: Lookup, workflow: str) -> None:
        self._lookup = lookup
        self._looked = 0  # at versions
        self._live: dict[str, _Live] = {}
        self._found: dict[str, Dependent] = {}
        self._tokens: set[str] = set()  # whose requirers were all looked at
        self._asked = workflow

    def run(self) -> Impact:
        waiting = deque([(self._asked, 0)])
        while waiting:
            workflow, distance = waiting.popleft()
            for token in self._versions_of(workflow).tokens():
                if token in self._tokens:
                    continue
                self._tokens.add(token)
                for name, _ in self._lookup.requirers(token):
                    if name == self._asked or name in self._found:
                        continue
                    if len(self._found) >= limits.DEPENDENTS or self._looked >= limits.SEARCHED:
                        return Impact(tuple(self._found.values()), more=True)
                    found = self._dependent(name, token, workflow if distance else "", distance + 1)
                    if found is not None:
                        self._found[name] = found
                        waiting.append((name, distance + 1))
        return Impact(tuple(self._found.values()), more=False)

    def _dependent(self, name: str, token: str, through: str, distance: int) -> Dependent | None:
        """None: versions that require it are in the history only."""
        requiring = [
            (version, names) for version, names in self._versions_of(name).versions if token in version.requires
        ]
        if not requiring:
            return None
        version = next((version for version, names in requiring if names), requiring[0][0])
        pointers = sorted(pointer for _, names in requiring for pointer in names)
        return Dependent(name, version.number, tuple(pointers), token, through, distance)

    def _versions_of(self, workflow: str) -> _Live:
        if workflow not in self._live:
            row = self._lookup.workflow(workflow)
            if row is None:
                raise KeyError(f"workflow {workflow} is missing")
            named: dict[int, list[str]] = {row.versions: []}
            for pointer in self._lookup.pointers(workflow):
                named.setdefault(pointer.version, []).append(pointer.pointer)
            versions = []
            for number in sorted(named, reverse=True):
                version = self._lookup.version(workflow, number)
                if version is None:
                    raise KeyError(f"version {number} of {workflow} is missing")
                versions.append((version, tuple(named[number])))
            self._looked += len(versions)
            self._live[workflow] = _Live(tuple(versions))
        return self._live[workflow]

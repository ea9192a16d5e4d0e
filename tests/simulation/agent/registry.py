"""A registry as a value: what was published, and every switch that was acknowledged, over epochs."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from types import MappingProxyType
from typing import NamedTuple

from registry.agent.guards import digest_of

Key = tuple[str, str]  # workflow, pointer
LARGE_BYTES = 12_000  # from here on content goes into a file while it arrives
CHUNK_BYTES = 4_000


class Version(NamedTuple):
    data: bytes
    digest: str
    needs: tuple[str, ...] = ()


class Switch(NamedTuple):
    epoch: int
    generation: int
    version: int
    digest: str
    base_digest: str
    revision: int
    rollback: bool = False
    not_before_ms: int = 0
    deadline_ms: int = 0
    needs: tuple[str, ...] = ()


class State(NamedTuple):
    """What one member may have."""

    epoch: int = 1
    revision: int = 0
    pointers: Mapping[Key, Switch] = MappingProxyType({})
    versions: Mapping[tuple[str, int], Version] = MappingProxyType({})


class Registry:
    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.states = [State()]
        self.acknowledged: dict[Key, set[Switch]] = {}
        self.contents: dict[str, Version] = {}

    @property
    def now(self) -> State:
        return self.states[-1]

    def publish(self, workflow: str, *, needs: tuple[str, ...] = ()) -> int:
        """The number of the new version. Most are edits of the one before."""
        state, rng = self.now, self._rng
        number = sum(name == workflow for name, _ in state.versions) + 1
        before = state.versions.get((workflow, number - 1))
        if before is not None and rng.random() < 0.7:
            at = rng.randrange(len(before.data))
            data = before.data[:at] + rng.randbytes(8).hex().encode() + before.data[at + 16 :]
        else:
            size_bytes = rng.choice([1, 300, 2_000, LARGE_BYTES + rng.randrange(20_000)])
            data = rng.randbytes(size_bytes // 2 + 8).hex().encode()
        version = Version(data, digest_of(data), needs)
        self.contents[version.digest] = version
        self._commit(state._replace(versions={**state.versions, (workflow, number): version}))
        return number

    def switch(
        self, key: Key, version: int, *, not_before_ms: int = 0, deadline_ms: int = 0, rollback: bool = False
    ) -> Switch:
        state = self.now
        found, before = state.versions[key[0], version], state.pointers.get(key)
        made = Switch(
            epoch=state.epoch,
            generation=before.generation + 1 if before else 1,
            version=version,
            digest=found.digest,
            base_digest=before.digest if before else "",
            revision=state.revision + 1,
            rollback=rollback,
            not_before_ms=not_before_ms,
            deadline_ms=deadline_ms,
            needs=found.needs,
        )
        self.acknowledged.setdefault(key, set()).add(made)
        self._commit(state._replace(pointers={**state.pointers, key: made}))
        return made

    def restore(self) -> None:
        """From a backup: an older state, in an epoch of its own."""
        old = self._rng.choice(self.states[-40:])
        epoch = self.now.epoch + 1
        pointers = {key: switch._replace(epoch=epoch) for key, switch in old.pointers.items()}
        for key, switch in pointers.items():
            self.acknowledged[key].add(switch)
        self._commit(old._replace(epoch=epoch, pointers=pointers))

    def of_older_epoch(self) -> State | None:
        older = [state for state in self.states if state.epoch < self.now.epoch]
        return self._rng.choice(older) if older else None

    def behind(self) -> State:
        """Of a member that has not applied everything yet."""
        return self._rng.choice([state for state in self.states[-6:] if state.epoch == self.now.epoch])

    def _commit(self, state: State) -> None:
        self.states.append(state._replace(revision=state.revision + 1))

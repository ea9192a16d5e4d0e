"""The typed rows of the registry over the tables: `Rows` reads any view of them, `StoreState` is core's State."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from msgspec import msgpack

from cluster.kv.api import Reader, Transaction
from registry.core.encoding import encode, encode_wide
from registry.core.model import Agent, Change, Content, Digest, Pointer, Policy, Registry, Version, Workflow
from registry.core.outcomes import Labelled, Marked, Published, Remembered
from registry.store import tables
from registry.store.tables import number, past, within

_Row = TypeVar("_Row")
_REGISTRY_KEY = b"registry"
_registry = msgpack.Decoder(Registry)
_workflow = msgpack.Decoder(Workflow)
_version = msgpack.Decoder(Version)
_digest = msgpack.Decoder(Digest)
_pointer = msgpack.Decoder(Pointer)
_content = msgpack.Decoder(Content)
_change = msgpack.Decoder(Change)
_remembered = msgpack.Decoder(Remembered)
_agent = msgpack.Decoder(Agent)
_policy = msgpack.Decoder(Policy)
_numbers = msgpack.Decoder(tuple[int, ...])


def _optional(decoder: msgpack.Decoder[_Row], row: bytes | None) -> _Row | None:
    return None if row is None else decoder.decode(row)


class Rows:
    """Typed reads. A missing row is None; a row that cannot be decoded raises msgspec.DecodeError."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def registry(self) -> Registry:
        return _optional(_registry, self._reader.get(tables.REGISTRY, _REGISTRY_KEY)) or Registry()

    def workflow(self, name: str) -> Workflow | None:
        return _optional(_workflow, self._reader.get(tables.WORKFLOWS, name.encode("ascii")))

    def workflows(self, prefix: str = "", after: str = "") -> Iterator[Workflow]:
        """In order of name; those that start with `prefix` and come after `after`."""
        start = max(prefix.encode("ascii"), after.encode("ascii") + b"\0" if after else b"")
        for _, row in self._reader.scan(tables.WORKFLOWS, start, past(prefix.encode("ascii"))):
            yield _workflow.decode(row)

    def version(self, workflow: str, version: int) -> Version | None:
        return _optional(_version, self._reader.get(tables.VERSIONS, within(workflow) + number(version)))

    def versions(self, workflow: str, below: int) -> Iterator[Version]:
        """Newest first, those with a number below `below`."""
        prefix = within(workflow)
        for _, row in self._reader.scan(tables.VERSIONS, prefix, prefix + number(below), reverse=True):
            yield _version.decode(row)

    def digest(self, workflow: str, digest: str) -> Digest | None:
        return _optional(_digest, self._reader.get(tables.DIGESTS, within(workflow) + digest.encode("ascii")))

    def digests(self, workflow: str, prefix: str) -> Iterator[tuple[str, Digest]]:
        """Digests of a workflow that start with `prefix`, in order."""
        start = within(workflow) + prefix.encode("ascii")
        for key, row in self._reader.scan(tables.DIGESTS, start, past(start)):
            yield key[len(workflow) + 1 :].decode("ascii"), _digest.decode(row)

    def semver(self, workflow: str, semver: str) -> int | None:
        row = self._reader.get(tables.SEMVERS, within(workflow) + semver.encode("ascii"))
        return None if row is None else tables.to_number(row)

    def fences(self, workflow: str, semantic_digest: str) -> tuple[int, ...]:
        row = self._reader.get(tables.FENCES, within(workflow) + semantic_digest.encode("ascii"))
        return () if row is None else _numbers.decode(row)

    def policy(self, scope: str) -> Policy | None:
        return _optional(_policy, self._reader.get(tables.POLICIES, scope.encode("ascii")))

    def requirers(self, token: str) -> Iterator[tuple[str, int]]:
        """Workflows that a version of requires `token`, in order of name, with the newest such version."""
        prefix = tables.requiring(token)
        for key, row in self._reader.scan(tables.REQUIRES, prefix, past(prefix)):
            yield key[len(prefix) :].decode("ascii"), tables.to_number(row)

    def pointer(self, workflow: str, pointer: str) -> Pointer | None:
        return _optional(_pointer, self._reader.get(tables.POINTERS, within(workflow) + pointer.encode("ascii")))

    def pointers(self, workflow: str) -> Iterator[Pointer]:
        prefix = within(workflow)
        for _, row in self._reader.scan(tables.POINTERS, prefix, past(prefix)):
            yield _pointer.decode(row)

    def switch(self, workflow: str, pointer: str, generation: int) -> Pointer | None:
        """The pointer as the switch to this generation left it."""
        return _optional(_pointer, self._reader.get(tables.SWITCHES, within(workflow, pointer) + number(generation)))

    def switches(self, workflow: str, pointer: str, below: int = 1 << 63) -> Iterator[Pointer]:
        """The pointer after each of its switches with a generation below `below`, newest first."""
        prefix = within(workflow, pointer)
        for _, row in self._reader.scan(tables.SWITCHES, prefix, prefix + number(below), reverse=True):
            yield _pointer.decode(row)

    def has_content(self, digest: str) -> bool:
        return self._reader.get(tables.CONTENTS, digest.encode("ascii")) is not None

    def content(self, digest: str) -> Content | None:
        return _optional(_content, self._reader.get(tables.CONTENTS, digest.encode("ascii")))

    def change(self, revision: int) -> Change | None:
        return _optional(_change, self._reader.get(tables.CHANGES, number(revision)))

    def changes(self, start: int) -> Iterator[Change]:
        """In order of revision, from `start` on."""
        for _, row in self._reader.scan(tables.CHANGES, number(start)):
            yield _change.decode(row)

    def workflow_revisions(self, workflow: str, below: int = 1 << 63) -> Iterator[int]:
        """Revisions of the changes of a workflow below `below`, newest first."""
        prefix = within(workflow)
        for key, _ in self._reader.scan(tables.WORKFLOW_CHANGES, prefix, prefix + number(below), reverse=True):
            yield tables.to_number(key[len(prefix) :])

    def remembered(self, request_id: str) -> Remembered | None:
        return _optional(_remembered, self._reader.get(tables.REQUESTS, request_id.encode("ascii")))

    def request_id(self, sequence: int) -> str:
        row = self._reader.get(tables.REQUEST_ORDER, number(sequence))
        if row is None:
            raise KeyError(f"request {sequence} is not remembered")
        return row.decode("ascii")

    def agent(self, workflow: str, pointer: str, agent: str) -> Agent | None:
        key = within(workflow, pointer) + agent.encode("ascii")
        return _optional(_agent, self._reader.get(tables.AGENTS, key))

    def agents(self, workflow: str = "", after: bytes = b"") -> Iterator[tuple[bytes, Agent]]:
        """In order of workflow, pointer, agent, with their keys; of one workflow, or of all; those after a key."""
        prefix = within(workflow) if workflow else b""
        start = max(prefix, after + b"\0" if after else b"")
        for key, row in self._reader.scan(tables.AGENTS, start, past(prefix)):
            yield key, _agent.decode(row)

    def contact_ms(self, agent: str) -> int:
        row = self._reader.get(tables.CONTACTS, agent.encode("ascii"))
        return 0 if row is None else tables.to_number(row)


class StoreState(Rows):
    """core.state.State over the transaction of a tick."""

    def __init__(self, transaction: Transaction) -> None:
        super().__init__(transaction)
        self._transaction = transaction

    def put_registry(self, registry: Registry) -> None:
        self._transaction.put(tables.REGISTRY, _REGISTRY_KEY, encode(registry))

    def put_workflow(self, workflow: Workflow) -> None:
        self._transaction.put(tables.WORKFLOWS, workflow.name.encode("ascii"), encode(workflow))

    def put_version(self, version: Version) -> None:
        self._transaction.put(tables.VERSIONS, within(version.workflow) + number(version.number), encode_wide(version))

    def put_digest(self, workflow: str, digest: str, row: Digest) -> None:
        self._transaction.put(tables.DIGESTS, within(workflow) + digest.encode("ascii"), encode(row))

    def put_semver(self, workflow: str, semver: str, version: int) -> None:
        self._transaction.put(tables.SEMVERS, within(workflow) + semver.encode("ascii"), number(version))

    def put_fences(self, workflow: str, semantic_digest: str, numbers: tuple[int, ...]) -> None:
        key = within(workflow) + semantic_digest.encode("ascii")
        if numbers:
            self._transaction.put(tables.FENCES, key, encode(numbers))
        else:
            self._transaction.delete(tables.FENCES, key)

    def put_policy(self, scope: str, policy: Policy) -> None:
        key = scope.encode("ascii")
        if policy != Policy():
            self._transaction.put(tables.POLICIES, key, encode(policy))
        else:
            self._transaction.delete(tables.POLICIES, key)

    def put_requirement(self, token: str, workflow: str, version: int) -> None:
        self._transaction.put(tables.REQUIRES, tables.requiring(token) + workflow.encode("ascii"), number(version))

    def put_pointer(self, pointer: Pointer) -> None:
        row = encode(pointer)
        self._transaction.put(tables.POINTERS, within(pointer.workflow) + pointer.pointer.encode("ascii"), row)
        switch = within(pointer.workflow, pointer.pointer) + number(pointer.generation)
        self._transaction.put(tables.SWITCHES, switch, row)

    def put_content(self, digest: str, content: Content) -> None:
        self._transaction.put(tables.CONTENTS, digest.encode("ascii"), encode(content))

    def put_change(self, change: Change) -> None:
        row = encode(change) if change.version is None else encode_wide(change)
        self._transaction.put(tables.CHANGES, number(change.revision), row)
        for workflow in change.workflows:
            self._transaction.put(tables.WORKFLOW_CHANGES, within(workflow) + number(change.revision), b"")

    def remember(self, request_id: str, row: Remembered) -> None:
        has_version = isinstance(row.outcome, Published | Marked | Labelled)
        encoded = encode_wide(row) if has_version else encode(row)
        self._transaction.put(tables.REQUESTS, request_id.encode("ascii"), encoded)
        self._transaction.put(tables.REQUEST_ORDER, number(row.sequence), request_id.encode("ascii"))

    def forget(self, request_id: str) -> None:
        row = self.remembered(request_id)
        if row is None:
            raise KeyError(f"request {request_id} is not remembered")
        self._transaction.delete(tables.REQUESTS, request_id.encode("ascii"))
        self._transaction.delete(tables.REQUEST_ORDER, number(row.sequence))

    def put_agent(self, agent: Agent) -> None:
        key = within(agent.workflow, agent.pointer) + agent.agent.encode("ascii")
        self._transaction.put(tables.AGENTS, key, encode(agent))

    def put_contact(self, agent: str, time_ms: int) -> None:
        self._transaction.put(tables.CONTACTS, agent.encode("ascii"), number(time_ms))

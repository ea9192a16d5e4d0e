"""The typed rows of the registry over the tables: `Rows` reads any view of them, `StoreState` is core's State."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TypeVar

from msgspec import msgpack

from cluster.kv.api import Reader, Transaction
from registry.core.encoding import encode, encode_wide
from registry.core.limits import ROWS_REMEMBERED
from registry.core.model import (
    Agent,
    Backup,
    Change,
    Content,
    Digest,
    LastContact,
    Pointer,
    Policy,
    Registry,
    Removed,
    Version,
    Workflow,
)
from registry.core.outcomes import Marked, Published, Remembered
from registry.store import compact, tables
from registry.store.tables import number, past, raw, within

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
_removed = msgpack.Decoder(Removed)
_backup = msgpack.Decoder(Backup)
_contact = msgpack.Decoder(LastContact)
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
        row = self._reader.get(tables.WORKFLOWS, name.encode("ascii"))
        return None if row is None else _to_workflow(name, row)

    def workflows(self, prefix: str = "", after: str = "") -> Iterator[Workflow]:
        """In order of name; those that start with `prefix` and come after `after`."""
        start = max(prefix.encode("ascii"), after.encode("ascii") + b"\0" if after else b"")
        for key, row in self._reader.scan(tables.WORKFLOWS, start, past(prefix.encode("ascii"))):
            yield _to_workflow(key.decode("ascii"), row)

    def version(self, workflow: str, version: int) -> Version | None:
        row = self._reader.get(tables.VERSIONS, within(workflow) + number(version))
        return None if row is None else _to_known_version(workflow, version, row)

    def versions(self, workflow: str, below: int) -> Iterator[Version]:
        """Newest first, those with a number below `below`."""
        prefix = within(workflow)
        for key, row in self._reader.scan(tables.VERSIONS, prefix, prefix + number(below), reverse=True):
            yield _to_version(workflow, tables.to_number(key[len(prefix) :]), row)

    def digest(self, workflow: str, digest: str) -> Digest | None:
        row = self._either(tables.DIGESTS, within(workflow), digest)
        return None if row is None else _to_digest(row)

    def digests(self, workflow: str, prefix: str) -> Iterator[tuple[str, Digest]]:
        """Digests of a workflow that start with `prefix`."""
        before = within(workflow)
        for start, end in tables.starting(prefix):
            for key, row in self._reader.scan(tables.DIGESTS, before + start, before + end):
                if (found := tables.to_digest(key[len(before) :])).startswith(prefix):
                    yield found, _to_digest(row)

    def semver(self, workflow: str, semver: str) -> int | None:
        row = self._reader.get(tables.SEMVERS, within(workflow) + semver.encode("ascii"))
        return None if row is None else tables.to_number(row)

    def fences(self, workflow: str, semantic_digest: str) -> tuple[int, ...]:
        row = self._reader.get(tables.FENCES, within(workflow) + semantic_digest.encode("ascii"))
        return () if row is None else _numbers.decode(row)

    def policy(self, scope: str) -> Policy | None:
        return _optional(_policy, self._reader.get(tables.POLICIES, scope.encode("ascii")))

    def policies(self, after: str = "") -> Iterator[tuple[str, Policy]]:
        """In order of scope, those after one."""
        start = after.encode("ascii") + b"\0" if after else b""
        for key, row in self._reader.scan(tables.POLICIES, start):
            yield key.decode("ascii"), _policy.decode(row)

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
        return self._either(tables.CONTENTS, b"", digest) is not None

    def content(self, digest: str) -> Content | None:
        row = self._either(tables.CONTENTS, b"", digest)
        return None if row is None else _to_content(row)

    def holders(self, digest: str) -> Iterator[tuple[str, int]]:
        prefix = raw(digest)
        for key, _ in self._reader.scan(tables.HOLDERS, prefix, prefix + b"\xff" * 2):
            workflow, _, held = key[len(prefix) :].partition(b"\0")
            yield workflow.decode("ascii"), tables.to_number(held)

    def deltas(self, base: str) -> Iterator[str]:
        prefix = raw(base)
        for key, _ in self._reader.scan(tables.DELTAS, prefix, prefix + b"\xff" * 33):
            yield f"sha256:{key[len(prefix) :].hex()}"

    def chunk(self, digest: str) -> Content | None:
        row = self._reader.get(tables.CHUNKS, digest.encode("ascii"))
        return None if row is None else _to_content(row)

    def chunk_uses(self, digest: str) -> int | None:
        row = self._reader.get(tables.CHUNK_USES, digest.encode("ascii"))
        return None if row is None else tables.to_number(row)

    def chunks(self, after: str = "") -> Iterator[tuple[str, int]]:
        """Every chunk and how many contents name it, in order of digest, those after one."""
        start = after.encode("ascii") + b"\0" if after else b""
        for key, row in self._reader.scan(tables.CHUNK_USES, start):
            yield key.decode("ascii"), tables.to_number(row)

    def contents(self) -> Iterator[tuple[str, Content]]:
        for key, row in self._reader.scan(tables.CONTENTS):
            yield tables.to_digest(key), _to_content(row)

    def let_go(self, digest: str) -> int | None:
        row = self._reader.get(tables.LET_GO, raw(digest))
        return None if row is None else tables.to_number(row)

    def purged(self, digest: str) -> Removed | None:
        return _optional(_removed, self._reader.get(tables.PURGED, digest.encode("ascii")))

    def backups(self) -> Iterator[Backup]:
        for _, row in self._reader.scan(tables.BACKUPS):
            yield _backup.decode(row)

    def change(self, revision: int) -> Change | None:
        row = self._reader.get(tables.CHANGES, number(revision))
        return None if row is None else self._change(revision, row)

    def changes(self, start: int) -> Iterator[Change]:
        """In order of revision, from `start` on."""
        for key, row in self._reader.scan(tables.CHANGES, number(start)):
            yield self._change(tables.to_number(key), row)

    def workflow_revisions(self, workflow: str, below: int = 1 << 63) -> Iterator[int]:
        """Revisions of the changes of a workflow below `below`, newest first."""
        prefix = within(workflow)
        for key, _ in self._reader.scan(tables.WORKFLOW_CHANGES, prefix, prefix + number(below), reverse=True):
            yield tables.to_number(key[len(prefix) :])

    def remembered(self, request_id: str) -> Remembered | None:
        row = self._reader.get(tables.REQUESTS, request_id.encode("ascii"))
        if row is None or not compact.is_compact(row):
            return _optional(_remembered, row)
        return compact.unpack_remembered(row, self._referred)

    def request_id(self, sequence: int) -> str:
        row = self._reader.get(tables.REQUEST_ORDER, number(sequence))
        if row is None:
            raise KeyError(f"request {sequence} is not remembered")
        return row.decode("ascii")

    def agent(self, workflow: str, pointer: str, agent: str) -> Agent | None:
        key = within(workflow, pointer) + agent.encode("ascii")
        return _optional(_agent, self._reader.get(tables.AGENTS, key))

    def agents(self, workflow: str = "", after: bytes = b"", *, pointer: str = "") -> Iterator[tuple[bytes, Agent]]:
        """In order of workflow, pointer, agent; of all, of a workflow, or of a pointer of it; after a key."""
        prefix = within(*filter(None, (workflow, pointer)))
        start = max(prefix, after + b"\0" if after else b"")
        for key, row in self._reader.scan(tables.AGENTS, start, past(prefix)):
            yield key, _agent.decode(row)

    def contact(self, agent: str) -> LastContact:
        row = self._reader.get(tables.CONTACTS, agent.encode("ascii"))
        return LastContact() if row is None else _to_contact(row)

    def contacts(self, after: str = "") -> Iterator[tuple[str, LastContact]]:
        """In order of agent, those after one."""
        start = after.encode("ascii") + b"\0" if after else b""
        for key, row in self._reader.scan(tables.CONTACTS, start):
            yield key.decode("ascii"), _to_contact(row)

    def _either(self, table: str, before: bytes, digest: str) -> bytes | None:
        """A row under the bytes of a digest, or under its text, as feature level 1 wrote it."""
        row = self._reader.get(table, before + raw(digest))
        return self._reader.get(table, before + digest.encode("ascii")) if row is None else row

    def _change(self, revision: int, row: bytes) -> Change:
        return compact.unpack_change(revision, row, self._referred) if compact.is_compact(row) else _change.decode(row)

    def _referred(self, workflow: str, number: int) -> Version:
        version = self.version(workflow, number)
        if version is None:
            raise KeyError(f"version {number} of {workflow} is missing")
        return version


def _to_workflow(name: str, row: bytes) -> Workflow:
    return compact.unpack_workflow(name, row) if compact.is_compact(row) else _workflow.decode(row)


@lru_cache(ROWS_REMEMBERED)  # most rows are alike
def _to_digest(row: bytes) -> Digest:
    return compact.unpack_digest(row) if compact.is_compact(row) else _digest.decode(row)


def _to_version(workflow: str, version: int, row: bytes) -> Version:
    return compact.unpack_version(workflow, version, row) if compact.is_compact(row) else _version.decode(row)


_to_known_version = lru_cache(ROWS_REMEMBERED)(_to_version)


def _to_content(row: bytes) -> Content:
    return compact.unpack_content(row) if compact.is_compact(row) else _content.decode(row)


def _to_contact(row: bytes) -> LastContact:
    """Level 1 kept the time alone: a number, which does not start like a MessagePack array."""
    return _contact.decode(row) if compact.is_compact(row) else LastContact(time_ms=tables.to_number(row))


class StoreState(Rows):
    """core.state.State over the transaction of a tick, for one command. `level`: the feature level in force; it decides
    how some rows are written, which all members must do alike."""

    def __init__(self, transaction: Transaction, *, level: int) -> None:
        super().__init__(transaction)
        self._transaction = transaction
        self._small = level >= 2
        self._registry: Registry | None = None  # as read or written last: every command asks four times

    def registry(self) -> Registry:
        if self._registry is None:
            self._registry = super().registry()
        return self._registry

    def put_registry(self, registry: Registry) -> None:
        self._registry = registry
        self._transaction.put(tables.REGISTRY, _REGISTRY_KEY, encode(registry))

    def put_workflow(self, workflow: Workflow) -> None:
        row = compact.pack_workflow(workflow) if self._small else encode(workflow)
        self._transaction.put(tables.WORKFLOWS, workflow.name.encode("ascii"), row)

    def put_version(self, version: Version) -> None:
        row = compact.pack_version(version) if self._small else encode_wide(version)
        self._transaction.put(tables.VERSIONS, within(version.workflow) + number(version.number), row)

    def put_digest(self, workflow: str, digest: str, row: Digest) -> None:
        packed = compact.pack_digest(row) if self._small else encode(row)
        self._put_either(tables.DIGESTS, within(workflow), digest, packed)

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
        before = self.content(digest)
        if before is not None and before.base:
            self._transaction.delete(tables.DELTAS, raw(before.base) + raw(digest))
        if content.base:
            self._transaction.put(tables.DELTAS, raw(content.base) + raw(digest), b"")
        row = compact.pack_content(content) if self._small else encode(content)
        self._put_either(tables.CONTENTS, b"", digest, row)

    def delete_content(self, digest: str) -> None:
        before = self.content(digest)
        if before is not None and before.base:
            self._transaction.delete(tables.DELTAS, raw(before.base) + raw(digest))
        for key in (raw(digest), digest.encode("ascii")):
            self._transaction.delete(tables.CONTENTS, key)

    def _put_either(self, table: str, before: bytes, digest: str, row: bytes) -> None:
        """Under the bytes of the digest; below feature level 2 under its text. Never under both."""
        text = before + digest.encode("ascii")
        if self._small:
            self._transaction.delete(table, text)
        self._transaction.put(table, before + raw(digest) if self._small else text, row)

    def put_holder(self, digest: str, workflow: str, version: int) -> None:
        self._transaction.put(tables.HOLDERS, raw(digest) + within(workflow) + number(version), b"")

    def delete_holder(self, digest: str, workflow: str, version: int) -> None:
        self._transaction.delete(tables.HOLDERS, raw(digest) + within(workflow) + number(version))

    def put_chunk(self, digest: str, content: Content) -> None:
        self._transaction.put(tables.CHUNKS, digest.encode("ascii"), compact.pack_content(content))
        self.put_chunk_uses(digest, 0)

    def put_chunk_uses(self, digest: str, uses: int) -> None:
        self._transaction.put(tables.CHUNK_USES, digest.encode("ascii"), number(uses))

    def delete_chunk(self, digest: str) -> None:
        self._transaction.delete(tables.CHUNKS, digest.encode("ascii"))
        self._transaction.delete(tables.CHUNK_USES, digest.encode("ascii"))

    def put_let_go(self, digest: str, revision: int) -> None:
        self._transaction.put(tables.LET_GO, raw(digest), number(revision))

    def put_purged(self, digest: str, row: Removed) -> None:
        self._transaction.put(tables.PURGED, digest.encode("ascii"), encode(row))

    def put_backup(self, backup: Backup) -> None:
        self._transaction.put(tables.BACKUPS, _backup_key(backup), encode(backup))

    def delete_backup(self, backup: Backup) -> None:
        self._transaction.delete(tables.BACKUPS, _backup_key(backup))

    def put_change(self, change: Change) -> None:
        row = compact.pack_change(change) if self._small else encode_wide(change)
        self._transaction.put(tables.CHANGES, number(change.revision), row)
        for workflow in change.workflows:
            self._transaction.put(tables.WORKFLOW_CHANGES, within(workflow) + number(change.revision), b"")

    def remember(self, request_id: str, row: Remembered) -> None:
        if self._small:
            encoded = compact.pack_remembered(row)
        else:
            encoded = encode_wide(row) if isinstance(row.outcome, Published | Marked) else encode(row)
        self._transaction.put(tables.REQUESTS, request_id.encode("ascii"), encoded)
        self._transaction.put(tables.REQUEST_ORDER, number(row.sequence), request_id.encode("ascii"))

    def forget(self, request_id: str) -> None:
        row = self._transaction.get(tables.REQUESTS, request_id.encode("ascii"))
        if row is None:
            raise KeyError(f"request {request_id} is not remembered")
        sequence = compact.sequence(row) if compact.is_compact(row) else _remembered.decode(row).sequence
        self._transaction.delete(tables.REQUESTS, request_id.encode("ascii"))
        self._transaction.delete(tables.REQUEST_ORDER, number(sequence))

    def put_agent(self, agent: Agent) -> None:
        key = within(agent.workflow, agent.pointer) + agent.agent.encode("ascii")
        self._transaction.put(tables.AGENTS, key, encode(agent))

    def delete_agent(self, workflow: str, pointer: str, agent: str) -> None:
        self._transaction.delete(tables.AGENTS, within(workflow, pointer) + agent.encode("ascii"))

    def put_contact(self, agent: str, contact: LastContact) -> None:
        row = encode(contact) if self._small else number(contact.time_ms)
        self._transaction.put(tables.CONTACTS, agent.encode("ascii"), row)

    def delete_contact(self, agent: str) -> None:
        self._transaction.delete(tables.CONTACTS, agent.encode("ascii"))


def _backup_key(backup: Backup) -> bytes:
    return number(backup.revision) + number(backup.index) + number(backup.taken_ms)

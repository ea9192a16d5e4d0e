"""What the machine reads and writes: typed rows. registry/store implements it over one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

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
from registry.core.outcomes import Remembered


class View(Protocol):
    """A missing row is None (counters: a fresh Registry; contacts: an empty LastContact)."""

    def registry(self) -> Registry: ...

    def workflow(self, name: str) -> Workflow | None: ...

    def version(self, workflow: str, number: int) -> Version | None: ...

    def digest(self, workflow: str, digest: str) -> Digest | None: ...

    def semver(self, workflow: str, semver: str) -> int | None:
        """The number of the version with this label `semver`, in the form of names.semver_key."""
        ...

    def fences(self, workflow: str, semantic_digest: str) -> tuple[int, ...]:
        """Numbers of the fenced versions with this meaning, those fenced since feature level 2; empty: none."""
        ...

    def policy(self, scope: str) -> Policy | None:
        """What one scope says: `*`, `ns/*` or `ns/name`."""
        ...

    def pointer(self, workflow: str, pointer: str) -> Pointer | None: ...

    def pointers(self, workflow: str) -> Iterator[Pointer]:
        """Current ones, in order of name."""
        ...

    def switches(self, workflow: str, pointer: str) -> Iterator[Pointer]:
        """The pointer after each of its switches, newest first."""
        ...

    def switch(self, workflow: str, pointer: str, generation: int) -> Pointer | None:
        """The pointer as the switch to this generation left it."""
        ...

    def has_content(self, digest: str) -> bool: ...

    def content(self, digest: str) -> Content | None: ...

    def holders(self, digest: str) -> Iterator[tuple[str, int]]:
        """Versions (workflow, number) with these bytes whose content is kept, in order. Complete once
        `Registry.is_indexed`."""
        ...

    def deltas(self, base: str) -> Iterator[str]:
        """Digests of the contents that are stored as deltas of this one."""
        ...

    def chunk_uses(self, digest: str) -> int | None:
        """How many contents name this chunk; None: there is no such chunk."""
        ...

    def let_go(self, digest: str) -> int | None:
        """The lowest revision of a version that had these bytes and lost its content; None: there is none."""
        ...

    def purged(self, digest: str) -> Removed | None: ...

    def backups(self) -> Iterator[Backup]:
        """In order of revision."""
        ...

    def workflows(self, prefix: str = "", after: str = "") -> Iterator[Workflow]:
        """In order of name, those after a name."""
        ...

    def versions(self, workflow: str, below: int) -> Iterator[Version]:
        """Newest first, those with a number below `below`."""
        ...

    def agents(self, workflow: str = "", after: bytes = b"") -> Iterator[tuple[bytes, Agent]]:
        """Of one workflow, with their keys."""
        ...

    def remembered(self, request_id: str) -> Remembered | None: ...

    def request_id(self, sequence: int) -> str:
        """The remembered request of this sequence."""
        ...

    def agent(self, workflow: str, pointer: str, agent: str) -> Agent | None: ...

    def contact(self, agent: str) -> LastContact: ...


class State(View, Protocol):
    """Sees its own writes."""

    def put_registry(self, registry: Registry) -> None: ...

    def put_workflow(self, workflow: Workflow) -> None: ...

    def put_version(self, version: Version) -> None: ...

    def put_digest(self, workflow: str, digest: str, row: Digest) -> None: ...

    def put_semver(self, workflow: str, semver: str, number: int) -> None: ...

    def put_fences(self, workflow: str, semantic_digest: str, numbers: tuple[int, ...]) -> None: ...

    def put_policy(self, scope: str, policy: Policy) -> None:
        """One that says nothing is not kept."""
        ...

    def put_requirement(self, token: str, workflow: str, number: int) -> None:
        """The newest version of a workflow that requires `token`."""
        ...

    def put_pointer(self, pointer: Pointer) -> None:
        """As the current one and as one more of its switches."""
        ...

    def put_content(self, digest: str, content: Content) -> None:
        """New, or in place of another encoding of the same bytes. Keeps `deltas` right; not the uses of chunks."""
        ...

    def delete_content(self, digest: str) -> None:
        """Likewise."""
        ...

    def put_holder(self, digest: str, workflow: str, number: int) -> None: ...

    def delete_holder(self, digest: str, workflow: str, number: int) -> None: ...

    def put_chunk(self, digest: str, content: Content) -> None:
        """A new one, used by nobody."""
        ...

    def put_chunk_uses(self, digest: str, uses: int) -> None: ...

    def delete_chunk(self, digest: str) -> None: ...

    def put_let_go(self, digest: str, revision: int) -> None: ...

    def put_purged(self, digest: str, row: Removed) -> None: ...

    def put_backup(self, backup: Backup) -> None: ...

    def delete_backup(self, backup: Backup) -> None: ...

    def put_change(self, change: Change) -> None: ...

    def remember(self, request_id: str, row: Remembered) -> None: ...

    def forget(self, request_id: str) -> None: ...

    def put_agent(self, agent: Agent) -> None: ...

    def delete_agent(self, workflow: str, pointer: str, agent: str) -> None: ...

    def put_contact(self, agent: str, contact: LastContact) -> None: ...

    def delete_contact(self, agent: str) -> None: ...

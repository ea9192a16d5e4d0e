"""A machine over memory, and commands in one line."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, structs

from cluster.kv.api import Environment
from cluster.kv.memory_env import MemoryEnvironment
from registry.core import limits, machine, request_ids
from registry.core.commands import (
    Acknowledge,
    Command,
    Found,
    Index,
    Label,
    Mark,
    Move,
    Publish,
    Purge,
    Retain,
    SetPolicy,
    Switch,
)
from registry.core.errors import Reason
from registry.core.model import Pointer, Registry, Status, Version
from registry.core.outcomes import Indexed, Marked, Outcome, Published, Rejected, Retained, Switched
from registry.store import content
from registry.store.state import Rows, StoreState
from registry.store.tables import REGISTRY, REQUEST_ORDER, REQUESTS, TABLES

START_MS = 1_800_000_000_000
WORKFLOW = "support/triage"
Dump = dict[str, list[tuple[bytes, bytes]]]


class Machine:
    """Applies commands, one commit each. Time passes one millisecond a request."""

    def __init__(
        self,
        environment: Environment | None = None,
        *,
        level: int = limits.FEATURE_LEVEL,
        requests_remembered: int = limits.REQUESTS_REMEMBERED,
    ) -> None:
        self.environment = environment or MemoryEnvironment(TABLES)
        self.level = level  # in force; may rise
        self.requests_remembered = requests_remembered
        self._ids = 0

    def request_id(self) -> str:
        self._ids += 1
        return request_ids.make(START_MS + self._ids, self._ids.to_bytes(10, "big"))

    def apply(self, command: Command) -> Outcome:
        outcome = machine.apply(
            StoreState(self.environment.transaction(), level=self.level),
            command,
            level=self.level,
            requests_remembered=self.requests_remembered,
        )
        self.environment.commit()
        return outcome

    @property
    def rows(self) -> Rows:
        return Rows(self.environment.transaction())

    @property
    def registry(self) -> Registry:
        return self.rows.registry()

    def pointer(self, workflow: str = WORKFLOW, pointer: str = "active") -> Pointer:
        found = self.rows.pointer(workflow, pointer)
        assert found is not None
        return found

    def version(self, number: int, workflow: str = WORKFLOW) -> Version:
        found = self.rows.version(workflow, number)
        assert found is not None
        return found

    def found(self, cluster_id: str = "c1") -> Outcome:
        return self.apply(Found(request_id=self.request_id(), time_ms=START_MS, cluster_id=cluster_id))

    def publish_command(self, data: bytes, workflow: str = WORKFLOW, **fields: Any) -> Publish:
        return structs.replace(
            Publish(
                request_id=self.request_id(),
                time_ms=START_MS + self._ids,
                principal="ada",
                workflow=workflow,
                kind="json",
                digest=content.digest(data),
                value_digest="v1:0",
                semantic_digest=f"s1:{data.hex()[:64]}",  # bytes mean different things, unless said otherwise
                content=content.encode(data),
            ),
            **fields,
        )

    def publish(self, data: bytes, workflow: str = WORKFLOW, **fields: Any) -> Outcome:
        return self.apply(self.publish_command(data, workflow, **fields))

    def published(self, *contents: bytes, workflow: str = WORKFLOW) -> None:
        for data in contents:
            outcome = self.publish(data, workflow)
            assert isinstance(outcome, Published)

    def switch_command(self, *moves: Move, **fields: Any) -> Switch:
        command = Switch(
            request_id=self.request_id(),
            time_ms=START_MS + self._ids,
            principal="ada",
            moves=moves,
            reason="because",
        )
        return structs.replace(command, **fields)

    def switch(self, target: int = 0, workflow: str = WORKFLOW, pointer: str = "active", **fields: Any) -> Outcome:
        expected = fields.pop("expected_generation", None)
        move = Move(workflow=workflow, pointer=pointer, target=target, expected_generation=expected)
        return self.apply(self.switch_command(move, **fields))

    def switched(self, *targets: int, workflow: str = WORKFLOW, pointer: str = "active") -> None:
        for target in targets:
            assert isinstance(self.switch(target, workflow, pointer), Switched)

    def rollback(self, target: int = 0, **fields: Any) -> Outcome:
        return self.switch(target, rollback=True, **fields)

    def mark(self, version: int, status: Status, workflow: str = WORKFLOW, **fields: Any) -> Outcome:
        command = Mark(
            request_id=self.request_id(),
            time_ms=START_MS + self._ids,
            principal="ada",
            workflow=workflow,
            version=version,
            status=status,
            reason="because",
        )
        return self.apply(structs.replace(command, **fields))

    def marked(self, version: int, *statuses: Status, workflow: str = WORKFLOW) -> None:
        for status in statuses:
            outcome = self.mark(version, status, workflow)
            assert isinstance(outcome, Marked), outcome

    def label(self, version: int, labels: dict[str, str], *remove: str, workflow: str = WORKFLOW) -> Outcome:
        command = Label(
            request_id=self.request_id(),
            time_ms=START_MS + self._ids,
            principal="ada",
            workflow=workflow,
            version=version,
            labels=labels,
            remove=remove,
            reason="because",
        )
        return self.apply(command)

    def set_policy(self, scope: str, **fields: str) -> Outcome:
        command = SetPolicy(
            request_id=self.request_id(),
            time_ms=START_MS + self._ids,
            principal="ada",
            scope=scope,
            fields=fields,
            reason="because",
        )
        return self.apply(command)

    def order(self, kind: type[Struct], **fields: Any) -> Outcome:
        """A command of this kind, filled up with what all commands have."""
        return self.apply(self.command(kind, **fields))

    def command(self, kind: type[Struct], **fields: Any) -> Any:
        about = {
            "request_id": self.request_id(),
            "time_ms": START_MS + self._ids,
            "principal": "ada",
            "reason": "because",
            "workflow": WORKFLOW,
        }
        return kind(**{name: value for name, value in about.items() if name in kind.__struct_fields__} | fields)

    def retain(self, *versions: int, **fields: Any) -> Retained:
        outcome = self.order(Retain, versions=versions, **fields)
        assert isinstance(outcome, Retained), outcome
        return outcome

    def purge(self, version: int, workflow: str = WORKFLOW, **fields: Any) -> Outcome:
        about = {"digest": self.version(version, workflow).digest}
        return self.order(Purge, workflow=workflow, version=version, **about | fields)

    def indexed(self) -> None:
        """Who holds which content is known from now on."""
        assert self.order(Index) == Indexed(revision=self.registry.revision, done=True)

    def acknowledge(self, *acks: Any, contacts: tuple[Any, ...] = ()) -> Outcome:
        return self.apply(Acknowledge(request_id=self.request_id(), time_ms=START_MS, acks=acks, contacts=contacts))

    def dump(self) -> Dump:
        """Every row of every table."""
        return dump(self.environment)


def dump(environment: Environment) -> Dump:
    with environment.snapshot() as reader:
        return {table: list(reader.scan(table)) for table in TABLES}


def without_request_memory(rows: Dump, registry: Registry) -> Dump:
    """What must stay the same when a command is rejected."""
    counted = structs.replace(registry, remembered=0, requests=0, forgotten_ms=0)
    kept = {table: found for table, found in rows.items() if table not in (REQUESTS, REQUEST_ORDER, REGISTRY)}
    return kept | {REGISTRY: [(b"registry", repr(counted).encode())]}


def assert_rejected(outcome: Outcome, reason: Reason) -> Rejected:
    assert isinstance(outcome, Rejected), outcome
    assert outcome.reason == reason
    assert outcome.message
    assert outcome.hint
    return outcome

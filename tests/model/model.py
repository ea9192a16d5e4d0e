"""The machine over memory and over LMDB beside the oracle: what the models of tests/model share."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine
from msgspec import structs

from cluster.kv.lmdb_env import LmdbEnvironment
from registry.core import machine
from registry.core.commands import Mark, SetPolicy
from registry.core.model import Status
from registry.core.outcomes import (
    BackupNoted,
    ChunkKept,
    Collected,
    EpochBegun,
    Founded,
    Held,
    Indexed,
    Labelled,
    Marked,
    Outcome,
    PolicySet,
    Published,
    Purged,
    Rejected,
    Repacked,
    Retained,
    Switched,
)
from registry.store.state import StoreState
from registry.store.tables import CHANGES, TABLES
from tests.model.oracle import Answer, Asked, Oracle
from tests.unit.core.kit import Machine, without_request_memory

WINDOW = 8  # request ids remembered
WORKFLOWS = ("a/x", "a/x-2")
WITHOUT_REVISION = (ChunkKept, Collected, Repacked, Indexed, BackupNoted)

workflows = st.sampled_from(WORKFLOWS)


def answer_of(outcome: Outcome) -> Answer:
    match outcome:
        case Founded():
            return ("founded", outcome.cluster_id)
        case Published():
            return ("published", outcome.version.number, outcome.created, len(outcome.notes))
        case Switched():
            return (
                "switched",
                tuple(pointer.version for pointer in outcome.pointers),
                tuple(pointer.generation for pointer in outcome.pointers),
                frozenset((change.workflow, change.version) for change in outcome.status_changes),
            )
        case Marked():
            return ("marked", outcome.previous_status, outcome.version.status)
        case EpochBegun():
            return ("epoch", outcome.epoch)
        case Labelled():
            return ("labelled", outcome.version.labels)
        case PolicySet():
            said = structs.asdict(outcome.policy)
            return ("policy", {field: value for field, value in said.items() if value})
        case Held():
            return ("held", outcome.version.hold)
        case Retained():
            removed = frozenset(each.version for each in outcome.removed)
            return ("retained", removed, frozenset(outcome.kept))
        case Purged():
            removed_everywhere = frozenset((each.workflow, each.version) for each in outcome.removed)
            return ("purged", removed_everywhere, frozenset(each.revision for each in outcome.backups))
        case ChunkKept():
            return ("chunk",)
        case Collected():
            return ("collected", outcome.deleted)
        case Repacked():
            return ("repacked", outcome.done)
        case Indexed():
            return ("indexed", outcome.done)
        case BackupNoted():
            return ("noted",)
        case Rejected():
            return ("rejected", outcome.reason)
        case _:
            raise AssertionError(outcome)


class RegistryModel(RuleBasedStateMachine):
    """Sends commands to all three, and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="registry-model-"))
        self.disk = LmdbEnvironment(self.directory / "kv", TABLES)
        self.memory = Machine(requests_remembered=WINDOW)
        self.oracle = Oracle(WINDOW)
        self.sent: list[Asked] = []
        self.generations: dict[tuple[str, str], int] = {}

    def teardown(self) -> None:
        try:
            self.disk.commit()
            with self.disk.snapshot() as reader:
                assert {table: list(reader.scan(table)) for table in TABLES} == self.memory.dump()
        finally:
            self.disk.close()
            shutil.rmtree(self.directory)

    def send(self, command: Asked) -> None:
        self.sent.append(command)
        before, was = self.memory.dump(), self.memory.registry
        outcome = self.memory.apply(command)
        after, now = self.memory.dump(), self.memory.registry
        assert answer_of(outcome) == self.oracle.apply(command)
        on_disk = machine.apply(
            StoreState(self.disk.transaction(), level=self.memory.level),
            command,
            level=self.memory.level,
            requests_remembered=WINDOW,
        )
        assert on_disk == outcome
        if len(self.sent) % 3:
            self.disk.commit()
        assert now.revision == self.oracle.revision
        accepted = now.revision - was.revision
        assert accepted in (0, 1)
        assert len(after[CHANGES]) == len(before[CHANGES]) + accepted == now.revision
        if not accepted and not isinstance(outcome, WITHOUT_REVISION):
            assert without_request_memory(after, now) == without_request_memory(before, was)
        if accepted:
            change = self.memory.rows.change(now.revision)
            assert change is not None
            assert change.request_id == command.request_id
            assert outcome.revision == change.revision == now.revision

    def mark_command(self, workflow: str, version: int, status: Status) -> Mark:
        return Mark(
            request_id=self.memory.request_id(),
            time_ms=1,
            principal="ada",
            workflow=workflow,
            version=version,
            status=status,
            reason="because",
        )

    def policy_command(self, scope: str, fields: dict[str, str]) -> SetPolicy:
        return SetPolicy(
            request_id=self.memory.request_id(),
            time_ms=1,
            principal="ada",
            scope=scope,
            fields=fields,
            reason="because",
        )


def meaning(data: bytes) -> str:
    """Spaces do not matter."""
    return f"s1:{data.strip().hex()}"

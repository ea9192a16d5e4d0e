"""The machine over memory and over LMDB against the oracle, over random commands with retries.

Holds after every command: the answer is the oracle's; a rejection changed nothing but the memory of its id; an
accepted change is one revision and one audit entry (invariants 3, 5 and 6 of docs/ARCHITECTURE.md).
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec import structs

from cluster.kv.lmdb_env import LmdbEnvironment
from registry.core import machine
from registry.core.commands import Found, Mark, Move, Publish, Switch
from registry.core.model import STATUSES, Status
from registry.core.outcomes import Founded, Marked, Outcome, Published, Rejected, Switched
from registry.core.request_ids import issued_ms
from registry.store.state import Rows, StoreState
from registry.store.tables import CHANGES, TABLES
from tests.model.oracle import Answer, Oracle
from tests.unit.core.kit import Machine, without_request_memory

pytestmark = pytest.mark.timeout(900)  # a failure is worth the minutes that making it small takes

WINDOW = 8  # request ids remembered
WORKFLOWS = ("a/x", "a/x-2")
POINTERS = ("active", "canary")

workflows = st.sampled_from(WORKFLOWS)
generations = st.sampled_from([None, None, None, None, None, 0, 1, 2, 3])
moves = st.lists(
    st.tuples(workflows, st.sampled_from(POINTERS), st.integers(1, 5), generations),
    min_size=1,
    max_size=2,
    unique_by=lambda move: move[:2],
)


def answer_of(outcome: Outcome) -> Answer:
    match outcome:
        case Founded():
            return ("founded", outcome.cluster_id)
        case Published():
            return ("published", outcome.version.number, outcome.created)
        case Switched():
            return (
                "switched",
                tuple(pointer.version for pointer in outcome.pointers),
                tuple(pointer.generation for pointer in outcome.pointers),
                frozenset((change.workflow, change.version) for change in outcome.status_changes),
            )
        case Marked():
            return ("marked", outcome.previous_status, outcome.version.status)
        case Rejected():
            return ("rejected", outcome.reason)
        case _:
            raise AssertionError(outcome)


class Registry(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="registry-model-"))
        self.disk = LmdbEnvironment(self.directory / "kv", TABLES)
        self.memory = Machine(requests_remembered=WINDOW)
        self.oracle = Oracle(WINDOW)
        self.sent: list[Found | Publish | Switch | Mark] = []
        self.generations: dict[tuple[str, str], int] = {}

    def teardown(self) -> None:
        try:
            self.disk.commit()
            with self.disk.snapshot() as reader:
                assert {table: list(reader.scan(table)) for table in TABLES} == self.memory.dump()
        finally:
            self.disk.close()
            shutil.rmtree(self.directory)

    def send(self, command: Found | Publish | Switch | Mark) -> None:
        self.sent.append(command)
        before, was = self.memory.dump(), self.memory.registry
        outcome = self.memory.apply(command)
        after, now = self.memory.dump(), self.memory.registry
        assert answer_of(outcome) == self.oracle.apply(command)
        on_disk = machine.apply(StoreState(self.disk.transaction()), command, requests_remembered=WINDOW)
        assert on_disk == outcome
        if len(self.sent) % 3:
            self.disk.commit()
        assert now.revision == self.oracle.revision
        accepted = now.revision - was.revision
        assert accepted in (0, 1)
        assert len(after[CHANGES]) == len(before[CHANGES]) + accepted == now.revision
        if not accepted:
            assert without_request_memory(after, now) == without_request_memory(before, was)
        else:
            change = self.memory.rows.change(now.revision)
            assert change is not None
            assert change.request_id == command.request_id
            assert outcome.revision == change.revision == now.revision

    @initialize(stable=st.sets(st.integers(1, 4)))
    def begin(self, stable: set[int]) -> None:
        """Four versions of each workflow, live in turn, some of them stable."""
        for cluster_id in ("c1", "c2"):
            self.send(Found(request_id=self.memory.request_id(), time_ms=1, cluster_id=cluster_id))
        for workflow in WORKFLOWS:
            for number, data in enumerate([b"1", b"2", b"1", b"3"], start=1):
                self.send(self.memory.publish_command(data, workflow))
                self.send(self.memory.switch_command(Move(workflow=workflow, pointer="active", target=number)))
            for number in stable:
                self.send(self.mark_command(workflow, number, "stable"))

    @rule(
        workflow=workflows,
        data=st.sampled_from([b"1", b"2", b"3"]),
        semver=st.sampled_from(["", "", "", "1.0.0", "v1.0.0", "1.1.0"]),
        kind=st.sampled_from(["json", "json", "json", "json", "json", "yaml"]),
    )
    def publish(self, workflow: str, data: bytes, semver: str, kind: str) -> None:
        labels = {"semver": semver} if semver else {}
        self.send(self.memory.publish_command(data, workflow, labels=labels, kind=kind))

    @rule(moves=moves, force=st.booleans())
    def switch(self, moves: list[tuple[str, str, int, int | None]], force: bool) -> None:
        self.send(self.memory.switch_command(*made(moves), force=force))

    @rule(moves=moves, force=st.booleans(), keep_status=st.booleans())
    def roll_back_to(self, moves: list[tuple[str, str, int, int | None]], force: bool, keep_status: bool) -> None:
        self.send(self.memory.switch_command(*made(moves), rollback=True, force=force, keep_status=keep_status))

    @rule(moves=moves, keep_status=st.booleans())
    def roll_back(self, moves: list[tuple[str, str, int, int | None]], keep_status: bool) -> None:
        picked = tuple(structs.replace(move, target=0) for move in made(moves))
        self.send(self.memory.switch_command(*picked, rollback=True, keep_status=keep_status))

    @rule(workflow=workflows, times=st.integers(1, 4))
    def roll_back_again_and_again(self, workflow: str, times: int) -> None:
        for _ in range(times):
            move = Move(workflow=workflow, pointer="active")
            self.send(self.memory.switch_command(move, rollback=True, keep_status=True))

    @rule(
        workflow=workflows,
        version=st.integers(1, 4),
        status=st.sampled_from([*STATUSES, "stable", "fenced"]),
    )
    def mark(self, workflow: str, version: int, status: Status) -> None:
        self.send(self.mark_command(workflow, version, status))

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

    @rule(back=st.integers(0, WINDOW + 2))
    def retry(self, back: int) -> None:
        self.send(self.sent[-1 - back])

    @rule(back=st.integers(0, WINDOW - 1), data=st.sampled_from([b"1", b"4"]))
    def reuse(self, back: int, data: bytes) -> None:
        old = self.sent[-1 - back].request_id
        self.send(structs.replace(self.memory.publish_command(data, WORKFLOWS[0]), request_id=old))

    @invariant()
    def generations_only_rise_and_the_history_is_whole(self) -> None:
        rows = self.memory.rows
        for workflow in WORKFLOWS:
            for pointer in rows.pointers(workflow):
                key = (workflow, pointer.pointer)
                assert pointer.generation >= self.generations.get(key, 0)
                self.generations[key] = pointer.generation
                history = list(rows.switches(*key))
                assert history[0] == pointer
                assert [past.generation for past in history] == list(range(pointer.generation, 0, -1))
                assert [past.version for past in history][::-1] == [past.version for past in self.oracle.pointers[key]]

    @invariant()
    def versions_are_the_oracles(self) -> None:
        for workflow in WORKFLOWS:
            ours = [(version.digest, version.status) for version in self.memory.rows.versions(workflow, 1 << 62)]
            theirs = [(version.digest, version.status) for version in self.oracle.versions.get(workflow, [])]
            assert ours == theirs[::-1]

    @invariant()
    def the_audit_tells_the_whole_state(self) -> None:
        """Folding the changes alone gives every pointer and every status."""
        rows: Rows = self.memory.rows
        pointers, statuses = {}, {}
        for change in rows.changes(1):
            if change.version is not None:
                statuses[change.version.workflow, change.version.number] = change.version.status
            for status_change in change.status_changes:
                key = (status_change.workflow, status_change.version)
                assert statuses[key] == status_change.previous_status
                statuses[key] = status_change.status
            for pointer in change.pointers:
                pointers[pointer.workflow, pointer.pointer] = pointer
        for workflow in WORKFLOWS:
            for version in rows.versions(workflow, 1 << 62):
                assert statuses.pop((workflow, version.number)) == version.status
            for pointer in rows.pointers(workflow):
                assert pointers.pop((workflow, pointer.pointer)) == pointer
        assert not pointers
        assert not statuses

    @invariant()
    def the_request_memory_is_bounded_and_counted(self) -> None:
        registry = self.memory.registry
        assert registry.remembered == len(self.oracle.remembered) <= WINDOW
        assert registry.forgotten_ms == max((issued_ms(old) for old in self.oracle.forgotten), default=0)


def made(moves: list[tuple[str, str, int, int | None]]) -> tuple[Move, ...]:
    return tuple(
        Move(workflow=workflow, pointer=pointer, target=target, expected_generation=expected)
        for workflow, pointer, target, expected in moves
    )


TestRegistry = Registry.TestCase
TestRegistry.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)

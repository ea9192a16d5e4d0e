"""The machine over memory and over LMDB against the oracle, over random commands with retries.

The log may begin at feature level 1 and rise to 2. Holds after every command: the answer is the oracle's; a rejection
changed nothing but the memory of its id; an accepted change is one revision and one audit entry (invariants 3, 5 and 6
of docs/ARCHITECTURE.md).
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule
from msgspec import structs

from registry.core import policies
from registry.core.commands import BeginEpoch, Found, Label, Move
from registry.core.model import STATUSES, Policy, Status
from registry.core.request_ids import issued_ms
from registry.store.state import Rows
from tests.model.model import WINDOW, WORKFLOWS, RegistryModel, meaning, workflows
from tests.model.oracle import VERDICTS

pytestmark = pytest.mark.timeout(900)  # a failure is worth the minutes that making it small takes

POINTERS = ("active", "canary")

generations = st.sampled_from([None, None, None, None, None, 0, 1, 2, 3])
Moving = tuple[str, str, int, int | None, str, int | None]  # the last two: verdict and from what, None: truly
moves = st.lists(
    st.tuples(
        workflows,
        st.sampled_from(POINTERS),
        st.integers(1, 5),
        generations,
        st.sampled_from(["", *VERDICTS]),
        st.sampled_from([None, None, None, 0, 1]),
    ),
    min_size=1,
    max_size=2,
    unique_by=lambda move: move[:2],
)
said = st.fixed_dictionaries(
    {"verdict": st.sampled_from(policies.VERDICTS), "immutable_labels": st.sampled_from(["", "kept"])},
    optional={field: st.just("refuse") for field in ("unchanged", "checks", "literals")},
)


class Registry(RegistryModel):
    @initialize(level=st.sampled_from([1, 2, 2, 2, 2]), stable=st.sets(st.integers(1, 4)), said=said)
    def begin(self, level: int, stable: set[int], said: dict[str, str]) -> None:
        """Four versions of each workflow, live in turn, some of them stable; and what holds from then on."""
        self.memory.level = self.oracle.level = level
        for cluster_id in ("c1", "c2"):
            self.send(Found(request_id=self.memory.request_id(), time_ms=1, cluster_id=cluster_id))
        for workflow in WORKFLOWS:
            for number, data in enumerate([b"1", b"2", b"1", b"3"], start=1):
                self.send(self.memory.publish_command(data, workflow, semantic_digest=meaning(data)))
                self.send(self.memory.switch_command(Move(workflow=workflow, pointer="active", target=number)))
            for number in stable:
                self.send(self.mark_command(workflow, number, "stable"))
        self.send(self.policy_command("a/*", said))

    @rule()
    def raise_the_level(self) -> None:
        self.memory.level = self.oracle.level = 2

    @rule(at_least=st.sampled_from([0, 0, 3]))
    def begin_epoch(self, at_least: int) -> None:
        command = BeginEpoch(
            request_id=self.memory.request_id(),
            time_ms=1,
            principal="ada",
            cause="restore",
            reason="because",
            at_least=at_least,
        )
        self.send(command)

    @rule(
        workflow=workflows,
        data=st.sampled_from([b"1", b"1 ", b"2", b"2 ", b"3"]),
        semver=st.sampled_from(["", "", "", "1.0.0", "v1.0.0", "1.1.0"]),
        kind=st.sampled_from(["json", "json", "json", "json", "json", "yaml"]),
        parents=st.sampled_from([(), (), (), (2, 1), (9,)]),
        findings=st.sampled_from([(), (), ("broken",)]),
        literals=st.sampled_from([(), (), ("sk-***",)]),
        needs=st.sampled_from([(), (), ("cap:gpu",), ("dify>=1.9", "cap:gpu")]),
    )
    def publish(
        self,
        workflow: str,
        data: bytes,
        semver: str,
        kind: str,
        parents: tuple[int, ...],
        findings: tuple[str, ...],
        literals: tuple[str, ...],
        needs: tuple[str, ...],
    ) -> None:
        command = self.memory.publish_command(
            data,
            workflow,
            semantic_digest=meaning(data),
            labels={"semver": semver} if semver else {},
            kind=kind,
            parents=parents if self.memory.level > 1 else (),
            findings=findings,
            literals=literals,
            needs=needs if self.memory.level > 1 else (),
        )
        self.send(command)

    @rule(
        workflow=workflows,
        version=st.integers(1, 5),
        labels=st.dictionaries(st.sampled_from(["team", "kept"]), st.sampled_from(["a", "b"])),
        semver=st.sampled_from(["", "", "1.0.0", "v1.0.0", "1.1.0"]),
        remove=st.sampled_from([(), (), ("team",), ("kept",), ("semver",)]),
    )
    def label(self, workflow: str, version: int, labels: dict[str, str], semver: str, remove: tuple[str, ...]) -> None:
        labels = labels | ({"semver": semver} if semver else {})
        command = Label(
            request_id=self.memory.request_id(),
            time_ms=1,
            principal="ada",
            workflow=workflow,
            version=version,
            labels={key: value for key, value in labels.items() if key not in remove} or {"last": "x"},
            remove=remove,
        )
        self.send(command)

    @rule(
        scope=st.sampled_from(["*", "a/*", *WORKFLOWS]),
        field=st.sampled_from([*policies.ALLOWED, "immutable_labels"]),
        choice=st.integers(0, 3),
        back=st.booleans(),
    )
    def set_policy(self, scope: str, field: str, choice: int, back: bool) -> None:
        allowed = policies.ALLOWED.get(field, ("kept", "team,kept"))
        self.send(self.policy_command(scope, {field: "" if back else allowed[choice % len(allowed)]}))

    @rule(moves=moves, force=st.booleans(), window=st.sampled_from([(0, 0), (0, 0), (5, 0), (0, 9), (5, 9)]))
    def switch(self, moves: list[Moving], force: bool, window: tuple[int, int]) -> None:
        not_before_ms, deadline_ms = window if self.memory.level > 1 else (0, 0)
        times = {"not_before_ms": not_before_ms, "deadline_ms": deadline_ms}
        self.send(self.memory.switch_command(*self.made(moves), force=force, **times))

    @rule(moves=moves)
    def switch_again_with_a_new_verdict(self, moves: list[Moving]) -> None:
        command = self.memory.switch_command(*self.made(moves))
        for verdict in ("", "ok"):
            current = [self.oracle.pointers.get((move.workflow, move.pointer)) for move in command.moves]
            judged = tuple(
                structs.replace(move, verdict=verdict, verdict_from=history[-1].version if history else 0)
                for move, history in zip(command.moves, current, strict=True)
            )
            self.send(structs.replace(command, moves=judged))

    @rule(moves=moves, force=st.booleans(), keep_status=st.booleans())
    def roll_back_to(self, moves: list[Moving], force: bool, keep_status: bool) -> None:
        self.send(self.memory.switch_command(*self.made(moves), rollback=True, force=force, keep_status=keep_status))

    @rule(moves=moves, keep_status=st.booleans())
    def roll_back(self, moves: list[Moving], keep_status: bool) -> None:
        picked = tuple(structs.replace(move, target=0) for move in self.made(moves))
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
                ours = [(past.version, (past.not_before_ms, past.deadline_ms)) for past in reversed(history)]
                assert ours == [(past.version, past.window) for past in self.oracle.pointers[key]]

    @invariant()
    def versions_are_the_oracles(self) -> None:
        for workflow in WORKFLOWS:
            ours = [
                (version.digest, version.status, version.labels, version.parents, version.needs)
                for version in self.memory.rows.versions(workflow, 1 << 62)
            ]
            theirs = [
                (version.digest, version.status, version.labels, version.parents, version.needs)
                for version in self.oracle.versions.get(workflow, [])
            ]
            assert ours == theirs[::-1]

    @invariant()
    def the_audit_tells_the_whole_state(self) -> None:
        """Folding the changes alone gives every pointer, every status, every label and every policy."""
        rows: Rows = self.memory.rows
        pointers, statuses, labels, policy = {}, {}, {}, {}
        for change in rows.changes(1):
            if change.version is not None:
                statuses[change.version.workflow, change.version.number] = change.version.status
                labels[change.version.workflow, change.version.number] = change.version.labels
            if change.policy is not None:
                policy[change.scope] = change.policy
            for status_change in change.status_changes:
                key = (status_change.workflow, status_change.version)
                assert statuses[key] == status_change.previous_status
                statuses[key] = status_change.status
            for pointer in change.pointers:
                pointers[pointer.workflow, pointer.pointer] = pointer
        for workflow in WORKFLOWS:
            for version in rows.versions(workflow, 1 << 62):
                assert statuses.pop((workflow, version.number)) == version.status
                assert labels.pop((workflow, version.number)) == version.labels
            for pointer in rows.pointers(workflow):
                assert pointers.pop((workflow, pointer.pointer)) == pointer
        assert not pointers
        assert not statuses
        for scope, said in policy.items():
            assert (rows.policy(scope) or Policy()) == said

    @invariant()
    def the_epoch_is_the_oracles(self) -> None:
        assert self.memory.registry.epoch == self.oracle.epoch

    @invariant()
    def the_request_memory_is_bounded_and_counted(self) -> None:
        registry = self.memory.registry
        assert registry.remembered == len(self.oracle.remembered) <= WINDOW
        assert registry.forgotten_ms == max((issued_ms(old) for old in self.oracle.forgotten), default=0)

    def made(self, moves: list[Moving]) -> tuple[Move, ...]:
        """Verdicts are found from what the pointer names, but for some."""
        made = []
        for workflow, pointer, target, expected, verdict, found_from in moves:
            history = self.oracle.pointers.get((workflow, pointer))
            move = Move(
                workflow=workflow,
                pointer=pointer,
                target=target,
                expected_generation=expected,
                verdict=verdict,
                verdict_from=(history[-1].version if history else 0) if found_from is None else found_from,
            )
            made.append(move)
        return tuple(made)


TestRegistry = Registry.TestCase
TestRegistry.settings = settings(max_examples=160, stateful_step_count=40, deadline=None)

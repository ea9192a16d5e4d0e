from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.kv.api import Environment, Reader
from cluster.kv.lmdb_env import LmdbEnvironment
from cluster.kv.memory_env import MemoryEnvironment
from registry.core import commands, limits
from registry.core.commands import Ack, Contact, Move
from registry.core.errors import Invalid, NotFound, Reason, RegistryError
from registry.core.outcomes import Purged, Retained
from registry.core.references import parse_target
from registry.store import content, queries
from registry.store.queries import Page
from registry.store.tables import CONTENTS, TABLES, raw
from tests.unit.core.kit import START_MS, WORKFLOW, Machine


@pytest.fixture(params=["lmdb", "memory"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    """Three versions, the third with the bytes of the first; `active` switched to 1, 2, 3, 2 and `canary` to 3."""
    environment: Environment = (
        LmdbEnvironment(tmp_path / "kv", TABLES) if request.param == "lmdb" else MemoryEnvironment(TABLES)
    )
    machine = Machine(environment)
    machine.found()
    machine.publish(b"1", labels={"semver": "v1.4.0"})
    machine.published(b"2", b"1")
    machine.switched(1, 2, 3, 2)
    machine.switched(3, pointer="canary")
    environment.commit()
    yield machine
    environment.close()


@pytest.fixture
def reader(machine: Machine) -> Iterator[Reader]:
    with machine.environment.snapshot() as reader:
        yield reader


def reason_of(call: Callable[..., Any], *arguments: Any, **named: Any) -> Reason:
    with pytest.raises(RegistryError) as caught:
        call(*arguments, **named)
    assert caught.value.hint
    return caught.value.reason


@pytest.mark.parametrize(
    ("target", "number"),
    [
        ("", 3), ("1", 1), ("3", 3), ("active", 2), ("active~1", 3), ("active~2", 2), ("active~3", 1), ("canary", 3),
        ("v1.4.0", 1), ("1.4.0", 1),
    ],
)  # fmt: skip
def test_references(reader: Reader, target: str, number: int) -> None:
    assert queries.resolve(reader, WORKFLOW, parse_target(target)).number == number


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("4", Reason.VERSION_NOT_FOUND),
        (str(2**63 - 1), Reason.VERSION_NOT_FOUND),
        ("active~4", Reason.VERSION_NOT_FOUND),
        ("canary~1", Reason.VERSION_NOT_FOUND),
        ("v1.4.1", Reason.VERSION_NOT_FOUND),
        ("sha256:000000", Reason.VERSION_NOT_FOUND),
        ("other", Reason.POINTER_NOT_FOUND),
        ("other~1", Reason.POINTER_NOT_FOUND),
    ],
)
def test_references_to_nothing(reader: Reader, target: str, reason: Reason) -> None:
    assert reason_of(queries.resolve, reader, WORKFLOW, parse_target(target)) is reason
    assert reason_of(queries.resolve, reader, "no/such", parse_target(target)) is Reason.WORKFLOW_NOT_FOUND
    assert reason_of(queries.resolve, reader, "no", parse_target(target)) is Reason.INVALID_NAME


def test_a_digest_names_the_newest_version_with_these_bytes(reader: Reader, machine: Machine) -> None:
    digest = machine.version(1).digest
    for prefix in (digest, digest[:13], digest[:13].upper().replace("SHA", "sha")):
        assert queries.resolve(reader, WORKFLOW, parse_target(prefix)).number == 3


def test_an_ambiguous_digest_prefix_lists_what_it_could_be(machine: Machine) -> None:
    for number, tail in enumerate(("00", "01", "10")):
        machine.publish(b"%d" % number, workflow="a/b", digest="sha256:" + "ab" * 31 + tail)
    with machine.environment.snapshot() as reader:
        with pytest.raises(RegistryError) as caught:
            queries.resolve(reader, "a/b", parse_target("sha256:ababab"))
        assert caught.value.reason is Reason.AMBIGUOUS_REFERENCE
        assert len(caught.value.metadata["digests"].split(",")) == 3
        assert queries.resolve(reader, "a/b", parse_target("sha256:" + "ab" * 31 + "1")).number == 3


def test_pointers(reader: Reader, machine: Machine) -> None:
    assert queries.pointer(reader, WORKFLOW, "active") == machine.pointer()
    with pytest.raises(NotFound, match="its pointers: active, canary"):
        queries.pointer(reader, WORKFLOW, "other")
    assert reason_of(queries.pointer, reader, "no/such", "active") is Reason.WORKFLOW_NOT_FOUND
    assert reason_of(queries.pointer, reader, WORKFLOW, "1") is Reason.INVALID_NAME


def test_content_that_was_damaged_or_lost_is_told(machine: Machine) -> None:
    version = machine.version(2)
    with machine.environment.snapshot() as reader:
        assert content.decode(queries.stored_content(reader, version), version.digest) == b"2"
    key = raw(version.digest)
    transaction = machine.environment.transaction()
    row = transaction.get(CONTENTS, key)
    assert row is not None
    transaction.put(CONTENTS, key, row.replace(b"2", b"3"))
    machine.environment.commit()
    with machine.environment.snapshot() as reader:
        assert reason_of(content.decode, queries.stored_content(reader, version), version.digest) is (
            Reason.CORRUPT_CONTENT
        )
    machine.environment.transaction().delete(CONTENTS, key)
    machine.environment.commit()
    with machine.environment.snapshot() as reader:
        assert reason_of(queries.stored_content, reader, version) is Reason.CORRUPT_CONTENT


def test_content_that_was_removed_says_who_when_and_why(machine: Machine) -> None:
    machine.apply(commands.Index(request_id=machine.request_id(), time_ms=START_MS))
    machine.published(b"a key", b"newest")
    version = machine.version(machine.rows.workflow(WORKFLOW).versions - 1)  # type: ignore[union-attr]
    purge = commands.Purge(
        request_id=machine.request_id(),
        time_ms=START_MS,
        principal="ada",
        workflow=WORKFLOW,
        version=version.number,
        digest=version.digest,
        reason="holds a key",
    )
    assert isinstance(machine.apply(purge), Purged)
    with machine.environment.snapshot() as reader:
        for seen in (version, machine.version(version.number)):  # before and after
            with pytest.raises(NotFound, match=r"ada on 2027-01-15 .*: holds a key") as caught:
                queries.stored_content(reader, seen)
            assert caught.value.reason is Reason.CONTENT_REMOVED


def test_content_that_was_removed_is_not_given_where_another_version_has_the_same_bytes(machine: Machine) -> None:
    machine.apply(commands.Index(request_id=machine.request_id(), time_ms=START_MS))
    machine.publish(b"2", "support/other")
    keep_one = commands.SetPolicy(
        request_id=machine.request_id(),
        time_ms=START_MS,
        principal="ada",
        scope="support/other",
        fields={"keep_last": "1"},
        reason="disks",
    )
    machine.apply(keep_one)
    machine.publish(b"newest", "support/other")
    retain = commands.Retain(
        request_id=machine.request_id(),
        time_ms=START_MS,
        principal="ada",
        workflow="support/other",
        versions=(1,),
        reason="full",
    )
    assert isinstance(machine.apply(retain), Retained)
    gone = machine.rows.version("support/other", 1)
    assert gone is not None
    with machine.environment.snapshot() as reader:
        assert reason_of(queries.stored_content, reader, gone) is Reason.CONTENT_REMOVED
        assert content.decode(queries.stored_content(reader, machine.version(2)), gone.digest) == b"2"


def all_pages(read: Callable[..., Page[Any]], page_size: int) -> list[Any]:
    items: list[Any] = []
    token = ""
    while True:
        page = read(page_size=page_size, page_token=token)
        assert len(page.items) <= page_size
        items += page.items
        token = page.next_page_token
        if not token:
            return items


@pytest.mark.parametrize("page_size", [1, 2, 3, 100])
def test_every_list_in_pages_is_the_whole_list(machine: Machine, page_size: int) -> None:
    for name in ("a/a", "support/a", "support/triage-2", "support-b/x", "z/z"):
        machine.published(b"1", workflow=name)
    with machine.environment.snapshot() as reader:
        names = [row.workflow.name for row in all_pages(lambda **page: queries.workflows(reader, **page), page_size)]
        assert names == sorted(("a/a", "support/a", WORKFLOW, "support/triage-2", "support-b/x", "z/z"))
        some = all_pages(lambda **page: queries.workflows(reader, prefix="support/t", **page), page_size)
        assert [row.workflow.name for row in some] == [WORKFLOW, "support/triage-2"]
        versions = all_pages(lambda **page: queries.versions(reader, WORKFLOW, **page), page_size)
        assert [version.number for version in versions] == [3, 2, 1]
        history = all_pages(lambda **page: queries.history(reader, WORKFLOW, **page), page_size)
        assert [change.revision for change in history] == [9, 8, 7, 6, 5, 4, 3, 2]
        active = all_pages(lambda **page: queries.history(reader, WORKFLOW, pointer="active", **page), page_size)
        assert [change.revision for change in active] == [8, 7, 6, 5]
        assert [change.pointers[0].version for change in active] == [2, 3, 2, 1]


def test_a_workflow_with_its_pointers_and_newest_version(reader: Reader, machine: Machine) -> None:
    (summary,) = queries.workflows(reader).items
    assert summary.newest == machine.version(3)
    assert [(pointer.pointer, pointer.version) for pointer in summary.pointers] == [("active", 2), ("canary", 3)]
    assert queries.workflows(reader, prefix="zz").items == ()


def test_a_change_of_several_workflows_is_in_the_history_of_each(machine: Machine) -> None:
    machine.published(b"1", workflow="other/one")
    both = machine.switch_command(
        Move(workflow=WORKFLOW, pointer="active", target=1), Move(workflow="other/one", pointer="canary", target=1)
    )
    machine.apply(both)
    with machine.environment.snapshot() as reader:
        change = queries.history(reader, "other/one", pointer="canary").items[0]
        assert change == queries.history(reader, WORKFLOW, pointer="active").items[0]
        assert change.request_id == both.request_id


def test_lists_of_what_does_not_exist(reader: Reader) -> None:
    for read in (queries.versions, queries.history):
        assert reason_of(read, reader, "no/such") is Reason.WORKFLOW_NOT_FOUND
        assert reason_of(read, reader, "no") is Reason.INVALID_NAME
    assert reason_of(queries.history, reader, WORKFLOW, pointer="x") is Reason.POINTER_NOT_FOUND
    assert reason_of(queries.agents, reader, workflow="no/such") is Reason.WORKFLOW_NOT_FOUND
    assert reason_of(queries.workflows, reader, prefix="ä") is Reason.INVALID_NAME


@pytest.mark.parametrize("token", ["x", "ä", "====", "AAAA" * 1000, "_w=="])
def test_tokens_of_something_else_are_refused(reader: Reader, token: str) -> None:
    for call in (
        lambda: queries.workflows(reader, page_token=token),
        lambda: queries.versions(reader, WORKFLOW, page_token=token),
        lambda: queries.history(reader, WORKFLOW, page_token=token),
        lambda: queries.history(reader, WORKFLOW, pointer="active", page_token=token),
    ):
        assert reason_of(call) is Reason.INVALID_REQUEST


def test_pages_are_bounded(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PAGE_DEFAULT", 1)
    monkeypatch.setattr(limits, "PAGE_MAX", 2)
    assert len(queries.versions(reader, WORKFLOW).items) == 1
    assert len(queries.versions(reader, WORKFLOW, page_size=1000).items) == 2


def test_changes_from_a_revision_on(reader: Reader) -> None:
    first = queries.changes(reader, 0, limit=4)
    assert [change.revision for change in first.changes] == [1, 2, 3, 4]
    assert first.next_revision == 5
    rest = queries.changes(reader, 5)
    assert [change.revision for change in rest.changes] == [5, 6, 7, 8, 9]
    assert queries.changes(reader, 10) == queries.Changes((), 10)
    with pytest.raises(Invalid) as caught:
        queries.changes(reader, 11)
    assert caught.value.reason is Reason.REVISION_IN_FUTURE
    assert caught.value.metadata == {"revision": "9"}


def test_changes_of_some_workflows_still_move_the_cursor(machine: Machine) -> None:
    machine.published(b"1", workflow="other/one")
    with machine.environment.snapshot() as reader:
        batch = queries.changes(reader, 1, workflows={"other/one"}, limit=9)
        assert batch == queries.Changes((), 10)
        batch = queries.changes(reader, 10, workflows={"other/one"})
        assert [change.revision for change in batch.changes] == [10]
        assert batch.next_revision == 11


def test_agents(machine: Machine) -> None:
    machine.published(b"1", workflow="other/one")
    machine.switched(1, workflow="other/one")
    acks = [
        Ack(
            agent=f"edge-{number}",
            incarnation="i",
            sequence=1,
            workflow=workflow,
            pointer="active",
            generation=1,
            phase="confirmed",
            time_ms=100,
        )
        for number in range(3)
        for workflow in (WORKFLOW, "other/one")
    ]
    contacts = (Contact(agent="edge-1", time_ms=500), Contact(agent="edge-2", time_ms=50))
    machine.acknowledge(*acks, contacts=contacts)
    with machine.environment.snapshot() as reader:
        for page_size in (1, 2, 100):
            everyone = all_pages(lambda **page: queries.agents(reader, **page), page_size)
            assert [(row.agent.workflow, row.agent.agent, row.contact.time_ms) for row in everyone] == [
                (workflow, f"edge-{number}", contact_ms)
                for workflow in ("other/one", WORKFLOW)
                for number, contact_ms in ((0, 0), (1, 500), (2, 50))
            ]
            some = all_pages(lambda **page: queries.agents(reader, workflow=WORKFLOW, **page), page_size)
            assert some == everyone[3:]
        assert {row.target.generation for row in some} == {4}


def test_the_registry_row(reader: Reader) -> None:
    row = queries.registry(reader)
    assert (row.cluster_id, row.epoch, row.revision) == ("c1", 1, 9)

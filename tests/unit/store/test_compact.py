"""Small rows hold everything that the rows by name hold."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import NODEFAULT, Struct, msgpack, structs, to_builtins

from registry.core.encoding import encode
from registry.core.model import (
    Change,
    Digest,
    Pointer,
    Policy,
    Removed,
    RemovedVersion,
    StatusChange,
    Version,
    Workflow,
)
from registry.core.outcomes import Held, Labelled, Marked, Outcome, Published, Rejected, Remembered, Retained, Switched
from registry.store import compact

NAME, NUMBER = "support/triage", 3
HEX = st.text("0123456789abcdef", min_size=64, max_size=64)
DIGESTS = st.one_of(HEX.map("sha256:".__add__), HEX.map("s1:".__add__), st.text(max_size=8))
NUMBERS = st.integers(0, 2**63 - 1)
TEXTS = st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3)
REMOVED = st.builds(
    Removed, cause=st.sampled_from(["retention", "purge"]), revision=st.integers(0, 9), time_ms=st.just(1)
)
VERSIONS = st.builds(
    Version,
    workflow=st.just(NAME),
    number=st.just(NUMBER),
    digest=DIGESTS,
    value_digest=DIGESTS,
    semantic_digest=DIGESTS,
    size_bytes=NUMBERS,
    created_ms=NUMBERS,
    revision=NUMBERS,
    parents=st.lists(NUMBERS, max_size=3).map(tuple),
    labels=TEXTS,
    author=st.text(max_size=4),
    facts=st.dictionaries(st.sampled_from([*compact._WORDS[:4], "rows", "0"]), st.text(max_size=4), max_size=3),
    secrets=TEXTS,
    removed=st.none() | REMOVED,
)
POINTER = Pointer(workflow=NAME, pointer="active", version=3, digest="sha256:" + "0" * 64, generation=1, revision=2)


@given(VERSIONS)
def test_a_version_comes_back_as_it_was(version: Version) -> None:
    row = compact.pack_version(version)
    assert compact.is_compact(row)
    assert compact.unpack_version(NAME, NUMBER, row) == version


@given(VERSIONS, VERSIONS)
def test_the_order_of_keys_changes_no_byte(version: Version, other: Version) -> None:
    fields = ("labels", "facts", "secrets")
    turned = structs.replace(version, **{name: dict(reversed(getattr(version, name).items())) for name in fields})
    assert compact.pack_version(turned) == compact.pack_version(version)
    assert (compact.pack_version(other) == compact.pack_version(version)) == (other == version)


@given(VERSIONS, TEXTS, st.text(), st.none() | REMOVED)
def test_a_change_keeps_the_version_as_it_was_then(
    version: Version, labels: dict[str, str], hold: str, removed: Removed | None
) -> None:
    change = Change(revision=7, time_ms=1, principal="ada", action="mark", workflows=(NAME,), version=version)
    now = structs.replace(version, status="failed", labels=labels, hold=hold, removed=removed)
    row = compact.pack_change(change)
    assert compact.unpack_change(7, row, _only(now)) == change
    publish = structs.replace(change, action="publish", time_ms=version.created_ms, principal=version.author)
    packed = compact.pack_change(publish)
    assert compact.unpack_change(7, packed, _only(now)) == publish
    time_ms, _, _, workflows, principal = msgpack.decode(packed)[:5]
    assert (time_ms, workflows, principal) == (None, None, None)


def _only(version: Version) -> compact.Find:
    def find(workflow: str, number: int) -> Version:
        assert (workflow, number) == (version.workflow, version.number)
        return version

    return find


def _nothing(workflow: str, number: int) -> Version:
    raise AssertionError("no version is looked up")


VERSION = Version(
    workflow=NAME, number=NUMBER, digest="sha256:" + "a" * 64, value_digest="", semantic_digest="", kind="json",
    size_bytes=1, created_ms=5, revision=6,
)  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        Change(revision=7, time_ms=1, principal="", action="found"),
        Change(revision=7, time_ms=1, principal="", action="label", request_id="01a20828-a419-7ff7-95b3-18e2d7a60c1d"),
        Change(
            revision=7,
            time_ms=1,
            principal="ada",
            action="rollback",
            reason="5xx",
            request_id="0",
            workflows=(NAME,),
            pointers=(POINTER,),
            status_changes=(StatusChange(workflow=NAME, version=4, previous_status="stable", status="failed"),),
            forced=True,
        ),
        Change(revision=7, time_ms=1, principal="", action="policy", scope="*", policy=Policy(checks="warn")),
        Change(
            revision=7,
            time_ms=1,
            principal="",
            action="retention",
            removed=(RemovedVersion(workflow=NAME, version=1, digest="sha256:" + "a" * 64),),
        ),
        Change(revision=7, time_ms=1, principal="", action="restore", epoch=2),
    ],
    ids=lambda change: change.action,
)
def test_changes_without_a_version_come_back_as_they_were(change: Change) -> None:
    assert compact.unpack_change(7, compact.pack_change(change), _nothing) == change


@pytest.mark.parametrize(
    "outcome",
    [
        Published(revision=6, version=VERSION, created=True, notes=("a note",)),
        Marked(revision=6, version=VERSION, previous_status="stable"),
        Labelled(revision=6, version=structs.replace(VERSION, labels={"b": "1", "a": "2"})),
        Held(revision=6, version=structs.replace(VERSION, hold="audit")),
        Switched(revision=6, pointers=(POINTER,)),
        Retained(revision=6, kept={2: "pointer"}),
        Rejected(revision=6, reason="NO_SPACE", message="full", metadata={"b": "1", "a": "2"}),
    ],
    ids=lambda outcome: type(outcome).__name__,
)
def test_what_was_decided_is_remembered_as_it_was(outcome: Outcome) -> None:
    row = Remembered(sequence=4, fingerprint=bytes(16), outcome=outcome)
    now = structs.replace(VERSION, status="archived")
    assert compact.unpack_remembered(compact.pack_remembered(row), _only(now)) == row


@given(TEXTS, st.sampled_from([Switched, Rejected]))
def test_the_fast_ways_write_the_same_bytes(texts: dict[str, str], kind: type[Outcome]) -> None:
    """As the release that had one way for all."""

    def by_builtins(values: list[Any]) -> bytes:
        return msgpack.encode(to_builtins(values, builtin_types=(bytes,), order="deterministic"))

    pointer = structs.replace(POINTER, reason="".join(texts))
    outcome = (
        Switched(revision=6, pointers=(pointer,), notes=(*texts,))
        if kind is Switched
        else Rejected(revision=6, reason="NO_SPACE", message="full", metadata=texts)
    )
    row = Remembered(sequence=4, fingerprint=bytes(16), outcome=outcome)
    assert compact.pack_remembered(row) == by_builtins([4, bytes(16), to_builtins(outcome)])
    values = [1, b"=", texts, (pointer,), {"x": texts}, Policy(checks="warn")]
    assert encode(values) == by_builtins(values)


@given(st.builds(Digest, newest=NUMBERS, fenced=st.lists(NUMBERS, max_size=3).map(tuple)))
def test_a_digest_and_a_workflow_come_back_as_they_were(digest: Digest) -> None:
    assert compact.unpack_digest(compact.pack_digest(digest)) == digest
    workflow = Workflow(name=NAME, kind="dify", versions=digest.newest, created_ms=5)
    assert compact.unpack_workflow(NAME, compact.pack_workflow(workflow)) == workflow


def test_words_keep_their_places() -> None:
    """They are in rows."""
    assert [compact._PLACES[word] for word in ("dsl_version", "wrapped", "publish", "purge")] == [0, 10, 11, 19]
    assert len(set(compact._WORDS)) == len(compact._WORDS)


@pytest.mark.parametrize(
    ("row", "packed"),
    [
        (Workflow, compact._Workflow),
        (Version, compact._Version),
        (Digest, compact._Digest),
        (Change, compact._Change),
    ],
)
def test_no_field_is_forgotten(row: type[Struct], packed: type[Struct]) -> None:
    in_the_key = {Workflow: {"name"}, Version: {"workflow", "number"}, Digest: set(), Change: {"revision"}}
    assert set(row.__struct_fields__) == set(packed.__struct_fields__) | in_the_key[row]
    defaults = {field.name: _default(field) for field in structs.fields(row)}
    assert {field.name: _default(field) for field in structs.fields(packed) if not field.required}.items() <= (
        defaults | {"author": "", "principal": "", "facts": (), "request_id": b"="}
    ).items()


def _default(field: Any) -> object:
    return field.default if field.default_factory is NODEFAULT else field.default_factory()


def test_a_row_by_names_is_told_from_a_small_one() -> None:
    assert not compact.is_compact(msgpack.encode(VERSION))
    assert compact.is_compact(compact.pack_version(VERSION))

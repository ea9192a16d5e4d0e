"""The machine and the oracle over random commands about contents: deltas and chunks, retention, purges, holds.

Holds after every command, beside what tests/model/model.py compares: a content has a holder, and what it rests on; a
pointer names no version whose content is gone; the changes tell what was removed.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from registry.core import limits
from registry.core.commands import Collect, Found, Hold, Index, Label, Move, NoteBackup, Purge, PutChunk, Repack, Retain
from registry.core.encoding import fingerprint
from registry.core.model import SNAPSHOTS, Backup, Content, Status
from registry.store import content
from registry.store.tables import CHUNKS, DELTAS, HOLDERS, raw, within
from tests.model.model import WINDOW, WORKFLOWS, RegistryModel, workflows

pytestmark = pytest.mark.timeout(900)  # a failure is worth the minutes that making it small takes

PARTS = (b"c0", b"c1", b"c2")  # chunks
KEEPING = {"keep_last": ("0", "1", "2", "published=1,manual=0", "all"), "keep_days": ("0", "3", "3", "all")}
BASES = (b"1", b"2", b"3", b"4", b"5", b"6")

numbers = st.integers(1, 9)
some = st.one_of(st.just(set(range(1, 10))), st.sets(numbers, min_size=1))
parts = st.lists(st.sampled_from(PARTS), min_size=1, max_size=3)


class Contents(RegistryModel):
    @initialize(level=st.sampled_from([2, 2, 2, 1]), keep_last=st.sampled_from(["0", "1", "published=1,manual=0"]))
    def begin(self, level: int, keep_last: str) -> None:
        """Four versions of each workflow, some with the same bytes."""
        self.memory.level = self.oracle.level = level
        self.send(Found(request_id=self.memory.request_id(), time_ms=1, cluster_id="c1"))
        for workflow in WORKFLOWS:
            for data in (b"1", b"2", b"1", b"3"):
                self.send(self.memory.publish_command(data, workflow))
        self.memory.level = self.oracle.level = 2
        if level == 2:
            self.send(self.memory.command(Index))
        self.send(self.policy_command("a/*", {"keep_last": keep_last}))
        self.put_chunks([b"c0", b"c1"])
        self.note_backup(0)

    @rule(workflow=workflows, data=st.sampled_from([b"1", b"2", b"3", b"4"]), snapshot=st.sampled_from(SNAPSHOTS))
    def publish(self, workflow: str, data: bytes, snapshot: str) -> None:
        self.send(self.memory.publish_command(data, workflow, snapshot=snapshot))

    @rule(
        workflow=workflows,
        pointer=st.sampled_from(["active", "canary"]),
        version=st.integers(0, 6),
        force=st.booleans(),
    )
    def switch(self, workflow: str, pointer: str, version: int, force: bool) -> None:
        """Version 0: back."""
        move = Move(workflow=workflow, pointer=pointer, target=version)
        self.send(self.memory.switch_command(move, rollback=not version, force=force))

    @rule(workflow=workflows, version=numbers, status=st.sampled_from(["stable", "candidate", "failed"]))
    def mark(self, workflow: str, version: int, status: Status) -> None:
        self.send(self.mark_command(workflow, version, status))

    @rule(workflow=workflows, version=numbers, is_set=st.booleans())
    def label(self, workflow: str, version: int, is_set: bool) -> None:
        about = {"labels": {"team": "x"}} if is_set else {"remove": ("team",)}
        self.send(self.memory.command(Label, workflow=workflow, version=version, **about))

    @rule(scope=st.sampled_from(["a/*", *WORKFLOWS]), field=st.sampled_from(list(KEEPING)), choice=st.integers(0, 5))
    def set_policy(self, scope: str, field: str, choice: int) -> None:
        self.send(self.policy_command(scope, {field: ("", *KEEPING[field])[choice % (len(KEEPING[field]) + 1)]}))

    @rule(back=st.integers(0, WINDOW + 2))
    def retry(self, back: int) -> None:
        self.send(self.sent[-1 - back])

    @rule(
        workflow=workflows,
        data=st.sampled_from([b"4", b"5", b"6"]),
        base=st.sampled_from(BASES),
        deeper=st.sampled_from([1, 1, 1, 1, 0, 2]),
        snapshot=st.sampled_from(SNAPSHOTS),
    )
    def publish_a_delta(self, workflow: str, data: bytes, base: bytes, deeper: int, snapshot: str) -> None:
        packed = self.delta(data, base, deeper)
        self.send(self.memory.publish_command(data, workflow, content=packed, snapshot=snapshot))

    @rule(workflow=workflows, data=st.sampled_from([b"7", b"8"]), chunks=parts, snapshot=st.sampled_from(SNAPSHOTS))
    def publish_large_content(self, workflow: str, data: bytes, chunks: list[bytes], snapshot: str) -> None:
        size_bytes = (len(chunks) - 1) * limits.CHUNK_BYTES + 1
        digests = tuple(content.digest(chunk) for chunk in chunks)
        packed = Content(encoding="chunks", data=b"", size_bytes=size_bytes, chunks=digests)
        self.send(self.memory.publish_command(data, workflow, content=packed, snapshot=snapshot))

    def delta(self, data: bytes, base: bytes, deeper: int) -> Content:
        """Over a content as it is now: so much deeper than that; 1 is right."""
        base = base if base != data else BASES[0]
        under = self.memory.rows.content(content.digest(base))
        depth = max((under.depth if under else 0) + deeper, 1)
        return Content(encoding="delta", data=data, size_bytes=1, base=content.digest(base), depth=depth)

    @rule(chunks=parts)
    def put_chunks(self, chunks: list[bytes]) -> None:
        for chunk in chunks:
            self.send(self.memory.command(PutChunk, digest=content.digest(chunk), content=content.encode(chunk)))

    @rule(chunks=parts)
    def collect(self, chunks: list[bytes]) -> None:
        self.send(self.memory.command(Collect, digests=tuple(content.digest(chunk) for chunk in chunks)))

    @rule(
        data=st.sampled_from(BASES),
        base=st.sampled_from([*BASES, b""]),
        deeper=st.sampled_from([1, 1, 1, 0, 2]),
        is_stale=st.sampled_from([False, False, False, True]),
    )
    def repack(self, data: bytes, base: bytes, deeper: int, is_stale: bool) -> None:
        digest = content.digest(data)
        row = self.memory.rows.content(digest)
        after = self.delta(data, base, deeper) if base and base != data else content.encode(data)
        was = bytes(16) if is_stale or row is None else fingerprint(row)
        self.send(self.memory.command(Repack, digest=digest, was=was, content=after))

    @rule(workflow=workflows, version=numbers, hold=st.booleans(), reason=st.sampled_from(["audit", "court"]))
    def hold(self, workflow: str, version: int, hold: bool, reason: str) -> None:
        self.send(self.memory.command(Hold, workflow=workflow, version=version, hold=hold, reason=reason))

    @rule(workflow=workflows, versions=some, keep_days=st.sampled_from([None, None, None, "30"]))
    def retain(self, workflow: str, versions: set[int], keep_days: str | None) -> None:
        judged = self.oracle.policy(workflow, "keep_days") if keep_days is None else keep_days
        self.send(self.memory.command(Retain, workflow=workflow, versions=tuple(sorted(versions)), keep_days=judged))

    @rule(workflow=workflows, version=numbers, truly=st.sampled_from([True, True, True, False]))
    def purge(self, workflow: str, version: int, truly: bool) -> None:
        row = self.memory.rows.version(workflow, version)
        digest = row.digest if row is not None and truly else content.digest(b"other")
        self.send(self.memory.command(Purge, workflow=workflow, version=version, digest=digest))

    @rule()
    def index(self) -> None:
        self.send(self.memory.command(Index))

    @rule(back=st.integers(0, 30))
    def note_backup(self, back: int) -> None:
        revision = max(self.memory.registry.revision - back, 0)
        backup = Backup(revision=revision, index=revision, taken_ms=revision, member="m1")
        self.send(self.memory.command(NoteBackup, backup=backup))

    @invariant()
    def contents_are_the_oracles(self) -> None:
        assert dict(self.memory.rows.contents()) == self.oracle.contents
        assert {digest for digest, _ in self.memory.rows.chunks()} == self.oracle.chunks

    @invariant()
    def every_content_has_a_holder(self) -> None:
        held = {
            raw(version.digest) + within(workflow) + version.number.to_bytes(8, "big")
            for workflow in WORKFLOWS
            for version in self.memory.rows.versions(workflow, 1 << 62)
            if version.removed is None
        }
        found = {key for key, _ in self.table(HOLDERS)}
        assert found == held if self.memory.registry.is_indexed else found <= held
        assert {key[:32] for key in held} == {raw(digest) for digest, _ in self.memory.rows.contents()}

    @invariant()
    def what_contents_rest_on_is_there(self) -> None:
        contents = dict(self.memory.rows.contents())
        for row in contents.values():
            assert bool(row.base) == (row.depth > 0)
            assert not row.base or (contents[row.base].depth < row.depth and not contents[row.base].chunks)
        deltas = {raw(row.base) + raw(digest) for digest, row in contents.items() if row.base}
        assert {key for key, _ in self.table(DELTAS)} == deltas
        counted = {
            key.decode("ascii"): sum(key.decode("ascii") in row.chunks for row in contents.values())
            for key, _ in self.table(CHUNKS)
        }
        assert dict(self.memory.rows.chunks()) == counted
        assert all(chunk in counted for row in contents.values() for chunk in row.chunks)

    @invariant()
    def no_pointer_names_what_is_gone(self) -> None:
        rows = self.memory.rows
        for workflow in WORKFLOWS:
            for pointer in rows.pointers(workflow):
                version = rows.version(workflow, pointer.version)
                assert version is not None
                assert version.removed is None
                assert rows.has_content(version.digest)

    @invariant()
    def what_was_purged_is_nowhere(self) -> None:
        for digest in self.oracle.purged:
            assert self.memory.rows.purged(digest) is not None
            assert not self.memory.rows.has_content(digest)
            assert list(self.memory.rows.holders(digest)) == []

    @invariant()
    def the_audit_tells_what_was_removed_and_is_held(self) -> None:
        removed: dict[tuple[str, int], str] = {}
        held: dict[tuple[str, int], str] = {}
        for change in self.memory.rows.changes(1):
            removed |= {(each.workflow, each.version): change.action for each in change.removed}
            if change.version is not None:
                held[change.version.workflow, change.version.number] = change.version.hold
        for workflow in WORKFLOWS:
            for version in self.memory.rows.versions(workflow, 1 << 62):
                key, theirs = (workflow, version.number), self.oracle.versions[workflow][version.number - 1]
                cause = version.removed.cause if version.removed else ""
                assert removed.pop(key, "") == cause == theirs.removed
                assert held[key] == version.hold == theirs.hold
                assert version.snapshot == theirs.snapshot
        assert not removed

    def table(self, name: str) -> list[tuple[bytes, bytes]]:
        return list(self.memory.environment.transaction().scan(name))


TestContents = Contents.TestCase
TestContents.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)

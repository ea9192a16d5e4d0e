"""What lies over what, and that the bytes come back whatever is packed again and goes."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from registry.core import limits
from registry.core.commands import Repack
from registry.core.encoding import fingerprint
from registry.core.errors import Invalid, Reason, RegistryError
from registry.core.model import Content
from registry.core.outcomes import Published, Repacked
from registry.store import content, packing
from registry.store.content import Base
from registry.store.state import Rows
from tests.unit.core.kit import WORKFLOW, Machine


def steps_to_the_first(number: int) -> int:
    steps = 0
    while number > 1:
        number, steps = packing.ancestor(number), steps + 1
    return steps


def test_few_steps_lead_to_the_first_version() -> None:
    assert [packing.ancestor(number) for number in (1, 2, 3, 16, 17, 18, 33, 257, 65_537)] == [
        0, 1, 2, 15, 1, 17, 17, 1, 1,
    ]  # fmt: skip
    assert max(map(steps_to_the_first, range(1, 1001))) == 32
    assert max(map(steps_to_the_first, range(1, 70_000))) < limits.DELTA_DEPTH


def history(versions: int, lines: int = 80, seed: int = 0) -> list[bytes]:
    """Each a small change of the one before; no two are the same."""
    rnd = random.Random(seed)
    text = [b"%032x" % rnd.getrandbits(128) for _ in range(lines)]
    found = []
    for number in range(versions):
        text[rnd.randrange(lines)] = b"%032x of version %d" % (rnd.getrandbits(128), number)
        found.append(b"\n".join(text))
    return found


class Store:
    """A machine that packs what it publishes, as a member does."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.machine.found()
        self.exact: dict[str, bytes] = {}

    @property
    def rows(self) -> Rows:
        return self.machine.rows

    def publish(self, data: bytes, workflow: str = WORKFLOW, *parents: int) -> Content:
        known = self.rows.workflow(workflow)
        number = known.versions + 1 if known else 1
        bases = [self.base(each) for each in packing.bases(self.rows, workflow, number, parents)]
        row = content.pack(data, bases)
        outcome = self.machine.publish(data, workflow, content=row, parents=parents)
        assert isinstance(outcome, Published)
        assert outcome.created, outcome
        self.exact[content.digest(data)] = data
        return row

    def published(self, contents: list[bytes], workflow: str = WORKFLOW) -> None:
        for data in contents:
            self.publish(data, workflow)

    def base(self, digest: str) -> Base:
        return Base(digest, self.exact[digest], self.row(digest).depth)

    def row(self, digest: str) -> Content:
        row = self.rows.content(digest)
        assert row is not None
        return row

    def repack(self, digest: str, after: Content) -> bool:
        command = Repack(
            request_id=self.machine.request_id(),
            time_ms=1,
            digest=digest,
            was=fingerprint(self.row(digest)),
            content=after,
        )
        outcome = self.machine.apply(command)
        assert isinstance(outcome, Repacked)
        return outcome.done

    def settle(self) -> int:
        """All again, of each workflow the oldest first, as the upkeep does."""
        done = 0
        for workflow in list(self.rows.workflows()):
            for version in reversed(list(self.rows.versions(workflow.name, 1 << 40))):
                after = packing.repacking(self.rows, version.digest).better()
                if after is not None:
                    assert self.repack(version.digest, after)
                    done += 1
        return done

    @property
    def size_bytes(self) -> int:
        return sum(content.cost_bytes(row) for _, row in self.rows.contents())

    def check(self) -> None:
        for digest, data in self.exact.items():
            assert content.unpack(self.rows, digest) == data


@pytest.fixture
def store() -> Store:
    return Store()


def test_versions_lie_over_their_ancestors(store: Store) -> None:
    contents = history(40)
    rows = [store.publish(data) for data in contents]
    assert rows[0].encoding != "delta"
    for number, row in enumerate(rows[1:], start=2):
        assert row.base == content.digest(contents[packing.ancestor(number) - 1])
        assert row.depth == steps_to_the_first(number)
        assert len(row.data) < len(contents[0]) // 4
    store.check()


def test_what_shares_nothing_stands_alone(store: Store) -> None:
    first, other = history(1)[0], history(1, seed=1)[0]
    assert store.publish(first).encoding == store.publish(other).encoding == "zstd"


def test_an_ancestor_that_cannot_be_used_gives_way_to_the_next_older_one(store: Store) -> None:
    contents = history(4)
    store.published(contents[:3])
    assert packing.bases(store.rows, WORKFLOW, 4) == [content.digest(contents[2])]
    assert packing.bases(store.rows, WORKFLOW, 4, avoid=[content.digest(contents[2])]) == [content.digest(contents[1])]
    assert packing.bases(store.rows, WORKFLOW, 1) == []
    deep = structs.replace(store.row(content.digest(contents[2])), depth=limits.DELTA_DEPTH)
    assert not packing.is_base(deep)
    assert not packing.is_base(Content(encoding="chunks", data=b"", size_bytes=5, chunks=("sha256:a",)))
    assert not packing.is_base(None)


def test_of_the_ancestor_and_the_parent_the_better_one_is_taken(store: Store) -> None:
    old, other, new = history(1)[0], history(1, seed=1)[0], history(2)[1]
    store.publish(old)
    store.publish(other)
    assert packing.bases(store.rows, WORKFLOW, 3, [1]) == [content.digest(other), content.digest(old)]
    assert store.publish(new, WORKFLOW, 1).base == content.digest(old)
    store.check()


def test_nothing_becomes_deeper_than_allowed() -> None:
    data, base = history(2)
    assert content.pack(data, [Base(content.digest(base), base, limits.DELTA_DEPTH)]).encoding != "delta"
    assert content.pack(data, [Base(content.digest(base), base, limits.DELTA_DEPTH - 1)]).depth == limits.DELTA_DEPTH


def test_a_delta_that_does_not_come_back_is_never_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    data, base = history(2)
    monkeypatch.setattr("registry.core.frames.unpack_over", lambda *_: b"other bytes")
    assert content.pack(data, [Base(content.digest(base), base, 0)]).encoding == "zstd"


def test_packed_again_it_is_smaller_and_settled(store: Store) -> None:
    for data in history(20):
        store.machine.publish(data)  # alone, as below feature level 2
        store.exact[content.digest(data)] = data
    before = store.size_bytes
    assert store.settle() >= 19
    assert store.size_bytes < before / 4
    assert all(row.settled for _, row in store.rows.contents() if row.base)
    store.check()
    assert store.settle() == 0


def test_what_is_large_is_packed_again_at_the_level_of_publishing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a large one too."""
    first, second = history(1)[0], history(1)[0][:-100]
    levels: list[int] = []
    pack = content.pack

    def noted(data: bytes, bases: Iterable[Base], level: int) -> Content:
        levels.append(level)
        return pack(data, bases, level)

    for data in (first, second):
        store.machine.publish(data)
    monkeypatch.setattr(content, "pack", noted)
    job = packing.repacking(store.rows, content.digest(second))
    assert [each.digest for each in job.over] == [content.digest(first)]
    for settled_bytes in (len(first), len(first) - 1):
        monkeypatch.setattr(content, "SETTLED_BYTES", settled_bytes)
        job.better()
    assert levels == [content.SETTLED_LEVEL, content.PUBLISH_LEVEL]


def test_what_others_lie_over_does_not_become_deeper(store: Store) -> None:
    first, second, third = history(3)
    store.published([first])
    store.machine.publish(second)  # alone
    store.exact[content.digest(second)] = second
    assert store.publish(third).base == content.digest(second)
    assert packing.repacking(store.rows, content.digest(second)).better() is None
    store.check()


def test_it_can_do_without_contents_that_go(store: Store) -> None:
    contents = history(6)
    store.published(contents)
    first, second, third = (content.digest(each) for each in contents[:3])
    after = packing.repacking(store.rows, third, {second}).again()
    assert after.base == first
    assert store.repack(third, after)
    assert packing.repacking(store.rows, third, {first, second}).again().base == ""
    assert not any(store.rows.deltas(second))
    store.check()


def test_it_can_do_without_contents_that_are_damaged(store: Store) -> None:
    contents = history(4)
    store.published(contents)
    first, second, third = (content.digest(each) for each in contents[:3])
    row = store.row(first)
    found = packing.repacking(store.rows, third, {second})
    assert [each.digest for each in found.over] == [first]
    wrong = structs.replace(row, data=row.data[:-1] + b"x")
    damaged = found._replace(over=(found.over[0]._replace(links=((first, wrong),)),))
    assert damaged.again() == content.encode(contents[2])


def test_a_chain_with_a_wrong_link_is_not_followed(store: Store) -> None:
    contents = history(3)
    store.published(contents)
    first, second, third = (content.digest(each) for each in contents)
    row = store.row(second)
    wrong = [
        structs.replace(row, base=third),  # round and round
        structs.replace(row, base="", depth=0),
        structs.replace(row, depth=9),
        structs.replace(row, data=row.data[:-1] + b"x"),
        structs.replace(row, encoding="chunks", chunks=(first,)),
        structs.replace(row, size_bytes=row.size_bytes + 1),
        None,
    ]
    for each in wrong:
        rows = {first: store.row(first), second: each, third: store.row(third)}
        with pytest.raises(RegistryError) as caught:
            content.exact(content.chain(_Rows(rows), third))
        assert caught.value.reason == Reason.CORRUPT_CONTENT
        assert caught.value.metadata["digest"] == third
        assert second in caught.value.message or each == wrong[0], caught.value.message


def test_other_bytes_of_the_same_size_are_not_given_out(store: Store) -> None:
    contents = history(2)
    store.published(contents)
    first, second = (content.digest(each) for each in contents)
    other = Content(encoding="raw", data=contents[0].swapcase(), size_bytes=len(contents[0]))
    for asked in (first, second):
        with pytest.raises(RegistryError) as caught:
            content.exact(content.chain(_Rows({first: other, second: store.row(second)}), asked))
        assert caught.value.reason is Reason.CORRUPT_CONTENT
        assert first in caught.value.message


def test_content_in_chunks_is_not_read_as_one() -> None:
    row = Content(encoding="chunks", data=b"", size_bytes=1 << 30, chunks=("sha256:a", "sha256:b"))
    with pytest.raises(Invalid) as caught:
        content.chain(_Rows({"sha256:x": row}), "sha256:x")
    assert caught.value.reason is Reason.TOO_LARGE


def test_what_is_known_is_not_read_again(store: Store) -> None:
    contents = history(5)
    store.published(contents)
    digests = [content.digest(each) for each in contents]
    found = content.chain(store.rows, digests[4], known={digests[2]: contents[2]}.get)
    assert ([at for at, _ in found.links], found.under) == ([digests[4], digests[3]], contents[2])
    assert content.exact(found) == contents[4]
    whole = content.chain(store.rows, digests[4], known={digests[4]: contents[4]}.get)
    assert (len(whole.links), whole.work_bytes, content.exact(whole)) == (1, 0, contents[4])


class _Rows:
    def __init__(self, rows: dict[str, Content | None]) -> None:
        self._rows = rows

    def content(self, digest: str) -> Content | None:
        return self._rows[digest]


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(2, 60))
def test_the_bytes_come_back_whatever_is_packed_again(rnd: random.Random, versions: int) -> None:
    store = Store()
    lines = [b"%d" % rnd.getrandbits(64) for _ in range(30)]
    for number in range(versions):
        lines[rnd.randrange(len(lines))] = b"%d, %d" % (rnd.getrandbits(64), number)
        workflow = rnd.choice(["a/one", "a/two"])
        known = store.rows.workflow(workflow)
        parents = [rnd.randint(1, known.versions)] if known and rnd.random() < 0.3 else []
        store.publish(b"\n".join(lines), workflow, *parents)
    digests = sorted(store.exact)
    for _ in range(versions):
        digest = rnd.choice(digests)
        if rnd.random() < 0.5:
            going = {rnd.choice(digests) for _ in range(3)} - {digest}
            after = packing.repacking(store.rows, digest, going).again()
            assert after.base not in going
            assert store.repack(digest, after)
        elif (better := packing.repacking(store.rows, digest).better()) is not None:
            assert store.repack(digest, better)
    store.check()
    for _, row in store.rows.contents():
        assert row.depth <= limits.DELTA_DEPTH
        assert not row.base or store.row(row.base).depth < row.depth

"""What a publish is packed over, and what happens when that changes as it is on its way."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from registry.core import commands, outcomes
from registry.core.encoding import fingerprint
from registry.core.errors import Reason, RegistryError, Rejected
from registry.server.budget import Budget
from registry.server.limits import PACK_ATTEMPTS, SIMILAR_NEW
from registry.server.services.publish import Publish
from registry.store import content, packing
from registry.store.state import StoreState
from tests.unit.core.kit import WORKFLOW
from tests.unit.server.packing_kit import Bench
from tests.unit.store.test_packing import history

VERSIONS = history(8)


def publishing(bench: Bench) -> Publish:
    unused: Any = None
    return Publish(
        proposer=bench.proposer,
        reads=bench.reads,
        replies=bench.replies,
        inspector=unused,
        content_limit_bytes=1 << 20,
        large=unused,
    )


async def propose(bench: Bench, data: bytes, level: int = 2, **fields: Any) -> commands.Publish:
    """Through the service; what was taken into the log."""
    command = bench.machine.publish_command(data, **fields)
    assert isinstance(await publishing(bench)._propose(command, data, level, Budget(5.0)), outcomes.Published)
    entry = bench.cluster.entries[-1]
    assert isinstance(entry, commands.Publish)
    return entry


def repacked(bench: Bench, digest: str, going: set[str]) -> None:
    rows = bench.machine.rows
    row = rows.content(digest)
    assert row is not None
    after = packing.repacking(rows, digest, going).again()
    outcome = bench.machine.order(commands.Repack, digest=digest, was=fingerprint(row), content=after)
    assert outcome == outcomes.Repacked(revision=bench.machine.registry.revision, done=True)


async def test_the_log_carries_the_delta() -> None:
    bench = Bench()
    await propose(bench, VERSIONS[0])
    entry = await propose(bench, VERSIONS[1])
    assert (entry.content.encoding, entry.content.base) == ("delta", content.digest(VERSIONS[0]))
    assert len(commands.encode(entry)) < len(VERSIONS[1]) // 3
    assert await bench.contents.exact(bench.chain(VERSIONS[1])) == VERSIONS[1]


async def test_below_level_2_contents_stand_alone() -> None:
    bench = Bench(level=1)
    for data in VERSIONS[:3]:
        entry = await propose(bench, data, level=1)
        assert (entry.content.encoding, entry.content.base) == ("zstd", "")


async def test_bytes_that_are_stored_already_go_as_they_are() -> None:
    bench = Bench()
    rows = [await bench.publish(data) for data in VERSIONS[:3]]
    assert await bench.publish(VERSIONS[1]) == rows[1]
    assert await bench.publish(VERSIONS[1], "a/other") == rows[1]


async def test_a_base_that_changes_on_the_way_is_packed_over_no_more() -> None:
    bench = Bench()
    for data in VERSIONS[:3]:
        await bench.publish(data)
    digest = content.digest(VERSIONS[2])

    def repack() -> None:
        bench.cluster.before = lambda: None
        repacked(bench, digest, {content.digest(VERSIONS[1])})

    bench.cluster.before = repack
    entry = await propose(bench, VERSIONS[3])
    assert len(bench.cluster.entries) == 2
    assert entry.content.base == content.digest(VERSIONS[1])
    assert await bench.contents.exact(bench.chain(VERSIONS[3])) == VERSIONS[3]


async def test_the_last_attempt_stands_alone() -> None:
    bench = Bench()
    for data in VERSIONS[:5]:
        await bench.publish(data)
    commit = bench.cluster.propose

    async def outdated(command: bytes, *, timeout_s: float) -> bytes:
        decoded = commands.decode(command)
        if isinstance(decoded, commands.Publish) and decoded.content.base:
            bench.cluster.entries.append(decoded)
            return outcomes.encode(outcomes.Rejected(revision=1, reason=Reason.BASE_OUTDATED, message="outdated"))
        return await commit(command, timeout_s=timeout_s)

    bench.cluster.propose = outdated  # type: ignore[method-assign]
    entry = await propose(bench, VERSIONS[5])
    assert len(bench.cluster.entries) == PACK_ATTEMPTS
    bases = [each.content.base for each in bench.cluster.entries if isinstance(each, commands.Publish)]
    assert len(set(bases)) == PACK_ATTEMPTS
    assert (entry.content.base, bases[-1]) == ("", "")


async def test_other_refusals_are_not_tried_again() -> None:
    bench = Bench()
    await bench.publish(VERSIONS[0])
    with pytest.raises(RegistryError) as caught:
        await propose(bench, VERSIONS[1], kind="yaml")
    assert isinstance(caught.value, Rejected)
    assert caught.value.reason is Reason.KIND_MISMATCH
    assert bench.cluster.entries == []


def damage(bench: Bench, data: bytes) -> None:
    digest = content.digest(data)
    row = bench.machine.rows.content(digest)
    assert row is not None
    wrong = structs.replace(row, data=row.data[:-1] + b"x")
    StoreState(bench.machine.environment.transaction(), level=2).put_content(digest, wrong)
    bench.machine.environment.commit()


async def test_a_damaged_ancestor_does_not_stop_a_publish() -> None:
    bench = Bench()
    for data in VERSIONS[:2]:
        await bench.publish(data)
    bench.contents.clear()
    damage(bench, VERSIONS[0])
    assert (await bench.publish(VERSIONS[2])).encoding == "zstd"


async def test_a_parent_that_cannot_be_read_does_not_stop_a_publish() -> None:
    bench = Bench()
    for data in VERSIONS[:2]:
        await bench.publish(data)
    bench.machine.indexed()
    repacked(bench, content.digest(VERSIONS[1]), {content.digest(VERSIONS[0])})
    bench.machine.purge(1)
    parent, why = await publishing(bench)._parent(WORKFLOW, 1)
    assert (parent, why) == ((bench.machine.version(1), b""), "its content was removed")
    bench.contents.clear()
    damage(bench, VERSIONS[1])
    parent, why = await publishing(bench)._parent(WORKFLOW, 0)
    assert (parent, why) == ((bench.machine.version(2), b""), "its content is damaged on this member")
    assert await publishing(bench)._parent("a/new", 0) == (None, "")


async def test_a_first_version_lies_over_one_that_is_alike() -> None:
    bench = Bench()
    others = [history(1, seed=seed)[0] for seed in range(1, 6)]
    for number, data in enumerate([*others, VERSIONS[0]]):
        assert (await bench.publish(data, f"a/w{number}")).encoding == "zstd"
    row = await bench.publish(VERSIONS[3], "a/new")
    assert (row.encoding, row.base, row.depth) == ("delta", content.digest(VERSIONS[0]), 1)
    assert await bench.contents.exact(bench.chain(VERSIONS[3])) == VERSIONS[3]


async def test_not_over_another_namespace_or_kind() -> None:
    bench = Bench()
    await bench.publish(VERSIONS[0], "a/w", kind="yaml")
    await bench.publish(VERSIONS[1], "b/w")
    assert (await bench.publish(VERSIONS[2], "a/new")).encoding == "zstd"
    assert (await bench.publish(VERSIONS[3], "b/new")).encoding == "delta"


async def test_in_a_large_namespace_some_are_looked_at_each_time() -> None:
    bench = Bench()
    for number in range(SIMILAR_NEW + 5):
        bench.machine.publish(history(1, lines=8, seed=100 + number)[0], f"a/w{number:03}")
    bench.machine.publish(VERSIONS[0], f"a/w{SIMILAR_NEW + 5:03}")
    assert (await bench.publish(VERSIONS[1], "a/x")).encoding == "zstd", "not looked at so far"
    assert (await bench.publish(VERSIONS[2], "a/y")).encoding == "delta"


async def test_what_was_removed_is_not_packed_over() -> None:
    bench = Bench()
    await bench.publish(VERSIONS[0], "a/w")
    assert (await bench.publish(VERSIONS[1], "a/new")).encoding == "delta"
    bench.machine.indexed()
    await bench.publish(b"other", "a/w")
    going = content.digest(VERSIONS[0])
    repacked(bench, content.digest(VERSIONS[1]), {going})
    bench.machine.purge(1, "a/w")
    assert bench.machine.rows.content(going) is None
    assert (await bench.publish(VERSIONS[2], "a/newer")).base == content.digest(VERSIONS[1])
    await bench.publish(VERSIONS[3], "a/newest")
    assert bench.packer._similar._known["a/w"][0] == content.digest(b"other"), "looked at again"


async def test_a_retry_of_what_was_decided_carries_no_bytes_into_the_log() -> None:
    """They may be purged by now, and the log is on every disk."""
    bench = Bench()
    first = await propose(bench, b"a secret" * 20)
    bench.machine.published(b"another")
    bench.machine.indexed()
    assert isinstance(bench.machine.purge(1), outcomes.Purged)
    again = await propose(bench, b"a secret" * 20, request_id=first.request_id)
    assert again.content.data == b""
    assert len(list(bench.machine.rows.versions(WORKFLOW, 9))) == 2
    other = bench.machine.publish_command(b"other bytes", request_id=first.request_id)
    with pytest.raises(RegistryError) as caught:
        await publishing(bench)._propose(other, b"other bytes", 2, Budget(5.0))
    assert caught.value.reason is Reason.REQUEST_REUSED


async def test_below_level_2_a_retry_is_as_it_was() -> None:
    bench = Bench(level=1)
    first = await propose(bench, VERSIONS[0], level=1)
    again = await propose(bench, VERSIONS[0], level=1, request_id=first.request_id)
    assert again.content == first.content

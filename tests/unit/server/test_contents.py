"""What is kept unpacked, and what travels to those who have other bytes already."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs

from registry.core import frames
from registry.core.errors import Reason, Refused
from registry.core.model import Content
from registry.core.references import parse_target
from registry.server.contents import Contents
from registry.server.limits import INLINE_WORK_BYTES
from registry.store import content
from registry.store.content import Chain
from registry.store.state import StoreState
from registry.v1 import registry_pb2
from tests.unit.core.kit import WORKFLOW
from tests.unit.server.packing_kit import Bench
from tests.unit.store.test_packing import history

LONG = [text * 40 for text in history(40, lines=400)]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each content unpacked so far whether it was on the main thread."""
    found: list[bool] = []
    original: Callable[[Chain], bytes] = content.exact

    def exact(chain: Chain) -> bytes:
        found.append(threading.current_thread() is threading.main_thread())
        return original(chain)

    monkeypatch.setattr(content, "exact", exact)
    return found


async def test_a_content_is_unpacked_once(counted: list[bool]) -> None:
    bench, versions = Bench(), history(5)
    for data in versions:
        await bench.publish(data)
    bench.contents.clear()
    counted.clear()
    for _ in range(3):
        assert await bench.contents.exact(bench.chain(versions[4])) == versions[4]
    assert counted == [True]
    assert await bench.contents.exact(bench.chain(versions[3])) == versions[3]


async def test_long_work_leaves_the_loop_and_is_shared(counted: list[bool]) -> None:
    bench = Bench()
    for data in LONG[:2]:
        await bench.publish(data)
    assert len(LONG[1]) * 2 > INLINE_WORK_BYTES
    bench.contents.clear()
    counted.clear()
    chain = bench.chain(LONG[1])
    assert await asyncio.gather(*(bench.contents.exact(chain) for _ in range(5))) == [LONG[1]] * 5
    assert counted == [False]


async def test_who_gives_up_does_not_stop_it_for_others() -> None:
    bench = Bench()
    for data in LONG[:2]:
        await bench.publish(data)
    bench.contents.clear()
    chain = bench.chain(LONG[1])
    impatient, patient = (asyncio.ensure_future(bench.contents.exact(chain)) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    assert await patient == LONG[1]
    assert impatient.cancelled()


async def test_nothing_is_kept_past_the_limit_or_a_purge() -> None:
    bench, versions = Bench(), history(3)
    for data in versions:
        await bench.publish(data)
    small = Contents(hot_bytes=2 * max(map(len, versions)))
    for data in versions:
        await small.exact(small.chain(bench.machine.rows, content.digest(data)))
    known = [small.chain(bench.machine.rows, content.digest(data)).whole is not None for data in versions]
    assert known == [False, True, True]
    small.clear()
    assert small.chain(bench.machine.rows, content.digest(versions[2])).whole is None


async def test_what_is_unpacked_while_it_is_purged_is_not_kept() -> None:
    bench = Bench()
    for data in LONG[:2]:
        await bench.publish(data)
    bench.contents.clear()
    running = asyncio.ensure_future(bench.contents.exact(bench.chain(LONG[1])))
    await asyncio.sleep(0)
    bench.contents.clear()
    assert await running == LONG[1]
    assert bench.chain(LONG[1]).whole is None


async def test_damage_is_found_and_not_kept() -> None:
    bench, versions = Bench(), history(2)
    for data in versions:
        await bench.publish(data)
    bench.contents.clear()
    chain = bench.chain(versions[1])
    (at, row), *below = chain.links
    wrong = chain._replace(links=((at, structs.replace(row, data=row.data[:-1] + b"x")), *below))
    for _ in range(2):
        with pytest.raises(Refused) as caught:
            await bench.contents.exact(wrong)
        assert caught.value.reason is Reason.CORRUPT_CONTENT
        with pytest.raises(Refused):
            await bench.contents.compact(wrong, bench.chain(versions[0]))


async def get(bench: Bench, reference: int, base: bytes = b"", **fields: Any) -> registry_pb2.GetContentResponse:
    request = registry_pb2.GetContentRequest(
        workflow=WORKFLOW,
        reference=str(parse_target(str(reference))),
        compact=True,
        base_digest=content.digest(base) if base else "",
    )
    request.MergeFrom(registry_pb2.GetContentRequest(**fields))
    return await bench.reads.get_content(request, 5.0)


async def test_who_has_the_base_gets_what_is_stored() -> None:
    bench, versions = Bench(), history(3)
    rows = [await bench.publish(data) for data in versions]
    reply = await get(bench, 3, versions[1])
    assert (reply.encoding, reply.base_digest, reply.content) == ("delta", rows[2].base, rows[2].data)
    first = await get(bench, 1)
    assert (first.encoding, first.base_digest, first.content) == ("zstd", "", rows[0].data)


async def test_who_has_another_version_gets_a_delta_of_it() -> None:
    bench, versions = Bench(), history(6)
    for data in versions:
        await bench.publish(data)
    for number, base in ((6, versions[0]), (1, versions[5]), (2, versions[4])):
        reply = await get(bench, number, base)
        assert (reply.encoding, reply.base_digest) == ("delta", content.digest(base))
        assert frames.unpack_over(base, reply.content, reply.version.size_bytes) == versions[number - 1]
        assert len(reply.content) < len(versions[0]) // 4


async def test_who_has_nothing_or_something_unknown_gets_all_of_it() -> None:
    bench, versions = Bench(), history(3)
    for data in versions:
        await bench.publish(data)
    stranger = b"elsewhere" * 50
    await bench.publish(stranger, "a/other")
    for base in (b"", b"never seen", stranger):
        reply = await get(bench, 3, base)
        assert (reply.encoding, reply.base_digest) == ("zstd", "")
        assert frames.unpack(reply.content, reply.version.size_bytes) == versions[2]
    exact = await get(bench, 3, compact=False)
    assert (await get(bench, 3)).SerializeToString() == (await get(bench, 3)).SerializeToString()
    plain = await bench.reads.get_content(registry_pb2.GetContentRequest(workflow=WORKFLOW), 5.0)
    assert (plain.encoding, plain.content, exact.version) == ("", versions[2], plain.version)


async def test_damage_of_what_the_caller_has_does_not_matter() -> None:
    bench, versions = Bench(), history(3)
    rows = [await bench.publish(data) for data in versions]
    damage(bench, versions[0], rows[0])
    chain, over = bench.chain(versions[2]), bench.chain(versions[0])
    bench.contents.clear()
    assert (await bench.contents.compact(chain, over._replace(whole=None))).encoding == "zstd"


def damage(bench: Bench, data: bytes, row: Content) -> None:
    wrong = structs.replace(row, data=row.data[:-1] + b"x")
    StoreState(bench.machine.environment.transaction(), level=2).put_content(content.digest(data), wrong)
    bench.machine.environment.commit()


async def test_everybody_gets_the_same_bytes_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, versions = Bench(), history(4)
    for data in versions:
        await bench.publish(data)
    packed = []
    original = content.pack
    monkeypatch.setattr(content, "pack", lambda *given: packed.append(1) or original(*given))  # type: ignore[func-returns-value]
    replies = await asyncio.gather(*(get(bench, 4, versions[0]) for _ in range(5)))
    assert len({reply.content for reply in replies}) == len(packed) == 1
    bench.contents.clear()
    await get(bench, 4, versions[0])
    assert len(packed) == 2

"""follow(): the current bytes, across switches, restarts, lies and a missing network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec import structs

from registry.agent import ConfigError, Current, FollowState, follow, last_good, limits
from registry.core.errors import Invalid
from registry.core.limits import CONTENT_BYTES_CEILING
from tests.integration.agent_bench import shorten_waits
from tests.integration.http_face import WORKFLOW, Face, digest_of, faces
from tests.integration.lying_member import polled, refused, saying

TIMEOUT_S = 10.0


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_waits(monkeypatch)
    monkeypatch.setattr("registry.client.limits.HTTP_RETRY_S", (0.001, 0.01))


@pytest.fixture
async def face() -> AsyncIterator[Face]:
    async with faces() as [made]:
        yield made


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "triage.last-good"


@asynccontextmanager
async def following(*where: Face, cache: Path, **options: Any) -> AsyncIterator[AsyncGenerator[Current, None]]:
    endpoints = [face.endpoint for face in where] or ["http://127.0.0.1:1"]
    async with asyncio.timeout(TIMEOUT_S):
        async with aclosing(follow(WORKFLOW, endpoints=endpoints, name="worker-7", cache=cache, **options)) as made:
            yield made


async def test_it_yields_what_is_current_and_confirms_what_was_taken(face: Face, cache: Path) -> None:
    await face.live(b"one")
    async with following(face, cache=cache) as triage:
        first = await anext(triage)
        assert (first.data, first.version, first.generation, first.digest) == (b"one", 1, 1, digest_of(b"one"))
        assert (first.state, first.problem) == (FollowState.LIVE, "")
        assert first.age_s < TIMEOUT_S
        assert face.acks == [], "it has not been taken yet"
        coming = asyncio.ensure_future(anext(triage))
        ack = await face.until_acked("confirmed", 1)
        assert (ack.agent, ack.running_version, ack.running_digest) == ("worker-7", 1, digest_of(b"one"))
        await face.live(b"two")
        assert (await coming).data == b"two"
        coming = asyncio.ensure_future(anext(triage))
        await face.until_acked("confirmed", 2)
        await face.switch(1, rollback=True, reason="bad answers")
        back = await coming
        assert (back.data, back.generation, back.rollback, back.reason) == (b"one", 3, True, "bad answers")
    assert face.fetched == [], "all of it came inside the replies"
    assert {poll.session for poll in face.polls} == {face.polls[0].session} != {""}


async def test_content_that_does_not_come_with_the_reply(cache: Path) -> None:
    large = Random(1).randbytes(CONTENT_BYTES_CEILING + 1)
    async with faces(inline=False) as [face]:
        await face.live(b"one")
        async with following(face, cache=cache, max_bytes=len(large)) as triage:
            assert (await anext(triage)).data == b"one"
            await face.live(large)
            assert (await anext(triage)).data == large
            await face.switch(2, reason="the same once more")
            assert (await anext(triage)).generation == 3
    assert face.fetched == [1, 2]
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]


async def test_it_starts_without_network(face: Face, cache: Path) -> None:
    await face.live(b"one")
    async with following(face, cache=cache) as triage:
        await anext(triage)
    async with following(cache=cache, stale_after_s=0.0) as triage:
        current = await anext(triage)
        assert (current.data, current.generation, current.state) == (b"one", 1, FollowState.STALE)
        assert 0 <= current.age_s < TIMEOUT_S
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(triage), 0.05)


async def test_state_says_how_things_stand_now(face: Face, cache: Path) -> None:
    now_s = [1_000_000.0]
    await face.live(b"one")
    async with following(face, cache=cache, clock_s=lambda: now_s[0]) as triage:
        current = await anext(triage)
        assert (current.state, current.age_s) == (FollowState.LIVE, 0)
        now_s[0] += limits.STALE_AFTER_S + 1
        assert (current.state, current.age_s) == (FollowState.STALE, limits.STALE_AFTER_S + 1)
        now_s[0] -= 3600
        assert current.age_s == 0, "a clock that was set back is no reason for a negative age"


async def test_cached_bytes_may_be_asked_to_wait_for_a_members_word(face: Face, cache: Path) -> None:
    await face.live(b"one")
    async with following(face, cache=cache) as triage:
        await anext(triage)
    async with following(cache=cache, allow_cached=False) as triage:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(triage), 0.05)
    async with following(face, cache=cache, allow_cached=False) as triage:
        assert (await anext(triage)).data == b"one"
    await face.live(b"two")
    async with following(face, cache=cache, allow_cached=False) as triage:
        assert (await anext(triage)).data == b"two", "and never what a member has just called old"


async def test_a_follow_without_acknowledgements(face: Face, cache: Path) -> None:
    await face.live(b"one")
    async with following(face, cache=cache, ack=False) as triage:
        await anext(triage)
        await face.live(b"two")
        await anext(triage)
    assert face.acks == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "header"])
async def test_a_damaged_file_is_not_used(face: Face, cache: Path, damage: str) -> None:
    await face.live(b"one " * 100)
    async with following(face, cache=cache) as triage:
        await anext(triage)
    whole = cache.read_bytes()
    cache.write_bytes(
        {
            "cut": whole[:-1],
            "flipped": whole[:-10] + b"!" + whole[-9:],
            "empty": b"",
            "header": whole.replace(b'"generation":1', b'"generation":7'),
        }[damage]
    )
    assert last_good.read(cache, WORKFLOW, "active") is None
    async with following(face, cache=cache) as triage:
        assert (await anext(triage)).data == b"one " * 100
    assert last_good.read(cache, WORKFLOW, "active") is not None


async def test_the_file_of_another_pointer_is_refused(face: Face, cache: Path) -> None:
    await face.live(b"one")
    async with following(face, cache=cache) as triage:
        await anext(triage)
    with pytest.raises(ConfigError, match="give each follow its own"):
        async with following(face, cache=cache, pointer="canary") as triage:
            await anext(triage)


async def test_arguments_are_checked(cache: Path) -> None:
    for workflow, options in (
        ("triage", {}),
        (WORKFLOW, {"pointer": "v1.2.3"}),
        (WORKFLOW, {"name": "a b"}),
        (WORKFLOW, {"endpoints": ["http://a:1/x"]}),
    ):
        fields: dict[str, Any] = {"endpoints": "http://a:1", "name": "a", "cache": cache} | options
        with pytest.raises(Invalid):
            await anext(follow(workflow, **fields))
    with pytest.raises(ConfigError, match="mixed"):
        await anext(follow(WORKFLOW, endpoints="http://a:1,b:2", name="a", cache=cache))


async def test_generations_only_rise_also_over_restarts(face: Face, cache: Path) -> None:
    await face.live(b"one")
    await face.live(b"two")
    async with following(face, cache=cache) as triage:
        assert (await anext(triage)).generation == 2
    async with faces() as [older]:  # a member that missed a switch
        await older.live(b"one")
        async with following(older, cache=cache) as triage:
            assert (await anext(triage)).generation == 2
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(triage), 0.05)
    async with following(face, cache=cache) as triage:
        assert (await anext(triage)).generation == 2
        await face.live(b"three")
        assert (await anext(triage)).data == b"three"


async def test_another_cluster_is_refused_and_named(face: Face, cache: Path) -> None:
    await face.live(b"one")
    evil = structs.replace(await face.switch(1), generation=9)
    async with following(face, cache=cache) as triage:
        current = await anext(triage)
        face.lie = saying(polled(evil, cluster_id="c2"))
        await face.wake()
        coming = asyncio.ensure_future(anext(triage))
        while current.state is not FollowState.ERROR:
            await asyncio.sleep(0.002)
        assert current.problem.startswith("CLUSTER_MISMATCH: ")
        face.lie = None
        await face.live(b"two")
        assert (await coming).data == b"two"
        assert current.state is FollowState.LIVE


async def test_a_restored_cluster_is_a_newer_epoch(face: Face, cache: Path) -> None:
    for data in (b"one", b"two", b"three"):
        await face.live(data)
    async with following(face, cache=cache) as triage:
        assert (await anext(triage)).generation == 3
        face.epoch = 2
        await face.switch(1, generation=1)
        restored = await anext(triage)
        assert (restored.data, restored.epoch, restored.generation) == (b"one", 2, 1)
        face.epoch = 1
        await face.live(b"of the old epoch", generation=9)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(triage), 0.05)


async def test_what_this_program_cannot_run_is_refused_and_the_follow_goes_on(face: Face, cache: Path) -> None:
    await face.live(b"one")
    async with following(face, cache=cache, facts={"dify": "1.9"}, max_bytes=100) as triage:
        current = await anext(triage)
        coming = asyncio.ensure_future(anext(triage))
        await face.live(b"two", needs=("dify>=2",))
        ack = await face.until_acked("refused", 2)
        assert (ack.code, ack.running_version) == ("INCOMPATIBLE", 1)
        assert current.state is FollowState.ERROR
        await face.live(bytes(101))
        assert (await face.until_acked("refused", 3)).code == "TOO_LARGE"
        await face.live(b"late", deadline_ms=1)
        assert (await face.until_acked("refused", 4)).code == "EXPIRED"
        assert not coming.done()
        await face.live(b"five", needs=("dify<2",))
        assert (await coming).data == b"five"
        assert current.state is FollowState.LIVE


async def test_a_deadline_that_passes_while_the_bytes_come_is_missed(cache: Path) -> None:
    async with faces(inline=False) as [face]:
        await face.live(b"one")
        hour_s = 3600.0
        async with following(
            face, cache=cache, clock_s=lambda: time.time() + (hour_s if 2 in face.fetched else 0)
        ) as triage:
            await anext(triage)
            coming = asyncio.ensure_future(anext(triage))
            await face.live(b"two", deadline_ms=round((time.time() + hour_s / 2) * 1000))
            assert (await face.until_acked("refused", 2)).code == "EXPIRED"
            assert not coming.done()
            await face.live(b"three")
            assert (await coming).data == b"three"


async def test_nothing_is_yielded_that_is_not_on_the_disk(
    face: Face, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = last_good.write

    def full(path: Path, good: last_good.LastGood) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(last_good, "write", full)
    await face.live(b"one")
    async with following(face, cache=cache) as triage:
        coming = asyncio.ensure_future(anext(triage))
        assert (await face.until_acked("refused", 1)).code == "STAGE_FAILED"
        monkeypatch.setattr(last_good, "write", write)
        assert (await coming).data == b"one"


async def test_acknowledgements_that_fail_are_sent_later(face: Face, cache: Path) -> None:
    await face.live(b"one")
    async with following(face, cache=cache) as triage:
        await anext(triage)
        face.lie = saying(refused(503, "NO_QUORUM"))
        coming = asyncio.ensure_future(anext(triage))
        while len(face.member.requests) < 5:
            await asyncio.sleep(0.002)
        face.lie = None
        await face.until_acked("confirmed", 1)
        assert len(face.acks) == 1
        await face.live(b"two")
        assert (await coming).data == b"two"


async def test_an_answer_that_leads_nowhere_is_not_asked_for_in_a_loop(
    face: Face, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "POLL_BACKOFF_S", (0.05, 0.05))
    await face.live(b"one")
    async with following(face, cache=cache, ack=False) as triage:
        await anext(triage)
        before = len(face.member.requests)
        face.lie = saying(polled())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(triage), 0.2)
        assert len(face.member.requests) - before < 10

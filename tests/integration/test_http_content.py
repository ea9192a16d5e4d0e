"""Contents over HTTP from sockets that behave, and that do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from registry.client import limits
from registry.client.http import HttpClient
from registry.core import frames
from registry.core.errors import Reason, Unavailable
from registry.core.limits import CHUNK_BYTES, CONTENT_BYTES_CEILING, MIB
from tests.integration.http_face import WORKFLOW, Face, digest_of, faces
from tests.integration.lying_member import LyingMember, Request, lying, refused, reply

BASE = Random(0).randbytes(2000).hex().encode()
SMALL = BASE[:-4] + b"two "
LARGE = Random(1).randbytes(CONTENT_BYTES_CEILING + 100_000)


@pytest.fixture
async def honest() -> AsyncIterator[Face]:
    async with faces() as [face]:
        publish(face, SMALL)
        yield face


def publish(face: Face, data: bytes) -> None:
    """Of what there is, this is version 2."""
    face.contents[WORKFLOW] = [BASE, data]


async def get(*members: LyingMember, into: Path, seed: int = 0, **changes: object) -> bytes | None:
    async with HttpClient([member.endpoint for member in members], random=Random(seed)) as client:
        fields = {"min_revision": 3, "into": into} | changes
        return await client.content(WORKFLOW, 2, **fields)  # type: ignore[arg-type]


async def test_small_content_comes_in_compact_form(honest: Face, tmp_path: Path) -> None:
    member = honest.member
    into = tmp_path / "arriving"
    progress: list[tuple[int, int]] = []
    note = lambda *at: progress.append(at)  # noqa: E731
    announced = {"digest": digest_of(SMALL), "size_bytes": 4000}
    assert await get(member, into=into, base=BASE, progress=note, **announced) == SMALL
    assert await get(member, into=into, **announced) == SMALL
    assert await get(member, into=into, base=b"never seen", **announced) == SMALL
    assert await get(member, into=into) == SMALL, "and as exact bytes where nothing was announced"
    assert honest.sent[0] < 60 < honest.sent[1] < 3000
    assert progress == [(4000, 4000)]
    assert not into.exists()
    assert member.requests[0].path == (
        f"/v1/content/support/triage/2?min_revision=3&form=compact&base={digest_of(BASE)}"
    )


async def test_large_content_goes_on_where_it_stopped(honest: Face, tmp_path: Path) -> None:
    member = honest.member
    into = tmp_path / "arriving"
    publish(honest, LARGE)
    honest.cut_after = 3 * MIB
    with pytest.raises(Unavailable):
        await get(member, into=into)
    assert into.stat().st_size == 3 * MIB
    honest.cut_after = 1 << 40
    progress: list[tuple[int, int]] = []
    assert await get(member, into=into, progress=lambda *at: progress.append(at)) is None
    assert into.read_bytes() == LARGE
    assert honest.sent == [3 * MIB, len(LARGE) - 3 * MIB + limits.HTTP_OVERLAP_BYTES]
    assert progress[-1] == (len(LARGE), len(LARGE))
    assert len(progress) <= len(LARGE) / CHUNK_BYTES
    assert await get(member, into=into) is None, "and once more, when all of it is there"
    assert into.read_bytes() == LARGE


@pytest.mark.parametrize("there", ["more", "other", "begins otherwise"])
async def test_what_was_there_and_does_not_belong_to_it_is_dropped(honest: Face, tmp_path: Path, there: str) -> None:
    member = honest.member
    into = tmp_path / "arriving"
    publish(honest, LARGE)
    into.write_bytes(
        {"more": LARGE + bytes(200_000), "other": bytes(MIB), "begins otherwise": b"x" + LARGE[1:MIB]}[there]
    )
    assert await get(member, into=into) is None
    assert into.read_bytes() == LARGE
    publish(honest, SMALL)
    assert await get(member, into=into) == SMALL, "also what was left of large content, for small content"


async def test_another_member_goes_on(tmp_path: Path) -> None:
    """Whatever the first one broke off or made up."""
    into = tmp_path / "arriving"
    async with faces(2) as [first, second]:
        publish(second, LARGE)
        first.cut_after = 2 * MIB
        for data in (LARGE, bytes(1000) + LARGE[1000:]):
            publish(first, data)
            for seed in range(3):
                into.unlink(missing_ok=True)
                announced = {"digest": digest_of(LARGE), "size_bytes": len(LARGE)}
                assert await get(first.member, second.member, into=into, seed=seed, **announced) is None
                assert into.read_bytes() == LARGE


def _message(data: bytes, *headers: str, **changes: str) -> bytes:
    return reply(data, *headers, f"x-registry-digest: {changes.get('digest', digest_of(SMALL))}")


RAW, ZSTD, DELTA = (f"x-registry-encoding: {name}" for name in ("raw", "zstd", "delta"))
LIES = {
    "other bytes": _message(SMALL[:-1] + b"!", RAW),
    "other bytes and their digest": _message(b"x" * 4000, RAW, digest=digest_of(b"x" * 4000)),
    "less": _message(SMALL[:-1], RAW),
    "more than it says": _message(SMALL + bytes(200_000), RAW),
    "a bomb": _message(frames.pack(bytes(MIB), 3), ZSTD),
    "no frame": _message(b"(\xb5/\xfd garbage", ZSTD),
    "half a frame": _message(frames.pack(SMALL, 3)[:-5], ZSTD),
    "over another base": _message(frames.pack_over(SMALL[1000:] + SMALL, SMALL, 3), DELTA),
    "another encoding": _message(SMALL, "x-registry-encoding: br"),
    "nothing": _message(b"", RAW),
    "no length": b"HTTP/1.1 200 OK\r\n\r\n" + SMALL,
    "a range nobody asked for": reply(SMALL, status="206 Partial Content"),
    "another workflow": _message(SMALL, RAW, digest=digest_of(b"other")),
    "gone": refused(404, "VERSION_NOT_FOUND"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_lies_about_content(lie: str, tmp_path: Path) -> None:
    async def say(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(LIES[lie])
        if b"content-length" not in LIES[lie]:
            writer.close()

    into = tmp_path / "arriving"
    announced = {"digest": digest_of(SMALL), "size_bytes": len(SMALL), "base": BASE}
    async with lying(say) as liar, faces() as [honest]:
        publish(honest, SMALL)
        for seed in range(2):
            assert await get(liar, honest.member, into=into, seed=seed, **announced) == SMALL
        if lie not in ("gone", "no length"):
            with pytest.raises(Unavailable) as caught:
                await get(liar, into=into, **announced)
            assert caught.value.reason in (Reason.CORRUPT_CONTENT, Reason.NO_MEMBER)
    assert not into.exists() or into.stat().st_size == 0


async def test_large_content_that_drips_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.client.limits.CHUNK_TIMEOUT_S", 0.1)

    async def say(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(
            reply(b"", RAW, f"x-registry-digest: {digest_of(LARGE)}").replace(b"length: 0", b"length: 9000000")
        )
        while True:
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.005)

    told: list[object] = []
    async with lying(say) as liar:
        with pytest.raises(Unavailable, match="no answer in time"):
            await get(liar, into=tmp_path / "arriving", progress=lambda *at: told.append(at))
    assert told == [], "a byte now and then is no progress"


async def test_more_than_was_announced_does_not_reach_the_disk(tmp_path: Path) -> None:
    into = tmp_path / "arriving"

    async def say(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n")
        writer.write(f"x-registry-digest: {digest_of(LARGE)}\r\n\r\n".encode())
        while True:
            writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
            await writer.drain()

    async with lying(say) as liar:
        with pytest.raises(Unavailable, match="more than 9,000,000 bytes"):
            await get(liar, into=into, digest=digest_of(LARGE), size_bytes=9_000_000)
    assert into.stat().st_size <= 9_000_000

from __future__ import annotations

import os
import tracemalloc
from random import Random

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from registry.core import frames, limits
from registry.core.limits import MIB

BASE = b"".join(b"line %d of the base\n" % number for number in range(400))
DATA = BASE.replace(b"line 7 ", b"line seven ")
FRAME = frames.pack_over(BASE, DATA, 9)


@given(st.binary(max_size=3000), st.binary(max_size=300), st.binary(max_size=3000), st.integers(1, 19))
def test_the_exact_bytes_come_back(head: bytes, middle: bytes, base: bytes, level: int) -> None:
    data = head + base + middle + base
    if data:
        assert frames.unpack_over(base, frames.pack_over(base, data, level), len(data)) == data
    assert frames.unpack(frames.pack(data, level), len(data)) == data


def test_over_a_base_only_what_differs_is_kept() -> None:
    assert len(FRAME) * 5 < len(frames.pack(DATA, 9))


@pytest.mark.parametrize("size_mib", [1, 3, 6])
def test_a_large_base_is_not_lost(size_mib: int) -> None:
    """Random bytes: what is not found in the base is not found at all."""
    base = os.urandom(size_mib * MIB)
    data = base[: MIB // 2] + b"changed" + base[MIB // 2 :]
    frame = frames.pack_over(base, data, 9)
    assert frames.unpack_over(base, frame, len(data)) == data
    assert len(frame) < 4096


@pytest.mark.parametrize(
    "frame", [b"", b"no frame", FRAME[:-1], FRAME + b"x", FRAME + FRAME, frames.pack(DATA, 9), b"\0" * 100]
)
def test_what_is_no_frame_of_that_size_is_none(frame: bytes) -> None:
    assert frames.unpack_over(BASE, frame, len(DATA)) is None


@pytest.mark.parametrize("size_bytes", [-1, 0, len(DATA) - 1, len(DATA) + 1, limits.CONTENT_BYTES_CEILING + 1])
def test_the_size_is_checked(size_bytes: int) -> None:
    assert frames.unpack_over(BASE, FRAME, size_bytes) is None
    assert frames.unpack(frames.pack(DATA, 9), size_bytes) is None


def test_a_frame_that_grows_beyond_its_size_is_refused() -> None:
    bomb = frames.pack_over(b"", b"\0" * limits.CONTENT_BYTES_CEILING, 9)
    assert len(bomb) < 1000
    assert frames.unpack_over(b"", bomb, 10_000) is None


@pytest.mark.parametrize("size_bytes", [len(DATA), 64 * MIB])
def test_a_frame_over_a_base_that_names_a_size_takes_no_memory_for_it(size_bytes: int) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        1, window_log=20, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=1, write_checksum=0
    )
    base = zstandard.ZstdCompressionDict(BASE, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    bomb = zstandard.ZstdCompressor(dict_data=base, compression_params=parameters).compress(b"\0" * size_bytes)
    tracemalloc.start()
    try:
        assert frames.unpack_over(BASE, bomb, len(DATA)) is None
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


def test_a_damaged_frame_is_none_or_other_bytes() -> None:
    rng = Random(1)
    for _ in range(2000):
        damaged = bytearray(FRAME)
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        frames.unpack_over(BASE, bytes(damaged), len(DATA))  # raises nothing


def test_a_window_beyond_all_contents_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        1, window_log=27, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=0, write_checksum=0
    )
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = frame.compress(DATA) + frame.flush()
    assert frames.unpack_over(b"", packed, len(DATA)) is None

from __future__ import annotations

import os

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from registry.core import limits
from registry.core.errors import Reason, Refused
from registry.core.model import Content
from registry.store import content


@given(st.binary(max_size=2000), st.integers(1, 50))
def test_the_exact_bytes_come_back(data: bytes, times: int) -> None:
    data *= times
    stored = content.encode(data)
    assert content.decode(stored, content.digest(data)) == data
    assert stored.size_bytes == len(data)
    assert len(stored.data) <= len(data)


def test_what_does_not_get_smaller_is_stored_raw() -> None:
    data = os.urandom(5000)
    assert content.encode(data) == Content(encoding="raw", data=data, size_bytes=5000)
    assert content.encode(b"").encoding == "raw"
    assert content.encode(b"a" * 5000).encoding == "zstd"


def damaged(stored: Content) -> list[Content]:
    other = content.encode(b"b" * 10_000)
    bomb = zstandard.ZstdCompressor().compress(b"\0" * (limits.CONTENT_BYTES_CEILING + 1))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(b"a" * 10_000)
    return [
        structs.replace(stored, data=stored.data[:-1]),
        structs.replace(stored, data=stored.data + b"x"),
        structs.replace(stored, data=b"not zstd"),
        structs.replace(stored, data=b""),
        structs.replace(stored, encoding="raw"),
        structs.replace(stored, size_bytes=9_999),
        structs.replace(stored, data=unsized),
        Content(encoding="zstd", data=bomb, size_bytes=10_000),
        Content(encoding="zstd", data=bomb, size_bytes=limits.CONTENT_BYTES_CEILING + 1),
        other,
    ]


def test_damage_is_found_and_never_delivered() -> None:
    data = b"a" * 10_000
    for wrong in damaged(content.encode(data)):
        with pytest.raises(Refused) as caught:
            content.decode(wrong, content.digest(data))
        assert caught.value.reason is Reason.CORRUPT_CONTENT
        assert caught.value.metadata == {"digest": content.digest(data)}

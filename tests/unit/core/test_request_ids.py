from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.core import request_ids
from registry.core.errors import Invalid


@given(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
def test_a_request_id_is_a_uuid7_that_holds_its_time(time_ms: int, random: bytes) -> None:
    text = request_ids.make(time_ms, random)
    parsed = uuid.UUID(text)
    assert str(parsed) == text
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert request_ids.issued_ms(request_ids.check(text)) == time_ms


@given(st.binary(min_size=10, max_size=10), st.binary(min_size=10, max_size=10))
def test_74_random_bits_tell_ids_of_one_millisecond_apart(one: bytes, other: bytes) -> None:
    low = (1 << 74) - 1
    same = int.from_bytes(one, "big") & low == int.from_bytes(other, "big") & low
    assert (request_ids.make(1, one) == request_ids.make(1, other)) == same


def test_later_ids_sort_later() -> None:
    assert request_ids.make(1, b"\xff" * 10) < request_ids.make(2, b"\0" * 10)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        str(uuid.UUID(int=0)),
        "1cd7e6a8-1c2b-4def-8abc-0123456789ab",
        request_ids.make(1, b"\xab" * 10).upper(),
        request_ids.make(1, b"\0" * 10) + "\n",
        request_ids.make(1, b"\0" * 10).replace("-", ""),
    ],
)
def test_not_request_ids(text: str) -> None:
    with pytest.raises(Invalid):
        request_ids.check(text)


@pytest.mark.parametrize(("time_ms", "random"), [(-1, b"\0" * 10), (2**48, b"\0" * 10), (1, b"\0" * 9)])
def test_wrong_parts_are_a_defect(time_ms: int, random: bytes) -> None:
    with pytest.raises(ValueError):
        request_ids.make(time_ms, random)

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.entries import NO_OP, pack, unpack


@given(st.lists(st.binary(max_size=20), max_size=10))
def test_commands_come_back_in_order(commands: list[bytes]) -> None:
    assert unpack(pack(commands)) == commands


def test_the_engines_own_entry_holds_no_commands() -> None:
    assert unpack(NO_OP) == []


@pytest.mark.parametrize("entry", [b"", b"\x00", b"\x02x", b"\x11", b"\x01\x01"])
def test_an_unknown_kind_is_an_error_and_not_skipped(entry: bytes) -> None:
    with pytest.raises(ValueError, match="unknown kind"):
        unpack(entry)


@pytest.mark.parametrize("entry", [b"\x10", b"\x10\x93\xc4", b"\x10\x91\x01"])
def test_damaged_commands_are_an_error(entry: bytes) -> None:
    with pytest.raises(ValueError):
        unpack(entry)

from __future__ import annotations

import errno

import lmdb
import pytest

from registry.server.main import advice


class MapFullError(Exception):
    """By name and text as lmdb's."""


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (Exception("mdb_txn_commit: No space left on device"), "the disk is full"),
        (MapFullError("mdb_put: MDB_MAP_FULL: Environment mapsize limit reached"), "largest size"),
        (OSError(errno.EIO, "Input/output error"), "check the disk"),
        (lmdb.Error("mdb_txn_commit: Input/output error"), "full?"),  # a full disk took half of a write
        (AssertionError("apply"), "start again"),
    ],
)
def test_a_hard_failure_says_what_to_do(error: BaseException, says: str) -> None:
    assert says in advice(error)

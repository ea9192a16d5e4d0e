from __future__ import annotations

import errno

import lmdb
import pytest

from cluster.api import Diverged, MemberRemoved, ReleaseTooOld
from registry.server.config import build
from registry.server.identity import Identity
from registry.server.main import advice, elsewhere


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
        (MemberRemoved("n4 was removed"), "regctl cluster add n4"),
        (Diverged("n4 differs"), "regctl cluster replace n4"),
        (ReleaseTooOld("feature level 2 is in force"), "start the newer release"),
    ],
)
def test_a_hard_failure_says_what_to_do(error: BaseException, says: str) -> None:
    assert says in advice(error, "n4")


FOUNDED = {"n1": "10.0.0.1:7401", "n2": "10.0.0.2:7401"}


@pytest.mark.parametrize(
    ("founding", "flags", "told"),
    [
        (FOUNDED, {"peer_listen": "10.0.0.9:7401"}, True),
        (FOUNDED, {"peer_listen": "10.0.0.9:7401", "peer_advertise": "10.0.0.9:7401"}, False),
        (FOUNDED, {"peer_listen": "10.0.0.1:7401"}, False),
        (FOUNDED, {"peer_listen": "0.0.0.0:7401", "peer_advertise": "10.0.0.1:7401"}, False),
        ({}, {"peer_listen": "10.0.0.9:7401"}, False),  # who joined tells the others where it listens
    ],
)
def test_a_founder_that_listens_elsewhere_is_told_how_to_move(
    founding: dict[str, str], flags: dict[str, str], told: bool
) -> None:
    addresses = {"listen": "127.0.0.1:7400", "http_listen": "127.0.0.1:7402"}
    config = build(name="n1", data_dir="d", insecure=True, **addresses, **flags)
    said = elsewhere(config, Identity(name="n1", incarnation="aa", founding=founding, joined=not founding))
    assert bool(said) == told
    assert not told or "--peer-advertise 10.0.0.9:7401, without --cluster" in said

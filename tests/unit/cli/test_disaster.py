"""What regctl says of backups and of epochs."""

from __future__ import annotations

from pathlib import Path

import msgspec

from registry.cli import disaster, views
from registry.client import Backup, ReplyInfo
from registry.core.model import Change

INFO = ReplyInfo(revision=9, served_by="n2", cluster_id="c1", epoch=3, leader="", age_ms=0)
TAKEN = Backup(info=INFO, index=12, taken_ms=1_770_000_000_123, size_bytes=20_000, sha256="ab" * 32)


def test_a_backup_says_of_which_moment_it_is() -> None:
    made = disaster._made(Path("file"), TAKEN)
    assert made == {
        "file": "file",
        "index": 12,
        "revision": 9,
        "epoch": 3,
        "cluster_id": "c1",
        "size_bytes": 20_000,
        "sha256": "ab" * 32,
        "member": "n2",
        "taken": "2026-02-02T02:40:00.123Z",
        "linearizable": True,
        "age_s": 0.0,
    }
    said = disaster._told(made, TAKEN)
    assert "file: 20 KiB" in said
    assert "log index 12, from n2: everything acknowledged before is in it" in said


def test_a_stale_one_says_how_old_it_may_be() -> None:
    taken = msgspec.structs.replace(TAKEN, info=msgspec.structs.replace(INFO, stale=True, age_ms=90_000))
    made = disaster._made(Path("file"), taken)
    assert (made["linearizable"], made["age_s"]) == (False, 90.0)
    assert "as n2 knew it; it had heard the leader 90 s before" in disaster._told(made, taken)


def test_a_new_epoch_stands_in_the_history() -> None:
    change = Change(revision=7, time_ms=1000, principal="ada", action="restore", reason="fire", epoch=2)
    assert views.line(change) == "7  1970-01-01 00:00:01Z  restore  epoch 2 begins  ada: fire"
    assert views.change(change)["epoch"] == 2
    assert "epoch" not in views.change(msgspec.structs.replace(change, action="publish", epoch=0))

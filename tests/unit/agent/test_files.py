from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from registry.agent import files


def test_write_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    files.write(path, b"one")
    files.write(path, b"two", mode=0o444)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert os.listdir(tmp_path) == ["record.json"]


def test_write_takes_over_what_a_crash_left(tmp_path: Path) -> None:
    scratch = tmp_path / ".record.json.new"
    scratch.write_bytes(b"half a rec")
    scratch.chmod(0o444)
    files.write(tmp_path / "record.json", b"whole")
    assert os.listdir(tmp_path) == ["record.json"]


def test_the_bytes_are_synced_before_the_rename_and_the_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        order.append("sync " + ("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"))
        sync(descriptor)

    def rename(source: Path, target: Path) -> None:
        order.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    files.write(tmp_path / "x", b"data")
    assert order == ["sync file", "rename", "sync directory"]
    order.clear()
    files.link(tmp_path / "link", tmp_path / "x")
    assert order == ["rename", "sync directory"]


def test_link_swaps_and_takes_over_what_a_crash_left(tmp_path: Path) -> None:
    path = tmp_path / "live"
    (tmp_path / ".live.registry-agent").symlink_to("/nowhere")
    files.link(path, tmp_path / "a")
    files.link(path, tmp_path / "b")
    assert path.readlink() == tmp_path / "b"
    assert os.listdir(tmp_path) == ["live"]


def test_unlink_and_read_bear_absence(tmp_path: Path) -> None:
    files.unlink(tmp_path / "nothing")
    assert files.read(tmp_path / "nothing") is None


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    held = files.lock(tmp_path / "lock")
    with pytest.raises(files.Occupied):
        files.lock(tmp_path / "lock")
    os.close(held)
    os.close(files.lock(tmp_path / "lock"))


def test_make_directory_makes_all_levels(tmp_path: Path) -> None:
    files.make_directory(tmp_path / "a" / "b" / "c")
    files.make_directory(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()


def test_a_crash_before_a_file_is_moved_leaves_it_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is gone on with: large content that has arrived is fetched into the same file again."""
    arrived, path = tmp_path / "arrived", tmp_path / "content"
    arrived.write_bytes(b"large")
    modes: list[int] = []
    replace = os.replace

    def rename(source: Path, target: Path) -> None:
        modes.append(stat.S_IMODE(source.stat().st_mode))
        replace(source, target)

    monkeypatch.setattr(os, "replace", rename)
    files.move(arrived, path, mode=0o444)
    assert modes == [0o644]
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"large", 0o444)
    assert os.listdir(tmp_path) == ["content"]

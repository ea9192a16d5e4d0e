"""Looks at real files."""

from __future__ import annotations

import os

import pytest

from registry.source import files, limits


def test_a_look_tells_other_bytes_and_a_file_put_into_its_place(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    first = files.look(str(path))
    assert files.look(str(path)) == first
    assert files.stamps([str(path)]) == {str(path): first.stamp}
    os.utime(path, ns=(first.stamp[3], first.stamp[3]))
    other = tmp_path / "b"
    other.write_bytes(b"two")
    os.utime(other, ns=(first.stamp[3], first.stamp[3]))
    other.replace(path)
    swapped = files.look(str(path))
    assert swapped.stamp != first.stamp  # same size, same mtime
    assert swapped.digest != first.digest
    assert files.read(str(path), swapped.digest) == b"two"
    assert files.read(str(path), first.digest) is None


def test_a_symlink_is_followed(tmp_path):
    (tmp_path / "v1").write_bytes(b"one")
    (tmp_path / "v2").write_bytes(b"two")
    link = tmp_path / "link"
    link.symlink_to("v1")
    first = files.look(str(link))
    (tmp_path / "new").symlink_to("v2")
    (tmp_path / "new").replace(link)
    assert files.look(str(link)) != first
    assert files.stamps([str(link)])[str(link)] != first.stamp


def test_only_regular_files_are_read_and_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ""):
        with pytest.raises(OSError):
            files.look(str(tmp_path / name))


def test_what_is_not_there_has_no_stamp_and_what_cannot_be_looked_at_an_empty_one(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    (tmp_path / "file").touch()
    missing, below = str(tmp_path / "missing"), str(tmp_path / "file" / "x")
    assert files.stamps([missing, below, str(loop)]) == {missing: None, below: None, str(loop): ()}


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "FILE_BYTES", 3)
    path = tmp_path / "large"
    path.write_bytes(b"abc")
    assert files.look(str(path)).digest
    path.write_bytes(b"abcd")
    assert files.look(str(path)).digest == ""


def test_matching_files_are_found_sorted_hidden_ones_not(tmp_path):
    for name in ("b.yml", "a.json", "c.txt", ".d.yml", "e.yml~", "F.YML"):
        (tmp_path / name).touch()
    assert files.matching(str(tmp_path), "*.yml,*.json") == ["a.json", "b.yml"]


def test_no_more_files_are_listed_than_one_past_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "FILES", 3)
    for number in range(10):
        (tmp_path / f"{number}.yml").touch()
    assert len(files.matching(str(tmp_path), "*")) == 4


def test_a_lock_is_held_by_one(tmp_path):
    with files.locked(tmp_path / "lock"):
        with pytest.raises(files.Occupied), files.locked(tmp_path / "lock"):
            pass
    with files.locked(tmp_path / "lock"):
        pass


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a"
    files.replace(path, b"one")
    files.replace(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a"]

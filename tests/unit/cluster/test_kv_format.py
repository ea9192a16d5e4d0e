"""The format of a data directory: one of before is rewritten when it is opened, one of a newer release is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any
from zlib import crc32

import lmdb
import pytest

from cluster.kv import rewrite
from cluster.kv.lmdb_env import LmdbEnvironment, holds_data
from cluster.kv.lmdb_rows import seal
from tests.unit.cluster.test_kv import TABLES, fill, keys

ROWS = {b"%04d" % number: b"%d" % number * (number % 50) for number in range(300)} | {b"large": b"x" * 100_000}


def files(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir())


def make_old(root: Path, name: str = "3") -> Path:
    """As the releases before checksums left it, after a replacement, or with checksums those before the write-ahead
    log; one table is not known here."""
    (root / name).mkdir(parents=True)
    with lmdb.open(str(root / name), max_dbs=4, map_size=1 << 24) as environment:
        for table in (b"a", b"b", b"of a newer release"):
            with environment.begin(write=True, db=environment.open_db(table)) as transaction:
                for key, value in ROWS.items():
                    row = table + value
                    transaction.put(key, seal(crc32(table), key, row) if name.endswith(".v2") else row)
    (root / "CURRENT").write_text(f"{name}\n")
    return root


old_ones = pytest.mark.parametrize("name", ["3", "3.v2"])


def contents(environment: LmdbEnvironment, table: str) -> dict[bytes, bytes]:
    with environment.snapshot() as reader:
        return {key: value.removeprefix(table.encode()) for key, value in reader.scan(table)}


@old_ones
def test_an_environment_of_before_takes_the_new_form_once(tmp_path: Path, name: str) -> None:
    root = make_old(tmp_path / "kv", name)
    assert holds_data(root)
    environment = LmdbEnvironment(root, TABLES)
    assert contents(environment, "a") == contents(environment, "b") == ROWS
    assert files(root) == ["4.v3", "CURRENT"]
    fill(environment, b"after")
    environment.close()
    environment = LmdbEnvironment(root, (*TABLES, "of a newer release"))
    assert files(root) == ["4.v3", "CURRENT"]
    assert contents(environment, "a") == ROWS | {b"after": b"=after"}
    assert contents(environment, "of a newer release") == ROWS
    environment.close()
    assert holds_data(root)


class Images:
    """What is on the disk before each step that makes names or data durable, and before the old files go."""

    def __init__(self, patch: pytest.MonkeyPatch, root: Path, into: Path) -> None:
        self._root, self._into = root, into
        self.taken: list[tuple[str, Path]] = []
        for owner, name in ((os, "fsync"), (os, "replace"), (os, "link"), (shutil, "rmtree"), (rewrite, "sync_names")):
            self._wrap(patch, owner, name)

    def _wrap(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def step(*arguments: Any, **options: Any) -> None:
            self.taken.append((name, shutil.copytree(self._root, self._into / str(len(self.taken)))))
            real(*arguments, **options)

        patch.setattr(owner, name, step)


POINTING = ["sync_names", "fsync", "fsync", "fsync", "replace", "fsync", "rmtree"]


@pytest.mark.parametrize(("name", "expected"), [("3", POINTING), ("3.v2", ["rmtree", "link", *POINTING])])
def test_cut_off_anywhere_the_old_one_or_the_new_one_is_there(tmp_path: Path, name: str, expected: list[str]) -> None:
    root = make_old(tmp_path / "kv", name)
    with pytest.MonkeyPatch.context() as patch:
        images = Images(patch, root, tmp_path / "images")
        LmdbEnvironment(root, TABLES).close()
    steps = [step for step, _ in images.taken]
    assert steps[: len(expected)] == expected
    left = {(image / "CURRENT").read_text().strip() for _, image in images.taken}
    assert left == {name, "4.v3"}
    for step, image in images.taken:
        environment = LmdbEnvironment(image, TABLES)
        assert contents(environment, "a") == contents(environment, "b") == ROWS, step
        assert files(image) == ["4.v3", "CURRENT"]
        environment.close()


@pytest.mark.parametrize("name", ["1", "1.v2"])
def test_two_crashes_before_the_first_current_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """One of the old release, and one of this one while it rewrites."""
    root = make_old(tmp_path / "kv", name)
    (root / "CURRENT").unlink()
    images = Images(monkeypatch, root, tmp_path)
    LmdbEnvironment(root, TABLES).close()
    monkeypatch.undo()
    assert any({name, "2.v3"} <= set(files(image)) for _, image in images.taken)
    for _, image in images.taken:
        environment = LmdbEnvironment(image, TABLES)
        assert contents(environment, "a") == ROWS
        environment.close()


def test_nothing_is_written_to_one_that_still_counts(tmp_path: Path) -> None:
    """The new one has its file: the release of before can go on from any image that still names it."""
    root = make_old(tmp_path / "kv", "3.v2")
    before = (root / "3.v2" / "data.mdb").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        images = Images(patch, root, tmp_path / "images")
        LmdbEnvironment(root, TABLES).close()
    old = [image for _, image in images.taken if (image / "CURRENT").read_text() == "3.v2\n"]
    assert len(old) > 5
    for image in old:
        assert (image / "3.v2" / "data.mdb").read_bytes() == before


def test_what_cannot_be_rewritten_stays_as_it_is(tmp_path: Path) -> None:
    root = make_old(tmp_path / "kv")
    with pytest.raises(lmdb.MapFullError):  # as a full disk would
        LmdbEnvironment(root, TABLES, map_size_bytes=1 << 18)
    assert files(root) == ["3", "CURRENT"]
    environment = LmdbEnvironment(root, TABLES)
    assert contents(environment, "a") == ROWS
    environment.close()


@old_ones
def test_an_incoming_environment_is_of_the_newest_format(tmp_path: Path, name: str) -> None:
    root = make_old(tmp_path / "kv", name)
    environment = LmdbEnvironment(root, TABLES)
    incoming = environment.incoming()
    fill(incoming, b"new")
    environment.replace(incoming)
    environment.close()
    assert files(root) == ["5.v3", "CURRENT"]
    environment = LmdbEnvironment(root, TABLES)
    assert contents(environment, "a") == {b"new": b"=new"}
    environment.close()


def test_a_newer_format_is_refused_and_kept(tmp_path: Path) -> None:
    environment = LmdbEnvironment(tmp_path / "kv", TABLES)
    fill(environment, b"1")
    environment.close()
    shutil.copytree(tmp_path / "kv" / "1.v3", tmp_path / "kv" / "2.v4")
    (tmp_path / "kv" / "CURRENT").write_text("2.v4\n")
    with pytest.raises(lmdb.VersionMismatchError, match=r"newer release.*format 4; this one knows 3"):
        LmdbEnvironment(tmp_path / "kv", TABLES)
    assert files(tmp_path / "kv") == ["1.v3", "2.v4", "CURRENT"]
    assert holds_data(tmp_path / "kv")


@pytest.mark.parametrize("left", ["1", "1.v2", "1.v3"])
def test_killed_before_the_first_current_was_written_it_starts_anew(tmp_path: Path, left: str) -> None:
    (tmp_path / "kv" / left).mkdir(parents=True)
    environment = LmdbEnvironment(tmp_path / "kv", TABLES)
    fill(environment, b"1")
    environment.close()
    environment = LmdbEnvironment(tmp_path / "kv", TABLES)
    assert keys(environment.transaction()) == [b"1"]
    environment.close()


@pytest.mark.parametrize("left", [("2.v3",), ("1", "2.v3"), ("1", "1.v3"), ("1.v2", "1.v3")])
def test_without_current_nothing_is_guessed(tmp_path: Path, left: tuple[str, ...]) -> None:
    for name in left:
        (tmp_path / "kv" / name).mkdir(parents=True)
    with pytest.raises(lmdb.CorruptedError, match="lost its CURRENT"):
        LmdbEnvironment(tmp_path / "kv", TABLES)
    assert files(tmp_path / "kv") == sorted(left)

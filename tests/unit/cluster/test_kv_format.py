"""The format of a data directory: one of before is rewritten when it is opened, one of a newer release is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import lmdb
import pytest

from cluster.kv import rewrite
from cluster.kv.lmdb_env import LmdbEnvironment, holds_data
from tests.unit.cluster.test_kv import TABLES, fill, keys

ROWS = {b"%04d" % number: b"%d" % number * (number % 50) for number in range(300)} | {b"large": b"x" * 100_000}


def files(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir())


def make_old(root: Path) -> Path:
    """As the releases before checksums left it, after a replacement; one table is not known here."""
    (root / "3").mkdir(parents=True)
    with lmdb.open(str(root / "3"), max_dbs=4, map_size=1 << 24) as environment:
        for name in (b"a", b"b", b"of a newer release"):
            table = environment.open_db(name)
            with environment.begin(write=True, db=table) as transaction:
                for key, value in ROWS.items():
                    transaction.put(key, name + value)
    (root / "CURRENT").write_text("3\n")
    return root


def contents(environment: LmdbEnvironment, table: str) -> dict[bytes, bytes]:
    with environment.snapshot() as reader:
        return {key: value.removeprefix(table.encode()) for key, value in reader.scan(table)}


def test_an_environment_of_before_is_rewritten_once(tmp_path: Path) -> None:
    root = make_old(tmp_path / "kv")
    assert holds_data(root)
    environment = LmdbEnvironment(root, TABLES)
    assert contents(environment, "a") == contents(environment, "b") == ROWS
    assert files(root) == ["4.v2", "CURRENT"]
    fill(environment, b"after")
    environment.close()
    environment = LmdbEnvironment(root, (*TABLES, "of a newer release"))
    assert files(root) == ["4.v2", "CURRENT"]
    assert contents(environment, "a") == ROWS | {b"after": b"=after"}
    assert contents(environment, "of a newer release") == ROWS
    environment.close()
    assert holds_data(root)


class Images:
    """What is on the disk before each step that makes names or data durable, and before the old files go."""

    def __init__(self, patch: pytest.MonkeyPatch, root: Path, into: Path) -> None:
        self._root, self._into = root, into
        self.taken: list[tuple[str, Path]] = []
        for owner, name in ((os, "fsync"), (os, "replace"), (shutil, "rmtree"), (rewrite, "sync_names")):
            self._wrap(patch, owner, name)

    def _wrap(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def step(*arguments: Any, **options: Any) -> None:
            self.taken.append((name, shutil.copytree(self._root, self._into / str(len(self.taken)))))
            real(*arguments, **options)

        patch.setattr(owner, name, step)


def test_cut_off_anywhere_the_old_one_or_the_new_one_is_there(tmp_path: Path) -> None:
    root = make_old(tmp_path / "kv")
    with pytest.MonkeyPatch.context() as patch:
        images = Images(patch, root, tmp_path / "images")
        LmdbEnvironment(root, TABLES).close()
    steps = [step for step, _ in images.taken]
    assert steps[:7] == ["sync_names", "fsync", "fsync", "fsync", "replace", "fsync", "rmtree"]
    left = {(image / "CURRENT").read_text().strip() for _, image in images.taken}
    assert left == {"3", "4.v2"}
    for step, image in images.taken:
        environment = LmdbEnvironment(image, TABLES)
        assert contents(environment, "a") == contents(environment, "b") == ROWS, step
        assert files(image) == ["4.v2", "CURRENT"]
        environment.close()


def test_two_crashes_before_the_first_current_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the old release, and one of this one while it rewrites."""
    root = make_old(tmp_path / "kv")
    (root / "3").rename(root / "1")
    (root / "CURRENT").unlink()
    images = Images(monkeypatch, root, tmp_path)
    LmdbEnvironment(root, TABLES).close()
    monkeypatch.undo()
    assert any({"1", "2.v2"} <= set(files(image)) for _, image in images.taken)
    for _, image in images.taken:
        environment = LmdbEnvironment(image, TABLES)
        assert contents(environment, "a") == ROWS
        environment.close()


def test_what_cannot_be_rewritten_stays_as_it_is(tmp_path: Path) -> None:
    root = make_old(tmp_path / "kv")
    with pytest.raises(lmdb.MapFullError):  # as a full disk would
        LmdbEnvironment(root, TABLES, map_size_bytes=1 << 18)
    assert files(root) == ["3", "CURRENT"]
    environment = LmdbEnvironment(root, TABLES)
    assert contents(environment, "a") == ROWS
    environment.close()


def test_an_incoming_environment_is_of_the_newest_format(tmp_path: Path) -> None:
    root = make_old(tmp_path / "kv")
    environment = LmdbEnvironment(root, TABLES)
    incoming = environment.incoming()
    fill(incoming, b"new")
    environment.replace(incoming)
    environment.close()
    assert files(root) == ["5.v2", "CURRENT"]
    environment = LmdbEnvironment(root, TABLES)
    assert contents(environment, "a") == {b"new": b"=new"}
    environment.close()


def test_a_newer_format_is_refused_and_kept(tmp_path: Path) -> None:
    environment = LmdbEnvironment(tmp_path / "kv", TABLES)
    fill(environment, b"1")
    environment.close()
    shutil.copytree(tmp_path / "kv" / "1.v2", tmp_path / "kv" / "2.v3")
    (tmp_path / "kv" / "CURRENT").write_text("2.v3\n")
    with pytest.raises(lmdb.VersionMismatchError, match=r"newer release.*format 3; this one knows 2"):
        LmdbEnvironment(tmp_path / "kv", TABLES)
    assert files(tmp_path / "kv") == ["1.v2", "2.v3", "CURRENT"]
    assert holds_data(tmp_path / "kv")


@pytest.mark.parametrize("left", ["1", "1.v2"])
def test_killed_before_the_first_current_was_written_it_starts_anew(tmp_path: Path, left: str) -> None:
    (tmp_path / "kv" / left).mkdir(parents=True)
    environment = LmdbEnvironment(tmp_path / "kv", TABLES)
    fill(environment, b"1")
    environment.close()
    environment = LmdbEnvironment(tmp_path / "kv", TABLES)
    assert keys(environment.transaction()) == [b"1"]
    environment.close()


@pytest.mark.parametrize("left", [("2.v2",), ("1", "2.v2"), ("1", "1.v2")])
def test_without_current_nothing_is_guessed(tmp_path: Path, left: tuple[str, ...]) -> None:
    for name in left:
        (tmp_path / "kv" / name).mkdir(parents=True)
    with pytest.raises(lmdb.CorruptedError, match="lost its CURRENT"):
        LmdbEnvironment(tmp_path / "kv", TABLES)
    assert files(tmp_path / "kv") == sorted(left)

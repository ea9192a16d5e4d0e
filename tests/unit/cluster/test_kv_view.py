"""Another process reads what the owner of an environment has committed, as of its last checkpoint. The owner runs in a
process of its own here, as LMDB wants it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from cluster.kv.lmdb_env import LmdbEnvironment
from cluster.kv.lmdb_view import LmdbView
from tests.unit.cluster.test_kv import TABLES, fill, keys

OWNER = """
import sys
from cluster.kv.lmdb_env import LmdbEnvironment
from tests.unit.cluster.test_kv import TABLES, fill
environment = LmdbEnvironment(sys.argv[1], TABLES)
for line in sys.stdin:
    word, *rest = line.split()
    if word == "fill":
        fill(environment, *(each.encode() for each in rest))
        environment.checkpoint()
    elif word == "commit":
        fill(environment, *(each.encode() for each in rest))
    elif word == "replace":
        incoming = environment.incoming()
        fill(incoming, *(each.encode() for each in rest))
        environment.replace(incoming)
    elif word == "compact":
        compaction = environment.compaction()
        compaction.copy()
        compaction.finish()
    print(environment.place, flush=True)
"""


class Owner:
    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def does(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    made = Owner(tmp_path / "kv")
    yield made
    made.close()


def shown(view: LmdbView) -> list[bytes]:
    with view.snapshot() as reader:
        return keys(reader)


def test_a_view_shows_each_checkpoint_and_a_snapshot_stays(owner: Owner, tmp_path: Path) -> None:
    view = LmdbView(tmp_path / "kv", owner.does("fill 1 2"))
    with view.snapshot() as before:
        owner.does("commit 3")
        assert shown(view) == [b"1", b"2"]
        owner.does("fill 4")
        assert keys(before) == [b"1", b"2"]
        assert shown(view) == [b"1", b"2", b"3", b"4"]
    view.close()


@pytest.mark.parametrize("step", ["replace 7 8", "compact"])
def test_a_view_follows_to_another_generation_and_lets_go_of_the_one_before(
    owner: Owner, tmp_path: Path, step: str
) -> None:
    first = owner.does("fill 1 2")
    view = LmdbView(tmp_path / "kv", first)
    with view.snapshot() as before:
        second = owner.does(step)
        assert second != first
        view.follow(second)
        view.follow(second)
        owner.does("fill 9")
        assert keys(before) == [b"1", b"2"], "its file is gone, its pages are not"
        assert shown(view) == ([b"7", b"8", b"9"] if step.startswith("replace") else [b"1", b"2", b"9"])
    assert _mapped("data.mdb") == {tmp_path / "kv" / second / "data.mdb"}
    view.close()


def test_a_view_writes_nothing(owner: Owner, tmp_path: Path) -> None:
    place = owner.does("fill 1")
    view = LmdbView(tmp_path / "kv", place)
    data = (tmp_path / "kv" / place / "data.mdb").read_bytes()
    with view.snapshot() as reader, pytest.raises(lmdb.Error):
        reader._transaction.put(b"k", b"v", db=reader._tables["a"])
    with pytest.raises(lmdb.Error):
        view._shown.lmdb.begin(write=True)
    view.close()
    assert (tmp_path / "kv" / place / "data.mdb").read_bytes() == data


def test_what_is_not_there_any_more_is_not_made(owner: Owner, tmp_path: Path) -> None:
    owner.does("fill 1")
    with pytest.raises(lmdb.Error):
        LmdbView(tmp_path / "kv", "9.v3")
    assert not (tmp_path / "kv" / "9.v3").exists()


def test_what_a_killed_reader_held_is_taken_back(tmp_path: Path) -> None:
    environment = LmdbEnvironment(tmp_path / "kv", TABLES)
    fill(environment, b"1")
    reading = f"""
import sys
from cluster.kv.lmdb_view import LmdbView
with LmdbView({str(tmp_path / "kv")!r}, {environment.place!r}).snapshot() as reader:
    print("reads", flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen([sys.executable, "-c", reading], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"reads\n"
    assert environment.free_readers() == 0, "it lives"
    process.kill()
    process.communicate()
    assert environment.free_readers() == 1
    assert environment.free_readers() == 0
    environment.close()


def _mapped(name: str) -> set[Path]:
    """Files of this name that this process has mapped, deleted ones with their mark."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {Path(line.split(maxsplit=5)[5]) for line in lines if name in line}

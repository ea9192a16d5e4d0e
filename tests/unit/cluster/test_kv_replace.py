"""An environment replaced by the incoming one beside it: the contract of both twins, and LMDB's directory."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lmdb
import pytest

from cluster.kv.api import Environment
from cluster.kv.lmdb_env import LmdbEnvironment
from cluster.kv.memory_env import MemoryEnvironment
from tests.unit.cluster.test_kv import TABLES, Env, fill, keys


@pytest.fixture(params=["lmdb", "memory"])
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Env]:
    made: Env = LmdbEnvironment(tmp_path / "kv", TABLES) if request.param == "lmdb" else MemoryEnvironment(TABLES)
    yield made
    made.close()


def replaced(environment: Environment, *keys: bytes) -> None:
    incoming = environment.incoming()
    fill(incoming, *keys)
    environment.replace(incoming)


def test_an_incoming_environment_is_apart_until_it_replaces(environment: Env) -> None:
    fill(environment, b"1", b"2")
    incoming = environment.incoming()
    assert incoming.tables == TABLES
    assert keys(incoming.transaction()) == []
    fill(incoming, b"2", b"3")
    incoming.transaction().put("b", b"k", b"")
    incoming.commit()
    incoming.sync()
    fill(environment, b"4")
    with environment.snapshot() as reader, incoming.snapshot() as loaded:
        assert (keys(reader), keys(loaded)) == ([b"1", b"2", b"4"], [b"2", b"3"])
    environment.replace(incoming)
    assert keys(environment.transaction()) == [b"2", b"3"]
    fill(environment, b"5")
    with environment.snapshot() as reader:
        assert (keys(reader), keys(reader, table="b")) == ([b"2", b"3", b"5"], [b"k"])
    replaced(environment, b"6")
    with environment.snapshot() as reader:
        assert (keys(reader), keys(reader, table="b")) == ([b"6"], [])


def test_there_is_one_incoming_environment_at_a_time(environment: Env) -> None:
    fill(environment, b"1")
    first = environment.incoming()
    fill(first, b"2")
    second = environment.incoming()
    with pytest.raises(AssertionError, match="not the latest"):
        environment.replace(first)
    assert keys(second.transaction()) == []
    second.commit()
    environment.replace(second)
    with pytest.raises(AssertionError, match="not the latest"):
        environment.replace(second)
    assert keys(environment.transaction()) == []


def test_nothing_is_replaced_under_an_open_transaction_or_from_a_read_one(environment: Env) -> None:
    fill(environment, b"1")
    incoming = environment.incoming()
    fill(incoming, b"2")
    environment.transaction().put("a", b"3", b"")
    with pytest.raises(AssertionError, match="a transaction is open"):
        environment.replace(incoming)
    environment.commit()
    assert keys(environment.transaction()) == [b"1", b"3"]


def test_snapshots_outlive_a_replacement(environment: Environment) -> None:
    fill(environment, b"1", b"2")
    with ExitStack() as first, ExitStack() as second:
        early = first.enter_context(environment.snapshot())
        rows = early.scan("a")
        next(rows)
        fill(environment, b"3")
        late = second.enter_context(environment.snapshot())
        replaced(environment, b"4")
        fill(environment, b"5")
        replaced(environment, b"6")
        assert list(rows) == [(b"2", b"=2")]
        first.close()
        assert keys(late) == [b"1", b"2", b"3"]
    with environment.snapshot() as reader:
        assert keys(reader) == [b"6"]


async def test_a_sync_may_run_in_a_thread_while_commits_go_on(environment: Env) -> None:
    incoming = environment.incoming()
    for number in range(500):
        incoming.transaction().put("a", b"%04d" % number, b"x" * 5_000)
    incoming.commit()
    syncing = asyncio.create_task(asyncio.to_thread(incoming.sync))
    while not syncing.done():
        fill(environment, b"1")
        await asyncio.sleep(0)
    await syncing
    environment.replace(incoming)
    assert environment.transaction().count("a") == 500


def test_a_crash_takes_the_incoming_environment_along() -> None:
    memory = MemoryEnvironment(TABLES)
    fill(memory, b"1")
    incoming = memory.incoming()
    fill(incoming, b"2")
    memory.crash()
    with pytest.raises(AssertionError):
        memory.replace(incoming)
    assert keys(memory.transaction()) == [b"1"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LmdbEnvironment]:
    made = LmdbEnvironment(tmp_path / "kv", TABLES)
    yield made
    made.close()


def entries(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def synced(environment: Any) -> bool:
    flags = environment._generation.lmdb.flags()
    return bool(flags["sync"] and flags["metasync"])


def test_only_incoming_commits_are_not_synced(disk: LmdbEnvironment) -> None:
    incoming = disk.incoming()
    assert (synced(disk), synced(incoming)) == (True, False)
    disk.replace(incoming)
    assert synced(disk)


def test_the_old_files_stay_until_their_last_snapshot_ends(disk: LmdbEnvironment, tmp_path: Path) -> None:
    with disk.snapshot():
        with disk.snapshot():
            replaced(disk, b"1")
            assert entries(tmp_path / "kv") == ["1.v3", "2.v3", "CURRENT"]
        assert entries(tmp_path / "kv") == ["1.v3", "2.v3", "CURRENT"]
    disk.incoming()
    disk.close()
    assert entries(tmp_path / "kv") == ["2.v3", "CURRENT"]


def test_opening_deletes_what_is_left_over_and_nothing_else(disk: LmdbEnvironment, tmp_path: Path) -> None:
    with disk.snapshot():
        replaced(disk, b"1")
        fill(disk.incoming(), b"2")
        shutil.copytree(tmp_path / "kv", tmp_path / "copy")
    assert entries(tmp_path / "copy") == ["1.v3", "2.v3", "3.v3", "CURRENT"]
    (tmp_path / "copy" / "CURRENT.new").write_text("3.v3")
    (tmp_path / "copy" / "notes").write_text("mine")
    again = LmdbEnvironment(tmp_path / "copy", TABLES)
    assert entries(tmp_path / "copy") == ["2.v3", "CURRENT", "notes"]
    assert keys(again.transaction()) == [b"1"]
    again.close()


@pytest.mark.parametrize("text", [b"", b"\xff", b"../elsewhere", None])
def test_a_damaged_directory_is_refused_and_kept(disk: LmdbEnvironment, tmp_path: Path, text: bytes | None) -> None:
    replaced(disk, b"1")
    disk.close()
    if text is None:
        (tmp_path / "kv" / "CURRENT").unlink()
    else:
        (tmp_path / "kv" / "CURRENT").write_bytes(text)
    with pytest.raises(lmdb.CorruptedError, match="CURRENT"):
        LmdbEnvironment(tmp_path / "kv", TABLES)
    (tmp_path / "kv" / "CURRENT").write_text("2.v3\n")
    again = LmdbEnvironment(tmp_path / "kv", TABLES)
    assert keys(again.transaction()) == [b"1"]
    again.close()


class Power:
    """Goes before the step of a replacement with this number; notes the steps until then."""

    def __init__(self, patch: pytest.MonkeyPatch, incoming: Environment, fails_at: int) -> None:
        self.steps: list[str] = []
        self._fails_at = fails_at
        self._wrap(patch, incoming, "sync", lambda: "sync data")
        self._wrap(patch, os, "fsync", lambda file: f"sync {Path(os.readlink(f'/proc/self/fd/{file}')).name}")
        self._wrap(patch, os, "replace", lambda _, to: f"rename to {to.name}")

    def _wrap(self, patch: pytest.MonkeyPatch, owner: Any, name: str, spelled: Any) -> None:
        real = getattr(owner, name)

        def step(*arguments: Any) -> None:
            if len(self.steps) == self._fails_at:
                raise InterruptedError("no power")
            self.steps.append(spelled(*arguments))
            real(*arguments)

        patch.setattr(owner, name, step)


REPLACING = ["sync data", "sync 2.v3", "sync kv", "sync CURRENT.new", "rename to CURRENT", "sync kv"]


@pytest.mark.parametrize("done", range(len(REPLACING) + 1))
def test_a_replacement_is_one_durable_step(disk: LmdbEnvironment, tmp_path: Path, done: int) -> None:
    """Data and names are durable before CURRENT names them; cut off anywhere, the old or the new one is there."""
    fill(disk, b"old 1", b"old 2")
    incoming = disk.incoming()
    fill(incoming, b"new 1", b"new 2")
    with pytest.MonkeyPatch.context() as patch:
        power = Power(patch, incoming, done)
        if done < len(REPLACING):
            with pytest.raises(InterruptedError):
                disk.replace(incoming)
        else:
            disk.replace(incoming)
    assert power.steps == REPLACING[:done]
    disk.close()
    again = LmdbEnvironment(tmp_path / "kv", TABLES)
    new = "rename to CURRENT" in power.steps
    assert keys(again.transaction()) == ([b"new 1", b"new 2"] if new else [b"old 1", b"old 2"])
    assert entries(tmp_path / "kv") == ["2.v3" if new else "1.v3", "CURRENT"]
    again.close()

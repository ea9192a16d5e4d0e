"""A process killed at random moments while it writes and compacts: what is opened again has every commit that was
announced, whole, and nothing is left over."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from cluster.kv.lmdb_env import LmdbEnvironment

FULL = os.environ.get("REGISTRY_FAULTS") == "full"
KILLS = 100 if FULL else 20
SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
TABLES = ("a", "b")
COUNT = b"count"  # in table b: how many commits there were
KEYS = 400
PATIENCE_S = 30.0

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


def change(number: int, put: Callable[[bytes, bytes], object], delete: Callable[[bytes], object]) -> None:
    """What the commit of this number does to table a."""
    rng = Random(number)
    for _ in range(rng.randrange(1, 6)):
        key = b"%d" % rng.randrange(KEYS)
        if rng.random() < 0.3:
            delete(key)
        else:
            put(key, b"%d " % number + rng.randbytes(rng.choice((10, 20_000))))


def expected(count: int) -> dict[bytes, bytes]:
    rows: dict[bytes, bytes] = {}
    for number in range(count):
        change(number, rows.__setitem__, lambda key: rows.pop(key, None))
    return rows


def contents(environment: LmdbEnvironment) -> tuple[int, dict[bytes, bytes]]:
    with environment.snapshot() as reader:
        return int(reader.get("b", COUNT) or b"0"), dict(reader.scan("a"))


def write_for_ever(path: Path) -> None:
    """Announces each commit, and "compacted"; copies in a thread, one compaction after the other."""
    environment = LmdbEnvironment(path, TABLES)
    compaction, copying = environment.compaction(), threading.Thread()
    print("opened", flush=True)
    for number in itertools.count(contents(environment)[0]):
        transaction = environment.transaction()
        change(number, lambda key, row: transaction.put("a", key, row), lambda key: transaction.delete("a", key))  # noqa: B023
        transaction.put("b", COUNT, b"%d" % (number + 1))
        environment.commit()
        print(number + 1, flush=True)
        if not copying.is_alive():
            if copying.ident is not None:
                compaction.finish()
                print("compacted", flush=True)
                compaction = environment.compaction()
            copying = threading.Thread(target=compaction.copy, daemon=True)
            copying.start()


class Child:
    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-m", "tests.faults.test_compaction_kill", str(path)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.announced: Iterator[str] = map(str.strip, self._process.stdout)

    def kill_after(self, delay_s: float) -> list[str]:
        timer = threading.Timer(delay_s, self._process.kill)
        timer.start()
        said = list(self.announced)
        timer.join()
        assert self._process.wait(PATIENCE_S) < 0, "it ended by itself"
        return said

    def close(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()


def test_killed_at_any_moment_every_commit_is_there(tmp_path: Path) -> None:
    rng, path, known = Random(SEED), tmp_path / "kv", 0
    found: Counter[str] = Counter()
    for kill in range(KILLS):
        child = Child(path)
        try:
            assert next(child.announced) == "opened"
            said = child.kill_after(rng.uniform(0, 0.3))
        finally:
            child.close()
        last = max([known, *map(int, filter(str.isdecimal, said))])
        left = sorted(entry.name for entry in path.iterdir())
        environment = LmdbEnvironment(path, TABLES)
        known, rows = contents(environment)
        where = f"kill {kill} of SEED={SEED}: announced {last}, found {known}, directory was {left}"
        assert last <= known <= last + 1, where
        assert rows == expected(known), where
        current = (path / "CURRENT").read_text().strip()
        assert sorted(entry.name for entry in path.iterdir()) == sorted([current, "CURRENT"]), where
        environment.close()
        found["compactions"] += said.count("compacted")
        found["left over"] += len(left) > 2
    assert found["compactions"], f"nothing was ever compacted, SEED={SEED}"
    assert found["left over"], f"no kill came in between, SEED={SEED}"
    print(dict(found), f"of {KILLS} kills, {known} commits")


if __name__ == "__main__":
    write_for_ever(Path(sys.argv[1]))

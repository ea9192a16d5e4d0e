"""A process killed at random moments while it fills incoming environments and replaces with them: what is opened
again is always one whole state, at least as new as the last one announced, and nothing is left over.

kill -9 keeps the page cache: that data and names are synced in the right order is shown by
tests/unit/cluster/test_kv_replace.py.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from random import Random

import pytest

from cluster.kv.lmdb_env import LmdbEnvironment

FULL = os.environ.get("REGISTRY_FAULTS") == "full"
KILLS = 100 if FULL else 20
SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
TABLES = ("a", "b")
ROWS = 60  # per table, of up to 20 KB: several commits on the way
PATIENCE_S = 30.0

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


def rows(generation: int, table: str) -> dict[bytes, bytes]:
    rng = Random(f"{generation} {table}")
    return {b"%d" % number: b"%d " % generation + rng.randbytes(rng.randrange(20_000)) for number in range(ROWS)}


def contents(environment: LmdbEnvironment) -> tuple[int, bool]:
    """The generation of the first row, and whether everything is of it and nothing else is there. 0: empty."""
    with environment.snapshot() as reader:
        first = next(reader.scan("a"), None)
        generation = 0 if first is None else int(first[1].split(b" ")[0])
        expected = {table: rows(generation, table) if generation else {} for table in TABLES}
        return generation, {table: dict(reader.scan(table)) for table in TABLES} == expected


def replace_for_ever(path: Path) -> None:
    """Announces each generation once it has replaced the one before."""
    environment = LmdbEnvironment(path, TABLES)
    generation, whole = contents(environment)
    assert whole
    print(generation, flush=True)
    while True:
        generation += 1
        incoming = environment.incoming()
        for table in TABLES:
            for number, (key, value) in enumerate(rows(generation, table).items()):
                incoming.transaction().put(table, key, value)
                if number % 10 == 0:
                    incoming.commit()
        incoming.commit()
        incoming.sync()
        with environment.snapshot() if generation % 2 else nullcontext():  # an old state may outlive its replacement
            environment.replace(incoming)
        print(generation, flush=True)


class Child:
    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-m", "tests.faults.test_replace_kill", str(path)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.announced: Iterator[int] = map(int, self._process.stdout)

    def kill_after(self, delay_s: float) -> int:
        """The last generation it announced."""
        timer = threading.Timer(delay_s, self._process.kill)
        timer.start()
        last = list(self.announced)[-1:]
        timer.join()
        assert self._process.wait(PATIENCE_S) < 0, "it ended by itself"
        return last[0] if last else 0

    def close(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()


def test_killed_at_any_moment_there_is_one_whole_state(tmp_path: Path) -> None:
    rng, path, known = Random(SEED), tmp_path / "kv", 0
    found: Counter[str] = Counter()
    for kill in range(KILLS):
        child = Child(path)
        try:
            assert next(child.announced) == known
            last = max(known, child.kill_after(rng.uniform(0, 0.12)))
        finally:
            child.close()
        left = sorted(entry.name for entry in path.iterdir())
        environment = LmdbEnvironment(path, TABLES)
        known, whole = contents(environment)
        said = f"kill {kill} of SEED={SEED}: announced {last}, found {known}, directory was {left}"
        assert whole, said
        assert last <= known <= last + 1, said
        current = (path / "CURRENT").read_text().strip()
        assert sorted(entry.name for entry in path.iterdir()) == sorted([current, "CURRENT"]), said
        environment.close()
        found["the next one"] += known > last
        found["left over"] += len(left) > 2
    assert known, f"nothing was ever replaced, SEED={SEED}"
    assert found["left over"], f"no kill came in between, SEED={SEED}"
    print(dict(found), f"of {KILLS} kills, {known} replacements")


if __name__ == "__main__":
    replace_for_ever(Path(sys.argv[1]))

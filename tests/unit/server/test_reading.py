"""Reading beside the loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import journal
from cluster.kv.api import Environment, Reader
from cluster.kv.lmdb_env import LmdbEnvironment
from registry.server.reading import beside
from registry.server.scrub import Scrub
from registry.store import tables


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Environment]:
    made = LmdbEnvironment(tmp_path / "data", (*journal.TABLES, *tables.TABLES), map_size_bytes=1 << 26)
    for table in made.tables:
        made.transaction().put(table, b"key", b"value")
    made.commit()
    yield made
    made.close()


async def test_a_snapshot_ends_after_the_thread_that_reads_it_also_where_nobody_waits(
    environment: Environment,
) -> None:
    begun, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    found: list[bytes | None] = []

    def read(reader: Reader) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(10)
        found.append(reader.get(tables.CHANGES, b"key"))

    reading = asyncio.create_task(beside(environment, read))
    await begun.wait()
    for _ in range(3):
        reading.cancel()
        await asyncio.sleep(0)
    assert not reading.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert found == [b"value"]


async def test_what_it_raises_reaches_the_caller(environment: Environment) -> None:
    with pytest.raises(KeyError):
        await beside(environment, lambda reader: reader.get("no such table", b"key"))


async def test_a_scrub_reads_tables_with_large_rows_beside_the_loop(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of megabytes that is not in memory yet takes longer than a heartbeat may wait."""
    threads: dict[str, int] = {}
    read = Scrub._slice

    def noted(scrub: Scrub, walk: object, reader: Reader) -> object:
        threads[walk.table] = threading.get_ident()  # type: ignore[attr-defined]
        return read(scrub, walk, reader)  # type: ignore[arg-type]

    monkeypatch.setattr(Scrub, "_slice", noted)
    scrub = Scrub(environment)
    async for _ in scrub.run():
        pass
    on_loop = {table for table, thread in threads.items() if thread == threading.get_ident()}
    assert threads.keys() == set(environment.tables)
    assert threads.keys() - on_loop == {journal.LOG, tables.VERSIONS, tables.CONTENTS, tables.CHUNKS}

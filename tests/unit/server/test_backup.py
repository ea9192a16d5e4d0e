"""Backup files: what is in one, and that nothing but a whole one passes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from cluster import snapshot
from cluster.kv.memory_env import MemoryEnvironment
from cluster.snapshot import SnapshotError
from registry.server import backup, limits
from registry.server.disaster import TABLES
from tests.unit.server.stopped_member import configured, fill


@pytest.fixture(scope="module")
def data() -> bytes:
    environment = MemoryEnvironment(TABLES)
    fill(environment, configured())
    with environment.snapshot() as reader:
        about = backup.about(reader, member="n1", release="1.2.3", taken_ms=7, age_ms=0)
        return b"".join(backup.pieces(reader, about))


@pytest.fixture
def file(tmp_path: Path, data: bytes) -> Path:
    (tmp_path / "file").write_bytes(data)
    return tmp_path / "file"


def test_a_whole_one_says_what_is_in_it(file: Path, data: bytes) -> None:
    verified = backup.verify(file)
    assert verified.about == backup.About(
        cluster_id="c1",
        epoch=1,
        revision=3,
        index=4,
        term=4,
        configuration=configured(),
        member="n1",
        release="1.2.3",
        taken_ms=7,
    )
    assert (verified.size_bytes, verified.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (verified.rows["versions"], verified.rows["contents"], verified.rows["changes"]) == (2, 2, 3)
    assert not {"raft_log", "raft_meta", "raft_configurations"} & set(verified.rows)


def test_the_state_is_read_a_chunk_at_a_time() -> None:
    environment = MemoryEnvironment(TABLES)
    rows = {b"%05d" % number: bytes(1000) for number in range(1000)}
    fill(environment, configured())
    for key, value in rows.items():
        environment.transaction().put("contents", key, value)
    environment.commit()
    with environment.snapshot() as reader:
        about = backup.about(reader, member="n1", release="", taken_ms=0, age_ms=0)
        sizes = [len(piece) for piece in backup.pieces(reader, about)]
    assert max(sizes) < limits.BACKUP_CHUNK_BYTES * 1.5
    assert len(sizes) > 8


@pytest.mark.parametrize("place", [0, 20, 2000, -40, -1])
def test_a_changed_byte_is_found(file: Path, data: bytes, place: int) -> None:
    spoiled = bytearray(data)
    spoiled[place] ^= 1
    file.write_bytes(spoiled)
    with pytest.raises(SnapshotError):
        backup.verify(file)


@pytest.mark.parametrize("size", [0, 5, 100, 2000, -1])
def test_a_cut_one_is_found(file: Path, data: bytes, size: int) -> None:
    file.write_bytes(data[:size])
    with pytest.raises(SnapshotError, match="cut off"):
        backup.verify(file)


def test_one_of_a_newer_release_is_refused(file: Path) -> None:
    environment = MemoryEnvironment((*TABLES, "novel"))
    fill(environment, configured())
    with environment.snapshot() as reader:
        for about, tables in ((b"", backup.TABLES), (msgspec.msgpack.encode({}), ("novel",))):
            header = snapshot.header_of(reader, tables, about)
            file.write_bytes(b"".join(snapshot.encode_file(header, snapshot.read_chunks(reader, tables))))
            with pytest.raises(SnapshotError, match=r"newer release|nothing that this release understands"):
                backup.verify(file)


def test_rows_that_were_not_announced_are_found(file: Path) -> None:
    environment = MemoryEnvironment(TABLES)
    fill(environment, configured())
    with environment.snapshot() as reader:
        about = backup.about(reader, member="n1", release="", taken_ms=0, age_ms=0)
        header = snapshot.header_of(reader, backup.TABLES, msgspec.msgpack.encode(about))
        fewer = msgspec.structs.replace(header, rows=header.rows | {"versions": 1})
        file.write_bytes(b"".join(snapshot.encode_file(fewer, snapshot.read_chunks(reader, backup.TABLES))))
    with pytest.raises(SnapshotError, match="other rows"):
        backup.verify(file)

"""Restore and forced recovery of data directories, without starting what comes out."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
from msgspec import structs

from cluster import entries
from cluster.configuration import Configuration, MemberRecord, joined_id
from cluster.journal import Journal
from cluster.kv.lmdb_env import LmdbEnvironment
from registry.core import commands
from registry.server import backup, disaster
from registry.server.disaster import TABLES, DisasterError, Doing
from registry.server.identity import DATABASE, FILE, UNFINISHED, DataDirectory, Identity, IdentityError
from registry.store import queries
from tests.unit.server.stopped_member import configured, stopped

DOING = Doing(principal="ada", reason="all was lost", time_ms=1_900_000_000_000)
PEER = "127.0.0.1:9"


def backed_up(path: Path) -> Path:
    environment = LmdbEnvironment(stopped(path / "source") / DATABASE, TABLES)
    with environment.snapshot() as reader:
        about = backup.about(reader, member="n1", release="", taken_ms=0, age_ms=0)
        (path / "file").write_bytes(b"".join(backup.pieces(reader, about)))
    environment.close()
    return path / "file"


def restore(file: Path, target: Path) -> backup.About:
    return disaster.restore(file, target, name="n1", peer_address=PEER, doing=DOING)


def log_of(path: Path) -> tuple[Configuration, list[tuple[int, bytes]], int]:
    """Newest configuration, (term, entry) of the whole log, and its first index."""
    environment = LmdbEnvironment(path / DATABASE, TABLES)
    log = Journal(environment)
    found = (log.configuration, [(term, entry) for entry, _, term in log[0:]], log.first)
    environment.close()
    return found


def identified(path: Path) -> Identity:
    """As registryd --name n1 would find it."""
    directory = DataDirectory(path)
    try:
        return directory.identify(name="n1", founding={}, own_peer_address=PEER, incarnation="unused")
    finally:
        directory.close()


def files(path: Path) -> dict[str, str]:
    found = [file for file in path.rglob("*") if file.is_file() and file.name not in ("lock.mdb", "member.lock")]
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in found}


# ---- restore


def test_a_backup_becomes_the_directory_of_a_lone_voter(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    about = restore(backed_up(tmp_path), target)
    assert (about.index, about.revision, about.epoch) == (4, 3, 1)
    identity = identified(target)
    assert identity.joined
    assert identity.id == joined_id("n1", identity.incarnation)
    configuration, log, first = log_of(target)
    record = MemberRecord(id=identity.id, name="n1", incarnation=identity.incarnation, peer_address=PEER)
    assert configuration == configured(
        cluster=configuration.cluster, members=(record,), removed=("of n1", "of n2", "of n3")
    )
    assert configuration.cluster not in ("", "old")
    assert (first, log[0]) == (4, (4, entries.NO_OP))
    assert [term for term, _ in log] == [4, 5, 5]
    (command,) = [commands.decode(each) for each in entries.unpack(log[2][1])]
    assert isinstance(command, commands.BeginEpoch)
    assert (command.cause, command.principal, command.reason) == ("restore", "ada", "all was lost")
    assert sorted(entry.name for entry in target.iterdir()) == [DATABASE, FILE, "member.lock"]


def test_an_empty_directory_will_do_and_no_other(tmp_path: Path) -> None:
    file = backed_up(tmp_path)
    (tmp_path / "empty").mkdir()
    restore(file, tmp_path / "empty")
    before = files(tmp_path)
    for used in ("empty", "source", "."):
        with pytest.raises(DisasterError, match="is not empty"):
            restore(file, tmp_path / used)
    assert files(tmp_path) == before


@pytest.mark.parametrize("existed", [True, False])
@pytest.mark.parametrize("spoil", ["cut", "one byte", "no backup", "missing"])
def test_a_damaged_backup_leaves_nothing_behind(tmp_path: Path, spoil: str, existed: bool) -> None:
    file, target = backed_up(tmp_path), tmp_path / "target"
    data = file.read_bytes()
    match spoil:
        case "cut":
            file.write_bytes(data[:-1])
        case "one byte":
            file.write_bytes(data[:-500] + bytes([data[-500] ^ 1]) + data[-499:])
        case "no backup":
            file.write_bytes(b"#!/bin/sh\n" * 100)
        case "missing":
            file.unlink()
    if existed:
        target.mkdir()
    with pytest.raises(DisasterError):
        restore(file, target)
    assert target.exists() == existed
    assert not existed or not list(target.iterdir())


def test_a_header_that_lies_is_found(tmp_path: Path) -> None:
    environment = LmdbEnvironment(stopped(tmp_path / "source") / DATABASE, TABLES)
    with environment.snapshot() as reader:
        about = backup.about(reader, member="n1", release="", taken_ms=0, age_ms=0)
        for lie in ({"index": 3}, {"revision": 9}, {"epoch": 7}, {"cluster_id": "c2"}):
            told = structs.replace(about, **lie)
            (tmp_path / "file").write_bytes(b"".join(backup.pieces(reader, told)))
            with pytest.raises(DisasterError, match="cannot be restored"):
                restore(tmp_path / "file", tmp_path / "target")
            assert not (tmp_path / "target").exists()
    environment.close()


def test_what_a_killed_restore_left_is_refused_at_start_and_begun_anew(tmp_path: Path) -> None:
    file, target = backed_up(tmp_path), tmp_path / "target"
    stopped(target)  # as far as it may have come, and further
    (target / UNFINISHED).touch()
    with pytest.raises(IdentityError, match="was not finished; type the same `registryd restore` again"):
        identified(target)
    restore(file, target)
    assert identified(target).joined


def test_two_restores_do_not_share_a_directory(tmp_path: Path) -> None:
    file = backed_up(tmp_path)
    held = DataDirectory(tmp_path / "target")
    with pytest.raises(IdentityError, match="in use"):
        restore(file, tmp_path / "target")
    held.close()


def test_without_a_word_of_reason_nothing_is_begun(tmp_path: Path) -> None:
    silent = dataclasses.replace(DOING, reason=" ")
    with pytest.raises(DisasterError, match="reason"):
        disaster.restore(backed_up(tmp_path), tmp_path / "target", name="n1", peer_address=PEER, doing=silent)
    assert not (tmp_path / "target").exists()


# ---- recovery


def test_a_survivor_keeps_its_log_and_who_it_is(tmp_path: Path) -> None:
    path = stopped(tmp_path / "n1", unapplied=2)
    before = identified(path)
    with disaster.survivor(path) as found:
        assert (found.applied_index, found.last_index, found.last_term, found.unapplied) == (4, 6, 5, 2)
        assert (found.registry.cluster_id, found.registry.epoch, found.registry.revision) == ("c1", 1, 3)
        assert [other.id for other in found.others] == ["n2", "n3"]
        found.recover(DOING)
    assert identified(path) == before
    configuration, log, first = log_of(path)
    assert first == 1
    assert [term for term, _ in log] == [0, 4, 4, 4, 5, 5, 6, 6]
    assert configuration.voters == {"n1"}
    assert configuration.removed == ("of n2", "of n3")
    (command,) = [commands.decode(each) for each in entries.unpack(log[-1][1])]
    assert isinstance(command, commands.BeginEpoch)
    assert command.cause == "recover"
    with pytest.raises(DisasterError, match="only voter already"), disaster.survivor(path):
        pass


@pytest.mark.parametrize(
    ("configuration", "says"),
    [
        (configured(removed=("of n1",)), "was removed from the cluster"),
        (configured(members=configured().members[1:]), "was never admitted"),
        (configured(members=configured().members[:1]), "only voter already"),
    ],
)
def test_who_must_not_or_need_not_become_the_cluster(tmp_path: Path, configuration: Configuration, says: str) -> None:
    path = stopped(tmp_path / "n1", configuration)
    before = files(path)
    with pytest.raises(DisasterError, match=says), disaster.survivor(path):
        pass
    assert files(path) == before


def test_a_diverged_member_never_becomes_the_cluster(tmp_path: Path) -> None:
    path = stopped(tmp_path / "n1")
    environment = LmdbEnvironment(path / DATABASE, TABLES)
    Journal(environment).set_diverged(3)
    environment.commit()
    environment.close()
    with pytest.raises(DisasterError, match="must not become the cluster"), disaster.survivor(path):
        pass


def test_no_directory_is_made_where_there_is_none(tmp_path: Path) -> None:
    for path in (tmp_path / "typo", tmp_path):
        with pytest.raises(DisasterError, match="no data directory"), disaster.survivor(path):
            pass
    assert not list(tmp_path.iterdir())


def test_a_running_member_is_left_alone(tmp_path: Path) -> None:
    held = DataDirectory(stopped(tmp_path / "n1"))
    with pytest.raises(IdentityError, match="in use"), disaster.survivor(held.path):
        pass
    held.close()


def test_a_directory_without_its_database_has_nothing_to_recover(tmp_path: Path) -> None:
    path = stopped(tmp_path / "n1")
    for file in (path / DATABASE).rglob("data.mdb"):
        file.unlink()
    with pytest.raises(DisasterError, match="database is gone"), disaster.survivor(path):
        pass


def test_the_applied_state_is_not_touched(tmp_path: Path) -> None:
    """The epoch comes through the log, when the member starts: everybody who joins hears of it there."""
    path = stopped(tmp_path / "n1")
    with disaster.survivor(path) as found:
        found.recover(DOING)
        with found.environment.snapshot() as reader:
            assert queries.registry(reader).epoch == 1

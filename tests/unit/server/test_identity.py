from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cluster.kv.lmdb_env import LmdbEnvironment
from registry.server.identity import DATABASE, FILE, DataDirectory, Identity, IdentityError

FOUNDING = {"n1": "127.0.0.1:7401", "n2": "127.0.0.1:7411"}


def identify(
    path: Path,
    name: str = "n1",
    founding: dict[str, str] | None = None,
    peer: str = "127.0.0.1:7401",
    incarnation: str = "abc",
    joins: bool = False,
    observer: bool = False,
) -> Identity:
    directory = DataDirectory(path)
    try:
        return directory.identify(
            name=name,
            founding=founding or {},
            own_peer_address=peer,
            incarnation=incarnation,
            joins=joins,
            observer=observer,
        )
    finally:
        directory.close()


def test_a_new_directory_remembers_what_it_was_founded_as(tmp_path: Path) -> None:
    first = identify(tmp_path / "d", founding=FOUNDING)
    assert first == Identity(name="n1", incarnation="abc", founding=FOUNDING)
    assert identify(tmp_path / "d") == first
    assert identify(tmp_path / "d", founding=FOUNDING) == first


def test_without_a_cluster_it_founds_one_of_one_whose_peer_address_may_move(tmp_path: Path) -> None:
    assert identify(tmp_path).founding == {"n1": "127.0.0.1:7401"}
    assert identify(tmp_path, peer="127.0.0.1:9").founding == {"n1": "127.0.0.1:9"}


@pytest.mark.parametrize("lost", ["all", "generation", "contents"])
def test_who_has_lost_the_database_is_not_who_made_its_promises(tmp_path: Path, lost: str) -> None:
    first = identify(tmp_path, founding=FOUNDING)
    database = tmp_path / DATABASE
    environment = LmdbEnvironment(database, ["rows"])
    environment.replace(environment.incoming())
    environment.close()
    assert identify(tmp_path, incarnation="def") == first
    if lost == "all":
        shutil.rmtree(database)
    elif lost == "generation":
        shutil.rmtree(database / "2.v3")
    else:
        (database / "2.v3" / "data.mdb").write_bytes(b"")
    assert identify(tmp_path, incarnation="def") == Identity(name="n1", incarnation="def", founding=FOUNDING)
    LmdbEnvironment(database, ["rows"]).close()
    assert identify(tmp_path).incarnation == "def"


def test_a_damaged_database_is_not_taken_for_a_lost_one(tmp_path: Path) -> None:
    first = identify(tmp_path, founding=FOUNDING)
    LmdbEnvironment(tmp_path / DATABASE, ["rows"]).close()
    (tmp_path / DATABASE / "CURRENT").write_bytes(b"\xff")
    assert identify(tmp_path, incarnation="def") == first


def test_who_joins_has_founded_nothing_and_its_id_names_its_directory(tmp_path: Path) -> None:
    first = identify(tmp_path, name="n4", joins=True)
    assert (first.founding, first.joined, first.id) == ({}, True, "n4/abc")
    LmdbEnvironment(tmp_path / DATABASE, ["rows"]).close()
    for joins in (True, False):
        assert identify(tmp_path, name="n4", incarnation="def", joins=joins) == first
    with pytest.raises(IdentityError, match="joined a cluster"):
        identify(tmp_path, name="n4", founding={"n4": "127.0.0.1:1"})
    assert identify(tmp_path / "founder", founding=FOUNDING).id == "n1"


def test_a_founder_with_its_data_stays_one_whatever_it_is_told_to_join(tmp_path: Path) -> None:
    first = identify(tmp_path, founding=FOUNDING)
    LmdbEnvironment(tmp_path / DATABASE, ["rows"]).close()
    assert identify(tmp_path, joins=True) == first


def test_who_has_lost_the_database_comes_back_as_a_new_member(tmp_path: Path) -> None:
    identify(tmp_path / "founder", founding=FOUNDING)
    again = identify(tmp_path / "founder", joins=True, incarnation="def")
    assert (again.joined, again.founding, again.id) == (True, {}, "n1/def")
    identify(tmp_path / "joined", joins=True)
    with pytest.raises(IdentityError, match="regctl cluster replace n1"):
        identify(tmp_path / "joined", incarnation="def")
    assert identify(tmp_path / "joined", joins=True, incarnation="def").id == "n1/def"


def test_only_who_joins_or_has_joined_observes(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="founders vote"):
        identify(tmp_path / "new", observer=True)
    assert not (tmp_path / "new" / FILE).exists()
    identify(tmp_path / "joined", joins=True, observer=True)
    LmdbEnvironment(tmp_path / "joined" / DATABASE, ["rows"]).close()
    assert identify(tmp_path / "joined", observer=True).joined


def test_another_members_directory_is_refused(tmp_path: Path) -> None:
    identify(tmp_path, founding=FOUNDING)
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(IdentityError, match="belongs to member 'n1', this is 'n2'"):
        identify(tmp_path, name="n2", founding=FOUNDING)
    assert (tmp_path / FILE).read_bytes() == before


def test_another_clusters_directory_is_refused(tmp_path: Path) -> None:
    identify(tmp_path, founding=FOUNDING)
    with pytest.raises(IdentityError, match="belongs to another cluster"):
        identify(tmp_path, founding=FOUNDING | {"n3": "127.0.0.1:7421"})


def test_two_processes_never_share_a_directory(tmp_path: Path) -> None:
    held = DataDirectory(tmp_path)
    with pytest.raises(IdentityError, match="in use by another process"):
        DataDirectory(tmp_path)
    held.close()
    DataDirectory(tmp_path).close()


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(IdentityError, match=r"thesis\.tex"):
        identify(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "damaged"),
        ('{"name": "n1"}', "damaged"),
        ('{"name":"n1","incarnation":"a","founding":{},"format":2}', "newer"),
    ],
)
def test_a_damaged_or_newer_file_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(IdentityError, match=says):
        identify(tmp_path)


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IdentityError, match="cannot use"):
        DataDirectory(tmp_path / "file")

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from registry.server.identity import DATABASE, FILE, DataDirectory, Identity, IdentityError

FOUNDING = {"n1": "127.0.0.1:7401", "n2": "127.0.0.1:7411"}


def identify(
    path: Path,
    name: str = "n1",
    founding: dict[str, str] | None = None,
    peer: str = "127.0.0.1:7401",
    incarnation: str = "abc",
) -> Identity:
    directory = DataDirectory(path)
    try:
        return directory.identify(name=name, founding=founding or {}, own_peer_address=peer, incarnation=incarnation)
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


@pytest.mark.parametrize("lost", ["gone", "empty"])
def test_who_has_lost_the_database_is_not_who_made_its_promises(tmp_path: Path, lost: str) -> None:
    first = identify(tmp_path, founding=FOUNDING)
    database = tmp_path / DATABASE
    database.mkdir()
    (database / "data.mdb").write_bytes(b"pages")
    assert identify(tmp_path, incarnation="def") == first
    (database / "data.mdb").write_bytes(b"")
    if lost == "gone":
        shutil.rmtree(database)
    assert identify(tmp_path, incarnation="def") == Identity(name="n1", incarnation="def", founding=FOUNDING)
    (tmp_path / DATABASE).mkdir(exist_ok=True)
    (database / "data.mdb").write_bytes(b"pages")
    assert identify(tmp_path).incarnation == "def"


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

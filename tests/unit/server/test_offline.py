"""registryd verify, restore and recover as they are typed."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from msgspec import structs

from cluster.kv.lmdb_env import LmdbEnvironment
from registry.server import backup
from registry.server.disaster import TABLES
from registry.server.identity import DATABASE
from registry.server.main import main
from tests.unit.server.stopped_member import configured, stopped

ACCEPTED = ("--yes", "--accept-data-loss")


def registryd(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="registryd")


def test_a_command_that_does_not_exist_is_named_with_those_that_do() -> None:
    result = registryd("recovr", "--data-dir", "somewhere")
    assert result.exit_code == 2
    assert "no command 'recovr': there are verify, restore, recover" in result.stderr


def done(*arguments: object) -> Any:
    result = registryd(*arguments, "-o", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    environment = LmdbEnvironment(stopped(tmp_path / "source") / DATABASE, TABLES)
    with environment.snapshot() as reader:
        about = backup.about(reader, member="n2", release="1.2.3", taken_ms=1_770_000_000_123, age_ms=1500)
        (tmp_path / "file").write_bytes(b"".join(backup.pieces(reader, about)))
    environment.close()
    return tmp_path / "file"


def test_help_shows_the_commands_beside_the_flags() -> None:
    said = registryd("--help").output
    for word in ("--data-dir", "verify", "restore", "recover"):
        assert word in said
    assert "Usage: registryd recover" in registryd("recover", "-h").output


def test_flags_mean_what_they_meant(tmp_path: Path) -> None:
    result = registryd("--name", "restore", "--data-dir", tmp_path, "--listen", "nowhere")
    assert result.exit_code == 2
    assert "expected HOST:PORT" in result.output
    assert "Missing option '--data-dir'" in registryd("--name", "n1").output


def test_verify_says_what_is_in_a_file(file: Path) -> None:
    said = registryd("verify", file)
    assert said.exit_code == 0
    assert "is whole" in said.output
    assert "the member had not heard the leader for 1.5 s" in said.output
    shown = done("verify", file)
    wanted = {"cluster_id": "c1", "epoch": 1, "revision": 3, "index": 4, "term": 4, "member": "n2", "age_s": 1.5}
    assert wanted.items() <= shown.items()
    assert (shown["taken"], shown["members"]) == ("2026-02-02T02:40:00.123Z", ["n1", "n2", "n3"])
    assert shown["size_bytes"] == file.stat().st_size


def test_verify_refuses_what_is_of_no_use(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])
    result = registryd("verify", file)
    assert (result.exit_code, result.stdout) == (6, "")
    assert "is of no use: the backup file is cut off in its end; take another backup" in result.stderr
    assert registryd("verify", file.parent / "none").exit_code == 2


def test_restore_says_what_is_next(file: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    result = registryd("restore", file, "--data-dir", target, "--name", "n1", "--peer-listen", "127.0.0.1:7411")
    assert result.exit_code == 0, result.output
    assert "begins epoch 2 when it starts" in result.output
    assert "--join 127.0.0.1:7411" in result.output
    again = registryd("restore", file, "--data-dir", target, "--name", "n1")
    assert again.exit_code == 2
    assert "is not empty" in again.stderr


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--name", "no name"), "not a valid member name"),
        (("--name", "n1", "--peer-listen", "0.0.0.0:7401"), "say with --peer-advertise"),
        (("--name", "n1", "--peer-listen", "somewhere"), "expected HOST:PORT"),
    ],
)
def test_restore_refuses_what_a_member_could_not_be_started_with(
    file: Path, tmp_path: Path, flags: tuple[str, ...], says: str
) -> None:
    result = registryd("restore", file, "--data-dir", tmp_path / "target", *flags)
    assert result.exit_code == 2
    assert says in result.stderr
    assert not (tmp_path / "target").exists()


def test_recover_spells_the_risk_out_and_needs_to_be_told(tmp_path: Path) -> None:
    path = stopped(tmp_path / "n1")
    result = registryd("recover", "--data-dir", path, "--reason", "fire")
    assert result.exit_code == 2
    for words in (
        "n1 (voter) of cluster c1, epoch 1",
        "applied up to log index 4, revision 3; its log ends at index 5, term 5",
        "What may be lost: everything that a majority acknowledged and this member did not receive",
        "The other members (n2, n3) must never be started again",
        "needs --yes --accept-data-loss; nothing was changed",
    ):
        assert words in result.stderr
    assert max(map(len, result.stderr.splitlines())) <= 100
    for half in ACCEPTED:
        assert "it takes both" in registryd("recover", "--data-dir", path, "--reason", "fire", half).stderr
    shown = done("recover", "--data-dir", path, "--reason", "fire", *ACCEPTED)
    assert shown["refused_from_now_on"] == ["n2", "n3"]
    assert (shown["epoch"], shown["applied_index"], shown["last_index"], shown["last_term"]) == (2, 4, 5, 5)
    again = registryd("recover", "--data-dir", path, "--reason", "fire", *ACCEPTED)
    assert (again.exit_code, "only voter already" in again.stderr) == (2, True)


def test_recover_of_an_observer_takes_a_stronger_word(tmp_path: Path) -> None:
    first, *others = configured().members
    path = stopped(tmp_path / "n1", configured(members=(structs.replace(first, role="observer"), *others)))
    asked = ("recover", "--data-dir", path, "--reason", "fire", *ACCEPTED)
    result = registryd(*asked)
    assert result.exit_code == 6
    assert "is an observer" in result.stderr
    assert done(*asked, "--from-observer")["epoch"] == 2


def test_recover_while_another_member_answers_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        first, second, third = configured().members
        members = (first, structs.replace(second, peer_address=address), third)
        path = stopped(tmp_path / "n1", configured(members=members))
        asked = ("recover", "--data-dir", path, "--reason", "fire", *ACCEPTED)
        result = registryd(*asked)
        assert result.exit_code == 6
        assert f"n2 at {address} still answers" in result.stderr
        assert done(*asked, "--others-are-gone")["epoch"] == 2

from __future__ import annotations

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec import structs

from registry.agent import files
from registry.agent.guards import Identity, digest_of
from registry.agent.home import AgentFile, Home, HomeError
from registry.agent.journal import Failure, Record, of_target
from registry.agent.main import main
from registry.agent.status import status
from registry.agent.transitions import Code
from registry.core.limits import CONTENT_BYTES_CEILING
from tests.unit.agent.samples import WORKFLOW, instruction


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "state")
    os.close(home.lock())
    return home


def test_two_agents_never_share_a_state_directory(home: Home) -> None:
    held = home.lock()
    with pytest.raises(HomeError, match="another agent runs with the state directory"):
        home.lock()
    os.close(held)


def test_a_state_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError, match="cannot be used"):
        Home(tmp_path / "file" / "state").lock()


def test_records_come_back(home: Home) -> None:
    record = Record(workflow=WORKFLOW, pointer="active", path="/srv/x", target=instruction(3))
    assert home.load_record(WORKFLOW, "active") is None
    home.save_record(record)
    assert home.load_record(WORKFLOW, "active") == record
    assert home.records() == [record]


def test_a_record_of_the_release_before_targets(home: Home) -> None:
    """Byte for byte as that one wrote it, in the middle of an installation."""
    one, two, three = (digest_of(data) for data in (b"1", b"2", b"3"))
    path = home.directory / "follows" / WORKFLOW / "active.json"
    files.make_directory(path.parent)
    path.write_text(
        '{"workflow":"support/triage","pointer":"active","path":"/srv/x","state":"probe","epoch":2,"generation":2,'
        f'"target":{{"workflow":"support/triage","pointer":"active","epoch":2,"generation":3,"version":3,"digest":"{three}",'
        '"size_bytes":1,"base_digest":"x","reason":"r","rollback":true,"min_revision":7},'
        f'"running":{{"generation":3,"version":3,"digest":"{three}","size_bytes":1}},'
        f'"last_good":{{"generation":2,"version":2,"digest":"{two}","size_bytes":1}},'
        f'"kept":[{{"generation":1,"version":1,"digest":"{one}","size_bytes":1}}],"shown":true,"reverted":true,"attempt":2,'
        '"restarts":3,"failure":{"generation":2,"version":2,"code":"PROBE_FAILED","detail":"d"}}'
    )
    (record,) = home.records()
    assert record.target == instruction(3, b"3", epoch=2, base_digest="x", reason="r", rollback=True, min_revision=7)
    assert (record.state, record.restarts, record.digests()) == ("probe", 3, {one, two, three})
    assert record.failure == Failure(generation=2, version=2, code=Code.PROBE_FAILED, detail="d")


def test_a_damaged_record_says_what_to_do(home: Home) -> None:
    home.save_record(Record(workflow=WORKFLOW, pointer="active", path="/srv/x"))
    path = home.directory / "follows" / WORKFLOW / "active.json"
    path.write_bytes(b'{"workflow": "supp')
    with pytest.raises(HomeError, match="Move the file away and start again"):
        home.load_record(WORKFLOW, "active")


def test_content_is_read_before_it_counts_as_kept(home: Home) -> None:
    digest = digest_of(b"bytes")
    assert not home.has_content(digest)
    home.put_content(digest, b"bytes")
    assert home.has_content(digest)
    path = home.content_path(digest)
    path.chmod(0o644)
    path.write_bytes(b"bytez")
    assert not home.has_content(digest)
    home.put_content(digest, b"bytes")
    assert home.has_content(digest)


def test_what_is_installed_can_be_a_base_if_it_is_there(home: Home) -> None:
    installed = of_target(structs.replace(instruction(), digest=digest_of(b"bytes"), size_bytes=5))
    assert home.base(None) == home.base(installed) == b""
    home.put_content(installed.digest, b"bytes")
    assert home.base(installed) == b"bytes"
    assert home.base(structs.replace(installed, size_bytes=CONTENT_BYTES_CEILING + 1)) == b"", "it comes in chunks"


def test_only_needed_content_stays(home: Home) -> None:
    digests = [digest_of(data) for data in (b"a", b"b", b"c")]
    for digest, data in zip(digests, (b"a", b"b", b"c"), strict=True):
        home.put_content(digest, data)
    home.drop_content_except(digests[:2])
    assert [home.has_content(digest) for digest in digests] == [True, True, False]


def test_two_follows_that_store_the_same_bytes_at_once_never_see_half_of_them(home: Home) -> None:
    data = os.urandom(100_000)
    digest = digest_of(data)

    def store(_: int) -> bool:
        home.put_content(digest, data)
        return home.has_content(digest)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(store, range(100)))


def test_path_is_ours_only_if_it_is_absent_or_our_link(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "srv" / "x"
    assert home.is_ours(path)
    digest = digest_of(b"bytes")
    home.put_content(digest, b"bytes")
    home.show(path, digest)
    assert home.is_ours(path)
    assert home.shows(path, digest)
    assert path.read_bytes() == b"bytes"
    home.show(path, None)
    assert home.shows(path, None)
    path.write_text("mine")
    assert not home.is_ours(path)
    path.unlink()
    path.symlink_to("/etc/hostname")
    assert not home.is_ours(path)


def test_contact_is_coarse(home: Home) -> None:
    assert home.last_contact_s() is None
    home.touch_contact(1000.0)
    home.touch_contact(1000.5)
    assert home.last_contact_s() == 1000.0
    home.touch_contact(1001.5)
    assert home.last_contact_s() == 1001.5


def test_status_says_what_the_contract_says(home: Home) -> None:
    home.save_agent(
        AgentFile(
            agent="edge-1",
            incarnation="i",
            identity=Identity(cluster_id="c1", epoch=2),
            follows=((WORKFLOW, "active"), ("a/b", "canary")),
        )
    )
    good = of_target(instruction(3))
    failure = Failure(generation=4, version=4, code=Code.PROBE_FAILED, detail="3 failures in a row", since_ms=1_005_000)
    home.save_record(
        Record(workflow=WORKFLOW, pointer="active", path="/srv/x", running=good, last_good=good, failure=failure)
    )
    home.touch_contact(1000.0)
    found = status(home, 1010.4)
    assert {key: found[key] for key in ("agent", "cluster_id", "epoch")} == {
        "agent": "edge-1",
        "cluster_id": "c1",
        "epoch": 2,
    }
    first, second = found["follows"]
    assert first == {
        "workflow": WORKFLOW,
        "pointer": "active",
        "generation": 3,
        "version": 3,
        "digest": good.digest,
        "state": "error",
        "age_s": 5,
        "step": "idle",
        "next": None,
        "last_contact_s": 10,
        "last_error": "PROBE_FAILED at generation 4: 3 failures in a row",
        "last_good": {"generation": 3, "version": 3, "digest": good.digest},
    }
    assert (second["state"], second["generation"], second["last_good"]) == ("current", 0, None)
    assert status(home, 1091.0)["follows"][1]["state"] == "stale"


def test_people_read_states_with_their_ages(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 10_000.0)
    follows = ((WORKFLOW, "active"), ("a/b", "active"))
    home.save_agent(AgentFile(agent="edge-1", incarnation="i", identity=Identity(cluster_id="c1"), follows=follows))
    good = of_target(instruction(3), now_ms=3_000_000)
    failure = Failure(generation=4, version=4, code=Code.PROBE_FAILED, detail="", since_ms=5_000_000)
    home.save_record(Record(workflow=WORKFLOW, pointer="active", path="/srv/x", running=good))
    home.save_record(Record(workflow="a/b", pointer="active", path="/srv/y", running=good, failure=failure))

    def states() -> list[str]:
        arguments = ["status", "--state-dir", str(home.directory)]
        return re.findall("[A-Z]+ for [0-9]+ s", CliRunner().invoke(main, arguments, env={"COLUMNS": "200"}).stdout)

    home.touch_contact(9_990.0)
    assert states() == ["LIVE for 7000 s", "ERROR for 5000 s"]
    home.touch_contact(9_000.0)
    assert states() == ["STALE for 1000 s", "ERROR for 5000 s"]


def test_large_content_arrives_in_a_file_and_takes_its_place(home: Home) -> None:
    arriving = home.arriving("support/triage", "active")
    arriving.write_bytes(b"large")
    digest = digest_of(b"large")
    assert not home.has_content(digest)
    home.keep_arrived(digest, arriving)
    assert home.has_content(digest)
    assert home.content_path(digest).stat().st_mode & 0o777 == 0o444
    assert not arriving.exists()


def test_what_arrives_for_nobody_is_dropped(home: Home) -> None:
    kept, dropped = home.arriving("support/triage", "active"), home.arriving("support/triage", "canary")
    for path in (kept, dropped):
        path.write_bytes(b"half of it")
    home.drop_arriving_except([("support/triage", "active")])
    assert (kept.exists(), dropped.exists()) == (True, False)

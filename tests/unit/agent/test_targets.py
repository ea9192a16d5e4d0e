"""File, directory and command targets on a real disk, with real processes."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs

from registry.agent import files, limits
from registry.agent.config import FollowSpec
from registry.agent.guards import digest_of
from registry.agent.home import Home
from registry.agent.journal import Record, of_target
from registry.agent.mending import mend
from registry.agent.targets.base import DONE, Candidate, Target
from registry.agent.targets.directory import DirectorySpec, DirectoryTarget, LinkSet
from registry.agent.targets.exec_ import ExecSpec, ExecTarget
from registry.agent.targets.file import FileSpec, FileTarget
from registry.agent.transitions import Code, State
from registry.core.limits import REASON_CHARS
from tests.unit.agent.samples import WORKFLOW, instruction


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "state")
    os.close(home.lock())
    return home


def candidate(home: Home, data: bytes, generation: int = 1, *, force: bool = False) -> Candidate:
    digest = digest_of(data)
    home.put_content(digest, data)
    return Candidate(
        WORKFLOW, "active", generation, generation, digest, len(data), home.content_path(digest), "why", force
    )


Made = Callable[[Home, Path], tuple[Target, Path]]


def file_target(home: Home, directory: Path) -> tuple[Target, Path]:
    path = directory / "srv" / "x.yml"
    return FileTarget(FileSpec(path), home, "support/triage:active"), path


def directory_target(home: Home, directory: Path) -> tuple[Target, Path]:
    spec = DirectorySpec(directory / "srv", "x.yml")
    return DirectoryTarget(spec, home, "support/triage:active"), spec.path


@pytest.mark.parametrize("make", [file_target, directory_target])
async def test_a_link_into_a_state_directory_that_was_emptied(make: Made, home: Home, tmp_path: Path) -> None:
    target, path = make(home, tmp_path)
    one = candidate(home, b"one")
    assert await target.apply(one) == DONE
    for emptied in (home.objects, home.directories):
        shutil.rmtree(emptied, ignore_errors=True)
    assert not await target.shows(digest_of(b"two"))
    two = candidate(home, b"two", 2)
    assert await target.check(two) == DONE
    assert await target.apply(two) == DONE
    assert path.read_bytes() == b"two"


@pytest.mark.parametrize("make", [file_target, directory_target])
async def test_a_path_that_cannot_be_looked_at_shows_nothing(make: Made, home: Home, tmp_path: Path) -> None:
    target, _ = make(home, tmp_path / ("x" * 300))
    one = candidate(home, b"one")
    assert not await target.shows(one.digest)
    applied = await target.apply(one)
    assert (applied.code, applied.later) == (Code.INSTALL_FAILED, True)


@pytest.mark.parametrize("make", [file_target, directory_target])
async def test_a_path_goes_forward_and_back_to_nothing(make: Made, home: Home, tmp_path: Path) -> None:
    target, path = make(home, tmp_path)
    assert await target.shows(None)
    one, two = candidate(home, b"one"), candidate(home, b"two", 2)
    for wanted in (one, two, two, one):
        assert await target.check(wanted) == await target.apply(wanted) == DONE
        assert path.read_bytes() == wanted.content.read_bytes()
        assert await target.shows(wanted.digest)
        assert not await target.shows(None)
    for _ in range(2):
        assert await target.apply(None) == DONE
        assert not path.exists()
        assert await target.shows(None)


@pytest.mark.parametrize("make", [file_target, directory_target])
async def test_what_somebody_else_put_there_stays(make: Made, home: Home, tmp_path: Path) -> None:
    target, _ = make(home, tmp_path)
    occupied = tmp_path / "srv" / "x.yml" if make is file_target else tmp_path / "srv"
    occupied.parent.mkdir(exist_ok=True)
    occupied.write_text("mine")
    wanted = candidate(home, b"one")
    for refused in (await target.check(wanted), await target.apply(wanted)):
        assert refused.code is Code.PATH_OCCUPIED
        assert f"mv {occupied} {occupied}.before" in refused.detail
    assert await target.apply(wanted._replace(force=True)) == await target.apply(None) == DONE
    assert occupied.read_text() == "mine"


@pytest.mark.parametrize("make", [file_target, directory_target])
async def test_a_disk_that_refuses_is_tried_again(make: Made, home: Home, tmp_path: Path) -> None:
    target, _ = make(home, tmp_path)
    (tmp_path / "srv").symlink_to(tmp_path / "nowhere" / "else")
    if make is directory_target:
        (tmp_path / "srv").unlink()
        home.directories.write_text("no directory")
    refused = await target.apply(candidate(home, b"one"))
    assert (refused.code, refused.later) == (Code.INSTALL_FAILED, True)


async def test_names_of_one_directory_change_one_by_one(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "srv"
    targets = [DirectoryTarget(DirectorySpec(path, f"{n}"), home, "a/b:active") for n in range(10)]
    contents = [candidate(home, b"%d" % n) for n in range(10)]
    done = await asyncio.gather(*(t.apply(c) for t, c in zip(targets, contents, strict=True)))
    assert done == [DONE] * 10
    assert {entry.name: entry.read_text() for entry in path.iterdir()} == {f"{n}": f"{n}" for n in range(10)}


async def test_who_entered_a_directory_keeps_one_set(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DIRECTORY_SETS", 4)
    path = tmp_path / "srv"
    first, second = (DirectoryTarget(DirectorySpec(path, name), home, "a/b:active") for name in "ab")
    await first.apply(candidate(home, b"a1"))
    await second.apply(candidate(home, b"b1"))
    entered = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for number in range(2, limits.DIRECTORY_SETS):
            await first.apply(candidate(home, b"a%d" % number, number))
        await second.apply(candidate(home, b"b2", 2))
        for name, content in (("a", b"a1"), ("b", b"b1")):
            assert Path(f"/proc/self/fd/{entered}/{name}").read_bytes() == content
        assert (path / "b").read_bytes() == b"b2"
        await second.apply(candidate(home, b"b3", 3))
        assert os.listdir(entered) == [], "only the newest sets are kept"
    finally:
        os.close(entered)
    (sets,) = home.directories.iterdir()
    assert len(list(sets.iterdir())) == limits.DIRECTORY_SETS


async def test_sets_are_dropped_a_while_after_they_were_replaced(home: Home, tmp_path: Path) -> None:
    target = DirectoryTarget(DirectorySpec(tmp_path / "srv", "x"), home, "a/b:active")
    for generation in range(1, 5):
        await target.apply(candidate(home, b"%d" % generation, generation))
    (sets,) = home.directories.iterdir()
    now_s = (sets / "4").stat().st_mtime
    for name, age_s in (("1", 900.0), ("2", 800.0), ("3", 10.0)):
        os.utime(sets / name, (now_s - age_s, now_s - age_s))
    await target.apply(candidate(home, b"5", 5))
    assert sorted(os.listdir(sets)) == ["2", "3", "4", "5"], "2 was in use until ten seconds ago"


class Crash(Exception):
    pass


def test_a_crash_at_any_operation_leaves_one_complete_set(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each system call that changes the disk is the last one of a life, once before it and once after."""
    links = LinkSet(home, tmp_path / "srv")
    contents = [candidate(home, data).content for data in (b"one", b"two")]
    links.change("other", contents[0])
    links.change("x", contents[0])
    whole = [{"other": contents[0], "x": content} for content in contents]
    shown, left = [], 0

    def around(operation: Callable[..., object], before: bool) -> Callable[..., object]:
        def run(*arguments: object, **named: object) -> object:
            nonlocal left
            left -= 1
            if left == 0 and before:
                raise Crash
            result = operation(*arguments, **named)
            if left == 0:
                raise Crash
            return result

        return run

    for before in (True, False):
        for at in range(1, 20):
            left = at
            with monkeypatch.context() as patched:
                for place, name in ((Path, "mkdir"), (Path, "symlink_to"), (os, "replace"), (files, "sync_directory")):
                    patched.setattr(place, name, around(getattr(place, name), before))
                try:
                    links.change("x", contents[1])
                except Crash:
                    pass
                else:
                    break
            assert links.entries() in whole
            shown.append(links.entries() == whole[1])
            links.change("x", contents[1])
            assert links.entries() == whole[1]
            links.change("x", contents[0])
        else:
            pytest.fail("a change should have fewer than 20 operations")
    assert any(shown)
    assert not all(shown)


# Commands


def exec_target(home: Home, command: str, **options: object) -> ExecTarget:
    return ExecTarget(ExecSpec(command, **options), home, WORKFLOW, "active")  # type: ignore[arg-type]


async def test_a_command_makes_it_live_and_is_told_everything(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REGISTRY_CORPUS", raising=False)
    live, told = tmp_path / "live", tmp_path / "told"
    command = (
        f'env | grep ^REGISTRY_ | sort > {told}; if [ "$REGISTRY_CONTENT" ]; then cat > {live}; else rm {live}; fi'
    )
    target = exec_target(home, command, stdin=True)
    wanted = candidate(home, b"one", 3)
    assert await target.shows(None)
    assert await target.apply(wanted) == DONE
    assert live.read_bytes() == b"one"
    assert told.read_text().splitlines() == [
        "REGISTRY_ACTION=install",
        f"REGISTRY_CONTENT={wanted.content}",
        f"REGISTRY_DIGEST={wanted.digest}",
        "REGISTRY_GENERATION=3",
        "REGISTRY_POINTER=active",
        "REGISTRY_REASON=why",
        "REGISTRY_SIZE_BYTES=3",
        "REGISTRY_VERSION=3",
        f"REGISTRY_WORKFLOW={WORKFLOW}",
    ]
    again = exec_target(home, command, stdin=True)
    assert await again.shows(wanted.digest), "kept over a restart"
    assert await again.apply(wanted._replace(force=True)) == DONE
    assert "REGISTRY_ACTION=revert" in told.read_text()
    assert await again.apply(None) == DONE
    assert "REGISTRY_ACTION=remove\nREGISTRY_CONTENT=\n" in told.read_text()
    assert not live.exists()
    assert await again.shows(None)


async def test_how_a_command_ends_decides(home: Home, tmp_path: Path) -> None:
    code = tmp_path / "code"
    target = exec_target(home, f"echo said so; exit $(cat {code})")
    one, two = candidate(home, b"one"), candidate(home, b"two", 2)
    code.write_text("0")
    await target.apply(one)
    code.write_text("75")
    applied = await target.apply(two)
    assert (applied.code, applied.later, applied.detail) == (Code.TARGET_FAILED, True, "exit code 75: said so")
    assert await target.shows(one.digest), "75 says that nothing was changed"
    code.write_text("3")
    applied = await target.apply(two)
    assert (applied.code, applied.later) == (Code.TARGET_FAILED, False)
    assert not await target.shows(one.digest), "nobody knows"
    assert not await target.shows(two.digest)
    assert not await target.shows(None)


async def test_a_command_that_is_cut_off_leaves_doubt(home: Home, tmp_path: Path) -> None:
    target = exec_target(home, f"touch {tmp_path}/started; sleep 100")
    wanted = candidate(home, b"one")
    applying = asyncio.create_task(target.apply(wanted))
    async with asyncio.timeout(10):
        while not (tmp_path / "started").exists():
            await asyncio.sleep(0.002)
    applying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await applying
    assert not await target.shows(None)
    late = await exec_target(home, "sleep 100", timeout_s=0.05).apply(wanted)
    assert (late.code, late.detail) == (Code.TARGET_FAILED, "not finished within 0.05 s, killed")


async def test_another_command_says_what_is_live(home: Home, tmp_path: Path) -> None:
    live = tmp_path / "live"
    shows = f'if [ -e {live} ]; then echo "it is sha256:$(sha256sum < {live} | cut -c1-64)"; fi'
    target = exec_target(home, f"cp -f $REGISTRY_CONTENT {live}", shows=shows)
    wanted = candidate(home, b"one")
    assert await target.shows(None)
    await target.apply(wanted)
    assert await target.shows(wanted.digest)
    live.chmod(0o644)
    live.write_text("changed by hand")
    assert not await target.shows(wanted.digest)
    assert not await exec_target(home, "true", shows="exit 1").shows(None)


async def test_a_damaged_note_of_what_was_done_is_doubt(home: Home) -> None:
    target = exec_target(home, "true")
    wanted = candidate(home, b"one")
    await target.apply(wanted)
    (home.directory / "targets" / WORKFLOW / "active.exec.json").write_bytes(b"{")
    assert not await target.shows(wanted.digest)
    assert await target.apply(wanted) == DONE
    assert await target.shows(wanted.digest)


# Mending at the start


def running(home: Home, target: str, data: bytes = b"one", **changes: object) -> Record:
    wanted = candidate(home, data)
    installed = of_target(structs.replace(instruction(), digest=wanted.digest, size_bytes=len(data)))
    record = Record(workflow=WORKFLOW, pointer="active", path=target, running=installed, last_good=installed)
    return structs.replace(record, **changes)


async def test_targets_are_brought_back_and_old_places_left(home: Home, tmp_path: Path) -> None:
    old = DirectorySpec(tmp_path / "old", "x")
    await DirectoryTarget(old, home, "").apply(candidate(home, b"one"))
    await DirectoryTarget(DirectorySpec(tmp_path / "old", "y"), home, "").apply(candidate(home, b"y"))
    spec = FollowSpec(WORKFLOW, "active", DirectorySpec(tmp_path / "new", "x"))
    target = DirectoryTarget(DirectorySpec(tmp_path / "new", "x"), home, "")
    record, damaged = await mend(running(home, old.place), spec, target, home, frozenset({spec.target.place}))
    assert (record.path, record.failure, damaged) == (str(tmp_path / "new" / "x"), None, None)
    assert (tmp_path / "new" / "x").read_bytes() == b"one"
    assert [entry.name for entry in (tmp_path / "old").iterdir()] == ["y"]


async def test_a_target_of_another_kind_is_given_what_runs(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "srv" / "x"
    await FileTarget(FileSpec(path), home, "").apply(candidate(home, b"one"))
    command = ExecSpec(f"cp $REGISTRY_CONTENT {tmp_path}/live")
    target = ExecTarget(command, home, WORKFLOW, "active")
    spec = FollowSpec(WORKFLOW, "active", command)
    record, _ = await mend(running(home, str(path)), spec, target, home, frozenset({command.place}))
    assert (tmp_path / "live").read_bytes() == b"one"
    assert not path.is_symlink()
    assert record.path == command.place


async def test_a_reason_that_no_environment_can_hold(home: Home, tmp_path: Path) -> None:
    target = exec_target(home, f'printf %s "$REGISTRY_REASON" > {tmp_path}/reason')
    for reason in ("a\0b", "x" * 200_000):
        assert await target.apply(candidate(home, b"one")._replace(reason=reason)) == DONE
        assert (tmp_path / "reason").read_text() == reason[:REASON_CHARS].replace("\0", " ")


async def test_a_command_that_no_process_can_be_given(home: Home) -> None:
    applied = await exec_target(home, "true\0").apply(candidate(home, b"one"))
    assert (applied.code, applied.detail) == (Code.TARGET_FAILED, "cannot be started: embedded null byte")


async def test_what_the_target_refuses_at_the_start_is_said(home: Home) -> None:
    target = exec_target(home, "exit 75")
    spec = FollowSpec(WORKFLOW, "active", ExecSpec("exit 75"))
    record, _ = await mend(running(home, "/gone"), spec, target, home, frozenset())
    assert record.failure is not None
    assert (record.failure.code, record.failure.later) == (Code.TARGET_FAILED, True)


async def test_a_version_whose_step_back_failed_is_not_given_again(home: Home, tmp_path: Path) -> None:
    target = exec_target(home, f"touch {tmp_path}/called")
    spec = FollowSpec(WORKFLOW, "active", ExecSpec("true"))
    await mend(running(home, "/gone", shown=True, state=State.IDLE), spec, target, home, frozenset())
    assert not (tmp_path / "called").exists()

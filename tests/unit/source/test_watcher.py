"""Beats of a watcher over real files, a clock in the hand of the test, and a registry in memory."""

from __future__ import annotations

import asyncio
import hashlib
import os
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from registry.client import Published
from registry.core import errors
from registry.core.errors import Invalid, Reason
from registry.source import limits
from registry.source.config import Source
from registry.source.home import Home
from registry.source.run import run_once
from registry.source.watcher import Event, Watcher


class Registry:
    """Takes effect once per request id, as the real one does. `outcomes`: what the next calls end with instead;
    `lost`: these calls take effect, and their answer does not arrive."""

    def __init__(self) -> None:
        self.versions: dict[str, list[bytes]] = {}
        self.calls: list[dict[str, Any]] = []
        self.outcomes: list[errors.RegistryError | None] = []
        self.lost = False
        self._done: dict[str, Published] = {}

    async def publish(self, workflow: str, content: bytes, *, request_id: str, **fields: Any) -> Published:
        self.calls.append({"workflow": workflow, "content": content, "request_id": request_id} | fields)
        if self.outcomes and (error := self.outcomes.pop(0)) is not None:
            raise error
        if request_id not in self._done:
            self._done[request_id] = self._store(workflow, content)
        if self.lost:
            raise errors.error(Reason.OUTCOME_UNKNOWN, "no answer")
        return self._done[request_id]

    def _store(self, workflow: str, content: bytes) -> Published:
        kept = self.versions.setdefault(workflow, [])
        created = not kept or kept[-1] != content
        if created:
            kept.append(content)
        return published(workflow, len(kept), content, created=created)


def published(workflow: str, number: int, content: bytes, *, created: bool) -> Published:
    digest = hashlib.sha256(content).hexdigest()
    return Published(
        workflow=workflow,
        number=number,
        digest=f"sha256:{digest}",
        value_digest=f"v1:{digest}",
        semantic_digest=f"s1:{digest}",
        kind="text",
        size_bytes=len(content),
        created=created,
    )


class Bench:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = Home(directory / "sources.toml")
        self.registry = Registry()
        self.now_s = 0.0
        self.events: list[Event] = []
        self._ids = count(1)
        self.sources: tuple[Source, ...] = ()
        self.start()

    def start(self) -> None:
        """As after a crash: only what is on the disk is left."""
        self.watcher = Watcher(
            self.home,
            self.registry.publish,
            host="here",
            clock=lambda: self.now_s,
            new_request_id=lambda: f"request-{next(self._ids)}",
            tell=self.events.append,
            stop=asyncio.Event(),
        )
        self.watcher.watch(self.sources)

    def watch(self, *sources: Source) -> None:
        self.sources = sources
        self.watcher.watch(sources)

    def write(self, name: str, data: bytes) -> None:
        (self.directory / name).write_bytes(data)

    async def pass_s(self, seconds: float) -> None:
        """Beats whenever there is something to do in the next `seconds`."""
        end_s = self.now_s + seconds
        while True:
            wait_s = await self.watcher.beat()
            if self.now_s + wait_s > end_s:
                self.now_s = end_s
                return
            self.now_s += wait_s

    def told(self) -> list[str]:
        names, self.events[:] = [event.event for event in self.events], []
        return names


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def a_file(bench: Bench, name: str = "triage.yml", workflow: str = "support/triage", **fields: Any) -> Source:
    return Source(path=str(bench.directory / name), workflow=workflow, every_s=60, **fields)


def a_directory(bench: Bench, glob: str = "*.yml") -> Source:
    (bench.directory / "flows").mkdir(exist_ok=True)
    return Source(path=str(bench.directory / "flows"), namespace="support", glob=glob, every_s=60)


async def test_a_changed_file_is_published_as_a_periodic_snapshot(bench):
    bench.write("triage.yml", b"one")
    bench.watch(a_file(bench, labels={"team": "support"}))
    await bench.pass_s(200)
    (call,) = bench.registry.calls
    assert call == {
        "workflow": "support/triage",
        "content": b"one",
        "request_id": "request-1",
        "snapshot": "periodic",
        "message": f"changed on here: {bench.directory}/triage.yml",
        "labels": {"team": "support"},
    }
    bench.write("triage.yml", b"two")
    await bench.pass_s(60)
    assert bench.registry.versions == {"support/triage": [b"one", b"two"]}
    assert bench.told() == ["published", "published"]


async def test_a_change_is_seen_when_the_source_is_due_and_not_before(bench):
    bench.write("triage.yml", b"one")
    bench.watch(a_file(bench))
    await bench.pass_s(10)
    bench.write("triage.yml", b"two")
    await bench.pass_s(49)
    assert len(bench.registry.calls) == 1
    await bench.pass_s(3)
    assert len(bench.registry.calls) == 2


async def test_an_unchanged_file_costs_no_call_also_after_a_restart_or_a_touch(bench):
    bench.write("triage.yml", b"one")
    bench.watch(a_file(bench))
    await bench.pass_s(100)
    bench.start()
    await bench.pass_s(100)
    os.utime(bench.directory / "triage.yml", ns=(1, 1))
    await bench.pass_s(100)
    assert len(bench.registry.calls) == 1
    assert bench.told() == ["published"]


async def test_a_file_without_news_is_not_even_read(bench, monkeypatch):
    bench.write("triage.yml", b"one")
    bench.watch(a_file(bench))
    await bench.pass_s(100)
    looks: list[str] = []
    monkeypatch.setattr("registry.source.files.look", looks.append)
    await bench.pass_s(1000)
    assert looks == []


async def test_a_half_written_file_is_not_published(bench):
    bench.watch(a_file(bench))
    bench.write("triage.yml", b"on")
    await bench.watcher.beat()
    bench.now_s += limits.SETTLE_S
    bench.write("triage.yml", b"one")
    await bench.watcher.beat()
    assert bench.registry.calls == []
    await bench.pass_s(5)
    assert bench.registry.versions == {"support/triage": [b"one"]}


async def test_a_file_that_is_written_on_and_on_is_said_once_and_left_until_it_is_due(bench):
    bench.watch(a_file(bench))
    for number in range(200):
        bench.write("triage.yml", b"%d" % number)
        bench.now_s += await bench.watcher.beat()
    assert bench.registry.calls == []
    assert bench.told() == ["problem"]
    await bench.pass_s(100)
    assert bench.registry.versions == {"support/triage": [b"199"]}


async def test_a_crash_between_publish_and_note_repeats_the_same_request(bench, monkeypatch):
    bench.write("triage.yml", b"one")
    bench.watch(a_file(bench))
    saves = count(1)
    save = bench.home.save

    def die_after_the_first(notes):
        if next(saves) > 1:
            raise KeyboardInterrupt
        save(notes)

    monkeypatch.setattr(bench.home, "save", die_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        await bench.pass_s(10)
    monkeypatch.undo()
    bench.registry.versions["support/triage"].append(b"published by somebody else meanwhile")
    bench.start()
    await bench.pass_s(10)
    assert [call["request_id"] for call in bench.registry.calls] == ["request-1", "request-1"]
    assert bench.registry.versions["support/triage"] == [b"one", b"published by somebody else meanwhile"]


async def test_nothing_is_asked_for_before_its_request_id_is_on_the_disk(bench, monkeypatch):
    bench.write("triage.yml", b"one")
    bench.watch(a_file(bench))

    def full(_notes):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bench.home, "save", full)
    with pytest.raises(OSError, match="No space"):
        await bench.pass_s(10)
    assert bench.registry.calls == []


async def test_without_an_outcome_the_same_request_is_repeated_less_and_less_often(bench):
    bench.write("triage.yml", b"one")
    bench.watch(a_file(bench))
    bench.registry.lost = True
    await bench.pass_s(100)
    assert 4 <= len(bench.registry.calls) <= 6
    bench.registry.outcomes = [errors.error(Reason.NO_QUORUM, "no majority")]
    await bench.pass_s(300)
    bench.registry.lost = False
    await bench.pass_s(1000)
    assert {call["request_id"] for call in bench.registry.calls} == {"request-1"}
    assert bench.registry.versions == {"support/triage": [b"one"]}
    assert bench.told() == ["waits", "waits", "waits", "published"]  # unknown, no majority, unknown


async def test_a_full_registry_is_asked_again_until_it_has_space(bench):
    bench.write("triage.yml", b"one")
    bench.watch(a_file(bench))
    bench.registry.outcomes = [errors.error(Reason.NO_SPACE, "full")] * 5
    await bench.pass_s(1000)
    assert bench.told() == ["waits", "published"]


async def test_a_request_id_that_was_forgotten_is_replaced(bench):
    bench.write("triage.yml", b"one")
    bench.watch(a_file(bench))
    bench.registry.outcomes = [errors.error(Reason.REQUEST_EXPIRED, "too old")]
    await bench.pass_s(100)
    assert [call["request_id"] for call in bench.registry.calls] == ["request-1", "request-2"]
    assert bench.told() == ["waits", "published"]


async def test_a_refusal_is_said_once_and_not_asked_again_until_the_bytes_change(bench):
    bench.write("triage.yml", b"bad")
    bench.watch(a_file(bench))
    bench.registry.outcomes = [errors.error(Reason.SECRETS_FOUND, "a secret")]
    await bench.pass_s(1000)
    os.utime(bench.directory / "triage.yml", ns=(1, 1))
    await bench.pass_s(1000)
    bench.start()
    await bench.pass_s(1000)
    assert len(bench.registry.calls) == 1
    bench.write("triage.yml", b"good")
    await bench.pass_s(100)
    assert bench.registry.versions == {"support/triage": [b"good"]}
    assert bench.registry.calls[1]["request_id"] != bench.registry.calls[0]["request_id"]
    assert bench.told() == ["refused", "published"]


async def test_a_file_that_is_too_large_is_refused_without_a_call(bench, monkeypatch):
    monkeypatch.setattr(limits, "FILE_BYTES", 3)
    bench.write("triage.yml", b"four")
    bench.watch(a_file(bench))
    await bench.pass_s(1000)
    assert bench.registry.calls == []
    (event,) = bench.events
    assert (event.event, event.reason) == ("refused", "TOO_LARGE")
    assert "larger than 3 bytes" in event.text


async def test_bytes_that_change_between_look_and_publish_settle_anew(bench, monkeypatch):
    bench.write("triage.yml", b"one")
    bench.watch(a_file(bench))
    save = bench.home.save

    def written_meanwhile(notes):
        save(notes)
        monkeypatch.undo()
        bench.write("triage.yml", b"two")

    monkeypatch.setattr(bench.home, "save", written_meanwhile)
    await bench.pass_s(10)
    assert bench.registry.versions == {"support/triage": [b"two"]}
    assert len(bench.registry.calls) == 1


async def test_a_file_that_goes_back_while_an_outcome_is_unknown_is_published_again(bench):
    bench.write("triage.yml", b"one")
    bench.watch(a_file(bench))
    await bench.pass_s(100)
    bench.write("triage.yml", b"two")
    bench.registry.lost = True
    await bench.pass_s(60)
    bench.registry.lost = False
    bench.write("triage.yml", b"one")
    await bench.pass_s(1000)
    assert bench.registry.versions == {"support/triage": [b"one", b"two", b"one"]}


async def test_a_symlink_that_goes_back_while_an_outcome_is_unknown_is_published_again(bench):
    """The file it names then is untouched: it has the stamp that was noted."""
    bench.write("v1", b"one")
    bench.write("v2", b"two")
    link = bench.directory / "triage.yml"
    link.symlink_to("v1")
    bench.watch(a_file(bench))
    await bench.pass_s(100)
    link.unlink()
    link.symlink_to("v2")
    bench.registry.lost = True
    await bench.pass_s(60)
    link.unlink()
    link.symlink_to("v1")
    bench.registry.lost = False
    bench.start()
    await bench.pass_s(1000)
    assert bench.registry.versions == {"support/triage": [b"one", b"two", b"one"]}


async def test_a_deleted_file_publishes_nothing_and_is_said_once(bench):
    bench.write("triage.yml", b"one")
    bench.watch(a_file(bench))
    await bench.pass_s(100)
    (bench.directory / "triage.yml").unlink()
    await bench.pass_s(1000)
    bench.start()
    await bench.pass_s(1000)
    assert bench.told() == ["published", "gone"]
    bench.write("triage.yml", b"one")
    await bench.pass_s(100)
    assert len(bench.registry.calls) == 1
    bench.write("triage.yml", b"two")
    await bench.pass_s(100)
    assert bench.registry.versions == {"support/triage": [b"one", b"two"]}
    (bench.directory / "triage.yml").unlink()
    await bench.pass_s(100)
    assert bench.told() == ["published", "gone"]


async def test_a_file_that_is_not_there_yet_is_said_once_and_published_when_it_comes(bench):
    bench.watch(a_file(bench))
    await bench.pass_s(1000)
    bench.write("triage.yml", b"one")
    await bench.pass_s(100)
    assert bench.told() == ["problem", "published"]


async def test_a_swapped_symlink_is_followed(bench):
    bench.write("v1", b"one")
    bench.write("v2", b"two")
    link = bench.directory / "triage.yml"
    link.symlink_to("v1")
    bench.watch(a_file(bench))
    await bench.pass_s(100)
    (bench.directory / "new").symlink_to("v2")
    (bench.directory / "new").replace(link)
    await bench.pass_s(100)
    assert bench.registry.versions == {"support/triage": [b"one", b"two"]}


async def test_every_matching_file_of_a_directory_is_a_workflow(bench):
    bench.watch(a_directory(bench), a_file(bench, "flows/triage.yml"))
    for name in ("a.yml", "b.yml", "c.txt", "no name.yml", "triage.yml"):
        bench.write(f"flows/{name}", name.encode())
    await bench.pass_s(1000)
    assert bench.registry.versions == {
        "support/a": [b"a.yml"],
        "support/b": [b"b.yml"],
        "support/triage": [b"triage.yml"],
    }
    assert sorted(bench.told()) == ["problem", "problem", *["published"] * 3]  # no name; a source of its own
    (bench.directory / "flows" / "a.yml").unlink()
    await bench.pass_s(200)
    assert bench.told() == ["gone"]


async def test_a_directory_that_has_too_many_files_for_a_while_loses_none(bench, monkeypatch):
    monkeypatch.setattr(limits, "FILES", 2)
    bench.watch(a_directory(bench))
    for name in ("a", "b"):
        bench.write(f"flows/{name}.yml", b"one")
    await bench.pass_s(100)
    for number in range(50):
        bench.write(f"flows/{number}.yml", b"too many")
    await bench.pass_s(200)
    for number in range(50):
        (bench.directory / "flows" / f"{number}.yml").unlink()
    await bench.pass_s(200)
    assert bench.told() == ["published", "published", "problem"]
    assert len(bench.registry.calls) == 2


async def test_a_file_that_another_one_competes_with_is_not_gone(bench):
    bench.watch(a_directory(bench, "*"))
    bench.write("flows/a.yml", b"one")
    await bench.pass_s(100)
    bench.write("flows/a.json", b"other")
    await bench.pass_s(100)
    assert bench.told() == ["published", "problem"]
    (bench.directory / "flows" / "a.json").unlink()
    await bench.pass_s(100)
    assert (bench.told(), len(bench.registry.calls)) == ([], 1)


async def test_a_directory_that_vanishes_ends_nothing_and_is_said_once(bench):
    bench.watch(a_directory(bench), a_file(bench))
    bench.write("flows/a.yml", b"one")
    await bench.pass_s(100)
    (bench.directory / "flows").rename(bench.directory / "away")
    bench.write("triage.yml", b"other")
    await bench.pass_s(1000)
    (bench.directory / "away").rename(bench.directory / "flows")
    await bench.pass_s(1000)
    assert bench.registry.versions == {"support/a": [b"one"], "support/triage": [b"other"]}
    assert len(bench.registry.calls) == 2
    assert bench.told() == ["problem", "published", "problem", "published"]


async def test_a_file_that_cannot_be_read_is_said_once_and_does_not_stop_the_others(bench):
    bench.watch(a_directory(bench))
    os.mkfifo(bench.directory / "flows" / "a.yml")
    bench.write("flows/b.yml", b"one")
    await bench.pass_s(1000)
    assert bench.registry.versions == {"support/b": [b"one"]}
    assert sorted(bench.told()) == ["problem", "published"]


async def test_one_content_that_finds_no_outcome_does_not_hold_up_the_others(bench):
    bench.watch(a_directory(bench))
    for name in "abc":
        bench.write(f"flows/{name}.yml", name.encode())
    bench.registry.outcomes = [errors.error(Reason.BUSY, "not in time")]
    await bench.pass_s(4)
    assert sorted(bench.registry.versions) == ["support/b", "support/c"]


async def test_more_files_than_one_batch_are_all_published(bench, monkeypatch):
    monkeypatch.setattr(limits, "BATCH", 3)
    bench.watch(a_directory(bench))
    for number in range(10):
        bench.write(f"flows/{number}.yml", b"x")
    await bench.pass_s(10)
    assert len(bench.registry.versions) == len(bench.registry.calls) == 10


async def test_sources_change_while_it_runs(bench):
    bench.write("triage.yml", b"one")
    bench.watch(a_file(bench))
    await bench.pass_s(10)
    bench.write("answer.yml", b"two")
    bench.watch(a_file(bench), a_file(bench, "answer.yml", "support/answer"))
    await bench.pass_s(5)
    assert sorted(bench.registry.versions) == ["support/answer", "support/triage"]
    bench.watch(a_file(bench, "answer.yml", "support/answer"))
    bench.write("triage.yml", b"three")
    bench.write("answer.yml", b"four")
    await bench.pass_s(100)
    assert bench.registry.versions["support/triage"] == [b"one"]
    assert bench.registry.versions["support/answer"] == [b"two", b"four"]
    assert list(bench.home.notes()) == ["support/answer"]


async def test_stopping_ends_after_the_publish_it_is_at_and_the_rest_is_done_next_time(bench):
    bench.watch(a_directory(bench))
    for name in "abc":
        bench.write(f"flows/{name}.yml", name.encode())

    async def stop_after_one(*arguments: Any, **fields: Any) -> Published:
        bench.watcher.stop.set()
        return await bench.registry.publish(*arguments, **fields)

    bench.watcher._publish = stop_after_one
    await bench.pass_s(10)
    assert len(bench.registry.calls) == 1
    bench.start()
    await bench.pass_s(10)
    assert len(bench.registry.calls) == 3
    assert len(bench.registry.versions) == 3


async def test_a_damaged_note_says_what_to_do(bench):
    bench.home.state.write_bytes(b'{"format": 1')
    with pytest.raises(Invalid, match=r"sources.state.json cannot be read.*; remove it"):
        bench.start()


async def test_a_run_once_gives_up_when_the_registry_cannot_be_reached(bench, monkeypatch):
    monkeypatch.setattr(limits, "SETTLE_S", 0.0)
    monkeypatch.setattr(limits, "BEAT_MIN_S", 0.0)
    flows = bench.directory / "flows"
    flows.mkdir()
    bench.home.file.write_text(f'[[source]]\nnamespace = "support"\npath = "{flows}"\n')
    for number in range(10):
        bench.write(f"flows/{number}.yml", b"x")
    bench.registry.outcomes = [errors.error(Reason.NO_MEMBER, "down")] * 10
    await run_once(bench.watcher, bench.home)
    assert len(bench.registry.calls) == limits.ONCE_WAITING
    assert bench.watcher.failure.reason is Reason.NO_MEMBER

"""A worker's side of what its member tells: over the member's file, in this process's own words."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import journal
from cluster.kv.lmdb_env import LmdbEnvironment
from registry.core.errors import Unavailable
from registry.core.model import Registry
from registry.server import limits
from registry.server.api_port import StartError
from registry.server.config import build
from registry.server.feed import PointerKey
from registry.server.identity import DATABASE
from registry.server.inspector import Inspector
from registry.server.rpc import not_admitted
from registry.server.worker import Serving, Worker
from registry.server.workers import messages as m
from registry.server.workers.link import Link
from registry.server.workers.remote import failure_of
from registry.server.workers.setup import RELEASE, decode_config, encode_config
from registry.store import tables
from tests.unit.server.workers.kit import STATE, STATUS


class Heard(Link[m.Down]):
    """What the worker says."""

    def __init__(self) -> None:
        super().__init__(m.decode_down, lambda _: None, lambda _: None)
        self.said: list[object] = []

    def send(self, message: object) -> None:
        self.said.append(message)

    tell = send


@pytest.fixture
def hello(tmp_path: Path) -> m.Hello:
    LmdbEnvironment(tmp_path / DATABASE, (*tables.TABLES, *journal.TABLES)).close()
    config = build(
        name="n1",
        data_dir=str(tmp_path),
        listen="127.0.0.1:0",
        peer_listen="127.0.0.1:1",
        http_listen="127.0.0.1:0",
        workers=1,
    )
    assert decode_config(encode_config(config)) == config
    return m.Hello(RELEASE, encode_config(config), "1.v3", Registry(cluster_id="c", revision=3), STATE)


async def test_readiness_is_that_of_the_member_while_it_is_heard(
    hello: m.Hello, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = Serving(hello, Heard(), Inspector())
    assert serving.unready_because == ""
    serving.hear(m.State(STATUS, "", "no leader is known", None))
    assert serving.unready_because == "no leader is known"
    serving.hear(STATE)
    monkeypatch.setattr(limits, "MEMBER_SILENT_S", 0.0)
    assert serving.unready_because.startswith("the member's process was not heard")
    assert serving._livez().status == 503


async def test_calls_are_refused_with_what_the_member_says(hello: m.Hello) -> None:
    serving = Serving(hello, Heard(), Inspector())
    serving._rpc.check("GetPointer")
    serving.hear(replace_held(failure_of(not_admitted())))
    with pytest.raises(Unavailable) as held:
        serving._rpc.check("GetPointer")
    assert (held.value.reason, held.value.hint) == (not_admitted().reason, not_admitted().hint)
    serving._rpc.check("GetStatus")
    serving.hear(STATE)
    serving._rpc.check("GetPointer")


def replace_held(held: m.Failure) -> m.State:
    return m.State(replace(STATUS, role="waiting"), "", "waiting", held)


async def test_news_reach_those_who_wait(hello: m.Hello) -> None:
    serving = Serving(hello, Heard(), Inspector())
    moved: list[list[PointerKey] | None] = []
    serving._feed.follow(lambda touched: moved.append(None if touched is None else list(touched)))
    waiting = asyncio.ensure_future(serving._feed.revision(5, 5.0))
    await asyncio.sleep(0)
    serving.hear(m.Commit(Registry(cluster_id="c", revision=4), [], []))
    serving.hear(m.Commit(Registry(cluster_id="c", revision=5), [("a/b", "active")], [("a/b", "active", ["edge-1"])]))
    assert await waiting
    serving.hear(m.Commit(Registry(cluster_id="c", revision=9, epoch=2), None, None))
    assert moved == [[("a/b", "active")], None]
    assert serving._feed.registry.revision == 9


async def test_damage_is_told_to_the_member(hello: m.Hello) -> None:
    heard = Heard()
    serving = Serving(hello, heard, Inspector())
    serving._rpc._repairs.note("table versions, key 1: its checksum is another one")
    assert heard.said == [m.Damage("table versions, key 1: its checksum is another one")]


async def test_another_release_does_not_serve(hello: m.Hello) -> None:
    worker = Worker(Inspector())
    hello.release = "0.0.9"
    with pytest.raises(StartError, match=r"the member runs release 0\.0\.9, installed is"):
        worker._greeted(hello)


async def test_what_was_purged_leaves_the_memory(hello: m.Hello) -> None:
    serving = Serving(hello, Heard(), Inspector())
    hot = serving.parts.reads.contents._hot
    hot.put("sha256:1", b"a key")
    serving.hear(m.Purged())
    assert hot.get("sha256:1") is None

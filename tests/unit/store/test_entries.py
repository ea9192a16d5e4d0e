"""Entries of many commands, applied as a member does it: what is written, kept and answered stays the same to the byte.

Members of two releases apply alike. The commands are those of the tests of levels, and a load between them that is
accepted: pointers that move again within one entry, policies that change within one, rollbacks, reports of agents.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from cluster.digest import Recorder
from cluster.kv.lmdb_env import LmdbEnvironment
from registry.core import commands, machine, outcomes, request_ids
from registry.core.commands import Ack, Acknowledge, Contact, Move, Publish, SetPolicy, Switch
from registry.core.model import Content
from registry.store.state import StoreState
from registry.store.tables import TABLES
from tests.unit.core import test_levels

LOAD = 1200
START_MS = 1_900_000_000_000
REQUESTS_REMEMBERED = 300
# Of all writes, entry by entry; of all rows in the end; of all outcomes. Where test_levels has a new one for level 2,
# this one has it too.
APPLIED = {
    1: ("1ab15e2d45e05debae448f0517143bc1", "8b55984c803801a65bd885b19ed6b428", "80570ef9782d70ff0c6d91fa5b893d4b"),
    2: ("2586bb926dced7b16638d68c93b91360", "7d7bf585fb17bdbc3da4cc97a8272362", "639e383c230a28af906086e19d40cd17"),
}


def a_load() -> Iterator[bytes]:
    rng = random.Random(4)
    for number in range(LOAD):
        about: dict[str, Any] = {
            "request_id": request_ids.make(START_MS + number, number.to_bytes(10, "big")),
            "time_ms": START_MS + number,
        }
        workflow = f"load/w{rng.randrange(12)}"
        asked = about | {"principal": "ada"}
        yield commands.encode(
            a_publish(asked, f"load/w{number}" if number < 12 else workflow, b"%d" % number)
            if number < 12 or rng.random() < 0.1
            else a_report(rng, about, workflow)
            if rng.random() < 0.1
            else a_policy(rng, asked, workflow)
            if rng.random() < 0.1
            else a_switch(rng, asked, workflow)
        )


def a_publish(asked: dict[str, Any], workflow: str, data: bytes) -> Publish:
    return Publish(
        **asked,
        workflow=workflow,
        kind="json",
        digest=test_levels.digest_of(data),
        value_digest=test_levels.digest_of(b"value" + data),
        semantic_digest=f"s1:{data.decode()}",
        content=Content(encoding="raw", data=data, size_bytes=len(data)),
        labels={"team": "Ä", "Z": "x", "a": "y"},
        facts={"nodes": "3", "mode": "chat", "n8n_id": "7"},
        secrets={"key": "k1:0", "Key": "k1:1"},
    )


def a_report(rng: random.Random, about: dict[str, Any], workflow: str) -> Acknowledge:
    ack = Ack(
        agent=f"edge-{rng.randrange(4)}", incarnation="i", sequence=rng.randrange(100), workflow=workflow,
        pointer="active", generation=rng.randrange(9), phase="confirmed", labels={"z": "1", "a": "2"},
    )  # fmt: skip
    contact = Contact(agent=ack.agent, time_ms=rng.randrange(100), session=rng.choice(["", "s1", "s2"]))
    return Acknowledge(**about, acks=(ack,), contacts=(contact,))


def a_policy(rng: random.Random, asked: dict[str, Any], workflow: str) -> SetPolicy:
    scope = rng.choice(["*", "load/*", workflow])
    fields = {"verdict": rng.choice(["", "warn", "block", "block"]), "unchanged": rng.choice(["", "warn", "refuse"])}
    return SetPolicy(**asked, scope=scope, fields=fields, reason="because")


def a_switch(rng: random.Random, asked: dict[str, Any], workflow: str) -> Switch:
    is_rollback, names = rng.random() < 0.1, [workflow]
    if rng.random() < 0.1:
        names = [f"load/w{number}" for number in rng.sample(range(12), 3)]
    moves = tuple(
        Move(
            workflow=name,
            pointer=rng.choice(["active", "active", "canary"]),
            target=rng.choice([0, 1]) if is_rollback else rng.choice([1, 1, 2, 3]),
            reference=rng.choice(["", "semver:1"]),
            expected_generation=rng.choice([None, None, None, rng.randrange(5)]),
            verdict=rng.choice(["", "ok", "warn"]),
            verdict_from=rng.choice([0, 1]),
        )
        for name in names
    )
    return Switch(
        **asked,
        moves=moves,
        reason="weil es schöner ist",
        rollback=is_rollback,
        force=rng.random() < 0.2,
        keep_status=rng.random() < 0.5,
        deadline_ms=5 if not is_rollback and rng.random() < 0.2 else 0,
    )


def applied(log: Iterator[bytes], level: int, path: Path) -> tuple[tuple[str, str, str], Counter[str]]:
    environment = LmdbEnvironment(path, TABLES, map_size_bytes=1 << 28)
    rng, seen = random.Random(5), Counter[str]()
    written, decided, kept = b"", blake2b(digest_size=16), blake2b(digest_size=16)
    while entry := [*islice(log, rng.choice([1, 2, 7, 64, 300]))]:
        recorder = Recorder(environment.transaction(), written)
        for command in entry:
            outcome = machine.apply(
                StoreState(recorder, level=level),
                commands.decode(command),
                level=level,
                requests_remembered=REQUESTS_REMEMBERED,
            )
            decided.update(outcomes.encode(outcome))
            seen[outcome.reason if isinstance(outcome, outcomes.Rejected) else type(outcome).__name__] += 1
        written = recorder.digest()
        environment.commit()
    with environment.snapshot() as reader:
        for table in TABLES:
            for key, row in reader.scan(table):
                kept.update(b"%s %d %d " % (table.encode(), len(key), len(row)) + key + row)
    environment.close()
    return (written.hex(), kept.hexdigest(), decided.hexdigest()), seen


@pytest.mark.parametrize("level", APPLIED)
def test_what_entries_write_and_decide_stays_the_same(level: int, tmp_path: Path) -> None:
    levels = test_levels.a_log() if level < 2 else test_levels.a_log_of_level_2()
    found, seen = applied((command for log in (levels, a_load()) for command in log), level, tmp_path / "db")
    assert found == APPLIED[level]
    assert min(seen[kind] for kind in ("Published", "Switched", "Acknowledged", "GENERATION_MISMATCH")) > 50
    assert {"NO_ROLLBACK_TARGET", "VERSION_NOT_FOUND"} <= set(seen)
    assert level < 2 or seen["PolicySet"] > 50

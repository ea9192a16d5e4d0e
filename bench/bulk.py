"""Much data in a stopped cluster, the same for every founder, without a call for each row.

The rows are real: commands in log entries, applied by the product's own code. Only the Raft messages are left out.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable

from cluster import entries, journal
from cluster.digest import Recorder
from cluster.journal import Journal
from cluster.kv.lmdb_env import LmdbEnvironment
from registry.cli.local_cluster import LocalCluster
from registry.core import commands, limits, machine, outcomes, request_ids
from registry.core.model import Content
from registry.server.identity import DATABASE
from registry.store import tables
from registry.store.state import StoreState

CONTENT_BYTES = 64 * 1024
COMMIT_ENTRIES = 20_000  # small ones
COMMIT_CONTENTS = 64
KEPT_ENTRIES = 100  # of the log behind the contents: whoever needs more fetches the state


def load_founders(cluster: LocalCluster, load: Callable[[LmdbEnvironment], None]) -> None:
    """Change the database of one founder of a stopped cluster and copy it to the others. Term, vote and log are
    copied along, so none of them contradicts another."""
    first, *others = cluster.members.values()
    environment = LmdbEnvironment(first.data_dir / DATABASE, (*tables.TABLES, *journal.TABLES))
    load(environment)
    environment.close()
    for other in others:
        shutil.rmtree(other.data_dir / DATABASE)
        shutil.copytree(first.data_dir / DATABASE, other.data_dir / DATABASE, copy_function=_copy)


def _copy(source: str, target: str) -> None:
    """Synced: else the kernel writes it back for a minute, and every sync of what is measured waits behind that."""
    shutil.copy2(source, target)
    with open(target, "rb") as file:
        os.fsync(file.fileno())


def publish_contents(environment: LmdbEnvironment, size_bytes: int) -> None:
    """Versions with contents that do not compress, of `size_bytes` together, and a log trimmed behind them."""
    log = Journal(environment)
    for number in range(size_bytes // CONTENT_BYTES):
        command = commands.encode(_publish(f"bulk/w{number % 16}", os.urandom(CONTENT_BYTES)))
        index = log.last + 1
        log.add(entries.pack([command]), index, log.term_at(log.last))
        recorder = Recorder(environment.transaction(), log.digest)
        machine.apply(
            StoreState(recorder, level=limits.FEATURE_LEVEL), commands.decode(command), level=limits.FEATURE_LEVEL
        )
        log.set_applied(index, recorder.digest())
        if number % COMMIT_CONTENTS == COMMIT_CONTENTS - 1:
            log.trim(KEPT_ENTRIES, 2**62, COMMIT_CONTENTS, 2**62)
            environment.commit()
    environment.commit()


def publish_versions(environment: LmdbEnvironment, workflows: int, each: int, switches: int = 1) -> None:
    """`each` small versions of so many workflows, and of each so many switches, one after the other to the last of
    these versions; a log trimmed behind them."""
    log = Journal(environment)
    for number in range(workflows):
        name = f"bulk/w{number:05}"
        batch: list[commands.Command] = [
            _publish(name, b'{"workflow": %d, "version": %d}' % (number, version), "json")
            for version in range(1, each + 1)
        ]
        batch += [_switch(target, name) for target in range(each - switches + 1, each + 1)]
        index = log.last + 1
        log.add(entries.pack([commands.encode(command) for command in batch]), index, log.term_at(log.last))
        recorder = Recorder(environment.transaction(), log.digest)
        for command in batch:
            machine.apply(StoreState(recorder, level=limits.FEATURE_LEVEL), command, level=limits.FEATURE_LEVEL)
        log.set_applied(index, recorder.digest())
        if number % COMMIT_CONTENTS == COMMIT_CONTENTS - 1:
            log.trim(KEPT_ENTRIES, 2**62, COMMIT_CONTENTS, 2**62)
            environment.commit()
    _index(environment, log)


def _index(environment: LmdbEnvironment, log: Journal) -> None:
    """As a leader has done it some time after a start, if members of an older release were there before."""
    done = False
    while not done:
        request_id, now_ms = _request()
        command = commands.Index(request_id=request_id, time_ms=now_ms)
        index = log.last + 1
        log.add(entries.pack([commands.encode(command)]), index, log.term_at(log.last))
        recorder = Recorder(environment.transaction(), log.digest)
        outcome = machine.apply(StoreState(recorder, level=limits.FEATURE_LEVEL), command, level=limits.FEATURE_LEVEL)
        log.set_applied(index, recorder.digest())
        environment.commit()
        assert isinstance(outcome, outcomes.Indexed)
        done = outcome.done


def append_entries(environment: LmdbEnvironment, count: int) -> None:
    """Entries of one switch each, as if they were applied already; nothing but the log is longer for them."""
    log = Journal(environment)
    term = log.term_at(log.last)
    for number in range(count):
        log.add(entries.pack([commands.encode(_switch(1 + number % 2))]), log.last + 1, term)
        if number % COMMIT_ENTRIES == COMMIT_ENTRIES - 1:
            environment.commit()
    log.set_applied(log.last, log.digest)
    environment.commit()


def _request() -> tuple[str, int]:
    now_ms = time.time_ns() // 1_000_000
    return request_ids.make(now_ms, os.urandom(request_ids.RANDOM_BYTES)), now_ms


def _publish(workflow: str, data: bytes, kind: str = "binary") -> commands.Publish:
    request_id, now_ms = _request()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return commands.Publish(
        request_id=request_id,
        time_ms=now_ms,
        principal="bench",
        workflow=workflow,
        kind=kind,
        digest=digest,
        value_digest=digest,
        semantic_digest=digest,
        content=Content(encoding="raw", data=data, size_bytes=len(data)),
    )


def _switch(target: int, workflow: str = "bench/target") -> commands.Switch:
    request_id, now_ms = _request()
    move = commands.Move(workflow=workflow, pointer="active", target=target)
    return commands.Switch(request_id=request_id, time_ms=now_ms, principal="bench", moves=(move,), reason="bench")

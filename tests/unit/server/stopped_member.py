"""The data directory of a member that was stopped, written as a member writes it."""

from __future__ import annotations

from pathlib import Path

from cluster import entries
from cluster.configuration import Configuration, MemberRecord
from cluster.journal import Journal
from cluster.kv.api import Environment
from cluster.kv.lmdb_env import LmdbEnvironment
from registry.core import commands
from registry.core.limits import FEATURE_LEVEL
from registry.core.model import Registry
from registry.server.disaster import TABLES
from registry.server.feed import Feed
from registry.server.identity import DATABASE, DataDirectory, Identity
from registry.server.state_machine import RegistryStateMachine
from tests.unit.core.kit import Machine

CONTENTS = (b'{"a": 1}', b'{"a": 2}' * 20_000)  # the second is longer than a chunk


def configured(**changes: object) -> Configuration:
    members = tuple(
        MemberRecord(id=name, name=name, incarnation=f"of {name}", peer_address=f"127.0.0.1:{port}")
        for name, port in (("n1", 1), ("n2", 2), ("n3", 3))
    )
    return Configuration(**({"cluster": "old", "members": members} | changes))  # type: ignore[arg-type]


def fill(environment: Environment, configuration: Configuration, *, unapplied: int = 1) -> None:
    """Found, publish and switch, applied; and further entries that nobody knows to be committed."""
    kit = Machine()  # makes commands
    log = Journal(environment, configuration)
    log.add(entries.NO_OP, 1, 0)
    state_machine = RegistryStateMachine(Feed(Registry()), environment)
    made: list[commands.Command] = [commands.Found(request_id=kit.request_id(), time_ms=1, cluster_id="c1")]
    made += [kit.publish_command(content) for content in CONTENTS]
    for command in made:
        log.add(entries.pack([commands.encode(command)]), log.last + 1, 4)
        state_machine.apply(environment.transaction(), commands.encode(command), FEATURE_LEVEL)
        log.set_applied(log.last, b"digest")
    for _ in range(unapplied):
        log.add(entries.NO_OP, log.last + 1, 5)
    environment.commit()


def stopped(path: Path, configuration: Configuration | None = None, *, name: str = "n1", unapplied: int = 1) -> Path:
    """Of a founder of three, unless told otherwise."""
    directory = DataDirectory(path)
    directory.give(Identity(name=name, incarnation=f"of {name}", founding={"n1": "127.0.0.1:1", "n2": "127.0.0.1:2"}))
    environment = LmdbEnvironment(path / DATABASE, TABLES)
    fill(environment, configuration or configured(), unapplied=unapplied)
    environment.close()
    directory.close()
    return path

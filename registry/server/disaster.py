"""When the majority or everything is lost: restoring a backup, and making a lone survivor the whole cluster. Offline.

Both end in a data directory whose member is the only voter of a cluster with the same id, one epoch on. The epoch is
begun by a command in its log, so that whoever joins hears of it, and agents resynchronise.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster import configuration, journal
from cluster.configuration import MemberRecord
from cluster.handshake import split_address
from cluster.journal import Journal
from cluster.kv.api import Environment
from cluster.kv.lmdb_env import LmdbEnvironment, holds_data
from cluster.refound import RefoundError, load, refound
from cluster.snapshot import SnapshotError
from registry.core import commands, request_ids, validation
from registry.core.errors import Invalid
from registry.core.model import EpochCause, Registry
from registry.server import backup
from registry.server.backup import About
from registry.server.identity import DATABASE, FILE, LOCK, UNFINISHED, DataDirectory, Identity, IdentityError
from registry.server.limits import ANSWER_S
from registry.store import queries, tables

TABLES = (*tables.TABLES, *journal.TABLES)


class DisasterError(Exception):
    """What is in the way, what was left as it was, what to do."""


@dataclass(frozen=True)
class Doing:
    """Who does it, when and why, for the history."""

    principal: str
    reason: str
    time_ms: int
    at_least: int = 0  # the epoch to begin, where the next one may have been seen already

    def epoch_after(self, epoch: int) -> int:
        return max(epoch + 1, self.at_least)

    def begin_epoch(self, cause: EpochCause) -> bytes:
        """Raises Invalid: there is no reason, or one too long."""
        request_id = request_ids.make(self.time_ms, os.urandom(request_ids.RANDOM_BYTES))
        command = commands.BeginEpoch(
            request_id=request_id,
            time_ms=self.time_ms,
            principal=self.principal,
            cause=cause,
            reason=self.reason,
            at_least=self.at_least,
        )
        validation.check(command)
        return commands.encode(command)


def _token() -> str:
    """Of a history: 128 random bits, as wide as a founding's digest."""
    return os.urandom(16).hex()


# ---- restore


def restore(file: Path, data_dir: Path, *, name: str, peer_address: str, doing: Doing) -> About:
    """Make `data_dir`, which must be empty or new, that of the only member of the cluster in the backup.

    Raises DisasterError; then the directory is as it was. A restore that was killed is begun again by the next one.
    """
    epoch = _checked(doing, "restore")
    try:
        with file.open("rb") as source:
            about, header, chunks = backup.read(source.read)
            with _prepared(data_dir) as directory:
                incarnation = os.urandom(8).hex()
                environment = LmdbEnvironment(data_dir / DATABASE, TABLES)
                try:
                    load(environment, header, chunks, index=about.index, term=about.term)
                    _check(environment, about)
                    id = configuration.joined_id(name, incarnation)
                    record = MemberRecord(id=id, name=name, incarnation=incarnation, peer_address=peer_address)
                    refound(environment, record, _token(), [epoch])
                finally:
                    environment.close()
                directory.give(Identity(name=name, incarnation=incarnation, founding={}, joined=True))
            return about
    except SnapshotError as error:
        raise DisasterError(
            f"{file} cannot be restored: {error}; {data_dir} is as it was, use another backup"
        ) from error
    except FileNotFoundError as error:
        raise DisasterError(f"there is no {error.filename}; nothing was changed") from error
    except (DisasterError, IdentityError):
        raise
    except Exception as error:  # lmdb's own stay in cluster.kv
        said = error.strerror if isinstance(error, OSError) else error
        raise DisasterError(
            f"restoring {file} failed: {said}; {data_dir} is as it was: make room or choose another disk, and try again"
        ) from error


def _check(environment: Environment, about: About) -> None:
    """What the file says of itself must be true of what was in it."""
    with environment.snapshot() as reader:
        registry, standing = queries.registry(reader), journal.standing_in(reader)
    found = (registry.cluster_id, registry.epoch, registry.revision, standing.configuration)
    if found != (about.cluster_id, about.epoch, about.revision, about.configuration):
        raise SnapshotError("its state is not the one that its header tells of")


@contextmanager
def _prepared(path: Path) -> Iterator[DataDirectory]:
    """An empty, locked directory, marked as unfinished until the work in it is done; emptied again if it is not."""
    made = not path.exists()
    _refuse_used(path)
    directory = DataDirectory(path)
    try:
        _refuse_used(path)  # now that nobody else can fill it
    except BaseException:
        directory.close()
        raise
    try:
        _empty(path)
        (path / UNFINISHED).touch(mode=0o600)
        _sync(path)
        yield directory
        (path / UNFINISHED).unlink()
        _sync(path)
    except BaseException:
        _empty(path)
        (path / LOCK).unlink(missing_ok=True)
        if made:
            path.rmdir()
        raise
    finally:
        directory.close()


def _refuse_used(path: Path) -> None:
    others = sorted(entry.name for entry in path.iterdir() if entry.name != LOCK) if path.is_dir() else []
    if others and UNFINISHED not in others:
        raise DisasterError(
            f"{path} is not empty: it has {', '.join(others[:3])}; nothing was changed, give an empty or new directory"
        )


def _empty(path: Path) -> None:
    """Of what a restore puts there; the mark goes last."""
    if (path / UNFINISHED).exists():
        shutil.rmtree(path / DATABASE, ignore_errors=True)
        (path / FILE).unlink(missing_ok=True)
        (path / UNFINISHED).unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- forced recovery


@dataclass(frozen=True)
class Survivor:
    """A stopped member, and how far it is."""

    identity: Identity
    record: MemberRecord
    others: tuple[MemberRecord, ...]
    registry: Registry  # as applied; what only the log holds comes on top
    applied_index: int
    last_index: int
    last_term: int
    environment: Environment

    @property
    def unapplied(self) -> int:
        """Entries in its log that it does not know to be committed. They are kept."""
        return self.last_index - self.applied_index

    def answering(self) -> list[MemberRecord]:
        """The others at whose peer address something listens."""
        return [other for other in self.others if _answers(other.peer_address)]

    def recover(self, doing: Doing) -> None:
        """Make it the only member of its cluster, one epoch on. Raises DisasterError; then nothing was changed."""
        epoch = _checked(doing, "recover")
        try:
            refound(self.environment, self.record, _token(), [epoch])
        except RefoundError as error:
            raise DisasterError(f"{error}; nothing was changed") from error


@contextmanager
def survivor(data_dir: Path) -> Iterator[Survivor]:
    """The stopped member of this directory, locked. Raises DisasterError where recovery is wrong or impossible, and
    IdentityError: in use, damaged."""
    if not (data_dir / FILE).exists():
        raise DisasterError(f"{data_dir} is no data directory of a member: it has no {FILE}")
    directory = DataDirectory(data_dir)
    try:
        identity = directory.read()
        if identity is None or not holds_data(data_dir / DATABASE):
            raise DisasterError(f"the database is gone from {data_dir}; restore a backup: registryd restore")
        try:
            environment = LmdbEnvironment(data_dir / DATABASE, TABLES)
        except Exception as error:
            raise DisasterError(f"cannot open the database in {data_dir}: {error}") from error
        try:
            yield _survey(identity, environment)
        finally:
            environment.close()
    finally:
        directory.close()


def _survey(identity: Identity, environment: Environment) -> Survivor:
    log = Journal(environment)
    known, name = log.configuration, identity.name
    if log.diverged:
        raise DisasterError(
            f"the state of {name} differs from that of the other members, as was found at log index {log.diverged}: it "
            "must not become the cluster. Nothing was changed; recover another member, or restore a backup"
        )
    if {identity.id, identity.incarnation} & set(known.removed):
        raise DisasterError(
            f"{name} was removed from the cluster, which went on without it; nothing was changed. Recover another "
            "member, or restore a backup"
        )
    record = known.get(identity.id)
    if record is None:
        raise DisasterError(f"{name} was never admitted to the cluster: it holds no state of it; nothing was changed")
    if known.voters == {record.id}:
        raise DisasterError(f"{name} is the only voter already and needs nobody: start it; nothing was changed")
    with environment.snapshot() as reader:
        registry = queries.registry(reader)
    return Survivor(
        identity=identity,
        record=MemberRecord(
            id=record.id,
            name=name,
            incarnation=identity.incarnation,
            peer_address=record.peer_address,
            api_address=record.api_address,
            datacenter=record.datacenter,
            role=record.role,
        ),
        others=tuple(other for other in known.members if other.id != record.id),
        registry=registry,
        applied_index=log.applied,
        last_index=log.last,
        last_term=log.term_at(log.last),
        environment=environment,
    )


def _answers(address: str) -> bool:
    try:
        with socket.create_connection(split_address(address), timeout=ANSWER_S):
            return True
    except (OSError, ValueError):
        return False


def _checked(doing: Doing, cause: EpochCause) -> bytes:
    try:
        return doing.begin_epoch(cause)
    except Invalid as error:
        raise DisasterError(f"{error}; nothing was changed") from error

"""Whose data directory this is. Decided once, when the directory is first used, and checked at every start."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from cluster.configuration import joined_id
from cluster.kv.lmdb_env import holds_data

FILE = "member.json"
LOCK = "member.lock"
DATABASE = "db"
UNFINISHED = "restore.unfinished"  # there while a backup is restored into the directory


class IdentityError(Exception):
    """The directory cannot serve as this member's. Nothing in it was changed."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Of one member: its name, the random incarnation of its directory, and the cluster it was founded in."""

    name: str
    incarnation: str
    founding: dict[str, str]  # peer addresses by name; empty: it joined
    joined: bool = False
    format: int = 1

    @property
    def id(self) -> str:
        """What the cluster knows it by."""
        return joined_id(self.name, self.incarnation) if self.joined else self.name


class DataDirectory:
    """A locked data directory. Two processes never hold the same one; the lock ends with the process.

    Raises IdentityError: not a directory, in use, of another member or cluster, not readable.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise IdentityError(f"cannot use {path} as data directory: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise IdentityError(
                f"data directory {path} is in use by another process; stop it, or give this member its own directory"
            ) from error

    def close(self) -> None:
        os.close(self._lock)

    def identify(
        self,
        *,
        name: str,
        founding: Mapping[str, str],
        own_peer_address: str,
        incarnation: str,
        joins: bool = False,
        observer: bool = False,
    ) -> Identity:
        """The directory's identity, written now if it is new.

        founding: peer addresses by name from --cluster, empty if not given: then the directory knows, and a new one
        joins a cluster (--join) or founds one of itself at `own_peer_address`. incarnation: random, used for a new
        directory and for one whose database is gone.
        """
        known = self.read()
        if observer and not joins and not (known and known.joined):
            raise IdentityError(
                f"--observer: data directory {self.path} is none that joined a cluster, and founders vote; "
                "add --join HOST:PORT, the peer address of a member, and give a new directory"
            )
        if known is None:
            identity = _new(name, incarnation, founding or {name: own_peer_address}, joins=joins)
            self.give(identity)
            return identity
        if known.name != name:
            raise IdentityError(
                f"data directory {self.path} belongs to member {known.name!r}, this is {name!r}; "
                f"start it with --name {known.name}, or give {name} a directory of its own"
            )
        if founding and known.joined:
            raise IdentityError(
                f"data directory {self.path} joined a cluster, --cluster would found another one; "
                "start it without --cluster, or give another directory"
            )
        if founding and dict(founding) != known.founding:
            raise IdentityError(
                f"data directory {self.path} belongs to another cluster: it was founded as "
                f"{_spelled(known.founding)}, --cluster says {_spelled(founding)}; "
                "use that --cluster or none, or another directory"
            )
        if not holds_data(self.path / DATABASE):  # with it went what the others were promised under this incarnation
            if known.joined and not joins:
                raise IdentityError(
                    f"the database of {name} is gone from {self.path}; start it with --join HOST:PORT, the peer "
                    f"address of a member, and type: regctl cluster replace {name}"
                )
            known = _new(name, incarnation, known.founding, joins=joins)
            self.give(known)
        if len(known.founding) == 1:  # nobody else has to find it: its peer address may move
            return msgspec.structs.replace(known, founding={name: own_peer_address})
        return known

    def read(self) -> Identity | None:
        """None: the directory is new. Raises IdentityError."""
        if (self.path / UNFINISHED).exists():
            raise IdentityError(
                f"restoring a backup into {self.path} was not finished; type the same `registryd restore` again, it "
                "begins anew"
            )
        try:
            data = (self.path / FILE).read_bytes()
        except FileNotFoundError:
            if others := sorted(entry.name for entry in self.path.iterdir() if entry.name not in (LOCK, FILE + ".new")):
                raise IdentityError(
                    f"{self.path} is no data directory of a member: it has no {FILE}, but {', '.join(others[:3])}; "
                    "give an empty or new directory"
                ) from None
            return None
        except OSError as error:
            raise IdentityError(f"cannot read {self.path / FILE}: {error.strerror}") from error
        try:
            identity = msgspec.json.decode(data, type=Identity)
        except msgspec.DecodeError as error:
            raise IdentityError(f"{self.path / FILE} is damaged ({error}); restore it from a copy") from error
        if identity.format != 1:
            raise IdentityError(f"{self.path} was written by a newer release (format {identity.format}); use that one")
        return identity

    def give(self, identity: Identity) -> None:
        """Make it the directory of this member, durably. Raises IdentityError."""
        new = self.path / (FILE + ".new")
        try:
            with open(new, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(identity)) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, self.path / FILE)
            directory = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise IdentityError(f"cannot write {self.path / FILE}: {error.strerror}") from error


def _new(name: str, incarnation: str, founding: Mapping[str, str], *, joins: bool) -> Identity:
    return Identity(name=name, incarnation=incarnation, founding={} if joins else dict(founding), joined=joins)


def _spelled(members: Mapping[str, str]) -> str:
    return ",".join(f"{name}={address}" for name, address in members.items())

"""The state directory of one agent.

agent.json                            name, incarnation, cluster id, epoch, follows, sequences reserved
follows/NAMESPACE/NAME/POINTER.json   journal.Record
objects/sha256-HEX/content            exact bytes, read-only; what PATH links to
arriving/NAMESPACE/NAME/POINTER       large content on its way; gone on with after a break
directories/KEY/NUMBER/NAME           links; what the PATH of directory targets links to
targets/NAMESPACE/NAME/POINTER.KIND.json   what a target other than a path was told last
outbox/SEQUENCE.json                  acknowledgements on their way
contact                               its time of change is the last contact
lock                                  held by the running agent
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from registry.agent import files, limits
from registry.agent.guards import Identity
from registry.agent.journal import Installed, Record
from registry.core.commands import Ack
from registry.core.limits import CONTENT_BYTES_CEILING

T = TypeVar("T")


class HomeError(Exception):
    """The state directory cannot be used; the message says why and what to do."""


class AgentFile(Struct, frozen=True, kw_only=True, omit_defaults=True):
    agent: str
    incarnation: str
    identity: Identity = Identity()
    follows: tuple[tuple[str, str], ...] = ()  # (workflow, pointer) of the last run
    sequences: int = 0  # every sequence up to here may have been used
    trouble: str = ""  # between the agent and the cluster as a whole: "CODE: detail"


class Home:
    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.objects = self.directory / "objects"
        self.directories = self.directory / "directories"
        self.directories_lock = threading.Lock()  # follows share a directory and leave the event loop for it
        self._content_lock = threading.Lock()  # and content: two that write the same bytes would use one scratch file
        self._outbox = self.directory / "outbox"
        self._contact = self.directory / "contact"
        self._agent: AgentFile | None = None
        self._durable: set[Path] = set()  # paths whose entry this run has synced

    def lock(self) -> int:
        """Creates the directory and makes it this process's own. Raises HomeError."""
        try:
            files.make_directory(self.directory)
            for directory in (self.objects, self._outbox, self.directory / "follows"):
                self.make_directory(directory)
            return files.lock(self.directory / "lock")
        except files.Occupied:
            raise HomeError(
                f"another agent runs with the state directory {self.directory}; stop it or give this one its own"
            ) from None
        except OSError as problem:
            raise HomeError(f"the state directory {self.directory} cannot be used: {problem.strerror}") from None

    def make_directory(self, directory: Path) -> None:
        """Below the state directory, with its parents. One that is there may not be durable yet: an earlier attempt to
        make it may have ended before that."""
        if directory == self.directory or (directory in self._durable and directory.is_dir()):
            return
        self.make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        files.sync_directory(directory.parent)
        self._durable.add(directory)

    # agent.json

    @property
    def agent(self) -> AgentFile:
        if self._agent is None:
            raise HomeError(f"{self.directory} is not the state directory of an agent")
        return self._agent

    def open_agent(self) -> AgentFile | None:
        """Reads agent.json; None: this directory has had no agent yet."""
        data = files.read(self.directory / "agent.json")
        self._agent = None if data is None else self._decode(data, AgentFile, "agent.json")
        return self._agent

    def save_agent(self, agent: AgentFile) -> None:
        files.write(self.directory / "agent.json", msgspec.json.encode(agent))
        self._agent = agent

    # Records

    def _record_path(self, workflow: str, pointer: str) -> Path:
        return self.directory / "follows" / workflow / f"{pointer}.json"

    def load_record(self, workflow: str, pointer: str) -> Record | None:
        path = self._record_path(workflow, pointer)
        data = files.read(path)
        return None if data is None else self._decode(data, Record, str(path.relative_to(self.directory)))

    def records(self) -> list[Record]:
        """Of every follow that this directory ever had; those not followed any more keep what their PATH shows."""
        found = (self.directory / "follows").glob("*/*/[!.]*.json")
        return [self._decode(path.read_bytes(), Record, str(path.relative_to(self.directory))) for path in found]

    def save_record(self, record: Record) -> None:
        path = self._record_path(record.workflow, record.pointer)
        self.make_directory(path.parent)
        files.write(path, msgspec.json.encode(record))

    # Content

    def content_path(self, digest: str) -> Path:
        return self.objects / digest.replace(":", "-", 1) / "content"

    def has_content(self, digest: str) -> bool:
        """Whether exactly these bytes are here, durably: they are read and compared. What is unreadable is not here."""
        path = self.content_path(digest)
        try:
            if files.digest(path) != digest:
                return False
            if path not in self._durable:  # what renamed it may have ended before it synced
                self.make_directory(path.parent)
                files.sync_directory(path.parent)
                self._durable.add(path)
        except OSError:
            return False
        return True

    def base(self, installed: Installed | None) -> bytes:
        """The bytes of something installed, to fetch another version as what differs from it; none where they cannot be
        read, or are so large that content is fetched in chunks."""
        if installed is None or installed.size_bytes > CONTENT_BYTES_CEILING:
            return b""
        try:
            return files.read(self.content_path(installed.digest)) or b""
        except OSError:
            return b""

    def put_content(self, digest: str, data: bytes) -> None:
        path = self.content_path(digest)
        self.make_directory(path.parent)
        with self._content_lock:
            files.write(path, data, mode=0o444)
        self._durable.add(path)

    def arriving(self, workflow: str, pointer: str) -> Path:
        """Where large content of a follow is written while it arrives. It may hold some from before."""
        path = self.directory / "arriving" / workflow / pointer
        self.make_directory(path.parent)
        return path

    def drop_arriving_except(self, follows: Iterable[tuple[str, str]]) -> None:
        kept = {self.directory / "arriving" / workflow / pointer for workflow, pointer in follows}
        for path in (self.directory / "arriving").glob("*/*/*"):
            if path not in kept:
                path.unlink(missing_ok=True)

    def keep_arrived(self, digest: str, arrived: Path) -> None:
        path = self.content_path(digest)
        self.make_directory(path.parent)
        files.move(arrived, path, mode=0o444)
        self._durable.add(path)

    def drop_content_except(self, digests: Iterable[str], paths: Iterable[Path] = ()) -> None:
        """What `paths` lead to stays as well: a record may have been lost."""
        kept = {self.content_path(digest).parent.name for digest in digests}
        kept |= {Path(os.path.realpath(path)).parent.name for path in paths}
        for entry in os.listdir(self.objects):
            if entry not in kept:
                self._durable -= {self.objects / entry, self.objects / entry / "content"}
                shutil.rmtree(self.objects / entry, ignore_errors=True)

    # PATH

    def is_ours(self, path: Path) -> bool:
        """Whether PATH is free to take: nothing is there, or a link into our objects."""
        if not os.path.lexists(path):
            return True
        return path.is_symlink() and path.readlink().is_relative_to(self.objects)

    def shows(self, path: Path, digest: str | None) -> bool:
        """Whether PATH is the link to this content; None: whether nothing is there."""
        if digest is None:
            return not os.path.lexists(path)
        return path.is_symlink() and path.readlink() == self.content_path(digest)

    def show(self, path: Path, digest: str | None) -> None:
        """Swaps PATH to the content of `digest`; None removes it."""
        if digest is None:
            files.unlink(path)
            return
        files.make_directory(path.parent)
        files.link(path, self.content_path(digest))

    # Targets that cannot be looked at

    def _target_path(self, workflow: str, pointer: str, kind: str) -> Path:
        return self.directory / "targets" / workflow / f"{pointer}.{kind}.json"

    def load_target(self, workflow: str, pointer: str, kind: str, shape: type[T]) -> T | None:
        path = self._target_path(workflow, pointer, kind)
        data = files.read(path)
        return None if data is None else self._decode(data, shape, str(path.relative_to(self.directory)))

    def save_target(self, workflow: str, pointer: str, kind: str, value: object) -> None:
        path = self._target_path(workflow, pointer, kind)
        self.make_directory(path.parent)
        files.write(path, msgspec.json.encode(value))

    # Outbox

    def load_outbox(self) -> list[Ack]:
        found = [self._outbox / name for name in os.listdir(self._outbox) if name[0] != "."]
        acks = [self._decode(path.read_bytes(), Ack, f"outbox/{path.name}") for path in found]
        return sorted(acks, key=lambda ack: ack.sequence)

    def save_ack(self, ack: Ack) -> None:
        files.write(self._outbox / f"{ack.sequence}.json", msgspec.json.encode(ack))

    def drop_acks(self, sequences: Iterable[int]) -> None:
        """Not synced: an acknowledgement that comes back after a loss of power is sent again, which changes nothing."""
        for sequence in sequences:
            with suppress(OSError):
                (self._outbox / f"{sequence}.json").unlink()

    # Contact

    def touch_contact(self, now_s: float) -> None:
        if (last := self.last_contact_s()) is not None and 0 <= now_s - last < limits.CONTACT_EVERY_S:
            return
        self._contact.touch()
        os.utime(self._contact, (now_s, now_s))

    def last_contact_s(self) -> float | None:
        """Unix time; None: never."""
        try:
            return self._contact.stat().st_mtime
        except FileNotFoundError:
            return None

    def _decode(self, data: bytes, kind: type[T], name: str) -> T:
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.MsgspecError as problem:
            raise HomeError(
                f"{self.directory / name} cannot be read ({problem}); what PATH shows is untouched. Move the file away "
                "and start again: the agent then asks the registry anew"
            ) from None

"""The file of sources, and beside it the note of what was published of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from registry.core.errors import Invalid, Reason
from registry.source import config, files, limits
from registry.source.config import Source

FORMAT = 1


class Note(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of the file of one workflow."""

    path: str
    stamp: files.Stamp = ()  # of the file when it last had nothing new
    digest: str = ""  # of the bytes that there is nothing left to do about
    version: int = 0  # the one that has them
    refused: str = ""  # why there is none
    asked: str = ""  # digest of a publish that was begun, and whose outcome is not noted
    request_id: str = ""  # its own: repeated until there is an outcome
    is_gone: bool = False  # and that was told


class _State(Struct, frozen=True):
    format: int
    files: dict[str, Note]  # by workflow


class Home:
    """Every method raises OSError when a file cannot be read or written."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.state = file.with_suffix(".state.json")
        self._read_as: files.Stamp | None = None

    def sources(self) -> tuple[Source, ...]:
        """Raises Invalid, which names the file and the line, also when there is no file."""
        with self._named():
            text = self._text()
            if text is None:
                raise Invalid(
                    Reason.INVALID_REQUEST, "there is no such file", hint="add a source: regctl source add --help"
                )
            return config.parse(text)

    def has_changed(self) -> bool:
        """Whether the file is another one than was last read here."""
        return files.stamps([str(self.file)])[str(self.file)] != self._read_as

    def edit(self, change: Callable[[str], str]) -> None:
        """Raises Invalid, Occupied."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with files.locked(self.file.with_suffix(".lock")), self._named():
            files.replace(self.file, change(self._text() or "").encode())

    @contextmanager
    def running(self) -> Iterator[None]:
        """For the one process that publishes. Raises Occupied."""
        with files.locked(self.state.with_suffix(".lock")):
            yield

    def notes(self) -> dict[str, Note]:
        """By workflow. Raises Invalid."""
        try:
            state = msgspec.json.decode(self.state.read_bytes(), type=_State)
        except FileNotFoundError:
            return {}
        except msgspec.DecodeError as error:
            raise self._unreadable(str(error)) from None
        if state.format != FORMAT:
            raise self._unreadable(f"it is of format {state.format}, this release writes {FORMAT}")
        return state.files

    def save(self, notes: dict[str, Note]) -> None:
        files.replace(self.state, msgspec.json.encode(_State(FORMAT, notes)))

    def _text(self) -> str | None:
        self._read_as = files.stamps([str(self.file)])[str(self.file)]
        try:
            with self.file.open("rb") as opened:
                data = opened.read(limits.CONFIG_BYTES + 1)
        except FileNotFoundError:
            return None
        if len(data) > limits.CONFIG_BYTES:
            raise Invalid(Reason.TOO_LARGE, f"larger than {limits.CONFIG_BYTES} bytes", hint="use several files")
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise Invalid(Reason.INVALID_REQUEST, f"line {line} is not UTF-8", hint="correct it") from None

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except Invalid as error:
            raise Invalid(
                error.reason, f"{self.file}: {error.message}", hint=error.hint, metadata=error.metadata
            ) from None

    def _unreadable(self, why: str) -> Invalid:
        return Invalid(
            Reason.INVALID_REQUEST,
            f"{self.state} cannot be read: {why}",
            hint="remove it: every file is looked at again, and what is the newest version already is not stored twice",
        )

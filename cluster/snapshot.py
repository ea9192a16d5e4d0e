"""The state at one moment as bounded chunks: for catch-up between members, for the online backup, for restore.

No sockets and no files here. A source reads chunks from one snapshot of its environment; a `Loader` checks them and
writes them into an incoming environment, which the caller syncs and lets replace the old one. A damaged, missing,
repeated or misplaced chunk is refused; what was loaded until then goes away with the incoming environment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b, sha256
from typing import Annotated, Any

from msgspec import Meta, Struct, msgpack

from cluster.kv.api import Environment, Reader
from cluster.limits import CHUNK_BYTES, FRAME_BYTES, LOAD_COMMIT_BYTES

FORMAT = 1
FILE_MAGIC = b"WFREGSTATE\r\n\x00"
CHECKSUM_BYTES = 16
_ROW_BYTES = 16  # what a row costs beside its key and value

_Number = Annotated[int, Meta(ge=0, le=2**62)]
_Key = Annotated[bytes, Meta(min_length=1, max_length=511)]  # as LMDB
Row = tuple[_Number, _Key, bytes]  # table number, key, value


class SnapshotError(ValueError):
    """Not a whole, undamaged state. Nothing but the incoming environment was touched."""


class Header(Struct, frozen=True, array_like=True, tag="state"):
    """What is coming. Tables are numbered by their place in `rows`: name -> rows, in the order they are sent."""

    format: _Number
    rows: dict[str, _Number]
    about: bytes  # the caller's: at which index, which configuration


class Position(Struct, frozen=True, array_like=True):
    """Of a row: all rows up to it, itself included, have been sent."""

    table: _Number
    key: _Key


class Chunk(Struct, frozen=True, array_like=True, tag="state_chunk"):
    """The rows that follow `after` (None: from the start), in order. Only a last one may be empty."""

    after: Position | None
    rows: list[Row]
    last: bool
    checksum: bytes

    @property
    def end(self) -> Position | None:
        """What the next chunk comes after."""
        return Position(*self.rows[-1][:2]) if self.rows else self.after


class _End(Struct, frozen=True, array_like=True, tag="state_end"):
    rows: _Number
    sha256: bytes  # of all bytes of the file before this frame


_encoder = msgpack.Encoder()
_header = msgpack.Decoder(Header)
_chunk = msgpack.Decoder(Chunk)
_end = msgpack.Decoder(_End)


def streamed_tables(environment: Environment, exclude: tuple[str, ...]) -> tuple[str, ...]:
    """The tables of `environment` that are sent: all but `exclude`, which name what is the member's own."""
    assert set(exclude) <= set(environment.tables), "an excluded table that is none"
    return tuple(table for table in environment.tables if table not in exclude)


def header_of(reader: Reader, tables: tuple[str, ...], about: bytes) -> Header:
    return Header(FORMAT, {table: reader.count(table) for table in tables}, about)


def read_chunk(
    reader: Reader, tables: tuple[str, ...], after: Position | None = None, size_bytes: int = CHUNK_BYTES
) -> Chunk:
    """The rows behind `after`: as many as fit in `size_bytes`, or one larger row alone. Keeps no state: the same
    question has the same answer, as long as `reader` shows the same snapshot.

    Raises SnapshotError for a position outside `tables`.
    """
    if after is not None and after.table >= len(tables):
        raise SnapshotError(f"there is no table {after.table} to go on in; the state has {len(tables)}")
    rows: list[Row] = []
    left_bytes = size_bytes
    for number in range(0 if after is None else after.table, len(tables)):
        start = after.key + b"\0" if after is not None and number == after.table else b""
        for key, value in reader.scan(tables[number], start):
            left_bytes -= len(key) + len(value) + _ROW_BYTES
            if rows and left_bytes < 0:
                return Chunk(after, rows, False, _checksum(after, rows, False))
            rows.append((number, key, value))
    return Chunk(after, rows, True, _checksum(after, rows, True))


def read_chunks(reader: Reader, tables: tuple[str, ...], size_bytes: int = CHUNK_BYTES) -> Iterator[Chunk]:
    """The whole state."""
    chunk = read_chunk(reader, tables, None, size_bytes)
    yield chunk
    while not chunk.last:
        chunk = read_chunk(reader, tables, chunk.end, size_bytes)
        yield chunk


def _checksum(after: Position | None, rows: list[Row], last: bool) -> bytes:
    return blake2b(_encoder.encode((after, rows, last)), digest_size=CHECKSUM_BYTES).digest()


class Loader:
    """Checks chunks and writes them into `environment`, an incoming one. Memory holds a few MiB of them at most.

    Raises SnapshotError: this release cannot read what `header` announces.
    """

    def __init__(self, environment: Environment, header: Header) -> None:
        check_format(header)
        if unknown := sorted(set(header.rows) - set(environment.tables)):
            raise SnapshotError(f"the state has tables unknown here ({', '.join(unknown)}): it needs a newer release")
        self._environment = environment
        self._rows = header.rows
        self._tables = tuple(header.rows)
        self._position: Position | None = None
        self._complete = False
        self._uncommitted_bytes = 0

    @property
    def position(self) -> Position | None:
        """What the next chunk must come after."""
        return self._position

    @property
    def complete(self) -> bool:
        """The last chunk is here; `finish` is next."""
        return self._complete

    def add(self, chunk: Chunk) -> None:
        """Raises SnapshotError for a chunk that is damaged or not the next one; such a one changes nothing, so that
        it can be asked for again."""
        self._check(chunk)
        transaction = self._environment.transaction()
        for number, key, value in chunk.rows:
            transaction.put(self._tables[number], key, value)
            self._uncommitted_bytes += len(key) + len(value)
        self._position, self._complete = chunk.end, chunk.last
        if self._uncommitted_bytes >= LOAD_COMMIT_BYTES:
            self._environment.commit()
            self._uncommitted_bytes = 0

    def finish(self) -> None:
        """Commit the rest. Raises SnapshotError if rows are missing."""
        if not self._complete:
            raise SnapshotError("the state ends before its last chunk")
        transaction = self._environment.transaction()
        for table, announced in self._rows.items():
            if (loaded := transaction.count(table)) != announced:
                raise SnapshotError(f"table {table} has {loaded} rows where {announced} were announced")
        self._environment.commit()

    def _check(self, chunk: Chunk) -> None:
        if chunk.checksum != _checksum(chunk.after, chunk.rows, chunk.last):
            raise SnapshotError("a chunk is damaged: its checksum does not match its rows")
        if self._complete:
            raise SnapshotError("a chunk follows the last one")
        if chunk.after != self._position:
            raise SnapshotError("a chunk is missing or came twice: it does not follow the one before")
        if not chunk.rows and not chunk.last:
            raise SnapshotError("a chunk without rows is not the last one")
        before = (-1, b"") if self._position is None else (self._position.table, self._position.key)
        for number, key, _ in chunk.rows:
            if number >= len(self._tables):
                raise SnapshotError(f"a row of table {number}, but {len(self._tables)} tables were announced")
            if (number, key) <= before:
                raise SnapshotError(f"rows of table {self._tables[number]} are out of order")
            before = (number, key)


def check_format(header: Header) -> None:
    """Raises SnapshotError if this release does not read it."""
    if header.format != FORMAT:
        raise SnapshotError(f"the state has format {header.format}, this release reads {FORMAT}: use another release")


def encode_file(header: Header, chunks: Iterable[Chunk]) -> Iterator[bytes]:
    """A backup file, piece by piece: magic, header, chunks, end; each frame with its length before it (u32, big
    endian). Raises SnapshotError for a row too large for a frame, and when `chunks` stop before the last one."""
    digest = sha256()
    rows, complete = 0, False

    def passed(piece: bytes) -> bytes:
        digest.update(piece)
        return piece

    yield passed(FILE_MAGIC)
    yield passed(_frame(header))
    for chunk in chunks:
        rows, complete = rows + len(chunk.rows), chunk.last
        yield passed(_frame(chunk))
    if not complete:
        raise SnapshotError("the state ends before its last chunk")
    yield _frame(_End(rows, digest.digest()))


def decode_file(read: Callable[[int], bytes]) -> tuple[Header, Iterator[Chunk]]:
    """Header and chunks of a backup file. `read(n)` gives at most n of the next bytes, none at the file's end.

    Both raise SnapshotError for whatever is not a whole, undamaged file of this format. The last chunk comes only
    after everything before it and the end of the file have been verified.
    """
    source = _Source(read)
    magic = source.take(len(FILE_MAGIC), "its first bytes")
    if magic != FILE_MAGIC:
        raise SnapshotError("this is no backup file: it does not begin like one")
    header: Header = _decode(_header, source.frame("its header"))
    check_format(header)
    return header, _chunks(source)


def _chunks(source: _Source) -> Iterator[Chunk]:
    rows, last = 0, False
    while not last:
        chunk: Chunk = _decode(_chunk, source.frame("a chunk"))
        rows, last = rows + len(chunk.rows), chunk.last
        if last:
            _check_end(source, rows)
        yield chunk


def _check_end(source: _Source, rows: int) -> None:
    digest = source.digest()
    end: _End = _decode(_end, source.frame("its end"))
    if end.sha256 != digest:
        raise SnapshotError("the backup file is damaged: its checksum does not match its contents")
    if end.rows != rows:
        raise SnapshotError(f"the backup file is damaged: it has {rows} rows where its end says {end.rows}")
    if source.more():
        raise SnapshotError("the backup file is damaged: something follows its end")


class _Source:
    """Frames out of `read`, and the digest of all bytes taken."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._digest = sha256()

    def digest(self) -> bytes:
        return self._digest.digest()

    def more(self) -> bool:
        return bool(self._read(1))

    def frame(self, what: str) -> bytes:
        size = int.from_bytes(self.take(4, what), "big")
        if not 0 < size <= FRAME_BYTES:
            raise SnapshotError(f"the backup file is damaged: a frame announces {size} bytes, limit {FRAME_BYTES}")
        return self.take(size, what)

    def take(self, size: int, what: str) -> bytes:
        pieces: list[bytes] = []
        missing = size
        while missing:
            piece = self._read(missing)
            if not piece:
                raise SnapshotError(f"the backup file is cut off in {what}")
            pieces.append(piece)
            missing -= len(piece)
        data = b"".join(pieces)
        self._digest.update(data)
        return data


def _frame(value: Header | Chunk | _End) -> bytes:
    body = _encoder.encode(value)
    if len(body) > FRAME_BYTES:
        raise SnapshotError(f"a frame of {len(body)} bytes, limit {FRAME_BYTES}: a row is too large for a backup")
    return len(body).to_bytes(4, "big") + body


def _decode(decoder: msgpack.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise SnapshotError(f"the backup file is damaged: {error}") from None

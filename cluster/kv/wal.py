"""A write-ahead log: what was committed since the last checkpoint of an LMDB environment.

LMDB makes a commit durable with two syncs and a copy of every page that leads to a change; a log with one sync of
what changed. So a commit goes here, the LMDB transaction behind it stays open, and a checkpoint commits that one and
begins the log anew, in the same blocks (as SQLite's in WAL mode; ours holds rows, not pages).

    record: "WALr", u64 epoch, u32 number in the epoch, u32 size of the body, CRC-32 of the body, a code of these; body
    body:   msgpack: per commit, per row its table, its key, and what LMDB stores there, nil where it was deleted

Records begin at multiples of 64 bytes. Their code is keyed with a secret of the generation, since bodies hold what
users wrote: bytes that look like a record are none.

Each checkpoint begins an epoch, whose number is written with it: records of any other are leftovers. The log ends
where the next record does not follow. If one follows behind that, a record in the middle was damaged, and promises may
be lost with it; a last record that is incomplete was never told to anybody. So what is synced at once is one record: a
disk may write the end of it before the beginning.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

import msgspec

from cluster.limits import MIB

NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CANNOT = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # set space aside
KEY_BYTES = 16
GROW_BYTES = 1 * MIB  # set aside at a time: syncing a record then changes little about the file
MAGIC = b"WALr"

Row = tuple[str, bytes, bytes | None]

_ALIGN_BYTES = 64
_HEADER = struct.Struct(">4sQIII")
_CODE_BYTES = 16
_FRAME_BYTES = _HEADER.size + _CODE_BYTES
_ARRAY = struct.Struct(">BI")  # of the commits in a record, as msgpack has it
_ARRAY_32 = 0xDD
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[list[tuple[str, bytes, bytes | None]]]).decode


class WalDamaged(Exception):
    """A record is not what was written, and others follow it."""


class Wal:
    """One file, made if missing, used by one thread; `key` is the secret. Raises OSError; after one of `append`
    or `settle` nothing is known of what is on the disk, and the process must end."""

    def __init__(self, path: Path, key: bytes, epoch: int, most_bytes: int) -> None:
        self._path, self._key, self.epoch, self._most_bytes = path, key, epoch, most_bytes
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._allocated_bytes = os.fstat(self._file).st_size
        self.size_bytes = self._number = 0

    def read(self) -> Iterator[list[Row]]:
        """The rows of each commit since the checkpoint, in order; appending goes on behind them. Raises WalDamaged."""
        written = self._written()
        while (found := self._record_at(written, self.size_bytes)) and found[:2] == (self.epoch, self._number):
            self._number += 1
            self.size_bytes += _aligned(_FRAME_BYTES + len(found[2]))
            yield from _decode(found[2])
        for place in range(self.size_bytes, len(written), _ALIGN_BYTES):
            if (found := self._record_at(written, place)) and found[:2] >= (self.epoch, self._number):
                raise WalDamaged(f"{self._path} is damaged at {self.size_bytes}: commits follow that do not join")

    def settle(self) -> None:
        """What was read is durable from now on. It need not have been: an earlier life may have ended because it could
        not be synced. Written anew, since the kernel takes a page that it failed to write for clean."""
        self._put(self._written()[: self.size_bytes], 0)

    def _written(self) -> bytes:
        """The whole file. A place that cannot be read may hold a record, and ends one read as the file's end does."""
        written = bytearray()
        while len(written) < self._allocated_bytes:
            part = os.pread(self._file, self._allocated_bytes - len(written), len(written))
            if not part:
                raise OSError(errno.EIO, f"{self._path} ends at {len(written)} of {self._allocated_bytes} bytes")
            written += part
        return bytes(written)

    def _record_at(self, written: bytes, place: int) -> tuple[int, int, bytes] | None:
        """Its epoch, its number and its body."""
        start = place + _FRAME_BYTES
        if not written.startswith(MAGIC, place) or len(written) < start:
            return None
        header = written[place : place + _HEADER.size]
        if self._code(header) != written[place + _HEADER.size : start]:
            return None
        _, epoch, number, size_bytes, checksum = _HEADER.unpack(header)
        body = written[start : start + size_bytes]
        return (epoch, number, body) if crc32(body) == checksum else None

    def _code(self, header: bytes) -> bytes:
        return blake2b(header, digest_size=_CODE_BYTES, key=self._key).digest()

    def has_room(self, commits: Sequence[bytes]) -> bool:
        """Whether they can be appended. They cannot beyond the bound, nor where the disk is full: then the next
        checkpoint is due."""
        end = self.size_bytes + _aligned(_FRAME_BYTES + _ARRAY.size + sum(map(len, commits)))
        if end > self._most_bytes:
            return False
        if end > self._allocated_bytes:
            grown = min(-(-end // GROW_BYTES) * GROW_BYTES, self._most_bytes)
            try:
                os.posix_fallocate(self._file, self._allocated_bytes, grown - self._allocated_bytes)
            except OSError as error:
                if error.errno in NO_PLACE:
                    return False
                if error.errno not in CANNOT:
                    raise
            else:
                self._allocated_bytes = grown
        return True

    def append(self, commits: Sequence[bytes]) -> None:
        """Durably, all or none. There must be room."""
        body = (_ARRAY.pack(_ARRAY_32, len(commits)), *commits)  # joined once: they may be large
        size_bytes, checksum = sum(map(len, body)), 0
        for part in body:
            checksum = crc32(part, checksum)
        header = _HEADER.pack(MAGIC, self.epoch, self._number, size_bytes, checksum)
        padding = bytes(_aligned(_FRAME_BYTES + size_bytes) - _FRAME_BYTES - size_bytes)
        written = b"".join((header, self._code(header), *body, padding))
        self._put(written, self.size_bytes)
        self.size_bytes += len(written)
        self._number += 1

    def _put(self, written: bytes, place: int) -> None:
        done = os.pwrite(self._file, written, place)
        if done != len(written):
            raise OSError(errno.EIO, f"{done} of {len(written)} bytes were written to {self._path}")
        os.fdatasync(self._file)

    def restart(self, epoch: int) -> None:
        """A checkpoint has taken everything in; its epoch begins."""
        self.epoch, self.size_bytes, self._number = epoch, 0, 0

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def encode(rows: Sequence[Row]) -> bytes:
    """A commit, as it is appended."""
    return _encode(rows)


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGN_BYTES) * _ALIGN_BYTES

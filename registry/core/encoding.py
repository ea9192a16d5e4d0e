"""Bytes of rows and fingerprints: the same on every member, also of a release that knows fewer fields."""

from __future__ import annotations

import hashlib

from msgspec import Struct, msgpack, to_builtins

FINGERPRINT_BYTES = 16
NARROW_FIELDS = 15  # whose number fits into the first byte of a MessagePack map
encode = msgpack.Encoder(order="deterministic").encode  # for structs of so many fields, and structs inside them
encode_sorted = msgpack.Encoder(order="sorted").encode  # likewise, and the fields of structs in order of name
_encode = msgpack.Encoder().encode


def encode_wide(row: Struct) -> bytes:
    """For structs with more fields. msgspec sizes the header of a map by the fields that a struct could have, not by
    those that are there: adding a field would change the bytes of rows that do not use it."""
    return _encode(to_builtins(row, builtin_types=(bytes,), order="deterministic"))


def fingerprint(row: Struct) -> bytes:
    """Of a narrow row as it is: what a repack was made from."""
    return hashlib.blake2b(encode(row), digest_size=FINGERPRINT_BYTES).digest()

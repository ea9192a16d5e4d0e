"""Request ids: UUIDv7 as text (RFC 9562). They hold the time they were issued, so that old ones can be told."""

from __future__ import annotations

import re

from registry.core.errors import Invalid, Reason

RANDOM_BYTES = 10
_TEXT = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII)


def make(time_ms: int, random: bytes) -> str:
    """A request id issued at `time_ms` (unix); `random`: 10 bytes, of which 74 bits are used."""
    if not 0 <= time_ms < 1 << 48 or len(random) != RANDOM_BYTES:
        raise ValueError(f"time_ms {time_ms}, {len(random)} random bytes")
    noise = int.from_bytes(random, "big")
    value = time_ms << 80 | 0x7 << 76 | (noise >> 62 & 0xFFF) << 64 | 0b10 << 62 | noise & (1 << 62) - 1
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def check(request_id: str) -> str:
    """`request_id`, if it is one in lower case. Raises Invalid: INVALID_REQUEST."""
    if not _TEXT.fullmatch(request_id):
        raise Invalid(
            Reason.INVALID_REQUEST,
            f"not a request id: {request_id[:80]!a}",
            hint="send a UUIDv7 in lower case, made once per intended change",
        )
    return request_id


def issued_ms(request_id: str) -> int:
    """Unix milliseconds at which a valid request id was made."""
    return int(request_id[:8] + request_id[9:13], 16)

"""zstd frames as contents are stored and sent. CPU-bound; no I/O.

Two kinds. Alone: with its magic number and its size, as since the first release. Over a base: the dictionary is the
exact bytes of another content; nothing that both sides know anyway is in the frame.
"""

from __future__ import annotations

import zstandard
from zstandard import FORMAT_ZSTD1_MAGICLESS, ZstdCompressionDict, ZstdCompressor, ZstdDecompressor

from registry.core import limits

# Below it, zstd's own choice of a window reaches the whole base; above it does not, and the base would be of no use.
_OWN_WINDOW_BYTES = 2 * limits.MIB
_WINDOW_BYTES = 4 * limits.CONTENT_BYTES_CEILING  # at most: a base and a content, rounded up to a power of two
_SIZE_BITS = 0b1110_0000  # of the first byte of a frame without magic number: the size follows, in so many bytes


def pack(data: bytes, level: int) -> bytes:
    return ZstdCompressor(level=level, write_content_size=True).compress(data)


def unpack(frame: bytes, size_bytes: int) -> bytes | None:
    """None: not what `pack` made of so many bytes. The size is checked before memory is taken for it."""
    try:
        if size_bytes > limits.CONTENT_BYTES_CEILING:
            return None
        if zstandard.get_frame_parameters(frame).content_size != size_bytes:
            return None
        return ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError:
        return None


def pack_over(base: bytes, data: bytes, level: int) -> bytes:
    window: dict[str, int] = {}
    if len(base) + len(data) > _OWN_WINDOW_BYTES:
        window_log = (len(base) + len(data)).bit_length()
        window = {"window_log": window_log, "hash_log": window_log - 2}
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=len(data),
        dict_size=len(base),
        format=FORMAT_ZSTD1_MAGICLESS,
        write_content_size=0,
        write_checksum=0,
        write_dict_id=0,
        **window,
    )
    return ZstdCompressor(dict_data=_dictionary(base), compression_params=parameters).compress(data)


def unpack_over(base: bytes, frame: bytes, size_bytes: int) -> bytes | None:
    """As `unpack`. Another base gives other bytes or None: who cares checks the digest."""
    if not 0 < size_bytes <= limits.CONTENT_BYTES_CEILING:
        return None
    if not frame or frame[0] & _SIZE_BITS:  # zstandard takes memory for the size that a frame names, whatever it is
        return None
    unpacking = ZstdDecompressor(
        dict_data=_dictionary(base), format=FORMAT_ZSTD1_MAGICLESS, max_window_size=_WINDOW_BYTES
    )
    try:
        data = unpacking.decompress(frame, max_output_size=size_bytes, allow_extra_data=False)
    except zstandard.ZstdError:
        return None
    return data if len(data) == size_bytes else None


def _dictionary(base: bytes) -> ZstdCompressionDict:
    return ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)

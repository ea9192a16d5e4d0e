"""What members say to each other, one message a frame. No pickle; unknown or garbled bytes are an error."""

from __future__ import annotations

from typing import TypeVar

from msgspec import Struct, msgpack

from cluster.limits import FRAME_BYTES

_T = TypeVar("_T")

MAGIC = b"WFREG\x00"
PROTOCOL = 1


class Hello(Struct, frozen=True, array_like=True, tag="hello"):
    """First frame of a connection, from the member that dialled. The answer is a Welcome."""

    protocol: int
    foundation: str  # of the founding configuration: which cluster
    member: str
    incarnation: str  # of its data directory
    to: str
    api_address: str
    datacenter: str


class Welcome(Struct, frozen=True, array_like=True, tag="welcome"):
    refusal: str  # empty: go on


class Append(Struct, frozen=True, array_like=True, tag="append"):
    """Entries after (previous_index, previous_term); `entries` are (term, bytes), in order of index."""

    number: int  # per peer, echoed by the reply
    term: int
    commit_index: int
    previous_index: int
    previous_term: int
    entries: list[tuple[int, bytes]]


class Heartbeat(Struct, frozen=True, array_like=True, tag="heartbeat"):
    """A sign of life for a peer that is not sent entries now; `first_index` of the leader's log."""

    number: int
    term: int
    commit_index: int
    first_index: int


class AppendReply(Struct, frozen=True, array_like=True, tag="appended"):
    number: int
    term: int
    next_index: int
    success: bool
    reset: bool


class HigherTerm(Struct, frozen=True, array_like=True, tag="higher"):
    term: int


class PreVote(Struct, frozen=True, array_like=True, tag="prevote"):
    term: int  # the one that would be campaigned in
    last_term: int
    last_index: int


class PreVoteReply(Struct, frozen=True, array_like=True, tag="prevoted"):
    for_term: int
    granted: bool
    term: int


class RequestVote(Struct, frozen=True, array_like=True, tag="vote"):
    term: int
    last_term: int
    last_index: int
    transfer: bool


class Vote(Struct, frozen=True, array_like=True, tag="voted"):
    term: int


class TimeoutNow(Struct, frozen=True, array_like=True, tag="timeout"):
    term: int


class ReadRequest(Struct, frozen=True, array_like=True, tag="read"):
    """A follower asks the leader from which index on a read is linearizable."""

    call: int


class ReadIndex(Struct, frozen=True, array_like=True, tag="readindex"):
    call: int
    index: int  # 0: not the leader; ask again


class ReadProbe(Struct, frozen=True, array_like=True, tag="probe"):
    round: int
    term: int


class ReadConfirm(Struct, frozen=True, array_like=True, tag="confirm"):
    round: int
    term: int


class Propose(Struct, frozen=True, array_like=True, tag="propose"):
    call: int
    command: bytes


class Proposed(Struct, frozen=True, array_like=True, tag="proposed"):
    call: int
    attempted: bool  # False: it has not happened and will not
    result: bytes


class Report(Struct, frozen=True, array_like=True, tag="report"):
    """How far a member is, for `cluster status` on any other."""

    applied_index: int


Message = (
    Append
    | Heartbeat
    | AppendReply
    | HigherTerm
    | PreVote
    | PreVoteReply
    | RequestVote
    | Vote
    | TimeoutNow
    | ReadRequest
    | ReadIndex
    | ReadProbe
    | ReadConfirm
    | Propose
    | Proposed
    | Report
)

_encoder = msgpack.Encoder()
_message: msgpack.Decoder[Message] = msgpack.Decoder(Message)
_hello = msgpack.Decoder(Hello)
_welcome = msgpack.Decoder(Welcome)


class FrameError(ValueError):
    """Bytes that no member of this release sends."""


def frame(value: object) -> bytes:
    """A length-prefixed frame: u32 big endian, then MessagePack."""
    body = _encoder.encode(value)
    if len(body) > FRAME_BYTES:
        raise FrameError(f"frame of {len(body)} bytes, limit {FRAME_BYTES}")
    return len(body).to_bytes(4, "big") + body


def body_size(prefix: bytes) -> int:
    size = int.from_bytes(prefix, "big")
    if not 0 < size <= FRAME_BYTES:
        raise FrameError(f"frame announces {size} bytes, limit {FRAME_BYTES}")
    return size


def decode_message(body: bytes) -> Message:
    return _checked(_message, body)


def decode_hello(body: bytes) -> Hello:
    return _checked(_hello, body)


def decode_welcome(body: bytes) -> Welcome:
    return _checked(_welcome, body)


def _checked(decoder: msgpack.Decoder[_T], body: bytes) -> _T:
    try:
        return decoder.decode(body)
    except ValueError as error:  # msgspec.DecodeError and ValidationError
        raise FrameError(f"not a frame of this protocol: {error}") from None

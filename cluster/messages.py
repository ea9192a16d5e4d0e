"""What members say to each other, one message a frame. No pickle; unknown or garbled bytes are an error."""

from __future__ import annotations

from typing import Annotated, TypeVar

from msgspec import Meta, Struct, msgpack

from cluster.limits import COMMAND_BYTES, FRAME_BYTES
from cluster.snapshot import Chunk, Header, Position

_T = TypeVar("_T")

# An index, a term, a number: what the journal can keep.
Number = Annotated[int, Meta(ge=0, le=2**62)]

MAGIC = b"WFREG\x00"
OLDEST_PROTOCOL, PROTOCOL = 2, 2  # spoken by this release; a message or a meaning is added under a new number


class Hello(Struct, frozen=True, array_like=True, tag="hello"):
    """First frame of a connection, from the member that dialled. The answer is a Welcome. Of this one every release
    keeps the meaning: fields are only added, with a default."""

    oldest_protocol: int
    protocol: int
    cluster: str  # of its configuration; empty: it wants to join
    id: str
    name: str
    incarnation: str  # of its data directory
    to: str  # whom it means to reach, an id; empty: whoever answers
    peer_address: str
    api_address: str
    datacenter: str
    role: str  # the one it has or wants
    level: int  # highest feature level it can apply


class Welcome(Struct, frozen=True, array_like=True, tag="welcome"):
    """`members` has ids and peer addresses of the configuration, for one that joins."""

    refusal: str = ""  # empty: go on
    removed: bool = False  # refused for ever
    id: str = ""
    protocol: int = 0  # to be spoken from now on
    members: tuple[tuple[str, str], ...] = ()
    cluster: str = ""  # the history it belongs to


class Append(Struct, frozen=True, array_like=True, tag="append"):
    """Entries after (previous_index, previous_term); `entries` are (term, bytes), in order of index."""

    number: Number  # per peer, echoed by the reply
    term: Number
    commit_index: Number
    previous_index: Number
    previous_term: Number
    entries: list[tuple[Number, bytes]]


class Heartbeat(Struct, frozen=True, array_like=True, tag="heartbeat"):
    """A sign of life for a peer that is not sent entries now; `first_index` of the leader's log."""

    number: Number
    term: Number
    commit_index: Number
    first_index: Number


class AppendReply(Struct, frozen=True, array_like=True, tag="appended"):
    number: Number
    term: Number
    next_index: Number
    success: bool
    reset: bool


class HigherTerm(Struct, frozen=True, array_like=True, tag="higher"):
    term: Number


class PreVote(Struct, frozen=True, array_like=True, tag="prevote"):
    term: Number  # the one that would be campaigned in
    last_term: Number
    last_index: Number


class PreVoteReply(Struct, frozen=True, array_like=True, tag="prevoted"):
    for_term: Number
    granted: bool
    term: Number


class RequestVote(Struct, frozen=True, array_like=True, tag="vote"):
    term: Number
    last_term: Number
    last_index: Number
    transfer: bool


class Vote(Struct, frozen=True, array_like=True, tag="voted"):
    term: Number


class TimeoutNow(Struct, frozen=True, array_like=True, tag="timeout"):
    term: Number


class ReadRequest(Struct, frozen=True, array_like=True, tag="read"):
    """A follower asks the leader from which index on a read is linearizable."""

    call: Number


class ReadIndex(Struct, frozen=True, array_like=True, tag="readindex"):
    call: Number
    index: Number  # 0: not the leader; ask again


class ReadProbe(Struct, frozen=True, array_like=True, tag="probe"):
    round: Number
    term: Number


class ReadConfirm(Struct, frozen=True, array_like=True, tag="confirm"):
    round: Number
    term: Number


class Propose(Struct, frozen=True, array_like=True, tag="propose"):
    call: Number
    command: Annotated[bytes, Meta(max_length=COMMAND_BYTES)]
    change: bool = False  # a membership.Change, and the result a membership.Changed


class Proposed(Struct, frozen=True, array_like=True, tag="proposed"):
    call: Number
    attempted: bool  # False: it has not happened and will not
    result: bytes
    unknown: bool = False  # there is no result: it may have happened, or may still


class Report(Struct, frozen=True, array_like=True, tag="report"):
    """How far a member is, to all others: for `cluster status`, promotions, and the comparison of states."""

    applied_index: Number
    level: Number  # highest feature level it can apply
    digest_index: Number  # the newest at which states are compared; 0: none yet
    digest: bytes
    fetching: Number = 0  # the state on its way to it is that at this index: the log behind it is needed; 0: none
    has_room: bool = True  # on its disk; a release that does not know it reads the rest


class Fetch(Struct, frozen=True, array_like=True, tag="fetch"):
    """A member asks for a state at this index or a later one. Who does not have it, or is busy, does not answer."""

    at_least: Number


class Fetched(Struct, frozen=True, array_like=True, tag="fetched"):
    """The state that is kept for the asker: applied up to (index, index_term)."""

    snapshot: Number
    term: Number  # of the sender
    index: Number
    index_term: Number
    header: Header


class FetchRows(Struct, frozen=True, array_like=True, tag="fetchrows"):
    snapshot: Number
    after: Position | None


class FetchedRows(Struct, frozen=True, array_like=True, tag="fetchedrows"):
    snapshot: Number
    chunk: Chunk | None  # none: the snapshot is not kept any more


class Tail(Struct, frozen=True, array_like=True, tag="tail"):
    """An observer asks for committed entries from `next_index` on; answered when there are any, or after a while."""

    next_index: Number


class Tailed(Struct, frozen=True, array_like=True, tag="tailed"):
    """Entries as in Append, all of them committed. `first_index` of the sender's log: above the one asked for, a state
    has to be fetched."""

    term: Number
    leader: str  # an id; empty: not known
    age_ms: Number  # since the leader was heard, over all members between
    commit_index: Number
    first_index: Number
    previous_index: Number
    previous_term: Number
    entries: list[tuple[Number, bytes]]


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
    | Fetch
    | Fetched
    | FetchRows
    | FetchedRows
    | Tail
    | Tailed
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


def body_size(prefix: bytes, limit_bytes: int = FRAME_BYTES) -> int:
    size = int.from_bytes(prefix, "big")
    if not 0 < size <= limit_bytes:
        raise FrameError(f"frame announces {size} bytes, limit {limit_bytes}")
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
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise FrameError(f"not a frame of this protocol: {error}") from None

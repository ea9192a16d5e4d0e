"""Frames between members: what is said comes back as it was, and no bytes raise anything but FrameError."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import msgpack

from cluster import messages as m
from cluster.limits import COMMAND_BYTES, ENTRY_BYTES, FRAME_BYTES, HELLO_BYTES, MEMBERS, WELCOME_BYTES
from cluster.snapshot import Chunk, Header, Position

EXAMPLES: list[m.Message] = [
    m.Append(1, 2, 3, 4, 5, [(6, b"entry"), (7, b"\x00\xff" * 100)]),
    m.Append(1, 2, 3, 4, 5, []),
    m.Heartbeat(1, 2, 3, 4),
    m.AppendReply(1, 2, 3, True, False),
    m.HigherTerm(1),
    m.PreVote(1, 2, 3),
    m.PreVoteReply(1, False, 2),
    m.RequestVote(1, 2, 3, True),
    m.Vote(1),
    m.TimeoutNow(1),
    m.ReadRequest(1 << 48),
    m.ReadIndex(1, 0),
    m.ReadProbe(1, 2),
    m.ReadConfirm(1, 2),
    m.Propose(1, b"\x00command\xff"),
    m.Proposed(1, False, b""),
    m.Propose(1, b"\x00command\xff", change=True),
    m.Report(1, 2, 1024, b"\x00\xff" * 8),
    m.Fetch(1),
    m.Fetched(1 << 48, 2, 3, 4, Header(1, {"state": 5, "raft_applied": 3}, b"")),
    m.FetchRows(1 << 48, None),
    m.FetchRows(1 << 48, Position(0, b"key")),
    m.FetchedRows(1 << 48, None),
    m.FetchedRows(1 << 48, Chunk(Position(0, b"key"), [(0, b"later", b"value"), (1, b"\xff", b"")], True, b"sum")),
    m.Tail(2),
    m.Tailed(1, "a", 2, 3, 4, 5, 6, [(7, b"entry"), (8, b"\x00\xff" * 100)]),
    m.Tailed(1, "", 2, 3, 4, 5, 6, []),
]
HELLO = m.Hello(
    oldest_protocol=2,
    protocol=3,
    cluster="f" * 64,
    id="eu-1/0123",
    name="eu-1",
    incarnation="i" * 32,
    to="eu-2",
    peer_address="10.0.0.1:7450",
    api_address="10.0.0.1:7400",
    datacenter="eu",
    role="observer",
    level=4,
)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was(message: m.Message) -> None:
    frame = m.frame(message)
    assert m.body_size(frame[:4]) == len(frame) - 4
    assert m.decode_message(frame[4:]) == message


def test_every_message_has_an_example_and_a_tag_of_its_own() -> None:
    kinds = m.Message.__args__
    assert {type(message) for message in EXAMPLES} == set(kinds)
    assert len({kind.__struct_config__.tag for kind in kinds}) == len(kinds)


def test_a_handshake_comes_back_as_it_was() -> None:
    assert m.decode_hello(m.frame(HELLO)[4:]) == HELLO
    welcome = m.Welcome("not you", True, "eu-2", 2, (("eu-2", "10.0.0.2:7450"), ("eu-3/4567", "10.0.0.3:7450")))
    assert m.decode_welcome(m.frame(welcome)[4:]) == welcome


def test_a_hello_of_a_later_release_is_read_although_it_says_more() -> None:
    body = msgpack.encode([*msgpack.decode(m.frame(HELLO)[4:]), "a field of later"])
    assert m.decode_hello(body) == HELLO


def test_the_largest_handshakes_fit_their_limits() -> None:
    """Names and addresses of 255 bytes, and as many members as there can be."""
    long = "x" * 255
    hello = m.Hello(2**62, 2**62, long, long + "/" + long, long, long, long, long, long, long, "observer", 2**62)
    assert len(m.frame(hello)) < HELLO_BYTES
    members = tuple((long + "/" + long, long) for _ in range(MEMBERS))
    assert len(m.frame(m.Welcome(long, True, long, 2**62, members))) < WELCOME_BYTES


def test_the_largest_append_fits_a_frame() -> None:
    full = m.Append(1 << 60, 1 << 60, 1 << 60, 1 << 60, 1 << 60, [(1 << 60, bytes(ENTRY_BYTES))])
    assert len(m.frame(full)) < FRAME_BYTES
    assert len(m.frame(m.Propose(1, bytes(COMMAND_BYTES)))) < FRAME_BYTES


def test_a_frame_over_the_limit_is_not_made() -> None:
    with pytest.raises(m.FrameError, match="limit"):
        m.frame(m.Propose(1, bytes(FRAME_BYTES)))


@pytest.mark.parametrize("size_bytes", [0, FRAME_BYTES + 1, 2**32 - 1])
def test_a_length_out_of_bounds_is_refused(size_bytes: int) -> None:
    with pytest.raises(m.FrameError, match="announces"):
        m.body_size(size_bytes.to_bytes(4, "big"))


def test_a_stranger_may_not_announce_much() -> None:
    prefix = (HELLO_BYTES + 1).to_bytes(4, "big")
    assert m.body_size(prefix) == HELLO_BYTES + 1
    with pytest.raises(m.FrameError, match="announces"):
        m.body_size(prefix, HELLO_BYTES)


@given(st.integers(0, 2**32 - 1))
def test_a_length_is_taken_or_refused(size_bytes: int) -> None:
    try:
        assert m.body_size(size_bytes.to_bytes(4, "big")) == size_bytes <= FRAME_BYTES
    except m.FrameError:
        assert not 0 < size_bytes <= FRAME_BYTES


def _decodes(body: bytes) -> None:
    for decode in (m.decode_message, m.decode_hello, m.decode_welcome):
        with contextlib.suppress(m.FrameError):
            decode(body)


def _report(value: bytes) -> bytes:
    return b"\x95\xa6report" + value + b"\x01\x01\xc4\x00"


_anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=8) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300)
@given(st.binary(max_size=200) | _anything.map(msgpack.encode))
@example(b"\x96\xa6report\x01\x01\x01\xc4\x00" + b"\x91" * 200_000 + b"\xc0")  # nested deeper than the stack
@example(b"\x97\xa6append\x01\x01\x01\x01\x01\xdd\xff\xff\xff\xff")  # a list of 4 billion entries
@example(b"\x97\xa6append\x01\x01\x01\x01\x01\x91\x92\x01\xc6\xff\xff\xff\xff")  # 4 GiB of bytes
def test_random_bytes_raise_nothing_but_frame_errors(body: bytes) -> None:
    _decodes(body)


@settings(max_examples=300)
@given(st.sampled_from(EXAMPLES), st.data())
def test_a_damaged_message_raises_nothing_but_frame_errors(message: m.Message, data: st.DataObject) -> None:
    body = bytearray(m.frame(message)[4:])
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    _decodes(bytes(body[: data.draw(st.integers(0, len(body)))]))


@pytest.mark.parametrize("value", [b"\xff", b"\xcf" + b"\xff" * 8, b"\xcf\x80" + bytes(7)])
def test_numbers_are_indexes_and_terms(value: bytes) -> None:
    """A negative or overflowing one would fall over when it is stored, far from whoever sent it."""
    assert m.decode_message(_report(b"\x07")) == m.Report(7, 1, 1, b"")
    with pytest.raises(m.FrameError):
        m.decode_message(_report(value))

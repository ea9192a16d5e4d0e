"""The peer port against everything that is no member, and the handshake."""

from __future__ import annotations

import asyncio
import logging
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec import structs

from cluster import messages as m
from cluster import peers as peers_module
from cluster.configuration import NOBODY, Configuration, MemberRecord, founding
from cluster.limits import CANDIDATES, FRAME_BYTES, HELLO_BYTES
from cluster.membership import Candidate
from cluster.peers import Peers, PeerTls
from registry.cli.local_cluster import free_ports
from tests.integration.cluster_members import until


@dataclass
class End:
    """A member alone, with all that its peers tell it."""

    port: int
    heard: list[tuple[str, m.Message]] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    unheard: list[str] = field(default_factory=list)
    introduced: list[Candidate] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    opened: list[asyncio.StreamWriter] = field(default_factory=list)
    peers: Peers = field(init=False)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.opened.append(writer)
        return reader, writer

    async def greet(self, hello: m.Hello) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, m.Welcome]:
        reader, writer = await self.connect()
        writer.write(m.MAGIC + m.frame(hello))
        size = m.body_size(await reader.readexactly(4))
        return reader, writer, m.decode_welcome(await reader.readexactly(size))

    # ---- what the peers tell
    def on_message(self, peer: str, message: m.Message) -> None:
        self.heard.append((peer, message))

    def on_connected(self, peer: str) -> None:
        self.links.append(peer)

    def on_disconnected(self, peer: str) -> None:
        self.links.remove(peer)

    def on_unheard(self, peer: str) -> None:
        self.unheard.append(peer)

    def on_introduced(self, candidate: Candidate) -> None:
        self.introduced.append(candidate)

    def on_removed(self, why: str, cluster: str) -> None:
        self.removed.append(why)


def report(number: int) -> m.Report:
    return m.Report(number, 1, 0, b"")


def known(id: str, port: int, *, incarnation: str | None = None) -> MemberRecord:
    """Of `NAME` or `NAME/INCARNATION`."""
    name, _, joined = id.partition("/")
    given = (joined or f"of {name}") if incarnation is None else incarnation
    return MemberRecord(
        id=id, name=name, incarnation=given, peer_address=f"127.0.0.1:{port}", api_address="api", datacenter="eu"
    )


def configured(ports: dict[str, int], *, cluster: str = "ours", removed: tuple[str, ...] = ()) -> Configuration:
    return Configuration(cluster=cluster, members=tuple(known(id, port) for id, port in ports.items()), removed=removed)


Starting = Callable[..., Awaitable[End]]
HELLO = m.Hello(
    oldest_protocol=m.OLDEST_PROTOCOL,
    protocol=m.PROTOCOL,
    cluster="ours",
    id="b",
    name="b",
    incarnation="of b",
    to="a",
    peer_address="127.0.0.1:9",
    api_address="",
    datacenter="eu",
    role="voter",
    level=1,
)
WAITS = structs.replace(HELLO, cluster="", id="d/1", name="d", incarnation="1")


@pytest.fixture
async def starting() -> AsyncIterator[Starting]:
    ends: list[End] = []

    async def start(
        id: str = "a",
        port: int = 0,
        *,
        configuration: Configuration = NOBODY,
        join: Sequence[int] = (),
        tls: PeerTls | None = None,
    ) -> End:
        started = End(port or free_ports(1)[0])
        started.peers = Peers(
            record=known(id, started.port),
            level=1,
            listen=f"127.0.0.1:{started.port}",
            join=[f"127.0.0.1:{port}" for port in join],
            tls=tls,
            events=started,
        )
        ends.append(started)
        await started.peers.listen()
        if configuration != NOBODY:
            started.peers.configure(configuration)
        elif join:
            started.peers.join()
        return started

    yield start
    for end in ends:
        await end.peers.close()
        for writer in end.opened:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in end.opened), return_exceptions=True)
    for _ in range(3):  # turns of the loop, in which what was cut off while it connected is closed
        await asyncio.sleep(0)


@pytest.fixture
async def end(starting: Starting) -> End:
    """Member a; b is one too, and nobody listens at its address."""
    return await starting(configuration=configured({"a": 9, "b": 9}))


async def pair(starting: Starting, **options: PeerTls | None) -> tuple[End, End]:
    ports = dict(zip("ab", free_ports(2), strict=True))
    a, b = [await starting(name, ports[name], configuration=configured(ports), tls=options.get(name)) for name in "ab"]
    return a, b


async def test_messages_arrive_in_order_under_the_name_of_the_handshake(starting: Starting) -> None:
    a, b = await pair(starting)
    await until(lambda: a.links == ["b"] and b.links == ["a"], "both connections")
    for number in range(100):
        a.peers.send("b", report(number))
    await until(lambda: len(b.heard) == 100, "the messages")
    assert b.heard == [("a", report(number)) for number in range(100)]
    assert b.peers.heard["a"] == b.introduced[-1] == Candidate(known("a", a.port), 1)
    assert b.peers.protocols == {"a": m.PROTOCOL}


async def test_a_peer_that_comes_back_is_dialled_again(starting: Starting) -> None:
    a, b = await pair(starting)
    await until(lambda: a.links == ["b"] and b.links == ["a"], "both connections")
    await b.peers.close()
    await until(lambda: a.links == [] and a.unheard == ["b"], "the end of both connections")
    a.peers.send("b", report(1))  # dropped
    b = await starting("b", b.port, configuration=configured({"a": a.port, "b": b.port}))
    await until(lambda: a.links == ["b"], "the next connection")
    a.peers.send("b", report(2))
    await until(lambda: b.heard == [("a", report(2))], "the message")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"oldest_protocol": 9, "protocol": 9}, "it speaks protocols 9 to 9"),
        ({"oldest_protocol": 0, "protocol": 1}, "it speaks protocols 0 to 1"),
        ({"cluster": "theirs"}, "another cluster"),
        ({"to": "c"}, "this is a: check the addresses"),
        ({"id": "c", "name": "c", "incarnation": "of c"}, "c is not in this member's configuration"),
        ({"id": "b/2"}, "b/2 is not an id of b"),
        ({"peer_address": "nonsense"}, "its peer address is not HOST:PORT"),
    ],
)
async def test_whoever_does_not_belong_here_is_refused_and_told_why(
    end: End, changes: dict[str, str | int], why: str
) -> None:
    reader, _, welcome = await end.greet(structs.replace(HELLO, **changes))
    assert why in welcome.refusal
    assert not welcome.removed
    assert await reader.read() == b""
    assert (end.peers.heard, end.introduced, end.peers.closed["refused"]) == ({}, [], 1)


async def test_another_data_directory_under_a_known_name_is_refused(starting: Starting) -> None:
    """Also of a founder that no configuration describes yet."""
    unmet = founding("ours", {"a": "127.0.0.1:9", "b": "127.0.0.1:9"})
    for end in (await starting(configuration=configured({"a": 9, "b": 9})), await starting(configuration=unmet)):
        assert (await end.greet(HELLO))[2].refusal == ""
        second = structs.replace(HELLO, incarnation="second")
        assert "b has another data directory than before" in (await end.greet(second))[2].refusal
        assert end.peers.heard["b"].record.incarnation == "of b"


async def test_a_refused_member_says_so_in_its_own_log(starting: Starting, caplog: pytest.LogCaptureFixture) -> None:
    ports = dict(zip("ab", free_ports(2), strict=True))
    await starting("b", ports["b"], configuration=configured(ports, cluster="theirs"))
    await starting("a", ports["a"], configuration=configured(ports))
    await until(lambda: "refused this member: it belongs to another cluster" in caplog.text, "the warning")


async def test_a_removed_member_is_told_so(starting: Starting) -> None:
    ports = dict(zip("abc", free_ports(3), strict=True))
    b = await starting("b", ports["b"], configuration=configured(ports))
    await starting("a", ports["a"], configuration=configured({"a": ports["a"]}, removed=("of b",)))
    c = await starting("c", ports["c"], configuration=configured({**ports, "a": ports["a"]}))
    await until(lambda: bool(b.removed), "the word that ends it")
    assert "b was removed from this cluster; to come back it needs an empty data directory" in b.removed[0]
    assert c.removed == []


@pytest.mark.parametrize("removed", ["of b", "b"], ids=["by incarnation", "by id"])
async def test_a_member_that_is_removed_while_it_is_connected_is_told_so(starting: Starting, removed: str) -> None:
    """It may never learn it from the log: nobody sends it the commit."""
    a, b = await pair(starting)
    await until(lambda: a.links == ["b"] and b.links == ["a"], "both connections")
    a.peers.configure(configured({"a": a.port}, removed=(removed,)))
    await until(lambda: a.links == [] and bool(b.removed), "the word that ends it")


# ---- joining
async def test_who_wants_to_join_learns_the_members_and_both_sides_dial(starting: Starting) -> None:
    ports = dict(zip("ab", free_ports(2), strict=True))
    a, b = [await starting(name, ports[name], configuration=configured(ports)) for name in "ab"]
    d = await starting("d/1", join=[a.port])  # b is not asked
    await until(lambda: sorted(d.links) == ["a", "b"], "its connections")
    await until(lambda: "d/1" in a.links and "d/1" in b.links, "those back to it")
    assert a.introduced[-1] == Candidate(known("d/1", d.port), 1)
    b.peers.send("d/1", report(1))
    await until(lambda: d.heard == [("b", report(1))], "what a member says to it")


async def test_who_waits_is_not_listened_to_until_it_is_admitted(starting: Starting) -> None:
    """Its votes and appends are nobody's: it belongs to no cluster."""
    end = await starting(configuration=configured({"a": 9, "b": 9}))
    _, writer, welcome = await end.greet(WAITS)
    assert welcome.members == (("a", "127.0.0.1:9"), ("b", "127.0.0.1:9"))
    writer.write(m.frame(m.Append(1, 2**60, 9, 1, 0, [(1, b"x")])) + m.frame(m.RequestVote(2**60, 9, 9, True)))
    _, member, _ = await end.greet(HELLO)
    member.write(m.frame(report(1)))
    await until(lambda: bool(end.heard), "what a member says")
    end.peers.configure(configured({"a": 9, "b": 9, "d/1": 9}))
    writer.write(m.frame(m.RequestVote(2**60, 9, 9, True)) + m.frame(m.Fetch(1)))
    await until(lambda: len(end.heard) > 1, "what it asks as a member")
    assert end.heard == [("b", report(1)), ("d/1", m.Fetch(1))]  # it cannot know more than that it needs a state


async def test_whoever_is_admitted_is_dialled_again_as_a_member(starting: Starting) -> None:
    a = await starting(configuration=configured({"a": 9}))
    a.peers.configure(configured({"a": a.port}))
    d = await starting("d/1", join=[a.port])
    await until(lambda: d.links == ["a"] and a.links == ["d/1"], "both connections")
    d.peers.send("a", report(1))
    d.peers.configure(configured({"a": a.port, "d/1": d.port}))
    await until(lambda: "d/1" in a.unheard and d.links == ["a"], "the next connection")
    d.peers.send("a", report(2))
    await until(lambda: bool(a.heard), "what it says as a member")
    assert a.heard == [("d/1", report(2))]


async def test_a_member_that_this_one_does_not_know_yet_is_dialled_as_long_as_it_is_connected(
    starting: Starting,
) -> None:
    a = await starting(configuration=configured({"a": 9, "b": 9}))
    d = await starting("d/1", configuration=configured({"a": a.port}))
    await until(lambda: a.links == ["d/1"] and d.links == ["a"], "both connections")
    d.peers.send("a", m.RequestVote(5, 1, 2, False))
    await until(lambda: a.heard == [("d/1", m.RequestVote(5, 1, 2, False))], "its request")
    a.peers.send("d/1", m.Vote(5))
    await until(lambda: d.heard == [("a", m.Vote(5))], "the answer")
    await d.peers.close()
    await until(lambda: a.links == [] and "d/1" not in a.peers._dialled, "the end of it")


async def test_an_address_that_moved_is_dialled_there(starting: Starting) -> None:
    a, b = await pair(starting)
    await until(lambda: a.links == ["b"] and b.links == ["a"], "both connections")
    moved = await starting("b", configuration=configured({"a": a.port, "b": 9}))
    a.peers.configure(configured({"a": a.port, "b": moved.port}))
    await until(lambda: bool(moved.introduced) and a.links == ["b"], "the new connection")
    a.peers.send("b", report(1))
    await until(lambda: moved.heard == [("a", report(1))], "the message")
    assert b.heard == []


async def test_a_member_that_moved_is_dialled_where_it_says_it_is(starting: Starting) -> None:
    """Nobody can write its new address down while there is no leader, and there may be none without it."""
    ports = dict(zip("ab", free_ports(2), strict=True))
    a = await starting("a", ports["a"], configuration=configured(ports))
    moved = await starting("b", configuration=configured(ports))
    assert moved.port != ports["b"]
    await until(lambda: a.links == ["b"] and moved.links == ["a"], "both connections")
    a.peers.send("b", report(1))
    await until(lambda: moved.heard == [("a", report(1))], "the message")


async def test_no_more_strangers_than_the_limit_are_let_in(end: End, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "CANDIDATES", 2)
    for number in range(4):
        hello = structs.replace(WAITS, id=f"d/{number}", incarnation=str(number))
        refusal = (await end.greet(hello))[2].refusal
        assert refusal == ("" if number < 2 else "2 processes wait to be admitted already")
    assert (await end.greet(HELLO))[2].refusal == ""


async def test_an_address_that_cannot_be_one_is_dialled_in_vain(end: End, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "cluster.peers")
    nowhere = f"{'x' * 64}.example:9"  # no label of a host name is so long
    assert (await end.greet(structs.replace(WAITS, peer_address=nowhere)))[2].refusal == ""
    await until(lambda: caplog.text.count(f"d/1 at {nowhere}") > 1, "another attempt")


async def test_strangers_take_no_connection_from_a_member(end: End) -> None:
    for number in range(CANDIDATES):
        hello = structs.replace(WAITS, id=f"d/{number}", incarnation=str(number))
        assert (await end.greet(hello))[2].refusal == ""
    assert (await end.greet(HELLO))[2].refusal == ""


async def test_a_new_connection_of_a_member_replaces_its_old_one(end: End) -> None:
    """A machine that lost its power leaves a connection that nothing ends: these must not fill the port."""
    first, _, _ = await end.greet(HELLO)
    _, writer, _ = await end.greet(HELLO)
    assert await asyncio.wait_for(_rest(first), 3.0) == b""
    writer.write(m.frame(report(1)))
    await until(lambda: end.heard == [("b", report(1))], "the message")


GARBAGE = {
    "another protocol": b"GET / HTTP/1.1\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "no hello": m.MAGIC + m.frame(report(1)),
    "an empty frame": m.MAGIC + bytes(4),
    "a huge frame": m.MAGIC + b"\xff\xff\xff\xff",
    "a frame too large for a hello": m.MAGIC + (HELLO_BYTES + 1).to_bytes(4, "big"),
    "a damaged hello": m.MAGIC + (10).to_bytes(4, "big") + b"\xc1" * 10,
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_before_the_handshake_ends_the_connection_and_nothing_else(end: End, garbage: bytes) -> None:
    reader, writer = await end.connect()
    writer.write(garbage)
    assert await asyncio.wait_for(_rest(reader), 3.0) == b""
    assert (await end.greet(HELLO))[2].refusal == ""


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x00\x00\x00",
        (FRAME_BYTES + 1).to_bytes(4, "big"),
        (3).to_bytes(4, "big") + b"\xff\xff\xff",
        (200_014).to_bytes(4, "big") + b"\x96\xa6report\x01\x01\x01\xc4\x00" + b"\x91" * 200_000 + b"\xc0",
        m.frame(m.Welcome("")),
    ],
    ids=["empty", "huge", "damaged", "nested", "of another kind"],
)
async def test_garbage_after_the_handshake_ends_the_connection_and_nothing_else(
    end: End, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer, _ = await end.greet(HELLO)
    writer.write(m.frame(report(1)) + garbage)
    assert await asyncio.wait_for(_rest(reader), 3.0) == b""
    assert end.heard == [("b", report(1))]
    assert (await end.greet(HELLO))[2].refusal == ""
    assert "closed: " in caplog.text
    assert end.peers.closed["garbage"] == 1
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


async def test_a_truncated_frame_is_not_delivered(end: End) -> None:
    _, writer, _ = await end.greet(HELLO)
    writer.write(m.frame(report(1)) + m.frame(report(2))[:-1])
    writer.close()
    await until(lambda: end.heard == [("b", report(1))], "the whole frame")
    await until(lambda: not end.peers._inbound, "the end of the connection")
    assert len(end.heard) == 1


async def test_a_frame_may_arrive_in_pieces(end: End) -> None:
    _, writer, _ = await end.greet(HELLO)
    for byte in m.frame(report(7)):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0)
    await until(lambda: end.heard == [("b", report(7))], "the message")


async def test_a_slow_handshake_is_ended(end: End, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "HANDSHAKE_S", 0.05)
    reader, writer = await end.connect()
    writer.write(m.MAGIC[:3])
    assert await asyncio.wait_for(_rest(reader), 3.0) == b""


async def test_no_more_connections_than_the_limit_are_kept(end: End, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "PEER_CONNECTIONS", 2)
    open_ = [await end.connect() for _ in range(2)]
    await until(lambda: len(end.peers._inbound) == 2, "the connections")
    reader, _ = await end.connect()
    assert await asyncio.wait_for(_rest(reader), 3.0) == b""
    assert end.peers.closed["crowded"] == 1
    open_[0][1].close()
    await until(lambda: len(end.peers._inbound) == 1, "the end of one")
    assert (await end.greet(HELLO))[2].refusal == ""


async def test_a_peer_that_does_not_read_is_disconnected(starting: Starting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "SEND_BUFFER_BYTES", 1 << 20)
    stuck = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(m.frame(m.Welcome("")))
        await stuck.wait()
        writer.transport.abort()

    server = await asyncio.start_server(deaf, "127.0.0.1", 0)
    a = await starting(configuration=configured({"a": 9, "b": server.sockets[0].getsockname()[1]}))
    try:
        await until(lambda: a.links == ["b"], "the connection")
        server.close()
        for _ in range(20):
            a.peers.send("b", m.Propose(1, bytes(1 << 20)))
        await until(lambda: a.links == [], "the end of the connection")
    finally:
        stuck.set()


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


# ---- TLS
def openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


def authority_of(directory: Path) -> Path:
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1")
    openssl(directory, "req", "-x509", *curve, "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem")
    return directory


def certified(directory: Path, ca: Path, name: str) -> PeerTls:
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(directory, "req", *curve, "-subj", f"/CN={name}", "-keyout", "key.pem", "-out", "request.pem")
    (directory / "san").write_text("subjectAltName=IP:127.0.0.1")
    signing = ("-CA", str(ca / "ca.pem"), "-CAkey", str(ca / "ca.key"), "-days", "1", "-extfile", "san")
    openssl(directory, "x509", "-req", "-in", "request.pem", *signing, "-out", "cert.pem")
    contexts = []
    for purpose in (ssl.Purpose.CLIENT_AUTH, ssl.Purpose.SERVER_AUTH):
        context = ssl.create_default_context(purpose, cafile=str(ca / "ca.pem"))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
        contexts.append(context)
    return PeerTls(server=contexts[0], client=contexts[1])


@pytest.fixture
def certificates(tmp_path: Path) -> Callable[..., PeerTls]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command")
    made: dict[str, Path] = {}

    def make(name: str, *, ca: str = "ca") -> PeerTls:
        if ca not in made:
            (tmp_path / ca).mkdir()
            made[ca] = authority_of(tmp_path / ca)
        (tmp_path / f"{ca} {name}").mkdir()
        return certified(tmp_path / f"{ca} {name}", made[ca], name)

    return make


async def test_members_talk_over_tls(starting: Starting, certificates: Callable[..., PeerTls]) -> None:
    a, b = await pair(starting, a=certificates("a"), b=certificates("b"))
    await until(lambda: a.links == ["b"] and b.links == ["a"], "both connections")
    a.peers.send("b", m.Propose(1, bytes(1 << 20)))
    await until(lambda: len(b.heard) == 1, "the message")


async def test_a_member_of_another_authority_or_without_tls_gets_no_word_in(
    starting: Starting, certificates: Callable[..., PeerTls], caplog: pytest.LogCaptureFixture
) -> None:
    a, b = await pair(starting, a=certificates("a"), b=certificates("b", ca="other"))
    plain_reader, plain_writer = await a.connect()
    plain_writer.write(m.MAGIC + m.frame(HELLO))
    assert b"welcome" not in await asyncio.wait_for(_rest(plain_reader), 3.0)
    await until(lambda: not a.peers._inbound, "the end of what tried")
    assert (a.links, b.links, a.peers.heard, b.peers.heard) == ([], [], {}, {})
    assert a.peers.closed["tls"] > 0
    assert "no TLS that this member accepts" in caplog.text

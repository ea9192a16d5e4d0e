"""The peer port against everything that is no member, and the handshake."""

from __future__ import annotations

import asyncio
import logging
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cluster import messages as m
from cluster import peers as peers_module
from cluster.limits import FRAME_BYTES, HELLO_BYTES
from cluster.peers import Identity, Peers, PeerTls
from tests.integration.cluster_members import free_ports, until


@dataclass
class End:
    """Member a, whose only peer is b."""

    peers: Peers
    port: int
    heard: list[tuple[str, m.Message]] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    unheard: list[str] = field(default_factory=list)
    opened: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.opened.append(writer)
        return reader, writer

    async def greet(self, hello: m.Hello) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
        """With the refusal, if any."""
        reader, writer = await self.connect()
        writer.write(m.MAGIC + m.frame(hello))
        size = m.body_size(await reader.readexactly(4))
        return reader, writer, m.decode_welcome(await reader.readexactly(size)).refusal


Starting = Callable[..., Awaitable[End]]
HELLO = m.Hello(m.PROTOCOL, "ours", "b", "first", "a", "b:7400", "eu")


@pytest.fixture
async def starting() -> AsyncIterator[Starting]:
    ends: list[End] = []

    async def start(
        name: str = "a", port: int = 0, *, other: int = 0, foundation: str = "ours", tls: PeerTls | None = None
    ) -> End:
        port = port or free_ports(1)[0]
        peer = "b" if name == "a" else "a"
        started = End(
            Peers(
                identity=Identity(foundation, name, f"of {name}", f"{name}:7400", "eu"),
                listen=f"127.0.0.1:{port}",
                addresses={peer: f"127.0.0.1:{other or 9}"},
                tls=tls,
                on_message=lambda peer, message: started.heard.append((peer, message)),
                on_connected=lambda peer: started.links.append(peer),
                on_disconnected=lambda peer: started.links.remove(peer),
                on_unheard=lambda peer: started.unheard.append(peer),
            ),
            port,
        )
        ends.append(started)
        await started.peers.listen()
        if other:
            started.peers.dial()
        return started

    yield start
    for end in ends:
        await end.peers.close()
        for writer in end.opened:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in end.opened), return_exceptions=True)


@pytest.fixture
async def end(starting: Starting) -> End:
    return await starting()


async def pair(starting: Starting, **options: PeerTls | None) -> tuple[End, End]:
    ports = free_ports(2)
    a = await starting("a", ports[0], other=ports[1], tls=options.get("a"))
    b = await starting("b", ports[1], other=ports[0], tls=options.get("b"))
    return a, b


async def test_messages_arrive_in_order_under_the_name_of_the_handshake(starting: Starting) -> None:
    a, b = await pair(starting)
    await until(lambda: a.links == ["b"] and b.links == ["a"], "both connections")
    for number in range(100):
        a.peers.send("b", m.Report(number))
    await until(lambda: len(b.heard) == 100, "the messages")
    assert b.heard == [("a", m.Report(number)) for number in range(100)]
    assert b.peers.heard["a"] == Identity("ours", "a", "of a", "a:7400", "eu")


async def test_a_peer_that_comes_back_is_dialled_again(starting: Starting) -> None:
    a, b = await pair(starting)
    await until(lambda: a.links == ["b"] and b.links == ["a"], "both connections")
    await b.peers.close()
    await until(lambda: a.links == [] and a.unheard == ["b"], "the end of both connections")
    a.peers.send("b", m.Report(1))  # dropped
    b = await starting("b", b.port, other=a.port)
    await until(lambda: a.links == ["b"], "the next connection")
    a.peers.send("b", m.Report(2))
    await until(lambda: b.heard == [("a", m.Report(2))], "the message")


@pytest.mark.parametrize(
    ("field_name", "value", "why"),
    [
        ("protocol", 9, "speaks 1"),
        ("foundation", "theirs", "another cluster"),
        ("to", "c", "this is a: check the addresses"),
        ("member", "c", "c is not in this member's configuration"),
        ("member", "a", "a is not in this member's configuration"),
    ],
)
async def test_whoever_does_not_belong_here_is_refused_and_told_why(
    end: End, field_name: str, value: str, why: str
) -> None:
    hello = m.Hello(**{**{name: getattr(HELLO, name) for name in HELLO.__struct_fields__}, field_name: value})
    reader, _, refusal = await end.greet(hello)
    assert why in refusal
    assert await reader.read() == b""
    assert end.peers.heard == {}


async def test_another_data_directory_under_a_known_name_is_refused(end: End) -> None:
    assert (await end.greet(HELLO))[2] == ""
    second = m.Hello(m.PROTOCOL, "ours", "b", "second", "a", "b:7400", "eu")
    assert "b has another data directory than before" in (await end.greet(second))[2]
    assert end.peers.heard["b"].incarnation == "first"


async def test_a_refused_member_says_so_in_its_own_log(starting: Starting, caplog: pytest.LogCaptureFixture) -> None:
    ports = free_ports(2)
    await starting("b", ports[1], foundation="theirs")
    await starting("a", ports[0], other=ports[1])
    await until(lambda: "refused this member: it belongs to another cluster" in caplog.text, "the warning")


async def test_a_new_connection_of_a_member_replaces_its_old_one(end: End) -> None:
    """A machine that lost its power leaves a connection that nothing ends: these must not fill the port."""
    first, _, _ = await end.greet(HELLO)
    _, writer, _ = await end.greet(HELLO)
    assert await asyncio.wait_for(_rest(first), 3.0) == b""
    writer.write(m.frame(m.Report(1)))
    await until(lambda: end.heard == [("b", m.Report(1))], "the message")


GARBAGE = {
    "another protocol": b"GET / HTTP/1.1\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "no hello": m.MAGIC + m.frame(m.Report(1)),
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
    assert (await end.greet(HELLO))[2] == ""


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x00\x00\x00",
        (FRAME_BYTES + 1).to_bytes(4, "big"),
        (3).to_bytes(4, "big") + b"\xff\xff\xff",
        (200_010).to_bytes(4, "big") + b"\x93\xa6report\x01" + b"\x91" * 200_000 + b"\xc0",
        m.frame(m.Welcome("")),
    ],
    ids=["empty", "huge", "damaged", "nested", "of another kind"],
)
async def test_garbage_after_the_handshake_ends_the_connection_and_nothing_else(
    end: End, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer, _ = await end.greet(HELLO)
    writer.write(m.frame(m.Report(1)) + garbage)
    assert await asyncio.wait_for(_rest(reader), 3.0) == b""
    assert end.heard == [("b", m.Report(1))]
    assert (await end.greet(HELLO))[2] == ""
    assert "closed: " in caplog.text
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


async def test_a_truncated_frame_is_not_delivered(end: End) -> None:
    _, writer, _ = await end.greet(HELLO)
    writer.write(m.frame(m.Report(1)) + m.frame(m.Report(2))[:-1])
    writer.close()
    await until(lambda: end.heard == [("b", m.Report(1))], "the whole frame")
    await until(lambda: not end.peers._inbound, "the end of the connection")
    assert len(end.heard) == 1


async def test_a_frame_may_arrive_in_pieces(end: End) -> None:
    _, writer, _ = await end.greet(HELLO)
    for byte in m.frame(m.Report(7)):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0)
    await until(lambda: end.heard == [("b", m.Report(7))], "the message")


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
    open_[0][1].close()
    await until(lambda: len(end.peers._inbound) == 1, "the end of one")
    assert (await end.greet(HELLO))[2] == ""


async def test_a_peer_that_does_not_read_is_disconnected(starting: Starting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "SEND_BUFFER_BYTES", 1 << 20)
    stuck = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(m.frame(m.Welcome("")))
        await stuck.wait()
        writer.transport.abort()

    server = await asyncio.start_server(deaf, "127.0.0.1", 0)
    a = await starting("a", other=server.sockets[0].getsockname()[1])
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
    starting: Starting, certificates: Callable[..., PeerTls]
) -> None:
    a, b = await pair(starting, a=certificates("a"), b=certificates("b", ca="other"))
    plain_reader, plain_writer = await a.connect()
    plain_writer.write(m.MAGIC + m.frame(HELLO))
    assert b"welcome" not in await asyncio.wait_for(_rest(plain_reader), 3.0)
    await until(lambda: not a.peers._inbound, "the end of what tried")
    assert (a.links, b.links, a.peers.heard, b.peers.heard) == ([], [], {}, {})

"""Connections between members: each member dials every other and sends on that connection only.

A connection starts with a handshake (magic, Hello; Welcome): protocol, cluster, names, incarnation. Frames are bounded
and length-prefixed; anything else closes the connection and is logged. TLS on both sides when configured. What a
dropped connection loses, Raft sends again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from cluster import messages as m
from cluster.limits import (
    CONNECT_S,
    FRAME_BYTES,
    HANDSHAKE_S,
    HELLO_BYTES,
    PEER_CONNECTIONS,
    RECONNECT_MAX_S,
    RECONNECT_MIN_S,
    SEND_BUFFER_BYTES,
    USER_TIMEOUT_MS,
)

log = logging.getLogger("cluster.peers")


@dataclass(frozen=True)
class Identity:
    """What a member says of itself in its handshake."""

    foundation: str
    member: str
    incarnation: str
    api_address: str
    datacenter: str


@dataclass(frozen=True)
class PeerTls:
    server: ssl.SSLContext
    client: ssl.SSLContext


class Peers:
    """`on_message`, `on_connected` and `on_disconnected` are called on the loop; `send` never blocks."""

    def __init__(
        self,
        *,
        identity: Identity,
        listen: str,
        addresses: dict[str, str],
        tls: PeerTls | None,
        on_message: Callable[[str, m.Message], None],
        on_connected: Callable[[str], None],
        on_disconnected: Callable[[str], None],
        on_unheard: Callable[[str], None],
    ) -> None:
        """`addresses`: the other members, name to host:port. `on_unheard`: a connection from that member ended."""
        self._identity, self._listen, self._addresses, self._tls = identity, listen, addresses, tls
        self._on_message, self._on_connected, self._on_disconnected = on_message, on_connected, on_disconnected
        self._on_unheard = on_unheard
        self._writers: dict[str, asyncio.StreamWriter] = {}
        self._inbound: set[asyncio.StreamWriter] = set()
        self._newest: dict[str, asyncio.StreamWriter] = {}  # inbound, by member
        self._tasks: list[asyncio.Task[None]] = []
        self._server: asyncio.Server | None = None
        self.heard: dict[str, Identity] = {}  # what the others said of themselves

    async def listen(self) -> None:
        """Bind; raises OSError when the address cannot be had."""
        host, port = split_address(self._listen)
        self._server = await asyncio.start_server(
            self._accept, host, port, ssl=self._tls.server if self._tls else None, limit=2**20
        )

    def dial(self) -> None:
        """Connect to every other member, again and again."""
        for peer, address in self._addresses.items():
            self._tasks.append(asyncio.create_task(self._keep_dialling(peer, address), name=f"dial {peer}"))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server:
            self._server.close()
        writers = [*self._writers.values(), *self._inbound]
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)

    def send(self, peer: str, message: m.Message) -> None:
        """Drops what cannot be sent: no connection, or a peer that does not read."""
        writer = self._writers.get(peer)
        if writer is None or writer.transport.is_closing():
            return
        if writer.transport.get_write_buffer_size() > SEND_BUFFER_BYTES:
            log.warning("%s does not read: %d bytes unsent, dropping the connection", peer, SEND_BUFFER_BYTES)
            writer.transport.abort()
            return
        writer.write(m.frame(message))

    # ---- outbound
    async def _keep_dialling(self, peer: str, address: str) -> None:
        delay_s = RECONNECT_MIN_S
        while True:
            try:
                reader, writer = await self._connect(peer, address)
            except (OSError, TimeoutError, EOFError, m.FrameError, ssl.SSLError) as error:
                log.debug("%s at %s: %s", peer, address, error)
                await asyncio.sleep(delay_s * (0.5 + random.random()))
                delay_s = min(delay_s * 2, RECONNECT_MAX_S)
                continue
            delay_s = RECONNECT_MIN_S
            self._writers[peer] = writer
            self._on_connected(peer)
            try:
                await reader.read(1)  # nothing is ever sent back: it ends when the connection does
            except OSError as error:
                log.debug("%s: %s", peer, error)
            finally:
                del self._writers[peer]
                writer.transport.abort()
                self._on_disconnected(peer)

    async def _connect(self, peer: str, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = split_address(address)
        me = self._identity
        async with asyncio.timeout(CONNECT_S):
            tls = self._tls.client if self._tls else None
            reader, writer = await asyncio.open_connection(host, port, ssl=tls)
        try:
            _tune(writer)
            hello = m.Hello(m.PROTOCOL, me.foundation, me.member, me.incarnation, peer, me.api_address, me.datacenter)
            writer.write(m.MAGIC + m.frame(hello))
            async with asyncio.timeout(HANDSHAKE_S):
                welcome = m.decode_welcome(await _read_frame(reader, HELLO_BYTES))
            if welcome.refusal:
                log.warning("%s at %s refused this member: %s", peer, address, welcome.refusal)
                raise m.FrameError(welcome.refusal)
        except BaseException:
            writer.transport.abort()
            raise
        return reader, writer

    # ---- inbound
    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        where = writer.get_extra_info("peername")
        if len(self._inbound) >= PEER_CONNECTIONS:
            log.warning("connection from %s refused: %d are open", where, len(self._inbound))
            writer.transport.abort()
            return
        self._inbound.add(writer)
        peer = ""
        try:
            peer = await self._welcome(reader, writer)
            if peer:
                self._replace(peer, writer)
            while peer:
                self._on_message(peer, m.decode_message(await _read_frame(reader)))
        except m.FrameError as error:
            log.warning("connection from %s closed: %s", where, error)
        except (OSError, TimeoutError, EOFError) as error:
            log.debug("connection from %s ended: %s", where, error)
        finally:
            self._inbound.discard(writer)
            writer.transport.abort()
            if peer:
                self._on_unheard(peer)

    def _replace(self, peer: str, writer: asyncio.StreamWriter) -> None:
        """A member has one connection to here. Nothing else would end the one that its lost machine or network left:
        nothing is ever sent on it."""
        if previous := self._newest.get(peer):
            previous.transport.abort()
        self._newest[peer] = writer

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """The name of the member that dialled, or empty after a refusal."""
        async with asyncio.timeout(HANDSHAKE_S):
            if await reader.readexactly(len(m.MAGIC)) != m.MAGIC:
                raise m.FrameError("not a member: the first bytes are not ours")
            hello = m.decode_hello(await _read_frame(reader, HELLO_BYTES))
        refusal = self._refusal(hello)
        writer.write(m.frame(m.Welcome(refusal)))
        if refusal:
            log.warning("member %s refused: %s", hello.member, refusal)
            with contextlib.suppress(OSError):
                await writer.drain()
            return ""
        self.heard[hello.member] = Identity(
            hello.foundation, hello.member, hello.incarnation, hello.api_address, hello.datacenter
        )
        return hello.member

    def _refusal(self, hello: m.Hello) -> str:
        me = self._identity
        if hello.protocol != m.PROTOCOL:
            return f"protocol {hello.protocol}, this member speaks {m.PROTOCOL}"
        if hello.foundation != me.foundation:
            return "it belongs to another cluster: its --cluster differs from the one that founded this one"
        if hello.to != me.member:
            return f"it dialled {hello.to}, this is {me.member}: check the addresses in --cluster"
        if hello.member not in self._addresses:
            return f"{hello.member} is not in this member's configuration"
        known = self.heard.get(hello.member)
        if known and known.incarnation != hello.incarnation:
            return f"{hello.member} has another data directory than before: its log is lost or it runs twice"
        return ""


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port`. Raises ValueError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"not HOST:PORT: {address!r}")
    return host.strip("[]"), int(port)


async def _read_frame(reader: asyncio.StreamReader, limit_bytes: int = FRAME_BYTES) -> bytes:
    return await reader.readexactly(m.body_size(await reader.readexactly(4), limit_bytes))


def _tune(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    if raw is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)

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
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cluster import messages as m
from cluster.configuration import NOBODY, Configuration, MemberRecord
from cluster.handshake import judge, split_address
from cluster.limits import (
    CANDIDATES,
    CONNECT_S,
    FRAME_BYTES,
    HANDSHAKE_S,
    HELLO_BYTES,
    JOIN_S,
    PEER_CONNECTIONS,
    RECONNECT_MAX_S,
    RECONNECT_MIN_S,
    SEND_BUFFER_BYTES,
    USER_TIMEOUT_MS,
    WELCOME_BYTES,
)
from cluster.membership import Candidate

log = logging.getLogger("cluster.peers")
CLOSED = ("crowded", "garbage", "refused", "tls")
UNREACHABLE = (OSError, EOFError, ValueError)  # no such host name is a ValueError, as a frame that is none


@dataclass(frozen=True)
class PeerTls:
    server: ssl.SSLContext
    client: ssl.SSLContext


class Events(Protocol):
    """Called on the loop."""

    def on_message(self, peer: str, message: m.Message) -> None: ...

    def on_connected(self, peer: str) -> None: ...

    def on_disconnected(self, peer: str) -> None: ...

    def on_unheard(self, peer: str) -> None:
        """A connection from that peer ended."""

    def on_introduced(self, candidate: Candidate) -> None:
        """A member, or a process that wants to be one, said who it is."""

    def on_removed(self, why: str, cluster: str) -> None:
        """This member does not belong to the cluster any more, says a member of this history."""


class Peers:
    """Whoever is in the configuration is dialled, and so is a stranger as long as it is connected to here: it may be a
    member that this one does not know yet. `send` never blocks."""

    def __init__(
        self,
        *,
        record: MemberRecord,
        level: int,
        listen: str,
        join: Sequence[str],
        tls: PeerTls | None,
        events: Events,
    ) -> None:
        """`join`: peer addresses where a member without a configuration asks for one."""
        self._me, self._level, self._listen, self._join, self._tls = record, level, listen, join, tls
        self._events = events
        self._configuration = NOBODY
        self._learned: dict[str, str] = {}  # while joining: peer addresses by id
        self._strangers: dict[str, str] = {}  # not in the configuration, and connected to here
        self._applicants: set[str] = set()  # who said that they want to join
        self._dialled: dict[str, tuple[str, asyncio.Task[None]]] = {}  # by id: address
        self._joining: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()  # all of them, also those that are being cancelled
        self._closed = False
        self._writers: dict[str, asyncio.StreamWriter] = {}
        self._inbound: set[asyncio.StreamWriter] = set()
        self._newest: dict[str, asyncio.StreamWriter] = {}  # inbound, by id
        self._server: asyncio.Server | None = None
        self._incarnations: dict[str, str] = {}  # of founders that the configuration does not know yet
        self.heard: dict[str, Candidate] = {}  # what the others said of themselves
        self.protocols: dict[str, int] = {}  # spoken with each
        self.refused_by: dict[str, str] = {}  # who refuses this member, and why
        self.closed = Counter(dict.fromkeys(CLOSED, 0))  # inbound connections ended by this side, by reason

    async def listen(self) -> None:
        """Bind; raises OSError when the address cannot be had."""
        host, port = split_address(self._listen)
        self._server = await asyncio.start_server(self._accept, host, port, limit=2**20)

    def configure(self, configuration: Configuration) -> None:
        """Who belongs to the cluster from now on: dial them, and let go of those who do not."""
        admitted = self._configuration == NOBODY != configuration
        self._configuration = configuration
        if admitted:
            self._learned.clear()
            for task in (*self._joining, *(task for _, task in self._dialled.values())):
                task.cancel()
            self._dialled.clear()  # to be dialled again as a member: who only wants to join is not listened to
        for id, writer in list(self._newest.items()):
            if configuration.is_removed(id, self._incarnations.get(id, "")):  # it is told when it comes back
                writer.transport.abort()
        self._strangers = {id: at for id, at in self._strangers.items() if not configuration.get(id)}
        self._dial()

    def join(self) -> None:
        """Ask for admission until there is a configuration."""
        self._joining = [self._spawn(self._keep_asking(address), f"join {address}") for address in self._join]

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _dial(self) -> None:
        """Connect to each, again and again."""
        members = {member.id: member.peer_address for member in self._configuration.members}
        wanted = self._learned | self._strangers | members
        wanted.pop(self._me.id, None)
        for id in [id for id, (address, _) in self._dialled.items() if wanted.get(id) != address]:
            self._dialled.pop(id)[1].cancel()
        for id, address in wanted.items():
            if id not in self._dialled:
                self._dialled[id] = (address, self._spawn(self._keep_dialling(id, address), f"dial {id}"))

    async def close(self) -> None:
        self._closed = True
        if self._server:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
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
        """In turns at the configured address and where it says it is now: only a leader can write a new one down, and
        without this member there may be none."""
        delay_s, tries = RECONNECT_MIN_S, 0
        while True:
            heard, tries = self.heard.get(peer), tries + 1
            where = heard.record.peer_address if heard and tries % 2 == 0 else address
            try:
                reader, writer, welcome = await self._connect(peer, where)
            except UNREACHABLE as error:
                log.debug("%s at %s: %s", peer, where, error)
                await asyncio.sleep(delay_s * (0.5 + random.random()))
                delay_s = min(delay_s * 2, RECONNECT_MAX_S)
                continue
            delay_s, tries = RECONNECT_MIN_S, 0
            self._writers[peer], self.protocols[peer] = writer, welcome.protocol
            self._events.on_connected(peer)
            try:
                await reader.read(1)  # nothing is ever sent back: it ends when the connection does
            except OSError as error:
                log.debug("%s: %s", peer, error)
            finally:
                if self._writers.get(peer) is writer:  # else a moved address was dialled meanwhile
                    del self._writers[peer]
                    self._events.on_disconnected(peer)
                writer.transport.abort()

    async def _keep_asking(self, address: str) -> None:
        """The members are dialled as soon as one of them has said who they are."""
        while True:
            try:
                _, writer, welcome = await self._connect("", address)
                writer.transport.abort()
                if self._configuration == NOBODY:
                    self._learned.update(welcome.members)
                    self._dial()
            except UNREACHABLE as error:
                log.info("cannot join at %s: %s", address, error)
            await asyncio.sleep(JOIN_S * (0.5 + random.random()))

    async def _connect(self, peer: str, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, m.Welcome]:
        host, port = split_address(address)
        async with asyncio.timeout(CONNECT_S):
            tls = self._tls.client if self._tls else None
            reader, writer = await asyncio.open_connection(host, port, ssl=tls)
        try:
            _tune(writer)
            writer.write(m.MAGIC + m.frame(self._hello(peer)))
            async with asyncio.timeout(HANDSHAKE_S):
                welcome = m.decode_welcome(await _read_frame(reader, WELCOME_BYTES))
            self._note_refusal(peer or address, welcome.refusal)
            if welcome.refusal:
                if welcome.removed:
                    self._events.on_removed(welcome.refusal, welcome.cluster)
                raise m.FrameError(welcome.refusal)
        except asyncio.IncompleteReadError:
            writer.transport.abort()
            hint = "" if self._tls else "; does it want TLS?"
            raise m.FrameError(f"it closed the connection without an answer{hint}") from None
        except BaseException:
            writer.transport.abort()
            raise
        return reader, writer, welcome

    def _note_refusal(self, by: str, why: str) -> None:
        if why and self.refused_by.get(by) != why:  # once, and not at every try
            log.warning("%s refused this member: %s", by, why)
        if why:
            self.refused_by[by] = why
        else:
            self.refused_by.pop(by, None)

    def _hello(self, to: str) -> m.Hello:
        me = self._me
        return m.Hello(
            oldest_protocol=m.OLDEST_PROTOCOL,
            protocol=m.PROTOCOL,
            cluster=self._configuration.cluster,
            id=me.id,
            name=me.name,
            incarnation=me.incarnation,
            to=to,
            peer_address=me.peer_address,
            api_address=me.api_address,
            datacenter=me.datacenter,
            role=me.role,
            level=self._level,
        )

    # ---- inbound
    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        where = writer.get_extra_info("peername")
        if self._closed:
            writer.transport.abort()
            return
        if len(self._inbound) >= PEER_CONNECTIONS:
            log.warning("connection from %s refused: %d are open", where, len(self._inbound))
            self.closed["crowded"] += 1
            writer.transport.abort()
            return
        self._inbound.add(writer)
        peer = ""
        try:
            if self._tls:
                async with asyncio.timeout(HANDSHAKE_S):
                    await writer.start_tls(self._tls.server)
            peer = await self._welcome(reader, writer)
            if peer:
                self._replace(peer, writer)
            while peer:
                message = m.decode_message(await _read_frame(reader))
                if peer not in self._applicants or self._may_fetch(peer, message):
                    self._events.on_message(peer, message)
        except m.FrameError as error:
            log.warning("connection from %s closed: %s", where, error)
            self.closed["garbage"] += 1
        except ssl.SSLError as error:
            log.warning("connection from %s closed: no TLS that this member accepts: %s", where, error)
            self.closed["tls"] += 1
        except (OSError, TimeoutError, EOFError) as error:
            log.debug("connection from %s ended: %s", where, error)
        finally:
            self._inbound.discard(writer)
            writer.transport.abort()
            if peer:
                self._gone(peer, writer)

    def _may_fetch(self, peer: str, message: m.Message) -> bool:
        """Whoever was admitted and has no configuration yet asks for a state, and has nothing else to say."""
        return isinstance(message, m.Fetch | m.FetchRows) and self._configuration.get(peer) is not None

    def _replace(self, peer: str, writer: asyncio.StreamWriter) -> None:
        """A member has one connection to here. Nothing else would end the one that its lost machine or network left:
        nothing is ever sent on it."""
        if previous := self._newest.get(peer):
            previous.transport.abort()
        self._newest[peer] = writer

    def _gone(self, peer: str, writer: asyncio.StreamWriter) -> None:
        self._events.on_unheard(peer)
        if self._newest.get(peer) is writer:
            del self._newest[peer]
            if self._strangers.pop(peer, None):
                self.heard.pop(peer, None)
                self._incarnations.pop(peer, None)
                self._applicants.discard(peer)
                self._dial()

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """The id of the peer that dialled, or empty after a refusal or a mere question."""
        async with asyncio.timeout(HANDSHAKE_S):
            if await reader.readexactly(len(m.MAGIC)) != m.MAGIC:
                raise m.FrameError("not a member: the first bytes are not ours")
            hello = m.decode_hello(await _read_frame(reader, HELLO_BYTES))
        configuration = self._configuration
        refusal = judge(hello, self._me.id, configuration, self._incarnations.get(hello.id, ""), self._learned)
        if not refusal and not configuration.get(hello.id) and len(self._strangers) >= CANDIDATES:
            refusal = f"{CANDIDATES} processes wait to be admitted already"
        answer = m.Welcome(
            refusal=refusal,
            removed=configuration.is_removed(hello.id, hello.incarnation),
            cluster=configuration.cluster,
            id=self._me.id,
            protocol=min(hello.protocol, m.PROTOCOL),
            members=tuple((member.id, member.peer_address) for member in configuration.members),
        )
        writer.write(m.frame(answer))
        if refusal:
            log.warning("member %s refused: %s", hello.id, refusal)
            self.closed["refused"] += 1
        if refusal or not hello.to:
            with contextlib.suppress(OSError):
                await writer.drain()
            return ""
        self._heard(hello)
        return hello.id

    def _heard(self, hello: m.Hello) -> None:
        record = MemberRecord(
            id=hello.id,
            name=hello.name,
            incarnation=hello.incarnation,
            peer_address=hello.peer_address,
            api_address=hello.api_address,
            datacenter=hello.datacenter,
            role="observer" if hello.role == "observer" else "voter",
        )
        candidate = Candidate(record, hello.level)
        self._incarnations[hello.id] = hello.incarnation
        (self._applicants.discard if hello.cluster else self._applicants.add)(hello.id)
        self.heard[hello.id] = candidate
        if not self._configuration.get(hello.id):
            self._strangers[hello.id] = hello.peer_address
            self._dial()
        self._events.on_introduced(candidate)


async def _read_frame(reader: asyncio.StreamReader, limit_bytes: int = FRAME_BYTES) -> bytes:
    return await reader.readexactly(m.body_size(await reader.readexactly(4), limit_bytes))


def _tune(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    if raw is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)

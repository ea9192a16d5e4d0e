"""One end of the socket between a member and a worker: messages behind their lengths, all of a turn in one write."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import msgspec

from registry.server.limits import LINK_MESSAGE_BYTES, LINK_UNREAD_BYTES
from registry.server.workers.messages import encode

_LENGTH = struct.Struct(">I")
M = TypeVar("M")


class Link(asyncio.Protocol, Generic[M]):
    """`receive` is called with every message, `lost` once the socket is closed, by whichever side and why. What is sent
    in one turn of the loop goes out at its end: first what was told, then what was sent, each in order."""

    def __init__(self, decode: Callable[[bytes], M], receive: Callable[[M], None], lost: Callable[[str], None]) -> None:
        self._decode, self._receive, self._lost = decode, receive, lost
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._news: list[Any] = []
        self._answers: list[Any] = []
        self._is_due = False
        self._why = "the other side closed it"

    def tell(self, message: Any) -> None:
        """Before all that is sent in this turn."""
        self._news.append(message)
        self._soon()

    def send(self, message: Any) -> None:
        self._answers.append(message)
        self._soon()

    def close(self, why: str) -> None:
        """At once: what was not written is lost."""
        if self._transport is not None and not self._transport.is_closing():
            self._why = why
            self._transport.abort()

    def end(self) -> None:
        """Once all that was told and sent is written."""
        self.flush()
        if self._transport is not None:
            self._why = "ended"
            self._transport.close()

    def flush(self) -> None:
        self._is_due = False
        messages = self._news + self._answers
        self._news, self._answers = [], []
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        out = bytearray()
        for message in messages:
            data = encode(message)
            out += _LENGTH.pack(len(data))
            out += data
        transport.write(bytes(out))
        if transport.get_write_buffer_size() > LINK_UNREAD_BYTES:
            self.close("the other side reads nothing")

    def _soon(self) -> None:
        # One commit has many answers: a write for each would cost more than what is in it. And none of them may come
        # before the news of that commit, although it may be sent first.
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self.flush)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by shape, not by class

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(f"{self._why}: {exc}" if exc else self._why)

    def data_received(self, data: bytes) -> None:
        self._received += data
        at = 0
        while len(self._received) - at >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._received, at)
            if size > LINK_MESSAGE_BYTES:
                self.close(f"a message of {size:,} bytes")
                return
            end = at + _LENGTH.size + size
            if len(self._received) < end:
                break
            try:
                message = self._decode(bytes(memoryview(self._received)[at + _LENGTH.size : end]))
            except msgspec.MsgspecError as error:
                self.close(f"no message: {error}")
                return
            at = end
            self._receive(message)
        del self._received[:at]

"""Looking after the data of one member: scrub and compact, told of while they go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from msgspec import Struct

from registry.client import failures, limits
from registry.client.endpoints import Endpoint
from registry.client.failures import AttemptError
from registry.core.errors import Reason, Unavailable
from registry.v1 import cluster_pb2

Progress = Callable[[int, int], None]  # bytes so far, bytes expected, about


class Damage(Struct, frozen=True, kw_only=True):
    table: str
    key: str
    what: str


class Scrubbed(Struct, frozen=True, kw_only=True):
    """What one member read and found. `repair`: what happens now, in words; empty: all is well."""

    member: str
    rows: int
    contents: int
    size_bytes: int
    damage: tuple[Damage, ...] = ()
    repair: str = ""


class Compacted(Struct, frozen=True, kw_only=True):
    member: str
    before_bytes: int
    after_bytes: int


async def scrub(endpoint: Endpoint, *, timeout_s: float, progress: Progress | None) -> Scrubbed:
    """timeout_s: until it begins. Raises Unavailable: not reached, BUSY, or it broke off."""
    async for message in _messages(endpoint, "Scrub", cluster_pb2.ScrubRequest(), timeout_s):
        if progress is not None:
            progress(message.bytes, message.estimated_bytes)
        if message.done:
            return Scrubbed(
                member=message.info.served_by,
                rows=message.rows,
                contents=message.contents,
                size_bytes=message.bytes,
                damage=tuple(Damage(table=each.table, key=each.key, what=each.what) for each in message.damage),
                repair=message.repair,
            )
    raise _early("the scrub")


async def compact(endpoint: Endpoint, *, timeout_s: float) -> Compacted:
    """timeout_s: until it begins. Raises Unavailable: not reached, BUSY, NO_SPACE, or it broke off."""
    async for message in _messages(endpoint, "Compact", cluster_pb2.CompactRequest(), timeout_s):
        if message.done:
            return Compacted(
                member=message.info.served_by, before_bytes=message.before_bytes, after_bytes=message.after_bytes
            )
    raise _early("the compaction")


async def _messages(endpoint: Endpoint, name: str, request: Any, timeout_s: float) -> AsyncIterator[Any]:
    """Members say something every second while they work."""
    stream = None
    try:
        timeout_s = await endpoint.connect(timeout_s)
        stream = getattr(endpoint.cluster, name)(request)
        while True:
            async with asyncio.timeout(max(timeout_s, limits.MAINTENANCE_SILENCE_S)):
                message = await stream.read()
            if message is grpc.aio.EOF:  # type: ignore[attr-defined]
                return
            yield message
    except TimeoutError:
        raise failures.no_answer(limits.MAINTENANCE_SILENCE_S, sent=True).error from None
    except AttemptError as failed:
        raise failed.failure.error from None
    except grpc.aio.AioRpcError as error:
        raise failures.of_call(error).error from None
    finally:
        if stream is not None:
            stream.cancel()


def _early(what: str) -> Unavailable:
    return Unavailable(Reason.SHUTTING_DOWN, f"{what} ended early: the member stops", hint="try again")

"""An online backup: the stream of one member, checked against what that member says it sent."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, BinaryIO

import grpc
from msgspec import Struct

from registry.client import convert, failures, limits, values
from registry.client.calls import Attempt, Plan
from registry.client.endpoints import Endpoint
from registry.client.failures import AttemptError, Failure
from registry.core.errors import Reason, Unavailable
from registry.v1 import cluster_pb2

Run = Callable[[Plan, Attempt[Any]], Awaitable[Any]]
Progress = Callable[[int, int], None]  # bytes so far, bytes expected, about


class Backup(Struct, frozen=True, kw_only=True):
    """`info` has revision, epoch, cluster and the member that gave it; its `age_ms`, of a stale one, since that member
    heard the leader. Everything up to `index` of the log is in it."""

    info: values.ReplyInfo
    index: int
    taken_ms: int
    size_bytes: int
    sha256: str  # hex


async def take(run: Run, plan: Plan, out: BinaryIO, *, stale: bool, progress: Progress | None) -> Backup:
    """Raises Unavailable when no member begins in time, and when one breaks off: `out` is of no use then."""
    request = cluster_pb2.BackupRequest(stale=stale)
    streams: list[Any] = []

    async def begin(endpoint: Endpoint, timeout_s: float) -> Any:
        timeout_s = await endpoint.connect(timeout_s)
        streams.append(endpoint.cluster.Backup(request))
        return (await _read(streams[-1], timeout_s)).start

    try:
        start = await run(plan, begin)
        digest, size_bytes = hashlib.sha256(), 0
        while True:
            try:
                message = await _read(streams[-1], limits.BACKUP_SILENCE_S)
            except AttemptError as failed:
                raise _broken(f"{failed.failure.error.message}, after {size_bytes} bytes") from None
            if message.HasField("end"):
                break
            out.write(message.data)
            digest.update(message.data)
            size_bytes += len(message.data)
            if progress is not None:
                progress(size_bytes, start.estimated_bytes)
    finally:
        for stream in streams:
            stream.cancel()
    if (message.end.size_bytes, message.end.sha256) != (size_bytes, digest.digest()):
        raise _broken(f"{size_bytes} bytes arrived that are not the {message.end.size_bytes} that were sent")
    return Backup(
        info=convert.info(start.info),
        index=start.index,
        taken_ms=start.taken_ms,
        size_bytes=size_bytes,
        sha256=digest.hexdigest(),
    )


async def _read(stream: Any, timeout_s: float) -> cluster_pb2.BackupResponse:
    """The next message. Raises AttemptError when there is none in time, or none any more."""
    try:
        async with asyncio.timeout(timeout_s):
            message = await stream.read()
    except TimeoutError:
        raise AttemptError(failures.no_answer(timeout_s, sent=True)) from None
    except grpc.aio.AioRpcError as error:
        raise AttemptError(failures.of_call(error)) from None
    if message is grpc.aio.EOF:  # type: ignore[attr-defined]
        ended = Unavailable(Reason.SHUTTING_DOWN, "the member ended the stream early")
        raise AttemptError(Failure(ended, executed=False))
    return message  # type: ignore[no-any-return]


def _broken(how: str) -> Unavailable:
    return Unavailable(Reason.NO_MEMBER, f"the backup broke off: {how}", hint="what arrived is of no use; try again")

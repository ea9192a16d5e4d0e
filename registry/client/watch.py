"""Changes as they happen, over as many streams as it takes: when one breaks, the next resumes after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import grpc

from registry.client import convert, failures, limits
from registry.client.calls import OnFailedAttempt
from registry.client.endpoints import Endpoints
from registry.client.failures import AttemptError
from registry.core.errors import Reason, RegistryError, Unavailable
from registry.core.limits import WATCH_HEARTBEAT_S
from registry.core.model import Change
from registry.v1 import registry_pb2


async def follow(
    endpoints: Endpoints,
    workflows: Sequence[str],
    cursor: int,
    *,
    confirmed: bool,
    timeout_s: float,
    on_failed_attempt: OnFailedAttempt | None = None,
) -> AsyncGenerator[Change, None]:
    """Changes from revision `cursor` on. `confirmed`: the registry itself named the cursor, so a member that
    finds it in the future is only behind. Raises what the registry decided, or Unavailable when every member failed
    and timeout_s passed without a sign of life.
    """
    loop = asyncio.get_running_loop()
    alive_at = loop.time()
    tried: dict[str, RegistryError] = {}
    while True:
        endpoint = endpoints.next(set(tried), leader_first=False)
        if endpoint is None:
            if loop.time() - alive_at > timeout_s:
                raise _silence(tried, timeout_s)
            await asyncio.sleep(limits.BACKOFF_MAX_S / 2)
            tried.clear()
            continue
        request = registry_pb2.WatchRequest(workflows=workflows, from_revision=cursor)
        stream = endpoint.registry.Watch(request)
        try:
            while True:
                message = await _read(stream)
                endpoints.answered(endpoint, message.info)
                alive_at, confirmed = loop.time(), True
                tried.clear()
                for change in message.changes:
                    if change.revision >= cursor:
                        cursor = change.revision + 1
                        yield convert.change(change)
                if not message.changes:
                    cursor = max(cursor, message.info.revision + 1)
        except AttemptError as failed:
            error = failed.failure.error
            behind = confirmed and error.reason is Reason.REVISION_IN_FUTURE
            if not failed.failure.retry and not behind:
                raise error from None
            tried[endpoint.address] = error
            endpoints.failed(endpoint)
            if on_failed_attempt is not None:
                on_failed_attempt(endpoint.address, error)
        finally:
            stream.cancel()


async def _read(stream: Any) -> registry_pb2.WatchResponse:
    """The next message. Raises AttemptError when the stream ended, or went silent for longer than members do."""
    silence_s = WATCH_HEARTBEAT_S + limits.POLL_GRACE_S
    try:
        async with asyncio.timeout(silence_s):
            message = await stream.read()
    except TimeoutError:
        raise AttemptError(failures.no_answer(silence_s, sent=True)) from None
    except grpc.aio.AioRpcError as error:
        raise AttemptError(failures.of_call(error)) from None
    if message is grpc.aio.EOF:  # type: ignore[attr-defined]
        ended = Unavailable(Reason.SHUTTING_DOWN, "the member ended the stream")
        raise AttemptError(failures.Failure(ended, executed=False))
    return message  # type: ignore[no-any-return]


def _silence(tried: dict[str, RegistryError], timeout_s: float) -> Unavailable:
    causes = "; ".join(f"{address}: {error.message}" for address, error in tried.items())
    return Unavailable(
        Reason.NO_MEMBER,
        f"no member could serve the watch for {timeout_s:g} s ({causes})",
        hint="resume with the last revision seen + 1 once members can be reached",
        metadata={"tried": ", ".join(tried)},
    )

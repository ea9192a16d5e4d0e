"""One flow of messages over as many streams as it takes: when one breaks, the next member goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection
from typing import Any

import grpc

from registry.client import failures, limits
from registry.client.calls import OnFailedAttempt
from registry.client.endpoints import Endpoint, Endpoints
from registry.client.failures import AttemptError
from registry.core.errors import Reason, RegistryError, Unavailable


async def messages(
    endpoints: Endpoints,
    begin: Callable[[Endpoint], Any],
    *,
    silence_s: float,
    timeout_s: float,
    silence: Callable[[str], Unavailable],
    is_passing: Callable[[RegistryError], bool] = lambda _: False,
    decided: Callable[[Collection[RegistryError]], RegistryError | None] = lambda _: None,
    on_failed_attempt: OnFailedAttempt | None = None,
) -> AsyncGenerator[Any, None]:
    """What members send on the streams that `begin` opens. A stream without a message for silence_s is given up.

    Raises what the registry decided, unless it `is_passing`: then another member may know better. When every member
    failed: what these errors together have `decided`, if anything, or `silence`, with the causes, once timeout_s passed
    without a sign of life.
    """
    loop = asyncio.get_running_loop()
    alive_at = loop.time()
    tried: dict[str, RegistryError] = {}
    while True:
        endpoint = endpoints.next(set(tried), leader_first=False)
        if endpoint is None:
            if (error := decided(tried.values())) is not None:
                raise error
            if loop.time() - alive_at > timeout_s:
                raise _with_causes(silence, tried)
            await asyncio.sleep(limits.BACKOFF_MAX_S / 2)
            tried.clear()
            continue
        stream = begin(endpoint)
        try:
            while True:
                message = await _read(stream, silence_s)
                endpoints.answered(endpoint, message.info)
                alive_at = loop.time()
                tried.clear()
                yield message
        except AttemptError as failed:
            error = failed.failure.error
            if not failed.failure.retry and not is_passing(error):
                raise error from None
            tried[endpoint.address] = error
            endpoints.failed(endpoint)
            if on_failed_attempt is not None:
                on_failed_attempt(endpoint.address, error)
        finally:
            stream.cancel()


async def _read(stream: Any, silence_s: float) -> Any:
    """The next message. Raises AttemptError when the stream ended, or went silent for longer than members do."""
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
    return message


def _with_causes(silence: Callable[[str], Unavailable], tried: dict[str, RegistryError]) -> Unavailable:
    error = silence("; ".join(f"{address}: {error.message}" for address, error in tried.items()))
    error.metadata["tried"] = ", ".join(tried)
    return error

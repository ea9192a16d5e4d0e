"""Changes as they happen, each once: a stream that breaks is resumed after the last one seen."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from registry.client import convert, limits, streams
from registry.client.calls import OnFailedAttempt
from registry.client.endpoints import Endpoint, Endpoints
from registry.core.errors import Reason, Unavailable
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

    def begin(endpoint: Endpoint) -> Any:
        return endpoint.registry.Watch(registry_pb2.WatchRequest(workflows=workflows, from_revision=cursor))

    messages = streams.messages(
        endpoints,
        begin,
        silence_s=WATCH_HEARTBEAT_S + limits.POLL_GRACE_S,
        timeout_s=timeout_s,
        silence=lambda causes: _silence(causes, timeout_s),
        is_passing=lambda error: confirmed and error.reason is Reason.REVISION_IN_FUTURE,
        on_failed_attempt=on_failed_attempt,
    )
    async with aclosing(messages):
        async for message in messages:
            confirmed = True
            for change in message.changes:
                if change.revision >= cursor:
                    cursor = change.revision + 1
                    yield convert.change(change)
            if not message.changes:
                cursor = max(cursor, message.info.revision + 1)


def _silence(causes: str, timeout_s: float) -> Unavailable:
    return Unavailable(
        Reason.NO_MEMBER,
        f"no member could serve the watch for {timeout_s:g} s ({causes})",
        hint="resume with the last revision seen + 1 once members can be reached",
    )

"""grpc.health.v1, whose watches end when the member leaves: else each would hold it for the whole grace."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio  # type: ignore[attr-defined]  # not in the stubs

from registry.server.limits import READINESS_INTERVAL_S

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health(aio.HealthServicer):  # type: ignore[misc]
    """Of this member (service ``) and of each of its services, all alike."""

    def __init__(self, services: list[str]) -> None:
        super().__init__()
        self._names = ["", *services]
        self._leaving = asyncio.Event()

    async def tell(self, *, serving: bool) -> None:
        for name in self._names:
            await self.set(name, _SERVING if serving else _NOT_SERVING)

    async def leave(self) -> None:
        """Not serving, for good. Watches hear it and end soon after."""
        await self.enter_graceful_shutdown()
        asyncio.get_running_loop().call_later(READINESS_INTERVAL_S, self._leaving.set)

    async def Watch(  # noqa: N802 - the rpc's name
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        watch = asyncio.ensure_future(super().Watch(request, context))
        leaving = asyncio.ensure_future(self._leaving.wait())
        try:
            await asyncio.wait([watch, leaving], return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                await context.abort(grpc.StatusCode.UNAVAILABLE, "this member is stopping")
        finally:
            watch.cancel()
            leaving.cancel()

"""RegistryApi over the members' HTTP face, and which face an agent talks to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from registry.agent import limits
from registry.agent.adapter import ClientApi
from registry.agent.api import Ack, Poll, Polled, Progress, RegistryApi
from registry.agent.config import ConfigError
from registry.client import Client, TlsConfig
from registry.client.http import HttpClient
from registry.client.http_members import is_http
from registry.core.errors import RegistryError

log = structlog.get_logger(__name__)


@asynccontextmanager
async def connected(
    endpoints: Sequence[str] | str, *, name: str, tls: TlsConfig | None = None
) -> AsyncIterator[RegistryApi]:
    """Over HTTP where the endpoints are http:// or https:// addresses, over gRPC where they are HOST:PORT. Raises
    ConfigError for a mixture, Invalid for what is neither."""
    endpoints = endpoints.split(",") if isinstance(endpoints, str) else list(endpoints)
    faces = {is_http(endpoint) for endpoint in endpoints}
    if len(faces) > 1:
        raise ConfigError(
            "endpoints are either all http:// or https:// addresses, or all HOST:PORT (gRPC); these are mixed: "
            + ", ".join(endpoints)
        )
    if True in faces:
        async with HttpClient(endpoints, tls=tls, on_failed_attempt=_tell) as client:
            yield HttpApi(client)
    else:
        async with Client(endpoints, principal=name, tls=tls) as grpc_client:
            yield ClientApi(grpc_client)


def _tell(address: str, error: RegistryError) -> None:
    log.debug("member left for another", address=address, error=str(error))


class HttpApi:
    """Content is held against what the newest poll announced, so that a member with other bytes is left for another."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._announced: dict[tuple[str, int], tuple[str, int]] = {}  # (workflow, version) -> digest, size

    async def poll(self, poll: Poll, *, timeout_s: float) -> Polled:
        reply, frames = await self._client.poll(poll, timeout_s=timeout_s)
        for each in reply.instructions:
            self._announced.pop((each.workflow, each.version), None)  # the newest come last
            self._announced[each.workflow, each.version] = each.digest, each.size_bytes
        for old in list(self._announced)[: -2 * len(poll.follows)]:
            del self._announced[old]
        return Polled(reply, frames)

    async def content(
        self, workflow: str, version: int, *, min_revision: int, base: bytes, into: Path, progress: Progress
    ) -> bytes | None:
        digest, size_bytes = self._announced.get((workflow, version), ("", -1))
        return await self._client.content(
            workflow,
            version,
            min_revision=min_revision,
            into=into,
            base=base,
            progress=progress,
            digest=digest,
            size_bytes=size_bytes,
        )

    async def acknowledge(self, acks: Sequence[Ack]) -> None:
        await self._client.acknowledge(acks, timeout_s=limits.ACK_TIMEOUT_S)

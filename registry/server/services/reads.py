"""Reads: a barrier unless stale was asked for, then one snapshot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar

from google.protobuf.message import Message

from cluster.kv.api import Environment, Reader
from registry.core import model, references
from registry.server import convert
from registry.server.feed import Feed, busy
from registry.server.inspector import Inspector
from registry.server.limits import INLINE_BYTES, PAGE_BYTES
from registry.server.proposer import Proposer
from registry.server.replies import Replies
from registry.store import content, queries
from registry.store.state import Rows
from registry.v1 import registry_pb2

Row = TypeVar("Row")
M = TypeVar("M", bound=Message)


class Reads:
    def __init__(
        self,
        *,
        proposer: Proposer,
        environment: Environment,
        feed: Feed,
        replies: Replies,
        inspector: Inspector,
    ) -> None:
        self._proposer = proposer
        self._environment = environment
        self._feed = feed
        self._replies = replies
        self._inspector = inspector

    def snapshot(self) -> AbstractContextManager[Reader]:
        """What is committed here."""
        return self._environment.snapshot()

    async def resolve(self, workflow: str, target: references.Target, timeout_s: float) -> model.Version:
        """The version a reference names, as of a moment after the call. Raises as queries.resolve, NO_QUORUM."""
        await self._proposer.barrier(timeout_s)
        with self.snapshot() as reader:
            return queries.resolve(reader, workflow, target)

    async def number(self, workflow: str, target: references.Target, timeout_s: float) -> int:
        """A number needs no look: whether it exists is decided in apply."""
        if isinstance(target, references.Number):
            return target.number
        return (await self.resolve(workflow, target, timeout_s)).number

    async def stored(self, workflow: str, number: int = 0) -> tuple[model.Version, bytes] | None:
        """A version (0: the newest) and its exact bytes, as committed here. None: there is none here.
        Raises CORRUPT_CONTENT."""
        with self.snapshot() as reader:
            rows = Rows(reader)
            if not number:
                known = rows.workflow(workflow)
                number = known.versions if known else 0
            version = rows.version(workflow, number) if number else None
            if version is None:
                return None
            stored = queries.stored_content(reader, version)
        return version, await _decoded(stored, version.digest)

    @property
    def fingerprint_key(self) -> bytes:
        """Of secrets; empty: none yet."""
        return self._feed.registry.fingerprint_key

    async def get_pointer(
        self, request: registry_pb2.GetPointerRequest, timeout_s: float
    ) -> registry_pb2.GetPointerResponse:
        await self._current(request.stale, timeout_s)
        with self.snapshot() as reader:
            row = queries.pointer(reader, request.workflow, request.pointer or model.DEFAULT_POINTER)
            return registry_pb2.GetPointerResponse(info=self._info(reader, request.stale), pointer=convert.pointer(row))

    async def get_version(
        self, request: registry_pb2.GetVersionRequest, timeout_s: float
    ) -> registry_pb2.GetVersionResponse:
        target = references.parse_target(request.reference)
        await self._current(request.stale, timeout_s)
        with self.snapshot() as reader:
            row = queries.resolve(reader, request.workflow, target)
            return registry_pb2.GetVersionResponse(info=self._info(reader, request.stale), version=convert.version(row))

    async def get_content(
        self, request: registry_pb2.GetContentRequest, timeout_s: float
    ) -> registry_pb2.GetContentResponse:
        target = references.parse_target(request.reference)
        if request.stale:
            await self._applied(request.min_revision, timeout_s)
        else:
            await self._proposer.barrier(timeout_s)
        with self.snapshot() as reader:
            row = queries.resolve(reader, request.workflow, target)
            stored = queries.stored_content(reader, row)
            info = self._info(reader, request.stale)
        return registry_pb2.GetContentResponse(
            info=info, version=convert.version(row), content=await _decoded(stored, row.digest)
        )

    async def list_workflows(
        self, request: registry_pb2.ListWorkflowsRequest, timeout_s: float
    ) -> registry_pb2.ListWorkflowsResponse:
        await self._current(request.stale, timeout_s)
        with self.snapshot() as reader:
            read = partial(queries.workflows, reader, prefix=request.prefix, page_token=request.page_token)
            rows, token = _page(read, request.page_size, convert.workflow)
            return registry_pb2.ListWorkflowsResponse(
                info=self._info(reader, request.stale), workflows=rows, next_page_token=token
            )

    async def list_versions(
        self, request: registry_pb2.ListVersionsRequest, timeout_s: float
    ) -> registry_pb2.ListVersionsResponse:
        await self._current(request.stale, timeout_s)
        with self.snapshot() as reader:
            read = partial(queries.versions, reader, request.workflow, _filter(request), page_token=request.page_token)
            rows, token = _page(read, request.page_size, convert.version)
            return registry_pb2.ListVersionsResponse(
                info=self._info(reader, request.stale), versions=rows, next_page_token=token
            )

    async def get_policy(
        self, request: registry_pb2.GetPolicyRequest, timeout_s: float
    ) -> registry_pb2.GetPolicyResponse:
        await self._current(request.stale, timeout_s)
        with self.snapshot() as reader:
            in_force = queries.policy(reader, request.scope)
            return convert.policy_in_force(in_force, self._info(reader, request.stale))

    async def get_impact(
        self, request: registry_pb2.GetImpactRequest, timeout_s: float
    ) -> registry_pb2.GetImpactResponse:
        await self._current(request.stale, timeout_s)
        with self.snapshot() as reader:
            found = queries.impact(reader, request.workflow)
            return convert.impact(found, self._info(reader, request.stale))

    async def get_history(
        self, request: registry_pb2.GetHistoryRequest, timeout_s: float
    ) -> registry_pb2.GetHistoryResponse:
        await self._current(request.stale, timeout_s)
        with self.snapshot() as reader:
            read = partial(
                queries.history, reader, request.workflow, pointer=request.pointer, page_token=request.page_token
            )
            rows, token = _page(read, request.page_size, convert.change)
            return registry_pb2.GetHistoryResponse(
                info=self._info(reader, request.stale), changes=rows, next_page_token=token
            )

    async def list_agents(
        self, request: registry_pb2.ListAgentsRequest, timeout_s: float
    ) -> registry_pb2.ListAgentsResponse:
        await self._current(request.stale, timeout_s)
        now_ms = self._proposer.clock_ms()
        with self.snapshot() as reader:
            read = partial(queries.agents, reader, workflow=request.workflow, page_token=request.page_token)
            rows, token = _page(read, request.page_size, partial(convert.agent, now_ms=now_ms))
            return registry_pb2.ListAgentsResponse(
                info=self._info(reader, request.stale), agents=rows, next_page_token=token
            )

    async def compare(self, request: registry_pb2.CompareRequest, timeout_s: float) -> registry_pb2.CompareResponse:
        sides = [
            (request.from_workflow, references.parse_target(request.from_reference)),
            (request.to_workflow or request.from_workflow, references.parse_target(request.to_reference)),
        ]
        await self._current(request.stale, timeout_s)
        with self.snapshot() as reader:
            old, new = (queries.resolve(reader, workflow, target) for workflow, target in sides)
            old_stored, new_stored = queries.stored_content(reader, old), queries.stored_content(reader, new)
            info = self._info(reader, request.stale)
        contents = await _decoded(old_stored, old.digest), await _decoded(new_stored, new.digest)
        try:
            async with asyncio.timeout(timeout_s):
                compared = await self._inspector.compare(*contents, old.kind, new.kind)
        except TimeoutError:
            raise busy("the versions could not be compared in time") from None
        reply = registry_pb2.CompareResponse(
            info=info,
            to=convert.version(new),
            summary=compared.summary,
            comparison_json=compared.comparison_json,
        )
        getattr(reply, "from").CopyFrom(convert.version(old))  # a keyword of Python
        return reply

    async def _current(self, stale: bool, timeout_s: float) -> None:
        if not stale:
            await self._proposer.barrier(timeout_s)

    async def _applied(self, revision: int, timeout_s: float) -> None:
        if not await self._feed.revision(revision, timeout_s) or self._feed.registry.revision < revision:
            raise busy(f"this member has applied revision {self._feed.registry.revision}, not yet {revision}")

    def _info(self, reader: Reader, stale: bool) -> registry_pb2.ReplyInfo:
        return self._replies.info(queries.registry(reader).revision, stale=stale)


def _filter(request: registry_pb2.ListVersionsRequest) -> queries.VersionFilter:
    return queries.VersionFilter(
        labels=tuple(request.labels),
        author=request.author,
        since_ms=request.since_ms,
        until_ms=request.until_ms,
        text=request.text,
        status=request.status,
    )


def _page(
    read: Callable[..., queries.Page[Row]], page_size: int, to_message: Callable[[Row], M]
) -> tuple[list[M], str]:
    """A page as messages, and the token of what follows. Cut short where gRPC would refuse the reply."""
    page = read(page_size=page_size)
    messages: list[M] = []
    size_bytes = 0
    for row in page.items:
        message = to_message(row)
        size_bytes += message.ByteSize()
        if size_bytes > PAGE_BYTES and messages:
            return messages, read(page_size=len(messages)).next_page_token
        messages.append(message)
    return messages, page.next_page_token


async def _decoded(stored: model.Content, digest: str) -> bytes:
    """The exact bytes, checked. Large ones are unpacked beside the loop: the codecs let go of the interpreter."""
    if stored.size_bytes <= INLINE_BYTES:
        return content.decode(stored, digest)
    return await asyncio.to_thread(content.decode, stored, digest)

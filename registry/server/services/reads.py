"""Reads: a barrier unless stale was asked for, then one snapshot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar

from google.protobuf.message import Message

from cluster.kv.api import Reader, Snapshots
from registry.core import model, names, references
from registry.core.errors import Reason, Refused
from registry.server import convert, reading
from registry.server.contents import Contents
from registry.server.feed import Feed, busy
from registry.server.inspect_worker import CompareJob
from registry.server.inspector import Inspector
from registry.server.limits import PAGE_BYTES
from registry.server.proposer import Proposer
from registry.server.replies import Replies
from registry.store import queries
from registry.store.content import Chain
from registry.store.state import Rows
from registry.v1 import registry_pb2

Row = TypeVar("Row")
T = TypeVar("T")
M = TypeVar("M", bound=Message)
LARGE = "chunks"  # encoding of content that is never put together here


class Reads:
    def __init__(
        self,
        *,
        proposer: Proposer,
        environment: Snapshots,
        feed: Feed,
        replies: Replies,
        inspector: Inspector,
    ) -> None:
        self._proposer = proposer
        self._environment = environment
        self._feed = feed
        self._replies = replies
        self._inspector = inspector
        self.contents = Contents()

    def peek(self) -> AbstractContextManager[Reader]:
        """What is committed here; for a moment in which nobody else runs."""
        return self._environment.peek()

    async def beside(self, read: Callable[[Reader], T]) -> T:
        """What `read` makes of it, in a thread: for what looks at much."""
        return await reading.beside(self._environment, read)

    async def resolve(self, workflow: str, target: references.Target, timeout_s: float) -> model.Version:
        """The version a reference names, as of a moment after the call. Raises as queries.resolve, NO_QUORUM."""
        await self._proposer.barrier(timeout_s)
        with self.peek() as reader:
            return queries.resolve(reader, workflow, target)

    async def number(self, workflow: str, target: references.Target, timeout_s: float) -> int:
        """A number needs no look: whether it exists is decided in apply."""
        if isinstance(target, references.Number):
            return target.number
        return (await self.resolve(workflow, target, timeout_s)).number

    async def stored(self, workflow: str, number: int = 0) -> tuple[model.Version, bytes] | None:
        """A version (0: the newest) and its exact bytes, as committed here; without them where they are in chunks.
        None: there is none here. Raises CORRUPT_CONTENT, CONTENT_REMOVED."""
        with self.peek() as reader:
            rows = Rows(reader)
            version = _version(rows, workflow, number)
            if version is None:
                return None
            stored = queries.stored_content(reader, version)
            if stored.encoding == LARGE:
                return version, b""
            chain = self.contents.chain(rows, version.digest, stored)
        return version, await self.contents.exact(chain)

    def version(self, workflow: str, number: int = 0) -> model.Version | None:
        """A version (0: the newest), as committed here."""
        with self.peek() as reader:
            return _version(Rows(reader), workflow, number)

    @property
    def revision(self) -> int:
        """Committed here."""
        return self._feed.registry.revision

    @property
    def fingerprint_key(self) -> bytes:
        """Of secrets; empty: none yet."""
        return self._feed.registry.fingerprint_key

    async def get_pointer(
        self, request: registry_pb2.GetPointerRequest, timeout_s: float
    ) -> registry_pb2.GetPointerResponse:
        await self._current(request.stale, timeout_s)
        with self.peek() as reader:
            return _pointer(reader, request, self._info(reader, request.stale))

    async def get_pointers(
        self, requests: Sequence[registry_pb2.GetPointerRequest], timeout_s: float
    ) -> list[registry_pb2.GetPointerResponse | Exception]:
        """As get_pointer, of each: its reply, or what it would raise. None is stale: one barrier and one look serve
        all."""
        replies: list[registry_pb2.GetPointerResponse | Exception] = []
        try:
            await self._proposer.barrier(timeout_s)
            with self.peek() as reader:
                info = self._info(reader, stale=False)
                for request in requests:
                    try:
                        replies.append(_pointer(reader, request, info))
                    except Exception as error:  # noqa: BLE001 - one request's failure is its own
                        replies.append(error)
        except Exception as error:  # noqa: BLE001 - and this is everybody's
            return [error] * len(requests)
        return replies

    async def get_version(
        self, request: registry_pb2.GetVersionRequest, timeout_s: float
    ) -> registry_pb2.GetVersionResponse:
        target = references.parse_target(request.reference)
        await self._current(request.stale, timeout_s)
        with self.peek() as reader:
            row = queries.resolve(reader, request.workflow, target)
            return registry_pb2.GetVersionResponse(info=self._info(reader, request.stale), version=convert.version(row))

    async def get_content(
        self, request: registry_pb2.GetContentRequest, timeout_s: float
    ) -> registry_pb2.GetContentResponse:
        target = references.parse_target(request.reference)
        if request.stale:
            await self.applied(request.min_revision, timeout_s)
        else:
            await self._proposer.barrier(timeout_s)
        with self.peek() as reader:
            row = queries.resolve(reader, request.workflow, target)
            stored = queries.stored_content(reader, row)
            reply = registry_pb2.GetContentResponse(
                info=self._info(reader, request.stale), version=convert.version(row)
            )
            if stored.encoding == LARGE:
                reply.chunks.extend(stored.chunks)
                return reply
            chain = self.contents.chain(Rows(reader), row.digest, stored)
            over = self._over(reader, request) if request.compact else None
        if not request.compact:
            reply.content = await self.contents.exact(chain)
            return reply
        packed = await self.contents.compact(chain, over)
        reply.encoding, reply.base_digest, reply.content = packed.encoding, packed.base_digest, packed.data
        return reply

    def _over(self, reader: Reader, request: registry_pb2.GetContentRequest) -> Chain | None:
        """What the caller has, if this workflow has it too and it can be packed over."""
        if not request.base_digest:
            return None
        names.check_digest(request.base_digest)
        rows = Rows(reader)
        is_ours = rows.digest(request.workflow, request.base_digest) is not None
        return self.contents.base(rows, request.base_digest) if is_ours else None

    async def list_workflows(
        self, request: registry_pb2.ListWorkflowsRequest, timeout_s: float
    ) -> registry_pb2.ListWorkflowsResponse:
        await self._current(request.stale, timeout_s)
        with self.peek() as reader:
            read = partial(queries.workflows, reader, prefix=request.prefix, page_token=request.page_token)
            rows, token = _page(read, request.page_size, convert.workflow)
            return registry_pb2.ListWorkflowsResponse(
                info=self._info(reader, request.stale), workflows=rows, next_page_token=token
            )

    async def list_versions(
        self, request: registry_pb2.ListVersionsRequest, timeout_s: float
    ) -> registry_pb2.ListVersionsResponse:
        await self._current(request.stale, timeout_s)
        with self.peek() as reader:
            read = partial(queries.versions, reader, request.workflow, _filter(request), page_token=request.page_token)
            rows, token = _page(read, request.page_size, convert.version)
            return registry_pb2.ListVersionsResponse(
                info=self._info(reader, request.stale), versions=rows, next_page_token=token
            )

    async def get_policy(
        self, request: registry_pb2.GetPolicyRequest, timeout_s: float
    ) -> registry_pb2.GetPolicyResponse:
        await self._current(request.stale, timeout_s)
        with self.peek() as reader:
            in_force = queries.policy(reader, request.scope)
            return convert.policy_in_force(in_force, self._info(reader, request.stale))

    async def get_impact(
        self, request: registry_pb2.GetImpactRequest, timeout_s: float
    ) -> registry_pb2.GetImpactResponse:
        await self._current(request.stale, timeout_s)
        with self.peek() as reader:
            found = queries.impact(reader, request.workflow)
            return convert.impact(found, self._info(reader, request.stale))

    async def get_history(
        self, request: registry_pb2.GetHistoryRequest, timeout_s: float
    ) -> registry_pb2.GetHistoryResponse:
        await self._current(request.stale, timeout_s)
        with self.peek() as reader:
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
        with self.peek() as reader:
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
        with self.peek() as reader:
            old, new = (queries.resolve(reader, workflow, target) for workflow, target in sides)
            chains = []
            for version in (old, new):
                stored = queries.stored_content(reader, version)
                if stored.encoding == LARGE:
                    raise _too_large_to_compare(version)
                chains.append(self.contents.chain(Rows(reader), version.digest, stored))
            info = self._info(reader, request.stale)
        job = CompareJob(
            old=await self.contents.exact(chains[0]),
            new=await self.contents.exact(chains[1]),
            kind_old=old.kind,
            kind_new=new.kind,
            secrets_old=old.secrets,
            secrets_new=new.secrets,
        )
        try:
            async with asyncio.timeout(timeout_s):
                compared = await self._inspector.compare(job)
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

    async def applied(self, revision: int, timeout_s: float) -> None:
        """Until a revision is committed here. Raises Unavailable(BUSY) when it is not in time."""
        if not await self._feed.revision(revision, timeout_s) or self._feed.registry.revision < revision:
            raise busy(f"this member has applied revision {self._feed.registry.revision}, not yet {revision}")

    def _info(self, reader: Reader, stale: bool) -> registry_pb2.ReplyInfo:
        return self._replies.info(queries.registry(reader).revision, stale=stale)


def _pointer(
    reader: Reader, request: registry_pb2.GetPointerRequest, info: registry_pb2.ReplyInfo
) -> registry_pb2.GetPointerResponse:
    row = queries.pointer(reader, request.workflow, request.pointer or model.DEFAULT_POINTER)
    return registry_pb2.GetPointerResponse(info=info, pointer=convert.pointer(row))


def _version(rows: Rows, workflow: str, number: int) -> model.Version | None:
    if not number:
        known = rows.workflow(workflow)
        number = known.versions if known else 0
    return rows.version(workflow, number) if number else None


def _too_large_to_compare(version: model.Version) -> Refused:
    return Refused(
        Reason.COMPARE_LIMIT,
        f"{version.workflow}@{version.number} has {version.size_bytes:,} bytes in chunks: it was kept as it is, and is "
        "not compared",
        hint="fetch both versions with `regctl cat REF --file FILE` and compare them by hand",
        metadata={"workflow": version.workflow, "version": str(version.number)},
    )


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

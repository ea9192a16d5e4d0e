"""Content over HTTP: exact bytes, whole or in ranges, or the small form for who has other bytes already."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qs, unquote

from cluster.kv.api import Snapshots
from registry.core import limits, model, names, references
from registry.core.errors import Invalid, NotFound, Reason
from registry.server.contents import Contents
from registry.server.feed import Feed, busy
from registry.server.http import Exchange, Route
from registry.server.http_api import Check
from registry.server.http_messages import Request, Response
from registry.server.limits import CONTENT_WAIT_S, HTTP_STREAMS
from registry.store import content, queries
from registry.store.content import Chain
from registry.store.state import Rows

PREFIX = "/v1/content/"
BYTES = "application/octet-stream"
_RANGE = re.compile(rb"bytes=(\d{0,18})-(\d{0,18})")
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)


class _Asked(NamedTuple):
    workflow: str
    target: references.Target
    min_revision: int
    base: str
    is_compact: bool


class _Found(NamedTuple):
    """Of one snapshot: content in chunks, or a chain to unpack, and the chain of what the caller has."""

    version: model.Version
    chunks: tuple[str, ...]
    chain: Chain | None
    over: Chain | None


class ContentApi:
    """From this member's own state, never older than the revision that the caller names."""

    def __init__(self, *, environment: Snapshots, feed: Feed, contents: Contents, check: Check) -> None:
        self._environment, self._feed, self._contents, self._check = environment, feed, contents, check
        self._streams = 0
        self.routes: Mapping[str, Route] = {PREFIX: Route(self._content, private=True)}

    def _content(self, request: Request, exchange: Exchange) -> None:
        self._check("GetContent")
        exchange.run(self._answer(request, _asked(request), exchange))

    async def _answer(self, request: Request, asked: _Asked, exchange: Exchange) -> Response | None:
        if self._feed.registry.revision < asked.min_revision:
            await self._feed.revision(asked.min_revision, CONTENT_WAIT_S)
        if (revision := self._feed.registry.revision) < asked.min_revision:
            raise busy(f"this member has applied revision {revision}, not yet {asked.min_revision}")
        found = self._find(asked)
        headers = [("x-registry-digest", found.version.digest), ("etag", f'"{found.version.digest}"')]
        if asked.is_compact and found.chain is not None:
            packed = await self._contents.compact(found.chain, found.over)
            headers = [headers[0], ("x-registry-encoding", packed.encoding)]
            if packed.base_digest:
                headers.append(("x-registry-base", packed.base_digest))
            await _send(exchange, request, packed.data, Response(HTTPStatus.OK, b"", BYTES, tuple(headers)))
            return None
        if asked.is_compact:
            headers.append(("x-registry-encoding", "raw"))
        headers.append(("accept-ranges", "bytes"))
        size_bytes = found.version.size_bytes
        span = _span(request, size_bytes, found.version.digest)
        if span is None:
            headers.append(("content-range", f"bytes */{size_bytes}"))
            return Response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", BYTES, tuple(headers))
        status = HTTPStatus.OK
        if len(span) < size_bytes:
            status = HTTPStatus.PARTIAL_CONTENT
            headers.append(("content-range", f"bytes {span.start}-{span.stop - 1}/{size_bytes}"))
        head = Response(status, b"", BYTES, tuple(headers))
        if found.chain is None:
            await self._stream(exchange, request, head, found.chunks, span)
        else:
            data = await self._contents.exact(found.chain)
            await _send(exchange, request, memoryview(data)[span.start : span.stop], head)
        return None

    def _find(self, asked: _Asked) -> _Found:
        with self._environment.peek() as reader:
            rows = Rows(reader)
            version = queries.resolve(reader, asked.workflow, asked.target)
            stored = queries.stored_content(reader, version)
            if stored.encoding == "chunks":
                return _Found(version, stored.chunks, None, None)
            chain = self._contents.chain(rows, version.digest, stored)
            is_ours = asked.base and rows.digest(asked.workflow, asked.base) is not None
            return _Found(version, (), chain, self._contents.base(rows, asked.base) if is_ours else None)

    async def _stream(
        self, exchange: Exchange, request: Request, head: Response, chunks: tuple[str, ...], span: range
    ) -> None:
        """Chunk after chunk, as fast as the client takes them: one in memory at a time."""
        if self._streams >= HTTP_STREAMS:
            raise busy(f"{self._streams} large contents are being sent by this member, as many as it does at once")
        self._streams += 1
        try:
            exchange.begin(head, len(span))
            if request.is_head:
                return
            at = span.start
            while at < span.stop:
                index, skip = divmod(at, limits.CHUNK_BYTES)
                data = await asyncio.to_thread(content.decode, self._chunk(chunks[index]), chunks[index])
                part = memoryview(data)[skip : skip + span.stop - at]
                await exchange.write(part)
                at += len(part)
        finally:
            self._streams -= 1

    def _chunk(self, digest: str) -> model.Content:
        with self._environment.peek() as reader:
            stored = Rows(reader).chunk(digest)
        if stored is None:
            raise NotFound(
                Reason.CHUNK_NOT_FOUND,
                f"there is no chunk {digest}",
                hint="read the version again: its content may have been removed",
                metadata={"digest": digest},
            )
        return stored


async def _send(exchange: Exchange, request: Request, data: bytes | memoryview, head: Response) -> None:
    exchange.begin(head, len(data))
    if not request.is_head:
        await exchange.write(data)


def _asked(request: Request) -> _Asked:
    """Raises Invalid, NotFound."""
    parts = unquote(request.path.removeprefix(PREFIX)).split("/")
    if len(parts) != 3:
        raise Invalid(Reason.INVALID_REFERENCE, "no version is named", hint=f"write {PREFIX}NAMESPACE/NAME/VERSION")
    try:
        query = parse_qs(request.query, keep_blank_values=True, max_num_fields=8)
    except ValueError as error:
        raise Invalid(Reason.INVALID_REQUEST, "too many parameters", hint="see docs/api.md, HTTP") from error
    known = {name: values[-1] for name, values in query.items()}
    if unknown := known.keys() - {"min_revision", "base", "form"}:
        raise Invalid(
            Reason.INVALID_REQUEST, f"no parameter {min(unknown)[:80]!a}", hint="there are min_revision, base and form"
        )
    revision, form, base = known.get("min_revision", "0"), known.get("form", ""), known.get("base", "")
    if not _NUMBER.fullmatch(revision) or form not in ("", "compact"):
        raise Invalid(
            Reason.INVALID_REQUEST, "not a revision or a form", hint="min_revision is a number, form is compact"
        )
    if base:
        names.check_digest(base)
    return _Asked(
        workflow=names.check_workflow("/".join(parts[:2])),
        target=references.parse_target(parts[2]),
        min_revision=int(revision),
        base=base,
        is_compact=form == "compact",
    )


def _span(request: Request, size_bytes: int, digest: str) -> range | None:
    """What is asked for of so many bytes; all of it where no range is, or one that is not understood. None: there is
    nothing at that place."""
    asked = _RANGE.fullmatch(request.headers.get(b"range", b""))
    condition = request.headers.get(b"if-range", b"")
    if asked is None or asked.group() == b"bytes=-" or (condition and condition != f'"{digest}"'.encode()):
        return range(size_bytes)
    first, last = asked.groups()
    if not first:
        start, stop = max(size_bytes - int(last), 0), size_bytes
    else:
        start, stop = int(first), min(int(last) + 1, size_bytes) if last else size_bytes
    if last and first and int(last) < int(first):
        return range(size_bytes)
    return range(start, stop) if start < stop else None

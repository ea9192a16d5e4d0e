"""Watch: accepted changes from a revision on, then as they happen."""

from __future__ import annotations

from collections.abc import AsyncIterator

from registry.core import limits, names
from registry.core.errors import Invalid, Reason
from registry.server import convert
from registry.server.feed import Feed
from registry.server.limits import CALL_S, WATCH_BYTES
from registry.server.proposer import Proposer
from registry.server.replies import Replies
from registry.server.rpc import shutting_down
from registry.server.services.reads import Reads
from registry.store import queries
from registry.v1 import registry_pb2


class Watch:
    def __init__(self, *, proposer: Proposer, reads: Reads, feed: Feed, replies: Replies) -> None:
        self._proposer = proposer
        self._reads = reads
        self._feed = feed
        self._replies = replies

    async def watch(self, request: registry_pb2.WatchRequest) -> AsyncIterator[registry_pb2.WatchResponse]:
        """Messages until the caller leaves. The first comes at once: its info.revision is where the stream stands."""
        workflows = frozenset(names.check_workflow(name) for name in request.workflows)
        if len(workflows) > limits.FOLLOWS:
            raise Invalid(
                Reason.TOO_LARGE,
                f"{len(workflows)} workflows in one watch",
                hint=f"name at most {limits.FOLLOWS}, or none to watch all",
                metadata={"limit": str(limits.FOLLOWS)},
            )
        with self._feed.watching():
            cursor = await self._first(request.from_revision)
            yield registry_pb2.WatchResponse(info=self._replies.info(cursor - 1))
            while not self._feed.closed:
                if not await self._feed.revision(cursor, limits.WATCH_HEARTBEAT_S):
                    yield registry_pb2.WatchResponse(info=self._replies.info(cursor - 1))
                    continue
                while cursor <= self._feed.registry.revision:
                    with self._reads.peek() as reader:
                        found = queries.changes(reader, cursor, workflows=workflows)
                    for reply in self._messages(found):
                        yield reply
                    cursor = found.next_revision
        raise shutting_down()

    async def _first(self, from_revision: int) -> int:
        """The first revision to send. A member that lags must not call a good cursor one of the future."""
        if not 0 < from_revision <= self._feed.registry.revision + 1:
            await self._proposer.barrier(CALL_S)
        if not from_revision:
            return self._feed.registry.revision + 1
        with self._reads.peek() as reader:
            queries.changes(reader, from_revision, limit=0)  # REVISION_IN_FUTURE
        return from_revision

    def _messages(self, found: queries.Changes) -> list[registry_pb2.WatchResponse]:
        """In messages of bounded size; the last one's info.revision is past all that was looked at."""
        batches: list[list[registry_pb2.Change]] = [[]]
        size_bytes = 0
        for row in found.changes:
            change = convert.change(row)
            size_bytes += change.ByteSize()
            if size_bytes > WATCH_BYTES and batches[-1]:
                batches.append([])
                size_bytes = change.ByteSize()
            batches[-1].append(change)
        last = [batch[-1].revision for batch in batches[:-1]] + [found.next_revision - 1]
        return [
            registry_pb2.WatchResponse(info=self._replies.info(revision), changes=batch)
            for batch, revision in zip(batches, last, strict=True)
        ]

"""ClusterService.Scrub and Compact: looking after the serving member's own data, while it serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from cluster.api import Cluster, Compacted, CompactionRefused
from registry.core.errors import Reason, Unavailable
from registry.server import space
from registry.server.feed import Feed, busy
from registry.server.limits import PROGRESS_S
from registry.server.replies import Replies
from registry.server.scrub import Damage, Scrub
from registry.server.scrubs import Scrubs
from registry.v1 import cluster_pb2, registry_pb2

KEY_CHARS = 300


class Maintenance:
    def __init__(self, *, cluster: Cluster, scrubs: Scrubs, feed: Feed, replies: Replies) -> None:
        self._cluster = cluster
        self._scrubs = scrubs
        self._feed = feed
        self._replies = replies

    async def scrub(self, request: cluster_pb2.ScrubRequest) -> AsyncIterator[cluster_pb2.ScrubResponse]:
        loop = asyncio.get_running_loop()
        told_s = loop.time()
        scrub: Scrub | None = None
        try:
            async for scrub in self._scrubs.scrub():
                if loop.time() - told_s >= PROGRESS_S:
                    told_s = loop.time()
                    yield self._report(scrub)
            assert scrub is not None
            last = self._report(scrub)
            last.done, last.repair = True, self._scrubs.remedy(scrub)
            yield last
        finally:  # damage stays damage when the caller has left
            if scrub is not None:
                self._scrubs.repair(scrub)

    async def compact(self, request: cluster_pb2.CompactRequest) -> AsyncIterator[cluster_pb2.CompactResponse]:
        compacting = asyncio.ensure_future(self._compact())
        try:
            while not (await asyncio.wait([compacting], timeout=PROGRESS_S))[0]:
                yield cluster_pb2.CompactResponse(info=self._info())
        finally:
            if not compacting.done():  # the caller has left; the member goes on
                compacting.add_done_callback(lambda done: done.cancelled() or done.exception())
        done = compacting.result()
        yield cluster_pb2.CompactResponse(
            info=self._info(), before_bytes=done.before_bytes, after_bytes=done.after_bytes, done=True
        )

    async def _compact(self) -> Compacted:
        try:
            return await self._cluster.compact()
        except CompactionRefused as error:
            raise busy(f"the database cannot be compacted now: {error}") from error
        except Exception as error:
            if not space.is_full(error):
                raise
            raise Unavailable(
                Reason.NO_SPACE,
                f"a compacted copy does not fit beside the database ({error}); nothing was changed",
                hint="free some of the disk for a while, as much as the data takes, and try again",
            ) from error

    def _report(self, scrub: Scrub) -> cluster_pb2.ScrubResponse:
        return cluster_pb2.ScrubResponse(
            info=self._info(),
            rows=scrub.rows,
            contents=scrub.contents,
            bytes=scrub.size_bytes,
            estimated_bytes=scrub.estimated_bytes,
            damage=[_damage(each) for each in scrub.damage],
        )

    def _info(self) -> registry_pb2.ReplyInfo:
        return self._replies.info(self._feed.registry.revision, stale=True)


def _damage(damage: Damage) -> cluster_pb2.Damage:
    key = damage.key.decode("ascii", "backslashreplace").encode("unicode_escape").decode("ascii")
    return cluster_pb2.Damage(table=damage.table, key=key[:KEY_CHARS], what=damage.what)

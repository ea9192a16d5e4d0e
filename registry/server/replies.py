"""Where replies come from: the part that all of them share."""

from __future__ import annotations

import time

from cluster.api import Access
from registry.server.feed import Feed
from registry.v1 import registry_pb2


class Replies:
    def __init__(self, name: str, cluster: Access, feed: Feed) -> None:
        self._name = name
        self._cluster = cluster
        self._feed = feed
        self._started = time.monotonic()

    def info(self, revision: int, *, stale: bool = False) -> registry_pb2.ReplyInfo:
        """revision: of the snapshot read, or of the outcome."""
        registry = self._feed.registry
        return registry_pb2.ReplyInfo(
            revision=revision,
            served_by=self._name,
            cluster_id=registry.cluster_id,
            epoch=registry.epoch,
            leader=self._cluster.leader_address(),
            stale=stale,
            age_ms=self.age_ms() if stale else 0,
        )

    def age_ms(self) -> int:
        """Since the leader was heard; by a member that has heard none yet, since this process started."""
        return int(min(self._cluster.status().leader_contact_s, time.monotonic() - self._started) * 1000)

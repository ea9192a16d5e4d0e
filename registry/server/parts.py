"""What serves the API of one process, put together."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeAlias

import grpc

from cluster.api import Access
from cluster.kv.api import Snapshots
from registry.server import limits
from registry.server.config import Config
from registry.server.delivery import Delivery
from registry.server.feed import Feed
from registry.server.http import Route
from registry.server.http_api import AgentsApi
from registry.server.http_content import ContentApi
from registry.server.hub import Hub
from registry.server.inspector import Inspector
from registry.server.metrics import Metrics
from registry.server.proposer import Proposer
from registry.server.repacking import Repacker
from registry.server.repair import Repairs
from registry.server.replies import Replies
from registry.server.reports import Reports
from registry.server.rpc import Rpc
from registry.server.services.agents import Agents
from registry.server.services.batch import Batch
from registry.server.services.chunks import Chunks
from registry.server.services.fleet import Fleet
from registry.server.services.large import LargePublish
from registry.server.services.publish import Publish
from registry.server.services.reads import Reads
from registry.server.services.retention import Retention
from registry.server.services.watch import Watch
from registry.server.services.writes import Writes
from registry.v1 import agent_pb2, cluster_pb2, fleet_pb2, registry_pb2

Handler: TypeAlias = "grpc.GenericRpcHandler[Any, Any]"
SERVICES = [file.DESCRIPTOR.services_by_name[name] for file, name in (
    (registry_pb2, "RegistryService"), (agent_pb2, "AgentService"), (cluster_pb2, "ClusterService"),
    (fleet_pb2, "FleetService"),
)]  # fmt: skip
_REGISTRY, _AGENTS, CLUSTER, _FLEET = SERVICES


class Parts:
    """Of a member, or of a worker of one. `handlers` serve the API but for what only a member can do, `routes` agents
    by HTTP; each of `background` runs as long as the process and ends only by failing."""

    def __init__(
        self,
        config: Config,
        *,
        cluster: Access,
        environment: Snapshots,
        inspector: Inspector,
        feed: Feed,
        hub: Hub,
        repairs: Repairs,
        metrics: Metrics,
        rpc: Rpc,
    ) -> None:
        self._config, self._environment, self._inspector = config, environment, inspector
        self._feed, self._repairs, self._metrics, self._rpc = feed, repairs, metrics, rpc
        self.hub = hub
        self.proposer = self._proposer = Proposer(cluster, metrics)
        self.replies = replies = Replies(config.name, cluster, feed)
        self.reads = reads = Reads(
            proposer=self._proposer, environment=environment, feed=feed, replies=replies, inspector=inspector
        )
        self.repacker = Repacker(proposer=self._proposer, environment=environment)
        self.retention = Retention(proposer=self._proposer, reads=reads, replies=replies, repacker=self.repacker)
        self.handlers: tuple[Handler, ...] = (
            self._registry(reads, replies),
            self._agents(replies),
            self._fleet(reads, replies),
        )
        self.background: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = (self._reports.run,)

    def _registry(self, reads: Reads, replies: Replies) -> Handler:
        proposer, feed, inspector = self._proposer, self._feed, self._inspector
        publish = Publish(
            proposer=proposer,
            reads=reads,
            replies=replies,
            inspector=inspector,
            content_limit_bytes=self._config.content_limit_bytes,
            large=LargePublish(
                proposer=proposer,
                reads=reads,
                replies=replies,
                limit_bytes=self._config.large_content_limit_bytes,
                content_limit_bytes=self._config.content_limit_bytes,
            ),
        ).publish
        chunks = Chunks(proposer=proposer, reads=reads, replies=replies)
        writes = Writes(proposer=proposer, reads=reads, replies=replies, inspector=inspector)
        retention = self.retention
        batch = Batch(
            {
                "publish": publish,
                "switch": writes.switch,
                "rollback": writes.rollback,
                "mark": writes.mark,
                "label": writes.label,
                "get_pointer": reads.get_pointer,
                "get_version": reads.get_version,
            },
            self._rpc.failed,
            get_pointers=reads.get_pointers,
        )
        watch = Watch(proposer=proposer, reads=reads, feed=feed, replies=replies)
        return self._rpc.handler(
            _REGISTRY,
            {
                "Publish": publish,
                "Switch": writes.switch,
                "Rollback": writes.rollback,
                "PreviewRollback": writes.preview_rollback,
                "Mark": writes.mark,
                "Label": writes.label,
                "Hold": retention.hold,
                "Retain": retention.retain,
                "Purge": retention.purge,
                "SetPolicy": writes.set_policy,
                "GetPolicy": reads.get_policy,
                "GetImpact": reads.get_impact,
                "Batch": batch.batch,
                "GetPointer": reads.get_pointer,
                "GetVersion": reads.get_version,
                "GetContent": reads.get_content,
                "FindChunks": chunks.find_chunks,
                "PutChunk": chunks.put_chunk,
                "GetChunk": chunks.get_chunk,
                "ListWorkflows": reads.list_workflows,
                "ListVersions": reads.list_versions,
                "Compare": reads.compare,
                "GetHistory": reads.get_history,
                "Watch": watch.watch,
                "ListAgents": reads.list_agents,
            },
        )

    def _agents(self, replies: Replies) -> Handler:
        environment, feed, hub, contents = self._environment, self._feed, self.hub, self.reads.contents
        self._reports = reports = Reports(self._proposer)
        delivery = self.delivery = Delivery(
            environment=environment,
            feed=feed,
            hub=hub,
            contents=contents,
            repairs=self._repairs,
            age_ms=replies.age_ms,
        )
        check = self._rpc.check
        self.routes: Mapping[str, Route] = {
            **AgentsApi(delivery=delivery, hub=hub, reports=reports, check=check).routes,
            **ContentApi(environment=environment, feed=feed, contents=contents, check=check).routes,
        }
        agents = Agents(
            environment=environment, feed=feed, delivery=delivery, hub=hub, replies=replies, reports=reports
        )
        return self._rpc.handler(
            _AGENTS, {"Poll": agents.poll, "Acknowledge": agents.acknowledge}, default_s=limits.CALL_MAX_S
        )

    def _fleet(self, reads: Reads, replies: Replies) -> Handler:
        fleet = self.fleet = Fleet(proposer=self._proposer, reads=reads, feed=self._feed, replies=replies)
        return self._rpc.handler(
            _FLEET,
            {
                "Summarize": fleet.summarize,
                "ForgetAgent": fleet.forget_agent,
                "WatchConfirmations": fleet.watch_confirmations,
            },
        )

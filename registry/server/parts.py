"""What serves the API of one member and what works beside it, put together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeAlias

import grpc

from cluster.api import Cluster
from cluster.kv.api import Environment
from registry.server import limits
from registry.server.config import Config
from registry.server.feed import Feed
from registry.server.forgetting import Forgetting
from registry.server.inspector import Inspector
from registry.server.metrics import Gauges, Metrics
from registry.server.proposer import Proposer
from registry.server.repacking import Repacker
from registry.server.repair import Repairs
from registry.server.replies import Replies
from registry.server.reports import Reports
from registry.server.rpc import Rpc
from registry.server.scrubs import Scrubs
from registry.server.services.agents import Agents
from registry.server.services.backup import Backups
from registry.server.services.batch import Batch
from registry.server.services.chunks import Chunks
from registry.server.services.cluster import ClusterView
from registry.server.services.large import LargePublish
from registry.server.services.maintenance import Maintenance
from registry.server.services.publish import Publish
from registry.server.services.reads import Reads
from registry.server.services.retention import Retention
from registry.server.services.watch import Watch
from registry.server.services.writes import Writes
from registry.server.upkeep import Upkeep
from registry.v1 import agent_pb2, cluster_pb2, registry_pb2

Handler: TypeAlias = "grpc.GenericRpcHandler[Any, Any]"
SERVICES = [file.DESCRIPTOR.services_by_name[name] for file, name in (
    (registry_pb2, "RegistryService"), (agent_pb2, "AgentService"), (cluster_pb2, "ClusterService"),
)]  # fmt: skip
_REGISTRY, _AGENTS, _CLUSTER = SERVICES


class Parts:
    """`handlers` serve the API; each of `background` runs as long as the member and ends only by failing."""

    def __init__(
        self,
        config: Config,
        *,
        cluster: Cluster,
        environment: Environment,
        inspector: Inspector,
        feed: Feed,
        repairs: Repairs,
        metrics: Metrics,
        rpc: Rpc,
    ) -> None:
        self._config, self._environment, self._inspector = config, environment, inspector
        self._cluster, self._feed, self._repairs, self._metrics, self._rpc = cluster, feed, repairs, metrics, rpc
        self.proposer = self._proposer = Proposer(cluster, metrics)
        replies = Replies(config.name, cluster, feed)
        self.handlers = (self._registry(replies), self._agents(replies), self._members(replies))
        self.background: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = (
            self._reports.run,
            self._upkeep.run,
            self._forgetting.run,
            self._scrubs.run,
        )

    def removed(self, cause: str, versions: int) -> None:
        """Told by the state machine."""
        if cause == "refused":
            self._forgetting.came_again()
            return
        self._metrics.removed(cause, versions)
        if cause == "purge":
            self._forgetting.purged()

    def _registry(self, replies: Replies) -> Handler:
        proposer, feed, inspector = self._proposer, self._feed, self._inspector
        reads = Reads(proposer=proposer, environment=self._environment, feed=feed, replies=replies, inspector=inspector)
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
        retention = self._keep_up(reads, replies)
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

    def _keep_up(self, reads: Reads, replies: Replies) -> Retention:
        """What goes, on demand and by itself."""
        repacker = Repacker(proposer=self._proposer, environment=self._environment)
        retention = Retention(proposer=self._proposer, reads=reads, replies=replies, repacker=repacker)
        self._upkeep = Upkeep(
            cluster=self._cluster,
            environment=self._environment,
            feed=self._feed,
            proposer=self._proposer,
            retention=retention,
            repacker=repacker,
            repairs=self._repairs,
            metrics=self._metrics,
        )
        self._forgetting = Forgetting(
            cluster=self._cluster,
            environment=self._environment,
            inspector=self._inspector,
            contents=reads.contents,
            repairs=self._repairs,
            metrics=self._metrics,
            directory=self._config.data_dir,
        )
        return retention

    def _agents(self, replies: Replies) -> Handler:
        self._reports = Reports(self._proposer)
        agents = Agents(environment=self._environment, feed=self._feed, replies=replies, reports=self._reports)
        return self._rpc.handler(
            _AGENTS, {"Poll": agents.poll, "Acknowledge": agents.acknowledge}, default_s=limits.CALL_MAX_S
        )

    def _members(self, replies: Replies) -> Handler:
        view = ClusterView(cluster=self._cluster, feed=self._feed, replies=replies)
        self._scrubs = Scrubs(cluster=self._cluster, environment=self._environment, repairs=self._repairs)
        maintenance = Maintenance(cluster=self._cluster, scrubs=self._scrubs, feed=self._feed, replies=replies)
        backups = Backups(
            member=self._config.name,
            environment=self._environment,
            proposer=self._proposer,
            feed=self._feed,
            replies=replies,
        )
        return self._rpc.handler(
            _CLUSTER,
            {
                "GetStatus": view.get_status,
                "AddMember": view.add_member,
                "PromoteMember": view.promote_member,
                "RemoveMember": view.remove_member,
                "TransferLeadership": view.transfer_leadership,
                "Backup": backups.backup,
                "Scrub": maintenance.scrub,
                "Compact": maintenance.compact,
            },
        )

    def gauges(self, *, ready: bool) -> Gauges:
        status, last = self._cluster.status(), self._scrubs.last
        is_damaged = bool(self._repairs.needed or status.repairing)
        return {
            "registry_revision": ("Newest revision committed here", self._feed.registry.revision),
            "registry_ready": ("1 if this member serves", ready),
            "registry_polls_waiting": ("Agents' polls waiting", self._feed.pollers),
            "registry_watches_open": ("Watch streams open", self._feed.watchers),
            "registry_raft_term": ("Raft term", status.term),
            "registry_raft_commit_index": ("Newest log entry known to be committed", status.commit_index),
            "registry_raft_applied_index": ("Newest log entry applied", status.applied_index),
            "registry_raft_is_leader": ("1 on the leader", status.leader == status.id),
            "registry_raft_is_voter": ("1 if this member votes", status.role == "voter"),
            "registry_raft_log_entries": ("Log entries kept", status.last_index - status.first_index + 1),
            "registry_raft_fetching": ("1 while this member fetches a state", bool(status.fetching)),
            "registry_raft_waiting_processes": ("Processes that ask to be admitted", len(status.waiting)),
            "registry_peer_connections_closed": ("Connections of other processes ended by this side", status.refused),
            "registry_feature_level": ("Feature level in force", status.level),
            "registry_raft_leader_contact_seconds": ("Since the leader was heard", status.leader_contact_s),
            "registry_headroom_bytes": ("What can still be written here, about", status.headroom_bytes),
            "registry_no_space": ("1 while writes are refused for want of space", not status.has_room),
            "registry_damage": ("1 while data of this member is known to be damaged", is_damaged),
            "registry_scrub_running": ("1 while this member scrubs", self._scrubs.running),
            "registry_scrub_age_seconds": ("Since the last scrub was done (or the start)", self._scrubs.age_s),
            "registry_scrub_seconds": ("What the last scrub took", self._scrubs.last_s),
            "registry_scrub_rows": ("Rows that the last scrub read", last.rows if last else 0),
            "registry_scrub_contents": ("Contents that the last scrub unpacked", last.contents if last else 0),
            "registry_scrub_damage": ("Places that the last scrub found damaged", len(last.damage) if last else 0),
            "registry_database_bytes": ("Size of the data directory's files", _size_bytes(self._config.data_dir)),
        }


def _size_bytes(path: Path) -> int:
    """A generation of the database may be deleted meanwhile."""
    total = 0
    for file in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total

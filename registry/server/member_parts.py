"""What a member has beside what serves its API: itself, to look at and to change, and what works in the background."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from cluster.api import Cluster
from cluster.kv.api import Environment
from registry.server.agent_gauges import AgentGauges
from registry.server.config import Config
from registry.server.feed import Feed
from registry.server.forgetting import Forgetting
from registry.server.hub import Hub
from registry.server.inspector import Inspector
from registry.server.metrics import Gauges, Metrics
from registry.server.parts import CLUSTER, Parts
from registry.server.repair import Repairs
from registry.server.rpc import Rpc, Stream, Unary
from registry.server.scrubs import Scrubs
from registry.server.services.backup import Backups
from registry.server.services.cluster import ClusterView
from registry.server.services.maintenance import Maintenance
from registry.server.upkeep import Upkeep


class MemberParts(Parts):
    """`members`: the operations of ClusterService, which workers pass on."""

    def __init__(
        self,
        config: Config,
        *,
        cluster: Cluster,
        environment: Environment,
        inspector: Inspector,
        feed: Feed,
        hub: Hub,
        repairs: Repairs,
        metrics: Metrics,
        rpc: Rpc,
    ) -> None:
        super().__init__(
            config,
            cluster=cluster,
            environment=environment,
            inspector=inspector,
            feed=feed,
            hub=hub,
            repairs=repairs,
            metrics=metrics,
            rpc=rpc,
        )
        self._cluster = cluster
        self._scrubs = Scrubs(cluster=cluster, environment=environment, repairs=repairs)
        self._upkeep = Upkeep(
            cluster=cluster,
            environment=environment,
            feed=feed,
            proposer=self.proposer,
            retention=self.retention,
            repacker=self.repacker,
            repairs=repairs,
            metrics=metrics,
        )
        self._forgetting = Forgetting(
            cluster=cluster,
            environment=environment,
            inspector=inspector,
            contents=self.reads.contents,
            repairs=repairs,
            metrics=metrics,
            directory=config.data_dir,
        )
        self._agent_gauges = AgentGauges(
            cluster=cluster, environment=environment, repairs=repairs, clock_ms=self.proposer.clock_ms
        )
        metrics.collect(self._agent_gauges)
        self.members = self._operations(environment)
        self.handlers = (*self.handlers, rpc.handler(CLUSTER, self.members))
        self.background = (
            *self.background,
            self._upkeep.run,
            self._forgetting.run,
            self._scrubs.run,
            self._agent_gauges.run,
        )

    def removed(self, cause: str, versions: int) -> None:
        """Told by the state machine."""
        if cause == "refused":
            self._forgetting.came_again()
            return
        self._metrics.removed(cause, versions)
        if cause == "purge":
            self._forgetting.purged()

    def _operations(self, environment: Environment) -> Mapping[str, Unary | Stream]:
        replies, feed = self.replies, self._feed
        view = ClusterView(cluster=self._cluster, feed=feed, replies=replies)
        maintenance = Maintenance(cluster=self._cluster, scrubs=self._scrubs, feed=feed, replies=replies)
        backups = Backups(
            member=self._config.name, environment=environment, proposer=self.proposer, feed=feed, replies=replies
        )
        return {
            "GetStatus": view.get_status,
            "AddMember": view.add_member,
            "PromoteMember": view.promote_member,
            "RemoveMember": view.remove_member,
            "TransferLeadership": view.transfer_leadership,
            "Backup": backups.backup,
            "Scrub": maintenance.scrub,
            "Compact": maintenance.compact,
        }

    def gauges(self, *, ready: bool) -> Gauges:
        status, last = self._cluster.status(), self._scrubs.last
        is_damaged = bool(self._repairs.needed or status.repairing)
        return {
            "registry_revision": ("Newest revision committed here", self._feed.registry.revision),
            "registry_ready": ("1 if this member serves", ready),
            "registry_polls_waiting": ("Agents' polls waiting", self.hub.waiting),
            "registry_watches_open": ("Watch streams open", self._feed.watchers),
            "registry_confirmation_watches_open": ("Switches that are followed through the fleet", self.fleet.watching),
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

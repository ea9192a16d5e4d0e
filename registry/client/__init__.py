"""The SDK: `Client` and its values. Rows are in `registry.core.model`, errors in `registry.core.errors`."""

from registry.client.backup import Backup
from registry.client.client import Client
from registry.client.fleet import Confirmations, SiteSummary
from registry.client.maintenance import Compacted, Damage, Scrubbed
from registry.client.values import (
    AgentRow,
    ClusterStatus,
    Comparison,
    Dependent,
    Finding,
    Follow,
    Impact,
    Instruction,
    MemberStatus,
    Move,
    PolicyInForce,
    PollRequest,
    PollResponse,
    Published,
    Purged,
    ReplyInfo,
    Retained,
    RetainedVersion,
    TlsConfig,
    WaitingMember,
    WorkflowSummary,
)
from registry.client.writing import new_request_id

__all__ = [
    "AgentRow",
    "Backup",
    "Client",
    "ClusterStatus",
    "Compacted",
    "Comparison",
    "Confirmations",
    "Damage",
    "Dependent",
    "Finding",
    "Follow",
    "Impact",
    "Instruction",
    "MemberStatus",
    "Move",
    "PolicyInForce",
    "PollRequest",
    "PollResponse",
    "Published",
    "Purged",
    "ReplyInfo",
    "Retained",
    "RetainedVersion",
    "Scrubbed",
    "SiteSummary",
    "TlsConfig",
    "WaitingMember",
    "WorkflowSummary",
    "new_request_id",
]

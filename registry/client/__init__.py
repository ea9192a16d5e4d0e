"""The SDK: `Client` and its values. Rows are in `registry.core.model`, errors in `registry.core.errors`."""

from registry.client.backup import Backup
from registry.client.client import Client, new_request_id
from registry.client.values import (
    AgentRow,
    ClusterStatus,
    Comparison,
    Follow,
    Instruction,
    MemberStatus,
    Move,
    PollRequest,
    PollResponse,
    Published,
    ReplyInfo,
    TlsConfig,
    WaitingMember,
    WorkflowSummary,
)

__all__ = [
    "AgentRow",
    "Backup",
    "Client",
    "ClusterStatus",
    "Comparison",
    "Follow",
    "Instruction",
    "MemberStatus",
    "Move",
    "PollRequest",
    "PollResponse",
    "Published",
    "ReplyInfo",
    "TlsConfig",
    "WaitingMember",
    "WorkflowSummary",
    "new_request_id",
]

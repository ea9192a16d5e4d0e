"""Values that several tests use."""

from __future__ import annotations

from typing import Any

from registry.agent.api import Ack, Instruction
from registry.agent.guards import digest_of

WORKFLOW = "support/triage"


def instruction(generation: int = 1, data: bytes = b"one", **changes: Any) -> Instruction:
    fields: dict[str, Any] = {
        "workflow": WORKFLOW,
        "pointer": "active",
        "epoch": 1,
        "generation": generation,
        "version": generation,
        "digest": digest_of(data),
        "size_bytes": len(data),
    }
    return Instruction(**(fields | changes))


def ack(sequence: int = 0, workflow: str = WORKFLOW, **changes: Any) -> Ack:
    fields: dict[str, Any] = {
        "agent": "edge-1",
        "incarnation": "i1",
        "sequence": sequence,
        "workflow": workflow,
        "pointer": "active",
        "generation": 1,
        "phase": "confirmed",
    }
    return Ack(**(fields | changes))

"""What an agent refuses, before anything is fetched and before anything is written. Pure."""

from __future__ import annotations

import hashlib
import re
from enum import Enum

from msgspec import Struct

from registry.agent.api import Instruction
from registry.agent.journal import Outcome, Record
from registry.agent.transitions import Code, Event
from registry.core import limits

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Identity(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whom the agent belongs to. `cluster_id` empty: not heard yet, the first reply decides."""

    cluster_id: str = ""
    epoch: int = 0


class Trust(Enum):
    SAME = "same"
    ADOPT = "adopt"  # the first contact
    RESYNC = "resync"  # a newer history of our cluster: what we have is compared with it from the beginning
    OLD_EPOCH = "old epoch"  # a member that missed a restore: ignored
    FOREIGN = "foreign"


def judge_reply(own: Identity, cluster_id: str, epoch: int) -> Trust:
    """Whether what a member says concerns this agent."""
    if not own.cluster_id and cluster_id:
        return Trust.ADOPT
    if own.cluster_id != cluster_id:
        return Trust.FOREIGN
    if epoch == own.epoch:
        return Trust.SAME
    return Trust.RESYNC if epoch > own.epoch else Trust.OLD_EPOCH


def is_newer(record: Record, instruction: Instruction) -> bool:
    """Strictly above everything acted on; generations of different epochs are not comparable, epochs are."""
    return (instruction.epoch, instruction.generation) > record.fence


def judge_instruction(record: Record, instruction: Instruction) -> Outcome | None:
    """STALE, FAILED with a code, SHOWN, or None: to be installed. Instructions carry full content, so a base that the
    agent does not have is no obstacle; it stays in the record."""
    if not is_newer(record, instruction):
        return Outcome(Event.STALE)
    if problem := _malformed(instruction):
        return Outcome(Event.FAILED, Code.INVALID_INSTRUCTION, problem)
    if record.running and record.running.digest == instruction.digest and not record.shown:
        return Outcome(Event.SHOWN)
    return None


def _malformed(instruction: Instruction) -> str:
    if not _DIGEST.fullmatch(instruction.digest):
        return f"not a sha256 digest: {instruction.digest[:80]!r}"
    if instruction.version < 1 or instruction.generation < 1:
        return f"version {instruction.version}, generation {instruction.generation}: both start at 1"
    if not 0 <= instruction.size_bytes <= limits.LARGE_CONTENT_BYTES_CEILING:
        return f"{instruction.size_bytes} bytes; at most {limits.LARGE_CONTENT_BYTES_CEILING} are accepted"
    return ""


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def judge_bytes(instruction: Instruction, size_bytes: int, digest: str) -> Outcome:
    """Of what arrived. DONE only for exactly the bytes that the instruction names."""
    if size_bytes != instruction.size_bytes:
        detail = f"{size_bytes} bytes arrived, {instruction.size_bytes} were announced"
        return Outcome(Event.FAILED, Code.LENGTH_MISMATCH, detail)
    if digest != instruction.digest:
        return Outcome(Event.FAILED, Code.DIGEST_MISMATCH, f"bytes of {digest} arrived for {instruction.digest}")
    return Outcome(Event.DONE)

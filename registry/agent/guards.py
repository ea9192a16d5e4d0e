"""What an agent refuses, before anything is fetched and before anything is written. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from msgspec import Struct

from registry.agent import limits as agent_limits
from registry.agent.api import Instruction
from registry.agent.journal import Outcome, Record
from registry.agent.transitions import Code, Event, State
from registry.core import frames, limits, needs
from registry.core.references import NUMBER_MAX

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


@dataclass(frozen=True)
class Machine:
    """What an instruction is held against. `facts`: core.needs. `namespaces`: that may tell this agent; none: any."""

    now_ms: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)
    namespaces: Sequence[str] = ()


def judge_instruction(record: Record, instruction: Instruction, machine: Machine) -> Outcome | None:
    """STALE, FAILED with a code, SHOWN, or None: to be installed. A base that the agent does not have is no obstacle:
    Record.whole says that full content is needed then. What runs and is proven is neither too late nor incompatible."""
    if not is_newer(record, instruction):
        return Outcome(Event.STALE)
    if problem := _malformed(instruction):
        return Outcome(Event.FAILED, Code.INVALID_INSTRUCTION, problem)
    namespace = instruction.workflow.partition("/")[0]
    if machine.namespaces and namespace not in machine.namespaces:
        allowed = ", ".join(machine.namespaces)
        return Outcome(Event.FAILED, Code.NOT_PINNED, f"this agent installs only what is in {allowed}")
    if record.running and record.running.digest == instruction.digest and not record.shown:
        return judge_kept(instruction, record.running.size_bytes) or Outcome(Event.SHOWN)
    return judge_terms(instruction, machine)


def judge_terms(instruction: Instruction, machine: Machine) -> Outcome | None:
    """FAILED if it is too late, or a need is not met."""
    return judge_time(instruction, machine.now_ms) or judge_needs(instruction, machine.facts)


def judge_kept(instruction: Instruction, size_bytes: int) -> Outcome | None:
    """FAILED if the bytes that are here below the digest are not as many as the instruction says."""
    if size_bytes == instruction.size_bytes:
        return None
    detail = f"{size_bytes} bytes are kept below {instruction.digest}, {instruction.size_bytes} were announced"
    return Outcome(Event.FAILED, Code.LENGTH_MISMATCH, detail)


def judge_time(instruction: Instruction, now_ms: int) -> Outcome | None:
    """FAILED if it is too late. Too early is no failure: it waits."""
    late_ms = now_ms - instruction.deadline_ms
    if not instruction.deadline_ms or late_ms <= 0:
        return None
    detail = f"its deadline was {late_ms / 1000:.0f} s ago by this machine's clock; switch again, or correct the clock"
    return Outcome(Event.FAILED, Code.EXPIRED, detail)


def judge_needs(instruction: Instruction, facts: Mapping[str, str]) -> Outcome | None:
    unmet = needs.unmet(instruction.needs, facts)
    return Outcome(Event.FAILED, Code.INCOMPATIBLE, "; ".join(unmet)) if unmet else None


def stated(facts: Mapping[str, str]) -> dict[str, str]:
    """What of them a poll says: as many as members take. The agent itself judges by all of them."""
    fit = [
        (name, value)
        for name, value in facts.items()
        if len(name) <= limits.FACT_CHARS and len(value) <= limits.FACT_CHARS and (name + value).isprintable()
    ]
    return dict(fit[: limits.FACTS])


def may_take_over(record: Record, pending: Instruction, now_ms: int) -> bool:
    """Nothing unproven stays while a newer instruction waits for its time."""
    is_proven = not record.shown and record.state is not State.REVERT
    return is_proven or now_ms >= pending.not_before_ms


def is_carried(record: Record, instruction: Instruction, frame: bytes) -> bool:
    """Whether the bytes can be made of what came with the reply."""
    if not frame or len(frame) > agent_limits.FRAME_BYTES:
        return False
    if instruction.how == "delta":
        return not record.whole and record.with_digest(instruction.delta_base) is not None
    return instruction.how == "full"


def unpack(instruction: Instruction, frame: bytes, base: Callable[[], bytes]) -> bytes | None:
    """The bytes of a frame that is carried; None: it is not what it should be. Memory is bounded by size_bytes.
    `base`: bytes of what the frame rests on."""
    if instruction.how == "full":
        return frames.unpack(frame, instruction.size_bytes)
    return frames.unpack_over(base(), frame, instruction.size_bytes)


def _malformed(instruction: Instruction) -> str:
    if not _DIGEST.fullmatch(instruction.digest):
        return f"not a sha256 digest: {instruction.digest[:80]!r}"
    if instruction.version < 1 or instruction.generation < 1:
        return f"version {instruction.version}, generation {instruction.generation}: both start at 1"
    numbers = instruction.epoch, instruction.generation, instruction.version, instruction.min_revision
    times = instruction.not_before_ms, instruction.deadline_ms
    if not all(0 <= number <= NUMBER_MAX for number in numbers) or not all(
        0 <= time_ms <= limits.TIME_MAX_MS for time_ms in times
    ):
        return "a number or a time past all that there are"  # what is reckoned with them would not end well
    if not 0 <= instruction.size_bytes <= limits.LARGE_CONTENT_BYTES_CEILING:
        return f"{instruction.size_bytes} bytes; at most {limits.LARGE_CONTENT_BYTES_CEILING} are accepted"
    if len(instruction.needs) > limits.NEEDS:
        return f"{len(instruction.needs)} needs; at most {limits.NEEDS} are accepted"
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

"""Requests to a member's HTTP face, and what its replies mean. What a reply says is judged, not believed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from registry.client import limits
from registry.client.http_connection import Connection, Head
from registry.core import errors
from registry.core import limits as core_limits
from registry.core.commands import Ack
from registry.core.delivery import Holding, Instruction, Poll, PollReply
from registry.core.errors import Reason, RegistryError
from registry.core.references import NUMBER_MAX

JSON, WITH_FRAMES = "application/json", "application/vnd.registry.poll"
Frames = dict[tuple[str, str], bytes]  # (workflow, pointer) -> what came for it

_BY_STATUS = {
    400: Reason.INVALID_REQUEST,
    401: Reason.INVALID_REQUEST,
    403: Reason.INVALID_REQUEST,
    404: Reason.VERSION_NOT_FOUND,
    405: Reason.INVALID_REQUEST,
    409: Reason.REQUEST_REUSED,
    413: Reason.TOO_LARGE,
    422: Reason.KIND_MISMATCH,
    429: Reason.BUSY,
    504: Reason.OUTCOME_UNKNOWN,
}  # of a reply without a reason that this release knows; others: NO_MEMBER
# What a proxy says in a member's stead, without a reason, decides nothing: what was sent is still to be sent.
_DECISIONS = frozenset({400, 401, 403, 404, 405, 409, 413, 422})
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_reply = msgspec.json.Decoder(PollReply)
_error = msgspec.json.Decoder(dict[str, Any])


class Implausible(Exception):
    """No honest, current member sends this; the message says why."""


class Refusal(Exception):
    """A reply that is no success. `retry_s`: after which the member wants to be asked again."""

    def __init__(self, status: int, error: RegistryError, retry_s: float) -> None:
        super().__init__(str(error))
        self.status = status
        self.error = error
        self.retry_s = retry_s


async def get(connection: Connection, path: str, host: str, byte_range: str = "") -> Head:
    """Raises Refusal, BrokenConnection."""
    lines = [f"GET {path} HTTP/1.1", f"host: {host}", *([f"range: {byte_range}"] if byte_range else [])]
    return await _ask(connection, _encoded(lines))


async def post(connection: Connection, path: str, host: str, body: bytes) -> Head:
    """Raises Refusal, BrokenConnection."""
    lines = [f"POST {path} HTTP/1.1", f"host: {host}", f"content-type: {JSON}", f"content-length: {len(body)}"]
    return await _ask(connection, _encoded(lines) + body)


def _encoded(lines: Sequence[str]) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def _ask(connection: Connection, request: bytes) -> Head:
    head = await connection.ask(request)
    if head.status not in (200, 206):
        raise _refusal(head, await connection.read(limits.HTTP_ERROR_BYTES))
    return head


def poll_body(poll: Poll) -> bytes:
    return msgspec.json.encode(poll)


def acks_body(acks: Sequence[Ack]) -> bytes:
    return msgspec.json.encode(acks)


def poll_bytes(poll: Poll) -> int:
    """The most a reply to it may have."""
    frames = min(len(poll.follows) * _frame_bytes(poll), limits.HTTP_FRAMES_BYTES)
    return limits.HTTP_REPLY_BYTES + len(poll.follows) * limits.HTTP_REPLY_FOLLOW_BYTES + frames


def _frame_bytes(poll: Poll) -> int:
    wanted = min(poll.inline_bytes, core_limits.CONTENT_BYTES_CEILING)
    return wanted + limits.HTTP_FRAME_SLACK_BYTES if wanted else 0


def poll_reply(poll: Poll, head: Head, body: bytes) -> tuple[PollReply, Frames]:
    """Raises Implausible, also for an answer that leads an agent nowhere: another cluster's, an older epoch's, one
    about what it does not follow or is past. RegistryError CLUSTER_MISMATCH for another cluster."""
    document, _, rest = body.partition(b"\n") if _kind(head) == WITH_FRAMES else (body, b"", b"")
    try:
        reply = _reply.decode(document)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as problem:
        raise Implausible(f"what came is not a reply to a poll: {str(problem)[:200]}") from None
    if poll.cluster_id and reply.cluster_id != poll.cluster_id:
        raise errors.error(
            Reason.CLUSTER_MISMATCH,
            f"a member of cluster {reply.cluster_id[:64]!a} answered, this agent belongs to {poll.cluster_id}",
            hint="check the endpoints",
        )
    if not reply.cluster_id:
        raise Implausible("the reply names no cluster")
    if not 0 <= reply.epoch <= NUMBER_MAX:
        raise Implausible("an epoch past all that there are")
    if poll.cluster_id and reply.epoch < poll.epoch:
        raise Implausible(f"it is of epoch {reply.epoch}, older than {poll.epoch}")
    _check_instructions(poll, reply)
    return reply, _frames(reply, rest)


def _check_instructions(poll: Poll, reply: PollReply) -> None:
    held = {(each.workflow, each.pointer): each for each in poll.follows}
    seen = set()
    for each in reply.instructions:
        name = (each.workflow, each.pointer)
        if name not in held or name in seen:
            raise Implausible(f"an instruction for {each.workflow[:128]!a} came, which nobody asked for so")
        seen.add(name)
        problem = _problem(poll, held[name], each, same_epoch=reply.epoch == poll.epoch)
        if problem:
            raise Implausible(f"{each.workflow}:{each.pointer}: {problem}")


def _problem(poll: Poll, holding: Holding, each: Instruction, *, same_epoch: bool) -> str:
    if not _DIGEST.fullmatch(each.digest) or min(each.version, each.generation) < 1:
        return f"version {each.version}, generation {each.generation}, {each.digest[:80]!a} name no version"
    if max(each.version, each.generation) > NUMBER_MAX or not 0 <= each.min_revision <= NUMBER_MAX:
        return "a number past all that there are"
    if not all(0 <= time_ms <= core_limits.TIME_MAX_MS for time_ms in (each.not_before_ms, each.deadline_ms)):
        return "a time past all that there are"
    if not 0 <= each.size_bytes <= core_limits.LARGE_CONTENT_BYTES_CEILING:
        return f"{each.size_bytes:,} bytes of content"
    if same_epoch and each.generation <= holding.generation:
        return f"generation {each.generation} is not above {holding.generation}"
    if each.how in ("delta", "full"):
        if not 0 < each.content_bytes <= _frame_bytes(poll):
            return f"{each.content_bytes} bytes of content, asked was for at most {poll.inline_bytes}"
        if each.how == "delta" and each.delta_base != holding.digest:
            return "a difference from bytes that are not here"
    elif each.content_bytes:
        return f"content that is to be had otherwise: {each.how}"
    if each.how == "have" and each.digest not in (holding.digest, *holding.kept):
        return "bytes that are not here are said to be"
    return ""


def _frames(reply: PollReply, rest: bytes) -> Frames:
    frames: Frames = {}
    at = 0
    for each in reply.instructions:
        if each.content_bytes:
            frames[each.workflow, each.pointer] = rest[at : at + each.content_bytes]
            at += each.content_bytes
    if at != len(rest):
        raise Implausible(f"{len(rest)} bytes of content came, {at} were announced")
    return frames


def _kind(head: Head) -> str:
    return head.headers.get("content-type", "").partition(";")[0].strip().lower()


def _refusal(head: Head, body: bytes) -> Refusal:
    try:
        told = {name: _text(value) for name, value in _error.decode(body).items()}
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        told = {}
    is_ours = "reason" in told or head.status not in _DECISIONS
    fallback = _BY_STATUS.get(head.status, Reason.NO_MEMBER) if is_ours else Reason.NO_MEMBER
    try:
        reason = Reason(told.pop("reason", ""))
    except ValueError:
        reason = fallback
    message = told.pop("error", "") or f"status {head.status}, without a word of what is wrong"
    retry_s = max(_number(told.get("retry_ms", "")) / 1000, _number(head.headers.get("retry-after", "")))
    error = errors.error(reason, message, hint=told.pop("hint", ""), metadata=told)
    return Refusal(head.status, error, retry_s)


def _text(value: Any) -> str:
    return (value if isinstance(value, str) else msgspec.json.encode(value).decode())[: core_limits.DETAIL_CHARS]


def _number(text: str) -> float:
    return float(text) if text.isdecimal() and len(text) < 10 else 0.0

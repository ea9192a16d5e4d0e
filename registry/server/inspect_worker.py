"""The process that parses untrusted content, so that no content can hold or end a member.

Jobs come on standard input and answers leave on standard output, both as frames: four bytes of length (big-endian),
then MessagePack. The member kills it past its time; memory is bounded here. It ends when its input does.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import struct
import sys
import traceback
from collections import OrderedDict
from typing import BinaryIO

import msgspec
from msgspec import Struct

from registry import formats
from registry.core import limits
from registry.core.errors import RegistryError
from registry.formats import Inspection, Known
from registry.formats.model import Finding, Verdict
from registry.server.limits import READ_CONTENTS, READ_CONTENTS_BYTES
from registry.store.content import digest

LENGTH = struct.Struct(">I")
_GRACE_S = 5.0  # past the member's own limit: only a worker whose member died gets here


class PrepareJob(Struct, frozen=True, tag="prepare"):
    content: bytes
    kind: str = ""
    key: bytes = b""  # of fingerprints; empty: there is none yet
    parent: bytes = b""  # empty: none
    kind_parent: str = ""
    secrets_parent: dict[str, str] = {}  # as a version has them: name -> fingerprint


class JudgeJob(Struct, frozen=True, tag="judge"):
    new: bytes
    kind_new: str
    old: bytes = b""  # empty: none
    kind_old: str = ""
    secrets_new: dict[str, str] = {}
    secrets_old: dict[str, str] = {}


class CompareJob(Struct, frozen=True, tag="compare"):
    old: bytes
    new: bytes
    kind_old: str = ""
    kind_new: str = ""
    secrets_old: dict[str, str] = {}
    secrets_new: dict[str, str] = {}


class Prepared(Struct, frozen=True, kw_only=True, tag="prepared"):
    """Content as it may be kept, what is known of it, and what it changes. Without a parent, or where comparing with it
    failed (`not_compared` says why), there is no verdict."""

    inspection: Inspection
    content: bytes
    secrets: dict[str, str] = {}  # name -> fingerprint of a value that was left out of `content`
    summary: str = ""
    verdict: Verdict | None = None
    not_compared: str = ""


class KeyNeeded(Struct, frozen=True, tag="key_needed"):
    """The content holds secrets, and there is no key for their fingerprints."""


class Judged(Struct, frozen=True, tag="judged"):
    verdict: Verdict


class Compared(Struct, frozen=True, tag="compared"):
    """`comparison_json` is a whole `formats.Comparison`; schema in docs/compare.md."""

    summary: str
    comparison_json: bytes


class Rejection(Struct, frozen=True, tag="rejection"):
    """A RegistryError on its way through the pipe."""

    reason: str
    message: str
    hint: str
    metadata: dict[str, str]


class Failure(Struct, frozen=True, tag="failure"):
    """The worker could not do it: `limit` names the bound, empty for a bug."""

    message: str
    limit: str = ""


Job = PrepareJob | JudgeJob | CompareJob
Answer = Prepared | KeyNeeded | Judged | Compared | Rejection | Failure

encode = msgspec.msgpack.Encoder().encode
decode_job = msgspec.msgpack.Decoder(Job).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode


class Contents:
    """Those read last, kept parsed: what is compared with is mostly what came before."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], Known] = OrderedDict()  # by digest and kind, the oldest first
        self._size_bytes = 0

    def read(self, content: bytes, kind: str) -> Known:
        """As formats.read, of a known kind."""
        key = (digest(content), kind)
        known = self._known.pop(key, None)
        if known is not None:
            self._known[key] = known
            return known
        return self.keep(formats.read(content, kind))

    def keep(self, known: Known) -> Known:
        key = (known.digest, known.format.kind)
        if key not in self._known:
            self._known[key] = known
            self._size_bytes += len(known.read.content)
        while len(self._known) > READ_CONTENTS or self._size_bytes > READ_CONTENTS_BYTES:
            _, dropped = self._known.popitem(last=False)
            self._size_bytes -= len(dropped.read.content)
        return known


def answer(job: Job, contents: Contents) -> Answer:
    """Does one job. Total: whatever goes wrong is an answer."""
    try:
        match job:
            case PrepareJob():
                return prepare(job, contents)
            case JudgeJob():
                return Judged(_judge(job, contents))
            case CompareJob():
                old, new = contents.read(job.old, job.kind_old), contents.read(job.new, job.kind_new)
                comparison = formats.compare_read(old, new, job.secrets_old, job.secrets_new)
                return Compared(comparison.summary, msgspec.json.encode(comparison))
    except RegistryError as error:
        return Rejection(error.reason, error.message, error.hint, error.metadata)
    except MemoryError:
        memory_bytes, _ = resource.getrlimit(resource.RLIMIT_AS)
        return Failure(f"it needs more than {memory_bytes // limits.MIB} MiB of memory", "PARSE_MEMORY_BYTES")
    except Exception as error:  # noqa: BLE001  content must not decide whether there is an answer
        _trace(error)
        return Failure(f"it failed unexpectedly ({type(error).__name__})")


def prepare(job: PrepareJob, contents: Contents) -> Prepared | KeyNeeded:
    known, content = formats.read(job.content, job.kind), job.content
    secrets: dict[str, str] = {}
    repeated: tuple[Finding, ...] = ()
    if formats.may_hold_secrets(known):
        if not job.key:
            return KeyNeeded()
        content, secrets, repeated = formats.without_secrets(known, job.key)
        known = formats.read(content, known.format.kind)
    summary, verdict, not_compared = "", None, ""
    if job.parent:
        try:
            parent = contents.read(job.parent, job.kind_parent)
            comparison = formats.compare_read(parent, known, job.secrets_parent, secrets)
            summary, verdict = comparison.summary, comparison.verdict
        except RegistryError as error:
            not_compared = error.message
    contents.keep(known)
    return Prepared(
        inspection=formats.inspect_read(known, more=repeated),
        content=content,
        secrets=secrets,
        summary=summary,
        verdict=verdict,
        not_compared=not_compared,
    )


def _judge(job: JudgeJob, contents: Contents) -> Verdict:
    new = contents.read(job.new, job.kind_new)
    if job.old:
        old = contents.read(job.old, job.kind_old)
        return formats.compare_read(old, new, job.secrets_old, job.secrets_new).verdict
    reasons = list(new.findings)  # worst first
    return Verdict(level=reasons[0].level if reasons else "ok", reasons=reasons)


def _trace(error: Exception) -> None:
    """Where it failed, for the member's log. Not what it said: that may quote the content."""
    frames = traceback.extract_tb(error.__traceback__)
    where = " <- ".join(f"{frame.name} ({os.path.basename(frame.filename)}:{frame.lineno})" for frame in frames[::-1])
    print(f"inspect worker: {type(error).__name__} in {where}", file=sys.stderr, flush=True)


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answers job after job until the input ends."""
    contents = Contents()
    while len(head := source.read(LENGTH.size)) == LENGTH.size:
        job = decode_job(source.read(LENGTH.unpack(head)[0]))
        signal.setitimer(signal.ITIMER_REAL, limits.PARSE_TIME_S + _GRACE_S)
        body = encode(answer(job, contents))
        signal.setitimer(signal.ITIMER_REAL, 0)
        sink.write(LENGTH.pack(len(body)) + body)
        sink.flush()
        del job, body
        gc.collect()  # errors hold what was parsed in a cycle; the next job needs the memory
        gc.freeze()  # what is kept is not looked through again


def main(memory_bytes: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the member decides
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    gc.freeze()
    answers = os.dup(1)
    os.dup2(2, 1)  # a stray print must not break the frames
    with os.fdopen(answers, "wb") as sink:
        serve(sys.stdin.buffer, sink)


if __name__ == "__main__":
    main(int(sys.argv[1]))

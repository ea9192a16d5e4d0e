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
from typing import BinaryIO

import msgspec
from msgspec import Struct

from registry import formats
from registry.core import limits
from registry.core.errors import RegistryError
from registry.formats import Inspection

LENGTH = struct.Struct(">I")
_GRACE_S = 5.0  # past the member's own limit: only a worker whose member died gets here


class InspectJob(Struct, frozen=True, tag="inspect"):
    content: bytes
    kind: str


class CompareJob(Struct, frozen=True, tag="compare"):
    old: bytes
    new: bytes
    kind_old: str
    kind_new: str


class Compared(Struct, frozen=True, tag="compared"):
    """`comparison_json` is a whole `formats.Comparison`; schema in docs/compare.md."""

    summary: str
    comparison_json: bytes


class Inspected(Struct, frozen=True, tag="inspected"):
    inspection: Inspection


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


Job = InspectJob | CompareJob
Answer = Inspected | Compared | Rejection | Failure

encode = msgspec.msgpack.Encoder().encode
decode_job = msgspec.msgpack.Decoder(Job).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode


def answer(job: Job) -> Answer:
    """Does one job. Total: whatever goes wrong is an answer."""
    try:
        if isinstance(job, InspectJob):
            return Inspected(formats.inspect(job.content, kind=job.kind))
        comparison = formats.compare(job.old, job.new, kind_old=job.kind_old, kind_new=job.kind_new)
        return Compared(comparison.summary, msgspec.json.encode(comparison))
    except RegistryError as error:
        return Rejection(error.reason, error.message, error.hint, error.metadata)
    except MemoryError:
        memory_bytes, _ = resource.getrlimit(resource.RLIMIT_AS)
        return Failure(f"it needs more than {memory_bytes // limits.MIB} MiB of memory", "PARSE_MEMORY_BYTES")
    except Exception as error:  # noqa: BLE001  content must not decide whether there is an answer
        traceback.print_exc()
        return Failure(f"it failed unexpectedly ({type(error).__name__})")


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answers job after job until the input ends."""
    while len(head := source.read(LENGTH.size)) == LENGTH.size:
        job = decode_job(source.read(LENGTH.unpack(head)[0]))
        signal.setitimer(signal.ITIMER_REAL, limits.PARSE_TIME_S + _GRACE_S)
        body = encode(answer(job))
        signal.setitimer(signal.ITIMER_REAL, 0)
        sink.write(LENGTH.pack(len(body)) + body)
        sink.flush()
        del job, body
        gc.collect()  # errors hold what was parsed in a cycle; the next job needs the memory


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

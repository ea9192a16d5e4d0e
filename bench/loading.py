"""The load generator in bench/load/: independent callers, each with one call at a time, none coalesced."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

SOURCE = Path(__file__).parent / "load"
PACKAGES = {  # of Debian: where their Go sources stand
    "golang-google-grpc-dev": Path("/usr/share/gocode/src/google.golang.org/grpc"),
    "golang-google-protobuf-dev": Path("/usr/share/gocode/src/google.golang.org/protobuf/encoding/protowire"),
}
GRACE_S = 60.0  # beyond the time that was asked for: to connect, and calls under way at the end, by their own deadline


class Loaded(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the callers saw. `done`, the times and `cpu_s` (of the load generator) are of the `seconds` that count.

    `warmed`: done outside of these. `failures` and `codes`, of the whole run: reasons of the registry, or gRPC's own.
    `generations`: of each caller's pointer in the end, or (publish) the number of its newest version;
    `generations_before`: before the run. Without failures, a writer's differ by what it has done.
    """

    mode: str
    callers: int
    connections: int
    seconds: float
    done: int
    warmed: int
    per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_s: float
    failures: int
    codes: dict[str, int]
    generations: list[int]
    generations_before: list[int] = []
    size_bytes: int = 0  # of a published version


def missing() -> str:
    """Why the generator cannot be built; empty: it can."""
    absent = [] if shutil.which("go") else ["golang-go"]
    absent += [name for name, sources in PACKAGES.items() if not sources.is_dir()]
    return f"not installed: {', '.join(absent)}" if absent else ""


def build(directory: Path) -> Path:
    """The generator's program, built into `directory`. Raises RuntimeError with what the compiler said."""
    directory.mkdir(parents=True, exist_ok=True)
    built = subprocess.run([SOURCE / "build.sh", directory], capture_output=True, text=True)
    if built.returncode != 0:
        raise RuntimeError(f"the load generator does not build: {built.stderr.strip()}")
    return Path(built.stdout.strip())


async def run(
    program: Path,
    *,
    mode: str,
    addresses: Sequence[str],
    callers: int,
    connections: int,
    seconds: float,
    warm_s: float = 1.0,
    size_bytes: int = 0,
) -> Loaded:
    """`mode`: switch, read (the pointers of `load/w000001` and on, one for each caller, with versions 1 and 2 and
    switched before), publish (of `size_bytes` random bytes, to `load/p000001` and on). Connection i goes to the i-th of
    `addresses`, and round again. Raises RuntimeError when the generator gives up, TimeoutError when it hangs."""
    process = await asyncio.create_subprocess_exec(
        program, "-mode", mode, "-address", ",".join(addresses), "-c", str(callers), "-conns", str(connections),
        "-d", str(seconds), "-warm", str(warm_s), "-size", str(size_bytes),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(warm_s + seconds + GRACE_S):
            out, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise RuntimeError(f"the load generator gave up: {said.decode(errors='replace').strip()}")
    return msgspec.json.decode(out, type=Loaded)

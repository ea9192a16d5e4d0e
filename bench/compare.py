"""Comparing two versions, beside deepdiff on the same values and git on the same files; what reading one takes.

Real versions of real workflows (REGISTRY_CORPUS); the ways of comparing take turns on each pair, and a round's figure
is the median of the pairs. deepdiff lists values that differ, by path; with `ignore_order` it finds moved items again,
as the comparison here finds nodes and edges. A comparison with its verdict also looks at both versions for what is
wrong with them. git compares lines.
"""

from __future__ import annotations

import gc
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from deepdiff import DeepDiff

from bench.report import Row, spread
from registry import formats
from registry.core.limits import KIB
from registry.formats.reading.yaml_reader import read_yaml
from tests.corpus import CORPUS, histories

TURN_MS = 20.0  # of each way on each pair
READ_BYTES, FILES = 64 * KIB, 9
OURS, VERDICT, THEIRS, UNORDERED = "of two parsed versions", "with its verdict", "deepdiff", "deepdiff, ignore_order"
FROM_FILES, GIT, STARTED = "of two files, with its verdict", "git diff --no-index --stat", "git --version"
Ways = Mapping[str, Callable[[], object]]
Took = dict[str, list[list[float]]]  # by way: by pair, or file, milliseconds of each round


async def compare(_directory: Path, rounds: int) -> list[Row]:
    if not CORPUS.is_dir():
        print("compare: left out, the corpus of real Dify files is not there; set REGISTRY_CORPUS to its directory")
        return []
    pairs = [pair for versions in histories().values() for pair in pairwise(versions)]
    return [*_beside_deepdiff(pairs, rounds), _beside_git(pairs, rounds), _reading(rounds)]


def _beside_deepdiff(pairs: Sequence[tuple[Path, Path]], rounds: int) -> list[Row]:
    took_ms: Took = {OURS: [], VERDICT: [], THEIRS: [], UNORDERED: []}
    for old, new in pairs:
        for name, each_ms in _cpu_in_turns(_ways(old, new), rounds).items():
            took_ms[name].append(each_ms)
    return [_compared(took_ms, ours, theirs) for ours in (OURS, VERDICT) for theirs in (THEIRS, UNORDERED)]


def _ways(old_file: Path, new_file: Path) -> Ways:
    old, new = (formats.read(file.read_bytes()) for file in (old_file, new_file))
    return {
        OURS: lambda: new.format.compare(old.read, new.read),
        # Of new ones each time: they remember what was found in them.
        VERDICT: lambda: formats.compare_read(formats.Known(*old), formats.Known(*new)),
        THEIRS: lambda: DeepDiff(old.read.value, new.read.value),
        UNORDERED: lambda: DeepDiff(old.read.value, new.read.value, ignore_order=True),
    }


def _compared(took_ms: Took, ours: str, theirs: str) -> Row:
    own, other = ([statistics.median(pair) for pair in took_ms[name]] for name in (ours, theirs))
    ratios = [each / beside for each, beside in zip(own, other, strict=True)]
    return Row(
        question="compare",
        shape=f"{ours}, CPU",
        unit="ms",
        ours=_by_round(took_ms[ours]),
        peer=_by_round(took_ms[theirs]),
        peer_name=theirs,
        bar=0.1 if (ours, theirs) == (OURS, THEIRS) else None,
        notes=(
            f"{len(own)} pairs of successive real versions, {min(own):.2f} to {max(own):.1f} ms, {theirs} "
            f"{min(other):.2f} to {max(other):.1f} ms; the pairs' ratios {spread(ratios)}; of the sums "
            f"{sum(own) / sum(other):.3f}",
        ),
    )


def _beside_git(pairs: Sequence[tuple[Path, Path]], rounds: int) -> Row:
    """Both from the files, by the clock."""
    took_ms: Took = {FROM_FILES: [], GIT: [], STARTED: []}
    for old, new in pairs:
        ways: dict[str, Callable[[], object]] = {FROM_FILES: partial(_compare_files, old, new)}
        if shutil.which("git") is not None:
            ways[GIT] = partial(_run, *GIT.split(), str(old), str(new))
            ways[STARTED] = partial(_run, *STARTED.split())
        each_ms: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                each_ms[name].append(_once_ms(way, time.perf_counter))
        for name, one_ms in each_ms.items():
            took_ms[name].append(one_ms)
    return Row(
        question="compare",
        shape=f"{FROM_FILES}, by the clock",
        unit="ms",
        ours=_by_round(took_ms[FROM_FILES]),
        peer=_by_round(took_ms[GIT]),
        peer_name=GIT,
        notes=(
            f"git's with the start of its process, which alone takes {spread(_by_round(took_ms[STARTED]))} ms; ours "
            "without one, and with the reading of YAML"
            if took_ms[GIT]
            else "git left out: not installed",
        ),
    )


def _compare_files(old: Path, new: Path) -> None:
    formats.compare(old.read_bytes(), new.read_bytes())


def _run(*command: str) -> None:
    """`git diff` ends with 1 where something differs."""
    done = subprocess.run(command, stdout=subprocess.DEVNULL)
    assert done.returncode in (0, 1), command


def _reading(rounds: int) -> Row:
    files = [file for file in sorted(CORPUS.rglob("*.yml")) if not file.read_bytes().startswith(b"{")]
    files = sorted(files, key=lambda file: abs(file.stat().st_size - READ_BYTES))[:FILES]
    took_ms: Took = {"inspect": [], "yaml": []}
    for content in (file.read_bytes() for file in files):
        ways: Ways = {"inspect": partial(formats.inspect, content), "yaml": partial(read_yaml, content.decode())}
        for name, each_ms in _cpu_in_turns(ways, rounds).items():
            took_ms[name].append(each_ms)
    sizes = [file.stat().st_size / KIB for file in files]
    inspected_ms, yaml_ms = ([statistics.median(file) for file in took_ms[name]] for name in ("inspect", "yaml"))
    return Row(
        question="compare",
        shape="reading, digests and findings of one version at its publish, CPU",
        unit="ms",
        ours=_by_round(took_ms["inspect"]),
        bar=15.0,
        notes=(
            f"{len(files)} real files of {min(sizes):.0f} to {max(sizes):.0f} KiB: {min(inspected_ms):.1f} to "
            f"{max(inspected_ms):.1f} ms; of it YAML {sum(yaml_ms) / sum(inspected_ms):.0%}",
        ),
    )


def _by_round(took_ms: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Each round's median of the pairs."""
    return tuple(map(statistics.median, zip(*took_ms, strict=True)))


def _cpu_in_turns(ways: Ways, rounds: int) -> dict[str, list[float]]:
    """CPU of one call of each in each round, over about TURN_MS: a call after other work alone would measure cold
    caches."""
    calls = {name: max(1, round(TURN_MS / max(_once_ms(way, time.process_time), 0.01))) for name, way in ways.items()}
    took_ms: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            gc.collect()
            took_ms[name].append(_once_ms(way, time.process_time, calls[name]))
    return took_ms


def _once_ms(call: Callable[[], object], clock: Callable[[], float], calls: int = 1) -> float:
    began = clock()
    for _ in range(calls):
        call()
    return (clock() - began) * 1000 / calls

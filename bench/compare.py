"""Comparing two parsed versions beside deepdiff on the same values, and the CPU that reading a version takes.

Real versions of real workflows (REGISTRY_CORPUS); the ways of comparing take turns on each pair. deepdiff lists values
that differ, by path; with `ignore_order` it finds moved items again, as the comparison here finds nodes and edges. A
comparison with its verdict also looks at both versions for what is wrong with them.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

from deepdiff import DeepDiff

from bench.processes import load_average
from registry import formats
from registry.core.limits import KIB
from registry.formats.reading.yaml_reader import read_yaml
from tests.corpus import CORPUS, histories

TURNS, TURN_MS = 5, 20.0  # of each way on each pair
READ_BYTES, FILES = 64 * KIB, 9
OURS, VERDICT, THEIRS, UNORDERED = "comparison", "with its verdict", "deepdiff", "deepdiff, ignore_order"


async def compare(_directory: Path) -> None:
    if not CORPUS.is_dir():
        print("compare: left out, the corpus of real Dify files is not there; set REGISTRY_CORPUS to its directory")
        return
    _beside_deepdiff()
    _reading()


def _beside_deepdiff() -> None:
    pairs = [pair for versions in histories().values() for pair in pairwise(versions)]
    took_ms: dict[str, list[float]] = {OURS: [], VERDICT: [], THEIRS: [], UNORDERED: []}
    for files in pairs:
        for name, median_ms in _one_pair(*(formats.read(file.read_bytes()) for file in files)).items():
            took_ms[name].append(median_ms)
    print(f"compare, {len(pairs)} pairs of successive real versions, CPU, in turns ({load_average()}):")
    for name, medians in took_ms.items():
        print(f"  {name:24} median {statistics.median(medians):5.1f} ms, {min(medians):.1f} to {max(medians):.1f} ms")
    for theirs in (THEIRS, UNORDERED):
        for ours in (OURS, VERDICT):
            ratios = [other / own for other, own in zip(took_ms[theirs], took_ms[ours], strict=True)]
            print(
                f"  {theirs} / {ours}: median of the ratios {statistics.median(ratios):.1f}, "
                f"{min(ratios):.1f} to {max(ratios):.1f}; of the sums {sum(took_ms[theirs]) / sum(took_ms[ours]):.1f}"
            )


def _one_pair(old: formats.Known, new: formats.Known) -> dict[str, float]:
    ways: dict[str, Callable[[], object]] = {
        OURS: lambda: new.format.compare(old.read, new.read),
        VERDICT: lambda: formats.compare_read(old, new),
        THEIRS: lambda: DeepDiff(old.read.value, new.read.value),
        UNORDERED: lambda: DeepDiff(old.read.value, new.read.value, ignore_order=True),
    }
    return _medians_ms(ways)


def _reading() -> None:
    files = [file for file in sorted(CORPUS.rglob("*.yml")) if not file.read_bytes().startswith(b"{")]
    files = sorted(files, key=lambda file: abs(file.stat().st_size - READ_BYTES))[:FILES]
    inspected_ms, yaml_ms = [], []
    for content in (file.read_bytes() for file in files):
        ways: dict[str, Callable[[], object]] = {
            "inspect": lambda content=content: formats.inspect(content),
            "yaml": lambda content=content: read_yaml(content.decode()),
        }
        medians = _medians_ms(ways)
        inspected_ms.append(medians["inspect"])
        yaml_ms.append(medians["yaml"])
    sizes = [file.stat().st_size / KIB for file in files]
    print(
        f"publish, CPU of reading, digests and findings of {len(files)} real files of {min(sizes):.0f} to "
        f"{max(sizes):.0f} KiB: median {statistics.median(inspected_ms):.1f} ms, "
        f"{min(inspected_ms):.1f} to {max(inspected_ms):.1f} ms; of it YAML {sum(yaml_ms) / sum(inspected_ms):.0%}"
    )


def _medians_ms(ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """CPU of one call of each, over turns of about TURN_MS: a call after other work alone would measure cold caches."""
    calls = {name: max(1, round(TURN_MS / max(_cpu_ms(way, 1), 0.01))) for name, way in ways.items()}
    took_ms: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, way in ways.items():
            gc.collect()
            took_ms[name].append(_cpu_ms(way, calls[name]))
    return {name: statistics.median(each) for name, each in took_ms.items()}


def _cpu_ms(call: Callable[[], object], calls: int) -> float:
    began = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - began) * 1000 / calls

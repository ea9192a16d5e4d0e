"""What a question found, as rows of a table: medians, ranges and ratios are worked out here and nowhere else.

RESULTS.md has every run that was kept, for people, results.jsonl its rows, for `make bench-check`.
"""

from __future__ import annotations

import platform
import shutil
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

import msgspec

from bench.resources import load_average

HERE = Path(__file__).parent
RESULTS, ROWS = HERE / "RESULTS.md", HERE / "results.jsonl"
PACKAGES = ("grpcio", "protobuf", "lmdb", "pysyncobj", "uvloop")
WRITTEN = ("RESULTS.md", "results.jsonl", "growth.svg")  # by the questions themselves
TOOLS = {"etcd": ("etcd", "--version"), "go": ("go", "version"), "git": ("git", "--version")}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of ours beside the same of a peer.

    `ours`, `peer`: one value a run, in `unit`. `bar`, `aim`: of ours / peer where there is a peer to compare with by
    design, else of ours; the least where more is better, else the most. `notes`: what the run cost, in words.
    """

    question: str
    shape: str
    unit: str
    ours: tuple[float, ...]
    peer: tuple[float, ...] = ()
    peer_name: str = ""  # empty: ours alone
    more_is_better: bool = False
    bar: float | None = None
    aim: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.question}: {self.shape}, {self.unit}" + (f", beside {self.peer_name}" if self.peer_name else "")

    @property
    def ratio(self) -> float | None:
        """Of the medians. None: the peer is absent."""
        return statistics.median(self.ours) / statistics.median(self.peer) if self.peer else None

    @property
    def measure(self) -> float | None:
        """What the bar is held against."""
        return self.ratio if self.peer_name else statistics.median(self.ours)

    def holds(self, limit: float | None) -> bool | None:
        if limit is None or self.measure is None:
            return None
        return self.measure >= limit if self.more_is_better else self.measure <= limit


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A run of `python -m bench --write`."""

    date: str
    commit: str
    machine: str
    versions: str
    rows: tuple[Row, ...]


def spread(values: Sequence[float]) -> str:
    """Median and range."""
    middle = figure(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({figure(min(values))} to {figure(max(values))})"


def figure(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(rows: Iterable[Row]) -> str:
    """As Markdown; what is told beside a row stands below."""
    lines = ["| question | unit | ours | peer | ours / peer | bar | aim |", "|---|---|---|---|---|---|---|"]
    notes = []
    for row in rows:
        peer = f"{row.peer_name} {spread(row.peer)}" if row.peer else f"{row.peer_name} absent" * bool(row.peer_name)
        cells = (
            *(f"{row.question}: {row.shape}", row.unit, spread(row.ours), peer),
            *("" if row.ratio is None else f"{row.ratio:.2f}", _limit(row, row.bar), _limit(row, row.aim)),
        )
        lines.append(f"| {' | '.join(cells)} |")
        notes += [f"- {row.question}, {row.shape}: {note}" for note in row.notes]
    return "\n".join(lines) + "\n" + ("\n" + "\n".join(notes) + "\n" if notes else "")


def _limit(row: Row, limit: float | None) -> str:
    if limit is None:
        return ""
    held = {True: "held", False: "**missed**", None: "not compared"}[row.holds(limit)]
    return f"{'>=' if row.more_is_better else '<='} {limit:g} {held}"


def section(rows: Sequence[Row], date: str) -> Section:
    return Section(date=date, commit=_commit(), machine=_machine(), versions=_versions(), rows=tuple(rows))


def keep(made: Section) -> None:
    """Adds it to both files."""
    head = f"## {made.date}, commit {made.commit}\n\n{made.machine}. {made.versions}.\n\n"
    with RESULTS.open("a") as file:
        file.write(f"\n{head}{table(made.rows)}")
    with ROWS.open("ab") as rows:
        rows.write(msgspec.json.encode(made) + b"\n")


def kept() -> dict[str, Row]:
    """The newest row of each key."""
    lines = ROWS.read_bytes().splitlines() if ROWS.exists() else []
    return {row.key: row for line in lines for row in msgspec.json.decode(line, type=Section).rows}


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", ":/", *(f":!{name}" for name in WRITTEN))
    return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")


def _machine() -> str:
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    gib = int(memory.split()[1]) / 2**20
    return f"{load_average()}, {gib:.0f} GiB, Linux {platform.release()}, all on one machine over loopback"


def _versions() -> str:
    found = [f"Python {platform.python_version()}", *(f"{name} {metadata.version(name)}" for name in PACKAGES)]
    for name, command in TOOLS.items():
        if shutil.which(name) is not None:
            said = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[0]
            number = next(word for word in said.replace("go version ", "").split() if any(map(str.isdigit, word)))
            found.append(f"{name} {number.removeprefix('go')}")
    return ", ".join(found)

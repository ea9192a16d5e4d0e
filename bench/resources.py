"""What the kernel and LMDB tell of processes, from outside of them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from registry.cli.local_cluster import LocalMember

MIB = 1024**2
_TICKS_S = os.sysconf("SC_CLK_TCK")


def pid(member: LocalMember) -> int:
    assert member.process is not None, f"{member.name} was never started"
    return member.process.pid


def anonymous_bytes(member: LocalMember) -> int:
    """RssAnon: what it allocated, without the pages of the database that it has mapped."""
    return process_bytes(pid(member))


def process_bytes(number: int) -> int:
    """RssAnon of any process."""
    for line in Path(f"/proc/{number}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"no RssAnon of process {number}: it has ended")


def thread_cpu_s(number: int) -> float:
    """CPU time of the threads that a process and its children have, to the microsecond: for what is shorter than a tick
    of the clock."""
    threads = [thread for each in _tree(number) for thread in Path(f"/proc/{each}/task").glob("*/schedstat")]
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def cpu_s(member: LocalMember) -> float:
    """CPU time of the process and of its workers, since they started."""
    return tree_cpu_s(pid(member))


def tree_cpu_s(number: int) -> float:
    """CPU time of a process and of its children, since they started."""
    return sum(_cpu_s(each) for each in _tree(number))


def _tree(number: int) -> tuple[int, ...]:
    children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    return (number, *map(int, children))


def _cpu_s(number: int) -> float:
    fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_S


def written_bytes(member: LocalMember) -> int:
    return _written_bytes(pid(member))


def _written_bytes(number: int) -> int:
    """What the process has caused to be written to a disk."""
    lines = Path(f"/proc/{number}/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("write_bytes:")))


class Used(NamedTuple):
    seconds: float
    cpu_s: float
    disk_bytes: int
    loopback_bytes: int  # of everybody

    def said(self, count: float, what: str) -> str:
        """What each of `count` cost."""
        each = max(count, 1)
        return (
            f"servers {self.cpu_s / self.seconds:.2f} cores, {self.cpu_s * 1e6 / each:,.0f} us, "
            f"{self.disk_bytes / each:,.0f} bytes to disk and {self.loopback_bytes / each:,.0f} over loopback {what}"
        )


class Meter:
    """What processes use from now on, with their children."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers
        self._before = self._now()

    def used(self) -> Used:
        now, before = self._now(), self._before
        return Used(
            now.seconds - before.seconds,
            now.cpu_s - before.cpu_s,
            now.disk_bytes - before.disk_bytes,
            now.loopback_bytes - before.loopback_bytes,
        )

    def _now(self) -> Used:
        numbers = [each for number in self._numbers for each in _tree(number)]
        loopback = Path("/sys/class/net/lo/statistics/tx_bytes").read_text()
        cpu, disk = sum(map(_cpu_s, numbers)), sum(map(_written_bytes, numbers))
        return Used(time.monotonic(), cpu, disk, int(loopback))


def load_average() -> str:
    return f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"

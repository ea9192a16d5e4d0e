"""What the kernel and LMDB tell of a member's process, from outside of it."""

from __future__ import annotations

import os
from pathlib import Path

import lmdb

from registry.cli.local_cluster import LocalMember
from registry.server.identity import DATABASE

MIB = 1024**2
_TICKS_S = os.sysconf("SC_CLK_TCK")


def pid(member: LocalMember) -> int:
    assert member.process is not None, f"{member.name} was never started"
    return member.process.pid


def anonymous_bytes(member: LocalMember) -> int:
    """RssAnon: what it allocated, without the pages of the database that it has mapped."""
    for line in Path(f"/proc/{pid(member)}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"no RssAnon of {member.name}: it has ended")


def cpu_s(member: LocalMember) -> float:
    """CPU time of the process and of its workers, since they started."""
    children = Path(f"/proc/{pid(member)}/task/{pid(member)}/children").read_text().split()
    return sum(_cpu_s(number) for number in (str(pid(member)), *children))


def _cpu_s(number: str) -> float:
    fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_S


def commits(member: LocalMember) -> int:
    """Transactions committed to the member's database, ever: each is one sync."""
    root = member.data_dir / DATABASE
    current = root / (root / "CURRENT").read_text().strip()
    # Without a lock: only the meta page is read, and a running member must not notice.
    environment = lmdb.open(str(current), readonly=True, lock=False, create=False)
    try:
        return int(environment.info()["last_txnid"])
    finally:
        environment.close()


def load_average() -> str:
    return f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"

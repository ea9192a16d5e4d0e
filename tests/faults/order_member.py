"""One real member with a line protocol for its client, run under syscall_order.so by test_sync_order.py.

    python -m tests.faults.order_member NAME CLIENT_PORT DIRECTORY NAME=HOST:PORT...

A client sends `leader` or `propose TEXT`; the answer is one line. ORDER_FAULT breaks the order on purpose: `unsynced`
never syncs the log, `late` commits after the tick instead of within it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial
from pathlib import Path

from cluster.configuration import founding
from cluster.journal import TABLES
from cluster.kv.lmdb_env import LmdbEnvironment
from cluster.member import Member, MemberConfig
from tests.integration.cluster_members import STATE, Log


class LateEnvironment(LmdbEnvironment):
    def commit(self, *, synced: bool = True) -> None:
        asyncio.get_running_loop().call_soon(partial(super().commit, synced=synced))


def environment(path: Path) -> LmdbEnvironment:
    fault = os.environ.get("ORDER_FAULT", "")
    if fault == "unsynced":
        os.fdatasync = lambda fd: None
    kind = LateEnvironment if fault == "late" else LmdbEnvironment
    return kind(path, [*TABLES, STATE], map_size_bytes=1 << 28)


async def serve(member: Member, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := (await reader.readline()).decode().strip():
        if line == "leader":
            answer = f"leader {member.status().leader or ''}"
        else:
            text = line.removeprefix("propose ")
            await member.propose(text.encode(), timeout_s=10.0)
            answer = f"done {text}"
        writer.write(answer.encode() + b"\n")
    writer.close()


async def main(name: str, port: str, directory: str, *voters: str) -> None:
    addresses = dict(voter.split("=") for voter in voters)
    config = MemberConfig(
        id=name,
        name=name,
        incarnation=f"of {name}",
        listen=addresses[name],
        peer_address=addresses[name],
        founding=founding("order", addresses),
    )
    member = Member(config, environment(Path(directory)), Log())
    await member.start()
    await asyncio.start_server(lambda reader, writer: serve(member, reader, writer), "127.0.0.1", int(port))
    raise await member.failure()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

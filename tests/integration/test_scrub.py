"""Scrub and compact of real members, over their ports: through the client, and as regctl."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

from cluster.kv.api import Transaction
from registry.client import Client
from registry.core.encoding import encode
from registry.core.model import Content
from registry.store import tables
from tests.integration.cli_kit import REGCTL
from tests.integration.server_kit import Peer, answer, get, members, until

WORKFLOW = "support/triage"
DOCUMENT = b'{"prompt": "%d", "words": "' + b"be kind and answer in full sentences " * 40 + b'"}'
LARGE = random.Random(1).randbytes(300_000)


async def fill(peer: Peer, versions: int = 30) -> None:
    for number in range(versions):
        await peer.publish(WORKFLOW, DOCUMENT.replace(b"%d", b"%d" % number))
    await peer.publish("support/model", LARGE)
    await peer.switch(WORKFLOW, 1)


async def test_a_scrub_of_a_whole_member_reads_everything(tmp_path: Path) -> None:
    async with members(tmp_path) as [peer], Client([peer.member.api_address]) as client:
        await fill(peer)
        with peer.member._environment.snapshot() as reader:
            rows = sum(reader.count(table) for table in peer.member._environment.tables)
        told: list[tuple[int, int]] = []
        found = await client.scrub(peer.member.api_address, progress=lambda *each: told.append(each))
        assert (found.member, found.damage, found.repair) == ("n1", (), "")
        assert found.rows >= rows
        assert found.contents == 31
        assert told[-1][0] == found.size_bytes > len(LARGE) // 2
        page = await answer(peer.member.http_address, get("/metrics"))
        assert b"registry_scrub_contents 31" in page
        assert b"registry_scrub_damage 0" in page


async def test_a_row_that_is_as_it_was_written_and_wrong_is_told_and_not_repaired(tmp_path: Path) -> None:
    """The others may have the same: three members that end for it would be no cluster."""
    async with members(tmp_path) as [peer], Client([peer.member.api_address]) as client:
        await fill(peer, versions=1)
        digest = (await client.version(WORKFLOW, 1)).digest

        def spoil(transaction: Transaction) -> None:
            row = Content(encoding="raw", data=b"other bytes", size_bytes=11)
            transaction.put(tables.CONTENTS, tables.raw(digest), encode(row))

        environment = peer.member._environment
        spoil(environment.transaction())
        environment.commit()
        found = await client.scrub(peer.member.api_address)
        (damage,) = found.damage
        assert (damage.table, "sha256" in damage.what) == (tables.VERSIONS, True)
        assert WORKFLOW in damage.key
        assert "as they were written" in found.repair
        assert peer.member.ready


async def test_regctl_scrubs_and_compacts_every_member(tmp_path: Path) -> None:
    async with members(tmp_path, 3) as peers:
        await fill(peers[0])
        await until(lambda: len({peer.member.feed.registry.revision for peer in peers}) == 1)
        endpoint = peers[1].member.api_address
        for command in ("scrub", "compact"):
            regctl = await asyncio.create_subprocess_exec(
                *(*REGCTL, "--endpoints", endpoint, "-o", "json", "cluster", command), stdout=asyncio.subprocess.PIPE
            )
            out, _ = await regctl.communicate()
            made = json.loads(out)
            assert (regctl.returncode, made["failed"]) == (0, {})
            assert sorted(each["member"] for each in made["members"]) == ["n1", "n2", "n3"]
            leader = next(peer.member._config.name for peer in peers if peer.leads)
            assert made["members"][-1]["member"] == leader

"""What travels in an instruction: a rollback of 60 KB, and the next version of each real history."""

from __future__ import annotations

import asyncio

from bench.report import Row
from bench.waiting import crowd
from registry.cli.local_cluster import LocalMember
from registry.client import Client
from registry.core.limits import INLINE_BYTES
from tests.corpus import CORPUS, histories

AGENTS, ROLLBACK_BYTES = 1000, 60_000
ROLLED_BAR_BYTES, STEP_BAR_PERCENT = 600, 15


async def sizes(member: LocalMember, client: Client) -> list[Row]:
    """Bytes of replies, heads included."""
    return [await _rolled(member, client), *([await _steps(member, client)] if CORPUS.is_dir() else [])]


async def _rolled(member: LocalMember, client: Client) -> Row:
    texts = [b'{"nodes": [%s]}' % b",".join(b'"%x"' % (seed * i * i) for i in range(6000)) for seed in (977, 991)]
    contents = [text[:ROLLBACK_BYTES] for text in texts]
    versions = [await client.publish("bench/rolled", each, kind="text") for each in contents]
    for version in versions:
        pointer = await client.switch("bench/rolled", version.number, reason="bench")
    async with crowd(member, count=AGENTS, workflow="bench/rolled", inline_bytes=INLINE_BYTES) as agents:
        await agents.wait(generation=pointer.generation, digest=pointer.digest, kept=[versions[0].digest])
        telling = asyncio.create_task(agents.say(order="tell"))
        await client.rollback("bench/rolled", reason="the new prompts drop every third ticket")
        told = await telling
    notes = [f"{told['frames_bytes'] / AGENTS:.0f} of them content"]
    if not CORPUS.is_dir():
        notes.append("real histories left out: set REGISTRY_CORPUS to the directory of the corpus")
    return Row(
        question="fan_out",
        shape=f"a rollback of {ROLLBACK_BYTES:,} bytes, to one of {AGENTS:,} agents that kept them",
        unit="bytes",
        ours=(told["bytes"] / AGENTS,),
        bar=ROLLED_BAR_BYTES,
        notes=tuple(notes),
    )


async def _steps(member: LocalMember, client: Client) -> Row:
    sent = exact = steps = 0
    for number, files in enumerate(histories().values()):
        workflow = f"bench/history{number}"
        made = [await client.publish(workflow, file.read_bytes(), kind="dify") for file in files]
        made = list({version.number: version for version in made}.values())
        pointer = await client.switch(workflow, made[0].number, reason="bench")
        async with crowd(member, count=AGENTS, workflow=workflow, inline_bytes=INLINE_BYTES) as agents:
            for version in made[1:]:
                await agents.wait(generation=pointer.generation, digest=pointer.digest)
                telling = asyncio.create_task(agents.say(order="tell"))
                pointer = await client.switch(workflow, version.number, reason="bench")
                told = await telling
                sent, exact, steps = sent + int(told["bytes"]), exact + version.size_bytes * AGENTS, steps + 1
    return Row(
        question="fan_out",
        shape=f"the next version of a real history, to one of {AGENTS:,} agents",
        unit="% of its bytes",
        ours=(100 * sent / exact,),
        bar=STEP_BAR_PERCENT,
        notes=(f"{steps} steps of {AGENTS:,} agents: {sent:,} bytes of {exact:,}",),
    )

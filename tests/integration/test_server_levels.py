"""Two releases in one cluster: while a member of the older one is left, what it cannot read is refused politely."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from registry.client import Client
from registry.core import limits
from registry.core.errors import Reason, Refused
from registry.server.inspector import Inspector
from tests.integration.server_kit import Peer, free_port, start_member, until
from tests.unit.formats import kit

SECRET = b"hunter2-hunter2"  # of kit.app()


@asynccontextmanager
async def release(path: Path, ports: dict[str, str], levels: dict[str, int]) -> AsyncIterator[list[Peer]]:
    """Members over their data directories, each of a release with this feature level."""
    with pytest.MonkeyPatch.context() as patch:
        async with AsyncExitStack() as stack:
            inspector = await stack.enter_async_context(Inspector())
            peers = []
            for name in ports:
                patch.setattr(limits, "FEATURE_LEVEL", levels[name])
                peers.append(await start_member(stack, path, name, ports, inspector))
            yield peers


async def at_level(peers: list[Peer], level: int) -> None:
    await until(lambda: all(peer.member.ready for peer in peers))
    await until(lambda: all(peer.member.cluster.status().level == level for peer in peers))


async def level_too_low(call: object) -> str:
    with pytest.raises(Refused) as caught:
        await call  # type: ignore[misc]
    assert caught.value.reason is Reason.LEVEL_TOO_LOW
    assert "regctl cluster status" in caught.value.hint
    return caught.value.message


async def test_the_older_release_is_waited_for_and_then_everything_works(tmp_path: Path) -> None:
    ports = {name: f"127.0.0.1:{free_port()}" for name in ("n1", "n2", "n3")}
    app = kit.dump(kit.app())
    async with release(tmp_path, ports, {"n1": 2, "n2": 2, "n3": 1}) as peers:
        await at_level(peers, 1)
        for peer in peers:  # also through the member of the newer release
            async with Client(peer.member.api_address) as client:
                await level_too_low(client.set_policy("*", {"checks": "refuse"}, reason="x"))
        async with Client(peers[0].member.api_address) as client:
            old = await client.publish("levels/app", app)
            assert SECRET not in await client.content("levels/app")
            assert any("feature level 1 is in force" in note for note in old.notes)
            assert (old.secrets, old.requires, old.summary) == ({}, (), "")
            assert "parents" in await level_too_low(client.publish("levels/app", app + b"\n", parents=[1]))
            assert "snapshot" in await level_too_low(client.publish("levels/app", app + b"\n", snapshot="manual"))
            assert "needs" in await level_too_low(client.publish("levels/app", app + b"\n", needs=["dify>=1.9"]))
            assert "times" in await level_too_low(client.switch("levels/app", 1, reason="go", not_before_ms=1))
            assert "label" in await level_too_low(client.label("levels/app", 1, {"a": "b"}))
            assert "in chunks" in await level_too_low(client.publish("levels/large", bytes(limits.CONTENT_BYTES + 1)))
            assert (await client.policy("levels/app")).effective.verdict == "block"
            second = await client.publish("levels/app", app.replace(b"Be polite", b"Be kind"))
            assert (second.verdict, second.summary) == ("ok", "")
            assert (await client.switch("levels/app", 2, reason="go")).version == 2
            assert (await client.impact("levels/app")).dependents == ()
            digests = [version.digest async for version in client.versions("levels/app")]
    async with release(tmp_path, ports, {"n1": 2, "n2": 2, "n3": 2}) as peers:
        await at_level(peers, 2)
        async with Client(peers[2].member.api_address) as client:
            assert [version.digest async for version in client.versions("levels/app")] == digests
            assert (await client.label("levels/app", 1, {"a": "b"})).labels == {"a": "b"}
            await client.set_policy("levels/app", {"verdict": "warn"}, reason="from now on")
            third = await client.publish("levels/app", app.replace(b"Be polite", b"Be quick"), requires=["levels/b"])
            assert third.notes == ("1 secret value was left out: environment.TOKEN",)
            assert (third.requires, third.summary != "") == (("levels/b",), True)
            assert SECRET not in await client.content("levels/app", 3)
            assert (await client.switch("levels/app", 3, reason="go", not_before_ms=1)).not_before_ms == 1


async def test_the_first_calls_of_a_new_cluster_find_the_level_of_its_release(tmp_path: Path) -> None:
    """It is founded at level 1 and rises by itself once all have said what they support."""
    ports = {name: f"127.0.0.1:{free_port()}" for name in ("n1", "n2", "n3")}
    app = kit.dump(kit.app())
    async with release(tmp_path, ports, dict.fromkeys(ports, limits.FEATURE_LEVEL)) as peers:
        async with Client([peer.member.api_address for peer in peers]) as client:
            await client.set_policy("levels/*", {"checks": "refuse"}, reason="x")
            first = await client.publish("levels/app", app, requires=["levels/b"])
            assert (first.requires, len(first.secrets)) == (("levels/b",), 1)

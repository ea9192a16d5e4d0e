"""A member on its way to being ready."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from registry.server.inspector import Inspector
from tests.integration.server_kit import answer, free_port, get, start_member, until


async def test_a_member_too_busy_to_found_its_cluster_lives_on_and_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        inspector = await stack.enter_async_context(Inspector())
        with monkeypatch.context() as full:
            full.setattr("cluster.member.PROPOSALS", 0)
            peer = await start_member(stack, tmp_path, "n1", {"n1": f"127.0.0.1:{free_port()}"}, inspector)
            assert (await answer(peer.member.http_address, get("/livez"))).endswith(b"alive\n")
        await until(lambda: peer.member.ready)

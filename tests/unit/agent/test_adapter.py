from __future__ import annotations

from typing import Any

import pytest

from registry.agent import ClientApi
from registry.agent.api import Holding, Instruction, Poll, PollReply
from registry.client import Client, PollRequest, PollResponse, convert
from registry.v1 import agent_pb2, registry_pb2

POLL = Poll(
    agent="edge-1",
    cluster_id="c1",
    epoch=2,
    session="s1",
    site="eu-1",
    labels={"ring": "canary"},
    facts={"dify": "1.9.2"},
    follows=(Holding(workflow="a/b", pointer="active", generation=4, digest="sha256:d", kept=("sha256:k",)),),
    wait_ms=2000,
    inline_bytes=65536,
)
TOLD = Instruction(
    workflow="a/b",
    pointer="active",
    generation=5,
    version=3,
    digest="sha256:e",
    size_bytes=9,
    base_digest="sha256:d",
    how="delta",
    delta_base="sha256:d",
    content_bytes=5,
    needs=("dify>=1.9",),
    reason="why",
    rollback=True,
    min_revision=77,
    not_before_ms=1000,
    deadline_ms=2000,
)


async def test_every_field_of_a_poll_goes_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    version = registry_pb2.Version(number=3, digest="sha256:e", size_bytes=9, needs=["dify>=1.9"], status="stable")
    message = agent_pb2.Instruction(
        workflow="a/b", pointer="active", generation=5, version=version, base_digest="sha256:d", reason="why",
        rollback=True, min_revision=77, how="delta", content=b"frame", delta_base="sha256:d", not_before_ms=1000,
        deadline_ms=2000,
    )  # fmt: skip
    info = registry_pb2.ReplyInfo(cluster_id="c1", epoch=2, revision=80, age_ms=7)

    async def poll(client: Client, request: PollRequest, *, timeout_s: float) -> PollResponse:
        asked.append(convert.poll_request(request))
        older = agent_pb2.Instruction(workflow="a/c", pointer="active", generation=1, version=version)
        return convert.poll_response(agent_pb2.PollResponse(info=info, instructions=[message, older]))

    monkeypatch.setattr(Client, "poll", poll)
    async with Client(["127.0.0.1:1"]) as client:
        polled = await ClientApi(client).poll(POLL, timeout_s=10)
    (request,) = asked
    for name in POLL.__struct_fields__:
        if name != "follows":
            assert getattr(request, name) == getattr(POLL, name), name
    (follow,) = request.follows
    for name in Holding.__struct_fields__:
        found = getattr(follow, name)
        assert (tuple(found) if name == "kept" else found) == getattr(POLL.follows[0], name), name
    first, second = polled.reply.instructions
    assert first == TOLD
    assert (second.workflow, second.how, second.content_bytes) == ("a/c", "fetch", 0)
    assert polled.reply == PollReply(cluster_id="c1", epoch=2, revision=80, instructions=(first, second), age_ms=7)
    assert polled.frames == {("a/b", "active"): b"frame"}

"""Agents by HTTP, raw and through http.client: polls, content and reports over real sockets."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import random
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from registry.core import frames, limits
from registry.server import http_content
from registry.v1 import agent_pb2, registry_pb2
from tests.integration.server_kit import RPC_S, Peer, failed, members, new_request_id, until
from tests.integration.test_client_tls import certificates
from tests.unit.server.lone_cluster import near

pytestmark = pytest.mark.asyncio(loop_scope="module")
LONG_MS = 20_000
CONTENTS = near(3, 3000)
DIGESTS = [f"sha256:{hashlib.sha256(each).hexdigest()}" for each in CONTENTS]


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes
    size_bytes: int  # head and all

    @property
    def json(self) -> Any:
        return json.loads(self.body.partition(b"\n")[0])

    @property
    def instructions(self) -> list[Any]:
        found: list[Any] = self.json.get("instructions", [])
        return found

    @property
    def frames(self) -> bytes:
        return self.body.partition(b"\n")[2]


class Connection:
    """One keep-alive connection of an agent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> Reply:
        self.send(method, path, body, **headers)
        return await self.reply(is_head=method == "HEAD")

    def send(self, method: str, path: str, body: object = None, **headers: str) -> None:
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "host: m", *(f"{name}: {value}" for name, value in headers.items())]
        lines += [f"content-length: {len(data)}"] if body is not None else []
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + data)

    async def reply(self, *, is_head: bool = False) -> Reply:
        async with asyncio.timeout(RPC_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines if line)
            body = b"" if is_head else await self.reader.readexactly(int(headers["content-length"]))
        return Reply(int(first.split()[1]), headers, body, len(head) + len(body))


async def connect(peer: Peer) -> Connection:
    host, _, port = peer.member.http_address.rpartition(":")
    return Connection(*await asyncio.open_connection(host, int(port)))


async def ask(peer: Peer, method: str, path: str, body: object = None, **headers: str) -> Reply:
    connection = await connect(peer)
    try:
        return await connection.ask(method, path, body, **headers)
    finally:
        connection.writer.close()


def poll_of(workflow: str, generation: int = 0, digest: str = "", **fields: Any) -> dict[str, Any]:
    holding = {"workflow": workflow, "generation": generation, "digest": digest, "kept": fields.pop("kept", [])}
    return {"agent": "edge-1", "epoch": 1, "follows": [holding]} | fields


async def poll(peer: Peer, workflow: str, *holding: Any, **fields: Any) -> Reply:
    return await ask(peer, "POST", "/v1/poll", poll_of(workflow, *holding, **fields))


async def published(peer: Peer, workflow: str, *contents: bytes) -> None:
    for content in contents or CONTENTS:
        await peer.publish(workflow, content, kind="binary")
    await peer.switch(workflow, 1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def peer(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Peer]:
    async with members(tmp_path_factory.mktemp("member")) as (only,):
        yield only


async def test_a_poll_waits_and_wakes_for_its_pointer_only(peer: Peer) -> None:
    await published(peer, "wake/one")
    await published(peer, "wake/two")
    one, two = await connect(peer), await connect(peer)
    one.send("POST", "/v1/poll", poll_of("wake/one", 1, DIGESTS[0], wait_ms=LONG_MS))
    two.send("POST", "/v1/poll", poll_of("wake/two", 1, DIGESTS[0], wait_ms=LONG_MS))
    await until(lambda: peer.member.hub.waiting == 2)
    switched = await peer.switch("wake/one", 2)
    reply = await one.reply()
    (told,) = reply.instructions
    assert (told["generation"], told["version"], told["digest"]) == (2, 2, DIGESTS[1])
    assert (told["base_digest"], told["min_revision"]) == (DIGESTS[0], switched.info.revision)
    assert reply.json["cluster_id"] == peer.member.feed.registry.cluster_id
    assert peer.member.hub.waiting == 1
    two.writer.close()
    await until(lambda: peer.member.hub.waiting == 0)
    again = await one.ask("POST", "/v1/poll", poll_of("wake/one", 2, DIGESTS[1]))
    assert (again.status, again.instructions) == (200, []), "on the same connection"
    one.writer.close()


async def test_a_poll_in_vain_ends_without_instructions(peer: Peer) -> None:
    await published(peer, "vain/one")
    reply = await poll(peer, "vain/one", 1, DIGESTS[0], wait_ms=50)
    assert "instructions" not in reply.json
    assert reply.json["revision"] == peer.revision
    assert peer.member.hub.waiting == 0


async def test_hundreds_wait_and_share_one_reply(peer: Peer) -> None:
    await published(peer, "many/one")
    agents = [await connect(peer) for _ in range(300)]
    for agent in agents:
        agent.send("POST", "/v1/poll", poll_of("many/one", 1, DIGESTS[0], wait_ms=LONG_MS, inline_bytes=65_536))
    await until(lambda: peer.member.hub.waiting == 300)
    built = peer.member._parts.delivery.built
    await peer.switch("many/one", 2)
    replies = await asyncio.gather(*(agent.reply() for agent in agents))
    assert len({reply.body for reply in replies}) == 1
    assert peer.member._parts.delivery.built == built + 1
    assert frames.unpack_over(CONTENTS[0], replies[0].frames, 3000) == CONTENTS[1]
    for agent in agents:
        agent.writer.close()


async def test_content_comes_as_the_agent_needs_it(peer: Peer) -> None:
    await published(peer, "how/one")
    await peer.switch("how/one", 2)
    delta = await poll(peer, "how/one", 1, DIGESTS[0], inline_bytes=65_536)
    (told,) = delta.instructions
    assert delta.headers["content-type"] == "application/vnd.registry.poll"
    assert (told["how"], told["delta_base"], told["content_bytes"]) == ("delta", DIGESTS[0], len(delta.frames))
    assert frames.unpack_over(CONTENTS[0], delta.frames, told["size_bytes"]) == CONTENTS[1]
    full = await poll(peer, "how/one", inline_bytes=65_536)
    assert full.instructions[0]["how"] == "full"
    assert frames.unpack(full.frames, 3000) == CONTENTS[1]
    have = await poll(peer, "how/one", 1, DIGESTS[0], kept=[DIGESTS[1]], inline_bytes=65_536)
    assert (have.instructions[0]["how"], have.headers["content-type"]) == ("have", "application/json")
    fetch = await poll(peer, "how/one", 1, DIGESTS[0])
    assert "how" not in fetch.instructions[0], "fetch is what goes without saying"


async def test_several_contents_follow_in_the_order_of_their_instructions(peer: Peer) -> None:
    await published(peer, "multi/one")
    await published(peer, "multi/two")
    await published(peer, "multi/three", b"three" * 100)
    await peer.switch("multi/two", 3)
    follows = [
        {"workflow": f"multi/{name}", "kept": kept} for name, kept in (("one", []), ("two", DIGESTS), ("three", []))
    ]
    reply = await ask(peer, "POST", "/v1/poll", {"agent": "e", "follows": follows, "inline_bytes": 65_536})
    assert [each["how"] for each in reply.instructions] == ["full", "have", "full"]
    first = reply.instructions[0]["content_bytes"]
    assert frames.unpack(reply.frames[:first], 3000) == CONTENTS[0]
    assert frames.unpack(reply.frames[first:], 500) == b"three" * 100


async def test_a_waiting_agent_gets_content_packed_for_it(peer: Peer) -> None:
    """Larger than what is packed on the loop: the switch is told once that is done, beside it."""
    rng = random.Random(5)
    old = rng.randbytes(300_000)
    new = old[:150_000] + rng.randbytes(500) + old[150_000:]
    await published(peer, "packed/one", old, new, rng.randbytes(1000))
    waiting = await connect(peer)
    digest = f"sha256:{hashlib.sha256(old).hexdigest()}"
    waiting.send("POST", "/v1/poll", poll_of("packed/one", 1, digest, wait_ms=LONG_MS, inline_bytes=65_536))
    await until(lambda: peer.member.hub.waiting == 1)
    await peer.switch("packed/one", 2)
    reply = await waiting.reply()
    assert reply.instructions[0]["how"] == "delta"
    assert frames.unpack_over(old, reply.frames, len(new)) == new
    waiting.writer.close()
    assert "how" not in (await poll(peer, "packed/one", inline_bytes=65_536)).instructions[0], "whole it is too large"


async def test_a_rollback_that_moves_no_content_takes_at_most_600_bytes(peer: Peer) -> None:
    rng = random.Random(6)
    contents = [rng.randbytes(60_000) for _ in range(2)]
    digests = [f"sha256:{hashlib.sha256(each).hexdigest()}" for each in contents]
    await published(peer, "support/triage", *contents)
    await peer.switch("support/triage", 2)
    waiting = await connect(peer)
    waiting.send(
        "POST", "/v1/poll",
        poll_of("support/triage", 2, digests[1], kept=[digests[0]], wait_ms=LONG_MS, inline_bytes=65_536),
    )  # fmt: skip
    await until(lambda: peer.member.hub.waiting == 1)
    await peer.registry.Rollback(
        registry_pb2.RollbackRequest(
            request_id=new_request_id(),
            moves=[registry_pb2.Move(workflow="support/triage")],
            reason="answers about refunds are wrong since noon",
        ),
        timeout=RPC_S,
    )
    reply = await waiting.reply()
    (told,) = reply.instructions
    assert (told["how"], told["rollback"], told["digest"]) == ("have", True, digests[0])
    assert reply.size_bytes <= 600
    waiting.writer.close()


async def test_the_same_is_served_by_grpc(peer: Peer) -> None:
    await published(peer, "grpc/one")
    await peer.switch("grpc/one", 2)
    follow = agent_pb2.Follow(workflow="grpc/one", generation=1, digest=DIGESTS[0])
    request = agent_pb2.PollRequest(agent="edge-1", epoch=1, follows=[follow], inline_bytes=65_536)
    (told,) = (await peer.agents.Poll(request, timeout=RPC_S)).instructions
    assert (told.how, told.delta_base) == ("delta", DIGESTS[0])
    reply = await poll(peer, "grpc/one", 1, DIGESTS[0], inline_bytes=65_536)
    assert reply.frames == told.content
    assert reply.instructions[0]["min_revision"] == told.min_revision
    request.follows[0].kept.append(DIGESTS[1])
    assert (await peer.agents.Poll(request, timeout=RPC_S)).instructions[0].how == "have"


async def test_polls_that_are_refused(peer: Peer) -> None:
    wrong = await poll(peer, "a/b", cluster_id="feedfeedfeedfeed")
    assert (wrong.status, wrong.json["reason"]) == (409, "CLUSTER_MISMATCH")
    assert wrong.json["cluster_id"] == peer.member.feed.registry.cluster_id
    assert (await poll(peer, "a")).json["reason"] == "INVALID_NAME"
    for body in (
        b"",
        b"{",
        b"[]",
        b'{"agent": 1}',
        b'{"agent": "\xff"}',
        b"[" * 100_000,
        b'{"agent":"e","wait_ms":1e99}',
    ):
        reply = await ask(peer, "POST", "/v1/poll", body)
        assert (reply.status, reply.json["reason"]) == (400, "INVALID_REQUEST"), body
    assert (await ask(peer, "GET", "/v1/poll")).status == 405
    assert not (await poll(peer, "a/b", epoch=2)).instructions, "a member behind the agent's epoch"


async def test_past_the_bound_of_waiting_polls_agents_are_told_when_to_come_back(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await published(peer, "busy/one")
    monkeypatch.setattr(peer.member.hub, "_limit", 0)
    reply = await poll(peer, "busy/one", 1, DIGESTS[0], wait_ms=LONG_MS)
    assert (reply.status, reply.json["reason"]) == (503, "BUSY")
    assert 1 <= int(reply.headers["retry-after"]) <= 2
    assert int(reply.json["retry_ms"]) > 0
    assert (await poll(peer, "busy/one")).status == 200, "what can be said at once is"


async def test_what_breaks_while_agents_wait_is_told_to_them(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    await published(peer, "broken/one")
    waiting = await connect(peer)
    waiting.send("POST", "/v1/poll", poll_of("broken/one", 1, DIGESTS[0], wait_ms=LONG_MS))
    follow = agent_pb2.Follow(workflow="broken/one", generation=1)
    request = agent_pb2.PollRequest(agent="edge-1", epoch=1, follows=[follow], wait_ms=LONG_MS)
    call = asyncio.ensure_future(peer.agents.Poll(request, timeout=RPC_S))
    await until(lambda: peer.member.hub.waiting == 2)
    monkeypatch.setattr(peer.member._parts.delivery, "_load", lambda _: {}["a defect"])
    await peer.switch("broken/one", 2)
    reply = await waiting.reply()
    assert (reply.status, reply.json["reason"]) == (500, "INTERNAL")
    assert (await failed(call)).reason == "INTERNAL"
    assert peer.member.hub.waiting == 0
    waiting.writer.close()


async def test_any_http_client_will_do(peer: Peer) -> None:
    await published(peer, "plain/one")

    def talk() -> list[tuple[int, bytes]]:
        client = http.client.HTTPConnection(peer.member.http_address, timeout=RPC_S)
        found = []
        for method, path, body in (
            ("POST", "/v1/poll", json.dumps(poll_of("plain/one"))),
            ("GET", "/v1/content/plain/one/1", None),
            ("GET", "/livez", None),
        ):
            client.request(method, path, body)
            reply = client.getresponse()
            found.append((reply.status, reply.read()))
        client.close()
        return found

    polled, content, alive = await asyncio.to_thread(talk)
    assert json.loads(polled[1])["instructions"][0]["digest"] == DIGESTS[0]
    assert content == (200, CONTENTS[0])
    assert alive == (200, b"alive\n")


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-99", 206, slice(0, 100)),
        ("bytes=2900-", 206, slice(2900, 3000)),
        ("bytes=-50", 206, slice(2950, 3000)),
        ("bytes=100-99999", 206, slice(100, 3000)),
        ("bytes=0-", 200, slice(0, 3000)),
        ("bytes=3000-", 416, slice(0, 0)),
        ("bytes=-0", 416, slice(0, 0)),
        ("bytes=9-3", 200, slice(0, 3000)),
        ("bytes=0-1,5-6", 200, slice(0, 3000)),
        ("chapters=1", 200, slice(0, 3000)),
    ],
)
async def test_content_comes_in_ranges(peer: Peer, asked: str, status: int, part: slice) -> None:
    if not peer.member._parts.reads.version("range/one"):
        await published(peer, "range/one")
    reply = await ask(peer, "GET", "/v1/content/range/one/1", range=asked)
    assert (reply.status, reply.body) == (status, CONTENTS[0][part])
    assert reply.headers["x-registry-digest"] == DIGESTS[0]
    if status == 206:
        assert reply.headers["content-range"] == f"bytes {part.start}-{part.stop - 1}/3000"
        changed = await ask(peer, "GET", "/v1/content/range/one/1", **{"range": asked, "if-range": '"another"'})
        assert (changed.status, changed.body) == (200, CONTENTS[0])


async def test_content_comes_in_the_small_form(peer: Peer) -> None:
    await published(peer, "small/one")
    path = f"/v1/content/small/one/2?form=compact&base={DIGESTS[0]}"
    delta = await ask(peer, "GET", path)
    assert (delta.headers["x-registry-encoding"], delta.headers["x-registry-base"]) == ("delta", DIGESTS[0])
    assert frames.unpack_over(CONTENTS[0], delta.body, 3000) == CONTENTS[1]
    alone = await ask(peer, "GET", "/v1/content/small/one/2?form=compact")
    assert alone.headers["x-registry-encoding"] == "zstd"
    assert frames.unpack(alone.body, 3000) == CONTENTS[1]
    stranger = await ask(peer, "GET", f"/v1/content/small/one/2?form=compact&base=sha256:{'0' * 64}")
    assert "x-registry-base" not in stranger.headers
    head = await ask(peer, "HEAD", "/v1/content/small/one/2")
    assert (head.status, head.headers["content-length"], head.body) == (200, "3000", b"")


async def test_large_content_comes_chunk_by_chunk_and_in_ranges(peer: Peer) -> None:
    data = random.Random(7).randbytes(2 * limits.CHUNK_BYTES + 12_345)
    cuts = [data[at : at + limits.CHUNK_BYTES] for at in range(0, len(data), limits.CHUNK_BYTES)]
    digests = [f"sha256:{hashlib.sha256(cut).hexdigest()}" for cut in cuts]
    for cut, digest in zip(cuts, digests, strict=True):
        await peer.registry.PutChunk(registry_pb2.PutChunkRequest(digest=digest, data=cut), timeout=RPC_S)
    whole = f"sha256:{hashlib.sha256(data).hexdigest()}"
    large = registry_pb2.LargeContent(digest=whole, size_bytes=len(data), chunks=digests)
    await peer.registry.Publish(
        registry_pb2.PublishRequest(workflow="large/one", request_id=new_request_id(), large=large), timeout=RPC_S
    )
    await peer.switch("large/one", 1)
    assert "how" not in (await poll(peer, "large/one", inline_bytes=65_536)).instructions[0]
    reply = await ask(peer, "GET", "/v1/content/large/one/1?form=compact")
    assert (reply.body == data, reply.headers["x-registry-encoding"]) == (True, "raw")
    start = limits.CHUNK_BYTES - 10
    for stop in (limits.CHUNK_BYTES + 10, len(data)):
        part = await ask(peer, "GET", "/v1/content/large/one/1", range=f"bytes={start}-{stop - 1}")
        assert (part.status, part.body == data[start:stop]) == (206, True)
    assert (await ask(peer, "HEAD", "/v1/content/large/one/1")).headers["content-length"] == str(len(data))


async def test_large_contents_at_once_are_bounded(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_content, "HTTP_STREAMS", 0)
    reply = await ask(peer, "GET", "/v1/content/large/one/1")
    assert (reply.status, reply.json["reason"]) == (503, "BUSY")


async def test_no_content_is_older_than_what_was_announced(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    await published(peer, "fresh/one", b"1" * 100)
    revision = peer.revision
    connection = await connect(peer)
    connection.send("GET", f"/v1/content/fresh/one/2?min_revision={revision + 1}")
    await peer.publish("fresh/one", b"2" * 100, kind="binary")
    assert (await connection.reply()).body == b"2" * 100
    monkeypatch.setattr(http_content, "CONTENT_WAIT_S", 0.05)
    reply = await connection.ask("GET", f"/v1/content/fresh/one/2?min_revision={revision + 1000}")
    assert (reply.status, reply.json["reason"]) == (503, "BUSY")
    connection.writer.close()


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/v1/content/no/where/1", 404, "WORKFLOW_NOT_FOUND"),
        ("/v1/content/range/one/99", 404, "VERSION_NOT_FOUND"),
        ("/v1/content/range/one", 400, "INVALID_REFERENCE"),
        ("/v1/content/range/one/~~", 400, "INVALID_REFERENCE"),
        ("/v1/content/../one/1", 400, "INVALID_NAME"),
        ("/v1/content/range/one/1?min_revision=-1", 400, "INVALID_REQUEST"),
        ("/v1/content/range/one/1?form=tar", 400, "INVALID_REQUEST"),
        ("/v1/content/range/one/1?what=1", 400, "INVALID_REQUEST"),
        ("/v1/content/range/one/1?base=abc", 400, "INVALID_REFERENCE"),
        ("/v1/content/range/one/1?" + "&".join(["base="] * 20), 400, "INVALID_REQUEST"),
    ],
)
async def test_content_that_is_not_there(peer: Peer, path: str, status: int, reason: str) -> None:
    reply = await ask(peer, "GET", path)
    assert (reply.status, reply.json["reason"]) == (status, reason)
    assert reply.json["hint"]


def ack(sequence: int, **fields: Any) -> dict[str, Any]:
    return {
        "agent": "edge-ack", "incarnation": "i1", "sequence": sequence, "workflow": "acks/http", "pointer": "active",
        "generation": 1, "phase": "confirmed", "running_generation": 1, "running_version": 1,
        "running_digest": DIGESTS[0],
    } | fields  # fmt: skip


async def test_reports_are_recorded(peer: Peer) -> None:
    await published(peer, "acks/http")
    reply = await ask(peer, "POST", "/v1/acks", [ack(1, phase="installed"), ack(2)])
    assert (reply.status, reply.json) == (200, {"revision": peer.revision})
    rows = await peer.registry.ListAgents(registry_pb2.ListAgentsRequest(workflow="acks/http"), timeout=RPC_S)
    assert [(row.agent, row.state, row.version) for row in rows.agents] == [("edge-ack", "current", 1)]
    refused = await ask(peer, "POST", "/v1/acks", [ack(3, phase="lovely")])
    assert (refused.status, refused.json["reason"]) == (400, "INVALID_REQUEST")
    too_many = await ask(peer, "POST", "/v1/acks", [ack(number) for number in range(limits.ACKS + 1)])
    assert (too_many.status, too_many.json["reason"]) == (400, "TOO_LARGE")
    for body in (b"{}", b"[1]", b'[{"agent": "\\ud800"}]'):
        assert (await ask(peer, "POST", "/v1/acks", body)).status == 400


async def test_a_poll_is_a_contact_of_its_session(peer: Peer) -> None:
    await published(peer, "contact/http")
    for session in ("s1", "s2"):
        await poll(peer, "contact/http", 1, DIGESTS[0], agent="edge-contact", session=session)
    contacts = peer.member._parts._reports._contacts
    assert {key for key in contacts if key[0] == "edge-contact"} == {("edge-contact", "s1"), ("edge-contact", "s2")}
    await peer.member._parts._reports.flush_contacts()
    assert not peer.member._parts._reports._contacts


async def test_metrics_tell_of_delivery(peer: Peer) -> None:
    text = (await ask(peer, "GET", "/metrics")).body.decode()
    for name in ("registry_polls_waiting", "registry_poll_wake_ups_total", "registry_poll_replies_built_total"):
        assert f"\n{name} " in text
    assert 'registry_http_requests_total{route="/v1/poll",status="409"} 1.0' in text


async def test_a_member_that_stops_lets_its_agents_go(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with members(tmp_path_factory.mktemp("stopping")) as (leaving,):
        await published(leaving, "stop/one")
        waiting, later = await connect(leaving), await connect(leaving)
        waiting.send("POST", "/v1/poll", poll_of("stop/one", 1, DIGESTS[0], wait_ms=LONG_MS))
        await until(lambda: leaving.member.hub.waiting == 1)
        stopping = asyncio.ensure_future(leaving.member.stop())
        reply = await waiting.reply()
        assert (reply.status, reply.instructions) == (200, [])
        assert await waiting.reader.read() == b"", "it has to go elsewhere"
        refused = await later.ask("POST", "/v1/poll", poll_of("stop/one"))
        assert (refused.status, refused.json["reason"]) == (503, "SHUTTING_DOWN")
        for connection in (waiting, later):
            connection.writer.close()
        await stopping


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
async def test_over_tls_agents_prove_themselves_and_probes_need_not(tmp_path: Path) -> None:
    tls = certificates(tmp_path)
    files = {"tls_ca": str(tls.ca), "tls_cert": str(tls.cert), "tls_key": str(tls.key)}
    nobody = ssl.create_default_context(cafile=tls.ca)
    agent = ssl.create_default_context(cafile=tls.ca)
    agent.load_cert_chain(str(tls.cert), str(tls.key))
    async with members(tmp_path / "member", **files) as (peer,):
        await published(peer, "tls/one")
        host, _, port = peer.member.http_address.rpartition(":")
        stranger = Connection(*await asyncio.open_connection(host, int(port), ssl=nobody))
        assert (await stranger.ask("GET", "/readyz")).body == b"ready\n"
        for method, path in (("POST", "/v1/poll"), ("POST", "/v1/acks"), ("GET", "/v1/content/tls/one/1")):
            reply = await stranger.ask(method, path)
            assert (reply.status, reply.json["reason"]) == (403, "NO_CERTIFICATE")
        known = Connection(*await asyncio.open_connection(host, int(port), ssl=agent))
        known.send("POST", "/v1/poll", poll_of("tls/one", 1, DIGESTS[0], wait_ms=LONG_MS, inline_bytes=65_536))
        await until(lambda: peer.member.hub.waiting == 1)
        await peer.switch("tls/one", 2)
        assert frames.unpack_over(CONTENTS[0], (await known.reply()).frames, 3000) == CONTENTS[1]
        assert (await known.ask("GET", "/v1/content/tls/one/2")).body == CONTENTS[1]
        for connection in (stranger, known):
            connection.writer.close()

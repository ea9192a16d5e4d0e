"""Every rpc on one real member: what it answers, and how it says no."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from registry.core import limits
from registry.v1 import cluster_pb2, registry_pb2
from tests.integration.server_kit import RPC_S, Peer, failed, members, new_request_id

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def peer(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Peer]:
    async with members(tmp_path_factory.mktemp("member")) as (only,):
        yield only


async def two_versions(peer: Peer, workflow: str) -> None:
    await peer.publish(workflow, b'{"a": 1}')
    await peer.publish(workflow, b'{"a": 2}')


async def test_publish_returns_the_version_and_the_exact_bytes_come_back(peer: Peer) -> None:
    content = b'{"a":  [1, 2]}\r\n'
    reply = await peer.publish(
        "publish/one", content, message="first\nof all", principal="ann", labels={"semver": "v1.4.0", "team": "a"}
    )
    version = reply.version
    assert reply.created
    assert (version.number, version.kind, version.size_bytes, version.status) == (1, "json", len(content), "candidate")
    assert (version.author, version.message, dict(version.labels)["team"]) == ("ann", "first\nof all", "a")
    assert version.digest.startswith("sha256:")
    assert version.revision == reply.info.revision
    for reference in ("", "1", version.digest, version.digest[:20], "v1.4.0", "1.4.0"):
        got = await peer.registry.GetContent(
            registry_pb2.GetContentRequest(workflow="publish/one", reference=reference), timeout=RPC_S
        )
        assert got.content == content
        assert got.version == version


async def test_publishing_the_newest_bytes_again_creates_nothing(peer: Peer) -> None:
    first = await peer.publish("publish/again", b"a: 1\n")
    again = await peer.publish("publish/again", b"a: 1\n")
    assert not again.created
    assert again.version == first.version
    assert again.info.revision == first.info.revision


async def test_needs_belong_to_the_version_that_is_kept(peer: Peer) -> None:
    first = await peer.publish("publish/needs", b"a: 1\n", needs=["dify>=1.9"])
    assert first.version.needs == ["dify>=1.9"]
    again = await peer.publish("publish/needs", b"a: 1\n", needs=["dify>=2"])
    assert (again.created, again.version) == (False, first.version)
    assert any("version 1 has these bytes and needs dify>=1.9" in note for note in again.notes)
    assert not (await peer.publish("publish/needs", b"a: 1\n")).notes


async def test_large_content_takes_the_other_road_and_comes_back_whole(peer: Peer) -> None:
    content = json.dumps([{"n": number, "text": "x" * 50} for number in range(10_000)]).encode()[: limits.CONTENT_BYTES]
    content = content[: content.rindex(b"}") + 1] + b"]"
    await peer.publish("publish/large", content)
    got = await peer.registry.GetContent(registry_pb2.GetContentRequest(workflow="publish/large"), timeout=RPC_S)
    assert got.content == content


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        ({"workflow": "none", "content": b"x"}, "INVALID_ARGUMENT", "INVALID_NAME"),
        ({"workflow": "a/../b", "content": b"x"}, "INVALID_ARGUMENT", "INVALID_NAME"),
        ({"workflow": "a/b\x00", "content": b"x"}, "INVALID_ARGUMENT", "INVALID_NAME"),
        ({"workflow": "а/b", "content": b"x"}, "INVALID_ARGUMENT", "INVALID_NAME"),
        ({"workflow": "a/" + "b" * 64, "content": b"x"}, "INVALID_ARGUMENT", "INVALID_NAME"),
        ({"workflow": "bad/empty", "content": b""}, "INVALID_ARGUMENT", "INVALID_CONTENT"),
        ({"workflow": "bad/kind", "content": b"x", "kind": "word"}, "INVALID_ARGUMENT", "UNKNOWN_KIND"),
        ({"workflow": "bad/json", "content": b"{", "kind": "json"}, "INVALID_ARGUMENT", "INVALID_CONTENT"),
        ({"workflow": "bad/label", "content": b"x", "labels": {"a b": "c"}}, "INVALID_ARGUMENT", "INVALID_NAME"),
        ({"workflow": "bad/need", "content": b"x", "needs": ["dify >= 1.9"]}, "INVALID_ARGUMENT", "INVALID_REQUEST"),
        ({"workflow": "bad/id", "content": b"x", "request_id": "1"}, "INVALID_ARGUMENT", "INVALID_REQUEST"),
    ],
)
async def test_what_cannot_be_published(peer: Peer, request_: dict[str, object], code: str, reason: str) -> None:
    error = await failed(peer.registry.Publish(registry_pb2.PublishRequest(**request_), timeout=RPC_S))
    assert (error.code, error.reason) == (grpc.StatusCode[code], reason)


async def test_content_over_the_limit_is_told_how_to_raise_it(peer: Peer) -> None:
    error = await failed(peer.publish("bad/large", b"x" * (limits.CONTENT_BYTES + 1)))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TOO_LARGE")
    assert error.metadata["limit"] == str(limits.CONTENT_BYTES)
    assert "--content-limit" in error.metadata["hint"]


async def test_a_taken_label_and_a_changed_kind_are_refused(peer: Peer) -> None:
    await peer.publish("labels/one", b'{"a": 1}', labels={"semver": "1.0.0"})
    error = await failed(peer.publish("labels/one", b'{"a": 2}', labels={"semver": "v1.0.0"}))
    assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "LABEL_TAKEN")
    error = await failed(peer.publish("labels/one", b"plain", kind="text"))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "KIND_MISMATCH")


async def test_a_switch_moves_the_pointer_and_a_stale_expectation_shows_the_record(peer: Peer) -> None:
    await two_versions(peer, "switch/one")
    first = (await peer.switch("switch/one", 1, expect=0)).pointers[0]
    assert (first.pointer, first.version, first.previous_version, first.generation) == ("active", 1, 0, 1)
    error = await failed(peer.switch("switch/one", 2, expect=0))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "GENERATION_MISMATCH")
    assert error.metadata["generation"] == "1"
    assert error.metadata["version"] == "1"
    assert (await peer.pointer("switch/one")).generation == 1
    assert (await peer.switch("switch/one", 2, expect=1)).pointers[0].previous_version == 1


async def test_a_switch_says_when_it_may_be_installed_and_not_in_the_past(peer: Peer) -> None:
    await two_versions(peer, "switch/later")
    now_ms = time.time_ns() // 1_000_000
    window = {"not_before_ms": now_ms + 60_000, "deadline_ms": now_ms + 120_000}
    moves = [registry_pb2.Move(workflow="switch/later", target="2")]
    request = registry_pb2.SwitchRequest(request_id=new_request_id(), moves=moves, reason="tonight", **window)
    moved = (await peer.registry.Switch(request, timeout=RPC_S)).pointers[0]
    assert {"not_before_ms": moved.not_before_ms, "deadline_ms": moved.deadline_ms} == window
    assert await peer.pointer("switch/later") == moved
    for late_ms, why in ((now_ms - 1, "deadline passed"), (now_ms + 60_000, "not after")):
        late = registry_pb2.SwitchRequest(moves=moves, reason="x", not_before_ms=now_ms + 60_000, deadline_ms=late_ms)
        error = await failed(peer.registry.Switch(late, timeout=RPC_S))
        assert (error.reason, why in error.message) == ("INVALID_REQUEST", True)
    assert (await peer.registry.Switch(request, timeout=RPC_S)).pointers[0] == moved
    back = (await peer.switch("switch/later", 1)).pointers[0]
    assert (back.not_before_ms, back.deadline_ms) == (0, 0)


async def test_a_mismatch_arrives_whatever_the_reason_of_the_switch_before(peer: Peer) -> None:
    await peer.publish("switch/long", b"{}")
    await peer.switch("switch/long", 1, reason="界" * limits.REASON_CHARS)
    error = await failed(peer.switch("switch/long", 1, expect=0))
    assert (error.reason, error.metadata["generation"]) == ("GENERATION_MISMATCH", "1")
    assert error.metadata["reason"].startswith("界界")


async def test_references_are_resolved(peer: Peer) -> None:
    await two_versions(peer, "switch/references")
    await peer.switch("switch/references", 1)
    await peer.switch("switch/references", 2)
    assert (await peer.switch("switch/references", "active", pointer="canary")).pointers[0].version == 2
    assert (await peer.switch("switch/references", "active~1", pointer="canary")).pointers[0].version == 1
    assert (await peer.switch("switch/references", "", pointer="canary")).pointers[0].version == 2
    error = await failed(peer.switch("switch/references", "active~9"))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND")
    error = await failed(peer.switch("switch/references", "a b"))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REFERENCE")
    error = await failed(peer.switch("switch/references", "sha256:000000"))
    assert error.reason == "VERSION_NOT_FOUND"
    error = await failed(peer.switch("switch/nowhere", "2"))
    assert error.reason == "WORKFLOW_NOT_FOUND"


async def test_several_pointers_move_together_or_not_at_all(peer: Peer) -> None:
    for workflow in ("together/a", "together/b"):
        await peer.publish(workflow, b"{}")
    moves = [
        registry_pb2.Move(workflow="together/a", target="1"),
        registry_pb2.Move(workflow="together/b", target="1", expected_generation=7),
    ]
    error = await failed(peer.registry.Switch(registry_pb2.SwitchRequest(moves=moves, reason="x"), timeout=RPC_S))
    assert error.reason == "GENERATION_MISMATCH"
    error = await failed(peer.pointer("together/a"))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "POINTER_NOT_FOUND")
    moves[1].expected_generation = 0
    reply = await peer.registry.Switch(registry_pb2.SwitchRequest(moves=moves, reason="x"), timeout=RPC_S)
    assert {pointer.revision for pointer in reply.pointers} == {reply.info.revision}
    moves = [registry_pb2.Move(workflow="together/a", target="1")] * (limits.MOVES + 1)
    error = await failed(peer.registry.Switch(registry_pb2.SwitchRequest(moves=moves, reason="x"), timeout=RPC_S))
    assert error.reason == "TOO_LARGE"


async def test_a_switch_needs_a_reason_and_a_move(peer: Peer) -> None:
    await peer.publish("switch/reason", b"{}")
    assert (await failed(peer.switch("switch/reason", 1, reason=" "))).reason == "REASON_REQUIRED"
    error = await failed(peer.registry.Switch(registry_pb2.SwitchRequest(reason="x"), timeout=RPC_S))
    assert error.reason == "INVALID_REQUEST"


async def test_rollback_picks_a_version_and_says_what_became_of_the_other(peer: Peer) -> None:
    await two_versions(peer, "rollback/one")
    await peer.switch("rollback/one", 1)
    await peer.switch("rollback/one", 2)
    request = registry_pb2.RollbackRequest(moves=[registry_pb2.Move(workflow="rollback/one")], reason="5xx")
    shown = await peer.registry.PreviewRollback(request, timeout=RPC_S)
    reply = await peer.registry.Rollback(request, timeout=RPC_S)
    assert (reply.pointers[0].version, reply.pointers[0].generation, reply.pointers[0].rollback) == (1, 3, True)
    assert (shown.pointers[0].version, shown.pointers[0].generation) == (1, 3)
    assert (shown.status_changes, shown.notes) == (reply.status_changes, reply.notes)
    assert shown.info.revision == reply.info.revision - 1
    assert [(change.version, change.status) for change in reply.status_changes] == [(2, "failed")]
    assert reply.notes
    for call in (peer.registry.PreviewRollback, peer.registry.Rollback):
        error = await failed(call(request, timeout=RPC_S))
        assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_ROLLBACK_TARGET")
    error = await failed(peer.switch("rollback/one", 2))
    assert error.reason == "VERSION_FAILED"


async def test_mark_sets_a_status(peer: Peer) -> None:
    await two_versions(peer, "mark/one")

    def mark(reference: str, status: str) -> registry_pb2.MarkRequest:
        return registry_pb2.MarkRequest(workflow="mark/one", reference=reference, status=status, reason="seen")

    reply = await peer.registry.Mark(mark("2", "stable"), timeout=RPC_S)
    assert (reply.version.status, reply.previous_status) == ("stable", "candidate")
    assert (await failed(peer.registry.Mark(mark("2", "lovely"), timeout=RPC_S))).reason == "INVALID_STATUS"
    assert (await failed(peer.registry.Mark(mark("3", "stable"), timeout=RPC_S))).reason == "VERSION_NOT_FOUND"
    await peer.switch("mark/one", 2)
    assert (await failed(peer.registry.Mark(mark("active", "fenced"), timeout=RPC_S))).reason == "VERSION_IN_USE"


async def test_a_request_id_takes_effect_once(peer: Peer) -> None:
    await two_versions(peer, "retry/one")
    request = registry_pb2.SwitchRequest(
        request_id=new_request_id(), moves=[registry_pb2.Move(workflow="retry/one", target="1")], reason="x"
    )
    first = await peer.registry.Switch(request, timeout=RPC_S)
    again = await peer.registry.Switch(request, timeout=RPC_S)
    assert again.pointers == first.pointers
    assert again.info.revision == first.info.revision
    request.moves[0].target = "2"
    error = await failed(peer.registry.Switch(request, timeout=RPC_S))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_REUSED")
    request.request_id = new_request_id(ahead_ms=60_000)
    error = await failed(peer.registry.Switch(request, timeout=RPC_S))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert "clock" in error.message


async def test_of_two_switchers_with_the_same_expectation_exactly_one_wins(peer: Peer) -> None:
    await two_versions(peer, "race/one")
    for generation in range(100):
        results = await asyncio.gather(
            peer.switch("race/one", 1, expect=generation),
            peer.switch("race/one", 2, expect=generation),
            return_exceptions=True,
        )
        assert sum(isinstance(result, registry_pb2.SwitchResponse) for result in results) == 1
        assert (await peer.pointer("race/one")).generation == generation + 1


async def test_a_batch_does_each_operation_on_its_own(peer: Peer) -> None:
    await two_versions(peer, "batch/one")
    move = registry_pb2.Move(workflow="batch/one", target="2")
    wrong = registry_pb2.Move(workflow="batch/one", target="9")
    operations = [
        registry_pb2.Operation(switch=registry_pb2.SwitchRequest(moves=[move], reason="x")),
        registry_pb2.Operation(switch=registry_pb2.SwitchRequest(moves=[wrong], reason="x")),
        registry_pb2.Operation(publish=registry_pb2.PublishRequest(workflow="batch/two", content=b"{}")),
        registry_pb2.Operation(publish=registry_pb2.PublishRequest(workflow="batch/two")),
        registry_pb2.Operation(get_version=registry_pb2.GetVersionRequest(workflow="batch/one", reference="1")),
        registry_pb2.Operation(get_pointer=registry_pb2.GetPointerRequest(workflow="batch/none")),
        registry_pb2.Operation(rollback=registry_pb2.RollbackRequest(moves=[registry_pb2.Move(workflow="batch/none")])),
        registry_pb2.Operation(
            mark=registry_pb2.MarkRequest(workflow="batch/one", reference="1", status="stable", reason="x")
        ),
        registry_pb2.Operation(),
    ]
    reply = await peer.registry.Batch(registry_pb2.BatchRequest(operations=operations), timeout=RPC_S)
    kinds = [result.WhichOneof("result") for result in reply.results]
    assert kinds == ["switch", "error", "publish", "error", "get_version", "error", "error", "mark", "error"]
    assert reply.results[0].switch.pointers[0].version == 2
    assert reply.results[1].error.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert reply.results[3].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    too_many = [registry_pb2.Operation()] * (limits.BATCH_OPERATIONS + 1)
    error = await failed(peer.registry.Batch(registry_pb2.BatchRequest(operations=too_many), timeout=RPC_S))
    assert error.reason == "TOO_LARGE"


async def test_lists_are_read_a_page_at_a_time(peer: Peer) -> None:
    for number in range(5):
        await peer.publish("pages/one", b'{"a": %d}' % number)
        await peer.publish(f"pages/w{number}", b"{}")
        await peer.switch("pages/one", number + 1)
    numbers, token = [], ""
    while True:
        request = registry_pb2.ListVersionsRequest(workflow="pages/one", page_size=2, page_token=token)
        page = await peer.registry.ListVersions(request, timeout=RPC_S)
        numbers += [version.number for version in page.versions]
        token = page.next_page_token
        if not token:
            break
    assert numbers == [5, 4, 3, 2, 1]
    workflows = await peer.registry.ListWorkflows(registry_pb2.ListWorkflowsRequest(prefix="pages/"), timeout=RPC_S)
    assert [row.name for row in workflows.workflows] == ["pages/one", *(f"pages/w{number}" for number in range(5))]
    assert workflows.workflows[0].pointers[0].version == 5
    assert workflows.workflows[0].newest.number == 5
    history = await peer.registry.GetHistory(
        registry_pb2.GetHistoryRequest(workflow="pages/one", pointer="active"), timeout=RPC_S
    )
    assert [change.pointers[0].version for change in history.changes] == [5, 4, 3, 2, 1]
    everything = await peer.registry.GetHistory(registry_pb2.GetHistoryRequest(workflow="pages/one"), timeout=RPC_S)
    assert [change.action for change in everything.changes] == ["switch", "publish"] * 5
    error = await failed(
        peer.registry.ListVersions(
            registry_pb2.ListVersionsRequest(workflow="pages/one", page_token="?"), timeout=RPC_S
        )
    )
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    error = await failed(
        peer.registry.ListVersions(registry_pb2.ListVersionsRequest(workflow="pages/none"), timeout=RPC_S)
    )
    assert error.reason == "WORKFLOW_NOT_FOUND"


async def test_a_page_is_cut_where_the_reply_would_grow_too_large(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        await peer.publish("pages/cut", b"%d" % number, message="m" * 1000)
    monkeypatch.setattr("registry.server.services.reads.PAGE_BYTES", 3000)
    numbers, token, pages = [], "", 0
    while pages == 0 or token:
        request = registry_pb2.ListVersionsRequest(workflow="pages/cut", page_token=token)
        page = await peer.registry.ListVersions(request, timeout=RPC_S)
        numbers += [version.number for version in page.versions]
        token, pages = page.next_page_token, pages + 1
    assert numbers == [6, 5, 4, 3, 2, 1]
    assert pages == 3


async def test_compare_says_what_changed(peer: Peer) -> None:
    await two_versions(peer, "compare/one")
    await peer.switch("compare/one", 1)
    request = registry_pb2.CompareRequest(
        from_workflow="compare/one", from_reference="active", to_workflow="compare/one", to_reference="2"
    )
    reply = await peer.registry.Compare(request, timeout=RPC_S)
    assert (getattr(reply, "from").number, reply.to.number) == (1, 2)
    assert reply.summary
    assert json.loads(reply.comparison_json)["summary"] == reply.summary
    request.to_reference = "7"
    assert (await failed(peer.registry.Compare(request, timeout=RPC_S))).reason == "VERSION_NOT_FOUND"


async def test_every_reply_says_where_it_comes_from(peer: Peer) -> None:
    reply = await peer.publish("info/one", b"{}")
    assert reply.info.served_by == "n1"
    assert reply.info.leader == peer.member.api_address
    assert reply.info.epoch == 1
    assert reply.info.cluster_id == peer.member.feed.registry.cluster_id != ""
    assert not reply.info.stale
    request = registry_pb2.GetVersionRequest(workflow="info/one", stale=True)
    stale = await peer.registry.GetVersion(request, timeout=RPC_S)
    assert stale.info.stale
    assert stale.info.revision >= reply.info.revision


async def test_status_names_members_and_leader(peer: Peer) -> None:
    status = await peer.cluster.GetStatus(cluster_pb2.GetStatusRequest(), timeout=RPC_S)
    assert (status.leader_name, status.term > 0, status.version != "") == ("n1", True, True)
    (only,) = status.members
    assert (only.name, only.role, only.address, only.alive) == ("n1", "leader", peer.member.api_address, True)
    assert only.applied_index + only.lag == status.commit_index


async def test_a_defect_of_ours_is_a_number_for_users(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr("registry.store.queries.pointer", broken)
    error = await failed(peer.pointer("info/one"))
    assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert error.metadata["incident"] in error.message
    assert "inside" not in error.message


async def test_more_than_a_thousand_calls_at_once_are_all_answered(peer: Peer) -> None:
    await peer.publish("many/one", b"{}")
    await peer.switch("many/one", 1)
    replies = await asyncio.gather(*(peer.pointer("many/one", stale=True) for _ in range(1500)))
    assert {reply.version for reply in replies} == {1}

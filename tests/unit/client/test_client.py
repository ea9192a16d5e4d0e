"""Requests and values: what is sent, what comes back."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from registry.client import Client, Finding, Move
from registry.core.errors import Reason, Refused
from registry.v1 import registry_pb2


async def test_several_moves_are_one_request(members):
    (member,) = await members(1)
    async with Client(member.address, principal="alice") as client:
        moves = [Move("a/x", 2, expected_generation=0), Move("a/y", "@4", pointer="canary")]
        done = await client.switch_many(moves, reason="together")
    (request,) = [request for rpc, request in member.calls if rpc == "Switch"]
    assert [(m.workflow, m.target, m.pointer) for m in request.moves] == [
        ("a/x", "2", "active"),
        ("a/y", "4", "canary"),
    ]
    assert request.moves[0].HasField("expected_generation")
    assert not request.moves[1].HasField("expected_generation")
    assert request.principal == "alice"
    assert [(p.workflow, p.version) for p in done.pointers] == [("a/x", 2), ("a/y", 4)]
    assert done.revision == 1


async def test_rollback_without_a_target_leaves_the_choice_to_the_registry(members):
    (member,) = await members(1)
    member.answers["Rollback"] = lambda request: registry_pb2.SwitchResponse(
        info=member.info(),
        pointers=[registry_pb2.Pointer(workflow="a/b", pointer="active", version=1, rollback=True)],
    )
    async with Client(member.address) as client:
        pointer = await client.rollback("a/b", reason="5xx", keep_status=True)
        await client.rollback("a/b", to=3, reason="5xx", force=True)
    first, second = [request for rpc, request in member.calls if rpc == "Rollback"]
    assert (first.moves[0].target, first.keep_status, first.force) == ("", True, False)
    assert (second.moves[0].target, second.keep_status, second.force) == ("3", False, True)
    assert pointer.rollback


async def test_content_is_checked_against_its_digest(members):
    (member,) = await members(1)
    digest = "sha256:" + hashlib.sha256(b"exact").hexdigest()
    content = {"bytes": b"exact"}
    member.answers["GetContent"] = lambda request: registry_pb2.GetContentResponse(
        info=member.info(), version=registry_pb2.Version(number=3, digest=digest), content=content["bytes"]
    )
    async with Client(member.address) as client:
        assert await client.content("a/b", 3, stale=True, min_revision=9) == b"exact"
        content["bytes"] = b"Exact"
        with pytest.raises(Refused) as caught:
            await client.content("a/b", 3)
    assert caught.value.reason is Reason.CORRUPT_CONTENT
    assert (member.calls[0][1].stale, member.calls[0][1].min_revision) == (True, 9)


async def test_pages_follow_one_another(members):
    (member,) = await members(1)

    def page(request: registry_pb2.ListVersionsRequest) -> registry_pb2.ListVersionsResponse:
        newest = int(request.page_token or 5)
        numbers = range(newest, max(newest - request.page_size, 0), -1)
        rest = newest - len(numbers)
        return registry_pb2.ListVersionsResponse(
            info=member.info(),
            versions=[registry_pb2.Version(workflow=request.workflow, number=number) for number in numbers],
            next_page_token=str(rest) if rest else "",
        )

    member.answers["ListVersions"] = page
    async with Client(member.address) as client:
        assert [version.number async for version in client.versions("a/b", page_size=2)] == [5, 4, 3, 2, 1]
    assert member.count("ListVersions") == 3


async def test_publish_returns_the_version_and_whether_it_is_new(members):
    (member,) = await members(1)
    async with Client(member.address) as client:
        published = await client.publish("a/b", b"{}", message="first", labels={"semver": "v1.0.0"})
    request = member.calls[0][1]
    assert (request.content, request.message, request.labels["semver"]) == (b"{}", "first", "v1.0.0")
    assert (published.number, published.created, published.labels) == (1, True, {"semver": "v1.0.0"})
    assert client.info is not None
    assert (client.info.served_by, client.info.cluster_id) == ("n1", "c1")


async def test_comparison_carries_the_whole(members):
    (member,) = await members(1)
    member.answers["Compare"] = lambda request: registry_pb2.CompareResponse(
        **{"from": registry_pb2.Version(number=1)},
        info=member.info(),
        to=registry_pb2.Version(number=2),
        summary="one node changed",
        comparison_json=b'{"kind": "dify", "nodes": []}',
    )
    async with Client(member.address) as client:
        comparison = await client.compare("a/b", 1, "a/b", "active")
    assert (comparison.from_version.number, comparison.to_version.number) == (1, 2)
    assert comparison.comparison == {"kind": "dify", "nodes": []}
    assert member.calls[0][1].to_reference == "active"


async def test_a_publish_brings_back_what_was_found(members):
    (member,) = await members(1)
    member.answers["Publish"] = lambda request: registry_pb2.PublishResponse(
        info=member.info(),
        version=registry_pb2.Version(workflow="a/b", number=4, parents=[2, 3], secrets={"T": "k1:a"}, change="major"),
        created=True,
        findings=[registry_pb2.Finding(code="cycle", level="block", text="in a circle", where="Classify")],
        notes=["1 secret value was left out: T"],
        verdict="block",
    )
    async with Client(member.address, principal="ann") as client:
        made = await client.publish("a/b", b"x", parents=[2, "@active"], requires=["a/c"], labels={"k": "v"})
    ((_, request),) = [call for call in member.calls if call[0] == "Publish"]
    assert (list(request.parents), list(request.requires), request.principal) == (["2", "active"], ["a/c"], "ann")
    assert (made.number, made.parents, made.secrets, made.change) == (4, (2, 3), {"T": "k1:a"}, "major")
    assert made.findings == (Finding(code="cycle", level="block", text="in a circle", where="Classify"),)
    assert (made.notes, made.verdict) == (("1 secret value was left out: T",), "block")


async def test_labels_travel_with_other_operations_and_policies_alone(members):
    (member,) = await members(1)
    member.answers["Label"] = lambda request: registry_pb2.LabelResponse(
        info=member.info(), version=registry_pb2.Version(number=3, labels=request.labels)
    )
    member.answers["SetPolicy"] = lambda request: registry_pb2.SetPolicyResponse(
        info=member.info(), scope=request.scope, policy=registry_pb2.Policy(verdict=request.fields["verdict"])
    )
    async with Client(member.address, principal="ann") as client:
        both = await asyncio.gather(
            client.label("a/b", "@active", {"team": "x"}, remove=["old"], reason="why"),
            client.label("a/b", 2, {"team": "y"}),
        )
        said = await client.set_policy("a/*", {"verdict": "ok"}, reason="strict")
    assert [each.labels for each in both] == [{"team": "x"}, {"team": "y"}]
    assert said.verdict == "ok"
    batch = next(request for rpc, request in member.calls if rpc == "Batch")
    first = batch.operations[0].label
    assert (first.reference, list(first.remove), first.reason, first.principal) == ("active", ["old"], "why", "ann")
    assert first.request_id != batch.operations[1].label.request_id
    ((_, policy),) = [call for call in member.calls if call[0] == "SetPolicy"]
    assert policy.request_id


async def test_a_search_sends_what_is_looked_for_with_every_page(members):
    (member,) = await members(1)
    tokens = ["more", ""]
    pages = [[], [registry_pb2.Version(workflow="a/b", number=2)]]
    member.answers["ListVersions"] = lambda request: registry_pb2.ListVersionsResponse(
        info=member.info(), versions=pages.pop(0), next_page_token=tokens.pop(0)
    )
    async with Client(member.address) as client:
        found = client.versions(
            labels=["team=x"], author="ann", since_ms=5, until_ms=9, text="gpt", status="stable", page_size=7
        )
        assert [version.number async for version in found] == [2], "an empty page may have a next one"
    first, second = [request for rpc, request in member.calls if rpc == "ListVersions"]
    assert (first.page_token, second.page_token) == ("", "more")
    for request in (first, second):
        assert (list(request.labels), request.author, request.text, request.status) == (
            ["team=x"],
            "ann",
            "gpt",
            "stable",
        )
        assert (request.since_ms, request.until_ms, request.workflow, request.page_size) == (5, 9, "", 7)

"""What a publish carries into the log, and what it tells people, out of what the worker found."""

from __future__ import annotations

from registry.core import commands, limits, model, outcomes
from registry.formats import Inspection
from registry.formats.model import Finding, Verdict
from registry.server.inspect_worker import Prepared
from registry.server.services import publish
from registry.v1 import registry_pb2

BLOCK = Finding(code="edge_dangling", level="block", text="an edge leads nowhere")
LITERAL = Finding(code="secret_literal", level="warn", text="(secret) in 'Call'")
WARN = Finding(code="node_unreachable", level="warn", text="no path leads here")


def inspection(**fields: object) -> Inspection:
    return Inspection(**{"kind": "dify", "value_digest": "v1:1", "semantic_digest": "s1:1"} | fields)  # type: ignore[arg-type]


def told(prepared: Prepared, parents: tuple[int, ...] = (), **request: object) -> commands.Publish:
    command = commands.Publish(
        request_id="r",
        time_ms=1,
        principal="",
        workflow="a/b",
        kind="dify",
        digest="d",
        value_digest="",
        semantic_digest="",
        content=model.Content(encoding="raw", data=b"", size_bytes=0),
    )
    return publish._told(command, registry_pb2.PublishRequest(**request), parents, prepared)


def version(**fields: object) -> model.Version:
    row = {"workflow": "a/b", "number": 3, "digest": "d", "value_digest": "", "semantic_digest": "", "kind": "dify"}
    return model.Version(**row | {"size_bytes": 1, "parents": (2,)} | fields)  # type: ignore[arg-type]


def published(created: bool = True, **fields: object) -> outcomes.Published:
    return outcomes.Published(revision=1, version=version(**fields), created=created)


def test_what_blocks_and_what_looks_like_a_secret_goes_apart() -> None:
    found = told(Prepared(inspection=inspection(findings=(BLOCK, LITERAL, WARN)), content=b""))
    assert (found.findings, found.literals) == ((BLOCK.text,), (LITERAL.text,))


def test_everything_is_cut_to_what_apply_takes() -> None:
    many = tuple(Finding(code="x", level="block", text="y" * 999) for _ in range(50))
    prepared = Prepared(
        inspection=inspection(findings=many, requires=tuple(f"n8n:{n}" for n in range(99))),
        content=b"",
        summary="s" * 999,
        verdict=Verdict(level="warn", change="major"),
    )
    found = told(prepared, requires=["a/c", "n8n:3"])
    assert len(found.findings) == limits.FINDINGS
    assert max(map(len, found.findings)) == limits.FINDING_CHARS
    assert (len(found.summary), found.summary[-1]) == (limits.SUMMARY_CHARS, "…")
    assert found.change == "major"
    assert found.requires[:3] == ("a/c", "n8n:3", "n8n:0")
    assert len(found.requires) == len(set(found.requires)) == limits.REQUIRES


def test_requirements_that_were_asked_for_are_never_dropped_silently() -> None:
    asked = [f"a/w{n}" for n in range(limits.REQUIRES + 1)]
    found = told(Prepared(inspection=inspection(requires=("n8n:1",)), content=b""), requires=asked)
    assert found.requires == tuple(asked), "apply refuses them as too many"


def test_notes_say_what_was_left_out() -> None:
    one = Prepared(inspection=inspection(), content=b"", secrets={"environment.TOKEN": "k1:a"})
    assert publish._notes(published(secrets=one.secrets), one, version(number=2), 2) == [
        "1 secret value was left out: environment.TOKEN"
    ]
    many = Prepared(inspection=inspection(), content=b"", secrets={f"s{n}": "k1:a" for n in range(7)})
    assert publish._notes(published(), many, version(number=2), 2) == [
        "7 secret values were left out: s0, s1, s2, s3, s4 and 2 more"
    ]


def test_notes_say_that_only_secrets_differ() -> None:
    prepared = Prepared(inspection=inspection(), content=b"", secrets={"T": "k1:new"})
    notes = publish._notes(published(created=False, secrets={"T": "k1:old"}), prepared, version(), 2)
    assert notes[1:] == ["only secret values differ from version 3: they are not kept"]
    same = publish._notes(published(created=False, secrets={"T": "k1:new"}), prepared, version(), 2)
    assert len(same) == 1


def test_notes_say_what_it_was_not_compared_with() -> None:
    prepared = Prepared(inspection=inspection(), content=b"", not_compared="it takes longer than 10 s")
    assert publish._notes(published(), prepared, version(number=2), 2) == [
        "not compared with version 2: it takes longer than 10 s"
    ]
    meanwhile = publish._notes(
        published(parents=(3,)), Prepared(inspection=inspection(), content=b""), version(number=2), 2
    )
    assert meanwhile == ["compared with version 2; version 3 was published meanwhile"]


def test_an_older_release_in_the_cluster_is_said() -> None:
    (note,) = publish._notes(published(), Prepared(inspection=inspection(), content=b""), version(number=2), 1)
    assert "feature level 1" in note

"""The worker's answers, without its process."""

from __future__ import annotations

import json

import pytest

from registry import formats
from registry.core.errors import Reason
from registry.formats.model import Verdict
from registry.server import inspect_worker as worker
from registry.server.inspect_worker import (
    Compared,
    CompareJob,
    Contents,
    Failure,
    Judged,
    JudgeJob,
    KeyNeeded,
    Prepared,
    PrepareJob,
    Rejection,
    answer,
)
from tests.unit.formats import kit

KEY = b"k" * 32
SECRET = "sk-live-0123456789abcdef"


def with_secret(value: str) -> bytes:
    app = kit.app()
    app["workflow"]["environment_variables"] = [{"id": "e", "name": "TOKEN", "value_type": "secret", "value": value}]
    return kit.dump(app)


APP = with_secret("")
OTHER = APP.replace(b"Be polite", b"Be kind")


def prepared(job: PrepareJob, contents: Contents | None = None) -> Prepared:
    found = answer(job, contents or Contents())
    assert isinstance(found, Prepared), found
    return found


def test_what_holds_no_secret_is_kept_as_it_is_and_needs_no_key() -> None:
    found = prepared(PrepareJob(APP))
    assert (found.content, found.secrets, found.verdict) == (APP, {}, None)
    assert found.inspection == formats.inspect(APP)


def test_a_secret_waits_for_the_key_and_is_left_out_of_everything_then() -> None:
    content = with_secret(SECRET)
    assert isinstance(answer(PrepareJob(content), Contents()), KeyNeeded)
    contents = Contents()
    found = prepared(PrepareJob(content, key=KEY, parent=with_secret(""), kind_parent="dify"), contents)
    assert SECRET.encode() not in worker.encode(found)
    assert list(found.secrets) == ["environment.TOKEN"]
    assert found.inspection == formats.inspect(found.content)
    assert all(SECRET.encode() not in known.read.content for known in contents._known.values())


def test_the_same_secret_has_the_same_fingerprint_and_another_one_another() -> None:
    prints = {prepared(PrepareJob(with_secret(each), key=KEY)).secrets["environment.TOKEN"] for each in ("a1", "a1")}
    other = prepared(PrepareJob(with_secret("b2"), key=KEY)).secrets["environment.TOKEN"]
    assert len(prints) == 1
    assert other not in prints


def test_a_secret_that_changed_is_said_and_judged_wherever_versions_are_compared() -> None:
    first, second = (prepared(PrepareJob(with_secret(each), key=KEY)) for each in (SECRET, f"{SECRET}x"))
    assert first.content == second.content
    said = "secret value environment.TOKEN changed; otherwise identical"
    kept, prints = first.content, (first.secrets, second.secrets)
    compared = answer(CompareJob(kept, kept, "dify", "dify", *prints), Contents())
    assert isinstance(compared, Compared)
    assert compared.summary == said
    judged = answer(JudgeJob(kept, "dify", kept, "dify", *prints), Contents())
    assert isinstance(judged, Judged)
    assert (judged.verdict.level, judged.verdict.change) == ("warn", "medium")
    again = PrepareJob(with_secret(SECRET), key=KEY, parent=kept, kind_parent="dify", secrets_parent=second.secrets)
    found = prepared(again)
    assert (found.summary, found.verdict) == (said, judged.verdict)
    same = prepared(PrepareJob(with_secret(SECRET), "", KEY, kept, "dify", first.secrets))
    assert (same.summary, same.verdict) == ("identical", Verdict())


def test_what_changes_against_the_parent_is_said_at_once() -> None:
    found = prepared(PrepareJob(OTHER, parent=APP, kind_parent="dify"))
    expected = formats.compare(APP, OTHER)
    assert (found.summary, found.verdict) == (expected.summary, expected.verdict)
    assert found.summary


def test_a_parent_that_cannot_be_read_takes_nothing_from_the_rest() -> None:
    found = prepared(PrepareJob(OTHER, parent=b"no app", kind_parent="dify"))
    assert found.not_compared
    assert (found.summary, found.verdict) == ("", None)
    assert found.inspection == formats.inspect(OTHER)


def test_comparing_what_is_kept_parsed_changes_nothing_in_it() -> None:
    contents = Contents()
    job = CompareJob(APP, OTHER, "dify", "dify")
    first, again = answer(job, contents), answer(job, contents)
    back = answer(CompareJob(OTHER, APP, "dify", "dify"), contents)
    assert isinstance(first, Compared)
    assert first == again == answer(job, Contents())
    assert back == answer(CompareJob(OTHER, APP, "dify", "dify"), Contents())


def test_the_verdict_is_of_the_step_or_of_the_target_alone() -> None:
    step = answer(JudgeJob(OTHER, "dify", APP, "dify"), Contents())
    assert isinstance(step, Judged)
    assert step.verdict == formats.compare(APP, OTHER).verdict
    alone = answer(JudgeJob(APP, "dify"), Contents())
    assert isinstance(alone, Judged)
    assert sorted(each.text for each in alone.verdict.reasons) == sorted(
        each.text for each in formats.inspect(APP).findings
    )


def test_errors_and_accidents_are_answers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    refused = answer(PrepareJob(b"{", kind="json"), Contents())
    assert isinstance(refused, Rejection)
    assert refused.reason == Reason.INVALID_CONTENT

    def fails(*_: object, **__: object) -> None:
        raise ValueError(SECRET)

    monkeypatch.setattr(formats, "inspect_read", fails)
    failed = answer(PrepareJob(APP), Contents())
    assert failed == Failure("it failed unexpectedly (ValueError)")
    said = capsys.readouterr().err
    assert "ValueError in fails" in said
    assert SECRET not in said, "an exception may quote the content"


def test_contents_are_read_once_and_the_oldest_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    monkeypatch.setattr(
        formats, "read", lambda content, kind="", read_=formats.read: (read.append(content), read_(content, kind))[1]
    )
    contents = Contents()
    made = [json.dumps({"n": number}).encode() for number in range(worker.READ_CONTENTS + 1)]
    for content in made:
        contents.read(content, "json")
    first = contents.read(made[1], "json")
    assert contents.read(made[1], "json") is first
    assert read == made
    contents.read(made[0], "json")
    assert read == [*made, made[0]]


def test_contents_are_bounded_in_bytes() -> None:
    contents = Contents()
    size = worker.READ_CONTENTS_BYTES // 2
    known = [contents.read(bytes([65 + number]) * size, "text") for number in range(3)]
    assert contents.read(b"C" * size, "text") is known[2]
    assert contents.read(b"A" * size, "text") is not known[0]
    large = b"x" * (worker.READ_CONTENTS_BYTES + 1)
    assert contents.read(large, "text").read.content == large
    assert contents.read(large, "text") is not contents.read(large, "text")

"""Which file is which workflow, and what a publish that failed means."""

from __future__ import annotations

import pytest

from registry.core import errors
from registry.core.errors import Reason
from registry.source import limits, plan
from registry.source.config import Source

FILE = Source(path="/srv/triage.yml", workflow="support/triage")
DIRECTORY = Source(path="/srv/flows", namespace="support", glob="*.yml,*.json")


def test_a_file_is_its_workflow():
    assert plan.files_of(FILE, [], {"support/triage"}) == ({"support/triage": "/srv/triage.yml"}, [])


def test_files_of_a_directory_are_named_by_their_stems():
    found, problems = plan.files_of(DIRECTORY, ["a.yml", "b.v2.json"], set())
    assert found == {"support/a": "/srv/flows/a.yml", "support/b.v2": "/srv/flows/b.v2.json"}
    assert problems == []


@pytest.mark.parametrize("name", ["two words.yml", "grüß.yml", "x" * 64 + ".yml", "a\udcff.yml"])
def test_a_stem_that_is_no_name_is_refused_with_the_rule(name):
    found, problems = plan.files_of(DIRECTORY, ["ok.yml", name], set())
    assert list(found) == ["support/ok"]
    assert len(problems) == 1
    assert "allowed are 1 to 63 of A-Z a-z 0-9" in problems[0]
    assert problems[0].isprintable()


def test_a_suffix_that_no_line_can_hold_is_refused():
    found, problems = plan.files_of(DIRECTORY, ["a.\udcff"], set())
    assert (found, len(problems)) == ({}, 1)
    assert problems[0].isprintable()


def test_of_files_that_would_be_one_workflow_none_is_published():
    found, problems = plan.files_of(DIRECTORY, ["a.json", "a.yml", "b.yml"], set())
    assert list(found) == ["support/b"]
    assert problems == ["support/a is not published: in /srv/flows it could be a.json or a.yml"]


def test_a_workflow_with_a_source_of_its_own_is_left_to_it():
    found, problems = plan.files_of(DIRECTORY, ["triage.yml"], {"support/triage"})
    assert found == {}
    assert "support/triage has a source of its own" in problems[0]


def test_a_directory_with_too_many_files_is_refused_whole():
    names = [f"{number}.yml" for number in range(limits.FILES + 1)]
    assert len(plan.files_of(DIRECTORY, names[:-1], set())[0]) == limits.FILES
    found, problems = plan.files_of(DIRECTORY, names, set())
    assert (found, len(problems)) == ({}, 1)
    assert "more than 1000 files" in problems[0]


@pytest.mark.parametrize("reason", list(Reason))
def test_only_what_is_said_of_the_bytes_is_final(reason):
    error = errors.error(reason, "no")
    if plan.is_final(error):
        assert isinstance(error, errors.Rejected)
        assert not plan.spends_request_id(error)
    if isinstance(error, errors.Unavailable | errors.Ambiguous) or reason in (Reason.NO_SPACE, Reason.LEVEL_TOO_LOW):
        assert not plan.is_final(error)
        assert not plan.spends_request_id(error)


def test_the_backoff_doubles_up_to_the_longest():
    assert [plan.backoff_s(failures) for failures in (1, 2, 3, 8, 10_000)] == [5, 10, 20, 600, 600]

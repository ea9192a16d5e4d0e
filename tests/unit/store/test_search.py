"""Searching versions, policies in force and who depends on a workflow, over both environments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.kv.api import Environment
from cluster.kv.lmdb_env import LmdbEnvironment
from cluster.kv.memory_env import MemoryEnvironment
from registry.core import limits, policies
from registry.core.errors import Reason
from registry.core.model import Policy, Version
from registry.store import queries
from registry.store.queries import Page, PolicyInForce, VersionFilter
from registry.store.tables import FENCES, TABLES
from tests.unit.core.kit import START_MS, WORKFLOW, Machine
from tests.unit.store.test_queries import all_pages, reason_of

NAMES = ("a/b", "a/b-2", WORKFLOW)  # in order of name


@pytest.fixture(params=["lmdb", "memory"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    """Three workflows of four versions each, published in turn; one is stable."""
    environment: Environment = (
        LmdbEnvironment(tmp_path / "kv", TABLES) if request.param == "lmdb" else MemoryEnvironment(TABLES)
    )
    machine = Machine(environment)
    machine.found()
    for number in range(1, 5):
        for name in NAMES:
            machine.publish(
                f"{name} {number}".encode(),
                name,
                time_ms=START_MS + number,
                principal="ada" if number % 2 else "Bob",
                message=f"Change {number} of ÄRGER",
                labels={"release": str(number), "team": name} if number > 2 else {},
                facts={"mode": "advanced-chat" if number == 4 else "workflow"},
                summary="one MODEL changed" if number == 1 else "",
            )
    machine.marked(2, "stable", workflow="a/b")
    yield machine
    environment.close()


def found(machine: Machine, workflow: str = "", page_size: int = 100, **fields: Any) -> list[str]:
    with machine.environment.snapshot() as reader:

        def read(**page: Any) -> Page[Version]:
            return queries.versions(reader, workflow, VersionFilter(**fields), **page)

        return [f"{version.workflow}@{version.number}" for version in all_pages(read, page_size)]


def named(*numbers: int) -> list[str]:
    return [f"{name}@{number}" for name in NAMES for number in numbers]


@pytest.mark.parametrize("page_size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("searched", [1, 2, 5, 5000])
def test_all_versions_in_order_of_name_newest_first(
    machine: Machine, page_size: int, searched: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SEARCHED", searched)
    assert found(machine, page_size=page_size) == named(4, 3, 2, 1)
    assert found(machine, "a/b", page_size) == ["a/b@4", "a/b@3", "a/b@2", "a/b@1"]
    assert found(machine, page_size=page_size, author="Bob") == named(4, 2)
    assert found(machine, "a/b", page_size, author="Bob") == ["a/b@4", "a/b@2"]


@pytest.mark.parametrize(
    ("fields", "numbers"),
    [
        ({}, (4, 3, 2, 1)),
        ({"labels": ("release",)}, (4, 3)),
        ({"labels": ("release=3",)}, (3,)),
        ({"labels": ("release=3", "team")}, (3,)),
        ({"labels": ("release=3", "team=")}, ()),
        ({"labels": ("releas",)}, ()),
        ({"author": "ada"}, (3, 1)),
        ({"author": "ADA"}, ()),
        ({"since_ms": START_MS + 2}, (4, 3, 2)),
        ({"until_ms": START_MS + 2}, (1,)),
        ({"since_ms": START_MS + 2, "until_ms": START_MS + 4}, (3, 2)),
        ({"text": "change 2"}, (2,)),
        ({"text": "ärger"}, (4, 3, 2, 1)),
        ({"text": "Model"}, (1,)),
        ({"text": "ADVANCED"}, (4,)),
        ({"text": "RELEASE"}, (4, 3)),
        ({"text": "no such"}, ()),
        ({"text": "change", "author": "ada", "labels": ("team",)}, (3,)),
    ],
)
def test_what_a_search_finds(machine: Machine, fields: dict[str, Any], numbers: tuple[int, ...]) -> None:
    assert found(machine, **fields) == named(*numbers)
    assert found(machine, WORKFLOW, **fields) == [f"{WORKFLOW}@{number}" for number in numbers]


def test_a_search_by_name_and_by_status(machine: Machine) -> None:
    assert found(machine, text="B-2") == [f"a/b-2@{number}" for number in (4, 3, 2, 1)]
    assert found(machine, status="stable") == ["a/b@2"]
    assert found(machine, "a/b", status="candidate") == ["a/b@4", "a/b@3", "a/b@1"]


def test_a_page_looks_at_so_many_versions_and_the_next_goes_on(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SEARCHED", 5)
    with machine.environment.snapshot() as reader:
        wanted, sizes, token = VersionFilter(labels=(f"team={WORKFLOW}",)), [], ""
        while token or not sizes:
            page = queries.versions(reader, "", wanted, page_token=token)
            sizes.append(len(page.items))
            token = page.next_page_token
    assert sizes == [0, 2, 0]


def test_a_search_that_cannot_be(machine: Machine) -> None:
    with machine.environment.snapshot() as reader:
        assert reason_of(queries.versions, reader, "no/such") is Reason.WORKFLOW_NOT_FOUND
        for token in ("x", "AAAA", "AAAAAAAAAAU=", "w4QAAAAAAAAAAAE="):
            assert reason_of(queries.versions, reader, page_token=token) is Reason.INVALID_REQUEST
        in_all = queries.versions(reader, page_size=1).next_page_token
        in_one = queries.versions(reader, "a/b", page_size=1).next_page_token
        assert reason_of(queries.versions, reader, "a/b", page_token=in_all) is Reason.INVALID_REQUEST
        assert reason_of(queries.versions, reader, page_token=in_one) is Reason.INVALID_REQUEST
    assert reason_of(VersionFilter, status="lovely") is Reason.INVALID_STATUS
    assert reason_of(VersionFilter, text="x" * 5000) is Reason.TOO_LARGE
    assert reason_of(VersionFilter, labels=("x",) * 100) is Reason.TOO_LARGE


def test_the_policy_in_force(machine: Machine) -> None:
    machine.set_policy("a/*", verdict="ok")
    machine.set_policy("*", verdict="warn", checks="refuse")
    with machine.environment.snapshot() as reader:
        in_force = queries.policy(reader, "a/new")
        assert in_force.effective == Policy(unchanged="allow", checks="refuse", literals="warn", verdict="ok")
        assert in_force.scopes == (("*", Policy(verdict="warn", checks="refuse")), ("a/*", Policy(verdict="ok")))
        assert queries.policy(reader, "a/*") == in_force
        assert len(queries.policy(reader, "*").scopes) == 1
        assert reason_of(queries.policy, reader, "a") is Reason.INVALID_NAME
    machine.set_policy("*", verdict="", checks="")
    machine.set_policy("a/*", verdict="")
    with machine.environment.snapshot() as reader:
        assert queries.policy(reader, "a/new") == PolicyInForce(policies.DEFAULTS, ())


def test_who_depends(machine: Machine) -> None:
    machine.publish(b"caller", "z/caller", requires=(WORKFLOW, "a/b"))
    with machine.environment.snapshot() as reader:
        assert [each.workflow for each in queries.impact(reader, WORKFLOW).dependents] == ["z/caller"]
        assert queries.impact(reader, "z/caller").dependents == ()
        assert reason_of(queries.impact, reader, "no/such") is Reason.WORKFLOW_NOT_FOUND
        assert reason_of(queries.impact, reader, "no") is Reason.INVALID_NAME


def test_the_longest_fence_fits_into_a_key(machine: Machine) -> None:
    name, meaning = f"{'n' * 63}/{'m' * 63}", f"{'s' * 16}:{'0' * 128}"
    machine.publish(b"1", name, semantic_digest=meaning)
    machine.marked(1, "fenced", workflow=name)
    assert [len(key) for key, _ in machine.dump()[FENCES]] == [273]
    machine.marked(1, "candidate", workflow=name)
    assert machine.dump()[FENCES] == []

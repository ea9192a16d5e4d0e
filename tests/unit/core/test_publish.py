from __future__ import annotations

import pytest
from msgspec import structs

from registry.core import limits
from registry.core.errors import Reason
from registry.core.model import Digest, Version
from registry.core.outcomes import Founded, Published
from tests.unit.core.kit import START_MS, WORKFLOW, Machine, assert_rejected


def published(outcome: object) -> Version:
    assert isinstance(outcome, Published)
    assert outcome.created
    return outcome.version


def test_found_names_the_cluster_once() -> None:
    machine = Machine()
    assert machine.found("c1") == Founded(revision=1, cluster_id="c1")
    assert machine.found("c2") == Founded(revision=1, cluster_id="c1")
    assert machine.registry.cluster_id == "c1"
    change = machine.rows.change(1)
    assert change is not None
    assert (change.action, change.workflows) == ("found", ())
    assert machine.rows.change(2) is None


def test_the_first_publish_makes_the_workflow(machine: Machine) -> None:
    version = published(
        machine.publish(b"{}", message="first", labels={"semver": "v1.0.0", "x": "y"}, facts={"nodes": "1"})
    )
    assert version == Version(
        workflow=WORKFLOW,
        number=1,
        digest="sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        value_digest="v1:0",
        semantic_digest="s1:7b7d",
        kind="json",
        size_bytes=2,
        status="candidate",
        parents=(),
        author="ada",
        created_ms=START_MS + 2,
        message="first",
        labels={"semver": "v1.0.0", "x": "y"},
        facts={"nodes": "1"},
        revision=2,
    )
    assert machine.version(1) == version
    workflow = machine.rows.workflow(WORKFLOW)
    assert workflow is not None
    assert (workflow.kind, workflow.versions, workflow.created_ms) == ("json", 1, START_MS + 2)
    change = machine.rows.change(2)
    assert change is not None
    assert (change.action, change.principal, change.version) == ("publish", "ada", version)
    assert list(machine.rows.workflow_revisions(WORKFLOW)) == [2]


def test_versions_count_up_and_name_their_parent(machine: Machine) -> None:
    machine.published(b"1", b"2", b"3")
    assert [(version.number, version.parents) for version in machine.rows.versions(WORKFLOW, 10)] == [
        (3, (2,)),
        (2, (1,)),
        (1, ()),
    ]
    assert machine.registry.revision == 4


def test_the_newest_bytes_again_create_nothing(machine: Machine) -> None:
    machine.published(b"1", b"2")
    outcome = machine.publish(b"2", message="again", labels={"semver": "1.0.0"})
    assert outcome == Published(revision=3, version=machine.version(2), created=False)
    assert machine.rows.change(4) is None
    assert machine.rows.semver(WORKFLOW, "1.0.0") is None


def test_older_bytes_again_are_a_new_version(machine: Machine) -> None:
    machine.published(b"1", b"2")
    version = published(machine.publish(b"1"))
    assert (version.number, version.parents, version.digest) == (3, (2,), machine.version(1).digest)
    assert machine.rows.digest(WORKFLOW, version.digest) == Digest(newest=3)


def test_content_is_stored_once_for_all_workflows(machine: Machine) -> None:
    machine.published(b"1", b"2", b"1")
    machine.published(b"1", workflow="other/one")
    assert len(machine.dump()["contents"]) == 2


def test_a_workflow_keeps_its_kind(machine: Machine) -> None:
    machine.published(b"1")
    outcome = assert_rejected(machine.publish(b"2", kind="yaml"), Reason.KIND_MISMATCH)
    assert outcome.metadata["kind"] == "json"
    assert machine.rows.version(WORKFLOW, 2) is None


def test_fenced_bytes_are_refused_also_as_the_newest(machine: Machine) -> None:
    machine.published(b"1", b"2", b"1")
    machine.mark(1, "fenced")
    for _ in range(2):
        assert assert_rejected(machine.publish(b"1"), Reason.DIGEST_FENCED).metadata["version"] == "1"
    published(machine.publish(b"1", workflow="other/one"))
    machine.mark(1, "candidate")
    assert isinstance(machine.publish(b"1"), Published)


def test_the_label_semver_is_unique_in_its_workflow(machine: Machine) -> None:
    published(machine.publish(b"1", labels={"semver": "v1.0.0"}))
    outcome = assert_rejected(machine.publish(b"2", labels={"semver": "1.0.0"}), Reason.LABEL_TAKEN)
    assert outcome.metadata["version"] == "1"
    published(machine.publish(b"2", labels={"semver": "1.0.1"}))
    published(machine.publish(b"1", workflow="other/one", labels={"semver": "1.0.0"}))
    published(machine.publish(b"3", labels={"team": "v1.0.0"}))
    assert machine.rows.semver(WORKFLOW, "1.0.1") == 2


def test_parents_may_be_named(machine: Machine) -> None:
    machine.published(b"1", b"2", b"3")
    assert published(machine.publish(b"4", parents=(3, 1, 3))).parents == (3, 1)
    outcome = assert_rejected(machine.publish(b"5", parents=(1, 6)), Reason.VERSION_NOT_FOUND)
    assert (outcome.metadata["version"], outcome.metadata["newest"]) == ("6", "4")
    assert_rejected(machine.publish(b"5", parents=(1,), workflow="other/one"), Reason.VERSION_NOT_FOUND)
    assert published(machine.publish(b"5")).parents == (4,)


def test_what_was_found_in_the_content_is_kept_with_the_version(machine: Machine) -> None:
    requires, secrets = ("other/one", "n8n:7", "other/one"), {"API_KEY": "k1:0"}
    version = published(
        machine.publish(b"1", requires=requires, secrets=secrets, summary="one model changed", change="minor")
    )
    assert (version.requires, version.secrets, version.summary, version.change) == (
        ("other/one", "n8n:7"),
        secrets,
        "one model changed",
        "minor",
    )
    assert machine.version(1) == version
    assert list(machine.rows.requirers("n8n:7")) == [(WORKFLOW, 1)]
    published(machine.publish(b"2", requires=("n8n:7",)))
    published(machine.publish(b"3", workflow="a/b", requires=("n8n:7", "Ä" * 256)))
    assert list(machine.rows.requirers("n8n:7")) == [("a/b", 1), (WORKFLOW, 2)]
    assert list(machine.rows.requirers("other/one")) == [(WORKFLOW, 1)]
    assert list(machine.rows.requirers("Ä" * 256)) == [("a/b", 1)]


def test_needs_belong_to_the_version_that_a_publish_creates(machine: Machine) -> None:
    needs = ("dify>=1.9", "plugin:langgenius/openai", "dify>=1.9")
    version = published(machine.publish(b"1", needs=needs))
    assert version.needs == ("dify>=1.9", "plugin:langgenius/openai")
    assert machine.version(1) == version
    again = machine.publish(b"1", needs=("dify>=2",))
    assert isinstance(again, Published)
    assert (again.created, again.version) == (False, version)
    assert published(machine.publish(b"2")).needs == ()
    assert published(machine.publish(b"1", needs=("dify>=2",))).needs == ("dify>=2",)


def test_a_retry_has_the_same_needs(machine: Machine) -> None:
    command = machine.publish_command(b"1", needs=("cap:gpu",))
    assert machine.apply(command) == machine.apply(command)
    assert_rejected(machine.apply(structs.replace(command, needs=("cap:tpu",))), Reason.REQUEST_REUSED)


def test_below_level_2_nothing_of_it_is_read_or_written(machine: Machine) -> None:
    machine.level = 1
    machine.published(b"1", b"2")
    version = published(
        machine.publish(
            b"3",
            parents=(1,),
            requires=("a/b",),
            secrets={"a": "b"},
            summary="s",
            change="minor",
            semantic_digest="s1:32",
            needs=("dify>=1.9",),
        )
    )
    assert (version.parents, version.requires, version.secrets, version.summary) == ((2,), (), {}, "")
    assert version.needs == ()
    assert list(machine.rows.requirers("a/b")) == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"parents": (0,)}, Reason.INVALID_REQUEST),
        ({"parents": tuple(range(1, limits.PARENTS + 2))}, Reason.TOO_LARGE),
        ({"requires": ("",)}, Reason.INVALID_REQUEST),
        ({"requires": ("x" * (limits.REQUIRES_CHARS + 1),)}, Reason.TOO_LARGE),
        ({"requires": tuple(map(str, range(limits.REQUIRES + 1)))}, Reason.TOO_LARGE),
        ({"secrets": {str(number): "" for number in range(limits.SECRETS + 1)}}, Reason.TOO_LARGE),
        ({"secrets": {"x" * (limits.SECRET_NAME_CHARS + 1): ""}}, Reason.TOO_LARGE),
        ({"secrets": {"x": "k" * 200}}, Reason.TOO_LARGE),
        ({"summary": "x" * (limits.SUMMARY_CHARS + 1)}, Reason.TOO_LARGE),
        ({"change": "huge"}, Reason.INVALID_REQUEST),
        ({"findings": ("x",) * (limits.FINDINGS + 1)}, Reason.TOO_LARGE),
        ({"needs": ("dify >= 1.9",)}, Reason.INVALID_REQUEST),
        ({"needs": ("x" * (limits.NEED_CHARS + 1),)}, Reason.INVALID_REQUEST),
        ({"needs": tuple(f"cap:{number}" for number in range(limits.NEEDS + 1))}, Reason.TOO_LARGE),
        ({"literals": ("x" * (limits.FINDING_CHARS + 1),)}, Reason.TOO_LARGE),
    ],
)
def test_what_is_past_a_limit_is_refused(machine: Machine, fields: dict[str, object], reason: Reason) -> None:
    machine.published(b"1")
    before = machine.dump()
    assert_rejected(machine.publish(b"2", **fields), reason)
    assert machine.dump() == before

"""Request ids: at most once, however often (invariant 5)."""

from __future__ import annotations

from msgspec import structs

from registry.core import request_ids
from registry.core.commands import Command, Move
from registry.core.errors import Reason
from registry.core.model import Content
from registry.core.outcomes import Published, Rejected, Switched
from tests.unit.core.kit import START_MS, WORKFLOW, Machine, assert_rejected, without_request_memory


def test_a_retry_takes_effect_once_and_gets_the_same_outcome(machine: Machine) -> None:
    machine.published(b"1", b"2")
    command = machine.switch_command(Move(workflow=WORKFLOW, pointer="active", target=1))
    first = machine.apply(command)
    machine.switched(2)
    before = machine.dump()
    assert machine.apply(structs.replace(command, time_ms=command.time_ms + 5)) == first
    assert machine.dump() == before


def test_a_rejection_is_remembered_even_if_it_would_now_succeed(machine: Machine) -> None:
    command = machine.switch_command(Move(workflow=WORKFLOW, pointer="active", target=1))
    first = assert_rejected(machine.apply(command), Reason.WORKFLOW_NOT_FOUND)
    machine.published(b"1")
    assert machine.apply(command) == first


def test_a_request_id_is_not_used_for_another_request(machine: Machine) -> None:
    machine.published(b"1", b"2")
    command = machine.switch_command(Move(workflow=WORKFLOW, pointer="active", target=1))
    assert isinstance(machine.apply(command), Switched)
    before = machine.dump()
    for other in (
        structs.replace(command, moves=(Move(workflow=WORKFLOW, pointer="active", target=2),)),
        structs.replace(command, reason="another"),
        structs.replace(command, rollback=True),
        structs.replace(machine.publish_command(b"3"), request_id=command.request_id),
    ):
        assert_rejected(machine.apply(other), Reason.REQUEST_REUSED)
    assert machine.dump() == before


def test_what_a_member_derives_is_not_part_of_the_request(machine: Machine) -> None:
    command = machine.publish_command(b"1" * 1000, labels={"a": "1", "b": "2"})
    first = machine.apply(command)
    again = structs.replace(
        command,
        content=Content(encoding="raw", data=b"1" * 1000, size_bytes=1000),
        labels={"b": "2", "a": "1"},
        facts={"nodes": "3"},
        semantic_digest="s2:1",
        requires=("a/b",),
        secrets={"key": "k1:0"},
        summary="more",
        change="minor",
        findings=("broken",),
        literals=("sk-***",),
    )
    assert machine.apply(again) == first
    assert_rejected(machine.apply(structs.replace(again, parents=(1,))), Reason.REQUEST_REUSED)
    machine.published(b"2")
    move = Move(workflow=WORKFLOW, pointer="active", target=1, reference="canary")
    switch = machine.switch_command(move)
    switched = machine.apply(switch)
    assert machine.apply(structs.replace(switch, moves=(structs.replace(move, target=2),))) == switched
    other = structs.replace(switch, moves=(structs.replace(move, target=2, reference="active~1"),))
    assert_rejected(machine.apply(other), Reason.REQUEST_REUSED)
    branch = machine.publish_command(b"3", parents=(1,), parent_references=("canary",))
    published = machine.apply(branch)
    assert machine.apply(structs.replace(branch, parents=(2,))) == published
    assert_rejected(machine.apply(structs.replace(branch, parent_references=("active",))), Reason.REQUEST_REUSED)


def test_requirements_that_the_caller_names_are_part_of_the_request(machine: Machine) -> None:
    command = machine.publish_command(b"1", asked_requires=("a/b",), requires=("a/b", "n8n:4"))
    first = machine.apply(command)
    assert isinstance(first, Published)
    assert machine.apply(structs.replace(command, requires=("a/b",))) == first, "what was found in it is not"
    before = machine.dump()
    for asked in ((), ("a/c",), ("a/b", "a/c")):
        other = structs.replace(command, asked_requires=asked, requires=asked)
        assert_rejected(machine.apply(other), Reason.REQUEST_REUSED)
    assert machine.dump() == before


def test_below_level_2_requirements_are_not_part_of_the_request(machine: Machine) -> None:
    machine.level = 1
    command = machine.publish_command(b"1", asked_requires=("a/b",))
    assert machine.apply(command) == machine.apply(structs.replace(command, asked_requires=()))


def test_forgotten_ids_are_refused_never_repeated() -> None:
    machine = Machine(requests_remembered=3)
    commands = [machine.publish_command(b"%d" % number) for number in range(5)]
    outcomes = [machine.apply(command) for command in commands]
    assert all(isinstance(outcome, Published) for outcome in outcomes)
    assert machine.registry.forgotten_ms == START_MS + 2
    assert machine.registry.remembered == 3
    before = machine.dump()
    for command in commands[:2]:
        assert_rejected(machine.apply(command), Reason.REQUEST_EXPIRED)
    for command, outcome in zip(commands[2:], outcomes[2:], strict=True):
        assert machine.apply(command) == outcome
    assert machine.dump() == before


def test_a_new_id_as_old_as_a_forgotten_one_is_refused_and_not_remembered() -> None:
    machine = Machine(requests_remembered=1)
    late = structs.replace(machine.publish_command(b"late"), request_id=request_ids.make(START_MS + 2, b"\xff" * 10))
    machine.published(b"1", b"2")
    before = machine.dump()
    outcome = assert_rejected(machine.apply(late), Reason.REQUEST_EXPIRED)
    assert outcome.metadata == {"forgotten_ms": str(START_MS + 2)}
    assert machine.dump() == before


def test_an_id_ahead_of_its_time_does_not_lower_what_is_forgotten() -> None:
    machine = Machine(requests_remembered=1)
    ahead = structs.replace(machine.publish_command(b"1"), request_id=request_ids.make(START_MS + 5000, b"\0" * 10))
    assert isinstance(machine.apply(ahead), Published)
    behind = structs.replace(machine.publish_command(b"2"), request_id=request_ids.make(START_MS + 1, b"\0" * 10))
    assert isinstance(machine.apply(behind), Published)
    assert machine.registry.forgotten_ms == START_MS + 5000
    late = structs.replace(machine.publish_command(b"3"), request_id=request_ids.make(START_MS + 6000, b"\0" * 10))
    assert isinstance(machine.apply(late), Published)
    assert machine.registry.forgotten_ms == START_MS + 5000


def test_rejections_write_only_the_memory_of_their_id(machine: Machine) -> None:
    machine.published(b"1")
    before = without_request_memory(machine.dump(), machine.registry)
    outcome = machine.switch(9)
    assert isinstance(outcome, Rejected)
    assert without_request_memory(machine.dump(), machine.registry) == before
    assert machine.registry.remembered == 3


def test_malformed_commands_are_refused_and_write_nothing(machine: Machine) -> None:
    machine.published(b"1")
    before = machine.dump()
    publish = machine.publish_command(b"2")
    switch = machine.switch_command(Move(workflow=WORKFLOW, pointer="active", target=1))
    malformed: list[tuple[Command, Reason]] = [
        (structs.replace(publish, request_id="no"), Reason.INVALID_REQUEST),
        (structs.replace(publish, workflow="x" * 600), Reason.INVALID_NAME),
        (structs.replace(publish, digest="sha256:"), Reason.INVALID_REFERENCE),
        (structs.replace(publish, message="x" * 5000), Reason.TOO_LARGE),
        (structs.replace(publish, labels={"semver": "one"}), Reason.INVALID_NAME),
        (structs.replace(publish, time_ms=-1), Reason.INVALID_REQUEST),
        (structs.replace(publish, asked_requires=("a/b",) * 65), Reason.TOO_LARGE),
        (structs.replace(publish, asked_requires=("",)), Reason.INVALID_REQUEST),
        (structs.replace(switch, moves=()), Reason.INVALID_REQUEST),
        (structs.replace(switch, moves=switch.moves * 2), Reason.INVALID_REQUEST),
        (structs.replace(switch, reason="  "), Reason.REASON_REQUIRED),
        (structs.replace(switch, moves=(Move(workflow=WORKFLOW, pointer="v1", target=1),)), Reason.INVALID_NAME),
        (structs.replace(switch, moves=(Move(workflow=WORKFLOW, pointer="active"),)), Reason.INVALID_REQUEST),
        (structs.replace(switch, moves=(Move(workflow=WORKFLOW, pointer="p", target=2**64),)), Reason.INVALID_REQUEST),
        (
            structs.replace(switch, moves=(Move(workflow=WORKFLOW, pointer="p", target=1, verdict="bad"),)),
            Reason.INVALID_REQUEST,
        ),
        (
            structs.replace(switch, moves=(Move(workflow=WORKFLOW, pointer="p", target=1, verdict_from=-1),)),
            Reason.INVALID_REQUEST,
        ),
    ]
    for command, reason in malformed:
        assert_rejected(machine.apply(command), reason)
    many = tuple(Move(workflow=f"a/w{number}", pointer="active", target=1) for number in range(65))
    assert_rejected(machine.apply(structs.replace(switch, moves=many)), Reason.TOO_LARGE)
    assert_rejected(machine.mark(1, "bad"), Reason.INVALID_STATUS)  # type: ignore[arg-type]
    assert machine.dump() == before

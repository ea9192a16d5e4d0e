"""add and replace against a ClusterService that decides by the real rules: what they do, and where they stop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator

import pytest

from cluster.api import NotAttempted, OutcomeUnknown
from cluster.membership import Add, Changed, Promote, Remove
from registry.cli import joining
from registry.cli.session import Session
from registry.core.errors import Conflict, NotFound, Reason, Unavailable
from tests.unit.server.decided_cluster import DecidedCluster, serving


@pytest.fixture
def three() -> DecidedCluster:
    made = DecidedCluster("n1", "n2", "n3")
    for name in ("n1", "n2", "n3"):
        made.describe(name, f"old-{name}")
    return made


@pytest.fixture
async def session(three: DecidedCluster, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Session]:
    monkeypatch.setattr(joining, "LOOK_S", 0.001)
    monkeypatch.setattr(joining, "APPEAR_S", 0.0)
    monkeypatch.setattr(joining, "TELL_S", 0.0)
    async with serving(three) as address:
        made = Session(endpoints=address, timeout_s=5.0, tls=None, output="table")
        async with made.client:
            yield made


async def test_a_process_is_admitted_gets_level_and_votes(three, session, capsys):
    three.waits("n4", "aa")
    three.lags["n4/aa"] = deque([*[40_000] * 6, 3])
    assert await joining.add(session, "n4", observer=False) == ("n4/aa", "voter")
    assert three.roles()["n4/aa"] == "voter"
    assert three.steps == [Add("n4/aa"), Promote("n4/aa")]
    assert "n4/aa is 40000 entries behind" in capsys.readouterr().err


async def test_a_member_that_stood_still_is_asked_again_for_who_came_meanwhile(three, session, monkeypatch):
    monkeypatch.setattr(joining, "APPEAR_S", 0.01)
    answers = three.status

    def late():
        monkeypatch.setattr(three, "status", answers)
        answer = answers()
        time.sleep(2 * joining.APPEAR_S)  # the fault: its loop stands still
        three.waits("n4", "aa")
        return answer

    monkeypatch.setattr(three, "status", late)
    assert await joining.add(session, "n4", observer=False) == ("n4/aa", "voter")


@pytest.mark.parametrize("says", ["the operator", "the process"])
async def test_an_observer_stays_one(three, session, says):
    three.waits("n4", "aa", role="observer" if says == "the process" else "voter")
    assert await joining.add(session, "n4", observer=says == "the operator") == ("n4/aa", "observer")
    assert three.steps == [Add("n4/aa")]


async def test_steps_are_repeated_until_they_are_known_to_be_done(three, session):
    three.waits("n4", "aa")
    three.faults[Add].extend([(NotAttempted("no leader"), False), (OutcomeUnknown("no answer"), True)])
    three.faults[Promote].append((OutcomeUnknown("no answer"), True))
    assert await joining.add(session, "n4", observer=False) == ("n4/aa", "voter")
    assert [type(step) for step in three.steps] == [Add, Add, Add, Promote, Promote]


async def test_the_leader_has_the_last_word_on_who_is_level(three, session):
    three.waits("n4", "aa")
    three.refuses = [Changed("NOT_CAUGHT_UP", "n4 is 1001 entries behind", "n4/aa")]
    assert await joining.add(session, "n4", observer=False) == ("n4/aa", "voter")
    assert three.steps == [Add("n4/aa"), Promote("n4/aa"), Promote("n4/aa")]


async def test_who_is_a_member_already_is_left_as_it_is(three, session):
    three.demote("n3")
    assert await joining.add(session, "n3", observer=False) == ("n3", "observer")
    assert three.steps == []


async def test_nobody_waits(three, session):
    with pytest.raises(NotFound) as caught:
        await joining.add(session, "n4", observer=False)
    assert caught.value.reason is Reason.NOT_WAITING
    assert "--join" in caught.value.hint


async def test_a_name_that_is_taken_is_for_replace(three, session):
    three.waits("n2", "bb")
    with pytest.raises(Conflict) as caught:
        await joining.add(session, "n2", observer=False)
    assert caught.value.reason is Reason.NAME_TAKEN
    assert "`regctl cluster replace n2`" in caught.value.hint
    assert three.steps == []


async def test_two_processes_of_one_name_have_to_be_told_apart(three, session):
    three.waits("n4", "aa")
    three.waits("n4", "bb")
    with pytest.raises(Conflict) as caught:
        await joining.add(session, "n4", observer=False)
    assert caught.value.reason is Reason.AMBIGUOUS_MEMBER
    assert await joining.add(session, "n4/bb", observer=False) == ("n4/bb", "voter")


async def test_interrupted_it_says_what_was_reached_and_what_goes_on(three, session, capsys):
    three.waits("n4", "aa")
    three.lags["n4/aa"] = deque([90_000])
    adding = asyncio.create_task(joining.add(session, "n4", observer=False))
    while "n4/aa is 90000" not in capsys.readouterr().err:
        await asyncio.sleep(0.001)
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert "n4 is admitted as an observer; go on with: regctl cluster promote n4" in capsys.readouterr().err
    assert three.roles()["n4/aa"] == "observer"


async def test_a_member_that_falls_silent_is_given_up_with_what_was_reached(three, session, monkeypatch):
    monkeypatch.setattr(joining, "SILENT_S", 0.0)
    three.waits("n4", "aa")
    three.without("n4/aa")
    with pytest.raises(Unavailable) as caught:
        await joining.add(session, "n4", observer=False)
    assert "so far: n4 is admitted as an observer" in caught.value.message
    assert "regctl cluster promote n4" in caught.value.hint


async def test_a_lost_voter_is_replaced_by_a_process_of_its_name(three, session):
    three.without("n2")
    three.waits("n2", "new")
    assert await joining.replace(session, "n2") == ("n2/new", "voter")
    assert three.roles() == {"n1": "voter", "n3": "voter", "n2/new": "voter"}
    assert three.steps == [Add("n2/new"), Remove("n2/old-n2"), Promote("n2/new")]


async def test_a_lost_observer_is_replaced_by_an_observer(three, session):
    three.demote("n2")
    three.without("n2")
    three.waits("n2", "new")
    assert await joining.replace(session, "n2") == ("n2/new", "observer")
    assert three.roles() == {"n1": "voter", "n3": "voter", "n2/new": "observer"}


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("step", [Add, Remove, Promote])
async def test_replace_goes_on_after_an_interruption_at_any_step(three, session, capsys, step, done):
    three.without("n2")
    three.waits("n2", "new")
    three.hangs_at = (step, done)
    replacing = asyncio.create_task(joining.replace(session, "n2"))
    await three.hanging.wait()
    replacing.cancel()
    await asyncio.wait([replacing])
    said = capsys.readouterr().err
    three.hangs_at = None
    if "n2" in three.roles():
        assert ("go on with: regctl cluster replace n2" in said) is (step is Remove)
        assert await joining.replace(session, "n2") == ("n2/new", "voter")
    else:
        assert ("go on with: regctl cluster promote n2/new" in said) is (step is Promote)
        with pytest.raises(NotFound) as nothing_left:
            await joining.replace(session, "n2")
        if three.roles()["n2/new"] != "voter":
            assert "`regctl cluster promote n2`" in nothing_left.value.hint
            await session.client.members.promote("n2")
    assert three.roles() == {"n1": "voter", "n3": "voter", "n2/new": "voter"}


async def test_a_removal_whose_answer_is_lost_does_not_remove_the_successor(three, session):
    three.without("n2")
    three.waits("n2", "new")
    three.faults[Remove].extend([(OutcomeUnknown("no answer"), True), (NotAttempted("no leader"), False)])
    assert await joining.replace(session, "n2") == ("n2/new", "voter")
    assert three.steps.count(Remove("n2/old-n2")) == 3
    assert three.roles() == {"n1": "voter", "n3": "voter", "n2/new": "voter"}


async def test_without_a_process_there_is_nothing_to_replace_with(three, session):
    with pytest.raises(NotFound) as caught:
        await joining.replace(session, "n2")
    assert caught.value.reason is Reason.NOT_WAITING
    assert "registryd --name n2 --data-dir EMPTY-DIR --join" in caught.value.hint
    three.waits("n7", "aa")
    with pytest.raises(NotFound) as caught:
        await joining.replace(session, "n7")
    assert "`regctl cluster add n7`" in caught.value.hint


async def test_two_live_observers_of_one_name_are_not_guessed_apart(three, session):
    three.demote("n2")
    three.waits("n2", "new")
    await session.client.members.add("n2/new")
    with pytest.raises(Conflict) as caught:
        await joining.replace(session, "n2")
    assert "n2 or n2/new" in caught.value.hint

"""Counting the fleet, and who has confirmed a switch."""

from __future__ import annotations

import random

import pytest

from registry.core import limits
from registry.core.census import ASKED_FIRST, Census, RollCall, has_confirmed
from registry.core.fleet import STANDINGS
from registry.core.model import Agent, LastContact, Phase, Pointer

NOW_MS = 1_800_000_000_000
HEARD = LastContact(time_ms=NOW_MS - 1000)
SILENT = LastContact(time_ms=NOW_MS - int(limits.AGENT_SILENT_S * 1000) - 1)
NAME = "support/triage"
GOOD, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def target(generation: int = 5) -> Pointer:
    return Pointer(workflow=NAME, pointer="active", version=3, digest=GOOD, generation=generation, revision=9)


def agent(
    name: str = "edge-1",
    generation: int = 5,
    phase: Phase = "confirmed",
    running: int | None = None,
    digest: str = GOOD,
    site: str = "eu-1",
) -> Agent:
    return Agent(
        agent=name,
        workflow=NAME,
        pointer="active",
        incarnation="i",
        sequence=1,
        site=site,
        generation=generation,
        phase=phase,
        running_generation=generation if running is None else running,
        running_digest=digest,
    )


@pytest.mark.parametrize(
    ("one", "confirmed"),
    [
        (agent(), True),
        (agent(digest=OTHER), False),  # it runs other bytes
        (agent(phase="installed"), False),
        (agent(phase="reverted", running=4), False),
        (agent(phase="refused", running=5), False),  # what was confirmed is damaged
        (agent(generation=4), False),
        (agent(generation=6, digest=OTHER), True),
        (agent(generation=6, phase="installed"), False),
        (agent(generation=6, phase="reverted", running=5), True),
        (agent(generation=6, phase="reverted", running=4), False),
        (agent(generation=6, phase="refused", running=5), True),
        (agent(generation=0, running=0), False),
    ],
)
def test_confirmed_is_what_an_agent_has_proven(one: Agent, confirmed: bool) -> None:
    assert has_confirmed(one, target(), newest=6) is confirmed


def test_what_an_agent_said_in_an_older_epoch_confirms_nothing() -> None:
    """Its generations are above those that the restored pointer has had."""
    late = agent(generation=9, running=9)
    assert not has_confirmed(late, target(), newest=8)
    assert has_confirmed(late, target(), newest=9)
    went_back = agent(generation=9, phase="reverted", running=5)
    assert not has_confirmed(went_back, target(), newest=5)
    roll = RollCall(target())
    for one in (late, went_back):
        roll.put(one, HEARD, NOW_MS, newest=5)
        assert (roll.confirmed, roll.count("behind"), roll.complete) == (0, 1, False)


def test_a_census_counts_it_as_behind_since_the_newest_switch() -> None:
    census = Census(NOW_MS, lambda pointer, generation: {5: NOW_MS - 5_000}[generation])
    census.add(agent(generation=9), target(), HEARD)
    (site,) = census.sites.values()
    assert (site.standings["behind"], site.oldest_behind_ms) == (1, 5_000)


def test_a_roll_call_names_the_nacked_first_and_the_silent_last() -> None:
    roll = RollCall(target())
    roll.put(agent("silent", generation=4), SILENT, NOW_MS, newest=5)
    roll.put(agent("behind", generation=4), HEARD, NOW_MS, newest=5)
    roll.put(agent("nacked", phase="reverted", running=4), HEARD, NOW_MS, newest=5)
    roll.put(agent("good"), HEARD, NOW_MS, newest=5)
    roll.put(agent("gone quiet"), SILENT, NOW_MS, newest=5)
    assert (roll.agents, roll.confirmed, roll.complete) == (5, 2, False)
    assert [*roll.missing(9)] == ["nacked", "behind", "silent"]
    assert [*roll.missing(1)] == ["nacked"]
    assert {standing: roll.count(standing) for standing in ASKED_FIRST} == {
        "nacked": 1,
        "drifted": 0,
        "behind": 1,
        "installing": 0,
        "silent": 1,
    }
    for name in ("nacked", "behind"):
        roll.put(agent(name), HEARD, NOW_MS, newest=5)
    roll.drop("silent")
    roll.drop("unknown")
    assert (roll.agents, roll.confirmed, roll.complete, [*roll.missing(9)]) == (4, 4, True, [])


def test_nobody_to_wait_for_is_complete() -> None:
    assert RollCall(target()).complete


def test_a_roll_call_kept_up_agent_by_agent_is_one_made_anew() -> None:
    rng = random.Random(5)
    kept, rows = RollCall(target()), dict[str, tuple[Agent, LastContact]]()
    phases: list[Phase] = ["installed", "confirmed", "reverted", "refused"]
    for _ in range(2000):
        name = f"edge-{rng.randrange(40)}"
        if rng.random() < 0.1:
            rows.pop(name, None)
            kept.drop(name)
            continue
        generation = rng.randrange(3, 8)
        one = agent(name, generation, rng.choice(phases), rng.randrange(generation + 1), rng.choice([GOOD, OTHER]))
        rows[name] = one, rng.choice([HEARD, SILENT])
        kept.put(*rows[name], NOW_MS, newest=6)
    anew = RollCall(target())
    for row in rows.values():
        anew.put(*row, NOW_MS, newest=6)
    for roll in (kept, anew):
        assert roll.agents == roll.confirmed + sum(map(roll.count, ASKED_FIRST)) == len(rows)
        assert roll.confirmed == sum(has_confirmed(one, target(), newest=6) for one, _ in rows.values())
    assert {*kept.missing(99)} == {*anew.missing(99)}
    assert [kept.count(each) for each in ASKED_FIRST] == [anew.count(each) for each in ASKED_FIRST]


def test_a_census_counts_each_agent_once_and_knows_since_when_one_is_behind() -> None:
    switched = {3: NOW_MS - 90_000, 4: NOW_MS - 60_000, 5: NOW_MS - 5_000}
    census = Census(NOW_MS, lambda pointer, generation: switched[generation])
    now = target()
    census.add(agent("a"), now, HEARD)
    census.add(agent("b", generation=4), now, HEARD)
    census.add(agent("c", generation=3), now, LastContact(time_ms=NOW_MS - 70_000))
    census.add(agent("d", phase="reverted", running=4), now, HEARD)
    census.add(agent("e", digest=OTHER), now, HEARD)
    census.add(agent("f", generation=4), now, SILENT)
    census.add(agent("g", phase="installed"), now, LastContact(time_ms=NOW_MS, twins_ms=NOW_MS - 1))
    census.add(agent("h", site="us-1"), now, HEARD)
    assert census.sites.keys() == {(NAME, "active", "eu-1"), (NAME, "active", "us-1")}
    site = census.sites[NAME, "active", "eu-1"]
    assert site.standings == dict(zip(STANDINGS, (1, 1, 1, 2, 1, 1), strict=True))
    assert (site.agents, site.twins) == (7, 1)
    assert site.oldest_behind_ms == 60_000  # c, since the switch to 4
    assert site.oldest_contact_ms == int(limits.AGENT_SILENT_S * 1000) + 1

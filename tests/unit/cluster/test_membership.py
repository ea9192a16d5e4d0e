"""The rules of changing who belongs to the cluster: tables, and a model of any sequence of changes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from cluster import membership
from cluster.configuration import NOBODY, Configuration, MemberRecord, decode, encode, founding, joined_id
from cluster.entries import pack_configuration, unpack_configuration
from cluster.limits import MEMBERS, PROMOTE_LAG, REMOVED_REMEMBERED, VOTERS
from cluster.membership import Add, Candidate, Change, Changed, Health, Promote, Remove, Transfer, decide
from tests.unit.cluster.replica_bench import configured, record

ABC = configured("abc")
WITH_D = configured("abc", "d")


def health(
    *alive: str, lags: dict[str, int] | None = None, waiting: tuple[str, ...] = (), level: int = 1, leader: str = "a"
) -> Health:
    candidates = {id: Candidate(record(id), level) for id in waiting}
    known = dict.fromkeys(alive, 0) if lags is None else lags
    return Health(leader=leader, alive={leader, *alive}, lags=known, candidates=candidates)


ALL = health("b", "c", "d")


def refused(decided: Configuration | Changed) -> str:
    assert isinstance(decided, Changed)
    assert decided.message or not decided.reason
    return decided.reason


def roles(decided: Configuration | Changed) -> dict[str, str]:
    assert isinstance(decided, Configuration), decided
    return {member.id: member.role for member in decided.members}


# ---- values
def test_a_configuration_comes_back_as_it_was() -> None:
    full = structs.replace(WITH_D, removed=("x", "y"), level=7)
    assert decode(encode(full)) == full
    assert unpack_configuration(pack_configuration(full)) == full
    assert decode(encode(NOBODY)) == NOBODY
    assert unpack_configuration(b"\x01") is None


def test_founders_agree_on_a_configuration_before_they_have_met() -> None:
    configuration = founding("ours", {"b": "b:1", "a": "a:1"}, level=3)
    assert configuration == founding("ours", {"a": "a:1", "b": "b:1"}, level=3)
    assert [member.id for member in configuration.members] == ["a", "b"]
    assert (configuration.voters, configuration.level) == (frozenset("ab"), 3)


@pytest.mark.parametrize("change", [Add("d"), Promote("d", force=True), Remove("d/1"), Transfer(), Transfer("b")])
def test_a_change_and_its_outcome_come_back_as_they_were(change: Change) -> None:
    assert membership.decode_change(membership.encode_change(change)) == change
    changed = Changed("QUORUM_AT_RISK", "why", "d/1")
    assert membership.decode_changed(membership.encode_changed(changed)) == changed


# ---- find
def test_a_member_is_found_by_id_before_name() -> None:
    old, new, other = record("c"), record("c/2"), record("d/3")
    assert membership.find([old, new, other], "c") == old
    assert membership.find([new, other], "c") == new
    assert membership.find([old, new, other], "d") == membership.find([other], "d/3") == other
    for member, reason in (("x", "UNKNOWN_MEMBER"), ("e", "AMBIGUOUS_MEMBER")):
        found = membership.find([old, record("e/1"), record("e/2")], member)
        assert isinstance(found, Changed)
        assert found.reason == reason


# ---- add
def test_who_waits_is_admitted_as_an_observer_whatever_it_wants() -> None:
    decided = decide(ABC, Add("d"), health("b", "c", waiting=("d/1",)))
    assert roles(decided) == {"a": "voter", "b": "voter", "c": "voter", "d/1": "observer"}


@pytest.mark.parametrize(
    ("configuration", "member", "waiting", "level", "reason"),
    [
        (ABC, "d", (), 1, "NOT_WAITING"),
        (ABC, "d", ("e/1",), 1, "NOT_WAITING"),
        (ABC, "d", ("d/1", "d/2"), 1, "AMBIGUOUS_MEMBER"),
        (configured("abc", level=2), "d", ("d/1",), 1, "RELEASE_TOO_OLD"),
        (ABC, "a", (), 1, ""),  # it is a member already
        (WITH_D, "d", ("d",), 1, ""),
        (ABC, "c", ("c/2",), 1, "added"),  # the old one lost its data
        (configured("abc", level=2), "d", ("d/1",), 2, "added"),
    ],
)
def test_admission(
    configuration: Configuration, member: str, waiting: tuple[str, ...], level: int, reason: str
) -> None:
    decided = decide(configuration, Add(member), health("b", "c", waiting=waiting, level=level))
    if reason == "added":
        assert waiting[0] in roles(decided)
    else:
        assert refused(decided) == reason


def test_there_is_a_most_of_members_and_of_voters() -> None:
    many = structs.replace(ABC, members=tuple(record(f"m{n}", "observer") for n in range(MEMBERS)))
    assert refused(decide(many, Add("d"), health(waiting=("d",)))) == "TOO_MANY_MEMBERS"
    ids = [f"m{n}" for n in range(VOTERS)]
    full = structs.replace(ABC, members=(*(record(id) for id in ids), record("d", "observer")))
    assert refused(decide(full, Promote("d"), health("d", *ids))) == "TOO_MANY_VOTERS"


# ---- promote
def test_an_observer_that_has_caught_up_becomes_a_voter() -> None:
    decided = decide(WITH_D, Promote("d"), health("b", "c", "d", lags={"d": PROMOTE_LAG}))
    assert roles(decided)["d"] == "voter"


@pytest.mark.parametrize(
    ("configuration", "change", "known", "reason"),
    [
        (WITH_D, Promote("x"), ALL, "UNKNOWN_MEMBER"),
        (WITH_D, Promote("b"), ALL, ""),
        (WITH_D, Promote("d"), health("b", "c", "d", lags={"d": PROMOTE_LAG + 1}), "NOT_CAUGHT_UP"),
        (WITH_D, Promote("d"), health("b", "c", lags={"d": 0}), "NOT_CAUGHT_UP"),  # dead since
        (WITH_D, Promote("d"), health("b", "c", "d", lags={}), "NOT_CAUGHT_UP"),  # it never said
        (WITH_D, Promote("d", force=True), health("b", "c", "d", lags={}), "NOT_CAUGHT_UP"),  # no force helps
        (WITH_D, Promote("d"), health("d"), "QUORUM_AT_RISK"),  # two of four
        (WITH_D, Promote("d", force=True), health("d"), "forced"),
        (WITH_D, Promote("d"), health("b", "d"), "promoted"),  # three of four
        (configured("abcd", "e"), Promote("e"), health("b", "e"), "promoted"),  # three of five
    ],
)
def test_promotion(configuration: Configuration, change: Promote, known: Health, reason: str) -> None:
    decided = decide(configuration, change, known)
    if reason in ("promoted", "forced"):
        assert roles(decided)[change.member] == "voter"
    else:
        assert refused(decided) == reason


def test_two_voters_never_share_a_name() -> None:
    twin = structs.replace(ABC, members=(*ABC.members, record("c/2", "observer")))
    assert refused(decide(twin, Promote("c/2"), health("b", "c", "c/2"))) == "NAME_TAKEN"
    without = decide(twin, Remove("c"), health("b", "c", "c/2"))
    assert isinstance(without, Configuration)
    assert roles(decide(without, Promote("c"), health("b", "c/2")))["c/2"] == "voter"


# ---- remove
@pytest.mark.parametrize(
    ("configuration", "change", "known", "reason"),
    [
        (ABC, Remove("x"), ALL, "UNKNOWN_MEMBER"),
        (configured("a", "d"), Remove("a"), ALL, "LAST_VOTER"),
        (configured("a", "d"), Remove("a", force=True), ALL, "LAST_VOTER"),  # no force helps
        (configured("abcde"), Remove("b"), health("b"), "QUORUM_AT_RISK"),  # one of four would be alive
        (configured("abcde"), Remove("b", force=True), health("b"), "removed"),
        (configured("abcd"), Remove("d"), health("b"), "removed"),  # the dead one of four: two of three stay
        (configured("abcd"), Remove("b"), health("b"), "QUORUM_AT_RISK"),  # a live one: one of three would be alive
        (configured("abcde"), Remove("e"), health("b", "c"), "removed"),  # three of four
        (configured("ab"), Remove("b"), health(), "removed"),
        (configured("abc", "d"), Remove("d"), health(), "removed"),  # an observer costs no quorum
    ],
)
def test_removal(configuration: Configuration, change: Remove, known: Health, reason: str) -> None:
    decided = decide(configuration, change, known)
    if reason == "removed":
        assert isinstance(decided, Configuration)
        assert decided.ids == configuration.ids - {change.member}
        assert decided.removed == (f"of {change.member}",)
    else:
        assert refused(decided) == reason


def test_what_is_removed_already_is_removed() -> None:
    with_joined = structs.replace(ABC, members=(*ABC.members, record("d/1", "observer")))
    once = decide(with_joined, Remove("d/1"), ALL)
    assert isinstance(once, Configuration)
    assert refused(decide(once, Remove("d/1"), ALL)) == ""
    assert once.is_removed("d/1", "1")
    assert not once.is_removed("d/2", "2")


def test_a_founder_that_was_never_heard_is_removed_by_its_name() -> None:
    met = founding("ours", {"a": "a:1", "b": "b:1", "c": "c:1"})
    without = decide(met, Remove("c"), health("b"))
    assert isinstance(without, Configuration)
    assert without.removed == ("c",)
    assert without.is_removed("c", "of c")
    assert not without.is_removed("c/2", "2")


def test_the_oldest_of_many_removed_are_forgotten() -> None:
    long = structs.replace(WITH_D, removed=tuple(str(n) for n in range(REMOVED_REMEMBERED)))
    decided = decide(long, Remove("d"), ALL)
    assert isinstance(decided, Configuration)
    assert (len(decided.removed), decided.removed[0], decided.removed[-1]) == (REMOVED_REMEMBERED, "1", "of d")


# ---- what members say of themselves, and what they can do
def test_a_founders_incarnation_and_moved_addresses_are_taken_over_one_at_a_time() -> None:
    met = founding("ours", {"a": "a:1", "b": "b:1"})
    heard = {id: structs.replace(record(id, "observer"), datacenter="eu", api_address="api") for id in "ab"}
    first = membership.describe(met, heard)
    assert first is not None
    assert [member.incarnation for member in first.members] == ["of a", ""]
    second = membership.describe(first, heard)
    assert second is not None
    assert second.members[1] == MemberRecord(
        id="b", name="b", incarnation="of b", peer_address="b:1", api_address="api", datacenter="eu", role="voter"
    )
    assert membership.describe(second, heard) is None
    moved = {"b": structs.replace(second.members[1], peer_address="b:2")}
    third = membership.describe(second, moved)
    assert third is not None
    assert third.members[1].peer_address == "b:2"


def test_another_incarnation_describes_nobody() -> None:
    assert (
        membership.describe(ABC, {"b": structs.replace(record("b"), incarnation="other", peer_address="b:2")}) is None
    )
    assert membership.describe(ABC, {"x": record("x")}) is None


def test_the_level_is_raised_by_one_once_every_member_can() -> None:
    assert membership.raise_level(WITH_D, {"a": 3, "b": 2, "c": 2, "d": 1}) is None  # observers count too
    assert membership.raise_level(WITH_D, {"a": 3, "b": 2, "c": 2}) is None  # never heard
    raised = membership.raise_level(WITH_D, {"a": 3, "b": 2, "c": 2, "d": 2, "waits": 1})
    assert raised is not None
    assert raised == structs.replace(WITH_D, level=2)


# ---- any sequence of changes
NAMES = "abcde"
_names = st.sampled_from(NAMES)
_steps = st.one_of(
    st.builds(Add, _names),
    st.builds(Promote, _names, st.booleans()),
    st.builds(Remove, _names, st.booleans()),
    st.just("describe"),
    st.just("level"),
)


@settings(max_examples=300)
@given(st.lists(st.tuples(_steps, st.sets(_names), st.integers(0, 2000)), max_size=40), st.sampled_from(["a", "abc"]))
def test_successive_voters_share_a_majority_and_ids_are_never_used_again(
    steps: list[tuple[Add | Promote | Remove | str, set[str], int]], founders: str
) -> None:
    now, used, joined = configured(founders), set(founders), 0
    for change, names, lag in steps:
        ids = {member.id for member in now.members}
        waiting = {}
        if isinstance(change, Add):  # a process with an empty directory
            joined += 1
            id = joined_id(change.member, str(joined))
            waiting = {id: Candidate(record(id), 1)}
        alive = {member.id for member in now.members if member.name in names}
        leader = min(now.voters)
        state = Health(leader=leader, alive=alive | {leader}, lags=dict.fromkeys(ids, lag), candidates=waiting)
        match change:
            case "describe":
                new: Configuration | Changed | None = membership.describe(
                    now, {id: structs.replace(record(id), peer_address=f"{id}:{lag}") for id in alive}
                )
            case "level":
                new = membership.raise_level(now, dict.fromkeys(ids, lag))
            case Add() | Promote() | Remove():
                new = decide(now, change, state)
        if not isinstance(new, Configuration):
            continue
        assert new != now
        assert new.voters
        assert len(new.voters) <= VOTERS
        assert len(new.voters ^ now.voters) <= 1  # so that any two majorities meet
        voting = [member.name for member in new.members if member.role == "voter"]
        assert len(voting) == len(set(voting))
        assert not (new.ids - now.ids) & used
        assert not [member.id for member in new.members if new.is_removed(member.id, member.incarnation)]
        used |= new.ids
        now = new

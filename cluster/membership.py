"""Changing who belongs to the cluster, one step at a time. Pure.

A leader decides a change from the newest configuration in its log and what it knows of the members' health, and appends
the result as one entry. It does so only after it has committed an entry of its own term and while no other change waits
to be committed: any two successive sets of voters then share a majority (Ongaro, Consensus, section 4.1; the term rule
is his correction of July 2015). A refusal is a value: nothing was changed, and it says why.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from msgspec import Struct, msgpack, structs

from cluster.configuration import Configuration, MemberRecord, joined_id
from cluster.limits import MEMBERS, PROMOTE_LAG, REMOVED_REMEMBERED, VOTERS


class Add(Struct, frozen=True, tag="add"):
    """Admit a process that waits, as an observer."""

    member: str  # a name or an id, here and below


class Promote(Struct, frozen=True, tag="promote"):
    """Make an observer that has caught up a voter."""

    member: str
    force: bool = False  # although fewer than a majority of the voters would be alive


class Remove(Struct, frozen=True, tag="remove"):
    member: str
    force: bool = False


class Transfer(Struct, frozen=True, tag="transfer"):
    """Pass leadership to a voter; empty: to the most advanced one."""

    member: str = ""


Change = Add | Promote | Remove | Transfer


class Changed(Struct, frozen=True, omit_defaults=True):
    """What became of it. `reason` empty: done, or it was so already."""

    reason: str = ""  # NOT_WAITING, UNKNOWN_MEMBER, NAME_TAKEN, NOT_CAUGHT_UP, LAST_VOTER, QUORUM_AT_RISK, ...
    message: str = ""
    member: str = ""  # the id that was meant


encode_change = msgpack.Encoder().encode
decode_change = msgpack.Decoder(Change).decode
encode_changed = msgpack.Encoder().encode
decode_changed = msgpack.Decoder(Changed).decode


@dataclass(frozen=True)
class Candidate:
    """A process that introduced itself."""

    record: MemberRecord  # its role is the one it wants
    level: int  # highest feature level it can apply


@dataclass(frozen=True)
class Health:
    """What the leader knows when it decides. Ids throughout."""

    leader: str
    alive: Collection[str]  # heard a moment ago, the leader too
    lags: Mapping[str, int]  # entries behind the commit index, of those heard
    candidates: Mapping[str, Candidate]


def decide(configuration: Configuration, change: Add | Promote | Remove, health: Health) -> Configuration | Changed:
    """The next configuration, or why there is none; Changed without a reason: it is so already."""
    match change:
        case Add():
            return _add(configuration, change, health)
        case Promote():
            return _promote(configuration, change, health)
        case Remove():
            return _remove(configuration, change, health)


def find(records: Collection[MemberRecord], member: str) -> MemberRecord | Changed:
    """By id, else by name; a refusal if that is nobody or more than one. `name/incarnation` means a founder too: its id
    alone is a name, under which a retry would find whoever has taken its place."""
    for record in records:
        if member in (record.id, joined_id(record.name, record.incarnation)):
            return record
    named = [record for record in records if record.name == member]
    if len(named) == 1:
        return named[0]
    if not named:
        return Changed("UNKNOWN_MEMBER", f"{member} is not a member of this cluster")
    ids = " and ".join(sorted(record.id for record in named))
    return Changed("AMBIGUOUS_MEMBER", f"more than one member is named {member}: say which of {ids}")


def describe(configuration: Configuration, heard: Mapping[str, MemberRecord]) -> Configuration | None:
    """Take over what members say of themselves: a founder's incarnation, an address that moved. None: nothing new."""
    for record in configuration.members:
        said = heard.get(record.id)
        if said is None or (record.incarnation and said.incarnation != record.incarnation):
            continue
        new = structs.replace(said, role=record.role, name=record.name)
        if new != record:
            return _replace(configuration, record.id, new)
    return None


def raise_level(configuration: Configuration, supported: Mapping[str, int]) -> Configuration | None:
    """One level up once every member can apply it."""
    if all(supported.get(id, 0) > configuration.level for id in configuration.ids):
        return structs.replace(configuration, level=configuration.level + 1)
    return None


def _add(configuration: Configuration, change: Add, health: Health) -> Configuration | Changed:
    waiting = [candidate.record for id, candidate in sorted(health.candidates.items()) if id not in configuration.ids]
    found = find(waiting, change.member)
    if isinstance(found, Changed):
        known = find(configuration.members, change.member)
        if isinstance(known, MemberRecord):
            return Changed(member=known.id)
        if found.reason == "UNKNOWN_MEMBER":
            text = f"no process named {change.member} waits to be admitted; start it with --join first"
            return Changed("NOT_WAITING", text)
        return found
    if len(configuration.members) >= MEMBERS:
        return Changed("TOO_MANY_MEMBERS", f"the cluster has {MEMBERS} members, the most there can be", found.id)
    if health.candidates[found.id].level < configuration.level:
        text = f"{found.name} is of a release that is too old: feature level {configuration.level} is in force here"
        return Changed("RELEASE_TOO_OLD", text, found.id)
    members = (*configuration.members, structs.replace(found, role="observer"))
    return structs.replace(configuration, members=members)


def _promote(configuration: Configuration, change: Promote, health: Health) -> Configuration | Changed:
    found = find(configuration.members, change.member)
    if isinstance(found, Changed):
        return found
    if found.role == "voter":
        return Changed(member=found.id)
    if any(other.name == found.name and other.role == "voter" for other in configuration.members):
        return Changed("NAME_TAKEN", f"another member named {found.name} votes; remove it first", found.id)
    if len(configuration.voters) >= VOTERS:
        return Changed("TOO_MANY_VOTERS", f"{VOTERS} members vote, the most there can be", found.id)
    lag = health.lags.get(found.id)
    if found.id not in health.alive or lag is None or lag > PROMOTE_LAG:
        behind = "is not heard" if lag is None or found.id not in health.alive else f"is {lag} entries behind"
        text = f"{found.name} {behind}; a voter that has not caught up could stop all writes"
        return Changed("NOT_CAUGHT_UP", text, found.id)
    new = _replace(configuration, found.id, structs.replace(found, role="voter"))
    return _at_risk(new, health, change.force, found) or new


def _remove(configuration: Configuration, change: Remove, health: Health) -> Configuration | Changed:
    found = find(configuration.members, change.member)
    if isinstance(found, Changed):
        if found.reason == "UNKNOWN_MEMBER" and change.member.partition("/")[2] in configuration.removed:
            return Changed(member=change.member)
        return found
    if found.role == "voter" and len(configuration.voters) == 1:
        text = f"{found.name} is the last voter; without it there is no cluster"
        return Changed("LAST_VOTER", text, found.id)
    members = tuple(record for record in configuration.members if record.id != found.id)
    removed = (*configuration.removed, found.incarnation or found.id)[-REMOVED_REMEMBERED:]
    new = structs.replace(configuration, members=members, removed=removed)
    return (found.role == "voter" and _at_risk(new, health, change.force, found)) or new


def _at_risk(new: Configuration, health: Health, force: bool, found: MemberRecord) -> Changed | None:
    alive, needed = len(new.voters & set(health.alive)), len(new.voters) // 2 + 1
    if force or alive >= needed:
        return None
    text = (
        f"then {len(new.voters)} members would vote, {needed} of them must agree, and {alive} of them would be alive: "
        "no write would be possible, nor any further change, until others return"
    )
    return Changed("QUORUM_AT_RISK", text, found.id)


def _replace(configuration: Configuration, id: str, new: MemberRecord) -> Configuration:
    members = tuple(new if record.id == id else record for record in configuration.members)
    return structs.replace(configuration, members=members)

"""Commands as members of an older release read them: the fields that came later are not there.

A member of a newer release may propose before all others are of it. What it adds must decide nothing and write nothing
until the log says that all can follow.
"""

from __future__ import annotations

from typing import Any

from msgspec import structs

from registry.core.commands import Acknowledge, Command, Publish, Switch

_PUBLISH: dict[str, Any] = {
    "parents": (),
    "parent_references": (),
    "requires": (),
    "asked_requires": (),
    "secrets": {},
    "summary": "",
    "change": "",
    "findings": (),
    "literals": (),
    "snapshot": "published",
    "needs": (),
}
_CONTENT: dict[str, Any] = {"base": "", "depth": 0, "chunks": (), "settled": False}


def as_read_below_level_2(command: Command) -> Command:
    match command:
        case Publish():
            return structs.replace(command, **_PUBLISH, content=structs.replace(command.content, **_CONTENT))
        case Switch():
            moves = tuple(structs.replace(move, verdict="", verdict_from=0) for move in command.moves)
            return structs.replace(command, moves=moves, not_before_ms=0, deadline_ms=0)
        case Acknowledge():
            contacts = tuple(structs.replace(contact, session="") for contact in command.contacts)
            return structs.replace(command, contacts=contacts)
        case _:
            return command

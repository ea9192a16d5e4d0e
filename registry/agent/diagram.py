"""The transition table as documentation: `python -m registry.agent.diagram docs/agent.md` brings it up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from registry.agent.transitions import TRANSITIONS, Event, State


def diagram() -> str:
    """TRANSITIONS as a mermaid state diagram. Restarts are left out: they would hide the rest."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.IDLE}"]
    for row in TRANSITIONS:
        if row.event is not Event.RESTARTED:
            label = f"{row.event} [{row.guard}]" if row.guard else str(row.event)
            lines.append(f"    {row.state} --> {row.next}: {label}")
    return "\n".join(lines)


def restart_table() -> str:
    """What an agent that was interrupted does next, as a markdown table."""
    lines = ["| stopped in | if | goes on with |", "| --- | --- | --- |"]
    rows = [row for row in TRANSITIONS if row.event is Event.RESTARTED]
    lines += [f"| {row.state} | {row.guard or 'otherwise'} | {row.next}: {row.act} |" for row in rows]
    return "\n".join(lines)


def refreshed(text: str) -> str:
    """A document with its marked blocks as the table is now. Raises ValueError if a block is missing."""
    for name, block in (("diagram", f"```mermaid\n{diagram()}\n```"), ("restarts", restart_table())):
        head, opened, rest = text.partition(f"<!-- {name} -->\n")
        _, closed, tail = rest.partition(f"<!-- end of {name} -->")
        if not opened or not closed:
            raise ValueError(f"no block between <!-- {name} --> and <!-- end of {name} -->")
        text = f"{head}{opened}{block}\n{closed}{tail}"
    return text


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(refreshed(document.read_text()))

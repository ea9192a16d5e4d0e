"""The tables of regctl: they fit 80 columns, and what does not fit is in `-o json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from registry.cli import quorum, views
from registry.client import (
    AgentRow,
    ClusterStatus,
    Impact,
    PolicyInForce,
    SiteSummary,
    WaitingMember,
    WorkflowSummary,
)
from registry.core.model import DEFAULT_POINTER, Change, Pointer, Removed, Version
from registry.formats import render

MINUTES = len("2026-01-31 12:00")
CUT_LINES = 4
TWINS = "two agents use this name"
_UNWANTED = ("nacked", "drifted", "silent", "twins")
CUT_CHARS = 240  # of one value in a comparison
Row = Sequence[str]


def table(columns: str, rows: Iterable[Row]) -> Table:
    """`columns`: names; > aligns right, what gives way to the others is marked: ~ is cut to fit, * wraps."""
    names = columns.split()
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in names:
        title = Text(name.lstrip(">~*").replace("_", " "), no_wrap=True)
        made.add_column(title, justify="right" if name[0] == ">" else "left", no_wrap=name[0] not in "~*")
    for row in rows:
        made.add_row(*(_cell(cell, wraps=name[0] == "*") for name, cell in zip(names, row, strict=True)))
    return made


def facts(rows: Iterable[tuple[str, str]]) -> Table:
    """Names and values, one a line; long values wrap."""
    made = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        if value:
            made.add_row(name, Text(views.printable(value)))
    return made


def version(value: Version) -> Table:
    return facts(
        [
            ("version", f"{value.workflow}@{value.number}"),
            ("status", value.status),
            ("kind", value.kind),
            ("size", f"{value.size_bytes} bytes"),
            ("content", _removed(value.removed)),
            ("held", value.hold),
            ("digest", value.digest),
            ("value digest", value.value_digest),
            ("semantic digest", value.semantic_digest),
            ("parents", ", ".join(map(str, value.parents))),
            ("author", value.author),
            ("published", f"{views.clock(value.created_ms)} UTC"),
            ("snapshot", _snapshot(value)),
            ("message", value.message),
            ("labels", pairs(value.labels)),
            ("facts", pairs(value.facts)),
            ("requires", ", ".join(value.requires)),
            ("needs", ", ".join(value.needs)),
            ("secrets", "\n".join(f"{name} {print_}" for name, print_ in sorted(value.secrets.items()))),
            ("changed", views.change_words(value.summary, value.change, "")),
            ("revision", str(value.revision)),
        ]
    )


def _snapshot(value: Version) -> str:
    return value.snapshot if value.snapshot != "published" else ""


def _removed(value: Removed | None) -> str:
    if value is None:
        return ""
    who = f" ({value.principal}: {value.reason})" if value.reason else f" ({value.principal})"
    return f"{views.removed_words(value)}{who}"


def pointer(value: Pointer) -> Table:
    return facts(
        [
            ("pointer", f"{value.workflow}@{value.pointer}"),
            ("version", str(value.version)),
            ("digest", value.digest),
            ("previous version", str(value.previous_version or "none")),
            ("generation", str(value.generation)),
            ("since", f"{views.clock(value.time_ms)} UTC"),
            ("by", value.principal),
            ("reason", value.reason),
            ("rollback", "yes" if value.rollback else ""),
            ("installed", views.window(value.not_before_ms, value.deadline_ms)),
            ("revision", str(value.revision)),
        ]
    )


def workflows(values: Iterable[WorkflowSummary]) -> Table:
    def active(value: WorkflowSummary) -> str:
        return next((str(each.version) for each in value.pointers if each.pointer == DEFAULT_POINTER), "-")

    def others(value: WorkflowSummary) -> str:
        return " ".join(f"{p.pointer}={p.version}" for p in value.pointers if p.pointer != DEFAULT_POINTER)

    return table(
        "~workflow kind >newest >active ~other_pointers published",
        (
            (
                value.name,
                value.kind,
                str(value.versions),
                active(value),
                others(value),
                views.clock(value.newest.created_ms if value.newest else 0)[:MINUTES],
            )
            for value in values
        ),
    )


def versions(values: Iterable[Version], *, with_names: bool = False, wide: bool = False) -> Table:
    """`with_names`: they are of several workflows. `wide`: there is room for digest and size too."""

    def row(value: Version) -> Row:
        return (
            *([value.workflow] if with_names else []),
            str(value.number),
            value.status,
            value.change,
            *([views.short(value.digest), views.size(value.size_bytes)] if wide else []),
            views.clock(value.created_ms)[:MINUTES],
            value.message,
            "; ".join(filter(None, (views.removed_words(value.removed), _snapshot(value), value.summary))),
        )

    names = f"{'~workflow ' if with_names else ''}>version status change {'digest >size ' if wide else ''}"
    return table(f"{names}published ~message ~summary", map(row, values))


def policy(value: PolicyInForce) -> Table:
    def said_by(field: str) -> str:
        scopes = [scope for scope, row in value.scopes.items() if getattr(row, field)]
        return scopes[-1] if scopes else "default"

    fields = views.policy(value.effective)
    return table("field ~value said_by", ((field, text or "-", said_by(field)) for field, text in fields.items()))


def impact(workflow: str, value: Impact) -> Group:
    rows = table(
        "~workflow >version ~pointers ~requires >distance ~through",
        (
            (
                each.workflow,
                str(each.version),
                " ".join(each.pointers) or "-",
                each.via,
                str(each.distance),
                each.through or "-",
            )
            for each in value.dependents
        ),
    )
    head = Text(f"depend on {workflow}: {views.impact_words(value)}{'; there are more' if value.more else ''}")
    return Group(head, rows) if value.dependents else Group(head)


def history(values: Iterable[Change], workflow: str) -> Table:
    return table(
        ">revision time action *what *by *reason",
        (
            (
                str(value.revision),
                views.clock(value.time_ms),
                views.action(value),
                views.what(value, workflow),
                value.principal,
                value.reason,
            )
            for value in values
        ),
    )


def agents(values: Iterable[AgentRow]) -> Table:
    return table(
        "~agent ~site ~follows >version >generation state >age ~detail",
        (
            (
                value.agent,
                value.site,
                f"{value.workflow}:{value.pointer}",
                str(value.version or "-"),
                str(value.generation or "-"),
                value.state,
                views.age(value.age_ms),
                " ".join(part for part in (TWINS if value.twins else "", value.code, value.detail) if part),
            )
            for value in values
        ),
    )


def sites(values: Iterable[SiteSummary]) -> Table:
    def others(value: SiteSummary) -> str:
        late = f" ({views.age(value.oldest_behind_ms)})"
        counts = (("behind", value.behind, late), *((name, getattr(value, name), "") for name in _UNWANTED))
        return ", ".join(f"{count} {name}{more}" for name, count, more in counts if count)

    return table(
        "~follows ~site >version >agents >on_target *others",
        (
            (
                f"{value.workflow}:{value.pointer}",
                value.site or "-",
                str(value.version),
                str(value.agents),
                str(value.on_target),
                others(value),
            )
            for value in values
        ),
    )


def status(value: ClusterStatus) -> Group:
    """The members, who waits and with which command it gets in, and what should worry the operator."""
    head = f"cluster {value.info.cluster_id or 'not founded yet'}, term {value.term}, revision {value.info.revision}"
    lines = [f"waiting: {_process(process)}" for process in value.waiting]
    lines += [f"{value.info.served_by} fetches: {value.fetching}"] if value.fetching else []
    lines += [f"warning: {warning}" for warning in quorum.warnings(value)]
    parts: list[Text | Table] = [Text(views.printable(head)), members(value)]
    return Group(*parts, *(Text(views.printable(line)) for line in lines))


def _process(process: WaitingMember) -> str:
    where = ", ".join(part for part in (process.role, process.peer_address, process.datacenter) if part)
    return f"{process.name} ({where}); admit it: {process.command}"


def members(value: ClusterStatus) -> Table:
    return table(
        "name role ~address ~datacenter alive >applied >lag space",
        (
            (
                quorum.label(member, value),
                member.role,
                member.address,
                member.datacenter or "-",
                "yes" if member.alive else "no",
                str(member.applied_index or "-"),
                str(member.lag),
                "full" if member.no_space else "ok",
            )
            for member in value.members
        ),
    )


def comparison(value: Mapping[str, Any], old: str, new: str) -> Group:
    """What was before and after, side by side; long texts are cut."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("", "what"):
        made.add_column(name, no_wrap=True)
    for name in ("where", "before", "after"):
        made.add_column(name, overflow="fold")
    for row in render.rows(value):
        made.add_row(*(Text(_cut(cell)) for cell in row))
    head = Text(views.printable(f"{old} -> {new}: {value['summary']}"))
    return Group(head, made) if made.row_count else Group(head)


def _cut(text: str) -> str:
    lines = text.split("\n")
    kept = "\n".join(lines[:CUT_LINES])[:CUT_CHARS]
    return kept if kept == text else f"{kept} …"


def pairs(values: dict[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(values.items()))


def _cell(text: str, *, wraps: bool) -> Text:
    line = views.printable(text.partition("\n")[0])
    return Text(line) if wraps else Text(line, no_wrap=True, overflow="ellipsis")

"""regctl compare: two versions by the registry, or two files without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec

from registry import formats
from registry.cli import tables, views
from registry.cli.session import Session, connected
from registry.cli.versions import split
from registry.core import names
from registry.core.errors import Invalid
from registry.core.limits import CONTENT_BYTES_CEILING
from registry.core.model import Version
from registry.formats.changelog import entry
from registry.formats.unified import unified

ISO_DATE_CHARS = len("2026-01-31")


class Compared(NamedTuple):
    """`comparison` is decoded JSON. `newer` is None for files."""

    comparison: dict[str, Any]
    old: str
    new: str
    newer: Version | None


@click.command()
@click.argument("old", metavar="REF|FILE")
@click.argument("new", metavar="REF|FILE")
@click.option("--unified", "as_unified", is_flag=True, help="Unified text, for a review or a mail.")
@click.option("--patch", "as_patch", is_flag=True, help="A JSON Patch (RFC 6902) from one value to the other.")
@click.option("--changelog", "as_changelog", is_flag=True, help="A changelog entry, in Markdown.")
@click.option("--svg", metavar="FILE", help="Also draw the graph, with what changed in colours, into FILE.")
@connected
async def compare(
    session: Session, old: str, new: str, as_unified: bool, as_patch: bool, as_changelog: bool, svg: str | None
) -> None:
    """What changed from one version to another, by structure.

    Two files that exist are compared here, without a registry; anything else is a reference. -o json gives the
    whole comparison. Secrets are hidden, but for --patch: it holds values as they are.

    \b
      regctl compare support/triage@active support/triage@3
      regctl compare support/triage@active support/triage@3 --unified
      regctl compare support/triage@1 support/triage@2 --changelog >> CHANGELOG.md
      regctl compare before.yml after.yml --svg changes.svg
      regctl compare before.yml after.yml --patch
    """
    if as_unified + as_patch + as_changelog > 1:
        raise click.UsageError("--unified, --patch and --changelog are three outputs; ask for one")
    if session.quiet and (as_unified or as_changelog):
        raise click.UsageError("--unified and --changelog are text; leave -o json away")
    files = _are_files(old, new)
    if as_patch or svg is not None:
        (before, kind_old), (after, kind_new) = [await _content(session, each, files) for each in (old, new)]
        if svg is not None:
            _write(svg, formats.draw(before, after, kind_old=kind_old, kind_new=kind_new))
            session.say(f"drawn into {svg}")
        if as_patch:
            click.echo(_plain_json(formats.patch(before, after, kind_old=kind_old, kind_new=kind_new)))
            return
    compared = _compare_files(old, new) if files else await _compare_references(session, old, new)
    if as_unified:
        click.echo(unified(compared.comparison, old=compared.old, new=compared.new), nl=False)
    elif as_changelog:
        click.echo(_changelog(compared), nl=False)
    else:
        comparison, *names, _ = compared
        session.show({"from": names[0], "to": names[1], **comparison}, lambda: tables.comparison(comparison, *names))


def _are_files(old: str, new: str) -> bool:
    """Raises click.UsageError for one of each, and for what is neither."""
    missing = [each for each in (old, new) if not Path(each).is_file()]
    for each in missing:
        if not _names_workflow(each):
            raise click.UsageError(f"{each}: no such file, and not a reference (namespace/name@3)")
    if len(missing) == 1:
        raise click.UsageError(f"{missing[0]}: no such file; compare two files or two references, not one of each")
    return not missing


def _names_workflow(reference: str) -> bool:
    try:
        names.check_workflow(reference.partition("@")[0])
    except Invalid:
        return False
    return True


def _read(file: str) -> bytes:
    """At most one byte more than what is ever compared: that is refused."""
    try:
        with Path(file).open("rb") as opened:
            return opened.read(CONTENT_BYTES_CEILING + 1)
    except OSError as error:
        raise click.UsageError(f"cannot read {file}: {error.strerror}") from None


def _compare_files(old: str, new: str) -> Compared:
    compared = formats.compare(_read(old), _read(new))
    return Compared(msgspec.json.decode(msgspec.json.encode(compared)), old, new, None)


async def _compare_references(session: Session, old: str, new: str) -> Compared:
    (old_workflow, old_target), (new_workflow, new_target) = split(old), split(new)
    answer = await session.doing(session.client.compare(old_workflow, old_target, new_workflow, new_target))
    names = (f"{old_workflow}@{answer.from_version.number}", f"{new_workflow}@{answer.to_version.number}")
    return Compared(answer.comparison, *names, answer.to_version)


async def _content(session: Session, name: str, files: bool) -> tuple[bytes, str]:
    """Bytes, and the kind they were published as; empty for a file."""
    if files:
        return _read(name), ""
    version = await session.doing(session.client.version(*split(name)))
    return await session.doing(session.client.content(version.workflow, version.number)), version.kind


def _changelog(compared: Compared) -> str:
    newer = compared.newer
    if newer is None:
        return entry(compared.comparison, version="Unreleased", date="", author="", message="")
    return entry(
        compared.comparison,
        version=newer.labels.get("semver", f"{newer.workflow}@{newer.number}"),
        date=views.time(newer.created_ms)[:ISO_DATE_CHARS],
        author=newer.author,
        message=newer.message,
    )


def _write(file: str, text: str) -> None:
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"cannot write {file}: {error.strerror}") from None


def _plain_json(value: Any) -> str:
    """Exact, and safe to show: what could drive a terminal is escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)

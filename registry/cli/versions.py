"""Commands about versions: publish, workflows, versions, show, cat, mark."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import click

from registry.cli import tables, views
from registry.cli.errors import FileProblemError
from registry.cli.preview import impact_of
from registry.cli.session import Session, connected, console, stale_option
from registry.cli.times import moment
from registry.cli.transfers import moving
from registry.core import references
from registry.core.model import STATUSES, Status
from registry.formats import KINDS

WIDE_COLUMNS = 120

request_id_option = click.option(
    "--request-id", metavar="ID", help="Repeat a command whose outcome is unknown: it takes effect at most once."
)


def split(reference: str) -> tuple[str, str]:
    """`ns/name@active~1` into workflow and the part after the @, checked. Raises Invalid."""
    references.parse(reference)
    workflow, _, target = reference.partition("@")
    return workflow, target


def split_version(reference: str) -> tuple[str, str]:
    """The same for commands that need a version to be named. Raises click.UsageError."""
    workflow, target = split(reference)
    if not target:
        raise click.UsageError(f"{reference} names no version; write {workflow}@3, for one")
    return workflow, target


def target_of(reference: str, workflow: str) -> str:
    """`2`, `@2` and `ns/name@2` mean the same where the workflow is known. Raises click.UsageError."""
    if "/" not in reference:
        reference = f"{workflow}@{reference.removeprefix('@')}"
    of, target = split_version(reference)
    if of != workflow:
        raise click.UsageError(f"{reference} is not a version of {workflow}")
    return target


def labels_of(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{value!r} is not KEY=VALUE", context, parameter)
        labels[key] = text
    return labels


def readable(file: str) -> Path | BinaryIO:
    return sys.stdin.buffer if file == "-" else Path(file)


@click.command()
@click.argument("workflow", metavar="NS/NAME")
@click.argument("file", metavar="FILE|-")
@click.option("-m", "--message", default="", help="What changed and why.")
@click.option("-l", "--label", "labels", multiple=True, metavar="K=V", callback=labels_of, help="May be repeated.")
@click.option("--kind", default="", help=f"One of {', '.join(KINDS)}.  [default: detected]")
@click.option(
    "--parent",
    "parents",
    multiple=True,
    metavar="REF",
    help="What it was made from, as 3 or @active; may be repeated.  [default: the newest version]",
)
@click.option(
    "--requires", multiple=True, metavar="NS/NAME", help="A workflow it calls, beside those it names; may be repeated."
)
@click.option(
    "--needs",
    multiple=True,
    metavar="NEED",
    help="What a machine must have to install it: NAME, or NAME>=VERSION (== != <= > <); may be repeated.",
)
@click.option(
    "--snapshot",
    type=click.Choice(["manual", "terminal"]),
    help="Why it is made, if not to be used: retention counts the classes apart. terminal: a run ended or failed.",
)
@request_id_option
@connected
async def publish(
    session: Session,
    workflow: str,
    file: str,
    message: str,
    labels: dict[str, str],
    kind: str,
    parents: tuple[str, ...],
    requires: tuple[str, ...],
    needs: tuple[str, ...],
    snapshot: str | None,
    request_id: str | None,
) -> None:
    """Store the exact bytes of FILE as the next version, but for values that its format declares secret.

    Says what is wrong with it, and what it changes against its parent. Publishing the newest bytes again creates
    nothing.

    Agents whose facts do not meet the --needs refuse the version and say so. Needs belong to the version that is made:
    publishing the newest bytes again with other needs changes nothing, and says that.

    A file larger than what the members read (registryd --content-limit) is kept as it is, as text or binary: sent in
    chunks, of which a repeated command sends only what is missing. It is not checked or compared, and nothing is taken
    out of it.

    \b
      regctl publish support/triage triage.yml -m "shorter prompt"
      regctl publish support/triage triage.yml -l semver=v1.4.0
      regctl publish support/triage hotfix.yml --parent @active --requires support/search
      regctl publish support/triage triage.yml --needs 'dify>=1.9' --needs plugin:langgenius/openai
      cat triage.yml | regctl publish support/triage -
      regctl publish support/triage triage.yml --snapshot terminal -m "run 4711 failed"
    """
    try:
        published = await moving(
            session,
            "sent",
            lambda progress: session.client.publish(
                workflow,
                readable(file),
                kind=kind,
                message=message,
                labels=labels,
                parents=[target_of(each, workflow) for each in parents],
                requires=requires,
                needs=needs,
                snapshot=snapshot or "",
                progress=progress,
                request_id=request_id,
            ),
        )
    except OSError as error:
        raise click.UsageError(f"cannot read {file}: {error.strerror}") from None
    verb = "published" if published.created else "nothing new: the newest version has these bytes:"
    detail = f"{published.kind}, {published.size_bytes} bytes, {views.short(published.digest)}"
    session.show(views.published(published), lambda: f"{verb} {workflow}@{published.number} ({detail})")
    if not session.quiet:
        for line in views.publish_lines(published):
            session.say(line)
        if published.created and (impact := await impact_of(session.client, workflow)) != views.NO_IMPACT:
            session.say(f"workflows that depend on it: {impact}")


@click.command()
@click.argument("prefix", required=False, default="", metavar="[PREFIX]")
@stale_option
@connected
async def workflows(session: Session, prefix: str, stale: bool) -> None:
    """List workflows, by name.

    \b
      regctl workflows
      regctl workflows support/
    """
    found = await session.all(session.client.workflows(prefix, stale=stale))
    session.tell_age()
    session.show([views.workflow(each) for each in found], lambda: tables.workflows(found))


@click.command()
@click.argument("workflow", required=False, default="", metavar="[NS/NAME]")
@click.option("-l", "--label", "labels", multiple=True, metavar="K[=V]", help="With this label; may be repeated.")
@click.option("--author", default="", help="Published by this principal.")
@click.option("--since", "since_ms", default="", callback=moment, metavar="TIME", help="2026-11-01, or 2d: ago.")
@click.option("--until", "until_ms", default="", callback=moment, metavar="TIME", help="Before this time.")
@click.option("--text", default="", help="In message, summary, labels, facts or name, whatever the case.")
@click.option("--status", type=click.Choice(STATUSES), metavar="STATUS", help=", ".join(STATUSES))
@stale_option
@connected
async def versions(
    session: Session,
    workflow: str,
    labels: tuple[str, ...],
    author: str,
    since_ms: int,
    until_ms: int,
    text: str,
    status: str | None,
    stale: bool,
) -> None:
    """List the versions of a workflow, newest first, or look for versions in all of them.

    \b
      regctl versions support/triage
      regctl versions support/triage --status stable --since 30d
      regctl versions --text gpt-4o-mini --author alice
      regctl versions -l team=support -l approved
    """
    found = await session.all(
        session.client.versions(
            workflow,
            labels=labels,
            author=author,
            since_ms=since_ms,
            until_ms=until_ms,
            text=text,
            status=status or "",
            stale=stale,
        )
    )
    session.tell_age()
    session.show(
        [views.version(each) for each in found],
        lambda: tables.versions(found, with_names=not workflow, wide=console().width >= WIDE_COLUMNS),
    )


@click.command()
@click.argument("reference", metavar="REF")
@stale_option
@connected
async def show(session: Session, reference: str, stale: bool) -> None:
    """Everything known about one version.

    \b
      regctl show support/triage              the newest
      regctl show support/triage@3            number 3
      regctl show support/triage@active       what the pointer names
      regctl show support/triage@active~1     what it named before
      regctl show support/triage@sha256:ab12cd
      regctl show support/triage@v1.4.0       by label semver
    """
    version = await session.doing(session.client.version(*split(reference), stale=stale))
    session.tell_age()
    session.show(views.version(version), lambda: tables.version(version))


@click.command()
@click.argument("reference", metavar="REF")
@click.option(
    "-f", "--file", type=click.Path(path_type=Path, dir_okay=False), help="Write into this file.  [default: stdout]"
)
@stale_option
@connected
async def cat(session: Session, reference: str, file: Path | None, stale: bool) -> None:
    """Write the exact bytes of a version to stdout, or into a file.

    FILE is replaced once it is whole and compared with the digest. Until then it is FILE.partial, and a command that
    broke off goes on from there when it is repeated.

    \b
      regctl cat support/triage@active > triage.yml
      regctl cat media/voices@3 --file voices.bin
    """
    workflow, target = split(reference)
    out: Path | BinaryIO = file or sys.stdout.buffer
    try:
        version = await moving(
            session,
            "read",
            lambda progress: session.client.download(workflow, target, out, progress=progress, stale=stale),
        )
    except OSError as error:
        if file is None:
            raise
        raise FileProblemError(
            f"cannot write {file}: {error.strerror}; repeat it: what is in {file}.partial stays"
        ) from None
    session.tell_age()
    if file is None:
        sys.stdout.buffer.flush()
        return
    written = {"file": str(file), "workflow": workflow, "version": version.number, "digest": version.digest}
    told = f"{file}: {workflow}@{version.number} ({version.size_bytes} bytes, {views.short(version.digest)})"
    session.show(written | {"size_bytes": version.size_bytes}, lambda: told)


@click.command()
@click.argument("reference", metavar="REF")
@click.argument("status", type=click.Choice(STATUSES))
@click.option("--reason", required=True, help="Kept in the history.")
@request_id_option
@connected
async def mark(session: Session, reference: str, status: Status, reason: str, request_id: str | None) -> None:
    """Set the status of a version.

    \b
    candidate  published, not yet proven
    stable     proven: what rollback goes back to
    failed     rolled away from; a switch to it needs --force
    fenced     must not run; neither its bytes nor what means the same can be published again
    archived   kept, not in use

    From failed, fenced and archived the way back leads through candidate (failed can also be fenced or archived,
    archived also fenced).

    \b
      regctl mark support/triage@3 stable --reason "a week without errors"
      regctl mark support/triage@4 fenced --reason "leaks addresses"
      regctl mark support/triage@4 candidate --reason "the leak was elsewhere"
    """
    workflow, target = split_version(reference)
    marked = await session.doing(session.client.mark(workflow, target, status, reason=reason, request_id=request_id))
    payload = views.version(marked.version) | {
        "previous_status": marked.previous_status,
        "revision": marked.revision,
        "reason": reason,
    }
    session.show(payload, lambda: f"{workflow}@{marked.version.number}: {marked.previous_status} -> {status}")

"""Commands about files of this machine that are published when they have changed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import RenderableType

from registry.cli import errors, tables, views
from registry.cli.errors import FileProblemError
from registry.cli.session import Session, connected
from registry.cli.versions import labels_of
from registry.client import new_request_id
from registry.source import config
from registry.source.config import GLOB, Source
from registry.source.files import Occupied
from registry.source.home import Home, Note
from registry.source.run import run, run_once
from registry.source.watcher import Event, Watcher

_file_option = click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="REGCTL_SOURCES",
    metavar="FILE",
    help="Holds the sources; a note of what was published is kept beside it.  "
    "[env: REGCTL_SOURCES; default: ~/.config/workflow-registry/sources.toml]",
)


@click.group()
def source() -> None:
    """Files of this machine that are published when they have changed.

    A source is a file, or a directory of which every matching file is one workflow. `regctl source run` looks at them,
    every 10 minutes unless the source says otherwise, and publishes what is new as a snapshot of class periodic.

    \b
      regctl source add support/triage /srv/dify/triage.yml
      regctl source add automation /srv/n8n/exports --glob '*.json' --every 1h
      regctl source run
    """


@source.command("add")
@click.argument("target", metavar="NS/NAME|NS")
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE|DIR")
@click.option("--glob", default="", help=f"Of a directory: which files, comma separated.  [default: {GLOB}]")
@click.option("--every", default="10m", show_default=True, metavar="TIME", help="Between two looks: 30s, 10m, 2h, 1d.")
@click.option("-l", "--label", "labels", multiple=True, metavar="K=V", callback=labels_of, help="May be repeated.")
@_file_option
@connected
async def add_source(
    session: Session, target: str, path: Path, glob: str, every: str, labels: dict[str, str], file: Path | None
) -> None:
    """Watch FILE as the workflow NS/NAME, or every matching file of DIR as NS and the name of the file.

    \b
      regctl source add support/triage /srv/dify/triage.yml -l team=support
      regctl source add automation /srv/n8n/exports --glob '*.json'
    """
    path = path.absolute()
    is_file = "/" in target
    if is_file and path.is_dir():
        namespace = target.partition("/")[0]
        raise click.UsageError(f"{path} is a directory: name a namespace for its files, {namespace} for one")
    if not is_file and not path.is_dir():
        raise click.UsageError(f"{path} is no directory; for a file name a workflow, {target}/{path.stem} for one")
    made = Source(
        path=str(path),
        workflow=target if is_file else "",
        namespace="" if is_file else target,
        glob=glob if is_file else glob or GLOB,
        every_s=config.parse_every(every),
        labels=labels,
    )
    home = Home(_path(file))
    with _files_of(home, "another regctl source add or remove"):
        home.edit(lambda text: config.with_source(text, made))
    if is_file and not path.exists():
        session.say(f"{path} is not there yet")
    if labels:
        session.say("retention keeps every version that has a label: these snapshots stay until it is removed")
    session.show(_payload(made, {}), lambda: f"{target}: {path}, every {config.every_text(made.every_s)}")


@source.command("remove")
@click.argument("target", metavar="NS/NAME|NS")
@_file_option
@connected
async def remove_source(session: Session, target: str, file: Path | None) -> None:
    """Watch it no longer. Its versions stay.

    \b
      regctl source remove support/triage
    """
    home = Home(_path(file))
    with _files_of(home, "another regctl source add or remove"):
        home.edit(lambda text: config.without(text, target))
    session.show({"removed": target}, lambda: f"{target} is watched no longer")


@source.command("list")
@_file_option
@connected
async def list_sources(session: Session, file: Path | None) -> None:
    """What is watched, and what was published of it.

    \b
      regctl source list
    """
    home = Home(_path(file))
    with _files_of(home):
        sources = home.sources() if home.file.exists() else ()
        notes = home.notes()
    session.show([_payload(each, notes) for each in sources], lambda: _table(sources, notes))


@source.command("run")
@click.option("--once", is_flag=True, help="Look at every source once, publish what is new, and end: for cron.")
@_file_option
@connected
async def run_sources(session: Session, once: bool, file: Path | None) -> None:
    """Publish what changes, in the foreground, for a service manager; one line for each snapshot.

    A file is published once two looks at it, a second apart, found the same. What the registry refuses is said once,
    and tried again when the file has changed; what it cannot take now is tried until it can. SIGTERM and Ctrl-C end
    it. Sources may be added and removed meanwhile.

    \b
      regctl source run
      regctl source run --once
    """
    home = Home(_path(file))

    def tell(event: Event) -> None:
        if session.json:
            click.echo(msgspec.json.encode(event))
        else:
            click.echo(views.printable(event.text), err=event.event not in ("published", "unchanged"))

    with ExitStack() as stack:
        stack.enter_context(_files_of(home, "another regctl source run"))
        home.file.parent.mkdir(parents=True, exist_ok=True)
        stack.enter_context(home.running())
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        watcher = Watcher(
            home,
            session.client.publish,
            host=socket.gethostname(),
            clock=time.monotonic,
            new_request_id=new_request_id,
            tell=tell,
            stop=stop,
        )
        await (run_once(watcher, home) if once else run(watcher, home, tell))
    if once and watcher.failure is not None:
        raise click.exceptions.Exit(errors.exit_code(watcher.failure))


def _path(given: Path | None) -> Path:
    if given is not None:
        return given.absolute()
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "workflow-registry" / "sources.toml"


@contextmanager
def _files_of(home: Home, other: str = "") -> Iterator[None]:
    """What goes wrong with its files, in words. `other`: who may hold them."""
    try:
        yield
    except Occupied:
        raise FileProblemError(f"{other} works with {home.file}; wait for it, or end it") from None
    except BrokenPipeError:  # nobody reads the lines
        raise
    except OSError as error:
        what = error.filename or home.file
        raise FileProblemError(f"{what}: {error.strerror}; what was published is in the registry") from None


def _payload(each: Source, notes: Mapping[str, Note]) -> dict[str, Any]:
    return {
        "source": each.target,
        "path": each.path,
        "glob": each.glob,
        "every_s": each.every_s,
        "labels": each.labels,
        "files": [
            {
                "workflow": workflow,
                "path": note.path,
                "version": note.version,
                "digest": note.digest,
                "refused": note.refused,
                "asked": bool(note.asked),
            }
            for workflow, note in _own(each, notes)
        ],
    }


def _own(each: Source, notes: Mapping[str, Note]) -> list[tuple[str, Note]]:
    return sorted((workflow, note) for workflow, note in notes.items() if each.covers(workflow))


def _table(sources: Sequence[Source], notes: Mapping[str, Note]) -> RenderableType:
    def done(each: Source) -> str:
        own = [note for _, note in _own(each, notes)]
        refused = [note.refused for note in own if note.refused]
        if each.workflow:
            words = [f"version {note.version}" if note.version else "" for note in own]
            return "; ".join(filter(None, (*words, *(f"refused: {why}" for why in refused)))) or "nothing yet"
        return f"{len(own)} file{'s'[: len(own) != 1]}" + (f", {len(refused)} refused" if refused else "")

    return tables.table(
        "~source ~path every ~published",
        ((each.target, each.path, config.every_text(each.every_s), done(each)) for each in sources),
    )

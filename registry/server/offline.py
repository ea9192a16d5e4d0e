"""registryd's sub-commands: what is done to data directories and backup files while no member runs on them."""

from __future__ import annotations

import getpass
import os
import sys
import textwrap
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec

from cluster.snapshot import SnapshotError
from registry.core.limits import PRINCIPAL_CHARS
from registry.server import backup, config, disaster
from registry.server.backup import About
from registry.server.config import ConfigError
from registry.server.disaster import DisasterError, Doing, Survivor
from registry.server.identity import IdentityError

EXIT_USAGE, EXIT_UNUSABLE = 2, 6
WIDTH = 100  # of a text that somebody reads before saying yes
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
_json = click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
_data_dir = click.option("--data-dir", required=True, metavar="DIR", type=click.Path(path_type=Path))
_reason = "Why; it is kept in the history."
_epoch = click.option(
    "--epoch",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Begin this epoch at least: one above any that agents have seen, if this backup was restored before or a "
    "member recovered since. `registry-agent status` tells what an agent has seen.",
)


@click.command(context_settings=_CONTEXT)
@click.argument("file", type=click.Path(path_type=Path))
@_json
def verify(file: Path, output: str) -> None:
    """Check a backup file from its first byte to its last, and show what is in it. Writes nothing.

    \b
      registryd verify registry-2026-01-31.backup
    """
    try:
        verified = backup.verify(file)
    except SnapshotError as error:
        _leave(EXIT_UNUSABLE, f"{file} is of no use: {error}; take another backup")
    except OSError as error:
        _leave(EXIT_USAGE, f"cannot read {file}: {error.strerror}")
    about = verified.about
    shown = _shown(about) | {"size_bytes": verified.size_bytes, "sha256": verified.sha256, "rows": verified.rows}
    lines = [
        f"{file} is whole: {verified.size_bytes} bytes, {sum(verified.rows.values())} rows, sha256 {verified.sha256}",
        *_lines(about),
    ]
    _show({"file": str(file)} | shown, lines, output)


@click.command(context_settings=_CONTEXT)
@click.argument("file", type=click.Path(path_type=Path))
@_data_dir
@click.option("--name", required=True, help="Of the member that the directory becomes.")
@click.option("--peer-listen", default="127.0.0.1:7401", show_default=True, metavar="HOST:PORT")
@click.option("--peer-advertise", default="", metavar="HOST:PORT", help="As registryd will be started with.")
@click.option("--reason", default="", help=_reason)
@_epoch
@_json
def restore(
    file: Path, data_dir: Path, name: str, peer_listen: str, peer_advertise: str, reason: str, epoch: int, output: str
) -> None:
    """Make an empty directory that of the only member of the cluster in a backup FILE.

    The cluster keeps its id and begins a new epoch: agents notice, compare what they run with what the backup says,
    and install that. What was switched or published after the backup is gone. Members of before are refused; wipe
    them and let them join:

    \b
      registryd restore FILE --data-dir DIR --name n1
      registryd --name n1 --data-dir DIR ...
      registryd --name n2 --data-dir EMPTY-DIR --join HOST:PORT ...
      regctl cluster add n2
    """
    try:
        address = config.peer_address(name, peer_listen, peer_advertise)
        doing = _doing(reason or f"from the backup {file.name}", epoch)
        about = disaster.restore(file, data_dir, name=name, peer_address=address, doing=doing)
    except (ConfigError, DisasterError, IdentityError) as error:
        _leave(EXIT_USAGE, str(error))
    begun = doing.epoch_after(about.epoch)
    lines = [
        *_lines(about),
        f"{data_dir} holds it: {name} is the only member, and begins epoch {begun} when it starts",
        f"next: registryd --name {name} --data-dir {data_dir} ... (without --cluster and --join)",
        f"then, for each further member: registryd --name NAME --data-dir EMPTY-DIR --join {address}, and "
        "regctl cluster add NAME",
    ]
    _show({"data_dir": str(data_dir), "name": name} | _shown(about) | {"epoch": begun}, lines, output)


@click.command(context_settings=_CONTEXT)
@_data_dir
@click.option("--reason", required=True, help=_reason)
@click.option("--yes", is_flag=True, help="Do not ask; goes with --accept-data-loss.")
@click.option("--accept-data-loss", is_flag=True, help="What this member does not have is lost. Goes with --yes.")
@click.option("--from-observer", is_flag=True, help="Although an observer may be further behind than a voter.")
@click.option("--others-are-gone", is_flag=True, help="Although something listens at another member's peer address.")
@_epoch
@_json
def recover(
    data_dir: Path,
    reason: str,
    epoch: int,
    yes: bool,
    accept_data_loss: bool,
    from_observer: bool,
    others_are_gone: bool,
    output: str,
) -> None:
    """Make a lone survivor the whole cluster: only when the majority of the voters is lost for good.

    Shows how far this member is and what may be lost, and asks for the cluster id. The member must be stopped. While
    a majority can come back, bring it back instead: then nothing is lost.

    \b
      registryd recover --data-dir DIR --reason "both other datacenters burned"
    """
    if yes != accept_data_loss:
        raise click.UsageError("without a question it takes both: --yes --accept-data-loss")
    try:
        with disaster.survivor(data_dir) as found:
            if found.record.role == "observer" and not from_observer:
                _leave(
                    EXIT_UNUSABLE,
                    f"{found.record.name} is an observer: it may be further behind than any voter that is left; "
                    "recover a voter, or say --from-observer. Nothing was changed",
                )
            if (answering := found.answering()) and not others_are_gone:
                said = ", ".join(f"{other.id} at {other.peer_address}" for other in answering)
                _leave(
                    EXIT_UNUSABLE,
                    f"{said} still answers: it would be ended, and what it has would be lost. If a majority runs, "
                    "nothing needs to be recovered; else stop it first. Nothing was changed. --others-are-gone, if "
                    "something else listens there",
                )
            click.echo("\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in _risk(found)), err=True)
            if not yes:
                _ask(found.registry.cluster_id)
            doing = _doing(reason, epoch)
            found.recover(doing)
            begun = doing.epoch_after(found.registry.epoch)
    except (DisasterError, IdentityError) as error:
        _leave(EXIT_USAGE, str(error))
    name = found.record.name
    lines = [
        f"{name} is the only member now, and begins epoch {begun} when it starts",
        f"next: registryd --name {name} --data-dir {data_dir} ... as before",
        f"then, for each further member: wipe it, registryd --name NAME --data-dir EMPTY-DIR --join "
        f"{found.record.peer_address}, and regctl cluster add NAME",
    ]
    _show(_survived(found) | {"data_dir": str(data_dir), "epoch": begun}, lines, output)


COMMANDS: dict[str, click.Command] = {"verify": verify, "restore": restore, "recover": recover}


def _risk(found: Survivor) -> list[str]:
    registry, others = found.registry, ", ".join(other.id for other in found.others) or "none"
    return [
        f"{found.record.id} ({found.record.role}) of cluster {registry.cluster_id}, epoch {registry.epoch}:",
        f"  applied up to log index {found.applied_index}, revision {registry.revision}; its log ends at index "
        f"{found.last_index}, term {found.last_term}",
        f"  {found.unapplied} entries at the log's end are not known to be committed; they are kept, since a majority "
        "may have acknowledged them",
        "What may be lost: everything that a majority acknowledged and this member did not receive. Nobody can tell "
        "from here how much that is. If another voter is left, look at both and recover the one whose log ends in the "
        "higher term, or, in the same term, at the higher index.",
        f"The other members ({others}) must never be started again with their old data: the new cluster refuses them, "
        "but among themselves they would go on in the old one. Stop them now; wipe them before they join again.",
    ]


def _ask(cluster_id: str) -> None:
    if not sys.stdin.isatty():
        _leave(EXIT_USAGE, "recover without a terminal needs --yes --accept-data-loss; nothing was changed")
    typed = click.prompt(f"Type the cluster id ({cluster_id}) to go on", err=True, default="", show_default=False)
    if typed.strip() != cluster_id:
        _leave(EXIT_USAGE, "that is not the cluster id; nothing was changed")


def _doing(reason: str, at_least: int) -> Doing:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user id may have no name
        user = f"uid-{os.getuid()}"
    return Doing(
        principal=user[:PRINCIPAL_CHARS], reason=reason, time_ms=time.time_ns() // 1_000_000, at_least=at_least
    )


def _lines(about: About) -> list[str]:
    members = ", ".join(f"{member.id} ({member.role})" for member in about.configuration.members)
    age = f"; the member had not heard the leader for {about.age_ms / 1000:.1f} s" if about.age_ms else ""
    return [
        f"cluster {about.cluster_id}, epoch {about.epoch}, revision {about.revision}, log index {about.index}, term "
        f"{about.term}",
        f"taken {_time(about.taken_ms)} by {about.member}, release {about.release}{age}",
        f"members then: {members}",
    ]


def _shown(about: About) -> dict[str, Any]:
    return {
        "cluster_id": about.cluster_id,
        "epoch": about.epoch,
        "revision": about.revision,
        "index": about.index,
        "term": about.term,
        "taken": _time(about.taken_ms),
        "age_s": about.age_ms / 1000,
        "member": about.member,
        "release": about.release,
        "members": [member.id for member in about.configuration.members],
    }


def _survived(found: Survivor) -> dict[str, Any]:
    return {
        "id": found.record.id,
        "cluster_id": found.registry.cluster_id,
        "revision": found.registry.revision,
        "applied_index": found.applied_index,
        "last_index": found.last_index,
        "last_term": found.last_term,
        "refused_from_now_on": [other.id for other in found.others],
    }


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _show(payload: dict[str, Any], lines: list[str], output: str) -> None:
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(payload), indent=2))
    else:
        click.echo("\n".join(lines))


def _leave(code: int, message: str) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)

"""registryd: flags, logs, signals and exit codes around one member.

Exit codes: 0 stopped as asked; 1 could not start (a port in use, a file that cannot be read); 2 wrong flags,
configuration or data directory; 4 removed from the cluster; 70 failed hard and must be started again (a full disk, a
damaged file, a defect).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click
import structlog
import uvloop

from cluster import configuration, journal
from cluster.api import Cluster, DataDamaged, Diverged, MemberRemoved, ReleaseTooOld, StateMachine
from cluster.kv.api import Environment
from cluster.kv.lmdb_env import LmdbEnvironment
from cluster.limits import CATCH_UP_BYTES_S, RESERVE_BYTES, WAL_BYTES, WAL_SHARE
from cluster.member import Member, MemberConfig
from cluster.peers import PeerTls
from registry.core import limits as core_limits
from registry.server import limits, logs, offline, space, tls
from registry.server.api_port import StartError
from registry.server.config import TIMINGS, Config, ConfigError, build, read_toml
from registry.server.identity import DATABASE, DataDirectory, Identity, IdentityError
from registry.server.inspector import Inspector
from registry.server.member import RegistryMember, foundation
from registry.store import tables

EXIT_START, EXIT_USAGE, EXIT_REMOVED, EXIT_FAILED = 1, 2, 4, 70
log = structlog.get_logger()


def _read_config(context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """The file's values come after flags and environment."""
    if value:
        try:
            context.default_map = read_toml(Path(value))
        except ConfigError as error:
            raise click.UsageError(str(error), context) from error
    return value


class _Program(click.Command):
    """Flags start a member; a sub-command as the first word needs none of them."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        command = offline.COMMANDS.get(args[0]) if args else None
        if command is None and args and not args[0].startswith("-"):
            known = ", ".join(offline.COMMANDS)
            raise click.UsageError(f"no command {args[0]!r}: there are {known}; a member starts with flags only")
        if command is None:
            return super().make_context(info_name, args, parent, **extra)
        return command.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        with formatter.section("Commands, while no member runs on the directory"):
            rows = [(name, command.get_short_help_str(100)) for name, command in offline.COMMANDS.items()]
            formatter.write_dl(rows)


@click.command(
    cls=_Program,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "REGISTRY",
        "max_content_width": 110,
    },
    epilog="Every option can also stand in the environment (REGISTRY_DATA_DIR=...) or in the --config file "
    "(data_dir = ...); flags come first, then the environment, then the file.",
)
@click.option("--config", metavar="FILE.toml", is_eager=True, callback=_read_config, help="Read options from a file.")
@click.option("--name", default="n1", show_default=True, help="This member's name, for ever.")
@click.option("--data-dir", required=True, metavar="DIR", help="Where everything is kept; one directory, one member.")
@click.option("--listen", default="127.0.0.1:7400", show_default=True, metavar="HOST:PORT", help="The API (gRPC).")
@click.option(
    "--peer-listen", default="127.0.0.1:7401", show_default=True, metavar="HOST:PORT", help="The other members."
)
@click.option(
    "--http-listen",
    default="127.0.0.1:7402",
    show_default=True,
    metavar="HOST:PORT",
    help="Agents by HTTP; /livez, /readyz, /metrics.",
)
@click.option("--advertise", default="", metavar="HOST:PORT", help="Where clients reach the API, if not at --listen.")
@click.option(
    "--peer-advertise",
    default="",
    metavar="HOST:PORT",
    help="Where members reach this one, if not where --cluster said or at --peer-listen.",
)
@click.option(
    "--cluster",
    default="",
    metavar="NAME=HOST:PORT,...",
    help="Peer addresses of all members, this one too: founds the cluster. Without it and --join: a cluster of one.",
)
@click.option(
    "--join",
    default="",
    metavar="HOST:PORT,...",
    help="Peer addresses of members of a running cluster: asks to be admitted there, with `regctl cluster add`. "
    "A member needs it no more, but an observer follows those named here.",
)
@click.option(
    "--observer",
    is_flag=True,
    help="Do not vote: follow the log and serve the agents of this datacenter. Goes with --join.",
)
@click.option("--datacenter", default="", metavar="NAME", help="Where this member stands.")
@click.option("--tls-cert", default="", metavar="FILE", help="This member's certificate (PEM).")
@click.option("--tls-key", default="", metavar="FILE", help="Its key.")
@click.option("--tls-ca", default="", metavar="FILE", help="The authority that signed members and clients.")
@click.option("--insecure", is_flag=True, help="Without TLS on other interfaces than loopback. Anyone can switch then.")
@click.option(
    "--content-limit",
    type=int,
    default=core_limits.CONTENT_BYTES,
    metavar="BYTES",
    show_default=True,
    help=f"Largest content that is read, checked and compared, at most {core_limits.CONTENT_BYTES_CEILING}.",
)
@click.option(
    "--large-content-limit",
    type=int,
    default=core_limits.LARGE_CONTENT_BYTES,
    metavar="BYTES",
    show_default=True,
    help=f"Largest content of one version, kept as it is, at most {core_limits.LARGE_CONTENT_BYTES_CEILING}.",
)
@click.option(
    "--timing",
    type=click.Choice(list(TIMINGS)),
    default="local",
    show_default=True,
    help="Heartbeats and elections: for voters near each other, or for round trips of around 100 ms between them. "
    "The same on every member.",
)
@click.option(
    "--catch-up-rate",
    type=int,
    default=CATCH_UP_BYTES_S,
    metavar="BYTES",
    show_default=True,
    help="Bytes a second that this member gives to others that fetch the state.",
)
@click.option(
    "--reserve",
    type=int,
    default=RESERVE_BYTES,
    metavar="BYTES",
    show_default=True,
    help="Room that is set aside: with less left, writes are refused (NO_SPACE); reads, deletions and rollbacks go on.",
)
@click.option(
    "--workers",
    type=int,
    default=0,
    show_default=True,
    metavar="N",
    help="Processes that serve the API and agents, on the same ports; 0: this one does it alone.",
)
@click.version_option(package_name="workflow-registry")
@click.pass_context
def main(context: click.Context, /, config: str | None, **options: Any) -> None:
    """One member of a workflow registry."""
    try:
        checked = build(**options)
    except ConfigError as error:
        raise click.UsageError(str(error), context) from error
    logs.configure(checked.name)
    try:
        directory = DataDirectory(checked.data_dir)
        identity = directory.identify(
            name=checked.name,
            founding=checked.founding,
            own_peer_address=str(checked.peer_advertise or checked.peer_listen),
            incarnation=os.urandom(8).hex(),
            joins=bool(checked.join),
            observer=checked.observer,
        )
    except IdentityError as error:
        _leave(EXIT_USAGE, str(error))
    try:
        uvloop.run(_run(checked, identity))
    except StartError as error:
        _leave(EXIT_START, str(error))
    except MemberRemoved as error:
        _leave(EXIT_REMOVED, f"{error}; {advice(error, checked.name)}")
    except (Diverged, ReleaseTooOld) as error:
        _leave(EXIT_USAGE, f"{error}; {advice(error, checked.name)}")
    except DataDamaged as error:
        _leave(EXIT_FAILED, f"{error}; {advice(error, checked.name)}")
    finally:
        directory.close()


async def _run(config: Config, identity: Identity) -> None:
    # Secrets are in memory until they are left out of what is kept: a core file would bring them to the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)  # each agent that waits takes one
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_unhandled)
    asked: asyncio.Future[str] = loop.create_future()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _ask, asked, signal.Signals(number).name)
    peer_tls = _peer_tls(config)
    if told := elsewhere(config, identity):
        log.info(told)
    if config.join and not identity.joined:
        log.info("--join is ignored: this data directory founded a cluster")
    async with Inspector() as inspector:
        environment = _open(config.data_dir / DATABASE, config.reserve_bytes)
        try:
            member = RegistryMember(
                config,
                environment=environment,
                inspector=inspector,
                open_cluster=partial(_open_cluster, config, identity, peer_tls, environment),
                founder=not identity.joined,
            )
            await member.start(asked)
            gc.collect()
            gc.freeze()  # modules and what lives as long as the process: looking through it again holds the loop up
            if not asked.done():
                log.info(
                    "started",
                    api=member.api_address,
                    peer=str(config.peer_listen),
                    http=member.http_address,
                    data_dir=str(config.data_dir),
                    id=identity.id,
                )
            await _until(asked, member, config.name)
        finally:
            environment.close()
    log.info("stopped")


def _open_cluster(
    config: Config,
    identity: Identity,
    peer_tls: PeerTls | None,
    environment: Environment,
    api_address: str,
    state_machine: StateMachine,
) -> Cluster:
    own = identity.founding.get(config.name)
    member = MemberConfig(
        id=identity.id,
        name=config.name,
        incarnation=identity.incarnation,
        listen=str(config.peer_listen),
        peer_address=str(config.peer_advertise or own or config.peer_listen),
        founding=configuration.founding(foundation(identity.founding), identity.founding) if own else None,
        join=config.join if identity.joined else (),
        role="observer" if config.observer and identity.joined else "voter",
        level=core_limits.FEATURE_LEVEL,
        api_address=api_address,
        datacenter=config.datacenter,
        tls=peer_tls,
        timing=config.timing,
        catch_up_bytes_s=config.catch_up_bytes_s,
        reserve_bytes=config.reserve_bytes,
    )
    try:
        return Member(member, environment, state_machine)
    except (DataDamaged, Diverged, MemberRemoved, ReleaseTooOld):
        raise
    except Exception as error:  # whatever a damaged file makes of reading it
        raise StartError(
            f"cannot read the log in {config.data_dir / DATABASE}: {type(error).__name__}: {error}; "
            "the file is damaged: keep it for repair, the other members go on while they are a majority"
        ) from error


async def _until(asked: asyncio.Future[str], member: RegistryMember, name: str) -> None:
    """Serve until asked to stop, and stop. A hard failure, before or meanwhile, ends the process here."""
    failure = asyncio.create_task(_fail_with(member, name))
    await asked
    log.info("stopping", signal=asked.result())
    limit_s = limits.GRACE_S + limits.HANDOVER_S + limits.STOP_S
    try:
        async with asyncio.timeout(limit_s):
            await member.stop()
    except TimeoutError:
        try:
            log.error("could not stop in time; everything acknowledged is kept", limit_s=limit_s)
            sys.stderr.flush()
        finally:
            os._exit(EXIT_FAILED)
    failure.cancel()


async def _fail_with(member: RegistryMember, name: str) -> NoReturn:
    """The end at once: nothing that could hang, nothing that could write."""
    error = await member.failure()
    removed = isinstance(error, MemberRemoved)
    try:
        if removed:
            log.warning("removed", error=str(error), advice=advice(error, name))
        else:
            log.critical("failed hard", error=str(error), advice=advice(error, name), exc_info=error)
        sys.stderr.flush()
    finally:  # whatever becomes of the log
        os._exit(EXIT_REMOVED if removed else EXIT_FAILED)


def _peer_tls(config: Config) -> PeerTls | None:
    try:
        return None if config.tls is None else tls.peers(config.tls)
    except OSError as error:
        raise StartError(f"the files of --tls-cert, --tls-key and --tls-ca do not work: {error}") from error


def _open(path: Path, reserve_bytes: int) -> LmdbEnvironment:
    try:
        wal_bytes = min(WAL_BYTES, reserve_bytes // WAL_SHARE)
        return LmdbEnvironment(path, (*tables.TABLES, *journal.TABLES), wal_bytes=wal_bytes)
    except Exception as error:  # lmdb's own stay in cluster.kv
        raise StartError(f"cannot open the database in {path}: {error}; {advice(error)}") from error


def advice(error: BaseException, name: str = "NAME") -> str:
    """What an operator does about a hard failure of the member of this name."""
    again = (
        "start it over an empty data directory with --join HOST:PORT, the peer address of a member, and type: regctl"
    )
    if isinstance(error, MemberRemoved):
        return f"stop starting it; to have it back, {again} cluster add {name}"
    if isinstance(error, Diverged):
        return f"keep the data directory for a report; {again} cluster replace {name}"
    if isinstance(error, ReleaseTooOld):
        return "start the newer release again; nothing acknowledged is lost"
    if isinstance(error, DataDamaged):
        return "check the disk; the other members have everything that was acknowledged"
    if type(error).__name__ == "CorruptedError":
        return "nothing was changed; the other members have everything that was acknowledged"
    if "map" in type(error).__name__.lower():
        return "the database has reached its largest size; nothing acknowledged is lost"
    if space.is_full(error):
        return "the disk is full: free some space and start again; everything acknowledged is kept"
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] == "lmdb":
        return "check the disk (is it full?) and its permissions, then start again; everything acknowledged is kept"
    return "start again: memory and disk are taken from the last commit; if it repeats, report this log"


def _leave(code: int, message: str) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)


def elsewhere(config: Config, identity: Identity) -> str:
    """What to know about a founder that does not listen where the others were told to reach it; empty: nothing."""
    own = identity.founding.get(config.name, "")
    advertised = str(config.peer_advertise or own)
    if not own or advertised != own or config.peer_listen.is_wildcard or own == str(config.peer_listen):
        return ""
    return (
        f"the others reach this member at {own}, as --cluster said; it listens at {config.peer_listen}. "
        f"If it has moved: --peer-advertise {config.peer_listen}, without --cluster"
    )


def _ask(asked: asyncio.Future[str], name: str) -> None:
    if not asked.done():
        asked.set_result(name)


def _log_unhandled(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    with contextlib.suppress(Exception):
        log.error("unhandled", message=context.get("message"), exc_info=context.get("exception"))


if __name__ == "__main__":
    main()

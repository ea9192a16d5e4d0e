"""registry-agent: the command line."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import structlog
from click.core import ParameterSource
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from registry.agent import limits
from registry.agent.agent import Agent
from registry.agent.config import AgentConfig, ConfigError, parse_fact, parse_follow, parse_label
from registry.agent.home import Home, HomeError
from registry.agent.http_adapter import connected
from registry.agent.status import callbacks, status
from registry.agent.tables import follow_from, hooks_from
from registry.agent.targets import http as http_target
from registry.agent.transitions import State
from registry.client import TlsConfig
from registry.core.errors import RegistryError

EXIT_UNEXPECTED = 1
EXIT_USAGE = 2
FOLLOW_TABLES = f"{__name__}.follow_tables"
SHOWN = {"current": "LIVE", "stale": "STALE", "error": "ERROR"}  # states, for people


class DefaultRun(click.Group):
    """`registry-agent --name ...` is `registry-agent run --name ...`."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        own = {"--help", "--version", *self.commands}
        if not arguments or arguments[0] not in own:
            arguments = ["run", *arguments]
        return super().parse_args(context, arguments)


@click.group(cls=DefaultRun)
@click.version_option(package_name="workflow-registry")
def main() -> None:
    """Keeps files of this machine at the versions that a registry's pointers name.

    \b
    registry-agent --name edge-1 --site eu-1 --endpoints 10.0.0.1:7400,10.0.0.2:7400 \\
        --state-dir /var/lib/registry-agent --follow support/triage=/srv/dify/triage.yml \\
        --reload 'systemctl reload dify' --probe http://127.0.0.1:5001/health
    registry-agent status --state-dir /var/lib/registry-agent

    Without a command name: run. See `registry-agent run --help`.
    """


def _read_config(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Values of the file become defaults: flags and environment go before them."""
    if path is None:
        return
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise click.UsageError(f"{path} cannot be read: {problem}") from None
    follows = values.get("follow", [])
    if isinstance(follows, list):  # tables are no flags
        context.meta[FOLLOW_TABLES] = [follow for follow in follows if isinstance(follow, dict)]
        values["follow"] = [follow for follow in follows if not isinstance(follow, dict)]
    known = {parameter.name for parameter in context.command.params} - {"config"}
    if unknown := set(values) - known:
        allowed = ", ".join(sorted(name for name in known if name))
        raise click.UsageError(f"{path}: unknown {', '.join(sorted(unknown))}; known are {allowed}")
    context.default_map = values


@main.command(context_settings={"auto_envvar_prefix": "REGISTRY_AGENT", "help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    help="TOML file with the names of these flags (state_dir = ..., follow = [...]), and [[follow]] tables.",
)
@click.option("--name", required=True, help="Of this agent, unique in the registry.")
@click.option("--site", default="", help="Where it stands.")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="Repeatable.")
@click.option(
    "--endpoints",
    default="127.0.0.1:7400",
    show_default=True,
    help="Of members, comma separated: HOST:PORT (gRPC), or http://HOST:PORT or https://HOST:PORT (their HTTP port).",
)
@click.option("--state-dir", required=True, type=click.Path(path_type=Path), help="This agent's own directory.")
@click.option(
    "--follow",
    multiple=True,
    metavar="NAMESPACE/NAME[:POINTER]=PATH",
    help="Repeatable. PATH becomes a link to the exact published bytes.",
)
@click.option("--namespace", multiple=True, metavar="NAME", help="Repeatable. Nothing of others is installed.")
@click.option("--fact", multiple=True, metavar="NAME[=VALUE]", help="Repeatable. What needs of versions are met by.")
@click.option("--pre-check", default="", metavar="CMD", help="Runs before anything is changed; a failure refuses.")
@click.option("--pre-check-timeout", default=limits.PRE_CHECK_TIMEOUT_S, show_default=True, metavar="SECONDS")
@click.option("--reload", default="", metavar="CMD", help="Runs after PATH was swapped; a failure reverts.")
@click.option("--reload-timeout", default=limits.RELOAD_TIMEOUT_S, show_default=True, metavar="SECONDS")
@click.option("--post", default="", metavar="CMD", help="Runs after a version was confirmed.")
@click.option("--post-timeout", default=limits.POST_TIMEOUT_S, show_default=True, metavar="SECONDS")
@click.option(
    "--probe",
    default="",
    metavar="CMD|URL",
    help="Decides: confirm, or revert after failures in a row. URL: http(s)://, grpc://HOST:PORT/SERVICE, tcp://.",
)
@click.option("--probe-contains", default="", metavar="TEXT", help="That an HTTP reply must hold.")
@click.option("--probe-interval", default=limits.PROBE_INTERVAL_S, show_default=True, metavar="SECONDS")
@click.option("--probe-start-delay", default=limits.PROBE_START_DELAY_S, show_default=True, metavar="SECONDS")
@click.option("--probe-timeout", default=limits.PROBE_TIMEOUT_S, show_default=True, metavar="SECONDS")
@click.option(
    "--probe-failures", default=limits.PROBE_FAILURES, show_default=True, metavar="N", help="In a row: revert."
)
@click.option(
    "--probe-successes", default=limits.PROBE_SUCCESSES, show_default=True, metavar="N", help="In a row: confirm."
)
@click.option("--smoke", multiple=True, metavar="CMD|URL", help="Repeatable. Each must pass once after the probe.")
@click.option("--smoke-timeout", default=limits.SMOKE_TIMEOUT_S, show_default=True, metavar="SECONDS", help="For each.")
@click.option("--tls-ca", metavar="FILE", help="PEM; checks the members.")
@click.option("--tls-cert", metavar="FILE", help="PEM; shown to the members.")
@click.option("--tls-key", metavar="FILE", help="PEM, of --tls-cert.")
@click.option("--log-format", type=click.Choice(["auto", "json", "console"]), default="auto", show_default=True)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
def run(**flags: Any) -> None:  # fmt: skip
    """Follows pointers until SIGTERM. Flags go before REGISTRY_AGENT_* in the environment, that before --config.

    Commands find REGISTRY_WORKFLOW, REGISTRY_POINTER, REGISTRY_VERSION, REGISTRY_GENERATION, REGISTRY_PATH,
    REGISTRY_CONTENT and REGISTRY_DIGEST in their environment.
    """
    _log_to_stderr(flags["log_format"], flags["log_level"])
    try:
        config = _agent_config(flags, _follow_tables())
        asyncio.run(_run(config, flags))
    except (ConfigError, HomeError, RegistryError, ValueError) as problem:
        click.echo(f"error: {problem}", err=True)
        sys.exit(EXIT_USAGE)


def _agent_config(flags: dict[str, Any], tables: list[dict[str, Any]]) -> AgentConfig:
    hooks = hooks_from(flags)
    return AgentConfig(
        name=flags["name"],
        site=flags["site"],
        labels=dict(parse_label(label) for label in flags["label"]),
        facts=dict(parse_fact(fact) for fact in flags["fact"]),
        namespaces=flags["namespace"],
        state_dir=flags["state_dir"],
        follows=(
            *(parse_follow(follow) for follow in flags["follow"]),
            *(follow_from(table, flags) for table in tables),
        ),
        reload=hooks.reload,
        reload_timeout_s=hooks.reload_timeout_s,
        probe=hooks.probe,
        pre_check=hooks.pre_check,
        pre_check_timeout_s=hooks.pre_check_timeout_s,
        post=hooks.post,
        post_timeout_s=hooks.post_timeout_s,
    )


def _follow_tables() -> list[dict[str, Any]]:
    """Of the configuration file; follows of flags or of the environment go before all of it."""
    context = click.get_current_context()
    if context.get_parameter_source("follow") in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT):
        return []
    found: list[dict[str, Any]] = context.meta.get(FOLLOW_TABLES, [])
    return found


async def _run(config: AgentConfig, flags: dict[str, Any]) -> None:
    tls = None
    if flags["tls_ca"] or flags["tls_cert"] or flags["tls_key"]:
        tls = TlsConfig(ca=flags["tls_ca"], cert=flags["tls_cert"], key=flags["tls_key"])
    async with connected(flags["endpoints"], name=config.name, tls=tls) as api:
        agent = Agent(config, api)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, agent.stop)
        await agent.run()


STATE_DIR = click.option(
    "--state-dir",
    required=True,
    type=click.Path(path_type=Path),
    envvar="REGISTRY_AGENT_STATE_DIR",
    help="Of the agent.",
)
OUTPUT = click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)


def _home(state_dir: Path) -> Home:
    """Raises HomeError."""
    home = Home(state_dir)
    if home.open_agent() is None:
        raise HomeError(f"no agent has run with the state directory {home.directory}; check --state-dir")
    return home


@main.command("status")
@STATE_DIR
@OUTPUT
def status_command(state_dir: Path, output: str) -> None:
    """What the agent runs, from its state directory: works without network and without the agent.

    LIVE: the registry was heard lately; for how long what runs has been confirmed. STALE: nothing was heard of the
    registry for 90 seconds, and for how long; what runs may be outdated. ERROR: what is wrong stands below. With
    -o json the state is current, stale or error.
    """
    try:
        found = status(_home(state_dir), time.time())
    except (HomeError, OSError) as problem:
        click.echo(f"error: {problem}", err=True)
        sys.exit(EXIT_USAGE)
    if output == "json":
        click.echo(json.dumps(found, indent=2))
    else:
        _print_table(found)


@main.command("callbacks")
@STATE_DIR
@OUTPUT
@click.option("--retry", metavar="ID", help="Has a dead one tried again, as NAMESPACE/NAME:POINTER/NUMBER.")
def callbacks_command(state_dir: Path, output: str, retry: str | None) -> None:
    """What became of each delivery to http targets, newest last."""
    try:
        home = _home(state_dir)
        if retry:
            http_target.retry(home, *_callback_id(retry))
        found = callbacks(home)
    except (HomeError, OSError) as problem:
        click.echo(f"error: {problem}", err=True)
        sys.exit(EXIT_USAGE)
    if output == "json":
        click.echo(json.dumps(found, indent=2))
    else:
        Console().print(_callback_table(found))


def _callback_id(text: str) -> tuple[str, str, int]:
    follow, _, number = text.rpartition("/")
    workflow, _, pointer = follow.partition(":")
    if not workflow or not pointer or not number.isdecimal():
        raise HomeError(
            f"--retry {text!r}: write NAMESPACE/NAME:POINTER/NUMBER, as `registry-agent callbacks` shows it"
        )
    return workflow, pointer, int(number)


def _callback_table(found: list[dict[str, Any]]) -> Table:
    id_whole = Column("id", no_wrap=True)  # to be copied
    table = Table(id_whole, "status", "action", "version", "generation", "attempts", "last tried", "answer", box=None)
    for row in found:
        tried = f"{datetime.fromtimestamp(row['tried_ms'] / 1000, UTC):%Y-%m-%d %H:%M:%SZ}" if row["tried_ms"] else "-"
        table.add_row(
            *(row["id"], row["status"], row["action"], str(row["version"] or "-"), str(row["generation"] or "-")),
            *(str(row["attempts"]), tried, Text(row["answer"] or "-")),
        )
    return table


def _print_table(found: dict[str, Any]) -> None:
    table = Table("follow", "state", "version", "generation", "digest", "last good", "contact", box=None)
    for follow in found["follows"]:
        good, contact = follow["last_good"], follow["last_contact_s"]
        table.add_row(
            f"{follow['workflow']}:{follow['pointer']}",
            _state(follow),
            str(follow["version"] or "-"),
            str(follow["generation"] or "-"),
            follow["digest"][:19] or "-",
            str(good["version"]) if good else "-",
            "never" if contact is None else f"{contact} s ago",
        )
    console = Console()
    cluster = found["cluster_id"] or "not known yet"
    console.print(f"agent {found['agent']}, cluster {cluster}, epoch {found['epoch']}", highlight=False)
    console.print(table)
    if found["callbacks"]:
        console.print(_callback_table(found["callbacks"]))
    for follow in found["follows"]:
        if follow["last_error"]:
            name = f"{follow['workflow']}:{follow['pointer']}"
            console.print(f"{name}: {follow['last_error']}", markup=False, highlight=False)


def _state(follow: dict[str, Any]) -> str:
    age = "" if follow["age_s"] is None else f" for {follow['age_s']} s"
    step = "" if follow["step"] == State.IDLE else f", {follow['step']} of version {follow['next']['version']}"
    return f"{SHOWN[follow['state']]}{age}{step}"


def _log_to_stderr(form: str, level: str) -> None:
    plain = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderer = structlog.dev.ConsoleRenderer() if plain else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    main()

"""What the commands share: the options of the connection and the output, and one client per command."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console, RenderableType

from registry.cli import views
from registry.client import Client, TlsConfig
from registry.client.limits import TIMEOUT_S
from registry.core.errors import RegistryError

DEFAULT_ENDPOINTS = "127.0.0.1:7400"
NOTICE_S = 2.0
NARROW_COLUMNS = 80
Result = TypeVar("Result")


class Session:
    """One command's way to the registry and to the user."""

    def __init__(
        self, *, endpoints: str, timeout_s: float, tls: TlsConfig | None, output: str | None, is_given: bool = False
    ) -> None:
        """`is_given`: timeout_s is what the user said, and no default."""
        self.timeout_s = timeout_s
        self.given_timeout_s = timeout_s if is_given else None
        self.json = output == "json" or (output is None and not sys.stdout.isatty())
        self.quiet = output == "json"
        self._last_failure = ""
        self.client = Client(endpoints, timeout_s=timeout_s, tls=tls, on_failed_attempt=self._note)

    @property
    def asks(self) -> bool:
        """Whether there is a person to ask: questions go to stderr, so stdout may be a pipe."""
        return sys.stdin.isatty() and sys.stderr.isatty()

    def say(self, text: str) -> None:
        """For the person, beside the output."""
        click.echo(text, err=True)

    def show(self, payload: Any, table: Callable[[], RenderableType]) -> None:
        """The result: `payload` as JSON, or what `table` makes."""
        if self.json:
            click.echo(msgspec.json.format(msgspec.json.encode(payload), indent=2))
        elif isinstance(made := table(), str):
            click.echo(made)
        else:
            console().print(made, markup=False)

    def tell_age(self) -> None:
        """Of a stale read, beside the output: who knew it, and how long ago that was certain."""
        info = self.client.info
        if info is not None and info.stale:
            self.say(f"as {info.served_by} knew it; it had heard the leader {views.age(info.age_ms)} before")

    async def doing(self, call: Awaitable[Result]) -> Result:
        """The call's result; tells the person when it takes more than two seconds."""
        notice = asyncio.create_task(self.notice())
        try:
            return await call
        finally:
            notice.cancel()

    async def all(self, pages: AsyncIterator[Result]) -> list[Result]:
        async def collect() -> list[Result]:
            return [each async for each in pages]

        return await self.doing(collect())

    def _note(self, address: str, error: RegistryError) -> None:
        self._last_failure = f"; {address}: {error.message}"

    async def notice(self) -> None:
        """Until it is cancelled: says now and then that nothing has come yet, and why."""
        waited_s = 0.0
        while not self.quiet:
            await asyncio.sleep(NOTICE_S)
            waited_s += NOTICE_S
            self.say(f"still trying after {waited_s:.0f} s of {self.timeout_s:g} s{self._last_failure}")


def console() -> Console:
    """As wide as the terminal; 80 columns without one."""
    width = None if sys.stdout.isatty() else NARROW_COLUMNS
    return Console(width=width, highlight=False, emoji=False)


stale_option = click.option(
    "--stale", is_flag=True, help="What a member knows, for a cluster without a quorum; its age goes to stderr."
)

_OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (
        ("--endpoints",),
        {
            "metavar": "HOST:PORT,...",
            "help": f"Members to ask; any will do.  [env: REGCTL_ENDPOINTS; default: {DEFAULT_ENDPOINTS}]",
        },
    ),
    (
        ("--timeout", "timeout_s"),
        {"type": click.FloatRange(min=0.001), "metavar": "SECONDS", "help": f"Of one call.  [default: {TIMEOUT_S:g}]"},
    ),
    (
        ("-o", "--output"),
        {"type": click.Choice(["table", "json"]), "help": "[default: table on a terminal, else json]"},
    ),
    (("--tls-ca",), {"metavar": "FILE", "help": "PEM that checks the members.  [env: REGCTL_TLS_CA]"}),
    (("--tls-cert",), {"metavar": "FILE", "help": "PEM shown to the members.  [env: REGCTL_TLS_CERT]"}),
    (("--tls-key",), {"metavar": "FILE", "help": "Its key.  [env: REGCTL_TLS_KEY]"}),
)
_NAMES = ("endpoints", "timeout_s", "output", "tls_ca", "tls_cert", "tls_key")
_ENVIRONMENT = {
    "--endpoints": "REGCTL_ENDPOINTS",
    "--tls-ca": "REGCTL_TLS_CA",
    "--tls-cert": "REGCTL_TLS_CERT",
    "--tls-key": "REGCTL_TLS_KEY",
}


def global_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """For the group: `regctl --endpoints ... publish`; the environment is read here."""
    for flags, settings in reversed(_OPTIONS):
        function = click.option(*flags, **settings, envvar=_ENVIRONMENT.get(flags[0]))(function)
    return function


def connected(function: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A command over a Session: the function's first argument. Its own options win over the group's."""

    @functools.wraps(function)
    def command(**parameters: Any) -> None:
        given = click.get_current_context().find_root().params
        chosen: dict[str, Any] = {}
        for name in _NAMES:
            own = parameters.pop(name)
            chosen[name] = given.get(name) if own is None else own
        asyncio.run(_run(function, chosen, parameters))

    for flags, settings in reversed(_OPTIONS):
        command = click.option(*flags, **settings)(command)
    return command


async def _run(function: Callable[..., Awaitable[None]], chosen: dict[str, Any], parameters: dict[str, Any]) -> None:
    files = {name: chosen[f"tls_{name}"] for name in ("ca", "cert", "key")}
    session = Session(
        endpoints=chosen["endpoints"] or DEFAULT_ENDPOINTS,
        timeout_s=chosen["timeout_s"] or TIMEOUT_S,
        tls=TlsConfig(**files) if any(files.values()) else None,
        output=chosen["output"],
        is_given=chosen["timeout_s"] is not None,
    )
    async with session.client:
        await function(session, **parameters)

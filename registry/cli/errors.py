"""How regctl ends: exit codes, and errors as a line or as JSON. The one place that knows both."""

from __future__ import annotations

import os
import sys
import traceback

import click
import msgspec

from registry.cli.local_cluster import LocalClusterError
from registry.cli.views import printable
from registry.core import errors
from registry.core.errors import RegistryError

UNEXPECTED = 1
USAGE = 2
NOT_CONFIRMED = 8  # what was asked for is done, and not confirmed by all agents in time
INTERRUPTED = 130
PIPE_CLOSED = 141

_CODES: tuple[tuple[type[RegistryError], int], ...] = (
    (errors.NotFound, 3),
    (errors.Conflict, 4),
    (errors.Unavailable, 5),
    (errors.Refused, 6),
    (errors.Ambiguous, 7),
    (errors.Invalid, USAGE),
)


class FileProblemError(Exception):
    """A file of the user's: what happened; what to do next."""


class DeclinedError(Exception):
    """The user answered no."""


def exit_code(error: BaseException) -> int:
    if isinstance(error, RegistryError):
        return next(code for cls, code in _CODES if isinstance(error, cls))
    if isinstance(error, click.ClickException):
        return USAGE
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return INTERRUPTED
    return PIPE_CLOSED if isinstance(error, BrokenPipeError) else UNEXPECTED


def report(error: BaseException, *, as_json: bool) -> int:
    """Says on stderr what happened and what to do next; the exit code."""
    code = exit_code(error)
    if code == PIPE_CLOSED:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has no reader
        return code
    if code == INTERRUPTED:
        click.echo("interrupted", err=True)
        return code
    if code == UNEXPECTED and os.environ.get("REGCTL_DEBUG") == "1":
        traceback.print_exception(error)
    message, hint, reason, metadata = _described(error)
    if as_json:
        fixed = {"error": message, "reason": reason, "hint": hint}
        click.echo(msgspec.json.encode(fixed | metadata | fixed), err=True)
        return code
    click.echo(f"error: {message}; {hint}" if hint else f"error: {message}", err=True)
    for line in (metadata.get("reasons") or metadata.get("findings") or "").splitlines():
        click.echo(f"  {printable(line)}", err=True)
    return code


def _described(error: BaseException) -> tuple[str, str, str, dict[str, str]]:
    """Message, hint, reason, metadata."""
    if isinstance(error, RegistryError):
        hint = error.hint
        if isinstance(error, errors.Ambiguous) and (request_id := error.metadata.get("request_id")):
            hint = f"repeat the command with --request-id {request_id}: it takes effect at most once"
        return error.message, hint, error.reason.value, error.metadata
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx is not None else "regctl"
        return error.format_message().rstrip("."), f"see {command} --help", "USAGE", {}
    if isinstance(error, click.ClickException):
        return error.format_message(), "", "USAGE", {}
    if isinstance(error, LocalClusterError | FileProblemError):
        message, _, hint = str(error).partition("; ")
        return message, hint, "FILE" if isinstance(error, FileProblemError) else "LOCAL_CLUSTER", {}
    if isinstance(error, DeclinedError):
        return "not confirmed", "nothing was changed", "DECLINED", {}
    cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"unexpected: {cause}", "REGCTL_DEBUG=1 shows where", "UNEXPECTED", {}

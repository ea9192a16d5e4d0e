"""regctl: what people type, also at 3 a.m."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import click

from registry.cli import (
    agents,
    cluster,
    compare,
    dev,
    errors,
    observe,
    pointers,
    policies,
    retention,
    sources,
    versions,
)
from registry.cli.session import global_options


@click.group(context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]})
@global_options
@click.version_option(package_name="workflow-registry")
def cli(**_options: Any) -> None:
    """Which version of an AI workflow is live, everywhere.

    REF names a version: ns/name (the newest), ns/name@3 (number), @active (pointer), @active~1 (what it named
    before), @sha256:ab12cd (unique digest prefix), @v1.4.0 (label semver).

    \b
      regctl publish support/triage triage.yml -m "first"
      regctl switch support/triage@1 --reason "go live"
      regctl rollback support/triage --reason "5xx since 02:40"

    Output is a table on a terminal and JSON otherwise; -o says which. Exit codes: 0 done, 1 unexpected, 2 usage,
    3 not found, 4 conflict, 5 unavailable, 6 refused by a rule, 7 outcome unknown after retries, 8 done but not
    confirmed by all agents in time (--wait), 130 interrupted.
    """


for command in (
    *(versions.publish, versions.workflows, versions.versions, versions.show, versions.cat, versions.mark),
    *(compare.compare, pointers.switch, pointers.rollback, pointers.pointer, pointers.history),
    *(policies.label, policies.policy, policies.impact),
    *(retention.hold, retention.retention, retention.purge, sources.source),
    *(observe.watch, agents.agents, cluster.cluster, dev.dev),
):
    cli.add_command(command)


def run(arguments: Sequence[str]) -> int:
    """One command; its exit code."""
    try:
        outcome = cli.main(args=list(arguments), prog_name="regctl", standalone_mode=False)
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.exceptions.NoArgsIsHelpError as asked:
        click.echo(asked.format_message(), err=True)
        return errors.USAGE
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the one place where every error gets its words
        return errors.report(error, as_json=_wants_json(arguments))
    return outcome if isinstance(outcome, int) else 0


def _wants_json(arguments: Sequence[str]) -> bool:
    """Of the raw arguments: also an error in the arguments is said as asked."""
    pairs = set(pairwise(arguments))
    return bool({("-o", "json"), ("--output", "json")} & pairs or {"-ojson", "--output=json"} & set(arguments))


def main() -> None:
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()

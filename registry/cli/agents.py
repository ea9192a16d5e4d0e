"""Commands about agents: who runs what, the fleet in numbers, and forgetting."""

from __future__ import annotations

from typing import Any

import click

from registry.cli import tables, views
from registry.cli.session import Session, connected, stale_option
from registry.client import SiteSummary

_workflow_argument = click.argument("workflow", required=False, default="", metavar="[NS/NAME]")


class _WithDefault(click.Group):
    """Without the name of a command it lists."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        names_one = bool(args) and (args[0] in self.commands or args[0] in self.get_help_option_names(ctx))
        return super().parse_args(ctx, args if names_one else ["list", *args])


@click.group(cls=_WithDefault, subcommand_metavar="[list | summary | forget] [ARGS]...")
def agents(**_options: Any) -> None:
    """Who runs what; `list` can be left out.

    \b
      regctl agents support/triage --behind
      regctl agents summary
      regctl agents forget edge-7
    """


@agents.command("list")
@_workflow_argument
@click.option("--site", default=None, help="Only agents of this site.")
@click.option("--behind", is_flag=True, help="Only those that do not run what their pointer names, or are silent.")
@stale_option
@connected
async def list_(session: Session, workflow: str, site: str | None, behind: bool, stale: bool) -> None:
    """Who runs what, as the agents reported it.

    The state of each: current, installing, behind (it has not answered for the newest generation), nacked (it refused
    it or went back, and the code says why), drifted (it runs other bytes than the pointer names), silent (not heard of
    for two minutes). Two agents that use one name at once are said.

    \b
      regctl agents
      regctl agents support/triage --behind
      regctl agents --site eu-1 -o json
      regctl agents --stale --endpoints 10.1.0.1:7400      what an observer that is cut off knows
    """
    found = await session.all(session.client.agents(workflow, stale=stale))
    session.tell_age()
    shown = [each for each in found if site in (None, each.site) and not (behind and each.state == "current")]
    session.show([views.agent(each) for each in shown], lambda: tables.agents(shown))


@agents.command()
@_workflow_argument
@stale_option
@connected
async def summary(session: Session, workflow: str, stale: bool) -> None:
    """How many agents are on target, behind, nacked, drifted, silent: by workflow, pointer and site.

    \b
      regctl agents summary
      regctl agents summary support/triage -o json
    """
    found = await session.doing(session.client.fleet(workflow, stale=stale))
    session.tell_age()
    session.show([_site(each) for each in found], lambda: tables.sites(found))


@agents.command()
@click.argument("agent", metavar="NAME")
@connected
async def forget(session: Session, agent: str) -> None:
    """Forget an agent that is gone for good, with everything it reported.

    Nobody waits for it any more, and retention does not keep what it ran. One that still runs comes back with its next
    report. Agents that stay silent can be forgotten by rule: regctl policy set '*' agents_expire_days=30.

    \b
      regctl agents forget edge-7
    """
    forgotten = await session.doing(session.client.forget_agent(agent))
    payload = {"agent": agent, "forgotten": forgotten}
    session.show(payload, lambda: _forgotten(agent, forgotten))


def _forgotten(agent: str, forgotten: int) -> str:
    if not forgotten:
        return f"{agent} had reported for no pointer"
    return f"{agent} is forgotten; it had reported for {forgotten} pointer{'s' if forgotten > 1 else ''}"


def _site(value: SiteSummary) -> dict[str, Any]:
    counts = ("agents", "on_target", "behind", "nacked", "drifted", "silent", "twins")
    return {
        "workflow": value.workflow,
        "pointer": value.pointer,
        "site": value.site,
        "version": value.version,
        "generation": value.generation,
        **{name: getattr(value, name) for name in counts},
        "oldest_behind_s": value.oldest_behind_ms / 1000,
        "oldest_contact_s": value.oldest_contact_ms / 1000,
    }

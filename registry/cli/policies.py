"""Commands about rules and ties: policy, label, impact."""

from __future__ import annotations

from collections.abc import Sequence

import click

from registry.cli import tables, views
from registry.cli.session import Session, connected, stale_option
from registry.cli.versions import request_id_option, split, split_version
from registry.core import names


@click.group()
def policy() -> None:
    """Rules for publishing and switching.

    \b
    unchanged           allow, warn, refuse         a publish that means the same as the newest version
    checks              warn, refuse                content that is broken: findings of level block
    literals            warn, refuse                content with literals that look like secrets
    verdict             ok, warn, confirm, block    the worst verdict that a switch is taken with; block takes all
    immutable_labels    patterns, comma separated   labels that stay once they are set; semver always does
    keep_last           a number, or all            newest versions of each class whose content is kept
    keep_days           a number, or all            versions younger than that are kept
    agents_expire_days  a number, or never          agents that were silent for so long are forgotten

    keep_last may tell the classes apart: published=10,periodic=3. Content that no rule keeps is let go of within the
    hour; see with regctl retention run --dry-run which that is. The versions stay. What a silent agent said it runs is
    kept for it, until the agent is forgotten; agents_expire_days=never in a narrower scope keeps its agents.

    A policy has a scope: '*' (everywhere), 'ns/*' or ns/name. For every field the narrowest scope that says something
    decides.
    """


@policy.command("get")
@click.argument("scope", required=False, default="*", metavar="[SCOPE]")
@stale_option
@connected
async def get_policy(session: Session, scope: str, stale: bool) -> None:
    """What holds in a scope, and which scope says so.

    \b
      regctl policy get
      regctl policy get 'support/*'
      regctl policy get support/triage
    """
    names.check_scope(scope)
    found = await session.doing(session.client.policy(scope, stale=stale))
    session.tell_age()
    session.show(views.policy_in_force(scope, found), lambda: tables.policy(found))


@policy.command("set")
@click.argument("scope", metavar="SCOPE")
@click.argument("fields", nargs=-1, required=True, metavar="FIELD=VALUE...")
@click.option("--reason", required=True, help="Kept in the history.")
@request_id_option
@connected
async def set_policy(session: Session, scope: str, fields: Sequence[str], reason: str, request_id: str | None) -> None:
    """Change fields of the policy of a scope; FIELD= takes one back.

    \b
      regctl policy set '*' checks=refuse literals=refuse --reason "house rules"
      regctl policy set 'support/*' verdict=warn --reason "customers are on it"
      regctl policy set support/triage immutable_labels='release-*,approved' --reason audit
      regctl policy set '*' keep_last=20 keep_days=90 --reason "disks"
      regctl policy set support/triage verdict= --reason "as the others"
    """
    names.check_scope(scope)
    wanted = {name.replace("-", "_"): value for name, value in map(_pair, fields)}
    after = await session.doing(session.client.set_policy(scope, wanted, reason=reason, request_id=request_id))
    said = views.policy_words(after) or "nothing: wider scopes decide"
    session.show(
        {"scope": scope, "policy": views.policy(after), "reason": reason},
        lambda: f"{scope} says {said}",
    )


@click.command()
@click.argument("reference", metavar="REF")
@click.argument("changes", nargs=-1, required=True, metavar="KEY=VALUE|KEY-...")
@click.option("--reason", default="", help="Kept in the history.")
@request_id_option
@connected
async def label(session: Session, reference: str, changes: Sequence[str], reason: str, request_id: str | None) -> None:
    """Set labels of a version, or remove them with a minus behind the key; all or none.

    A label `semver` is never changed once it is set, and makes the version known as @v1.4.0. Others are as free as
    the policy's immutable_labels leave them.

    \b
      regctl label support/triage@3 semver=v1.4.0 team=support
      regctl label support/triage@3 approved-
    """
    workflow, target = split_version(reference)
    removed = [each[:-1] for each in changes if "=" not in each and each.endswith("-")]
    labels = dict(_pair(each) for each in changes if "=" in each or not each.endswith("-"))
    if both := sorted(labels.keys() & set(removed)):
        raise click.UsageError(f"{both[0]} is set and removed at once")
    labelled = await session.doing(
        session.client.label(workflow, target, labels, remove=removed, reason=reason, request_id=request_id)
    )
    now = tables.pairs(labelled.labels) or "no labels"
    session.show(views.version(labelled), lambda: f"{workflow}@{labelled.number}: {views.printable(now)}")


@click.command()
@click.argument("workflow", metavar="NS/NAME")
@stale_option
@connected
async def impact(session: Session, workflow: str, stale: bool) -> None:
    """Who depends on a workflow, directly or through others.

    Versions name what they call when they are published (--requires), or their content does: tools published as
    workflows, sub-workflows. Those count that a pointer names, and the newest ones.

    \b
      regctl impact support/triage
    """
    name, target = split(workflow)
    if target:
        raise click.UsageError(f"name the workflow, {name}, without a version")
    found = await session.doing(session.client.impact(name, stale=stale))
    session.tell_age()
    session.show(views.impact(name, found), lambda: tables.impact(name, found))


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.UsageError(f"{text!r} is not KEY=VALUE")
    return key, value

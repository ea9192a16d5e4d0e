"""What speaks against an installation, before anything is changed. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from registry.agent.targets.dify import content
from registry.agent.targets.dify.console import AppDetail, Plugin, Row
from registry.agent.targets.dify.content import App
from registry.agent.targets.dify.record import Record
from registry.agent.targets.dify.spec import MODES, DifySpec
from registry.agent.transitions import Code
from registry.formats.release import release

_COMMENT = re.compile(r"sha256:[0-9a-f]{40}")
_EXPORTS_ROWS_SINCE = (1, 8, 1)  # earlier ones export the draft in place of any row
_NAMES_PLUGINS_SINCE = "0.1.5"  # later ones do
_NAMED = 10  # plugins in one refusal


class Refusal(Exception):
    """The version is not installed; the message says why, what was kept, and what to do."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class Wanted(NamedTuple):
    """`semantic`: content.digest. `version` 0: what was live before the first installation. `name`, `comment`: marks of
    its row."""

    app: App
    digest: str
    semantic: str
    version: int
    name: str
    comment: str
    force: bool


class Site(NamedTuple):
    """What is there. `server`: its version; empty: not told. `draft_app`: export of the draft; None: there is no draft.
    `plugins` None: not told."""

    server: str

    app: AppDetail
    live: Row
    draft: Row
    draft_app: App | None
    plugins: list[Plugin] | None
    draft_digest: str


def comment(digest: str) -> str:
    """The mark of a row that this agent published: `sha256:` and 40 hex digits."""
    return digest[: len("sha256:") + 40]


def drift(wanted: Wanted, site: Site, record: Record | None, live: str) -> str:
    """What somebody else changed since this agent was here; empty: nothing. `live`: content.digest of the live row,
    needed where there is no record."""
    if record is None:
        return _foreign(wanted, site, live)
    ours = record.step is not None and site.live.marked_comment == comment(record.step.digest)
    if (site.live.id or "") != record.row and not ours:
        return (
            "somebody else published in this app since the last installation; publish what is live to the registry, or "
            "set allow_drift = true"
        )
    if site.draft.id and not record.knows_draft(site.draft_digest, site.draft.hash or ""):
        return (
            "the app's draft was edited since the last installation, and an import would overwrite it; publish it to "
            "the registry or undo it, or set allow_drift = true"
        )
    return ""


def _foreign(wanted: Wanted, site: Site, live: str) -> str:
    """Of an app that this agent has no record of: it may be taken over where nothing would be lost."""
    empty = site.draft_app is None or not content.has_nodes(site.draft_app.value)
    draft = "" if empty else site.draft_digest
    ours = _COMMENT.fullmatch(site.live.marked_comment or "") is not None
    if (not site.live.id or live == wanted.semantic or ours) and draft in ("", wanted.semantic, live):
        return ""
    return (
        "the app holds something that this agent did not install: publish it to the registry first, and set "
        "adopt = true to have it replaced"
    )


def judge(spec: DifySpec, wanted: Wanted, site: Site) -> None:
    """The server's version, mode, graph, DSL version, plugins. Raises Refusal."""
    server = release(site.server)
    if server is not None and server < _EXPORTS_ROWS_SINCE:
        raise Refusal(Code.TARGET_FAILED, f"the server is Dify {site.server}; what is live can be read since 1.8.1")
    mode, there = wanted.app.mode, site.app.mode
    if mode not in MODES:
        raise Refusal(Code.MODE_MISMATCH, f"mode {mode}: Dify imports only {' and '.join(MODES)} into an existing app")
    if mode != there or (spec.mode and mode != spec.mode):
        expected = spec.mode or there
        raise Refusal(Code.MODE_MISMATCH, f"the version is of mode {mode}, the app of {there} (expected: {expected})")
    if not content.has_nodes(wanted.app.value):
        raise Refusal(Code.TARGET_FAILED, "no nodes in workflow.graph: Dify would import this, as an empty app")
    dsl = site.draft_app.dsl if site.draft_app else ""
    newer = content.newer(wanted.app.dsl, dsl)
    if (newer == "major" and spec.confirm != "always") or (newer and spec.confirm == "never"):
        raise Refusal(
            Code.DSL_TOO_NEW,
            f"the version is written in DSL {wanted.app.dsl}, the server reads {dsl}; update the server, or allow it "
            "with `confirm`",
        )
    if missing := _absent(content.plugins(wanted.app.value), site.plugins, exact=spec.confirm == "never"):
        raise Refusal(
            Code.PLUGINS_MISSING,
            f"not installed on the server: {_listed(missing)}; install them there, then switch again",
        )


def missing_plugins(leaked: Iterable[dict[str, Any]], app: App, *, exact: bool) -> list[str]:
    """Names out of what a server says that it misses. Not `exact`: another version of it will do.

    The server keeps this list for ten minutes, and imports that name no plugins, or that were confirmed, leave the one
    before in place: what the app does not name is not its own. Only for the oldest apps does the server find the names.
    """
    named = content.plugins(app.value)
    found_by_server = not named and not content.newer(app.dsl, _NAMES_PLUGINS_SINCE)
    missing: list[str] = []
    for item in leaked:
        identifiers = content.plugins({"dependencies": [item]})
        if exact or not item.get("current_identifier"):
            missing += [each for each in identifiers if found_by_server or each in named]
    return missing


def _absent(needed: Iterable[str], installed: list[Plugin] | None, *, exact: bool) -> list[str]:
    if installed is None:
        return []
    names = {plugin.name for plugin in installed}
    identifiers = {plugin.identifier for plugin in installed}
    return [
        each
        for each in needed
        if each.partition(":")[0] not in names or (exact and identifiers != {""} and each not in identifiers)
    ]


def _listed(identifiers: list[str]) -> str:
    """Without the hashes of builds."""
    named = [each.partition("@")[0] for each in identifiers[:_NAMED]]
    more = len(identifiers) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")

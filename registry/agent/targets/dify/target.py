"""Installs versions into one Dify app.

Theory of operation
-------------------
Dify imports into an app's *draft* and publishes the draft as a new row; the newest row is live. Nothing moves the live
pointer to an older row, so a rollback is the same walk with older bytes. Import overwrites the draft without asking,
which is why everything that could speak against it is asked before, and what was imported is compared before it is
published:

    look -> refuse? -> note the step -> import (-> confirm) -> plugins there? -> draft as wanted? -> publish -> live as
    wanted? -> note the row

Crashes. Each step may be repeated. Up to publish the live row is untouched. The note (record.py) is on disk before the
import, so that a draft or a row of an installation that was cut off is known as our own, and is no drift. Publish is
the one step that adds something each time: a live row that carries the digest in its comment was published already, and
is only read back.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn

import structlog
from msgspec.structs import replace

from registry.agent import files, limits
from registry.agent.private import Unusable, without
from registry.agent.targets.base import DONE, Applied, Candidate
from registry.agent.targets.dify import content
from registry.agent.targets.dify.console import Console, Import, Rejected, Row, Unavailable
from registry.agent.targets.dify.content import App
from registry.agent.targets.dify.preflight import Refusal, Site, Wanted, comment, drift, judge, missing_plugins
from registry.agent.targets.dify.record import Record, Records, Step
from registry.agent.targets.dify.spec import DifySpec, read_secrets
from registry.agent.transitions import Code
from registry.core.errors import Invalid
from registry.core.limits import DETAIL_CHARS


class DifyTarget:
    """One app. What it needs to know after a restart is below `state_dir`/dify."""

    def __init__(self, spec: DifySpec, state_dir: Path) -> None:
        self._spec = spec
        self._console = Console(spec)
        self._records = Records(state_dir, spec.app)
        self._turn = asyncio.Lock()
        self._facts: dict[str, str] = {}
        self._log = structlog.get_logger(__name__).bind(app=spec.app)

    async def check(self, candidate: Candidate) -> Applied:
        return await self._guarded(lambda: self._check(candidate))

    async def apply(self, candidate: Candidate | None) -> Applied:
        """Of None: what was live before the first installation is published again. Dify cannot take back an app's only
        publication."""
        return await self._guarded(lambda: self._go_back() if candidate is None else self._apply(candidate))

    async def shows(self, digest: str | None) -> bool:
        try:
            record = await files.off_loop(self._records.load)
            live = await self._console.live()
        except (Unavailable, Rejected, Unusable, OSError):
            return False
        if digest is None:
            return record is None or not live.id or live.id == record.first_row
        if record is None or record.digest != digest:
            return False
        return live.id == record.row and live.marked_comment == comment(digest)

    async def facts(self) -> dict[str, str]:
        """`dify`, `dsl` and `plugin:ORG/NAME` with their versions, as far as the server says them; of one that does not
        answer, what it said last."""
        try:
            draft = await self._console.draft()
            app = await self._export("") if draft.id else None
            plugins = await self._console.plugins() or []
        except (Unavailable, Rejected, Unusable) as problem:
            self._log.warning("the Dify server does not say what it is", problem=str(problem))
            return dict(self._facts)
        found = {"dify": self._console.server_version} if self._console.server_version else {}
        found |= {"dsl": app.dsl} if app else {}
        found |= {f"plugin:{plugin.name}": plugin.version for plugin in plugins}  # last: a poll has no room for many
        self._facts = found
        return dict(found)

    # Walks

    async def _check(self, candidate: Candidate) -> None:
        wanted = await files.off_loop(_wanted, candidate, self._spec)
        record = await files.off_loop(self._records.load)
        site = await self._look()
        if not (site.live.marked_comment == wanted.comment and await self._is_as(wanted, site.live.id or "")):
            await self._judge(wanted, site, record)

    async def _apply(self, candidate: Candidate) -> None:
        await self._install(await files.off_loop(_wanted, candidate, self._spec))

    async def _go_back(self) -> None:
        record = await files.off_loop(self._records.load)
        live = await self._console.live()
        if record is None or not live.id or live.id == record.first_row:
            return
        if not self._records.before.exists():
            raise Refusal(
                Code.TARGET_FAILED,
                "nothing was published in this app before, and Dify cannot take back a publication; switch to a "
                "version that works, or disable the app in Dify",
            )
        await self._install(await files.off_loop(_before, self._records.before))

    async def _install(self, wanted: Wanted) -> None:
        record = await files.off_loop(self._records.load)
        site = await self._look()
        if site.live.marked_comment == wanted.comment and await self._is_as(wanted, site.live.id or ""):
            await self._note_done(wanted, site.live, record)  # the reply to publish was lost
            return
        yaml = await self._judge(wanted, site, record)
        record = await self._note_step(wanted, site, record)
        await self._import(wanted, yaml, site.app.name)
        await self._check_dependencies(wanted)
        await self._compare_draft(wanted, record)
        await self._console.publish(wanted.name, wanted.comment)
        live = await self._console.live()
        if live.marked_comment != wanted.comment:
            raise Refusal(
                Code.READ_BACK_DIFFERS,
                "what is live now is not what was published: somebody else published at the same moment",
            )
        await self._compare_live(wanted, live.id or "")
        await self._note_done(wanted, live, record)

    # Steps

    async def _look(self) -> Site:
        app = await self._console.app()
        live = await self._console.live()
        draft = await self._console.draft()
        shown = await self._export("") if draft.id else None
        plugins = await self._console.plugins()
        digest = await files.off_loop(content.digest, shown.value) if shown else ""
        return Site(self._console.server_version, app, live, draft, shown, plugins, digest)

    async def _judge(self, wanted: Wanted, site: Site, record: Record | None) -> str:
        """The YAML to import. Raises Refusal. A server that cannot show what is live now would not show it after
        publishing either, and then the agent would publish forth and back for ever: hence it is asked each time."""
        live = ""
        if site.live.id:
            live = await files.off_loop(content.digest, (await self._export(site.live.id)).value)
        free = wanted.force or self._spec.allow_drift or (record is None and self._spec.adopt)
        if not free and (why := drift(wanted, site, record, live)):
            raise Refusal(Code.DRIFTED, why)
        judge(self._spec, wanted, site)
        secrets = await files.off_loop(read_secrets, self._spec.secrets_file)
        self._console.secrets = tuple(secrets.values())
        bound = content.bind(wanted.app, content.secret_ids(site.draft.environment_variables), secrets)
        if bound.missing:
            raise Refusal(
                Code.SECRETS_MISSING,
                f"the server has no value for {', '.join(bound.missing)}: add it to secrets_file, then switch again",
            )
        return bound.yaml

    async def _import(self, wanted: Wanted, yaml: str, name: str) -> None:
        done = await self._console.start_import(yaml, name)
        if done.status != "pending":
            self._imported(done)
            return
        there = done.current_dsl_version
        allowed = self._spec.confirm == "always" or (
            self._spec.confirm == "minor" and content.newer(wanted.app.dsl, there) != "major"
        )
        if not allowed:
            raise Refusal(
                Code.NEEDS_CONFIRMATION,
                f"the server (DSL {there}) asks whether to import DSL {wanted.app.dsl}, and `confirm` is "
                f"{self._spec.confirm}; nothing was changed",
            )
        try:
            self._imported(await self._console.confirm_import(done.id))
        except Rejected as problem:
            if "expired" in str(problem):
                raise Unavailable(str(problem)) from None
            raise

    def _imported(self, done: Import) -> None:
        if done.status not in ("completed", "completed-with-warnings"):
            raise Refusal(Code.TARGET_FAILED, f"the import ended as {done.status}: {self._console.told(done.error)}")

    async def _check_dependencies(self, wanted: Wanted) -> None:
        leaked = missing_plugins(await self._console.leaked(), wanted.app, exact=self._spec.confirm == "never")
        if leaked:
            raise Refusal(
                Code.PLUGINS_MISSING,
                f"the server misses {', '.join(leaked)}; the version is in the draft and not published",
            )

    async def _is_as(self, wanted: Wanted, row: str) -> bool:
        return await files.off_loop(content.same_there, wanted.app, await self._export(row))

    async def _compare_draft(self, wanted: Wanted, record: Record) -> None:
        """Before it is published. What the server made of an import is its own, and ours: no drift later."""
        back = await self._export("")
        if not await files.off_loop(content.same_there, wanted.app, back):
            digest = await files.off_loop(content.digest, back.value)
            await files.off_loop(self._records.save, replace(record, draft=digest, draft_hash=""))
            await self._differs(wanted, back, "the draft is not what was imported; nothing was published")

    async def _compare_live(self, wanted: Wanted, row: str) -> None:
        back = await self._export(row)
        if not await files.off_loop(content.same_there, wanted.app, back):
            await self._differs(wanted, back, "what is live now is not what was published")

    async def _differs(self, wanted: Wanted, back: App, problem: str) -> NoReturn:
        difference = await files.off_loop(content.difference, wanted.app, back)
        raise Refusal(Code.READ_BACK_DIFFERS, f"{problem}: {difference}")

    async def _export(self, row: str) -> App:
        exported = await self._console.export(row)
        try:
            return await files.off_loop(content.read_app, exported)
        except Invalid as problem:
            raise Unavailable(f"an export of the server cannot be read: {problem.message}") from None

    # Notes

    async def _note_step(self, wanted: Wanted, site: Site, record: Record | None) -> Record:
        """Before the first installation, what is live is kept as well."""
        if record is None:
            if site.live.id:
                before = await self._console.export(site.live.id)
                await files.off_loop(self._records.save_before, before)
            record = Record(app=self._spec.app, first_row=site.live.id or "")
        settled = record.step is not None and site.live.marked_comment == comment(record.step.digest)
        record = replace(
            record,
            row=site.live.id or "",
            digest=record.step.digest if settled and record.step else record.digest,
            draft=site.draft_digest,
            draft_hash=site.draft.hash or "",
            step=Step(digest=wanted.digest, semantic=wanted.semantic),
        )
        await files.off_loop(self._records.save, record)
        return record

    async def _note_done(self, wanted: Wanted, live: Row, record: Record | None) -> None:
        known = record or Record(app=self._spec.app)
        went_back = wanted.version == 0
        done = replace(
            known,
            row=live.id or "",
            first_row=(live.id or "") if went_back else known.first_row,
            digest=wanted.digest,
            version=wanted.version,
            draft=wanted.semantic,
            draft_hash=live.hash or "",
            step=None,
        )
        if done != record:
            await files.off_loop(self._records.save, done)

    async def _guarded(self, walk: Callable[[], Awaitable[None]]) -> Applied:
        async with self._turn:
            try:
                await walk()
            except Refusal as refusal:
                return self._applied(refusal.code, str(refusal))
            except Unavailable as problem:
                return self._applied(Code.TARGET_FAILED, str(problem), later=True)
            except Rejected as problem:
                code = Code.TOO_LARGE if problem.status == 413 else Code.TARGET_FAILED
                return self._applied(code, str(problem), later=problem.status == 404)
            except Invalid as problem:
                return self._applied(Code.TARGET_FAILED, f"not an app that Dify imports: {problem.message}")
            except (Unusable, OSError) as problem:
                return self._applied(Code.TARGET_FAILED, str(problem), later=True)
        return DONE

    def _applied(self, code: Code, detail: str, *, later: bool = False) -> Applied:
        """Without the secrets that an import held, wherever the server showed them."""
        return Applied(code, without(detail, self._console.secrets)[:DETAIL_CHARS], later)


def _wanted(candidate: Candidate, spec: DifySpec) -> Wanted:
    """Raises Refusal, Invalid, OSError."""
    if candidate.size_bytes > limits.DIFY_CONTENT_BYTES:
        raise Refusal(
            Code.TOO_LARGE, f"{candidate.size_bytes:,} bytes; Dify takes at most {limits.DIFY_CONTENT_BYTES:,}"
        )
    app = content.with_datasets(content.read_app(candidate.content.read_bytes()), spec.datasets)
    return Wanted(
        app=app,
        digest=candidate.digest,
        semantic=content.digest(app.value),
        version=candidate.version,
        name=f"@{candidate.version}"[: limits.DIFY_MARKED_NAME_CHARS],
        comment=comment(candidate.digest),
        force=candidate.force,
    )


def _before(path: Path) -> Wanted:
    data = path.read_bytes()
    app, digest = content.read_app(data), f"sha256:{hashlib.sha256(data).hexdigest()}"
    return Wanted(app, digest, content.digest(app.value), 0, "before registry", comment(digest), force=True)

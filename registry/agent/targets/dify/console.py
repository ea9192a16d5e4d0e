"""Dify's console API, as far as a target needs it: who asks, what is asked, and what replies mean."""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from msgspec import Struct, convert
from msgspec import ValidationError as Malformed

from registry.agent import limits
from registry.agent.http import NoReply, Reply, request
from registry.agent.private import private_text, without
from registry.agent.targets.dify.spec import DifySpec
from registry.formats.release import release
from registry.formats.secrets.masking import mask_text

_BASE64_PASSWORDS_SINCE = (1, 11, 2)
_PLUGIN_PAGE = 256
_BUSY = (408, 425, 429)
T = TypeVar("T")


class Unavailable(Exception):
    """The server did not do it now, or nobody knows whether it did: it may be asked again."""


class Rejected(Exception):
    """The server decided no. `status`: of HTTP."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


class AppDetail(Struct):
    mode: str
    name: str = ""


class Row(Struct):
    """A workflow row: the draft, or one that was published. All empty: there is none."""

    id: str | None = None
    hash: str | None = None
    marked_comment: str | None = None
    environment_variables: list[dict[str, Any]] | None = None


class Import(Struct):
    id: str
    status: str
    current_dsl_version: str = ""
    imported_dsl_version: str = ""
    error: str = ""


class _Leaked(Struct):
    leaked_dependencies: list[dict[str, Any]] = []


class _Plugins(Struct):
    plugins: list[dict[str, Any]] = []
    total: int = 0  # older servers list all of them, and do not say this


class Plugin(NamedTuple):
    name: str  # ORG/NAME
    version: str
    identifier: str  # with the build, where the server says it


class Console:
    """Calls raise Unavailable, Rejected, or private.Unusable. `server_version`: what a reply said last; empty: nothing.
    `secrets`: what an import holds; no message holds one of them."""

    def __init__(self, spec: DifySpec) -> None:
        self._spec = spec
        self._session: dict[str, str] | None = None  # headers that a login gave
        self._keys: tuple[str, ...] = ()  # what let it in last
        self.server_version = ""
        self.secrets: tuple[str, ...] = ()

    def told(self, text: str) -> str:
        """What the server says, without secrets and cut."""
        text = without(text[: 16 * limits.DIFY_SAID_CHARS], (*self.secrets, *self._keys))
        return " ".join(mask_text(text).split())[: limits.DIFY_SAID_CHARS]

    async def app(self) -> AppDetail:
        return _as(AppDetail, await self._call("GET", self._app("")))

    async def draft(self) -> Row:
        try:
            return _as(Row, await self._call("GET", self._app("/workflows/draft")))
        except Rejected as problem:
            if problem.status == 404:
                return Row()
            raise

    async def live(self) -> Row:
        return _as(Row, await self._call("GET", self._app("/workflows/publish")) or {})

    async def export(self, row: str = "") -> bytes:
        """YAML of the draft, or of a published row, without the values of secrets."""
        chosen = f"&workflow_id={quote(row)}" if row else ""
        reply = await self._call("GET", self._app(f"/export?include_secret=false{chosen}"))
        if not isinstance(reply, dict) or not isinstance(reply.get("data"), str):
            raise Unavailable("the export holds no data")
        return str(reply["data"]).encode()

    async def start_import(self, yaml: str, name: str) -> Import:
        """Into the draft. `name` keeps the app's own."""
        wanted = {"mode": "yaml-content", "yaml_content": yaml, "app_id": self._spec.app, "name": name}
        return _as(Import, await self._call("POST", "/apps/imports", wanted, limits.DIFY_IMPORT_S))

    async def confirm_import(self, import_id: str) -> Import:
        place = f"/apps/imports/{quote(import_id, safe='')}/confirm"
        return _as(Import, await self._call("POST", place, {}, limits.DIFY_IMPORT_S))

    async def leaked(self) -> list[dict[str, Any]]:
        """Dependencies of the newest import that the server misses."""
        return _as(
            _Leaked, await self._call("GET", f"/apps/imports/{self._spec.app}/check-dependencies")
        ).leaked_dependencies

    async def publish(self, name: str, comment: str) -> None:
        marks = {"marked_name": name, "marked_comment": comment}
        await self._call("POST", self._app("/workflows/publish"), marks)

    async def plugins(self) -> list[Plugin] | None:
        """Those installed in the workspace. None: this server has no plugins (before Dify 1.0)."""
        found: list[Plugin] = []
        for page in range(1, limits.DIFY_PLUGIN_PAGES + 1):
            place = f"/workspaces/current/plugin/list?page={page}&page_size={_PLUGIN_PAGE}"
            try:
                listed = _as(_Plugins, await self._call("GET", place))
            except Rejected as problem:
                if problem.status == 404 and page == 1:
                    return None
                raise
            found += [_plugin(item) for item in listed.plugins]
            if len(listed.plugins) < _PLUGIN_PAGE or len(found) >= listed.total:
                return found
        return found

    def _app(self, rest: str) -> str:
        return f"/apps/{self._spec.app}{rest}"

    # Calls

    async def _call(self, method: str, place: str, body: Any = None, timeout_s: float | None = None) -> Any:
        """The JSON of a good reply. A session that is over is renewed once: a request that was refused by its login
        did nothing."""
        known = self._session is not None
        reply = await self._ask(method, place, await self._authority(), body, timeout_s)
        if reply.status == 401 and known:
            self._session = None
            reply = await self._ask(method, place, await self._authority(), body, timeout_s)
        return self._result(reply, f"{method} {place.partition('?')[0]}")

    async def _ask(
        self, method: str, place: str, headers: dict[str, str], body: Any, timeout_s: float | None = None
    ) -> Reply:
        kind = {} if body is None else {"Content-Type": "application/json"}
        try:
            reply = await request(
                method,
                self._spec.console + place,
                timeout_s=timeout_s or limits.DIFY_CALL_S,
                headers=headers | kind,
                content=None if body is None else json.dumps(body).encode(),
                body_bytes=limits.DIFY_REPLY_BYTES + 1,
                ca_file=self._spec.ca_file,
            )
        except NoReply as problem:
            raise Unavailable(f"{method} {place.partition('?')[0]}: {problem}") from None
        if len(reply.body) > limits.DIFY_REPLY_BYTES:
            raise Unavailable(f"{method} {place}: the reply has more than {limits.DIFY_REPLY_BYTES:,} bytes")
        self.server_version = reply.headers.get("x-version", self.server_version)
        return reply

    async def _authority(self) -> dict[str, str]:
        if self._spec.api_key_file is not None:
            key = _one_line(private_text(self._spec.api_key_file))
            self._keys = (key,)
            return {"Authorization": f"Bearer {key}", "X-WORKSPACE-ID": self._spec.workspace}
        if self._session is None:
            self._session = await self._login()
        return self._session

    async def _login(self) -> dict[str, str]:
        """Servers before 1.11.2 take the password as it is, later ones in base64; the reply says the version."""
        if self._spec.password_file is None:
            raise RuntimeError("a spec without key and password")
        password = private_text(self._spec.password_file)
        encoded = base64.b64encode(password.encode()).decode()
        self._keys = (password, encoded)
        reply = await self._try_login(encoded)
        version = release(self.server_version)
        if reply.status in (400, 401) and (version is None or version < _BASE64_PASSWORDS_SINCE):
            reply = await self._try_login(password)
        document = self._result(reply, "POST /login")
        if reply.cookies:
            cookies = "; ".join(f"{name}={value}" for name, value in reply.cookies.items())
            csrf = next((value for name, value in reply.cookies.items() if name.endswith("csrf_token")), "")
            return {"Cookie": cookies, "X-CSRF-Token": csrf}
        data = document.get("data") if isinstance(document, dict) else None
        if not isinstance(data, dict) or not isinstance(data.get("access_token"), str):
            raise Unavailable("POST /login: neither cookies nor an access token came")
        return {"Authorization": f"Bearer {_one_line(data['access_token'])}"}

    async def _try_login(self, password: str) -> Reply:
        return await self._ask(
            "POST", "/login", {}, {"email": self._spec.email, "password": password, "remember_me": True}
        )

    def _result(self, reply: Reply, what: str) -> Any:
        if reply.status < 300:
            return _document(reply, what)
        problem = f"status {reply.status}: {self.told(_message(reply))}"
        if reply.status in (401, 403):
            raise Unavailable(f"{what}: not let in: {problem}; check the key, or the password")
        if reply.status >= 500 or reply.status in _BUSY or reply.status < 400:
            raise Unavailable(f"{what}: {problem}")
        raise Rejected(reply.status, f"{what}: {problem}")


def _document(reply: Reply, what: str) -> Any:
    if not reply.body:
        return None
    try:
        return json.loads(reply.body)
    except (ValueError, RecursionError):
        raise Unavailable(f"{what}: the reply is not JSON; is this the console of a Dify server?") from None


def _message(reply: Reply) -> str:
    """The words of an error."""
    try:
        document = json.loads(reply.body)
    except (ValueError, RecursionError):
        document = None
    known = document if isinstance(document, dict) else {}
    said = known.get("error") or known.get("message") or known.get("code")
    return str(said) if said else reply.body.decode("utf-8", "replace")


def _as(kind: type[T], value: Any) -> T:
    try:
        return convert(value, kind)
    except Malformed as problem:
        raise Unavailable(f"a reply of the server is of an unknown shape: {problem}") from None


def _plugin(item: dict[str, Any]) -> Plugin:
    identifier = str(item.get("plugin_unique_identifier") or "")
    name = str(item.get("plugin_id") or identifier.partition(":")[0])
    version = str(item.get("version") or identifier.partition(":")[2].partition("@")[0])
    return Plugin(name, version, identifier)


def _one_line(text: str) -> str:
    """For a header. Keys have no line ends; whoever put some there wants another header."""
    return "".join(text.split())

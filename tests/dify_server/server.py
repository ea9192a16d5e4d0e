"""HTTP in front of `DifyApp`: routes, the two ways to be let in, and faults on demand."""

from __future__ import annotations

import base64
import json
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.dify_server.app import DifyApp, Problem
from tests.dify_server.store import Store

BASE = "/console/api"
LOGIN_S = 3600.0
_HANG_S = 60.0
_APP = r"/apps/(?P<app>[^/]+)"
Query = dict[str, str]
Answer = tuple[int, Any]


@dataclass
class Fault:
    """For the requests whose "METHOD /path" matches, after `skip` of them, `times` times.

    kind: a status (`502`); `drop` and `hang`, before anything is done; `drop_after` and `hang_after`, when it is
    committed; `delay`: it is done once `released` is set; `race`: somebody saves the draft just before; `endless`: a
    reply without an end.
    """

    kind: str
    match: str = ""
    times: int = 1
    skip: int = 0

    def hits(self, request: str) -> bool:
        if self.times < 1 or not re.search(self.match, request):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class DifyServer:
    """`start` binds to loopback and serves in threads. Everything in `dify` may be called while it runs, inside of
    `dify.store.transaction()`."""

    def __init__(
        self,
        *,
        db: Path | None = None,
        port: int = 0,
        tenant: str = "6e0c1ca0-8d2f-4b0a-9b3c-000000000001",
        admin_key: str = "admin-key",
        email: str = "owner@example.com",
        password: str = "owner-password",
        version: str = "1.12.1",
        dsl: str = "0.6.0",
        plugins: list[str] | None = None,
        most_bytes: int = 15 * 1024 * 1024,
    ) -> None:
        self.dify = DifyApp(Store(db), tenant, dsl=dsl, plugins=plugins)
        self.tenant, self.admin_key = tenant, admin_key
        self.email, self.password, self.version = email, password, version
        self.most_bytes = most_bytes
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.released = threading.Event()  # ends what hangs
        self._turn = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._http.daemon_threads = True
        self.port = int(self._http.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()
        self.dify.store.close()

    def add_app(self, name: str = "Triage", mode: str = "workflow") -> str:
        with self.dify.store.transaction():
            return self.dify.store.add_app(self.tenant, name, mode)

    def edit_draft(self, app: str, change: Callable[[dict[str, Any]], None]) -> None:
        """As a person in the editor does: `change` gets the row."""
        with self.dify.store.transaction():
            row = self.dify.store.draft(app)
            assert row is not None, "nothing to edit"
            change(row)
            self.dify.save_draft(app, row["graph"], row["features"], row["environment"], row["conversation"])

    def fault(self, request: str) -> str:
        with self._turn:
            self.requests.append(request)
            return next((fault.kind for fault in self.faults if fault.hits(request)), "")

    def race(self, path: str) -> None:
        """Somebody adds a note to the draft."""
        found = re.match(_APP, path)
        apps = [found["app"]] if found else [app["id"] for app in self.dify.store.apps(self.tenant)]
        for app in apps:
            if self.dify.store.draft(app):
                self.edit_draft(app, lambda row: row["graph"].setdefault("nodes", []).append(_changed_node()))

    # Who asks

    def login(self, body: dict[str, Any]) -> tuple[int, Any, list[str]]:
        """Base64 passwords since 1.11.2, cookies since 1.10."""
        password = str(body.get("password"))
        if _parts(self.version) >= (1, 11, 2):
            try:
                password = base64.b64decode(password, validate=True).decode()
            except ValueError:
                password = ""
        if body.get("email") != self.email or not secrets.compare_digest(password.encode(), self.password.encode()):
            return 401, {"code": "authentication_failed", "message": "Invalid email or password.", "status": 401}, []
        access, csrf = secrets.token_hex(16), secrets.token_hex(16)
        with self.dify.store.transaction():
            self.dify.store.put_short(f"login:{access}", csrf, self.dify.now() + LOGIN_S)
        if _parts(self.version) < (1, 10):
            return 200, {"result": "success", "data": {"access_token": access, "refresh_token": "r"}}, []
        cookies = [
            f"access_token={access}; HttpOnly; Path=/",
            "refresh_token=r; HttpOnly; Path=/",
            f"csrf_token={csrf}; Path=/",
        ]
        return 200, {"result": "success"}, cookies

    def let_in(self, headers: dict[str, str], path: str) -> bool:
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if self.admin_key and secrets.compare_digest(bearer.encode(), self.admin_key.encode()):
            return headers.get("x-workspace-id") == self.tenant
        parts = [part.strip().partition("=") for part in headers.get("cookie", "").split(";")]
        cookies = {name: value for name, _, value in parts}
        csrf = self.dify.store.short(f"login:{cookies.get('access_token', bearer)}", self.dify.now())
        if csrf is None:
            return False
        return "access_token" not in cookies or path.endswith("/draft") or headers.get("x-csrf-token") == csrf

    def end_logins(self) -> None:
        with self.dify.store.transaction():
            self.dify.store.drop_short("login:%")

    # What is asked

    def answer(self, method: str, path: str, query: Query, body: Any) -> Answer:
        for wanted, pattern, act in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found and wanted == method:
                return act(self.dify, found.groupdict(), query, body if isinstance(body, dict) else {})
        raise Problem(404, "not_found", f"{method} {path} is not here")


def _route(act: Callable[[DifyApp, dict[str, str], Query, dict[str, Any]], Any]) -> Callable[..., Answer]:
    return lambda *given: (200, act(*given))


_ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", "/apps", _route(lambda dify, at, query, body: _app_list(dify, query))),
    ("GET", _APP, _route(lambda dify, at, query, body: dify.detail(at["app"]))),
    ("GET", f"{_APP}/export", _route(lambda dify, at, query, body: dify.export(
        at["app"], query.get("workflow_id", ""), secrets=query.get("include_secret") == "true"))),
    ("POST", "/apps/imports", lambda dify, at, query, body: dify.start_import(body)),
    ("POST", "/apps/imports/(?P<id>[^/]+)/confirm", lambda dify, at, query, body: dify.confirm_import(at["id"])),
    ("GET", "/apps/imports/(?P<app>[^/]+)/check-dependencies", _route(
        lambda dify, at, query, body: dify.leaked(at["app"]))),
    ("GET", f"{_APP}/workflows/draft", _route(lambda dify, at, query, body: dify.draft(at["app"]))),
    ("POST", f"{_APP}/workflows/draft", _route(lambda dify, at, query, body: dify.sync_draft(at["app"], body))),
    ("GET", f"{_APP}/workflows/publish", _route(lambda dify, at, query, body: dify.live(at["app"]))),
    ("POST", f"{_APP}/workflows/publish", _route(lambda dify, at, query, body: dify.publish(
        at["app"], str(body.get("marked_name") or ""), str(body.get("marked_comment") or "")))),
    ("GET", f"{_APP}/workflows", _route(lambda dify, at, query, body: dify.versions(
        at["app"], int(query.get("page", 1)), min(int(query.get("limit", 10)), 100)))),
    ("POST", f"{_APP}/workflows/(?P<row>[^/]+)/restore", _route(
        lambda dify, at, query, body: dify.restore(at["app"], at["row"]))),
    ("GET", "/workspaces/current/plugin/list", _route(lambda dify, at, query, body: dify.plugin_list(
        int(query.get("page", 1)), int(query.get("page_size", 256))))),
]  # fmt: skip


def _app_list(dify: DifyApp, query: Query) -> dict[str, Any]:
    page, limit = int(query.get("page", 1)), int(query.get("limit", 20))
    found = dify.store.apps(dify.tenant, query.get("mode", ""))
    chosen = found[(page - 1) * limit : page * limit]
    return {"page": page, "limit": limit, "total": len(found), "has_more": len(found) > page * limit, "data": chosen}


def _changed_node() -> dict[str, Any]:
    return {"id": secrets.token_hex(6), "type": "custom", "data": {"type": "code", "title": "by hand", "code": "1"}}


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _handler(server: DifyServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            return

        def do_GET(self) -> None:
            self._serve()

        do_POST = do_GET  # noqa: N815

        def _serve(self) -> None:
            parts = urlsplit(self.path)
            path = parts.path.removeprefix(BASE)
            size = int(self.headers.get("content-length") or 0)
            if size > server.most_bytes:
                self.close_connection = True
                return self._reply(413, {"code": "too_large", "message": "Request Entity Too Large", "status": 413})
            raw = self.rfile.read(size)
            fault = server.fault(f"{self.command} {path}")
            if fault.isdigit():
                return self._reply(int(fault), {"code": "fault", "message": "a fault", "status": int(fault)})
            if fault == "endless":
                return self._endless()
            if fault in ("drop", "hang"):
                return self._vanish(fault)
            if fault == "delay":
                server.released.wait(_HANG_S)
            if fault == "race":
                server.race(path)
            status, document, cookies = self._act(path, parts.query, raw)
            if fault in ("drop_after", "hang_after"):
                return self._vanish(fault)
            return self._reply(status, document, cookies)

        def _act(self, path: str, query: str, raw: bytes) -> tuple[int, Any, list[str]]:
            if not self.path.startswith(BASE):
                return 404, {"code": "not_found", "message": "not the console", "status": 404}, []
            body = json.loads(raw) if raw else None
            if (self.command, path) == ("POST", "/login"):
                return server.login(body or {})
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = {name: values[0] for name, values in parse_qs(query).items()}
            try:
                with server.dify.store.transaction():
                    if not server.let_in(headers, path):
                        raise Problem(401, "unauthorized", "Unauthorized.")
                    return (*server.answer(self.command, path, asked, body), [])
            except Problem as problem:
                told = {"code": problem.code, "message": str(problem), "status": problem.status}
                return problem.status, told, []

        def _reply(self, status: int, document: Any, cookies: list[str] | None = None) -> None:
            data = json.dumps(document).encode()
            self.send_response(status)
            for name, value in (("Content-Type", "application/json"), ("X-Version", server.version)):
                self.send_header(name, value)
            for cookie in cookies or []:
                self.send_header("Set-Cookie", cookie)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _vanish(self, fault: str) -> None:
            if fault.startswith("hang"):
                server.released.wait(_HANG_S)
            self.close_connection = True

        def _endless(self) -> None:
            self.close_connection = True
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
            try:
                while not server.released.is_set():
                    self.wfile.write(chunk)
            except OSError:
                return

    return Handler

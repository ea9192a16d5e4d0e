"""What the endpoints do: apps, drafts, imports, exports and publications by Dify's rules."""

from __future__ import annotations

import datetime
import hashlib
import time
import uuid
from typing import Any

import yaml

from tests.dify_server import rules
from tests.dify_server.rules import Refused
from tests.dify_server.store import Store

IMPORT_S = 600.0
MODES = ("workflow", "advanced-chat", "chat", "agent-chat", "completion")


class Problem(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class DifyApp:
    """One workspace. `clock_s` is added to the time; `plugins`: identifiers of what is installed."""

    def __init__(self, store: Store, tenant: str, *, dsl: str = "0.6.0", plugins: list[str] | None = None) -> None:
        self.store = store
        self.tenant = tenant
        self.dsl = dsl
        self.plugins = plugins if plugins is not None else []
        self.clock_s = 0.0

    def now(self) -> float:
        return time.time() + self.clock_s

    # Reading

    def detail(self, app: str) -> dict[str, Any]:
        found = self.store.app(self.tenant, app)
        if found is None:
            raise Problem(404, "app_not_found", "App not found.")
        return found

    def draft(self, app: str) -> dict[str, Any]:
        self.detail(app)
        row = self.store.draft(app)
        if row is None:
            raise Problem(404, "draft_workflow_not_exist", "Draft workflow need to be initialized.")
        return _shown(row)

    def live(self, app: str) -> dict[str, Any]:
        row = self.store.row(app, self.detail(app)["live"] or "")
        return _shown(row) if row else dict.fromkeys(("id", "graph", "hash", "version", "marked_comment"))

    def versions(self, app: str, page: int, limit: int) -> dict[str, Any]:
        rows = self.store.rows(app) if self.detail(app)["live"] else []
        start = (page - 1) * limit
        chosen = rows[start : start + limit]
        return {
            "items": [_shown(row) for row in chosen],
            "page": page,
            "limit": limit,
            "has_more": len(rows) > start + limit,
        }

    def export(self, app: str, row_id: str, *, secrets: bool) -> dict[str, str]:
        detail = self.detail(app)
        row = self.store.row(app, row_id) if row_id else self.store.draft(app)
        if row is None:
            raise Problem(400, "invalid_param", "Missing draft workflow configuration, please check.")
        installed = {each.partition(":")[0]: each for each in self.plugins}
        needed = [installed[name] for name in rules.needed_plugins(row["graph"]) if name in installed]
        environment = row["environment"] if secrets else rules.without_secrets(row["environment"], "")
        document = {
            "version": self.dsl,
            "kind": "app",
            "app": {
                **{key: detail[key] for key in ("name", "mode", "icon", "icon_type", "icon_background", "description")},
                "use_icon_as_answer_icon": False,
            },
            "workflow": {
                "graph": rules.exported_graph(row["graph"], self.tenant),
                "features": rules.features(row["features"]),
                "environment_variables": environment,
                "conversation_variables": row["conversation"],
                "rag_pipeline_variables": [],
            },
            "dependencies": [
                {
                    "type": "marketplace",
                    "value": {"marketplace_plugin_unique_identifier": each, "version": None},
                    "current_identifier": None,
                }
                for each in needed
            ],
        }
        return {"data": yaml.dump(document, Dumper=yaml.CSafeDumper, allow_unicode=True)}

    # Imports

    def start_import(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        import_id = str(uuid.uuid4())
        reply = self._import_reply(import_id)
        try:
            if body.get("mode") != "yaml-content" or not body.get("yaml_content"):
                raise Refused("yaml_content is required when import_mode is yaml-content")
            data = yaml.load(body["yaml_content"], yaml.CSafeLoader)
            if not isinstance(data, dict):
                raise Refused("Invalid YAML format: content must be a mapping")
            version = data.get("version") or "0.1.0"
            if not isinstance(version, str):
                raise Refused(f"Invalid version type, expected str, got {type(version)}")
            reply |= {"imported_dsl_version": version, "status": rules.import_status(version, self.dsl)}
            if not data.get("app"):
                raise Refused("Missing app data in YAML content")
            if reply["status"] == "failed":
                raise Refused(f"Invalid version {version}")
            app = str(body.get("app_id") or "")
            detail = self.store.app(self.tenant, app) if app else None
            if app and detail is None:
                raise Refused("App not found")
            if detail and detail["mode"] not in MODES[:2]:
                raise Refused("Only workflow or advanced chat apps can be overwritten")
            if reply["status"] == "pending":
                self.store.put_short(f"import:{import_id}", body, self.now() + IMPORT_S)
                return 202, reply | {"app_id": app or None}
            dependencies = data.get("dependencies") or []
            if dependencies:
                self.store.put_short(f"dependencies:{app}", dependencies, self.now() + IMPORT_S)
            return 200, reply | self._write(app, data, body)
        except (Refused, yaml.YAMLError, TypeError) as problem:  # TypeError: a value that JSON does not have
            return 400, reply | {"status": "failed", "error": str(problem)}

    def confirm_import(self, import_id: str) -> tuple[int, dict[str, Any]]:
        """No check of any kind any more, and dependencies are forgotten."""
        body = self.store.short(f"import:{import_id}", self.now())
        reply = self._import_reply(import_id)
        if body is None:
            return 400, reply | {"status": "failed", "error": "Import information expired or does not exist"}
        data = yaml.load(body["yaml_content"], yaml.CSafeLoader)
        try:
            written = self._write(str(body.get("app_id") or ""), data, body)
        except Refused as problem:
            return 400, reply | {"status": "failed", "error": str(problem)}
        self.store.drop_short(f"import:{import_id}")
        return 200, reply | written | {"status": "completed", "imported_dsl_version": data.get("version", "0.1.0")}

    def leaked(self, app: str) -> dict[str, Any]:
        self.detail(app)
        dependencies = self.store.short(f"dependencies:{app}", self.now()) or []
        return {"leaked_dependencies": rules.leaked(dependencies, self.plugins)}

    def _import_reply(self, import_id: str) -> dict[str, Any]:
        return {
            "id": import_id, "status": "failed", "app_id": None, "app_mode": None,
            "current_dsl_version": self.dsl, "imported_dsl_version": "", "error": "",
        }  # fmt: skip

    def _write(self, app: str, data: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        """Over the draft, whatever it holds, and over the app's name; the mode of the file is not looked at."""
        fields = data["app"]
        mode = fields.get("mode")
        if not mode:
            raise Refused("loss app mode")
        if mode not in MODES:
            raise Refused(f"{mode!r} is not a valid AppMode")
        workflow = data.get("workflow")
        if mode in MODES[:2] and (not workflow or not isinstance(workflow, dict)):
            raise Refused("Missing workflow data for workflow/advanced chat app")
        kept = workflow or {}
        environment = [rules.variable(each, environment=True) for each in kept.get("environment_variables") or []]
        conversation = [rules.variable(each, environment=False) for each in kept.get("conversation_variables") or []]
        app = app or self.store.add_app(self.tenant, "", mode)
        for key in ("name", "description", "icon", "icon_type", "icon_background"):
            if value := body.get(key) or fields.get(key):
                self.store.update_app(app, **{key: str(value)})
        if workflow:
            graph = rules.imported_graph(kept.get("graph") or {}, self.tenant)
            self.save_draft(app, graph, kept.get("features") or {}, environment, conversation)
        return {"app_id": app, "app_mode": self.detail(app)["mode"]}

    # Draft and publication

    def sync_draft(self, app: str, body: dict[str, Any]) -> dict[str, Any]:
        """What the editor does: refused where somebody else saved meanwhile."""
        self.detail(app)
        row = self.store.draft(app)
        if row and rules.unique_hash(row["graph"], rules.features(row["features"])) != body.get("hash"):
            raise Problem(409, "draft_workflow_not_sync", "Workflow graph might have been modified, please refresh.")
        environment = [rules.variable(each, environment=True) for each in body.get("environment_variables") or []]
        conversation = [rules.variable(each, environment=False) for each in body.get("conversation_variables") or []]
        row = self.save_draft(app, body["graph"], body.get("features") or {}, environment, conversation)
        return {"result": "success", "hash": _shown(row)["hash"], "updated_at": int(self.now())}

    def save_draft(
        self, app: str, graph: Any, features: Any, environment: list[dict[str, Any]], conversation: list[dict[str, Any]]
    ) -> dict[str, Any]:
        old = self.store.draft(app)
        row = {
            "id": old["id"] if old else str(uuid.uuid4()), "app": app, "version": "draft", "graph": graph,
            "features": features, "environment": rules.merged(environment, old["environment"] if old else []),
            "conversation": rules.merged(conversation, old["conversation"] if old else []),
            "marked_name": "", "marked_comment": "", "updated_at": self.now(),
        }  # fmt: skip
        self.store.put_row(row)
        return row

    def publish(self, app: str, name: str, comment: str) -> dict[str, Any]:
        """A new row that is a copy of the draft, and the pointer, in the caller's transaction."""
        self.detail(app)
        if len(name) > 20:
            raise Problem(400, "invalid_param", "Marked name cannot exceed 20 characters")
        if len(comment) > 100:
            raise Problem(400, "invalid_param", "Marked comment cannot exceed 100 characters")
        draft = self.store.draft(app)
        if draft is None:
            raise Problem(400, "invalid_param", "No valid workflow found.")
        last = max((row["version"] for row in self.store.rows(app) if row["version"] != "draft"), default="")
        moment = datetime.datetime.fromtimestamp(self.now(), datetime.UTC).replace(tzinfo=None)
        while str(moment) <= last:  # a clock that went back
            moment += datetime.timedelta(microseconds=1)
        row = draft | {
            "id": str(uuid.uuid4()),
            "version": str(moment),
            "marked_name": name,
            "marked_comment": comment,
        }
        self.store.put_row(row)
        self.store.update_app(app, live=row["id"])
        return {"result": "success", "created_at": int(self.now())}

    def restore(self, app: str, row_id: str) -> dict[str, Any]:
        row = self.store.row(app, row_id)
        if row is None or row["version"] == "draft":
            raise Problem(404, "not_found", "Workflow not found")
        saved = self.save_draft(app, row["graph"], row["features"], row["environment"], row["conversation"])
        return {"result": "success", "hash": _shown(saved)["hash"], "updated_at": int(self.now())}

    def plugin_list(self, page: int, size: int) -> dict[str, Any]:
        items = [
            {
                "plugin_id": each.partition(":")[0],
                "plugin_unique_identifier": each,
                "version": each.partition(":")[2].partition("@")[0],
                "checksum": hashlib.sha256(each.encode()).hexdigest(),
            }
            for each in self.plugins
        ]
        return {"plugins": items[(page - 1) * size : page * size], "total": len(items)}


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    features = rules.features(row["features"])
    return {
        "id": row["id"],
        "graph": row["graph"],
        "features": features,
        "hash": rules.unique_hash(row["graph"], features),
        "version": row["version"],
        "marked_name": row["marked_name"],
        "marked_comment": row["marked_comment"],
        "created_at": int(row["updated_at"]),
        "updated_at": int(row["updated_at"]),
        "tool_published": False,
        "environment_variables": rules.without_secrets(row["environment"], rules.MASK),
        "conversation_variables": row["conversation"],
        "rag_pipeline_variables": [],
    }

"""A version as a Dify server takes it, and as the server gives it back. Pure.

An export is not what was imported: the server writes its own DSL version, the dependencies that it finds, no values of
secrets, no ids of its workspace, and old settings in their new form. `portable` is what must survive that.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import yaml

from registry import formats
from registry.core.errors import Invalid, Reason
from registry.formats.release import release
from registry.formats.secrets.masking import is_placeholder, is_secret_type
from registry.formats.secrets.redact import PLACEHOLDER

_SHOWN = 5  # ids in one message
_RULES = "d1"  # of `portable`: changed whenever it would give another digest for the same app
_UUID = re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)
_IDENTIFIERS = (
    "marketplace_plugin_unique_identifier",
    "plugin_unique_identifier",
    "github_plugin_unique_identifier",
)
_KEPT = ("graph", "features", "environment_variables", "conversation_variables")
_BLANKED = {
    "trigger-schedule": ("config",),
    "trigger-webhook": ("webhook_url", "webhook_debug_url"),
    "trigger-plugin": ("subscription_id",),
}
_FILES = ("file", "file-list")
_LOCAL_IDS = ("upload_file_id", "uploadedId")


class App(NamedTuple):
    value: dict[str, Any]
    mode: str
    dsl: str


class Bound(NamedTuple):
    """`yaml`: what is imported; empty where secrets are missing, and holding secrets where they are injected."""

    yaml: str
    missing: list[str]


def read_app(content: bytes) -> App:
    """Raises Invalid: not a Dify app that can be imported into an existing one."""
    value = formats.read(content, kind="dify").read.value
    app, version = value.get("app"), value.get("version", "0.1.0")
    mode = app.get("mode") if isinstance(app, dict) else None
    if not isinstance(mode, str):
        raise Invalid(Reason.INVALID_CONTENT, "there is no app.mode: Dify refuses the import")
    if not isinstance(version, str) or release(version) is None:
        raise Invalid(Reason.INVALID_CONTENT, "`version` is not the text of a version: Dify refuses the import")
    return App(value, mode, version)


def newer(dsl: str, server: str) -> str:
    """`""`: `dsl` is not newer than the server's. `micro`: in its last part only. Else `major`."""
    wanted, there = release(dsl), release(server)
    if wanted is None or there is None or wanted <= there:
        return ""
    return "micro" if wanted[:2] == there[:2] else "major"


def plugins(value: dict[str, Any]) -> list[str]:
    """Identifiers of the plugins that it names, `ORG/NAME:VERSION@BUILD`."""
    holders = [item.get("value") for item in _dicts(value.get("dependencies"))]
    named = (holder.get(key) for holder in holders if isinstance(holder, dict) for key in _IDENTIFIERS)
    return sorted({name for name in named if isinstance(name, str) and name})


def with_datasets(app: App, datasets: Mapping[str, str]) -> App:
    """With the site's ids of knowledge bases in place of those that `datasets` names."""
    value = copy.deepcopy(app.value)
    for data in _nodes(_workflow(value)):
        if data.get("type") == "knowledge-retrieval" and isinstance(data.get("dataset_ids"), list):
            data["dataset_ids"] = [datasets.get(str(each), each) for each in data["dataset_ids"]]
    return app._replace(value=value)


def bind(app: App, on_target: Collection[str], secrets: Mapping[str, str]) -> Bound:
    """The app with a value for every secret variable: the one of `secrets` by its name, else what the server has
    (`on_target`: ids of its secret variables), else its own."""
    value, missing = copy.deepcopy(app.value), []
    for variable in _dicts(_workflow(value).get("environment_variables")):
        if not is_secret_type(variable.get("value_type")):
            continue
        name, own = str(variable.get("name")), variable.get("value")
        if name in secrets:
            variable["value"] = secrets[name]
        elif variable.get("id") in on_target:
            variable["value"] = PLACEHOLDER
        elif own is None or is_placeholder(own):
            missing.append(name)
    if missing:
        return Bound("", missing)
    text = yaml.dump(value, Dumper=yaml.CSafeDumper, allow_unicode=True, sort_keys=False, width=2**20)
    return Bound(text, [])


def secret_ids(variables: list[dict[str, Any]] | None) -> set[str]:
    """Of what a draft's row lists."""
    return {str(item.get("id")) for item in variables or [] if is_secret_type(item.get("value_type"))}


# What survives


def same_there(app: App, back: App) -> bool:
    """Whether an export shows what was imported."""
    return digest(app.value) == digest(back.value) and _same_datasets(app.value, back.value)


def digest(value: dict[str, Any]) -> str:
    """Semantic digest of what a server keeps of it, under the name of these rules."""
    return _RULES + formats.read(_text(value), kind="dify").read.semantic_digest


def difference(app: App, back: App) -> str:
    """What an export shows otherwise, for people, without secrets."""
    if digest(app.value) == digest(back.value):
        here = {each for _, ids in _datasets(back.value) for each in ids}
        lost = sorted({each for _, ids in _datasets(app.value) for each in ids} - here)
        return f"knowledge bases that this workspace does not have were left out, map them in `datasets`: {_few(lost)}"
    return formats.compare(_text(app.value), _text(back.value), kind_old="dify", kind_new="dify").summary


def has_nodes(value: dict[str, Any]) -> bool:
    return next(_nodes(_workflow(value)), None) is not None


def _text(value: dict[str, Any]) -> bytes:
    return json.dumps(portable(value), ensure_ascii=False).encode()


def portable(value: dict[str, Any]) -> dict[str, Any]:
    """The same for a version and for the export of it, as far as it is the same app."""
    app = value.get("app")
    mode = app.get("mode") if isinstance(app, dict) else None
    workflow = copy.deepcopy({key: item for key, item in _workflow(value).items() if key in _KEPT and item})
    for node in _nodes(workflow):
        _strip(node)
    if isinstance(workflow.get("features"), dict):
        _modernise(workflow["features"])
    for key in ("environment_variables", "conversation_variables"):
        workflow[key] = [_variable(item) for item in _dicts(workflow.get(key))]
    return {"kind": "app", "version": "", "app": {"mode": mode}, "workflow": workflow}


def _strip(data: dict[str, Any]) -> None:
    """What belongs to one server only."""
    kind = data.get("type")
    if kind == "knowledge-retrieval":
        data["dataset_ids"] = []  # compared by `_same_datasets`
    if kind == "tool":
        data.pop("credential_id", None)
    if kind == "agent":
        parameters = data.get("agent_parameters")
        tools = parameters.get("tools") if isinstance(parameters, dict) else None
        for tool in _dicts(tools.get("value") if isinstance(tools, dict) else None):
            tool.pop("credential_id", None)
    for key in _BLANKED.get(str(kind), ()):
        data.pop(key, None)
    for variable in _dicts(data.get("variables")):
        if variable.get("type") in _FILES and "default" in variable:
            default = _file_default(variable.pop("default"))
            if default is not None:
                variable["default"] = default


def _file_default(default: Any) -> Any:
    if isinstance(default, list):
        return [item for item in map(_file_default, default) if item is not None] or None
    if not isinstance(default, dict):
        return default
    method = default.get("transfer_method") or default.get("transferMethod")
    return None if method == "local_file" or any(key in default for key in _LOCAL_IDS) else default


def _modernise(features: dict[str, Any]) -> None:
    """Servers show the image upload of old apps as file upload."""
    upload = features.get("file_upload")
    image = upload.get("image") if isinstance(upload, dict) else None
    if not isinstance(upload, dict) or not isinstance(image, dict) or not image.get("enabled"):
        return
    features["file_upload"] = {key: item for key, item in upload.items() if key != "image"} | {
        "enabled": True,
        "number_limits": image.get("number_limits", 3),
        "allowed_file_upload_methods": image.get("transfer_methods", ["remote_url", "local_file"]),
        "allowed_file_types": upload.get("allowed_file_types", ["image"]),
        "allowed_file_extensions": upload.get("allowed_file_extensions", []),
    }


def _variable(raw: dict[str, Any]) -> dict[str, Any]:
    """Ids are given by the server where there are none."""
    secret = is_secret_type(raw.get("value_type"))
    return {
        "name": raw.get("name"),
        "value_type": raw.get("value_type"),
        "value": "" if secret else raw.get("value"),
        "description": raw.get("description") or "",
    }


def _same_datasets(app: dict[str, Any], back: dict[str, Any]) -> bool:
    """Servers leave out ids of other workspaces. Exports write them encrypted, files may have them plain: then their
    count is what can be compared."""
    ours, theirs = (dict(_datasets(value)) for value in (app, back))
    if ours.keys() != theirs.keys():
        return False
    for node, ids in ours.items():
        others = theirs[node]
        alike = {_UUID.fullmatch(each) is not None for each in ids} == {
            _UUID.fullmatch(each) is not None for each in others
        }
        if len(ids) != len(others) or (alike and ids != others):
            return False
    return True


def _datasets(value: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    graph = _workflow(value).get("graph")
    for node in _dicts(graph.get("nodes") if isinstance(graph, dict) else None):
        data = node.get("data")
        if isinstance(data, dict) and data.get("type") == "knowledge-retrieval":
            ids = data.get("dataset_ids")
            yield str(node.get("id")), [str(each) for each in ids] if isinstance(ids, list) else []


def _workflow(value: dict[str, Any]) -> dict[str, Any]:
    workflow = value.get("workflow")
    return workflow if isinstance(workflow, dict) else {}


def _nodes(workflow: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Data of the nodes."""
    graph = workflow.get("graph")
    for node in _dicts(graph.get("nodes") if isinstance(graph, dict) else None):
        if isinstance(node.get("data"), dict):
            yield node["data"]


def _few(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _dicts(items: Any) -> list[dict[str, Any]]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []

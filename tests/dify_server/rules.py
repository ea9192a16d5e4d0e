"""Dify's rules that need no state: versions of the DSL, hashes, variables, what an export leaves out. Pure.

Written from Dify's behaviour, and apart from registry.agent.targets.dify, which is tested against it.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import json
import random
import re
import uuid
from typing import Any

HIDDEN = "[__HIDDEN__]"
MASK = "*" * 20
_VERSION = re.compile(r"v?(\d+)(?:\.(\d+))?(?:\.(\d+))?.*")
_MODEL_NODES = ("llm", "question-classifier", "parameter-extractor")


class Refused(Exception):
    """What Dify says of a bad request."""


def import_status(imported: str, current: str) -> str:
    """Since 1.3.0: newer is pending, an older minor part comes with warnings."""
    new, now = _parts(imported), _parts(current)
    if new is None or now is None:
        return "failed"
    if new > now or new[0] < now[0]:
        return "pending"
    return "completed-with-warnings" if new[1] < now[1] else "completed"


def _parts(version: str) -> tuple[int, int, int] | None:
    found = _VERSION.fullmatch(version)
    return (int(found[1]), int(found[2] or 0), int(found[3] or 0)) if found else None


def unique_hash(graph: Any, features: Any) -> str:
    text = json.dumps({"graph": graph, "features": features}, sort_keys=True)
    return hashlib.sha256((text + "None").encode()).hexdigest()


# Variables


def variable(raw: Any, *, environment: bool) -> dict[str, Any]:
    """As the server keeps it. Raises Refused."""
    if not isinstance(raw, dict) or not raw.get("name"):
        raise Refused("missing name")
    kind, value = raw.get("value_type"), raw.get("value")
    if not kind:
        raise Refused("missing value type")
    if value is None:
        raise Refused("missing value")
    if kind == "number":
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise Refused(f"invalid number value {value}")
        kind = "integer" if isinstance(value, int) else "float"
    return {
        "id": str(raw.get("id") or uuid.uuid4()),
        "name": raw["name"],
        "value_type": kind,
        "value": value,
        "description": raw.get("description") or "",
        "selector": ["env" if environment else "conversation", raw["name"]],
    }


def merged(new: list[dict[str, Any]], old: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`[__HIDDEN__]` keeps what the draft has under this id, whatever that is; elsewhere it is a value like others."""
    known = {each["id"]: each for each in old}
    return [
        known[each["id"]] | {"name": each["name"]} if each["value"] == HIDDEN and each["id"] in known else each
        for each in new
    ]


def without_secrets(variables: list[dict[str, Any]], shown: str) -> list[dict[str, Any]]:
    return [each | {"value": shown} if each["value_type"] == "secret" else each for each in variables]


# Knowledge bases. Dify's own is AES-CBC; what counts here is that only the tenant that wrote an id can read it.


def encrypt_dataset(dataset_id: str, tenant: str) -> str:
    key = hashlib.sha256(tenant.encode()).digest()
    data = dataset_id.encode()
    stream = hashlib.shake_256(key).digest(len(data))
    tag = hmac.digest(key, data, "sha256")[:12]
    return base64.b64encode(bytes(a ^ b for a, b in zip(data, stream, strict=True)) + tag).decode()


def decrypt_dataset(text: Any, tenant: str) -> str | None:
    if _is_uuid(text):
        return str(text)
    try:
        raw = base64.b64decode(text, validate=True)
        stream = hashlib.shake_256(hashlib.sha256(tenant.encode()).digest()).digest(len(raw) - 12)
        found = bytes(a ^ b for a, b in zip(raw[:-12], stream, strict=True)).decode()
    except (ValueError, TypeError):
        return None
    return found if _is_uuid(found) and encrypt_dataset(found, tenant) == text else None


def _is_uuid(text: Any) -> bool:
    try:
        uuid.UUID(text)
    except (ValueError, AttributeError, TypeError):
        return False
    return True


def imported_graph(graph: dict[str, Any], tenant: str) -> dict[str, Any]:
    """Ids of knowledge bases that cannot be read are left out without a word."""
    graph = copy.deepcopy(graph)
    for data in _data(graph, "knowledge-retrieval"):
        ids = (decrypt_dataset(each, tenant) for each in data.get("dataset_ids") or [])
        data["dataset_ids"] = [each for each in ids if each]
    return graph


def exported_graph(graph: dict[str, Any], tenant: str) -> dict[str, Any]:
    graph = copy.deepcopy(graph)
    for data in _data(graph, "knowledge-retrieval"):
        data["dataset_ids"] = [encrypt_dataset(each, tenant) for each in data.get("dataset_ids") or []]
    for data in _data(graph, "tool"):
        data.pop("credential_id", None)
    for data in _data(graph, "agent"):
        for tool in ((data.get("agent_parameters") or {}).get("tools") or {}).get("value") or []:
            tool.pop("credential_id", None)
    for data in _data(graph, "trigger-schedule"):
        data["config"] = {"time": "12:00 AM"}
    for data in _data(graph, "trigger-webhook"):
        data["webhook_url"] = data["webhook_debug_url"] = ""
    for data in _data(graph, "trigger-plugin"):
        data["subscription_id"] = ""
    return graph


def features(raw: dict[str, Any]) -> dict[str, Any]:
    """Image upload of old apps is shown as file upload."""
    upload = raw.get("file_upload") or {}
    image = upload.get("image") or {}
    if not image.get("enabled"):
        return raw
    new = {key: value for key, value in upload.items() if key != "image"} | {
        "enabled": True,
        "number_limits": int(image.get("number_limits", 3)),
        "allowed_file_upload_methods": image.get("transfer_methods", ["remote_url", "local_file"]),
        "allowed_file_types": upload.get("allowed_file_types", ["image"]),
        "allowed_file_extensions": upload.get("allowed_file_extensions", []),
    }
    return raw | {"file_upload": new}


# Plugins


def needed_plugins(graph: dict[str, Any]) -> list[str]:
    """`ORG/NAME` of what the nodes use, in an order that changes from call to call."""
    found = set()
    for node in graph.get("nodes") or []:
        data = node.get("data") or {}
        kind, provider = data.get("type"), ""
        if kind in _MODEL_NODES and isinstance(data.get("model"), dict):
            provider = str(data["model"].get("provider") or "")
        elif kind == "tool":
            provider = str(data.get("provider_id") or "")
        parts = provider.split("/")
        if parts[0]:
            found.add("/".join(parts[:2]) if len(parts) > 1 else f"langgenius/{parts[0]}")
    return random.sample(sorted(found), len(found))


def identifier(dependency: dict[str, Any]) -> str:
    value = dependency.get("value") or {}
    return str(
        value.get("marketplace_plugin_unique_identifier")
        or value.get("plugin_unique_identifier")
        or value.get("github_plugin_unique_identifier")
        or ""
    )


def leaked(dependencies: list[dict[str, Any]], installed: list[str]) -> list[dict[str, Any]]:
    """What is not installed in exactly this build; with the one that is there."""
    there = {each.partition(":")[0]: each for each in installed}
    return [
        {"type": each.get("type"), "value": each.get("value"), "current_identifier": there.get(name.partition(":")[0])}
        for each in dependencies
        if (name := identifier(each)) not in installed
    ]


def _data(graph: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    found = [node.get("data") for node in graph.get("nodes") or [] if isinstance(node, dict)]
    return [data for data in found if isinstance(data, dict) and data.get("type") == kind]

"""What a Dify app means once its noise is dropped: the noise rules a second time, to check the first by.

Written from the rules alone. Shares nothing with registry.formats, and is for exports as Dify writes them.
"""

from __future__ import annotations

from typing import Any

import yaml

_DATA = {"title", "desc", "selected", "width", "height"}
_FROM_PLUGIN = {"paramSchemas", "params", "output_schema", "tool_description", "tool_label", "agent_strategy_label"}
_PROVIDERS = {"provider", "embedding_provider_name", "reranking_provider_name"}


def meaning(content: bytes) -> Any:
    app = yaml.load(content, yaml.CSafeLoader)
    if list(app) == ["data"]:
        app = yaml.load(app["data"], yaml.CSafeLoader)
    workflow = app.get("workflow") or {}
    graph = workflow.get("graph") or {}
    return {
        "app": (app.get("kind") or "app", app.get("version"), (app.get("app") or {}).get("mode")),
        "nodes": {
            str(node["id"]): (node.get("parentId"), _data(node["data"]))
            for node in graph.get("nodes") or []
            if node.get("type") != "custom-note"
        },
        "edges": {
            (str(edge["source"]), edge["sourceHandle"], str(edge["target"]), edge["targetHandle"])
            for edge in graph.get("edges") or []
        },
        "plugins": {
            (item["type"], key, value)
            for item in app.get("dependencies") or []
            for key, value in item["value"].items()
            if value is not None
        },
        "features": _plain(workflow.get("features") or {}),
        "variables": [
            {item["name"]: _variable(item) for item in workflow.get(key) or []}
            for key in ("environment_variables", "conversation_variables")
        ],
        "model_config": _plain(app.get("model_config")),
    }


def _variable(item: dict[str, Any]) -> Any:
    kind = "number" if item["value_type"] in ("integer", "float") else item["value_type"]
    return {key: value for key, value in item.items() if key != "selector"} | {"value_type": kind}


def _data(raw: dict[str, Any]) -> Any:
    drop = _DATA | (_FROM_PLUGIN if raw.get("type") in ("tool", "agent") else set())
    data = {key: value for key, value in raw.items() if key not in drop and not key.startswith("_")}
    for key in ("isInIteration", "isInLoop"):
        if data.get(key) is False:
            del data[key]
    data["prompt_template"] = _without(data.get("prompt_template"), "id")
    if data.get("type") == "if-else":
        if not data.get("cases"):
            data["cases"] = [{key: data.get(key) for key in ("conditions", "logical_operator")} | {"case_id": "true"}]
        data = {key: value for key, value in data.items() if key not in ("conditions", "logical_operator")}
        data["cases"] = [
            {key: _without(value, "id") for key, value in case.items() if key != "id"} for case in data["cases"]
        ]
    if isinstance(data.get("body"), dict):
        data["body"] = {key: _without(value, "id") for key, value in data["body"].items()}
    return _plain(data)


def _without(items: Any, key: str) -> Any:
    if not isinstance(items, list):
        return items
    return [
        {name: value for name, value in item.items() if name != key} if isinstance(item, dict) else item
        for item in items
    ]


def _plain(value: Any) -> Any:
    """Providers by their last part."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: item.rpartition("/")[2] if key in _PROVIDERS and isinstance(item, str) else _plain(item)
        for key, item in value.items()
    }

"""A Dify app taken apart: what it does, what is only text for people, and what is noise. Rules: docs/compare.md.

Nothing is lost on the way: every field of the app lands in exactly one of these places, so that no difference of two
apps can go unseen.
"""

from __future__ import annotations

import re
from types import NoneType
from typing import Any

from registry.formats.graph.build import Fields, filled, flag_repeated, is_id, split, with_unique_ids
from registry.formats.graph.model import Edge, Graph, Node, unordered
from registry.formats.secrets.masking import short

_NODE_LAYOUT = frozenset(
    {"position", "positionAbsolute", "width", "height", "selected", "dragging", "zIndex", "sourcePosition"}
    | {"targetPosition", "extent", "draggable", "selectable", "measured", "resizing"}
)
_EDGE_LAYOUT = frozenset({"id", "type", "selected", "zIndex", "data"})
_EDGE_KEYS = {"source": "", "sourceHandle": "source", "target": "", "targetHandle": "target"}
ENDS = frozenset(_EDGE_KEYS)
_APP_TEXT = frozenset({"name", "description", "icon", "icon_type", "icon_background", "use_icon_as_answer_icon"})
_PLUGIN_FIELDS = {
    "tool": frozenset({"paramSchemas", "params", "output_schema", "tool_description", "tool_label"}),
    "agent": frozenset({"output_schema", "agent_strategy_label"}),
    "datasource": frozenset({"datasource_label"}),
}
_NOT_SAID = ("isInIteration", "isInLoop")  # false is the same as absent
_PLUGIN_PATH = re.compile(r"[a-z0-9_-]+(/[a-z0-9_-]+/[a-z0-9_-]+)?")
_OPTIONAL = (
    *("kind", "dependencies", "features", "environment_variables", "conversation_variables"),
    "rag_pipeline_variables",
)
_NUMBERS = ("integer", "float")


def view(value: dict[str, Any]) -> Graph:
    """Total over mappings: parts of an unexpected shape go to `rest` as they are."""
    top = dict(value)
    derived: dict[str, Any] = {}
    app: dict[str, Any] = {"kind": top.pop("kind", None) or "app", "version": top.pop("version", None)}
    text: dict[str, Any] = {}
    for block in ("app", "rag_pipeline"):
        if isinstance(top.get(block), dict):
            fields = top.pop(block)
            text[block] = {key: item for key, item in fields.items() if key in _APP_TEXT}
            app[block] = {key: item for key, item in fields.items() if key not in _APP_TEXT}
    workflow = dict(top.pop("workflow")) if isinstance(top.get("workflow"), dict) else {}
    derived["absent"] = [key for block in (value, workflow) for key in _OPTIONAL if key not in block]
    nested = isinstance(workflow.get("graph"), dict)
    graph = dict(workflow.pop("graph")) if nested else workflow  # hand-written files leave the graph level out
    nodes, odd_nodes = split(graph, "nodes", _is_node)
    edges, odd_edges = split(graph, "edges", _is_edge)
    viewport = graph.pop("viewport", None)
    environment, odd_environment = split(workflow, "environment_variables", _is_named)
    conversation, odd_conversation = split(workflow, "conversation_variables", _is_named)
    dependencies, odd_dependencies = split(top, "dependencies", lambda item: isinstance(item, dict))
    derived["variables"] = unordered([_variable_style(item) for item in environment + conversation], once=True)
    derived["dependencies"] = unordered([_dependency_style(item) for item in dependencies], once=True)
    features = workflow.pop("features", None) or {}
    if workflow.get("rag_pipeline_variables") == []:
        del workflow["rag_pipeline_variables"]
    model_config = top.pop("model_config", None)
    if model_config is None and isinstance(top.get("agent"), dict):  # mode agent, since DSL 0.7
        model_config = {"agent": top.pop("agent")}
        app["settings"] = "agent"
    inner = filled({"environment_variables": odd_environment, "conversation_variables": odd_conversation})
    odd = filled({"nodes": odd_nodes, "edges": odd_edges})
    inner |= workflow | (filled({"graph": graph | odd}) if nested else odd)
    if not nested and isinstance(value.get("workflow"), dict):
        app["graph"] = "missing"  # where Dify looks for one
    parts = [_node(item, unique["id"]) for item, unique in zip(nodes, with_unique_ids(nodes), strict=True)]
    flag_repeated(parts, (str(item["id"]) for item in nodes))
    return Graph(
        app=app,
        text=text,
        nodes=[node for node in parts if not node.note],
        notes=[node for node in parts if node.note],
        edges=[_edge(item) for item in edges],
        environment=[_variable(item) for item in environment],
        conversation=[_variable(item) for item in conversation],
        dependencies=[_dependency(item) for item in dependencies],
        features=_spelled(features, derived, "features"),
        model_config=_spelled(model_config, derived, "model_config"),
        rest=top | filled({"workflow": inner, "dependencies": odd_dependencies}),
        viewport=viewport,
        derived=derived,
    )


def _is_node(item: Any) -> bool:
    return isinstance(item, dict) and is_id(item.get("id")) and isinstance(item.get("data") or {}, dict)


def _is_edge(item: Any) -> bool:
    return isinstance(item, dict) and all(
        is_id(item.get(key)) or (default and item.get(key) is None) for key, default in _EDGE_KEYS.items()
    )


def _is_named(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("name"), str)


def _node(raw: dict[str, Any], unique_id: Any) -> Node:
    outer = dict(raw)
    node_id = str(unique_id)
    if not isinstance(outer.pop("id"), str):
        outer["id"] = "number"
    data = dict(outer.pop("data", None) or {})
    layout: dict[str, Any] = {key: outer.pop(key) for key in list(outer) if key in _NODE_LAYOUT}
    outer_type = outer.get("type") if isinstance(outer.get("type"), str) else ""
    note = outer_type == "custom-note" or (data.get("type") == "" and "text" in data)
    noise = ("width", "height", "selected")
    layout |= {f"data.{key}": data.pop(key) for key in list(data) if key in noise or key.startswith("_")}
    text: dict[str, Any] = {}
    derived: dict[str, Any] = {}
    for key in ("title", "desc"):
        holder = data if key in data else outer  # hand-written files have them outside data
        if isinstance(holder.get(key), str):
            words = holder.pop(key)
            (text if words else derived)[key] = words
    node_type = data.get("type") if isinstance(data.get("type"), str) else ""
    config = _spelled(_config(str(node_type), data, derived), derived, "")
    if outer_type == "custom":
        del outer["type"]
    fields = Fields(config=config, outer=outer, text=text, layout=layout, derived=derived)
    title = short(text.get("title") or str(node_type or node_id))
    inside = str(outer["parentId"]) if is_id(outer.get("parentId")) else ""
    return fields.node(node_id, str(node_type or outer_type or "unknown"), title, note=note, inside=inside)


def _config(node_type: str, data: dict[str, Any], derived: dict[str, Any]) -> dict[str, Any]:
    for key in _PLUGIN_FIELDS.get(node_type, ()):
        if key in data:
            derived[key] = data.pop(key)
    for key in _NOT_SAID:
        if data.get(key, True) in (False, None):
            derived[key] = data.pop(key)
    if node_type == "if-else":
        _cases(data, derived)
    if node_type == "http-request" and isinstance(data.get("body"), dict):
        data["body"] = data["body"] | _without_ids(data["body"], "data", derived)
    for key in ("prompt_template", "break_conditions"):
        data |= _without_ids(data, key, derived)
    return data


def _cases(data: dict[str, Any], derived: dict[str, Any]) -> None:
    """Files before cases existed have one unnamed case; newer ones often keep a copy of it, which Dify ignores."""
    legacy = {key: data.pop(key) for key in ("conditions", "logical_operator") if key in data}
    if not data.get("cases"):
        if not legacy:
            return
        data["cases"] = [{"case_id": "true"} | legacy]
        derived["cases"] = None
    elif legacy:
        derived["legacy"] = legacy
    cases = data["cases"]
    if not isinstance(cases, list):
        return
    data["cases"] = [_case(case, derived, position) for position, case in enumerate(cases)]


def _case(case: Any, derived: dict[str, Any], position: int) -> Any:
    if not isinstance(case, dict):
        return case
    case = dict(case)
    if "case_id" in case and "id" in case:
        derived[f"cases.{position}.id"] = case.pop("id")
    elif "id" in case:
        case["case_id"] = case.pop("id")
    local: dict[str, Any] = {}
    case |= _without_ids(case, "conditions", local)
    derived |= {f"cases.{position}.{key}": item for key, item in local.items()}
    return case


def _without_ids(holder: dict[str, Any], key: str, derived: dict[str, Any]) -> dict[str, Any]:
    """The list under `key` without the ids that the editor gives its items and no run ever reads."""
    items = holder.get(key)
    if not isinstance(items, list) or not any(isinstance(item, dict) and "id" in item for item in items):
        return {}
    derived[f"{key}.id"] = [item.get("id") for item in items if isinstance(item, dict)]
    return {
        key: [
            {name: part for name, part in item.items() if name != "id"} if isinstance(item, dict) else item
            for item in items
        ]
    }


def _edge(raw: dict[str, Any]) -> Edge:
    ends = {key: str(default if raw.get(key) is None else raw[key]) for key, default in _EDGE_KEYS.items()}
    numbers = {key: "number" for key in _EDGE_KEYS if not isinstance(raw.get(key), (str, NoneType))}
    unknown = {key: item for key, item in raw.items() if key not in _EDGE_KEYS and key not in _EDGE_LAYOUT}
    return Edge(
        source=ends["source"],
        source_handle=ends["sourceHandle"],
        target=ends["target"],
        target_handle=ends["targetHandle"],
        extra=unknown | numbers,
        layout={key: item for key, item in raw.items() if key in _EDGE_LAYOUT},
    )


def _variable(raw: dict[str, Any]) -> dict[str, Any]:
    variable = {key: item for key, item in raw.items() if key != "selector"}
    if variable.get("value_type") in _NUMBERS:
        variable["value_type"] = "number"
    return variable


def _variable_style(raw: dict[str, Any]) -> list[Any]:
    return ["selector" in raw, raw.get("value_type") in _NUMBERS and raw["value_type"]]


def _dependency(raw: dict[str, Any]) -> dict[str, Any]:
    dependency = {key: item for key, item in raw.items() if key != "current_identifier"}
    inner = dependency.get("value")
    if isinstance(inner, dict) and inner.get("version", "") is None:
        dependency["value"] = {key: item for key, item in inner.items() if key != "version"}
    return dependency


def _dependency_style(raw: dict[str, Any]) -> list[Any]:
    inner = raw.get("value")
    return [raw.get("current_identifier", "absent"), isinstance(inner, dict) and "version" in inner]


def _spelled(value: Any, derived: dict[str, Any], path: str) -> Any:
    """Providers of models in their one spelling: `openai` and `langgenius/openai/openai` are the same plugin."""
    if isinstance(value, list):
        return [_spelled(item, derived, f"{path}[{index}]") for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    out = {}
    for key, item in value.items():
        if isinstance(item, str) and _holds_provider(value, key):
            out[key] = provider(item)
            derived[f"{path}.{key}"] = item
        else:
            out[key] = _spelled(item, derived, f"{path}.{key}") if isinstance(item, (dict, list)) else item
    return out


def _holds_provider(holder: dict[str, Any], key: str) -> bool:
    if key == "provider":
        return "name" in holder or "model" in holder
    return key in ("embedding_provider_name", "reranking_provider_name", "embedding_model_provider")


def provider(name: str) -> str:
    """`organisation/plugin/provider`, as Dify itself completes a short name."""
    if not _PLUGIN_PATH.fullmatch(name):
        return name
    organisation, plugin, short = name.split("/") if "/" in name else ("langgenius", name, name)
    if organisation == "langgenius" and short == "google":
        plugin = "gemini"
    return f"{organisation}/{plugin}/{short}"


def short_provider(name: str) -> str:
    """For people: `openai` for `langgenius/openai/openai`."""
    organisation, _, rest = name.partition("/")
    plugin, _, short = rest.partition("/")
    return short if organisation == "langgenius" and short and plugin in (short, "gemini") else name

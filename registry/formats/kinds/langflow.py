"""LangFlow: flows, as exported. Rules of what counts: docs/compare.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from registry.formats.graph.build import Fields, filled, flag_repeated, is_id, split, with_unique_ids
from registry.formats.graph.format import GraphFormat
from registry.formats.graph.model import Graph, Node
from registry.formats.graph.react_flow import (
    PARENTS,
    Declared,
    container,
    edge,
    first_text,
    is_edge,
    is_node,
    literals,
    named_secrets,
    take_layout,
    take_same_id,
)
from registry.formats.graph.rules import Rules
from registry.formats.model import ModelName, Read, Secret
from registry.formats.secrets.masking import is_placeholder, says_secret, short
from registry.formats.values.canonical import canonical

Path = tuple[str | int, ...]

_TEXT = frozenset({"name", "description", "icon", "icon_bg_color", "gradient", "tags"})
_STAMPS = frozenset(
    {"id", "user_id", "folder_id", "folder", "updated_at", "created_at", "date_created", "last_tested_version"}
    | {"locked", "fs_path"}
)
_APP = frozenset({"endpoint_name", "is_component", "webhook", "mcp_enabled", "action_name", "action_description"})
_OWN_KEYS = ("endpoint_name", "last_tested_version")  # of a flow without nodes
_DERIVED = frozenset(  # of a component: all of it follows from its code
    {"base_classes", "beta", "conditional_paths", "custom_fields", "documentation", "edited", "error", "field_order"}
    | {"full_path", "icon", "is_composition", "is_input", "is_output", "key", "last_updated", "legacy", "lf_version"}
    | {"metadata", "minimized", "name", "official", "output_types", "outputs", "pinned", "priority", "replacement"}
    | {"score", "i18n_key"}
)
_SWITCHES = ("frozen", "tool_mode")  # false is the same as absent
_PLAIN_TYPES = (None, "str", "code", "other")
_STAMPED_FIELDS = "_frontend_node_"
_CALLING = frozenset({"RunFlow", "SubFlow", "FlowTool"})
_NO_PROVIDER = re.compile(r"Component|Embeddings?|Model|Chat|LLM")
_NO_MODEL = ("custom", "connect other models")  # an agent that takes its model from an edge


class LangFlowRules(Rules):
    def rename(self, value: Any, names: Mapping[str, str]) -> Any:
        """No component names another one; only a container is named."""
        if not isinstance(value, dict) or not any(isinstance(value.get(key), str) for key in PARENTS):
            return value
        known = {key: names.get(value[key], value[key]) for key in PARENTS if isinstance(value.get(key), str)}
        return value | known

    def models(self, node_type: str, config: Any) -> Iterator[tuple[str, ModelName]]:
        fields = config.get("template") if isinstance(config, dict) else None
        if not isinstance(fields, dict):
            return
        said = fields.get("agent_llm") or fields.get("provider")
        provider = said if isinstance(said, str) else _NO_PROVIDER.sub("", node_type)
        for field in ("model_name", "model", "model_id"):
            chosen = fields.get(field)
            if isinstance(chosen, str) and chosen and provider.lower() not in _NO_MODEL:
                yield f"template.{field}", ModelName(provider=short(provider.lower()), name=short(chosen))
            for index, item in enumerate(chosen if isinstance(chosen, list) else []):
                if isinstance(item, dict) and isinstance(item.get("name"), str) and item["name"]:
                    maker = item["provider"] if isinstance(item.get("provider"), str) else provider
                    name = ModelName(provider=short(maker.lower()), name=short(item["name"]))
                    yield f"template.{field}[{index}]", name


class LangFlow(GraphFormat):
    kind = "langflow"
    called = "a LangFlow flow"
    rules: Rules = LangFlowRules()

    def fits(self, value: Any) -> bool:
        if not _is_flow(value):
            return False
        return any(map(_is_own, value["data"]["nodes"])) or any(key in value for key in _OWN_KEYS)

    def view(self, value: Any) -> Graph:
        return _view(value)

    def facts(self, value: Any, graph: Graph) -> dict[str, Any]:
        facts = {
            "name": graph.text.get("name"),
            "id": graph.derived.get("id"),
            "endpoint": graph.app.get("endpoint_name"),
            "version": graph.derived.get("last_tested_version"),
        }
        return {key: item for key, item in facts.items() if isinstance(item, str)} | {"notes": len(graph.notes) or ""}

    def secrets(self, read: Read) -> list[Secret]:
        """Fields that are passwords, where the value is written down and is not the name of a global variable."""
        return named_secrets(list(_declared(read.value, ())))

    def requires(self, read: Read) -> list[str]:
        return sorted({f"langflow:{name}" for node in read.view.nodes for name in _called(node)})


def _is_flow(value: Any) -> bool:
    data = value.get("data") if isinstance(value, dict) else None
    return isinstance(data, dict) and isinstance(data.get("nodes"), list) and isinstance(data.get("edges"), list)


def _is_own(item: Any) -> bool:
    component = item["data"].get("node") if is_node(item) else None
    return isinstance(component, dict) and isinstance(component.get("template"), dict)


def _view(value: dict[str, Any]) -> Graph:
    top = dict(value)
    data = dict(top.pop("data"))
    nodes, odd_nodes = split(data, "nodes", is_node)
    edges, odd_edges = split(data, "edges", is_edge)
    viewport = data.pop("viewport", None)
    unset = {key: top.pop(key) for key in list(top) if key in _APP | _STAMPS and top[key] in (None, False, "")}
    derived = {key: top.pop(key) for key in list(top) if key in _STAMPS} | filled({"unset": unset})
    parts = [_node(item) for item in with_unique_ids(nodes)]
    flag_repeated(parts, (str(item["id"]) for item in nodes))
    return Graph(
        app={key: top.pop(key) for key in sorted(_APP & top.keys())},
        text={key: top.pop(key) for key in list(top) if key in _TEXT},
        nodes=[node for node in parts if not node.note],
        notes=[node for node in parts if node.note],
        edges=[edge(item, _port(item, "source"), _port(item, "target")) for item in edges],
        rest=top | filled({"data": data | filled({"nodes": odd_nodes, "edges": odd_edges})}),
        viewport=viewport,
        derived=derived,
    )


def _node(raw: dict[str, Any]) -> Node:
    outer = dict(raw)
    node_id = str(outer.pop("id"))
    data = dict(outer.pop("data"))
    title = _title(data, node_id)
    layout = take_layout(outer)
    if "showNode" in data:
        layout["data.showNode"] = data.pop("showNode")
    node_type = data["type"] if isinstance(data.get("type"), str) else ""
    note = outer.get("type") == "noteNode" or node_type in ("note", "noteNode")
    derived: dict[str, Any] = {}
    text: dict[str, Any] = {}
    config: dict[str, Any] = {}
    take_same_id(data, node_id, derived)
    if isinstance(data.get("node"), dict):
        component = dict(data.pop("node"))
        for key in ("display_name", "description"):
            if key in data:
                derived[f"data.{key}"] = data.pop(key)
            # An agent's model is offered a component in tool mode under them.
            if isinstance(component.get(key), str) and component.get("tool_mode") is not True:
                words = component.pop(key)
                (text if words else derived)[key] = words
        if note and "template" in component:
            layout["template"] = component.pop("template")
        config = _component(component, derived)
        if outer.get("type") in ("genericNode", "noteNode"):
            derived["node.type"] = outer.pop("type")
    if node_type:
        config["type"] = data.pop("type")
    node_type = first_text(node_type, outer.get("type"), "unknown")
    fields = Fields(config=config | filled({"data": data}), outer=outer, text=text, layout=layout, derived=derived)
    return fields.node(node_id, node_type, title, note=note, inside=container(outer))


def _title(data: dict[str, Any], node_id: str) -> str:
    component = data.get("node")
    name = component.get("display_name") if isinstance(component, dict) else None
    return short(first_text(name, data.get("type"), node_id))


def _component(component: dict[str, Any], derived: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if isinstance(component.get("template"), dict):
        config |= _fields(component.pop("template"), derived)
    for key in _SWITCHES:
        if key in component:
            switch = component.pop(key)
            (derived if switch in (None, False) else config)[key] = switch
    if _is_flow(component.get("flow")):
        derived["flow"] = component.pop("flow")
        config["flow"] = _inner(_view(derived["flow"]))
    derived |= {key: component.pop(key) for key in list(component) if key in _DERIVED}
    return config | filled({"node": component})


def _inner(flow: Graph) -> dict[str, Any]:
    """The meaning of the flow inside a group of components, as a plain value that can be compared and masked."""
    return {
        "nodes": {node.id: node.meaning() for node in flow.nodes},
        "edges": sorted(list(edge.key) for edge in flow.edges),
    } | filled({"app": flow.app, "rest": flow.rest})


def _fields(template: dict[str, Any], derived: dict[str, Any]) -> dict[str, Any]:
    """Values by field; beside them, by field as well, what else decides what a run gets."""
    described: dict[str, Any] = {}
    values: dict[str, Any] = {}
    beside: dict[str, dict[str, Any]] = {"load_from_db": {}, "file_path": {}, "input_type": {}, "not_passed": {}}
    for name, field in template.items():
        if not isinstance(field, dict) or name.startswith(_STAMPED_FIELDS):
            described[name] = field
            continue
        about = dict(field)
        if about.get("file_path"):
            beside["file_path"][name] = about.pop("file_path")
        if about.get("load_from_db") is True:
            beside["load_from_db"][name] = about.pop("load_from_db")
        described[name] = about
        if "value" not in field:
            continue
        value = about.pop("value")
        if field.get("type") not in _PLAIN_TYPES:
            beside["input_type"][name] = field["type"]
        if value not in (None, "") and not _is_passed(name, field):
            beside["not_passed"][name] = True
        if _holds_secret(field):
            if value is None or is_placeholder(value):  # left out by an export: whatever stands there says no more
                about["value"] = value
                continue
            if says_secret(value):
                value = {"value": value, "value_type": "secret"}
        values[name] = value
    derived["template"] = described
    return {"template": values} | filled(beside)


def _is_passed(name: str, field: dict[str, Any]) -> bool:
    """Whether LangFlow hands the field's value to the component: hidden ones keep theirs, and it is not used."""
    return bool(name == "code" or field.get("override_skip") or (field.get("show") and field.get("type") != "other"))


def _port(raw: dict[str, Any], end: str) -> str:
    """The name of the output or field behind a handle, which is there as an object and as text with œ for quotes."""
    data, text = raw.get("data"), raw.get(f"{end}Handle")
    for handle in (data.get(f"{end}Handle") if isinstance(data, dict) else None, _handle(text)):
        for key in ("fieldName", "name"):
            if isinstance(handle, dict) and isinstance(handle.get(key), str) and handle[key]:
                return str(handle[key])
    if isinstance(text, str):  # before 1.0: `BaseLLM|llm|LLMChain-a1b2c`
        return "|".join(part for part in text.split("|") if part != str(raw[end]))
    return "" if text is None else canonical(text)


def _handle(text: Any) -> Any:
    if not isinstance(text, str) or "œ" not in text:
        return None
    try:
        return json.loads(text.replace("œ", '"'))
    except (ValueError, RecursionError):
        return None


def _declared(flow: dict[str, Any], path: Path) -> Iterator[Declared]:
    for position, node in enumerate(flow["data"]["nodes"]):
        data = node.get("data") if isinstance(node, dict) else None
        component = data.get("node") if isinstance(data, dict) else None
        if not isinstance(data, dict) or not isinstance(component, dict):
            continue
        below = (*path, "data", "nodes", position, "data", "node")
        node_id = str(node.get("id"))
        title = _title(data, node_id)
        template = component.get("template")
        for name, field in template.items() if isinstance(template, dict) else ():
            if _holds_secret(field):
                for rest, value in literals(field.get("value")):
                    whole = (*below, "template", name, "value", *rest)
                    yield Declared(title, node_id, short(name), whole, value)
        if _is_flow(component.get("flow")):
            yield from _declared(component["flow"], (*below, "flow"))


def _holds_secret(field: Any) -> bool:
    """Not the name of a global variable, which says nothing."""
    return isinstance(field, dict) and field.get("password") is True and field.get("load_from_db") is not True


def _called(node: Node) -> Iterator[str]:
    """The flow that a component runs, by name, as people choose it; by id where no name was kept."""
    fields = node.config.get("template")
    if node.type not in _CALLING or not isinstance(fields, dict):
        return
    keys = ("flow_name_selected", "flow_name", "flow_id_selected", "flow_id")
    names = [fields[key] for key in keys if isinstance(fields.get(key), str) and fields[key] and is_id(fields[key])]
    yield from names[:1]

"""Flowise: chatflows and agentflows, as exported. Rules of what counts: docs/compare.md."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

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
from registry.formats.secrets.masking import is_placeholder, marked, says_secret, short
from registry.formats.values.canonical import canonical
from registry.formats.values.compare import join

Path = tuple[str | int, ...]

_LISTS = ("inputParams", "inputAnchors", "outputAnchors", "baseClasses")  # what tells its nodes from others' nodes
_DERIVED = frozenset(
    {*_LISTS, "category", "description", "filePath", "icon", "color", "hideInput", "hideOutput", "tags", "badge"}
    | {"author", "documentation", "warning", "deprecateMessage"}
)
_TEXT = frozenset({"name", "description", "usecases", "framework", "badge", "categories", "icon", "iconSrc"})
_NOTES = ("stickyNote", "stickyNoteAgentflow")
_CALLS = frozenset({"selectedChatflow", "selectedAgentflow", "executeFlowSelectedFlow"})
_MODEL_FIELDS = ("modelName", "model")
_REFERENCE = re.compile(r"""((?:\{\{\s*|data-(?:id|label)=\\?["']))([^\s{}.|"'\\<>&]+)""")
_NO_PROVIDER = re.compile(r"_?LlamaIndex|Chat|chat|Embeddings?|Custom|LLM")


class FlowiseRules(Rules):
    start: ClassVar[str] = "startAgentflow"

    def branch(self, source: Node | None, handle: str) -> str:
        if source is None or handle in ("", source.type):
            return ""
        inputs = source.config.get("inputs")
        fields = inputs if isinstance(inputs, dict) else {}
        if handle.isdecimal():
            index = int(handle[:9])
            if source.type == "conditionAgentflow":
                count = len(_list(fields.get("conditions")))
                return "else" if index >= count > 0 else "if" if index == 0 else f"else if {index}"
            if source.type == "conditionAgentAgentflow":
                cases = _list(fields.get("conditionAgentScenarios"))
                case = cases[index] if index < len(cases) else None
                return short(str(case.get("scenario") or handle)) if isinstance(case, dict) else handle
            if source.type == "humanInputAgentflow":
                return {0: "proceed", 1: "reject"}.get(index, handle)
        return short(handle)

    def rename(self, value: Any, names: Mapping[str, str]) -> Any:
        """References are `{{id.data.instance}}`, `{{ id.output }}` and mentions in HTML; a loop names `id-label`."""
        if isinstance(value, dict):
            return {key: self._renamed(key, item, names) for key, item in value.items()}
        if isinstance(value, list):
            return [self.rename(item, names) for item in value]
        if isinstance(value, str) and ("{{" in value or "data-" in value):
            return _REFERENCE.sub(lambda found: found[1] + names.get(found[2], found[2]), value)
        return value

    def _renamed(self, key: str, item: Any, names: Mapping[str, str]) -> Any:
        if isinstance(item, str) and key in PARENTS:
            return names.get(item, item)
        if isinstance(item, str) and key == "loopBackToNode":
            node_id, dash, label = item.partition("-")
            return names.get(node_id, node_id) + dash + label
        return self.rename(item, names)

    def models(self, node_type: str, config: Any) -> Iterator[tuple[str, ModelName]]:
        inputs = config.get("inputs") if isinstance(config, dict) else None
        if isinstance(inputs, dict):
            yield from _models(inputs, node_type, "inputs")
            yield from _chosen_models(inputs, "inputs")


class Flowise(GraphFormat):
    kind = "flowise"
    called = "a Flowise flow"
    rules: Rules = FlowiseRules()

    def fits(self, value: Any) -> bool:
        if not isinstance(value, dict) or not isinstance(value.get("edges"), list):
            return False
        nodes = value.get("nodes")
        return isinstance(nodes, list) and any(map(_is_own, nodes))

    def view(self, value: Any) -> Graph:
        top = dict(value)
        nodes, odd_nodes = split(top, "nodes", is_node)
        odd_nodes = [marked(item, [path for path, _ in _secrets(item)]) for item in odd_nodes]
        edges, odd_edges = split(top, "edges", is_edge)
        viewport = top.pop("viewport", None)
        text = {key: top.pop(key) for key in list(top) if key in _TEXT}
        app = {"type": top.pop("type")} if "type" in top else {}
        parts = [_node(item) for item in with_unique_ids(nodes)]
        flag_repeated(parts, (str(item["id"]) for item in nodes))
        ports = {str(item["id"]): _ports(item["data"]) for item in nodes}
        return Graph(
            app=app,
            text=text,
            nodes=[node for node in parts if not node.note],
            notes=[node for node in parts if node.note],
            edges=[
                edge(item, _port(item, "source", "-output-", ports), _port(item, "target", "-input-", ports))
                for item in edges
            ],
            rest=top | filled({"nodes": odd_nodes, "edges": odd_edges}),
            viewport=viewport,
        )

    def facts(self, value: Any, graph: Graph) -> dict[str, Any]:
        name = graph.text.get("name")
        return {
            "name": name if isinstance(name, str) else "",
            "flow": _flow(graph),
            "notes": len(graph.notes) or "",
        }

    def secrets(self, read: Read) -> list[Secret]:
        """Inputs whose parameter is a password, where the value itself is written down, also in a list or mapping."""
        found = []
        for position, node in enumerate(read.value["nodes"]):
            for path, value in _secrets(node):
                node_id, field = str(node.get("id")), short(".".join(map(str, path[2:])))
                found.append(Declared(_title(node["data"], node_id), node_id, field, ("nodes", position, *path), value))
        return named_secrets(found)

    def requires(self, read: Read) -> list[str]:
        called = {name for node in read.view.nodes for name in _called(node.config.get("inputs"))}
        return sorted(f"flowise:{name}" for name in called)


def _is_own(item: Any) -> bool:
    """The lists that Flowise fills in are in no other format drawn with React Flow."""
    if not is_node(item) or not isinstance(item["data"].get("name"), str):
        return False
    return any(isinstance(item["data"].get(key), list) for key in _LISTS)


def _title(data: dict[str, Any], node_id: str) -> str:
    return short(first_text(data.get("label"), data.get("name"), node_id))


def _node(raw: dict[str, Any]) -> Node:
    outer = dict(raw)
    node_id = str(outer.pop("id"))
    data = dict(outer.pop("data"))
    title = _title(data, node_id)
    layout = take_layout(outer)
    if "selected" in data:
        layout["data.selected"] = data.pop("selected")
    derived = {key: data.pop(key) for key in list(data) if key in _DERIVED}
    take_same_id(data, node_id, derived)
    text = {"label": data.pop("label")} if isinstance(data.get("label"), str) else {}
    name = data.get("name") if isinstance(data.get("name"), str) else ""
    note = outer.get("type") == "stickyNote" or name in _NOTES
    node_type = first_text(name, data.get("type"), outer.get("type"), "unknown")
    if name:  # the others follow from it
        derived |= {"type": data.pop("type")} if "type" in data else {}
        derived |= {"node.type": outer.pop("type")} if "type" in outer else {}
    if isinstance(data.get("inputs"), dict):
        left_out: list[Any] = []
        data["inputs"] = _marked(data["inputs"], _password_fields(derived.get("inputParams"), {}), left_out)
        derived |= filled({"left_out": left_out})
    fields = Fields(config=data, outer=outer, text=text, layout=layout, derived=derived)
    return fields.node(node_id, node_type, title, note=note, inside=container(outer))


def _password_fields(params: Any, found: dict[str, Any]) -> dict[str, Any]:
    """Names of inputs that are passwords, as keys; of lists whose items hold some, a mapping of those."""
    for param in _list(params):
        if not isinstance(param, dict):
            continue
        _password_fields(param.get("tabs"), found)
        name = param.get("name")
        inner = True if param.get("type") == "password" else _password_fields(param.get("array"), {})
        if isinstance(name, str) and inner:
            found.setdefault(name, inner)
    return found


def _passwords(inputs: dict[str, Any], fields: dict[str, Any]) -> Iterator[tuple[Path, Any]]:
    """What stands at the places of passwords, with the path of each."""
    for name in sorted(inputs.keys() & fields.keys()):
        if fields[name] is True:
            yield (name,), inputs[name]
            continue
        for index, item in enumerate(_list(inputs[name])):
            if isinstance(item, dict):
                for path, value in _passwords(item, fields[name]):
                    yield (name, index, *path), value


def _secrets(node: Any) -> Iterator[tuple[Path, Any]]:
    """Passwords that are written down, of a node in whatever shape it is."""
    data = node.get("data") if isinstance(node, dict) else None
    if isinstance(data, dict) and isinstance(data.get("inputs"), dict):
        for path, value in _passwords(data["inputs"], _password_fields(data.get("inputParams"), {})):
            for below, literal in literals(value):
                yield ("data", "inputs", *path, *below), literal


def _marked(inputs: dict[str, Any], fields: dict[str, Any], left_out: list[Any]) -> dict[str, Any]:
    """A copy with passwords marked as what they are, without those that say nothing, as in an export."""
    out = dict(inputs)
    for name in sorted(inputs.keys() & fields.keys()):
        value = inputs[name]
        if fields[name] is not True:
            if isinstance(value, list):
                out[name] = [
                    _marked(each, fields[name], left_out) if isinstance(each, dict) else each for each in value
                ]
        elif value is None or is_placeholder(value):
            left_out.append([name, out.pop(name)])
        elif says_secret(value):
            out[name] = {"value": value, "value_type": "secret"}
    return out


def _ports(data: dict[str, Any]) -> dict[str, str]:
    """Handle -> name of the input or output that it stands for, where that tells it from the others."""
    out: dict[str, str] = {}
    for keys in (("inputAnchors", "inputParams"), ("outputAnchors",)):
        anchors = [anchor for key in keys for anchor in _list(data.get(key)) if isinstance(anchor, dict)]
        anchors += [each for anchor in anchors for each in _list(anchor.get("options")) if isinstance(each, dict)]
        pairs = {each["id"]: str(each["name"]) for each in anchors if is_id(each.get("id")) and is_id(each.get("name"))}
        counts = Counter(pairs.values())
        out |= {str(handle): name for handle, name in pairs.items() if counts[name] == 1}
    return out


def _port(raw: dict[str, Any], end: str, between: str, ports: Mapping[str, Mapping[str, str]]) -> str:
    """The name behind a handle such as `chatOpenAI_0-output-chatOpenAI-ChatOpenAI|BaseChatModel`."""
    node_id, handle = str(raw[end]), raw.get(f"{end}Handle")
    if handle is None or handle == node_id:
        return ""
    if not isinstance(handle, str):
        return canonical(handle)
    return ports.get(node_id, {}).get(handle, handle.removeprefix(node_id + between))


def _flow(graph: Graph) -> str:
    if any(node.type.endswith("Agentflow") for node in graph.nodes):
        return "agentflow v2"
    categories = {canonical(node.derived.get("category")) for node in graph.nodes}
    return "agentflow v1" if categories & {'"Sequential Agents"', '"Multi Agents"'} else "chatflow"


def _models(inputs: dict[str, Any], component: str, path: str) -> Iterator[tuple[str, ModelName]]:
    for field in _MODEL_FIELDS:
        name = inputs.get(field)
        if isinstance(name, str) and name and "{{" not in name:
            yield join(path, field), ModelName(provider=short(_provider(component)), name=short(name))


def _chosen_models(value: Any, path: str) -> Iterator[tuple[str, ModelName]]:
    """Agentflows choose a component by name, with its inputs beside it: `llmModel` and `llmModelConfig`."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _chosen_models(item, f"{path}[{index}]")
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        component = value.get(key.removesuffix("Config"))
        if key.endswith("Config") and isinstance(item, dict) and isinstance(component, str):
            yield from _models(item, component, join(path, key))
        yield from _chosen_models(item, join(path, key))


def _provider(component: str) -> str:
    """`openai` for `chatOpenAI` and `openAIEmbeddings`."""
    return (_NO_PROVIDER.sub("", component) or component).lower()


def _called(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _called(item)
    if isinstance(value, dict):
        for key, item in value.items():
            if key in _CALLS and isinstance(item, str) and item and is_id(item) and "{{" not in item:
                yield item
            yield from _called(item)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []

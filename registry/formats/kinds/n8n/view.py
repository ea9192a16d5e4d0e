"""An n8n workflow taken apart: what it does, what is only text for people, and what is noise. Rules: docs/compare.md.

n8n names nodes where others have ids: in its connections and in expressions. Here they have ids everywhere, so that a
node which is renamed together with everything that names it stays the same node.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from registry.formats.graph.build import Fields, filled, flag_repeated, is_id, split, with_unique_ids
from registry.formats.graph.model import Edge, Graph, Node, unordered
from registry.formats.secrets.masking import short

NOTE = "n8n-nodes-base.stickyNote"
OWN_PACKAGES = frozenset({"n8n-nodes-base", "@n8n/n8n-nodes-langchain"})
_SERVER = (  # what the server that exported it adds
    *("id", "active", "pinData", "staticData", "meta", "versionId", "activeVersionId", "activeVersion"),
    *("versionCounter", "triggerCount", "createdAt", "updatedAt", "shared", "homeProject", "sharedWithProjects"),
    *("parentFolder", "parentFolderId", "isArchived", "scopes", "usedCredentials"),
)
_TEXT = ("name", "description", "tags")
_NOT_SAID = ("disabled", "retryOnFail", "continueOnFail", "executeOnce", "alwaysOutputData")  # false is absent
_NODE_LAYOUT = ("notesInFlow", "color")
_NOTE_LAYOUT = ("width", "height", "color")
_TARGET = ("node", "type", "index")
_CACHED = ("cachedResultName", "cachedResultUrl")  # of what was picked from a list: for the editor
_CODE = frozenset({"jsCode", "pythonCode", "functionCode", "code", "html"})
_INPUTS = {  # node type -> the mapping around its list of inputs, and the fields that may name one
    "n8n-nodes-base.executeWorkflowTrigger": ("workflowInputs", ("name",)),
    "n8n-nodes-base.formTrigger": ("formFields", ("fieldName", "fieldLabel")),
}
# $('name'), $node["name"], $items("name", ...), and the same with _ in Python
_REFERENCE = re.compile(
    r"(?<![\w.$])(?P<before>[$_](?:items)?\(\s*|[$_]node\[\s*)(?P<quote>['\"`])"
    r"(?P<name>(?:\\.|(?!(?P=quote))[^\\])*)(?P=quote)"
)
_ADDRESSED = frozenset(  # answer requests, under an address that is made of the node's name if there is no webhookId
    {f"n8n-nodes-base.{kind}" for kind in ("webhook", "formTrigger")}
    | {f"@n8n/n8n-nodes-langchain.{kind}" for kind in ("chatTrigger", "mcpTrigger")}
)
# The names that an expression can read beside those in references: of the node before, and of the workflow.
_READS_NODE_NAMES = re.compile(r"(?<![\w.$])[$_]prevNode\b(?!\s*\??\.\s*(?:outputIndex|runIndex)\b)")
_READS_OWN_NAME = re.compile(r"(?<![\w.$])[$_]workflow\b(?!\s*\??\.\s*(?:id|active)\b)")
_DOTTED = re.compile(r"(?<![\w.$])([$_]node)\.([^\W\d]\w*)")


def unwrapped(value: Any) -> tuple[Any, str]:
    """The workflow, and what it stood in: a list of one, as the command line exports, or a reply's `data`."""
    if isinstance(value, list) and len(value) == 1:
        return value[0], "list"
    if isinstance(value, dict) and list(value) == ["data"]:
        return value["data"], "data"
    return value, ""


def is_workflow(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("connections"), dict):
        return False
    nodes = value.get("nodes")
    if not isinstance(nodes, list):
        return False
    if not nodes:
        return isinstance(value.get("settings"), dict) or "versionId" in value
    return any(_is_node(item) and "parameters" in item and isinstance(item.get("position"), list) for item in nodes)


def view(value: Any) -> Graph:
    """Total over workflows: parts of an unexpected shape go to `rest` as they are."""
    raw, wrapped = unwrapped(value)
    top = dict(raw)
    derived: dict[str, Any] = {key: top.pop(key) for key in _SERVER if key in top}
    derived |= {"absent": [key for key in _SERVER if key not in raw], "wrapped": wrapped}
    items, odd_nodes = split(top, "nodes", _is_node)
    expressions = [text for item in items for text in _expressions(item.get("parameters"))]
    app = {"name": top.pop("name")} if "name" in top and any(map(_READS_OWN_NAME.search, expressions)) else {}
    text = {key: top.pop(key) for key in _TEXT if key in top}
    ids = [str(item["id"]) for item in with_unique_ids([{"id": _own_id(item)} for item in items])]
    names: dict[str, str] = {}
    for item, node_id in zip(items, ids, strict=True):
        if isinstance(item.get("name"), str):
            names.setdefault(item["name"], node_id)
    named = any(map(_READS_NODE_NAMES.search, expressions))
    nodes = [_node(item, node_id, names, named) for item, node_id in zip(items, ids, strict=True)]
    flag_repeated(nodes, map(_own_id, items))
    ranked = not (isinstance(top.get("settings"), dict) and top["settings"].get("executionOrder") == "v1")
    edges, odd_connections, empty = _connections(top.pop("connections"), names, frozenset(ids), ranked)
    derived["connections"] = unordered(empty)
    return Graph(
        app=app,
        text=text,
        nodes=[node for node in nodes if not node.note],
        notes=[node for node in nodes if node.note],
        edges=edges,
        dependencies=_dependencies(items),
        rest=top | filled({"nodes": odd_nodes, "connections": odd_connections}),
        derived=derived,
    )


def mark(node_id: str) -> str:
    """How a node is named inside an expression."""
    return f"«{node_id}»"


def _is_node(item: Any) -> bool:
    return (
        isinstance(item, dict)
        and isinstance(item.get("type"), str)
        and isinstance(item.get("parameters") or {}, dict)
        and _own_id(item) != ""
    )


def _own_id(item: dict[str, Any]) -> str:
    """Its id; of older files, which have none, its name."""
    found = next((item[key] for key in ("id", "name") if is_id(item.get(key)) and item[key] != ""), "")
    return str(found)


def _expressions(value: Any, key: str = "") -> Iterator[str]:
    """Texts below that n8n runs."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _expressions(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _expressions(item)
    elif isinstance(value, str) and _is_expression(value, key):
        yield value


def _is_expression(text: str, key: str) -> bool:
    return text.startswith("=") or key in _CODE


def _node(raw: dict[str, Any], node_id: str, names: Mapping[str, str], named: bool) -> Node:
    """`named`: some expression reads names of nodes."""
    outer = dict(raw)
    node_type = outer["type"]
    derived: dict[str, Any] = {}
    if outer.get("id") != node_id:
        derived["id"] = outer.get("id", "absent")
    outer.pop("id", None)
    if not outer.get("parameters"):
        derived["parameters"] = outer.get("parameters", "absent")
    config = dict(outer.pop("parameters", None) or {})
    layout = {key: outer.pop(key) for key in _NODE_LAYOUT if key in outer}
    position = outer.pop("position", "absent")
    (derived if position in (None, "absent") else layout)["position"] = position
    derived |= {key: outer.pop(key) for key in _NOT_SAID if outer.get(key, True) in (False, None)}
    title = outer["name"] if isinstance(outer.get("name"), str) else ""
    addressed = node_type in _ADDRESSED and "webhookId" not in outer
    kept = ("name",) if named or addressed or _is_tool(node_type, config) else ()
    text: dict[str, Any] = {}
    for key in ("name", "notes"):
        if isinstance(outer.get(key), str) and key not in kept:
            words = outer.pop(key)
            (text if words else derived)[key] = words
    note = node_type == NOTE
    if note:
        layout |= {f"parameters.{key}": config.pop(key) for key in _NOTE_LAYOUT if key in config}
    else:
        _accounts(outer)
        _webhook(node_type, config, outer, derived)
        canonical = _Config(names)
        config = canonical.of(config)
        _inputs(node_type, config, outer)
        derived |= filled({"dropped": unordered(canonical.dropped)})
    fields = Fields(config=config, outer=outer, text=text, layout=layout, derived=derived)
    return fields.node(node_id, node_type, short(title or node_type), note=note)


def _is_tool(node_type: str, config: dict[str, Any]) -> bool:
    """Whether an agent's model sees the node's name: it is the name of the tool."""
    kind = node_type.rpartition(".")[2]
    return kind.startswith("tool") or kind.endswith("Tool") or config.get("mode") == "retrieve-as-tool"


def _accounts(outer: dict[str, Any]) -> None:
    """Credentials are ids and names of accounts. Under this word they are shown; anything else stays hidden."""
    found = outer.get("credentials")
    if isinstance(found, dict) and "accounts" not in outer and all(map(_is_account, found.values())):
        outer["accounts"] = outer.pop("credentials")


def _is_account(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() <= {"id", "name"} and all(map(_is_short, value.values()))


def _is_short(value: Any) -> bool:
    return value is None or is_id(value)


def _webhook(node_type: str, config: dict[str, Any], outer: dict[str, Any], derived: dict[str, Any]) -> None:
    """The address of a webhook with a fixed path is that path if there is a webhookId, whatever it is."""
    path = config.get("path")
    fixed = node_type == "n8n-nodes-base.webhook" and isinstance(path, str) and path and ":" not in path
    if fixed and "webhookId" in outer:
        derived["webhookId"], outer["webhookId"] = outer["webhookId"], True


def _inputs(node_type: str, config: dict[str, Any], outer: dict[str, Any]) -> None:
    """What the workflow is started with, as one list: `inputs`, each with a `variable`."""
    if node_type not in _INPUTS:
        return
    if "inputs" in config:
        outer["parameters"] = {"inputs": config.pop("inputs")}
    holder, names = _INPUTS[node_type]
    block = config.get(holder)
    values = block.get("values") if isinstance(block, dict) else None
    if not isinstance(block, dict) or not isinstance(values, list):
        return
    inputs = [_input(item, names) for item in values]
    if all(inputs):
        config |= {"inputs": inputs, holder: {key: item for key, item in block.items() if key != "values"}}


def _input(item: Any, names: tuple[str, ...]) -> dict[str, Any] | None:
    if not isinstance(item, dict) or "variable" in item or "required" in item:
        return None
    name = next((item[key] for key in names if isinstance(item.get(key), str) and item[key]), None)
    if name is None:
        return None
    spelled = {"required" if key == "requiredField" else key: part for key, part in item.items()}
    return {"variable": name} | spelled


class _Config:
    """Parameters of one node in their canonical form, and what that does not hold."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self.dropped: list[Any] = []

    def of(self, value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            if value.get("__rl") is True:
                value = self._without(value, _CACHED)
            return {name: self.of(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [self._item(item, key) for item in value]
        if isinstance(value, str) and _is_expression(value, key):
            return self._expression(value)
        return value

    def _item(self, item: Any, key: str) -> Any:
        """Conditions and assignments have ids that only the editor reads."""
        listed = key in ("conditions", "assignments") and isinstance(item, dict)
        if listed and ("leftValue" in item or {"name", "value"} <= item.keys()):
            item = self._without(item, ("id",))
        return self.of(item)

    def _without(self, value: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
        self.dropped += [[key, value[key]] for key in keys if key in value]
        return {key: item for key, item in value.items() if key not in keys}

    def _expression(self, text: str) -> str:
        """With ids for the names of nodes."""

        def quoted(found: re.Match[str]) -> str:
            written = found["name"]
            name = re.sub(r"\\(.)", r"\1", written)
            if name not in self._names:
                return found[0] if not written.startswith("«") else found[0].replace("«", "««", 1)
            if name != written:
                self.dropped.append(written)
            return f"{found['before']}{found['quote']}{mark(self._names[name])}{found['quote']}"

        def dotted(found: re.Match[str]) -> str:
            if found[2] not in self._names:
                return found[0]
            self.dropped.append(f".{mark(self._names[found[2]])}")
            return f'{found[1]}["{mark(self._names[found[2]])}"]'

        return _DOTTED.sub(dotted, _REFERENCE.sub(quoted, text))


def _connections(
    raw: dict[str, Any], names: Mapping[str, str], ids: frozenset[str], ranked: bool
) -> tuple[list[Edge], dict[str, Any], list[Any]]:
    """Edges, what does not fit, and what says nothing: outputs that are listed without a target."""
    edges: list[Edge] = []
    odd: dict[str, Any] = {}
    empty: list[Any] = []
    for name in sorted(raw):
        source, kinds = _end(name, names, ids), raw[name]
        if not isinstance(kinds, dict):
            odd[name] = kinds
            continue
        if not kinds:
            empty.append([source])
        for kind in sorted(kinds):
            outputs = kinds[kind]
            if not isinstance(outputs, list):
                odd.setdefault(name, {})[kind] = outputs
                continue
            if not outputs or outputs[-1] in (None, []):
                empty.append([source, kind, len(outputs)])
            for index, targets in enumerate(outputs):
                listed = targets if isinstance(targets, list) else []
                if targets is None:
                    empty.append([source, kind, index, None])
                elif targets is not listed:
                    odd.setdefault(name, {}).setdefault(kind, []).append([index, targets])
                others = [[place, item] for place, item in enumerate(listed) if not _is_target(item)]
                if others:
                    odd.setdefault(name, {}).setdefault(kind, []).append([index, others])
                reached: dict[tuple[str, str], list[tuple[int, dict[str, Any]]]] = {}
                for place, item in enumerate(listed):
                    if _is_target(item):
                        handle = f"{item.get('type') or kind}:{item.get('index') or 0}"
                        reached.setdefault((_end(item["node"], names, ids), handle), []).append((place, item))
                edges += [_edge((source, f"{kind}:{index}", *end), each, ranked) for end, each in reached.items()]
    return edges, odd, empty


def _end(name: str, names: Mapping[str, str], ids: frozenset[str]) -> str:
    """The id of the node with that name; of no node: the name, told apart from ids."""
    return names.get(name) or (f"{name} (a name)" if name in ids else name)


def _is_target(item: Any) -> bool:
    return (
        isinstance(item, dict)
        and isinstance(item.get("node"), str)
        and isinstance(item.get("type") or "", str)
        and (item.get("index") is None or type(item["index"]) is int)
    )


def _edge(key: tuple[str, str, str, str], listed: list[tuple[int, dict[str, Any]]], ranked: bool) -> Edge:
    """One target of an output, which runs as often as it is `listed` there, each time with its place in the list.

    `ranked`: targets run in the order of that list. Otherwise they run by their places on the canvas.
    """
    places = [place for place, _ in listed]
    more = [{field: part for field, part in item.items() if field not in _TARGET} for _, item in listed]
    implied = [
        {field: item.get(field, "absent") for field in ("type", "index") if item.get(field) in (None, "")}
        for _, item in listed
    ]
    if len(listed) == 1:
        extra, layout = {"rank": places[0] if ranked else 0, "more": more[0]}, implied[0]
    else:
        extra = {"times": len(listed), "rank": places if ranked else 0, "more": more if any(more) else None}
        layout = {"places": places, "implied": implied}
    source, source_handle, target, target_handle = key
    return Edge(
        source=source,
        source_handle=source_handle,
        target=target,
        target_handle=target_handle,
        extra=filled(extra),
        layout=layout,
    )


def _dependencies(items: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Packages of community nodes, and the types of credentials that must exist where the workflow runs."""
    packages = {item["type"].rpartition(".")[0] for item in items} - OWN_PACKAGES - {""}
    held = [item["credentials"] for item in items if isinstance(item.get("credentials"), dict)]
    credentials = {kind for each in held for kind in each}
    return [{"name": name, "source": "package"} for name in sorted(packages)] + [
        {"name": f"credential {name}", "source": "credential"} for name in sorted(credentials)
    ]

"""A ComfyUI workflow taken apart, as its editor saves it or as its server runs it. Rules: docs/compare.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from registry.formats.graph.build import UniqueIds, filled, flag_repeated, is_id, point, split
from registry.formats.graph.model import Edge, Graph, Node
from registry.formats.secrets.masking import short

_NOTES = frozenset({"Note", "MarkdownNote"})
_NODE_LAYOUT = ("size", "order", "flags", "color", "bgcolor", "boxcolor", "shape", "selected", "showAdvanced")
_SLOT_LINKS = ("link", "links", "linkIds", "slot_index")
_PREVIEWS = ("videopreview",)  # widgets that hold what the last run showed
_COUNTERS = ("id", "revision", "last_node_id", "last_link_id", "state", "config", "reroutes", "floatingLinks")
_EXTRA_NOISE = (
    *("frontendVersion", "workflowRendererVersion", "reroutes", "linkExtensions", "node_versions"),
    *("workspace_info", "ue_links", "links_added_by_ue"),
)
_GRAPH = ("nodes", "links", "groups", "definitions", "extra")  # absent, null and empty say the same
_LINK_KEYS = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type", "parentId")
_LINK_SIZES = (5, 6)  # of a link as a list; very old ones have no type
_PACK_VERSION = "ver"


def is_api(value: Any) -> bool:
    """`{"3": {"class_type": ..., "inputs": {...}}, ...}`"""
    return (
        isinstance(value, dict)
        and value != {}
        and all(
            is_id(key)
            and isinstance(item, dict)
            and isinstance(item.get("class_type"), str)
            and isinstance(item.get("inputs"), dict)
            for key, item in value.items()
        )
    )


def is_ui(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("nodes"), list):
        return False
    nodes = value["nodes"]
    counted = "last_node_id" in value or isinstance(value.get("state"), dict)
    if not isinstance(value.get("links", []), list) or not (counted or "links" in value):
        return False
    drawn = ("pos", "widgets_values", "mode", "flags")
    return (counted and not nodes) or any(_is_node(item) and any(key in item for key in drawn) for item in nodes)


def view_api(value: dict[str, Any]) -> Graph:
    """Total over values of the API form. A link is what its server takes for one: `[node id, output]`."""
    nodes: list[Node] = []
    edges: list[Edge] = []
    for node_id in sorted(value, key=lambda key: (len(key), key)):
        outer = dict(value[node_id])
        inputs = outer.pop("inputs")
        links = {key: item for key, item in inputs.items() if _is_input_link(item)}
        edges += [
            Edge(source=links[key][0], source_handle=str(links[key][1]), target=node_id, target_handle=key)
            for key in sorted(links)
        ]
        text, derived = _meta(outer)
        nodes.append(
            Node(
                id=node_id,
                type=short(outer["class_type"]),
                title=short(text.get("title") or outer["class_type"]),
                config={key: item for key, item in inputs.items() if key not in links},
                outer=outer,
                text=text,
                derived=derived,
            )
        )
    return Graph(app={"form": "api"}, nodes=nodes, edges=edges)


def _meta(outer: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Takes the title, which is all there usually is, out of a node's `_meta`: text, and that it held nothing."""
    if not isinstance(outer.get("_meta"), dict):
        return {}, {}
    meta = dict(outer.pop("_meta"))
    text = {"title": meta.pop("title")} if isinstance(meta.get("title"), str) else {}
    outer |= filled({"_meta": meta})
    return text, {} if text or meta else {"_meta": {}}


def _is_input_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and type(value[1]) is int


def view_ui(value: dict[str, Any]) -> Graph:
    """Total over values of the UI form: parts of an unexpected shape go to `rest` as they are."""
    top = dict(value)
    found = _Found()
    derived = _noise(top)
    app = {"form": "ui"} | ({"version": top.pop("version")} if "version" in top else {})
    extra, text, viewport = _extra(top, derived, found)
    odd = found.take(top, "", "", {})
    found.name_instances()
    return Graph(
        app=app,
        text=text,
        nodes=found.nodes,
        notes=found.notes,
        edges=found.edges,
        dependencies=[{"name": name, "version": version} for name, version in sorted(found.packs)],
        rest=top | odd | filled({"extra": extra}),
        viewport=viewport,
        derived=derived,
    )


def _noise(graph: dict[str, Any]) -> dict[str, Any]:
    """Takes out of a graph, or of a subgraph, what only counts or draws."""
    empty = {key: graph[key] for key in _GRAPH if key in graph and not graph[key]}
    definitions = graph.get("definitions")
    if isinstance(definitions, dict) and not definitions.get("subgraphs", True):
        empty["subgraphs"] = definitions["subgraphs"]
    return {key: graph.pop(key) for key in _COUNTERS if key in graph} | {"empty": empty}


def _extra(graph: dict[str, Any], derived: dict[str, Any], found: _Found) -> tuple[Any, dict[str, Any], Any]:
    """Of `extra`: what it means, text, and the viewport."""
    extra = graph.pop("extra", None)
    if not isinstance(extra, dict):
        return extra, {}, None
    extra = dict(extra)
    versions = extra.get("node_versions")
    if isinstance(versions, dict):
        found.packs |= {(name, version) for name, version in versions.items() if isinstance(version, str)}
    derived |= {f"extra.{key}": extra.pop(key) for key in _EXTRA_NOISE if key in extra}
    derived["extra"] = sorted(key for key in ("ds", "info") if key in extra)
    text = {"info": extra.pop("info")} if extra.get("info") else {}
    return extra, text, extra.pop("ds", None)


class _Found:
    """What one workflow is made of, with its subgraphs laid out beside it."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.notes: list[Node] = []
        self.edges: list[Edge] = []
        self.packs: set[tuple[str, str]] = set()
        self._ids = UniqueIds()

    def take(
        self, graph: dict[str, Any], prefix: str, inside: str, ends: Mapping[str, tuple[str, _Slots | None]]
    ) -> dict[str, Any]:
        """Moves nodes, links, groups and subgraphs here; returns what does not fit.

        `prefix` makes ids of nodes unique, `inside` is the subgraph's own id; `ends`: ids that stand for the subgraph's
        own inputs and outputs, each with the node and the slots that links reach there.
        """
        nodes, odd_nodes = split(graph, "nodes", _is_node)
        links, odd_links = split(graph, "links", _is_link)
        groups, odd_groups = split(graph, "groups", lambda item: isinstance(item, dict))
        reached = dict(ends)
        for item in nodes:
            node = self._node(item, self._ids.of(f"{prefix}{item['id']}"), inside)
            flag_repeated([node], [f"{prefix}{item['id']}"])
            (self.notes if node.note else self.nodes).append(node)
            reached.setdefault(str(item["id"]), (node.id, _Slots(item.get("inputs"))))
        self.edges += [_edge(_spread(link), link, prefix, reached) for link in links]
        self.notes += [_group(item, self._ids.of(f"{prefix}group {_group_id(item)}"), inside) for item in groups]
        odd = filled({"nodes": odd_nodes, "links": odd_links, "groups": odd_groups})
        definitions = graph.pop("definitions", None)
        if isinstance(definitions, dict):
            definitions = dict(definitions)
            subgraphs, odd_subgraphs = split(definitions, "subgraphs", _is_subgraph)
            for item in subgraphs:
                self._subgraph(item)
            definitions |= filled({"subgraphs": odd_subgraphs})
        return odd | filled({"definitions": definitions})

    def name_instances(self) -> None:
        """A node whose type is a subgraph is called like it, as in the editor."""
        names = {node.id: node.title for node in self.nodes if node.type == "subgraph"}
        for node in self.nodes:
            if not node.text:
                node.title = names.get(f"subgraph {node.type}", node.title)

    def _node(self, raw: dict[str, Any], node_id: str, inside: str) -> Node:
        outer = dict(raw)
        node_type, own = outer["type"], outer.pop("id")
        derived: dict[str, Any] = {"id": "text"} if isinstance(own, str) else {}
        layout = {key: outer.pop(key) for key in _NODE_LAYOUT if key in outer} | _place(outer)
        title = outer.pop("title") if isinstance(outer.get("title"), str) else ""
        if not outer.get("mode", True):
            derived["mode"] = outer.pop("mode")
        for key in ("inputs", "outputs"):
            if isinstance(outer.get(key), list):
                derived[key], layout[key] = _slots(outer.pop(key))
        config = {"widgets_values": outer.pop("widgets_values")} if "widgets_values" in outer else {}
        if isinstance(config.get("widgets_values"), dict):
            values = config["widgets_values"]
            derived |= {f"widgets_values.{key}": values[key] for key in _PREVIEWS if key in values}
            config = {"widgets_values": {key: item for key, item in values.items() if key not in _PREVIEWS}}
        self._pack(outer, derived)
        return Node(
            id=node_id,
            type=short(node_type),
            title=short(title or node_type),
            config=config,
            outer=outer,
            text={"title": title} if title else {},
            layout=layout,
            derived=derived,
            note=node_type in _NOTES,
            at=point(layout.get("position")),
            inside=inside,
        )

    def _pack(self, outer: dict[str, Any], derived: dict[str, Any]) -> None:
        """The pack that a node comes from, and its version when the node was saved."""
        properties = outer.get("properties")
        if not isinstance(properties, dict):
            return
        name = properties.get("cnr_id") or properties.get("aux_id")
        version = properties.get(_PACK_VERSION, "")
        if isinstance(name, str) and name and isinstance(version, str):
            self.packs.add((name, version))
            derived |= {key: item for key, item in properties.items() if key == _PACK_VERSION}
            outer["properties"] = {key: item for key, item in properties.items() if key != _PACK_VERSION}

    def _subgraph(self, raw: dict[str, Any]) -> None:
        """A definition is one node, whose outputs are the subgraph's inputs, and the nodes drawn inside it."""
        outer = dict(raw)
        node_id = self._ids.of(f"subgraph {outer['id']}")
        derived = _noise(outer)
        layout: dict[str, Any] = {}
        ends: dict[str, tuple[str, _Slots | None]] = {}
        for key, slots in (("inputNode", None), ("outputNode", _Slots(outer.get("outputs")))):
            layout[key] = outer.pop(key, None)
            if isinstance(layout[key], dict) and is_id(layout[key].get("id")):
                ends[str(layout[key]["id"])] = (node_id, slots)
        config: dict[str, Any] = {}
        for key in ("inputs", "outputs"):
            if isinstance(outer.get(key), list):
                listed, layout[key] = _slots(outer.pop(key))
                derived[key] = [_without(slot, ("name", "type")) for slot in listed]
                config[key] = [_only(slot, ("name", "type")) for slot in listed]
        extra, text, layout["ds"] = _extra(outer, derived, self)
        text |= {key: outer.pop(key) for key in ("name", "description") if isinstance(outer.get(key), str)}
        node = Node(
            id=node_id,
            type="subgraph",
            title=short(str(text.get("name") or node_id)),
            config=config,
            text=text,
            layout=layout,
            derived=derived,
        )
        flag_repeated([node], [f"subgraph {raw['id']}"])
        self.nodes.append(node)
        odd = self.take(outer, f"{node_id}/", node_id, ends)
        node.outer = outer | odd | filled({"extra": extra})


def _place(outer: dict[str, Any]) -> dict[str, Any]:
    """`pos` is a list, or a mapping with the keys 0 and 1."""
    pos = outer.pop("pos", "absent")
    if isinstance(pos, dict) and pos.keys() == {"0", "1"}:
        return {"position": [pos["0"], pos["1"]], "pos": "mapping"}
    return {"position": pos} if isinstance(pos, list) else {"pos": pos}


def _slots(slots: list[Any]) -> tuple[list[Any], list[Any]]:
    """Slots, which the node's type gives it, and the numbers of their links."""
    return [_without(slot, _SLOT_LINKS) for slot in slots], [_only(slot, _SLOT_LINKS) for slot in slots]


def _without(slot: Any, keys: tuple[str, ...]) -> Any:
    return {key: item for key, item in slot.items() if key not in keys} if isinstance(slot, dict) else slot


def _only(slot: Any, keys: tuple[str, ...]) -> Any:
    return {key: item for key, item in slot.items() if key in keys} if isinstance(slot, dict) else None


def _group_id(raw: dict[str, Any]) -> Any:
    return next((raw[key] for key in ("id", "title") if is_id(raw.get(key))), "")


def _group(raw: dict[str, Any], node_id: str, inside: str) -> Node:
    title = raw.get("title")
    words = {"title": title} if isinstance(title, str) else {}
    layout = {key: item for key, item in raw.items() if key not in words}
    box = layout.get("bounding")
    return Node(
        id=node_id,
        type="group",
        title=short(str(title or node_id)),
        config={},
        text=words,
        layout=layout,
        note=True,
        at=point(box[:2]) if isinstance(box, list) else None,
        inside=inside,
    )


def _is_node(item: Any) -> bool:
    return isinstance(item, dict) and is_id(item.get("id")) and isinstance(item.get("type"), str)


def _is_subgraph(item: Any) -> bool:
    return isinstance(item, dict) and is_id(item.get("id")) and isinstance(item.get("nodes"), list)


def _is_link(item: Any) -> bool:
    if isinstance(item, list) and len(item) in _LINK_SIZES:
        source, source_slot, target, target_slot = item[1:5]
    elif isinstance(item, dict):
        source, source_slot, target, target_slot = (item.get(key) for key in _LINK_KEYS[1:5])
    else:
        return False
    return all(map(is_id, (source, source_slot, target, target_slot)))


def _spread(link: Any) -> dict[str, Any]:
    """A link by its parts, whichever way it is written."""
    return link if isinstance(link, dict) else dict(zip(_LINK_KEYS, link, strict=False))


def _edge(link: dict[str, Any], written: Any, prefix: str, reached: Mapping[str, tuple[str, _Slots | None]]) -> Edge:
    source, _ = reached.get(str(link["origin_id"]), (f"{prefix}{link['origin_id']}", None))
    target, slots = reached.get(str(link["target_id"]), (f"{prefix}{link['target_id']}", None))
    return Edge(
        source=source,
        source_handle=str(link["origin_slot"]),
        target=target,
        target_handle=slots.name(link) if slots else str(link["target_slot"]),
        extra={key: item for key, item in link.items() if key not in _LINK_KEYS},
        layout={"written": written},
    )


class _Slots:
    """Inputs of one node, found by the number of a link or by their own."""

    def __init__(self, slots: Any) -> None:
        listed = [slot if isinstance(slot, dict) else {} for slot in slots] if isinstance(slots, list) else []
        self._names = [name if isinstance(name := slot.get("name"), str) else "" for slot in listed]
        self._counts = Counter(self._names)
        self._by_link: dict[Any, int] = {}
        for index, slot in enumerate(listed):
            if is_id(slot.get("link")):
                self._by_link.setdefault(slot["link"], index)

    def name(self, link: dict[str, Any]) -> str:
        """Of the slot that says it has this link, else of the one with the number that the link says.

        Numbers shift when an editor shows more inputs than another one; names do not. No name, or one that is there
        twice: the number.
        """
        number = str(link["target_slot"])
        own = link.get("id")
        index = self._by_link.get(own) if is_id(own) else None
        if index is None and number.isdecimal() and int(number) < len(self._names):
            index = int(number)
        name = self._names[index] if index is not None else ""
        return name if name and self._counts[name] == 1 else number

"""What comparing needs to know of Dify: branches, references to nodes, models, inputs, plugins."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, ClassVar

from registry.formats.graph.model import Node, Plugin, Scope
from registry.formats.graph.rules import Rules
from registry.formats.kinds.dify.view import short_provider
from registry.formats.model import ModelName
from registry.formats.secrets.masking import short
from registry.formats.values.canonical import canonical
from registry.formats.values.compare import join

TRIGGERS = frozenset({"trigger-webhook", "trigger-schedule", "trigger-plugin"})
_IN_TEMPLATE = re.compile(r"\{\{#([^.#{}]+)(?=[.#])")
_ID_FIELDS = frozenset({"start_node_id", "iteration_id", "loop_id", "parentId", "outputNodeId"})
_IDENTIFIERS = (
    "marketplace_plugin_unique_identifier",
    "plugin_unique_identifier",
    "github_plugin_unique_identifier",
)
_FLAT_MODELS = (
    ("embedding_provider_name", "embedding_model_name"),
    ("reranking_provider_name", "reranking_model_name"),
    ("embedding_model_provider", "embedding_model"),
)


class DifyRules(Rules):
    contract: ClassVar[Mapping[str, tuple[str, Scope]]] = {
        "start": ("variables", "input"),
        "end": ("outputs", "output"),
    }
    roots: ClassVar[frozenset[str]] = frozenset({"sys", "env", "conversation", "rag"})
    start: ClassVar[str] = "start"
    entries: ClassVar[frozenset[str]] = TRIGGERS | {"datasource"}
    cycles: ClassVar[bool] = False
    ids_unique: ClassVar[bool] = True

    def container(self, node: Node) -> str:
        """Older and hand-written files name it in the node's data only."""
        if node.inside:
            return node.inside
        named = [node.config.get(key) for key in ("iteration_id", "loop_id")]
        return next((name for name in named if isinstance(name, str)), "")

    def branch(self, source: Node | None, handle: str) -> str:
        return self.branches(source)(handle)

    def branches(self, source: Node | None) -> Callable[[str], str]:
        names = _branch_names(source) if source else {}

        def said(handle: str) -> str:
            if handle == "fail-branch":
                return "on failure"
            if source is None or handle == "source":
                return ""
            return short(names.get(handle, handle))

        return said

    def rename(self, value: Any, names: Mapping[str, str]) -> Any:
        return rename(value, names)

    def selectors(self, value: Any, roots: Collection[str]) -> Any:
        return selectors(value, roots)

    def models(self, node_type: str, config: Any) -> Iterator[tuple[str, ModelName]]:
        return _models(config, "")

    def inputs(self, model_config: Any) -> list[Any]:
        """`[{"text-input": {...}}]` as a list of inputs with their type."""
        form = model_config.get("user_input_form") if isinstance(model_config, dict) else None
        fields = [item for item in form if isinstance(item, dict) and len(item) == 1] if isinstance(form, list) else []
        pairs = [next(iter(item.items())) for item in fields]
        return [{"type": kind} | field for kind, field in pairs if isinstance(field, dict)]

    def plugins(self, dependencies: list[Any]) -> list[Plugin]:
        return [_plugin(item) for item in dependencies]


def rename(value: Any, names: Mapping[str, str]) -> Any:
    """`value` with node ids replaced where they refer to nodes: selectors, `{{#id.name#}}` and container fields."""
    if isinstance(value, dict):
        return {
            key: names.get(item, item) if key in _ID_FIELDS and isinstance(item, str) else rename(item, names)
            for key, item in value.items()
        }
    if isinstance(value, list):
        selector = len(value) > 1 and all(isinstance(item, str) for item in value) and value[0] in names
        return [names[value[0]], *value[1:]] if selector else [rename(item, names) for item in value]
    if isinstance(value, str) and "{{#" in value:
        return _IN_TEMPLATE.sub(lambda found: "{{#" + names.get(found[1], found[1]), value)
    return value


def selectors(value: Any, roots: Collection[str]) -> Any:
    """`value` with variable selectors as one text, `node.variable`, so that they differ as a whole."""
    if isinstance(value, dict):
        return {key: selectors(item, roots) for key, item in value.items()}
    if isinstance(value, list):
        if len(value) > 1 and all(isinstance(item, str) for item in value) and value[0] in roots:
            return ".".join(value)
        return [selectors(item, roots) for item in value]
    return value


def _models(value: Any, path: str) -> Iterator[tuple[str, ModelName]]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _models(item, f"{path}[{index}]")
    if not isinstance(value, dict):
        return
    name = value.get("name") or value.get("model")
    if isinstance(value.get("provider"), str) and isinstance(name, str) and name:
        yield path, ModelName(provider=short(short_provider(value["provider"])), name=short(name))
    for provider_key, name_key in _FLAT_MODELS:
        if isinstance(value.get(provider_key), str) and isinstance(value.get(name_key), str) and value[name_key]:
            provider = short(short_provider(value[provider_key]))
            yield join(path, name_key), ModelName(provider=provider, name=short(value[name_key]))
    for key, item in value.items():
        if isinstance(item, (dict, list)):
            yield from _models(item, join(path, key))


def _branch_names(node: Node) -> dict[str, str]:
    """Source handles that mean something, and what; the first of those with one id counts."""
    if node.type == "if-else":
        cases = [str(case.get("case_id")) for case in _mappings(node.config.get("cases"))]
        named = ((case, f"else if {position}" if position else "if") for position, case in enumerate(cases))
        return _first(named) | {"false": "else"}
    if node.type == "question-classifier":
        return _first((str(item.get("id")), str(item.get("name"))) for item in _mappings(node.config.get("classes")))
    if node.type == "human-input":
        actions = _mappings(node.config.get("user_actions"))
        return _first((str(item.get("id")), str(item.get("title") or item.get("id"))) for item in actions)
    return {}


def _first(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, name in pairs:
        found.setdefault(key, name)
    return found


def _mappings(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _plugin(item: dict[str, Any]) -> Plugin:
    inner = item.get("value")
    value = dict(inner) if isinstance(inner, dict) else {"value": inner}
    key = next((key for key in _IDENTIFIERS if isinstance(value.get(key), str)), None)
    identifier = str(value[key]) if key else ""
    path, _, build = identifier.partition("@")
    name, _, version = map(short, path.partition(":"))
    if not name:
        name = short(str(value.get("repo") or "unnamed"))
        version = short(str(value.get("version") or version))
    rest = {field: part for field, part in item.items() if field not in ("type", "value")} | value
    source = short(str(item.get("type", "")))
    return Plugin(name=name, version=version, source=source, build=short(build), rest=canonical(rest))

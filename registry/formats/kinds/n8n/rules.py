"""What comparing needs to know of n8n: outputs, references to nodes, models, inputs, packages."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, ClassVar

from registry.formats.graph.model import Node, Plugin, Scope
from registry.formats.graph.rules import Rules
from registry.formats.kinds.n8n.view import mark
from registry.formats.model import ModelName
from registry.formats.secrets.masking import short
from registry.formats.values.compare import join

_MARKED = re.compile(r"(?<=['\"`])«([^«»]+)»(?=['\"`])")
_MODEL_KEYS = ("model", "modelName", "modelId", "chatModel", "imageModel")
_MODEL_KINDS = re.compile(r"(?:lmChat|lm|embeddings|reranker)(?=[A-Z])")
_VENDORS = frozenset({"openAi", "mistralAi", "perplexity"})  # of n8n-nodes-base
_LANGCHAIN = "@n8n/n8n-nodes-langchain."
_OUTPUTS: dict[str, tuple[str, ...]] = {
    "n8n-nodes-base.if": ("true", "false"),
    "n8n-nodes-base.filter": ("", "discarded"),
    "n8n-nodes-base.compareDatasets": ("in A only", "same", "different", "in B only"),
}
_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])")


class N8nRules(Rules):
    """`names`: of nodes by their ids, for people to read inside expressions."""

    contract: ClassVar[Mapping[str, tuple[str, Scope]]] = {
        "n8n-nodes-base.executeWorkflowTrigger": ("inputs", "input"),
        "n8n-nodes-base.formTrigger": ("inputs", "input"),
    }

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        self._names = names or {}

    def branch(self, source: Node | None, handle: str) -> str:
        kind, _, number = handle.rpartition(":")
        if kind != "main":
            return short(_WORDS.sub(" ", kind.removeprefix("ai_")).lower())
        index = int(number)
        name = _output(source, index)
        if name is not None:
            return short(name)
        failing = source is not None and source.outer.get("onError") == "continueErrorOutput"
        return "on error" if failing and _output(source, index - 1) is not None else f"output {index}"

    def rename(self, value: Any, names: Mapping[str, str]) -> Any:
        return _replaced(value, lambda node_id: mark(names[node_id]) if node_id in names else None)

    def selectors(self, value: Any, roots: Collection[str]) -> Any:
        return _replaced(value, self._names.get)

    def models(self, node_type: str, config: Any) -> Iterator[tuple[str, ModelName]]:
        """The provider is told by the node's type, the name by one of its fields."""
        kind = node_type.rpartition(".")[2].removesuffix("Tool")
        provider = _MODEL_KINDS.sub("", kind, count=1)
        if not isinstance(config, dict) or not (
            provider != kind or node_type.startswith(_LANGCHAIN) or kind in _VENDORS
        ):
            return
        for key in _MODEL_KEYS:
            value, path = config.get(key), key
            if isinstance(value, dict):
                value, path = value.get("value"), join(key, "value")
            if isinstance(value, str) and value:
                name = "(expression)" if value.startswith("=") else short(value)
                yield path, ModelName(provider=short(provider.lower()), name=name)

    def plugins(self, dependencies: list[Any]) -> list[Plugin]:
        return [Plugin(name=short(item["name"]), source=item["source"]) for item in dependencies]


def _replaced(value: Any, text_of: Callable[[str], str | None]) -> Any:
    """With other texts in place of marked ids; `text_of` gives None for one that stays."""
    if isinstance(value, dict):
        return {key: _replaced(item, text_of) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, text_of) for item in value]
    if isinstance(value, str) and "«" in value:
        return _MARKED.sub(lambda found: found[0] if (text := text_of(found[1])) is None else text, value)
    return value


def _output(node: Node | None, index: int) -> str | None:
    """Name of one of a node's outputs, empty for an only one. None: past them, where the one for errors is."""
    kind = node.type if node else ""
    if node and kind == "n8n-nodes-base.switch":
        return _switch_output(node.config, index)
    if node and kind == f"{_LANGCHAIN}textClassifier":
        last = "other" if _option(node.config, "fallback") == "other" else None
        return _named(_items(node.config.get("categories"), "categories"), index, ("category",), last)
    names = _OUTPUTS.get(kind, ("",))
    if node and kind == "n8n-nodes-base.splitInBatches":
        version = node.outer.get("typeVersion")
        names = ("done", "loop") if isinstance(version, (int, float)) and version >= 3 else ("loop", "done")
    return names[index] if index < len(names) else None


def _switch_output(config: dict[str, Any], index: int) -> str | None:
    if config.get("mode") == "expression":
        count = config.get("numberOutputs", config.get("outputsAmount", 4))
        return f"output {index}" if not isinstance(count, int) or index < count else None
    rules = _items(config.get("rules"), "values") or _items(config.get("rules"), "rules")
    last = None
    if _option(config, "fallbackOutput") in ("extra", "last"):
        last = str(_option(config, "renameFallbackOutput") or "fallback")
    return _named(rules, index, ("outputKey", "value2"), last)


def _named(items: list[Any], index: int, keys: tuple[str, ...], last: str | None) -> str | None:
    """The name of one output of a list, by the first of `keys` that gives one; after the list, `last`."""
    if index >= len(items):
        return last if index == len(items) else None
    item = items[index] if isinstance(items[index], dict) else {}
    return next((str(item[key]) for key in keys if item.get(key)), f"rule {index}")


def _option(config: dict[str, Any], key: str) -> Any:
    options = config.get("options")
    return options.get(key) if isinstance(options, dict) else None


def _items(holder: Any, key: str) -> list[Any]:
    items = holder.get(key) if isinstance(holder, dict) else None
    return items if isinstance(items, list) else []

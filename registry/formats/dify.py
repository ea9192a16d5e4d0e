"""Dify's DSL: apps exported as YAML (or the same as JSON), also as the raw reply `{"data": "<yaml>"}` of an export."""

from __future__ import annotations

from typing import Any

from registry.core import limits
from registry.core.errors import Invalid
from registry.formats.canonical import semantic_digest, value_digest
from registry.formats.dify_compare import compare_apps
from registry.formats.dify_view import App, view
from registry.formats.document import Document
from registry.formats.model import Comparison, Read
from registry.formats.parse import Parsed, refuse
from registry.formats.secrets import mask_text

_KINDS = ("app", "rag_pipeline")


class Dify:
    kind = "dify"

    def detect(self, document: Document) -> bool:
        try:
            value, _, _ = _unwrapped(document)
        except Invalid:
            return False
        return _is_app(value)

    def read(self, document: Document) -> Read:
        value, wrapped, warnings = _unwrapped(document)
        if not _is_app(value):
            refuse(
                "not a Dify app: there is no `app` with a `workflow` or a `model_config`",
                hint="leave the kind away to have it detected, or name the right one",
            )
        app = view(value)
        return Read(
            content=document.content,
            text=document.text(),
            value=value,
            view=app,
            value_digest=value_digest(value),
            semantic_digest=semantic_digest(app.meaning()),
            facts=_facts(app, wrapped),
            warnings=document.warnings + warnings + _warnings(app),
        )

    def compare(self, old: Read, new: Read) -> Comparison:
        return compare_apps(old.view, new.view)


def _unwrapped(document: Document) -> tuple[Any, bool, tuple[str, ...]]:
    """The app, whether it stood inside a saved reply, and warnings."""
    parsed = document.tree()
    value = parsed.value
    if not (isinstance(value, dict) and list(value) == ["data"] and isinstance(value["data"], str)):
        return value, False, parsed.warnings
    try:
        inner: Parsed = Document(value["data"].encode()).tree()
    except Invalid as error:
        refuse(f"the `data` of a saved reply: {error.message}")
    return inner.value, True, inner.warnings


def _is_app(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    workflow, app = value.get("workflow"), value.get("app")
    graph = workflow.get("graph") if isinstance(workflow, dict) else None
    if isinstance(graph, dict) and isinstance(graph.get("nodes"), list):
        return True
    named = isinstance(app, dict) and ("mode" in app or value.get("kind") in _KINDS)
    body = isinstance(workflow, dict) or isinstance(value.get("model_config"), dict)
    return body and (named or value.get("kind") in _KINDS)


def _facts(app: App, wrapped: bool) -> dict[str, str]:
    facts = {
        "mode": _short(app.app.get("app", {}).get("mode")),
        "dsl_version": _short(app.app["version"]),
        "name": _short(app.text.get("app", {}).get("name")),
        "nodes": str(len(app.nodes)),
        "notes": str(len(app.notes)) if app.notes else "",
        "edges": str(len(app.edges)),
        "plugins": str(len(app.dependencies)),
        "wrapped": "true" if wrapped else "",
    }
    return {key: item for key, item in facts.items() if item}


def _short(value: Any) -> str:
    return "" if value is None else mask_text(str(value))[: limits.FACT_CHARS]


def _warnings(app: App) -> tuple[str, ...]:
    """What makes an import fail or an app behave oddly, seen without knowing the server. No verdict."""
    found = []
    version = app.app["version"]
    if not isinstance(version, str):
        found.append("no DSL version: Dify takes it for 0.1.0" if version is None else "the DSL version is not text")
    if not app.app.get("app", {}).get("mode"):
        found.append("no app.mode: Dify refuses the import")
    ids = {node.id for node in app.nodes}
    repeated = sorted({node.id.rpartition("#")[0] for node in app.nodes if "#" in node.id} & ids)
    found += [f"node id {node_id!r} is used twice" for node_id in repeated[:3]]
    dangling = [edge for edge in app.edges if edge.source not in ids or edge.target not in ids]
    found += [f"the edge {edge.source} -> {edge.target} leads to no node" for edge in dangling[:3]]
    if app.model_config is None and not app.nodes:
        found.append("the workflow has no nodes")
    return tuple(found)

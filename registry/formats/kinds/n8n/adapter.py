"""n8n workflows: JSON as n8n exports it, also inside a list of one or the `data` of a reply."""

from __future__ import annotations

from typing import Any

from registry.formats.graph.build import is_id
from registry.formats.graph.compare import compare_graphs
from registry.formats.graph.format import GraphFormat
from registry.formats.graph.model import Graph
from registry.formats.kinds.n8n.rules import N8nRules
from registry.formats.kinds.n8n.view import is_workflow, unwrapped, view
from registry.formats.model import Comparison, Read

_CALLS = frozenset(
    {
        "n8n-nodes-base.executeWorkflow",
        "@n8n/n8n-nodes-langchain.toolWorkflow",
        "@n8n/n8n-nodes-langchain.retrieverWorkflow",
    }
)


class N8n(GraphFormat):
    kind = "n8n"
    called = "an n8n workflow"
    rules = N8nRules()

    def fits(self, value: Any) -> bool:
        return is_workflow(unwrapped(value)[0])

    def view(self, value: Any) -> Graph:
        return view(value)

    def facts(self, value: Any, graph: Graph) -> dict[str, Any]:
        active = graph.derived.get("active")
        return {
            "name": (graph.app | graph.text).get("name"),
            "n8n_id": graph.derived.get("id"),
            "active": str(active).lower() if isinstance(active, bool) else None,
            "notes": len(graph.notes) or None,
            "plugins": sum(item["source"] == "package" for item in graph.dependencies),
            "wrapped": "true" if graph.derived["wrapped"] else None,
        }

    def compare(self, old: Read, new: Read) -> Comparison:
        """Expressions are compared by the ids of the nodes in them, and shown with the newest names."""
        names = {node.id: node.title for graph in (old.view, new.view) for node in graph.nodes}
        return compare_graphs(old.view, new.view, N8nRules(names))

    def requires(self, read: Read) -> list[str]:
        """Workflows that it calls by a literal id, and the one that runs when it fails."""
        graph: Graph = read.view
        called = [
            _literal(node.config.get("workflowId"))
            for node in graph.nodes
            if node.type in _CALLS
            and node.config.get("source", "database") == "database"
            and not node.outer.get("disabled")
        ]
        settings = graph.rest.get("settings")
        failing = _literal(settings.get("errorWorkflow")) if isinstance(settings, dict) else ""
        return sorted({f"n8n:{each}" for each in (*called, failing) if each not in ("", "DEFAULT")})


def _literal(value: Any) -> str:
    """An id as text, or picked from a list; an expression is none."""
    if isinstance(value, dict):
        value = value.get("value")
    return str(value).strip() if is_id(value) and not str(value).startswith("=") else ""

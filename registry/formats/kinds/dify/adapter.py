"""Dify's DSL: apps exported as YAML (or the same as JSON), also as the raw reply `{"data": "<yaml>"}` of an export."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from registry.core.errors import Invalid
from registry.formats.graph.format import GraphFormat
from registry.formats.graph.model import Graph
from registry.formats.kinds.dify.check import check_app
from registry.formats.kinds.dify.references import workflow_tools
from registry.formats.kinds.dify.rules import DifyRules
from registry.formats.kinds.dify.view import view
from registry.formats.model import Finding, Read, Secret
from registry.formats.reading.document import Document, is_saved_reply
from registry.formats.reading.parse import Parsed, refuse
from registry.formats.secrets.masking import is_secret_type, says_secret, short
from registry.formats.values.canonical import canonical

_KINDS = ("app", "rag_pipeline")


class Dify(GraphFormat):
    kind = "dify"
    called = "a Dify app: there is no `app` with a `workflow`, a `model_config` or an `agent`"
    rules = DifyRules()

    def parsed(self, document: Document) -> Parsed:
        outer = document.tree()
        if not is_saved_reply(outer.value):
            return outer
        try:
            return Document(outer.value["data"].encode()).tree()
        except Invalid as error:
            refuse(f"the `data` of a saved reply: {error.message}")

    def fits(self, value: Any) -> bool:
        if not isinstance(value, dict):
            return False
        workflow, app = value.get("workflow"), value.get("app")
        graph = workflow.get("graph") if isinstance(workflow, dict) else None
        if isinstance(graph, dict) and isinstance(graph.get("nodes"), list):
            return True
        named = isinstance(app, dict) and ("mode" in app or value.get("kind") in _KINDS)
        body = any(isinstance(value.get(key), dict) for key in ("workflow", "model_config", "agent"))
        return body and (named or value.get("kind") in _KINDS)

    def view(self, value: Any) -> Graph:
        return view(value)

    def facts(self, value: Any, graph: Graph) -> dict[str, Any]:
        return {
            "mode": graph.app.get("app", {}).get("mode"),
            "dsl_version": graph.app["version"],
            "name": graph.text.get("app", {}).get("name"),
            "notes": len(graph.notes) or None,
            "plugins": len(graph.dependencies),
        }

    def read(self, document: Document) -> Read:
        read = super().read(document)
        if is_saved_reply(document.tree().value):
            return structs.replace(read, facts=read.facts | {"wrapped": "true"})
        return read

    def check(self, read: Read) -> list[Finding]:
        return super().check(read) + check_app(read.value, read.view, self.rules)

    def requires(self, read: Read) -> list[str]:
        """Workflows published as tools, by the name their publisher gave them: ids and labels differ by server."""
        app: Graph = read.view
        tools = workflow_tools([node.config for node in app.nodes] + [app.model_config])
        return sorted({f"dify-tool:{name}" for name in tools})

    def secrets(self, read: Read) -> list[Secret]:
        """Environment variables of type secret: Dify keeps what it has where it finds its own placeholder."""
        workflow = read.value.get("workflow")
        variables = workflow.get("environment_variables") if isinstance(workflow, dict) else None
        return [
            Secret(
                name=f"environment.{short(str(variable.get('name', position)))}",
                path=("workflow", "environment_variables", position, "value"),
                value=value if isinstance(value := variable["value"], str) else canonical(value),
            )
            for position, variable in enumerate(variables if isinstance(variables, list) else [])
            if isinstance(variable, dict)
            and is_secret_type(variable.get("value_type"))
            and says_secret(variable.get("value"))
        ]

"""The road that every graph format takes: parse, take apart, compare as graphs. An adapter adds what is its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from registry.core import limits
from registry.core.errors import Invalid
from registry.formats.graph.check import check_graph
from registry.formats.graph.compare import compare_graphs
from registry.formats.graph.model import Graph
from registry.formats.graph.rules import Rules
from registry.formats.model import Comparison, Finding, Format, Read
from registry.formats.reading.document import Document
from registry.formats.reading.parse import Parsed, refuse
from registry.formats.secrets.masking import mask_text
from registry.formats.values.canonical import semantic_digest, value_digest


class GraphFormat(Format, ABC):
    kind: str
    called: str  # for people: `an n8n workflow`
    rules: Rules

    @abstractmethod
    def fits(self, value: Any) -> bool:
        """Whether a parsed value is of this format: cheap, and never true of another one's."""

    @abstractmethod
    def view(self, value: Any) -> Graph:
        """Total over values that fit: parts of an unexpected shape go to `rest` as they are."""

    @abstractmethod
    def facts(self, value: Any, graph: Graph) -> dict[str, Any]:
        """What lists show beside a version. Empty ones are left out, numbers become text."""

    def parsed(self, document: Document) -> Parsed:
        """The value to look at. Raises Invalid."""
        return document.tree()

    def detect(self, document: Document) -> bool:
        try:
            return self.fits(self.parsed(document).value)
        except Invalid:
            return False

    def read(self, document: Document) -> Read:
        parsed = self.parsed(document)
        value = parsed.value
        if not self.fits(value):
            refuse(f"not {self.called}", hint="leave the kind away to have it detected, or name the right one")
        graph = self.view(value)
        facts = {"nodes": len(graph.nodes), "edges": len(graph.edges)} | self.facts(value, graph)
        return Read(
            content=document.content,
            text=document.text(),
            value=value,
            view=graph,
            value_digest=value_digest(value),
            semantic_digest=semantic_digest(graph.meaning()),
            facts={key: fact(item) for key, item in facts.items() if item not in ("", None)},
            warnings=document.warnings + parsed.warnings,
            repeated=parsed.repeated or document.tree().repeated,
        )

    def compare(self, old: Read, new: Read) -> Comparison:
        return compare_graphs(old.view, new.view, self.rules)

    def check(self, read: Read) -> list[Finding]:
        return check_graph(read.view, self.rules)


def fact(value: Any) -> str:
    return mask_text(str(value))[: limits.FACT_CHARS]

"""JSON, YAML and TOML: compared by path, without knowing what the values mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from registry.core.errors import Invalid
from registry.formats.model import Comparison, Format, Read
from registry.formats.reading.document import Document
from registry.formats.reading.parse import Parsed
from registry.formats.summary import counted, sentence
from registry.formats.values.canonical import semantic_digest, value_digest
from registry.formats.values.compare import Listing, differences


def compare_values(old: Any, new: Any) -> Comparison:
    listing = Listing()
    changes = differences(old, new, listing)
    signs = [change.sign for change in changes]
    parts = [
        counted(signs.count("~"), "value") + " changed" if "~" in signs else "",
        f"{signs.count('+')} added" if "+" in signs else "",
        f"{signs.count('-')} removed" if "-" in signs else "",
        f"{listing.omitted} more" if listing.omitted else "",
    ]
    return Comparison(changes=changes, omitted=listing.omitted, summary=sentence(parts))


class _Tree(Format, ABC):
    kind: str

    def read(self, document: Document) -> Read:
        parsed = self._parse(document)
        value = parsed.value
        facts = {"top": _top(value)}
        return Read(
            content=document.content,
            text=document.text(),
            value=value,
            value_digest=value_digest(value),
            semantic_digest=semantic_digest(value),
            facts=facts,
            warnings=document.warnings + parsed.warnings,
        )

    def compare(self, old: Read, new: Read) -> Comparison:
        return compare_values(old.value, new.value)

    @abstractmethod
    def _parse(self, document: Document) -> Parsed: ...


class Json(_Tree):
    kind = "json"

    def detect(self, document: Document) -> bool:
        return document.text().lstrip()[:1] in ("{", "[") and _reads(self, document)

    def _parse(self, document: Document) -> Parsed:
        return document.json()


class Toml(_Tree):
    kind = "toml"

    def detect(self, document: Document) -> bool:
        """At least one value: a lone `[a]` is a list in YAML, and comments alone are text."""
        return _reads(self, document) and _has_leaf(document.toml().value)

    def _parse(self, document: Document) -> Parsed:
        return document.toml()


class Yaml(_Tree):
    kind = "yaml"

    def detect(self, document: Document) -> bool:
        """A mapping or a list: every other text is a plain scalar to YAML."""
        return _reads(self, document) and isinstance(document.yaml().value, (dict, list))

    def _parse(self, document: Document) -> Parsed:
        return document.yaml()


def _reads(tree: _Tree, document: Document) -> bool:
    try:
        tree._parse(document)
    except Invalid:
        return False
    return True


def _has_leaf(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_leaf(item) for item in value.values())
    return True


def _top(value: Any) -> str:
    if isinstance(value, dict):
        return f"mapping of {len(value)}"
    if isinstance(value, list):
        return f"list of {len(value)}"
    return "scalar"

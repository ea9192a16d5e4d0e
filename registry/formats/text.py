"""Plain text, compared by line, and bytes, compared by size and digest."""

from __future__ import annotations

import hashlib
import re

from registry.core.errors import Invalid
from registry.formats.align import line_diff
from registry.formats.document import Document
from registry.formats.model import Comparison, Read
from registry.formats.secrets import mask_text
from registry.formats.summary import counted, sentence

_LIKE_DIFY = re.compile(r"^(app|workflow|model_config)\s*:", re.MULTILINE)


class Text:
    kind = "text"

    def detect(self, document: Document) -> bool:
        return document.raw_text is not None

    def read(self, document: Document) -> Read:
        text = document.text()
        facts = {"lines": str(len(text.splitlines()))}
        return _read_bytes(document, text, facts, document.warnings + _almost(document, text))

    def compare(self, old: Read, new: Read) -> Comparison:
        before, after = old.text or "", new.text or ""
        _, plus, minus = line_diff(before, after)
        lines, _, _ = line_diff(mask_text(before), mask_text(after))
        parts = [
            f"{counted(plus, 'line')} added" if plus else "",
            f"{counted(minus, 'line')} removed" if minus else "",
            "only line ends or the byte order mark differ" if not plus and not minus else "",
        ]
        return Comparison(diff=lines, lines_added=plus, lines_removed=minus, summary=sentence(parts))


class Binary:
    kind = "binary"

    def detect(self, document: Document) -> bool:
        return document.raw_text is None

    def read(self, document: Document) -> Read:
        return _read_bytes(document, document.raw_text, {}, ())

    def compare(self, old: Read, new: Read) -> Comparison:
        sizes = f"{len(old.content):,} -> {len(new.content):,} bytes"
        return Comparison(summary=sentence([f"different bytes, {sizes}"]))


def _read_bytes(document: Document, text: str | None, facts: dict[str, str], warnings: tuple[str, ...]) -> Read:
    digest = hashlib.sha256(document.content).hexdigest()
    return Read(
        content=document.content,
        text=text,
        value_digest=f"v1:{digest}",
        semantic_digest=f"s1:{digest}",
        facts=facts,
        warnings=warnings,
    )


def _almost(document: Document, text: str) -> tuple[str, ...]:
    """Say why what looks like a workflow, or is too large to be read as one, is only text."""
    like_json = text.lstrip()[:1] in ("{", "[")
    try:
        document.json() if like_json else document.yaml()
    except Invalid as error:
        if like_json or "limit" in error.metadata or _LIKE_DIFY.search(text):
            return (f"kept as plain text: {error.message}",)
    return ()

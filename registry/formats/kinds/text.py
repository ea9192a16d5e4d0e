"""Plain text, compared by line, and bytes, compared by size and digest."""

from __future__ import annotations

import hashlib
import re

from registry.core.errors import Invalid, Reason
from registry.formats.model import Comparison, Format, Read
from registry.formats.reading.document import Document
from registry.formats.secrets.masking import HIDDEN, mask_text
from registry.formats.summary import counted, sentence
from registry.formats.values.align import Lines, Work, line_diff
from registry.formats.values.words import line_words

_LIKE_A_WORKFLOW = re.compile(r"""^\s{0,4}["']?(app|workflow|model_config|nodes|connections)["']?\s*:""", re.MULTILINE)


class Text(Format):
    kind = "text"

    def detect(self, document: Document) -> bool:
        """Raises Invalid for what looks like a workflow and cannot be read as one: kept as a text it would run
        nowhere, and what its format declares secret would be kept too."""
        text = document.raw_text
        if text is not None and (error := _unread(document, text)) and _LIKE_A_WORKFLOW.search(text):
            place = error.metadata
            raise Invalid(
                Reason.INVALID_CONTENT,
                f"it looks like a workflow, and is {error.message}",
                hint="correct it; or name its kind, text, to keep it as it stands, with whatever it holds",
                metadata=place,
            )
        return text is not None

    def read(self, document: Document) -> Read:
        text = document.text()
        facts = {"lines": str(len(text.splitlines()))}
        return _read_bytes(document, text, facts, document.warnings + _almost(document, text))

    def compare(self, old: Read, new: Read) -> Comparison:
        before, after = old.text or "", new.text or ""
        _, plus, minus = line_diff(before, after)
        work = Work()
        masked = Lines(*_masked(before, after), work)
        parts = [
            f"{counted(plus, 'line')} added" if plus else "",
            f"{counted(minus, 'line')} removed" if minus else "",
            "only line ends or the byte order mark differ" if not plus and not minus else "",
        ]
        return Comparison(
            diff=masked.unified(),
            words=line_words(masked, work),
            lines_added=plus,
            lines_removed=minus,
            summary=sentence(parts),
        )


def _masked(old: str, new: str) -> tuple[str, str]:
    """Both without secrets. A line of `new` says so where nothing but its secret differs."""
    before, after = mask_text(old).splitlines(), mask_text(new).splitlines()
    lines = Lines(old, new)
    if len(before) == len(lines.old) and len(after) == len(lines.new):
        changed = [(range(a, b), range(c, d)) for a, b, c, d in lines.stretches]
    else:  # secrets of several lines: which line of theirs is which is not known
        changed = [(range(len(before)), range(len(after)))] if before == after else []
    for olds, news in changed:
        known = {before[index] for index in olds}
        for index in news:
            if HIDDEN in after[index] and after[index] in known:
                after[index] += ", another one"
    return "\n".join(before), "\n".join(after)


class Binary(Format):
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
    """Say why what looks like JSON or YAML is only text."""
    error = _unread(document, text)
    return (f"kept as plain text: {error.message}",) if error else ()


def _unread(document: Document, text: str) -> Invalid | None:
    """Why what looks like more than text cannot be read as more."""
    like_json = text.lstrip()[:1] in ("{", "[")
    try:
        document.json() if like_json else document.yaml()
    except Invalid as error:
        if like_json or "limit" in error.metadata or _LIKE_A_WORKFLOW.search(text):
            return error
    return None

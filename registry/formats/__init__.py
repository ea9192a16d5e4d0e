"""What content is, and what changed between two contents. Pure; bounded by `registry.core.limits` and `limits`.

Adding a format is one file with a `model.Format` and one line in FORMATS.
"""

from __future__ import annotations

import hashlib

import msgspec

from registry.core.errors import Invalid, Reason
from registry.formats.data import Json, Toml, Yaml, compare_values
from registry.formats.dify import Dify
from registry.formats.document import Document
from registry.formats.limits import WARNINGS
from registry.formats.model import Comparison, Format, Inspection, Read, Side
from registry.formats.parse import refuse
from registry.formats.summary import noise_of
from registry.formats.text import Binary, Text

__all__ = ["KINDS", "Comparison", "Inspection", "compare", "inspect"]

# In order of detection: the first that knows the content takes it.
FORMATS: tuple[Format, ...] = (Binary(), Dify(), Json(), Toml(), Yaml(), Text())
KINDS: tuple[str, ...] = tuple(sorted(known.kind for known in FORMATS))


def inspect(content: bytes, *, kind: str = "") -> Inspection:
    """Kind, digests and facts of content.

    `kind` empty: detected; what parses as nothing else is text, what is not UTF-8 is binary. Raises Invalid:
    UNKNOWN_KIND; INVALID_CONTENT if it is empty, is not of the named kind (metadata `line` and `column` where known)
    or is past a bound of parsing.
    """
    known, read = _read(content, kind)
    return Inspection(
        kind=known.kind,
        value_digest=read.value_digest,
        semantic_digest=read.semantic_digest,
        facts=read.facts,
        warnings=read.warnings[:WARNINGS],
    )


def compare(old: bytes, new: bytes, *, kind_old: str = "", kind_new: str = "") -> Comparison:
    """What changed from `old` to `new`; kinds as for `inspect`, and the same errors. Two kinds: by value or by line."""
    (format_old, before), (format_new, after) = _read(old, kind_old), _read(new, kind_new)
    if format_old.kind == format_new.kind:
        result = format_old.compare(before, after)
    elif before.value is not None and after.value is not None:
        result = compare_values(before.value, after.value)
    else:
        result = (Binary() if before.text is None or after.text is None else Text()).compare(before, after)
    flags = {
        "identical": old == new,
        "same_value": before.value_digest == after.value_digest,
        "same_semantics": before.semantic_digest == after.semantic_digest,
    }
    if not flags["same_value"] and not result.summary:
        result = compare_values(before.value, after.value)  # a difference that the format's own view does not hold
    return msgspec.structs.replace(
        result,
        old=_side(format_old, before),
        new=_side(format_new, after),
        summary=_summary(result, **flags),
        **flags,
    )


def _read(content: bytes, kind: str) -> tuple[Format, Read]:
    if not content:
        refuse("empty content: zero bytes are not a version")
    document = Document(content)
    if not kind:
        known = next(known for known in FORMATS if known.detect(document))
        return known, known.read(document)
    for known in FORMATS:
        if known.kind == kind:
            return known, known.read(document)
    raise Invalid(
        Reason.UNKNOWN_KIND,
        f"unknown kind {kind[:40]!r}",
        hint=f"known: {', '.join(KINDS)}; leave it away to have it detected",
        metadata={"known": ",".join(KINDS)},
    )


def _side(known: Format, read: Read) -> Side:
    return Side(
        kind=known.kind,
        digest="sha256:" + hashlib.sha256(read.content).hexdigest(),
        value_digest=read.value_digest,
        semantic_digest=read.semantic_digest,
        size_bytes=len(read.content),
        facts=read.facts,
    )


def _summary(result: Comparison, *, identical: bool, same_value: bool, same_semantics: bool) -> str:
    if identical:
        return "identical"
    if same_value:
        return "the same value, written differently"
    if same_semantics:
        return f"no change in what it does: {noise_of(result) or result.summary}"
    return result.summary

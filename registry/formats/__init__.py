"""What content is, and what changed between two contents. Pure; bounded by `registry.core.limits` and `limits`.

Adding a format is one file, or package, in `kinds` and one line there. `kinds` and `picture` stand on `graph`, and that
on `values`, `reading` and `secrets`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import msgspec

from registry.core.errors import Invalid, Reason
from registry.core.limits import REQUIRES, REQUIRES_CHARS
from registry.formats.findings import worst_first
from registry.formats.graph.format import GraphFormat
from registry.formats.kinds import FORMATS, KINDS
from registry.formats.kinds.data import compare_values
from registry.formats.kinds.text import Binary, Text
from registry.formats.limits import WARNINGS
from registry.formats.model import Comparison, Finding, Format, Inspection, Read, Secret, SecretChange, Side
from registry.formats.picture.draw import draw as draw_graphs
from registry.formats.reading.document import Document
from registry.formats.reading.parse import refuse
from registry.formats.secrets.changes import NO_PRINTS, Prints, secret_changes
from registry.formats.secrets.literals import literals, literals_of_text
from registry.formats.secrets.masking import marked
from registry.formats.secrets.redact import Redacted, redact
from registry.formats.summary import noise_of, of_secrets
from registry.formats.values.patch import patch as patch_values
from registry.formats.verdict import judge

__all__ = ["KINDS", "Comparison", "Inspection", "compare", "draw", "inspect", "patch"]


class _Known(NamedTuple):
    format: Format
    read: Read


class Known(_Known):
    """Content that was read, by the format that read it: parsed once, however much is asked of it."""

    @cached_property
    def digest(self) -> str:
        """The identity of its exact bytes."""
        if isinstance(self.format, Text | Binary):  # whose value they are
            return "sha256:" + self.read.value_digest.removeprefix("v1:")
        return "sha256:" + hashlib.sha256(self.read.content).hexdigest()

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What its format's checks find, and literals that look like secrets: worst first, bounded."""
        known, read = self
        if read.value is None:
            return tuple(worst_first(known.check(read) + literals_of_text(read.text or "")))
        declared = {secret.path for secret in known.secrets(read)}
        return tuple(worst_first(known.check(read) + literals(read.value, declared)))


def inspect(content: bytes, *, kind: str = "") -> Inspection:
    """Kind, digests and facts of content. Raises what `read` raises."""
    return inspect_read(read(content, kind))


def inspect_read(content: Known, *, more: Sequence[Finding] = ()) -> Inspection:
    """As `inspect`; `more`: findings that were made on the way to this content."""
    known, read = content
    return Inspection(
        kind=known.kind,
        value_digest=read.value_digest,
        semantic_digest=read.semantic_digest,
        facts=read.facts,
        warnings=read.warnings[:WARNINGS],
        findings=tuple(worst_first([*content.findings, *more])) if more else content.findings,
        requires=tuple(token for token in known.requires(read) if len(token) <= REQUIRES_CHARS)[:REQUIRES],
    )


def secrets_of(content: Known) -> list[Secret]:
    """The values in it that its format declares secret."""
    return content.format.secrets(content.read)


def may_hold_secrets(content: Known) -> bool:
    """Whether `without_secrets` has something to do, or to refuse."""
    declares = type(content.format).secrets is not Format.secrets
    return declares and (content.read.repeated or bool(secrets_of(content)))


def without_secrets(content: Known, key: bytes) -> Redacted:
    """The content without the values that its format declares secret. Raises Invalid(INVALID_CONTENT) where one of
    them cannot be taken out, or may hide: what a repeated key held first is in the bytes and not in the value."""
    if may_hold_secrets(content) and content.read.repeated:
        refuse(
            "a key stands twice in one mapping, and what it held first may be a secret; nothing was stored",
            hint="take one of the two out: the last one counts",
        )
    return redact(Document(content.read.content), secrets_of(content), key)


def compare(old: bytes, new: bytes, *, kind_old: str = "", kind_new: str = "") -> Comparison:
    """What changed from `old` to `new`; kinds as for `inspect`, and the same errors. Two kinds: by value or by line."""
    return compare_read(read(old, kind_old), read(new, kind_new))


def compare_read(old: Known, new: Known, prints_old: Prints = NO_PRINTS, prints_new: Prints = NO_PRINTS) -> Comparison:
    """As `compare`; `prints_old`, `prints_new`: fingerprints of the values that were left out of the contents."""
    (format_old, before), (format_new, after) = old, new
    if format_old.kind == format_new.kind:
        result = format_old.compare(before, after)
    elif before.value is not None and after.value is not None:
        result = _compare_values(old, new)
    else:
        result = (Binary() if before.text is None or after.text is None else Text()).compare(before, after)
    flags = {
        "identical": before.content == after.content,
        "same_value": before.value_digest == after.value_digest,
        "same_semantics": before.semantic_digest == after.semantic_digest,
    }
    if not flags["same_value"] and not result.summary:
        result = _compare_values(old, new)  # a difference that the format's own view does not hold
    result = msgspec.structs.replace(
        result,
        old=_side(old),
        new=_side(new),
        secrets=_secrets(result, before, after, prints_old, prints_new),
        **flags,
    )
    result.summary = _summary(result)
    if not result.same_value or format_old.kind != format_new.kind or result.secrets:
        result.verdict = judge(result, new.findings, old.findings if new.findings else ())
    return result


def _compare_values(old: Known, new: Known) -> Comparison:
    """By path, without the secrets that either side's format declares."""
    paths = [secret.path for content in (old, new) for secret in secrets_of(content)]
    return compare_values(marked(old.read.value, paths), marked(new.read.value, paths))


def patch(old: bytes, new: bytes, *, kind_old: str = "", kind_new: str = "") -> list[dict[str, Any]]:
    """JSON Patch (RFC 6902) that turns the value of `old` into the value of `new`; kinds as for `inspect`.

    It holds values as they are, secrets too: for those who may read both contents, and never for a log. Raises
    Invalid as `inspect` does, and INVALID_CONTENT for text and bytes, which have no value, and for numbers that JSON
    does not have.
    """
    before, after = read(old, kind_old), read(new, kind_new)
    for known, _ in (before, after):
        if known.kind in (Text.kind, Binary.kind):
            refuse(f"{known.kind} has no value to patch", hint="compare it as unified text")
    made = patch_values(before.read.value, after.read.value)
    try:
        json.dumps(made, allow_nan=False)
    except ValueError:
        refuse("the new value holds a number that JSON has not (.nan, .inf or thousands of digits)")
    return made


def draw(old: bytes, new: bytes, kind_old: str = "", kind_new: str = "") -> str:
    """What `compare` finds, as a picture: one SVG document. Raises what `read` raises, and Invalid(INVALID_REQUEST)
    for content that is no graph, and for graphs of two kinds."""
    return draw_read(read(old, kind_old), read(new, kind_new))


def draw_read(old: Known, new: Known) -> str:
    known = new.format
    if old.format is not known or not isinstance(known, GraphFormat):
        kinds = sorted(each.kind for each in FORMATS if isinstance(each, GraphFormat))
        raise Invalid(
            Reason.INVALID_REQUEST,
            f"no picture of {old.format.kind} and {known.kind}: it takes two graphs of one kind",
            hint=f"kinds with a graph: {', '.join(kinds)}",
            metadata={"kinds": ",".join(kinds)},
        )
    return draw_graphs(old.read.view, new.read.view, compare_read(old, new), rules=known.rules)


def is_opaque(content: bytes, kind: str = "") -> bool:
    """Whether `read` takes it for bytes that mean nothing: then there is nothing in it to parse, or to search."""
    return kind in ("", Binary.kind) and Document(content).raw_text is None


def read(content: bytes, kind: str = "") -> Known:
    """Content by its format.

    `kind` empty: detected; what parses as nothing else is text, what is not UTF-8 is binary. Raises Invalid:
    UNKNOWN_KIND; INVALID_CONTENT if it is empty, is not of the named kind (metadata `line` and `column` where known)
    or is past a bound of parsing.
    """
    if not content:
        refuse("empty content: zero bytes are not a version")
    document = Document(content)
    if not kind:
        known = next(known for known in FORMATS if known.detect(document))
        return Known(known, known.read(document))
    for known in FORMATS:
        if known.kind == kind:
            return Known(known, known.read(document))
    raise Invalid(
        Reason.UNKNOWN_KIND,
        f"unknown kind {kind[:40]!r}",
        hint=f"known: {', '.join(KINDS)}; leave it away to have it detected",
        metadata={"known": ",".join(KINDS)},
    )


def _side(known: Known) -> Side:
    read = known.read
    return Side(
        kind=known.format.kind,
        digest=known.digest,
        value_digest=read.value_digest,
        semantic_digest=read.semantic_digest,
        size_bytes=len(read.content),
        facts=read.facts,
    )


def _secrets(result: Comparison, old: Read, new: Read, prints_old: Prints, prints_new: Prints) -> list[SecretChange]:
    """Without those that came or went with their variable: that is listed already."""
    listed = {(f"{each.scope}.{each.name}", each.sign) for each in result.variables}
    found = secret_changes(old.content, new.content, prints_old, prints_new)
    return [each for each in found if each.sign == "~" or (each.name, each.sign) not in listed]


def _summary(result: Comparison) -> str:
    secrets = of_secrets(result.secrets)
    if result.identical:
        return f"{secrets}; otherwise identical" if secrets else "identical"
    if result.same_value:
        same = "the same value, written differently"
        return f"{secrets}; otherwise {same}" if secrets else same
    if result.same_semantics:
        noise = noise_of(result) or result.summary
        return f"{secrets}; {noise}" if secrets else f"no change in what it does: {noise}"
    return f"{result.summary}; {secrets}" if secrets else result.summary

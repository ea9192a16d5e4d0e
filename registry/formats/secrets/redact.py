"""Leaving out of content what its format declares secret, before anything is kept.

The value gives way to Dify's own placeholder, in place: every other byte stays as it was written. What identifies it
afterwards is its name and a fingerprint under a key of the cluster, so that one can see that a secret changed, and
nobody who has the content alone can try values.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from json import decoder
from typing import Any, NamedTuple

import yaml

from registry.core.errors import Invalid, Reason
from registry.formats.findings import finding
from registry.formats.model import Finding, Secret
from registry.formats.reading.document import BOM, Document, is_saved_reply
from registry.formats.values.canonical import same

PLACEHOLDER = "[__HIDDEN__]"
_QUOTED = json.dumps(PLACEHOLDER)  # the same in JSON and in YAML, where the bare text would be a list
_FINGERPRINT_HEX = 24
_TELLING_CHARS = 8  # a shorter value is found everywhere
_string: Callable[[str, int], tuple[str, int]] = decoder.scanstring  # type: ignore[attr-defined]  # value and its end
_BLANK = re.compile(r"[ \t\r\n]*")
_ATOM = re.compile(r"[^\s,\]}]+")

Path = tuple[str | int, ...]
Span = tuple[int, int]  # characters


class Redacted(NamedTuple):
    content: bytes
    secrets: dict[str, str]  # name -> fingerprint
    repeated: tuple[Finding, ...] = ()  # the same values at other places, where they stay


def fingerprint(key: bytes, value: str) -> str:
    """`k1:` and 96 bits of HMAC-SHA256 under the cluster's key."""
    return "k1:" + hmac.new(key, value.encode(), hashlib.sha256).hexdigest()[:_FINGERPRINT_HEX]


def redact(document: Document, secrets: Collection[Secret], key: bytes) -> Redacted:
    """`secrets`: of the value that the document holds, or of the one inside a saved reply `{"data": "..."}`.

    Raises Invalid(INVALID_CONTENT) where a value cannot be taken out on its own, as behind a YAML alias.
    """
    if not secrets:
        return Redacted(document.content, {})
    text = document.text()
    outer = document.tree().value
    if is_saved_reply(outer):
        inner = _without(outer["data"], secrets)
        changed = _replaced(text, [(span, json.dumps(inner)) for span in _spans(text, {("data",)})])
        if Document(changed.encode()).tree().value != {"data": inner}:
            _refuse(next(iter(secrets)))
    else:
        changed = _without(text, secrets)
    bom = BOM if (document.raw_text or "").startswith(BOM) else ""
    repeated = [finding("secret_literal", "warn", text, f"line {line}") for text, line in _repeated(changed, secrets)]
    prints = {secret.name: fingerprint(key, secret.value) for secret in secrets}
    return Redacted((bom + changed).encode(), prints, tuple(repeated))


def _repeated(text: str, secrets: Collection[Secret]) -> Iterator[tuple[str, int]]:
    """Values that were taken out at their own place and stand at another one too, as they were written there."""
    for secret in secrets:
        at = text.find(secret.value) if len(secret.value) >= _TELLING_CHARS else -1
        if at >= 0:
            yield (
                f"the value of {secret.name}, which is left out at its place, stands here too",
                text.count("\n", 0, at) + 1,
            )


def _without(text: str, secrets: Collection[Secret]) -> str:
    paths = {secret.path for secret in secrets}
    changed = _replaced(text, [(span, _QUOTED) for span in _spans(text, paths)])
    expected = Document(text.encode()).tree().value
    for secret in secrets:
        expected = _put(expected, secret.path)
    try:
        found = Document(changed.encode()).tree().value
    except Invalid:
        found = None
    if not same(found, expected):
        _refuse(next(iter(secrets)))
    return changed


def _refuse(secret: Secret) -> None:
    raise Invalid(
        Reason.INVALID_CONTENT,
        f"the value of the secret {secret.name} cannot be left out where it is written: behind an alias, a merge or a "
        "tag; nothing was stored",
        hint="leave the value empty, as an export without secrets does, and publish again",
    )


def _put(value: Any, path: Path) -> Any:
    """A copy with the placeholder at `path`."""
    if not path:
        return PLACEHOLDER
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _put(value[path[0]], path[1:])
    return copy


def _replaced(text: str, parts: Iterable[tuple[Span, str]]) -> str:
    for (start, end), new in sorted(parts, reverse=True):
        tail = "\n" if text[start:end].endswith("\n") else ""  # a block scalar ends with its line
        text = text[:start] + new + tail + text[end:]
    return text


def _spans(text: str, paths: Collection[Path]) -> list[Span]:
    """Where the scalars at these paths are written, in JSON as in YAML; keys that are repeated, every time."""
    if text.lstrip()[:1] in ("{", "["):
        try:
            json.loads(text)
        except ValueError:
            pass
        else:
            found: list[Span] = []
            _json_spans(text, _BLANK.match(text).end(), (), paths, found)  # type: ignore[union-attr]
            return found
    return _yaml_spans(text, paths)


def _json_spans(text: str, at: int, path: Path, paths: Collection[Path], found: list[Span]) -> int:
    """Walks the value at `at`; where it ends. The text is JSON, and not too deep: it was read before."""

    def blank(at: int) -> int:
        return _BLANK.match(text, at).end()  # type: ignore[union-attr]

    if text[at] in "{[":
        mapping, index, start = text[at] == "{", 0, at
        at = blank(at + 1)
        while text[at] not in "}]":
            key: str | int = index
            if mapping:
                key, at = _string(text, at + 1)
                at = blank(blank(at) + 1)
            at = blank(_json_spans(text, at, (*path, key), paths, found))
            index += 1
            if text[at] == ",":
                at = blank(at + 1)
        end = at + 1
    else:
        start = at
        end = _string(text, at + 1)[1] if text[at] == '"' else _ATOM.match(text, at).end()  # type: ignore[union-attr]
    if path in paths:
        found.append((start, end))
    return end


class _Open:
    """An open list or mapping of YAML."""

    __slots__ = ("index", "key", "mapping")

    def __init__(self, *, mapping: bool) -> None:
        self.mapping = mapping
        self.index = 0
        self.key: str | None = None  # of a mapping: whose value comes next


def _yaml_spans(text: str, paths: Collection[Path]) -> list[Span]:
    loader = yaml.CSafeLoader(text)
    stack: list[_Open] = []
    found: list[Span] = []

    def step() -> tuple[str | int, ...] | None:
        """The path of the value that begins now; None: it is a key."""
        if stack and stack[-1].mapping and stack[-1].key is None:
            return None
        return tuple(frame.key or "" if frame.mapping else frame.index for frame in stack)

    def done() -> None:
        if stack:
            stack[-1].key = None
            stack[-1].index += 1

    try:
        while not isinstance(event := loader.get_event(), yaml.StreamEndEvent):
            if isinstance(event, yaml.ScalarEvent):
                path = step()
                if path is None:
                    stack[-1].key = event.value
                    continue
                if path in paths and event.start_mark and event.end_mark:
                    found.append((event.start_mark.index, event.end_mark.index))
                done()
            elif isinstance(event, yaml.AliasEvent):
                if step() is None:
                    stack[-1].key = ""
                else:
                    done()
            elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                stack.append(_Open(mapping=isinstance(event, yaml.MappingStartEvent)))
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                stack.pop()
                done()
    finally:
        loader.dispose()
    return found

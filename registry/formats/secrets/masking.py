"""Hiding what looks like a secret, and cutting what is long, before a comparison shows it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from registry.formats.limits import EXCERPT_LEAD_CHARS, KEY_CHARS, STRUCTURE_CHARS, VALUE_CHARS
from registry.formats.values.canonical import canonical

HIDDEN = "(secret)"
# What Dify itself writes in place of a secret says nothing and is worth seeing.
_PLACEHOLDERS = re.compile(r"\*+|\[__HIDDEN__\]|")

_SECRET_KEY = re.compile(
    r"(api[-_]?key|token|secret|password|passwd|private[-_]?key|access[-_]?key|secret[-_]?key|credentials?|"
    r"authorization|cookie)([-_]?\d+)?$",
    re.IGNORECASE,
)
_NAME_KEYS = ("key", "name", "variable", "header")
_REFERENCE = re.compile(r"\{\{[^{}]*\}\}|\$\{[^{}]*\}")
_ISSUERS = (
    *("sk", "pk", "rk", "app", "dataset", "tvly", "fc", "gsk", "hf", "r8", "xoxa", "xoxb", "xoxp", "xoxr", "xoxs"),
    *("ghp", "gho", "ghu", "ghs", "ghr", "github_pat", "glpat"),
)
# These look no further than a few hundred characters from where they begin: a text may make them begin everywhere.
_TOKENS = re.compile(
    rf"\b(?:{'|'.join(_ISSUERS)})[-_][A-Za-z0-9_\-]{{16,}}"
    r"|\bAKIA[0-9A-Z]{16}\b|\bAIza[0-9A-Za-z_\-]{30,}|\beyJ[A-Za-z0-9_\-]{10,300}\.[A-Za-z0-9_\-]{10,}(?:\.[A-Za-z0-9_\-]*)?"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
_ASSIGNED = re.compile(
    r"(?P<name>(?:api[-_]?key|token|secret|password|passwd|authorization|access[-_]?key)[\"']?\s*[:=]\s*[\"']?"
    r"(?:(?:bearer|basic)\s+)?)(?P<value>(?=[^\s\"'\d]{0,200}+\d)"
    r"[A-Za-z0-9_\-+/=~]{12,200}+(?![.(\[{])[A-Za-z0-9_\-+/=~]*)",
    re.IGNORECASE,
)
_IN_URL = re.compile(
    r"(?P<name>[?&](?:[\w-]*key|[\w-]*token|sig|signature|[\w-]*secret|password|auth)=)(?P<value>[^&\s#\"'{}<>]{6,})"
    r"|(?P<user>\w://[^\s/:@]+:)(?P<password>[^\s/@{}<>]+)(?=@)",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(?P<name>Bearer\s+)(?P<value>[A-Za-z0-9_\-.+/=~]{12,})")

# How tokens begin; of the others, what stands in every text that they match, in small letters.
_TOKEN_MARKS = (*(f"{name}{mark}" for name in _ISSUERS for mark in "-_"), "AKIA", "AIza", "eyJ", "-----BEGIN")
_IN_TEXTS = (
    (_IN_URL, ("key=", "token=", "sig=", "signature=", "secret=", "password=", "auth=", "@")),
    (_BEARER, ("bearer",)),
    (_ASSIGNED, ("key", "token", "secret", "passw", "authorization")),
)


_SHORTEST = 18  # characters of anything that is hidden outside of a URL: most texts are shorter


def secret_key(key: str) -> bool:
    return _SECRET_KEY.search(key) is not None


def declares_secret(value: Any) -> bool:
    """Whether a mapping says of itself that it holds a secret: Dify's variables, LangFlow's fields, `marked` values."""
    return isinstance(value, dict) and (value.get("value_type") == "secret" or value.get("password") is True)


def names_secret(value: Any) -> bool:
    """Whether a mapping says that its `value` is secret: itself, or by the name beside it."""
    if not isinstance(value, dict):
        return False
    return declares_secret(value) or any(
        isinstance(value.get(key), str) and secret_key(value[key]) for key in _NAME_KEYS
    )


def child_is_secret(parent: Any, key: str) -> bool:
    """Whether a text under `key` of the mapping `parent` is a secret."""
    if key.lower() == "authorization" and isinstance(parent[key], dict):
        return False  # of an http-request node: its type and header are no secrets, and its api_key has its own name
    return secret_key(key) or (key in ("value", "default") and names_secret(parent))


def mask(value: Any, secret: bool = False) -> Any:
    """A copy without secrets. `secret`: what stands here is one, whatever it looks like."""
    if isinstance(value, dict):
        return {mask_text(key): mask(item, secret or child_is_secret(value, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [mask(item, secret) for item in value]
    if isinstance(value, str):
        return HIDDEN if secret and _hideable(value) else mask_text(value)
    if secret and isinstance(value, (int, float)) and not isinstance(value, bool):
        return HIDDEN
    return value


def marked(value: Any, paths: Iterable[tuple[str | int, ...]]) -> Any:
    """A copy in which what stands at these paths declares itself a secret, so that a comparison hides it."""
    tree: dict[str | int, Any] = {}
    for path in paths:
        below = tree
        for key in path:
            below = below.setdefault(key, {})
    return _mark(value, tree) if tree else value


def _mark(value: Any, tree: dict[str | int, Any]) -> Any:
    if tree and isinstance(value, dict):
        return value | {key: _mark(value[key], below) for key, below in tree.items() if key in value}
    if tree and isinstance(value, list):
        return [_mark(item, tree[index]) if index in tree else item for index, item in enumerate(value)]
    return {"value": value, "value_type": "secret"}  # also where the other side has a list or mapping of secrets


def is_secret_type(value_type: Any) -> bool:
    return isinstance(value_type, str) and value_type.strip().lower() == "secret"


def says_secret(value: Any) -> bool:
    """Whether what stands at the place of a secret is one: not empty, not a placeholder, not only a reference."""
    if isinstance(value, str):
        return _hideable(value)
    return isinstance(value, (int, float, dict, list)) and not isinstance(value, bool) and value not in ({}, [])


def is_placeholder(value: Any) -> bool:
    """Whether it is what an export writes in place of a secret: nothing, asterisks, or Dify's own word."""
    return isinstance(value, str) and _PLACEHOLDERS.fullmatch(value) is not None


def _hideable(value: str) -> bool:
    """Not a placeholder, and more than a reference to a variable."""
    rest = _REFERENCE.sub("", value).strip()
    return not is_placeholder(value) and rest.lower() not in ("", "bearer", "basic")


def mask_text(text: str) -> str:
    """Tokens inside a longer text: known shapes, and `password = ...` with a literal after it."""
    if len(text) < _SHORTEST and "=" not in text and "@" not in text:
        return text
    text = _TOKENS.sub(HIDDEN, text)
    for pattern, _ in _IN_TEXTS:
        text = pattern.sub(_hidden, text)
    return text


def _hidden(found: re.Match[str]) -> str:
    """What was found, without the secret in it."""
    return "".join(found.groupdict().get(name) or "" for name in ("name", "user")) + HIDDEN


def secret_starts(text: str) -> Iterator[int]:
    """Where `mask_text` would begin to hide something, in no order. Made for long texts: most patterns are skipped."""
    for mark in _TOKEN_MARKS:
        at = text.find(mark)
        while at >= 0:
            found = _TOKENS.match(text, at)
            if found:
                yield at
            at = text.find(mark, found.end() if found else at + 1)
    small = text.lower()
    for pattern, marks in _IN_TEXTS:
        if any(mark in small for mark in marks):
            yield from (found.start() for found in pattern.finditer(text))


def short(name: str) -> str:
    """A name, key or title as it may be shown: without tokens, and cut."""
    name = mask_text(name)
    return name if len(name) <= KEY_CHARS else f"{name[:KEY_CHARS]}…"


def shown(value: Any) -> Any:
    """A masked value as a comparison may carry it: bounded, and JSON without NaN or endless integers."""
    if isinstance(value, str):
        return cut(value, 0)
    if isinstance(value, (dict, list)):
        text = canonical(value)
        if len(text) > STRUCTURE_CHARS:
            return f"{text[:STRUCTURE_CHARS]}… ({len(text)} characters of JSON)"
        return _encodable(value)
    return _encodable(value)


def shown_pair(old: Any, new: Any) -> tuple[Any, Any]:
    """Two masked values; of long texts, the stretch where they begin to differ."""
    if isinstance(old, str) and isinstance(new, str) and max(len(old), len(new)) > VALUE_CHARS:
        pairs = enumerate(zip(old, new, strict=False))
        differs = next((index for index, (a, b) in pairs if a != b), min(len(old), len(new)))
        start = max(0, differs - EXCERPT_LEAD_CHARS)
        return cut(old, start), cut(new, start)
    return shown(old), shown(new)


def cut(text: str, start: int) -> str:
    if start == 0 and len(text) <= VALUE_CHARS:
        return text
    end = start + VALUE_CHARS
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''} ({len(text)} characters)"


def _encodable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _encodable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value

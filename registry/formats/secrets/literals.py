"""Literals in content that look like secrets: where, and what may be shown of them.

Stricter than masking, which rather hides too much: here a person has to look at each.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterator
from itertools import accumulate
from typing import Any

from registry.formats.findings import alike
from registry.formats.limits import LITERAL_AROUND_CHARS, LITERAL_MIN_CHARS
from registry.formats.model import Finding
from registry.formats.secrets.masking import (
    HIDDEN,
    mask_text,
    names_secret,
    says_secret,
    secret_key,
    secret_starts,
    short,
)
from registry.formats.values.compare import join

Path = tuple[str | int, ...]
_Link = tuple[Any, str | int]  # the one above it (None at the top), and the last part of the path
# Words in place of a secret, and names of variables that hold one.
_NO_SECRET = re.compile(r"(?is:.*(?:your|example|placeholder|change.?me|xxx).*|<.*>)|[A-Z]+(?:_[A-Z0-9]+)+")
_VALUES = ("value", "default")  # beside a name
_NAMES_ONE = ("credential", "credentials")  # what stands there is an id
_SEPARATOR = "}\n"  # no pattern goes on behind it
_TITLES = ("title", "name", "variable", "key", "id")


def literals(value: Any, declared: Collection[Path] = ()) -> list[Finding]:
    """Of a parsed value. `declared`: paths of values that their format itself calls secret; they are left out."""
    if _is_clean(value):
        return []
    texts, found = _texts(value)
    starts = [0, *accumulate(len(text) + len(_SEPARATOR) for _, text in texts)]
    hits = {bisect_right(starts, at) - 1 for at in secret_starts(_SEPARATOR.join(text for _, text in texts))}
    places: dict[Path, str | None] = {_path(texts[hit][0]): texts[hit][1] for hit in sorted(hits)}
    places |= dict.fromkeys(map(_path, found))
    skipped = set(declared)

    def say(place: tuple[Path, str | None]) -> tuple[str, str]:
        path, text = place
        return f"looks like a secret: {HIDDEN if text is None else _excerpt(text)}", _where(value, path)

    return alike("secret_literal", "warn", (place for place in places.items() if place[0] not in skipped), say)


def literals_of_text(text: str) -> list[Finding]:
    """Of a text that is nothing else, by line."""
    lines = text.splitlines() if next(secret_starts(text), None) is not None else []
    masked = ((number, line, mask_text(line)) for number, line in enumerate(lines, 1))
    return alike(
        "secret_literal",
        "warn",
        ((number, line) for number, line, hidden in masked if hidden != line),
        lambda item: (f"looks like a secret: {_excerpt(item[1])}", f"line {item[0]}"),
    )


def _is_clean(value: Any) -> bool:
    """Whether there is none at all, which most content needs no more than this look for."""
    texts: list[str] = []
    known: dict[str, bool] = {}
    queue = [value]
    while queue:
        item = queue.pop()
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, list):
            queue += item
        elif isinstance(item, dict):
            queue += item.values()
            if next(_secret_keys(item, known), None) is not None:
                return False
    return next(secret_starts(_SEPARATOR.join(texts)), None) is None


def _texts(value: Any) -> tuple[list[tuple[_Link | None, str]], list[_Link]]:
    """Every text, and the places of those that are secret by their key, whatever they look like."""
    texts: list[tuple[_Link | None, str]] = []
    secret: list[_Link] = []
    known: dict[str, bool] = {}
    queue: list[tuple[_Link | None, Any]] = [(None, value)]
    while queue:
        link, item = queue.pop()
        if isinstance(item, str):
            texts.append((link, item))
        elif isinstance(item, list):
            queue += [((link, index), item[index]) for index in range(len(item) - 1, -1, -1)]
        elif isinstance(item, dict):
            queue += [((link, key), below) for key, below in reversed(item.items())]
            for key in _secret_keys(item, known):
                here: _Link = (link, key)
                secret.append(here if isinstance(item[key], str) else (here, "value"))
    return texts, secret


def _secret_keys(item: dict[str, Any], known: dict[str, bool]) -> Iterator[str]:
    """Keys of a literal that is secret by its key: the text there, or the `value` in a mapping there. `known`: what
    was found of keys before, as they repeat."""
    for key, below in item.items():
        if key not in known:
            known[key] = secret_key(key) and key.lower() not in _NAMES_ONE
        if known[key] or (key in _VALUES and names_secret(item)):
            if isinstance(below, dict) and below.get("type") != "variable":
                below = below.get("value")
            if isinstance(below, str) and _is_literal(below):
                yield key


def _is_literal(text: str) -> bool:
    return len(text) >= LITERAL_MIN_CHARS and says_secret(text) and _NO_SECRET.fullmatch(text) is None


def _path(link: _Link | None) -> Path:
    parts: list[str | int] = []
    while link is not None:
        link, part = link
        parts.append(part)
    return tuple(reversed(parts))


def _where(value: Any, path: Path) -> str:
    """`graph.nodes[Call the API].data.api_key`: items of a list by title where they have one."""
    out = ""
    for part in path:
        value = value[part]
        out = f"{out}[{_title(value, part)}]" if isinstance(part, int) else join(out, part)
    return out


def _title(item: Any, index: int) -> str:
    data = item.get("data") if isinstance(item, dict) else None
    holders = [holder for holder in (data, item) if isinstance(holder, dict)]
    names = (holder.get(key) for key in _TITLES for holder in holders)
    return next((short(name) for name in names if isinstance(name, str) and name), str(index))


def _excerpt(text: str) -> str:
    """The surroundings of the first secret in it."""
    hidden = mask_text(text)
    at = hidden.find(HIDDEN)
    start, end = max(0, at - LITERAL_AROUND_CHARS), at + len(HIDDEN) + LITERAL_AROUND_CHARS
    return " ".join(hidden[start:end].split())

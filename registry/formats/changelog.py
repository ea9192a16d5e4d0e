"""A changelog entry from the decoded JSON of a comparison, in the manner of Keep a Changelog."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from registry.formats.limits import CHANGELOG_CHARS, CHANGELOG_LINES, CHANGELOG_NAMES
from registry.formats.render import edge_words, model_words, noise_rows, value_words

_SECTIONS = (("+", "Added"), ("~", "Changed"), ("-", "Removed"))
_Item = tuple[str, str]  # sign and Markdown


def entry(comparison: Mapping[str, Any], *, version: str, date: str, author: str, message: str) -> str:
    """One Markdown entry: heading, message, impact, and what was added, changed and removed.

    Names and values of the workflow stand in code spans, so that none is taken for Markdown or a mention. `date` is
    an ISO date; texts that are empty are left out, and without a message the summary stands for it. Ends with a line
    feed.
    """
    heading = f"## [{_plain(version)}] - {_plain(date)}" if date else f"## [{_plain(version)}]"
    said = _paragraph(message or comparison["summary"])
    blocks = [heading, f"{said} ({_plain(author)})" if author else said, _impact(comparison)]
    items = list(_items(comparison))
    for sign, title in _SECTIONS:
        lines = [f"- {text}" for each, text in items if each == sign]
        if len(lines) > CHANGELOG_LINES:
            lines = [*lines[:CHANGELOG_LINES], f"- and {len(lines) - CHANGELOG_LINES} more"]
        if lines:
            blocks.append(f"### {title}\n\n" + "\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _impact(comparison: Mapping[str, Any]) -> str:
    """How large the change is, which nodes it touches, and what the verdict warns of."""
    verdict, nodes = comparison.get("verdict"), comparison["nodes"]
    touched = [*nodes["added"], *nodes["changed"], *nodes["removed"]]
    names = _cut([_code(node["title"] or node["id"]) for node in touched])
    parts = [
        f"{verdict['change']} change" if verdict and verdict["change"] != "none" else "",
        f"nodes {', '.join(names)}" if names else "",
    ]
    lines = [f"**Impact:** {'; '.join(part for part in parts if part) or 'no node'}"]
    if verdict and verdict["reasons"]:
        reasons = list(dict.fromkeys(_plain(reason["text"]) for reason in verdict["reasons"]))
        lines.append(f"**Verdict:** {verdict['level']}: {'; '.join(_cut(reasons))}")
    return "  \n".join(lines)


def _cut(texts: list[str]) -> list[str]:
    more = len(texts) - CHANGELOG_NAMES
    return [*texts[:CHANGELOG_NAMES], f"and {more} more"] if more > 0 else texts


def _items(comparison: Mapping[str, Any]) -> Iterator[_Item]:
    yield from _changes(comparison["app"], "app")
    for model in comparison["models"]:
        yield (
            model["sign"],
            f"model of {_code(model['where'])}{_sides(*map(model_words, (model['old'], model['new'])))}",
        )
    yield from _nodes(comparison["nodes"])
    for sign, key in (("+", "added"), ("-", "removed")):
        for edge in comparison["edges"][key]:
            yield sign, f"edge {_code(edge_words(edge))}"
    for variable in comparison["variables"]:
        scope = {"environment": "environment variable", "conversation": "conversation variable"}
        yield variable["sign"], f"{scope.get(variable['scope'], variable['scope'])} {_code(variable['name'])}"
    for secret in comparison.get("secrets", ()):
        yield secret["sign"], f"secret value {_code(secret['name'])}"
    for plugin in comparison["dependencies"]:
        versions = _sides(plugin["old"], plugin["new"]) if plugin["old"] != plugin["new"] else ""
        detail = f" ({_plain(plugin['detail'])})" if plugin["detail"] else ""
        yield plugin["sign"], f"plugin {_code(plugin['name'])}{versions}{detail}"
    yield from _changes(comparison["features"], "feature")
    yield from _changes(comparison["changes"], "setting")
    yield from _changes(comparison["text"], "text")
    yield from _changes(comparison["annotations"], "note")
    if comparison["diff"]:
        yield "~", f"text: {comparison['lines_added']} lines added, {comparison['lines_removed']} removed"
    noise = [f"{row.where}: {row.new}" for row in noise_rows(comparison)]
    if noise:
        yield "~", f"not in what it does: {', '.join(noise)}"


def _nodes(nodes: Mapping[str, Any]) -> Iterator[_Item]:
    for sign, key in (("+", "added"), ("-", "removed")):
        for node in nodes[key]:
            yield sign, f"node {_node(node)}"
    for node in nodes["rematched"]:
        yield "~", f"id of node {_node(node)}{_sides(node['old_id'], node['new_id'])}"
    for node in nodes["changed"]:
        paths = [_code(change["path"]) + _values(change) for change in node["changes"] if not change["shown_as"]]
        if len(paths) > CHANGELOG_LINES:
            paths = [*paths[:CHANGELOG_LINES], f"and {len(paths) - CHANGELOG_LINES} more"]
        if paths:
            yield "~", f"node {_node(node)}: {', '.join(paths)}"


def _changes(changes: list[dict[str, Any]], what: str) -> Iterator[_Item]:
    for change in changes:
        if not change["shown_as"]:
            place = f" of {_code(change['where'])}" if change["where"] else ""
            yield change["sign"], f"{what} {_code(change['path'])}{place}{_values(change)}"


def _values(change: Mapping[str, Any]) -> str:
    """Old and new value where both are short: an entry tells what changed, and the comparison tells how."""
    old, new = value_words(change["old"]), value_words(change["new"])
    short = max(len(old), len(new)) <= CHANGELOG_CHARS and "\n" not in old + new
    return _sides(old, new) if short and not change["masked"] else ""


def _sides(old: str, new: str) -> str:
    if old and new:
        return f": {_code(old)} → {_code(new)}"
    return f": {_code(old or new)}" if old or new else ""


def _node(node: Mapping[str, Any]) -> str:
    return f"{_code(node['title'] or node['id'])} ({_code(node['type'])})"


def _code(text: str) -> str:
    """A code span, which nothing in the text can leave."""
    text = _line(text)
    if len(text) > CHANGELOG_CHARS:
        text = f"{text[:CHANGELOG_CHARS]}…"
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if len(fence) > 1 or not text.strip() else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _plain(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<&#|~])", r"\\\1", _line(text))


def _paragraph(text: str) -> str:
    """Not a list, a quote or a heading."""
    return re.sub(r"^(\d+(?=[.)])|(?=[-+>=]))", r"\1\\", _plain(text))


def _line(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text).strip()

"""A comparison as unified text, from its decoded JSON: for a review, a mail, a pager."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from registry.formats.render import edge_words, model_words, node_words, noise_rows, secret_words, value_words
from registry.formats.values.words import by_line

DIGEST_CHARS = len("sha256:") + 8


def unified(comparison: Mapping[str, Any], *, old: str = "", new: str = "") -> str:
    """Every listed change, in sections `@@ what @@`, as lines that begin with `-`, `+`, a blank for what stays, or `~`
    for a line with [-removed-] and {+added+} words. What is said about the changes begins with `#`.

    `old` and `new` name the two sides. Ends with a line feed, and holds no other control character.
    """
    return "".join(f"{_clean(line)}\n" for line in _lines(comparison, old, new))


def _lines(comparison: Mapping[str, Any], old: str, new: str) -> Iterator[str]:
    for sign, name, side in (("---", old, comparison["old"]), ("+++", new, comparison["new"])):
        detail = f"{side['kind']}, {side['digest'][:DIGEST_CHARS]}"
        yield f"{sign} {name} ({detail})" if name else f"{sign} {detail}"
    yield f"# {comparison['summary']}"
    verdict = comparison.get("verdict")
    if verdict and verdict["change"] != "none":
        yield f"# {verdict['level']}: {verdict['change']} change"
        for reason in verdict["reasons"]:
            where = "" if reason["where"] in reason["text"] else reason["where"]
            yield f"#   {reason['level']}: {_at(where, reason['text'])}"
    yield from _section("app", _changes(comparison["app"]))
    yield from _section("models", _models(comparison["models"]))
    yield from _nodes(comparison["nodes"])
    edges = comparison["edges"]
    yield from _section("edges", _whole(map(edge_words, edges["removed"]), map(edge_words, edges["added"])))
    yield from _section("variables", _variables(comparison["variables"]))
    yield from _section("secret values", _secrets(comparison.get("secrets", ())))
    yield from _section("plugins", _plugins(comparison["dependencies"]))
    yield from _section("features", _changes(comparison["features"]))
    yield from _section("values", _changes(comparison["changes"]))
    yield from _section("titles and descriptions", _changes(comparison["text"]))
    yield from _section("notes", _changes(comparison["annotations"]))
    yield from _text(comparison, "")
    for row in noise_rows(comparison):
        yield f"# {row.where}: {row.new}"


def _section(name: str, lines: Iterator[str]) -> Iterator[str]:
    first = next(lines, None)
    if first is not None:
        yield f"@@ {name} @@"
        yield first
        yield from lines


def _whole(removed: Iterator[str], added: Iterator[str]) -> Iterator[str]:
    yield from (f"-{text}" for text in removed)
    yield from (f"+{text}" for text in added)


def _models(models: list[dict[str, Any]]) -> Iterator[str]:
    for model in models:
        label = _at(model["where"], model["path"])
        if model["old"]:
            yield f"-{label}: {model_words(model['old'])}"
        if model["new"]:
            yield f"+{label}: {model_words(model['new'])}"


def _nodes(nodes: Mapping[str, Any]) -> Iterator[str]:
    yield from _section("nodes", _whole(map(node_words, nodes["removed"]), map(node_words, nodes["added"])))
    ids = (f"~{node_words(node)}: [-{node['old_id']}-]{{+{node['new_id']}+}}" for node in nodes["rematched"])
    yield from _section("node ids", ids)
    for node in nodes["changed"]:
        yield from _section(f"node {node['title']!r} ({node['type']})", _changes(node["changes"]))


def _variables(variables: list[dict[str, Any]]) -> Iterator[str]:
    for variable in variables:
        label = f"{variable['scope']} {variable['name']}"
        if variable["sign"] == "~" and variable["changes"]:
            yield from _changes(variable["changes"], label)
            continue
        fields = {
            change["path"]: value_words(change["old"] if change["new"] is None else change["new"])
            for change in variable["changes"]
        }
        value = next((fields[key] for key in ("value", "value_selector", "type") if key in fields), "")
        yield f"{variable['sign']}{label}{': ' if value else ''}{value}"


def _secrets(secrets: Iterable[Mapping[str, str]]) -> Iterator[str]:
    for secret in secrets:
        for sign, text in zip("-+", secret_words(secret["sign"]), strict=True):
            if text:
                yield f"{sign}{secret['name']}: {text}"


def _plugins(plugins: list[dict[str, Any]]) -> Iterator[str]:
    for plugin in plugins:
        detail = f" ({plugin['detail']})" if plugin["detail"] else ""
        if plugin["sign"] in "-~":
            yield f"-{plugin['name']} {plugin['old']}"
        if plugin["sign"] in "+~":
            yield f"+{plugin['name']} {plugin['new']}{detail}"


def _changes(changes: list[dict[str, Any]], place: str = "") -> Iterator[str]:
    for change in changes:
        if not change["shown_as"]:
            yield from _change(change, _at(place or change["where"], change["path"]))


def _change(change: Mapping[str, Any], label: str) -> Iterator[str]:
    if change["diff"]:
        yield f" {label}:"
        yield from _text(change, "  ")
        return
    words = list(by_line(change.get("words", ())))
    if words:
        yield f"~{label}: {words[0][1]}"
        return
    old, new = value_words(change["old"]), value_words(change["new"])
    if change["masked"] and old == new:
        new = f"{new}, another one"
    if change["sign"] in "-~":
        yield from _value("-", label, old)
    if change["sign"] in "+~":
        yield from _value("+", label, new)


def _value(sign: str, label: str, text: str) -> Iterator[str]:
    first, *more = text.splitlines() or [""]
    if not more:
        yield f"{sign}{label}: {first}"
        return
    yield f"{sign}{label}:"
    yield from (f"{sign}  {line}" for line in [first, *more])


def _text(change: Mapping[str, Any], indent: str) -> Iterator[str]:
    """Lines of a text: by word where there are words, as they are otherwise."""
    for sign, text in by_line(change.get("words", ())) if change.get("words") else _signed(change["diff"]):
        if sign == "@":
            sign = " " if indent else ""
        yield f"{sign}{indent}{text}" if text else sign


def _signed(diff: list[str]) -> Iterator[tuple[str, str]]:
    for line in diff:
        yield (line[0], line[1:]) if line[:1] in ("+", "-", " ") else ("@", line)


def _at(place: str, path: str) -> str:
    return f"{place}: {path}" if place and path else place or path


def _clean(line: str) -> str:
    """One line, whatever the content: nothing in it may drive a terminal, or look like a line of its own."""
    line = line.replace("\t", "    ")
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in line)

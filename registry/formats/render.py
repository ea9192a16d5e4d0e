"""A comparison as rows of a table, from its decoded JSON: what a command line draws needs nothing else."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from registry.formats.secrets.masking import HIDDEN
from registry.formats.values.words import sides


class Row(NamedTuple):
    """One line. `sign` is `+`, `-`, `~` or empty for noise; texts hold no control characters but line feeds."""

    sign: str
    what: str
    where: str
    old: str
    new: str


def rows(comparison: Mapping[str, Any]) -> list[Row]:
    """Every listed change once, what matters most first. Noise and what was cut come last, as counts."""
    return [Row(*map(printable, row)) for row in _rows(comparison)]


def _rows(comparison: Mapping[str, Any]) -> Iterator[Row]:
    yield from verdict_rows(comparison["verdict"])
    yield from _changes(comparison["app"], "app")
    for model in comparison["models"]:
        yield Row(
            model["sign"],
            "model",
            _in(model["where"], model["path"]),
            model_words(model["old"]),
            model_words(model["new"]),
        )
    yield from _nodes(comparison["nodes"])
    for sign, key in (("-", "removed"), ("+", "added")):
        for edge in comparison["edges"][key]:
            yield Row(sign, "edge", edge_words(edge), "", "")
    for variable in comparison["variables"]:
        yield from _variable(variable)
    for secret in comparison.get("secrets", ()):  # none from a member of an older release
        yield Row(secret["sign"], "secret value", secret["name"], *secret_words(secret["sign"]))
    for plugin in comparison["dependencies"]:
        old, new = plugin["old"], plugin["new"]
        if old == new:
            new = plugin["detail"] or new
        yield Row(plugin["sign"], "plugin", plugin["name"], old, new)
    yield from _changes(comparison["features"], "feature")
    yield from _changes([c for c in comparison["changes"] if not c["shown_as"]], "value")
    yield from _changes(comparison["text"], "text")
    yield from _changes(comparison["annotations"], "note")
    for line in comparison["diff"]:
        if line[:1] in ("+", "-"):
            yield Row(line[0], "line", "", line[1:] if line[0] == "-" else "", line[1:] if line[0] == "+" else "")
        else:
            yield Row("", "line", line, "", "")
    yield from noise_rows(comparison)


def verdict_rows(verdict: Mapping[str, Any]) -> Iterator[Row]:
    """None where nothing speaks against the new version."""
    if verdict["reasons"]:
        yield Row("", "verdict", "", "", f"{verdict['level']}, {verdict['change']} change")
    for reason in verdict["reasons"]:
        yield Row("", "verdict", reason["where"], "", f"{reason['level']}: {reason['text']}")


def _nodes(nodes: Mapping[str, Any]) -> Iterator[Row]:
    for sign, key in (("-", "removed"), ("+", "added")):
        for node in nodes[key]:
            yield Row(sign, "node", node_words(node), "", "")
    for node in nodes["rematched"]:
        yield Row("~", "node id", node_words(node), node["old_id"], node["new_id"])
    for node in nodes["changed"]:
        own = [change for change in node["changes"] if not change["shown_as"]]
        yield from _changes(own, "node", node["title"])


def _changes(changes: list[dict[str, Any]], what: str, place: str = "") -> Iterator[Row]:
    for change in changes:
        old, new = value_words(change["old"]), value_words(change["new"])
        if change.get("words"):
            old, new = sides(change["words"])
        elif change["diff"]:
            old = "\n".join(line[1:] for line in change["diff"] if line.startswith("-"))
            new = "\n".join(line[1:] for line in change["diff"] if line.startswith("+"))
        if change["masked"] and old == new:
            new = f"{new}, another one"
        yield Row(change["sign"], what, _in(place or change["where"], change["path"]), old, new)


def _variable(variable: Mapping[str, Any]) -> Iterator[Row]:
    what = variable["scope"] if variable["scope"] in ("input", "output") else f"{variable['scope']} variable"
    name = variable["name"]
    if variable["sign"] == "~" and variable["changes"]:
        yield from _changes(variable["changes"], what, name)
        return
    fields = {
        change["path"]: value_words(change["old"] if change["new"] is None else change["new"])
        for change in variable["changes"]
    }
    value = next((fields[key] for key in ("value", "value_selector", "type") if key in fields), "")
    old, new = (value, "") if variable["sign"] == "-" else ("", value)
    yield Row(variable["sign"], what, name, old, new)


def noise_rows(comparison: Mapping[str, Any]) -> Iterator[Row]:
    layout = comparison["layout"]
    counts = {
        "nodes moved": layout["moved"],
        "items redrawn": layout["redrawn"],
        "filled-in defaults": layout["derived"],
        "lists in another order": len(layout["reordered"]),
        "viewport moved": int(layout["viewport"]),
        "more changes, not listed": comparison["omitted"],
    }
    for name, count in counts.items():
        if count:
            yield Row("", "layout" if name != "more changes, not listed" else "cut", name, "", str(count))


def node_words(node: Mapping[str, Any]) -> str:
    return f"{node['title']} ({node['type']})"


def edge_words(edge: Mapping[str, str]) -> str:
    branch = f" [{edge['branch']}]" if edge["branch"] else ""
    return f"{edge['source_title'] or edge['source']}{branch} -> {edge['target_title'] or edge['target']}"


def secret_words(sign: str) -> tuple[str, str]:
    """Before and after, of a value that is not kept."""
    return "" if sign == "+" else HIDDEN, {"+": HIDDEN, "-": "", "~": f"{HIDDEN}, another one"}[sign]


def model_words(model: Mapping[str, str] | None) -> str:
    return f"{model['provider']}/{model['name']}" if model else ""


def _in(place: str, path: str) -> str:
    return f"{place}: {path}" if place and path else place or path


def value_words(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def printable(text: str) -> str:
    """Content is not trusted: no escape sequence of it may reach a terminal."""
    return "".join(
        c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf") else "\N{REPLACEMENT CHARACTER}" for c in text
    )

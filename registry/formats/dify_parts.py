"""Parts of a Dify app that deserve their own words: variables, models, plugins, branches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from registry.formats.canonical import canonical
from registry.formats.dify_view import Node, short_provider
from registry.formats.model import Change, DependencyChange, ModelChange, ModelName, VariableChange
from registry.formats.secrets import short
from registry.formats.values import Listing, differences, join

Scope = Literal["environment", "conversation", "input", "output"]


def variable_changes(
    old: list[Any], new: list[Any], scope: Scope, name: str, listing: Listing, *, where: str = ""
) -> list[VariableChange]:
    """By name, or by id where a variable was renamed. Values of secrets are masked."""
    before = _by_name(old, name)
    after = _by_name(new, name)
    by_id = {item["id"]: key for key, item in after.items() if key not in before and isinstance(item.get("id"), str)}
    out: list[VariableChange] = []
    matched: set[str] = set()
    for key, item in before.items():
        other = key if key in after else by_id.get(item.get("id") or "")
        if other is None:
            out.append(_whole(item, "-", scope, key, listing, where))
            continue
        matched.add(other)
        changes = differences(item, after[other], listing, where=short(key))
        if changes or canonical(item) != canonical(after[other]):
            out.append(VariableChange(scope=scope, name=short(other), sign="~", changes=changes, where=where))
    out += [_whole(item, "+", scope, key, listing, where) for key, item in after.items() if key not in matched]
    return out


def _by_name(items: list[Any], name: str) -> dict[str, dict[str, Any]]:
    named: dict[str, dict[str, Any]] = {}
    for item in items:
        if isinstance(item, dict) and name in item:
            key = base = str(item[name])
            count = 1
            while key in named:  # a repeated name is still a variable
                count += 1
                key = f"{base}#{count}"
            named[key] = item
    return named


def _whole(
    item: dict[str, Any], sign: Literal["+", "-"], scope: Scope, name: str, listing: Listing, where: str
) -> VariableChange:
    sides = ({}, item) if sign == "+" else (item, {})
    changes = differences(*sides, listing, where=short(name))
    return VariableChange(scope=scope, name=short(name), sign=sign, changes=changes, where=where)


def model_changes(
    old: dict[str, Any], new: dict[str, Any], where: str, changes: list[Change], *, prefix: str = ""
) -> list[ModelChange]:
    """Models by the place they are named at. Marks those lines of `changes` as shown here."""
    before, after = dict(_models(old, "")), dict(_models(new, ""))
    out: list[ModelChange] = []
    for path in [*before, *(path for path in after if path not in before)]:
        one, other = before.get(path), after.get(path)
        if one == other:
            continue
        sign: Literal["+", "-", "~"] = "~" if one and other else "+" if other else "-"
        out.append(ModelChange(where=where, path=prefix + path, sign=sign, old=one, new=other))
        fields = {prefix + join(path, field) for field in _MODEL_FIELDS}
        for change in changes:
            if change.path in fields:
                change.shown_as = "model"
    return out


_MODEL_FIELDS = ("provider", "name", "model")
_FLAT_MODELS = (
    ("embedding_provider_name", "embedding_model_name"),
    ("reranking_provider_name", "reranking_model_name"),
    ("embedding_model_provider", "embedding_model"),
)


def _models(value: Any, path: str) -> Iterator[tuple[str, ModelName]]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _models(item, f"{path}[{index}]")
    if not isinstance(value, dict):
        return
    name = value.get("name") or value.get("model")
    if isinstance(value.get("provider"), str) and isinstance(name, str) and name:
        yield path, ModelName(provider=short(short_provider(value["provider"])), name=short(name))
    for provider_key, name_key in _FLAT_MODELS:
        if isinstance(value.get(provider_key), str) and isinstance(value.get(name_key), str) and value[name_key]:
            provider = short(short_provider(value[provider_key]))
            yield join(path, name_key), ModelName(provider=provider, name=short(value[name_key]))
    for key, item in value.items():
        yield from _models(item, join(path, key))


def branch_name(node: Node | None, handle: str) -> str:
    """What an edge's source handle means in words. Empty: the node's only way out."""
    if handle == "fail-branch":
        return "on failure"
    if node is None or handle == "source":
        return ""
    if node.type == "if-else":
        cases = [str(case.get("case_id")) for case in _mappings(node.config.get("cases"))]
        if handle == "false":
            return "else"
        if handle in cases:
            return "if" if cases.index(handle) == 0 else f"else if {cases.index(handle)}"
    if node.type == "question-classifier":
        for item in _mappings(node.config.get("classes")):
            if str(item.get("id")) == handle:
                return short(str(item.get("name")))
    if node.type == "human-input":
        for item in _mappings(node.config.get("user_actions")):
            if str(item.get("id")) == handle:
                return short(str(item.get("title") or handle))
    return short(handle)


def _mappings(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def dependency_changes(old: list[Any], new: list[Any]) -> list[DependencyChange]:
    """As sets: by plugin name, then by version and build."""
    before, after = _plugins(old), _plugins(new)
    out: list[DependencyChange] = []
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name, []), after.get(name, [])
        gone = [plugin for plugin in one if plugin not in other]
        come = [plugin for plugin in other if plugin not in one]
        for lost, found in zip(gone, come, strict=False):
            detail = ", ".join(
                f"{label} {a or 'none'} -> {b or 'none'}"
                for label, a, b in (("source", lost[0], found[0]), ("build", lost[2][:12], found[2][:12]))
                if a != b
            )
            out.append(DependencyChange(name=name, sign="~", old=lost[1], new=found[1], detail=detail))
        out += [DependencyChange(name=name, sign="-", old=lost[1]) for lost in gone[len(come) :]]
        out += [DependencyChange(name=name, sign="+", new=found[1]) for found in come[len(gone) :]]
    return out


def _plugins(items: list[Any]) -> dict[str, list[tuple[str, str, str, str]]]:
    """Plugin name -> (source, version, build, whatever else is said)."""
    found: dict[str, list[tuple[str, str, str, str]]] = {}
    for item in items:
        inner = item.get("value")
        value = dict(inner) if isinstance(inner, dict) else {"value": inner}
        key = next((key for key in _IDENTIFIERS if isinstance(value.get(key), str)), None)
        identifier = str(value[key]) if key else ""
        path, _, build = identifier.partition("@")
        name, _, version = map(short, path.partition(":"))
        repository = value.get("repo")
        if not name:
            name, version = short(str(repository or "unnamed")), short(str(value.get("version") or version))
        rest = {field: part for field, part in item.items() if field not in ("type", "value")} | value
        plugin = (str(item.get("type", "")), version, build, canonical(rest))
        found.setdefault(name, [])
        if plugin not in found[name]:
            found[name].append(plugin)
    return found


_IDENTIFIERS = (
    "marketplace_plugin_unique_identifier",
    "plugin_unique_identifier",
    "github_plugin_unique_identifier",
)

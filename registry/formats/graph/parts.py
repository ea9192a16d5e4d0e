"""Parts of a workflow that deserve their own words: variables, models, plugins."""

from __future__ import annotations

from typing import Any, Literal

from registry.formats.graph.model import Plugin, Scope
from registry.formats.model import Change, DependencyChange, ModelChange, ModelName, VariableChange
from registry.formats.secrets.masking import short
from registry.formats.values.canonical import canonical
from registry.formats.values.compare import Listing, differences, join


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
        known = item.get("id")
        other = key if key in after else by_id.get(known) if isinstance(known, str) else None
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
    counts: dict[str, int] = {}
    for item in items:
        if isinstance(item, dict) and name in item:
            key = base = str(item[name])
            while key in named:  # a repeated name is still a variable
                counts[base] = counts.get(base, 1) + 1
                key = f"{base}#{counts[base]}"
            named[key] = item
    return named


def _whole(
    item: dict[str, Any], sign: Literal["+", "-"], scope: Scope, name: str, listing: Listing, where: str
) -> VariableChange:
    sides = ({}, item) if sign == "+" else (item, {})
    changes = differences(*sides, listing, where=short(name))
    return VariableChange(scope=scope, name=short(name), sign=sign, changes=changes, where=where)


def model_changes(
    before: dict[str, ModelName], after: dict[str, ModelName], where: str, changes: list[Change], *, prefix: str = ""
) -> list[ModelChange]:
    """Models by the path they are named at. Marks those lines of `changes` as shown here."""
    out: list[ModelChange] = []
    for path in [*before, *(path for path in after if path not in before)]:
        one, other = before.get(path), after.get(path)
        if one == other:
            continue
        sign: Literal["+", "-", "~"] = "~" if one and other else "+" if other else "-"
        out.append(ModelChange(where=where, path=prefix + path, sign=sign, old=one, new=other))
        fields = {prefix + path, *(prefix + join(path, field) for field in _MODEL_FIELDS)}
        for change in changes:
            if change.path in fields:
                change.shown_as = "model"
    return out


_MODEL_FIELDS = ("provider", "name", "model")


def dependency_changes(old: list[Plugin], new: list[Plugin]) -> list[DependencyChange]:
    """As sets: by name, then by version and build."""
    before, after = _by_plugin(old), _by_plugin(new)
    out: list[DependencyChange] = []
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name, []), after.get(name, [])
        kept = set(one) & set(other)
        gone = [plugin for plugin in one if plugin not in kept]
        come = [plugin for plugin in other if plugin not in kept]
        for lost, found in zip(gone, come, strict=False):
            detail = ", ".join(
                f"{label} {a or 'none'} -> {b or 'none'}"
                for label, a, b in (("source", lost.source, found.source), ("build", lost.build[:12], found.build[:12]))
                if a != b
            )
            out.append(DependencyChange(name=name, sign="~", old=lost.version, new=found.version, detail=detail))
        out += [DependencyChange(name=name, sign="-", old=lost.version) for lost in gone[len(come) :]]
        out += [DependencyChange(name=name, sign="+", new=found.version) for found in come[len(gone) :]]
    return out


def _by_plugin(plugins: list[Plugin]) -> dict[str, list[Plugin]]:
    found: dict[str, list[Plugin]] = {}
    for plugin in dict.fromkeys(plugins):
        found.setdefault(plugin.name, []).append(plugin)
    return found

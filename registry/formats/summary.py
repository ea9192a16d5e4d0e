"""One sentence about a comparison that a person can say aloud."""

from __future__ import annotations

from collections.abc import Iterable

from registry.formats.limits import SUMMARY_NAMES
from registry.formats.model import Change, Comparison, DependencyChange, ModelChange, SecretChange, VariableChange

VERBS = {"+": "added", "-": "removed", "~": "changed"}


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def sentence(parts: Iterable[str]) -> str:
    """Clauses joined by commas; empty ones are left out."""
    return ", ".join(part for part in parts if part)


def of_graph(comparison: Comparison) -> str:
    """The sentence for a workflow graph, without what flags say."""
    clauses = [
        *_changed_values(comparison.app),
        _nodes(comparison),
        *_models(comparison.models),
        _edges(comparison),
        *_variables(comparison.variables),
        *_dependencies(comparison.dependencies),
        f"features: {counted(len(comparison.features), 'change')}" if comparison.features else "",
        f"{counted(len(comparison.changes), 'setting')} changed" if comparison.changes else "",
    ]
    meaning = "; ".join(clause for clause in clauses if clause)
    noise = noise_of(comparison)
    omitted = f"{comparison.omitted} more not listed" if comparison.omitted else ""
    return "; ".join(part for part in (meaning, noise if not meaning else _text(comparison), omitted) if part)


def noise_of(comparison: Comparison) -> str:
    layout = comparison.layout
    return sentence(
        [
            _text(comparison),
            f"{counted(layout.moved, 'node')} moved" if layout.moved else "",
            f"{counted(layout.redrawn, 'item')} redrawn" if layout.redrawn else "",
            f"{counted(layout.derived, 'filled-in default')} {'differs' if layout.derived == 1 else 'differ'}"
            if layout.derived
            else "",
            f"order of {' and '.join(layout.reordered)}" if layout.reordered else "",
            "viewport moved" if layout.viewport else "",
        ]
    )


def of_secrets(secrets: list[SecretChange]) -> str:
    """`secret value environment.API_KEY changed`; empty: none did."""
    names = [f"secret value {secret.name} {VERBS[secret.sign]}" for secret in secrets[:SUMMARY_NAMES]]
    return "; ".join(filter(None, [*names, _more(len(secrets), "secret value")]))


def _text(comparison: Comparison) -> str:
    texts = "1 title or description" if len(comparison.text) == 1 else f"{len(comparison.text)} titles or descriptions"
    notes = counted(len(comparison.annotations), "note")
    return sentence(
        [f"{texts} changed" if comparison.text else "", f"{notes} changed" if comparison.annotations else ""]
    )


def _nodes(comparison: Comparison) -> str:
    nodes = comparison.nodes
    counts = [(len(nodes.added), "added"), (len(nodes.removed), "removed"), (len(nodes.changed), "changed")]
    present = [(count, verb) for count, verb in counts if count]
    parts = [
        f"{counted(count, 'node')} {verb}" if position == 0 else f"{count} {verb}"
        for position, (count, verb) in enumerate(present)
    ]
    if nodes.rematched:
        parts.append(f"{counted(len(nodes.rematched), 'node')} under new ids")
    return sentence(parts)


def _edges(comparison: Comparison) -> str:
    added, removed = len(comparison.edges.added), len(comparison.edges.removed)
    if added and removed:
        return f"{counted(added, 'edge')} added, {removed} removed"
    return f"{counted(added, 'edge')} added" if added else f"{counted(removed, 'edge')} removed" if removed else ""


def _models(models: list[ModelChange]) -> list[str]:
    changed = [model for model in models if model.sign == "~"]
    names = [f"model {_bare(model)} in {model.where!r}" for model in changed[:SUMMARY_NAMES]]
    return [*names, _more(len(changed), "model")]


def _bare(model: ModelChange) -> str:
    """Without the provider where it stayed the same."""
    old, new = model.old, model.new
    if old is None or new is None or old.provider == new.provider:
        return f"{old.name if old else 'none'} -> {new.name if new else 'none'}"
    return f"{old.provider}/{old.name} -> {new.provider}/{new.name}"


def _variables(variables: list[VariableChange]) -> list[str]:
    scopes = {"environment": "environment variable", "conversation": "conversation variable"}
    names = [
        f"{scopes.get(variable.scope, variable.scope)} {variable.name} {VERBS[variable.sign]}"
        for variable in variables[:SUMMARY_NAMES]
    ]
    return [*names, _more(len(variables), "variable")]


def _dependencies(dependencies: list[DependencyChange]) -> list[str]:
    names = []
    for dependency in dependencies[:SUMMARY_NAMES]:
        if dependency.sign == "~" and dependency.old != dependency.new:
            names.append(f"plugin {dependency.name} {dependency.old} -> {dependency.new}")
        else:
            verb = {"+": "added", "-": "removed", "~": "rebuilt"}[dependency.sign]
            names.append(f"plugin {dependency.name} {verb}")
    return [*names, _more(len(dependencies), "plugin")]


def _changed_values(changes: list[Change]) -> list[str]:
    names = [f"{change.path} {change.old} -> {change.new}" for change in changes[:SUMMARY_NAMES]]
    return [*names, _more(len(changes), "app field")]


def _more(total: int, noun: str) -> str:
    return f"{counted(total - SUMMARY_NAMES, f'more {noun}')}" if total > SUMMARY_NAMES else ""

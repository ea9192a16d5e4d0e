"""Whether a switch from one version to another may go on, and how much it changes. Classes: docs/compare.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile
from typing import Any, Literal

from registry.formats.findings import alike, finding, worst_first
from registry.formats.model import (
    Change,
    Comparison,
    Finding,
    Level,
    ModelName,
    Node,
    NodeChange,
    VariableChange,
    Verdict,
)
from registry.formats.release import release
from registry.formats.secrets.masking import is_secret_type
from registry.formats.summary import VERBS

Said = tuple[str, str]  # text, where

_PLAIN = frozenset({"json", "yaml", "toml", "text", "binary"})  # nothing is known of what their values mean
_DATASETS = frozenset({"dataset_ids", "datasets", "dataset"})
_LIMITS = frozenset(  # of an input
    {"options", "max_length", "type", "allowed_file_types", "allowed_file_extensions", "allowed_file_upload_methods"}
)
_TRUE = ("true", "1", "yes", "on", "y", "t")  # texts that a server reads as such
_TEXTS = ("text-input", "paragraph")  # types of inputs that take any text
_UNSAID = "0.1.0"  # what Dify takes for the version where there is none
# Fields below which only words and sampling change: no call, no branch, no contract.
_WORDING = frozenset(
    {"prompt_template", "pre_prompt", "completion_params", "instruction", "instructions", "answer", "text", "seed"}
    | {"description", "label", "placeholder", "hint", "temperature", "top_p", "max_tokens", "system_prompt"}
    | {"opening_statement", "suggested_questions", "systemMessage", "systemMessagePrompt"}
)
_CHOSEN = frozenset({"outputs", "variables", "parameters", "properties", "tool_parameters"})  # below: anyone's names
_NO_WORDING = ("type", "required")  # wherever they stand, and selectors
_PARTS = re.compile(r"[.\[\]]+")


def judge(comparison: Comparison, findings_new: Iterable[Finding], findings_old: Iterable[Finding] = ()) -> Verdict:
    """`comparison` with its sides and flags, and what the checks of both contents found."""
    old, new = comparison.old, comparison.new
    kinds = (old.kind if old else "", new.kind if new else "")
    is_same = comparison.same_value and kinds[0] == kinds[1]
    if is_same and not comparison.secrets:
        return Verdict()
    reasons = [] if is_same else list(_of_findings(findings_new, set(findings_old)))
    if kinds[0] != kinds[1]:
        reasons.append(finding("kind_changed", "block", f"the kind of the content changed: {kinds[0]} -> {kinds[1]}"))
    elif kinds[1] not in _PLAIN:
        reasons += [each for code, level, said in RULES for each in alike(code, level, said(comparison), lambda it: it)]
    reasons = worst_first(reasons)
    return Verdict(
        level=reasons[0].level if reasons else "ok",
        change=_change(comparison, {reason.code for reason in reasons}, plain=kinds[1] in _PLAIN),
        reasons=reasons,
    )


def _of_findings(new: Iterable[Finding], old: set[Finding]) -> Iterator[Finding]:
    """What checks found: all that blocks, and of the rest what the old content did not have."""
    for each in new:
        if each not in old:
            yield each
        elif each.level == "block":
            yield finding(each.code, each.level, f"{each.text} (so it was before)", each.where)


def _change(comparison: Comparison, codes: set[str], *, plain: bool) -> Literal["none", "minor", "medium", "major"]:
    if codes & MAJOR:
        return "major"
    if comparison.same_semantics and not comparison.secrets:
        return "none"
    nodes, edges = comparison.nodes, comparison.edges
    structure = (nodes.added, nodes.removed, nodes.rematched, edges.added, edges.removed)
    parts = (comparison.models, comparison.dependencies, comparison.variables, comparison.secrets)
    if plain or not (any(structure) or any(parts) or comparison.omitted or _more_than_words(comparison)):
        return "minor"
    return "medium"


def _more_than_words(comparison: Comparison) -> bool:
    changes = [*comparison.features, *comparison.changes, *(c for n in comparison.nodes.changed for c in n.changes)]
    other = [change for change in comparison.app if not (_is_dify(comparison) and _last(change) == "version")]
    return bool(other) or not all(map(_is_wording, changes))


def _is_wording(change: Change) -> bool:
    """By names of fields alone: those of items, in brackets, and of whatever people add may read like one."""
    last = _last(change).partition("[")[0]
    if last.endswith("selector") or last in _NO_WORDING:
        return False
    fields = change.path.partition("[")[0].split(".")
    return not _WORDING.isdisjoint(takewhile(lambda field: field not in _CHOSEN, fields))


def _is_dify(comparison: Comparison) -> bool:
    return comparison.new is not None and comparison.new.kind == "dify"


def _last(change: Change) -> str:
    return change.path.rpartition(".")[2]


# Format: version, mode, kind.


def _app_field(name: str) -> Callable[[Comparison], Iterator[Said]]:
    def said(comparison: Comparison) -> Iterator[Said]:
        return ((f"{name} changed: {_moved(c)}", c.path) for c in comparison.app if _last(c) == name)

    return said


def _mode(comparison: Comparison) -> Iterator[Said]:
    yield from _app_field("mode")(comparison)
    both = (change for change in comparison.app if change.path == "type" and change.sign == "~")
    yield from ((f"type changed: {_moved(change)}", change.path) for change in both)


def _moved(change: Change) -> str:
    return f"{_shown(change.old)} -> {_shown(change.new)}"


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _newer(comparison: Comparison) -> Iterator[Said]:
    """In major or minor part: what servers look at when they decide whether to take it."""
    for change, order in _versions(comparison):
        if order > 0:
            yield (
                f"format version newer: {_moved(change)}; older servers ask before they take it, or refuse",
                change.path,
            )


def _older(comparison: Comparison) -> Iterator[Said]:
    for change, order in _versions(comparison):
        if order < 0:
            yield f"format version older: {_moved(change)}; servers convert it with a warning", change.path


def _versions(comparison: Comparison) -> Iterator[tuple[Change, int]]:
    for change in comparison.app if _is_dify(comparison) else ():
        before, after = (release(_UNSAID if side is None else side) for side in (change.old, change.new))
        if _last(change) == "version" and before is not None and after is not None:
            yield change, (after[:2] > before[:2]) - (after[:2] < before[:2])


# Inputs and outputs: what callers rely on.


def _inputs(words: str, applies: Callable[[VariableChange], bool]) -> Callable[[Comparison], Iterator[Said]]:
    def said(comparison: Comparison) -> Iterator[Said]:
        found = (v for v in comparison.variables if v.scope == "input" and applies(v))
        return ((f"input {v.name!r} {words}", v.where) for v in found)

    return said


def _fields(variable: VariableChange) -> dict[str, Change]:
    """By the first part of their path."""
    return {_PARTS.split(change.path)[0]: change for change in variable.changes}


def _is_gone(variable: VariableChange) -> bool:
    return variable.sign == "-" or (variable.sign == "~" and "variable" in _fields(variable))


def _is_required(variable: VariableChange) -> bool:
    required = _fields(variable).get("required")
    return variable.sign != "-" and required is not None and _is_true(required.new) and not _is_true(required.old)


def _is_true(value: Any) -> bool:
    """As servers read it that take texts and numbers too."""
    return value.strip().lower() in _TRUE if isinstance(value, str) else value in (True, 1)


def _is_retyped(variable: VariableChange) -> bool:
    kind = _fields(variable).get("type")
    return variable.sign == "~" and kind is not None and not (kind.old in _TEXTS and kind.new in _TEXTS)


def _is_limited(variable: VariableChange) -> bool:
    if variable.sign != "~" or _is_retyped(variable):
        return False
    return not variable.changes or not _LIMITS.isdisjoint(_fields(variable))


def _outputs(verb: str, sign: str) -> Callable[[Comparison], Iterator[Said]]:
    def said(comparison: Comparison) -> Iterator[Said]:
        found = (v for v in comparison.variables if v.scope == "output" and v.sign == sign)
        return ((f"output {v.name!r} {verb}: readers of it may fail", v.where) for v in found)

    return said


# What must be there where it runs: plugins, knowledge, secrets, environment, models.


def _plugins(words: str, sign: str) -> Callable[[Comparison], Iterator[Said]]:
    def said(comparison: Comparison) -> Iterator[Said]:
        for plugin in comparison.dependencies:
            if plugin.sign == sign:
                versions = " -> ".join(filter(None, dict.fromkeys((plugin.old, plugin.new)))) or plugin.detail
                yield f"plugin {plugin.name} {words}{f' ({versions})' if versions else ''}", plugin.name

    return said


def _datasets(comparison: Comparison) -> Iterator[Said]:
    words = "knowledge bases belong to one server: the new one may not have these"
    for node in [*comparison.nodes.added, *comparison.nodes.removed]:
        if node.type.startswith("knowledge-"):
            yield words, node.title
    for changed in comparison.nodes.changed:
        if any(_on_datasets(change) for change in changed.changes):
            yield words, changed.title
    yield from ((words, change.path) for change in comparison.changes if _on_datasets(change))


def _on_datasets(change: Change) -> bool:
    return not _DATASETS.isdisjoint(_PARTS.split(change.path))


def _secrets(comparison: Comparison) -> Iterator[Said]:
    for variable in _environment(comparison, "+", "~"):
        if _becomes_secret(variable):
            yield f"secret environment variable {variable.name!r} added: it needs a value where it runs", variable.name


def _becomes_secret(variable: VariableChange) -> bool:
    kind = _fields(variable).get("value_type")
    return kind is not None and is_secret_type(kind.new) and not is_secret_type(kind.old)


def _exposed(comparison: Comparison) -> Iterator[Said]:
    for variable in _environment(comparison, "~"):
        kind = _fields(variable).get("value_type")
        if kind is not None and is_secret_type(kind.old) and not is_secret_type(kind.new):
            text = f"environment variable {variable.name!r} is no secret any more: exports and versions show its value"
            yield text, variable.name


def _secret_values(comparison: Comparison) -> Iterator[Said]:
    for secret in comparison.secrets:
        what = f"secret value {secret.name} {VERBS[secret.sign]}"
        yield what if secret.sign == "-" else f"{what}: no version carries it, set it where this runs", secret.name


def _environment(comparison: Comparison, *signs: str) -> Iterator[VariableChange]:
    return (v for v in comparison.variables if v.scope == "environment" and v.sign in signs)


def _environment_added(comparison: Comparison) -> Iterator[Said]:
    added = (v for v in _environment(comparison, "+") if not _becomes_secret(v))
    return ((f"environment variable {v.name!r} added", v.name) for v in added)


def _environment_removed(comparison: Comparison) -> Iterator[Said]:
    return ((f"environment variable {v.name!r} removed", v.name) for v in _environment(comparison, "-"))


def _models(comparison: Comparison) -> Iterator[Said]:
    kept = {node.title for node in comparison.nodes.changed}
    for model in comparison.models:
        if model.old is not None and model.new is not None:
            yield f"model {_model(model.old)} -> {_model(model.new)}: answers may differ", model.where
        elif model.old is not None and (model.where in kept or model.path.startswith("model_config.")):
            yield f"model {_model(model.old)} is no longer named", model.where


def _model(model: ModelName) -> str:
    return f"{model.provider}/{model.name}" if model.provider else model.name


# What users and the outside notice.


def _features(comparison: Comparison) -> Iterator[Said]:
    off = (change for change in comparison.features if not change.new and _was_on(change))
    return ((f"feature off: {change.path}", change.path) for change in off)


def _was_on(change: Change) -> bool:
    if isinstance(change.old, dict) and "enabled" in change.old:
        return change.old["enabled"] is True
    whole = len(_PARTS.split(change.path)) == 1
    return change.old is True if _last(change) == "enabled" else whole and bool(change.old)


def _triggers(comparison: Comparison) -> Iterator[Said]:
    nodes = comparison.nodes
    lists: tuple[tuple[str, list[Node] | list[NodeChange]], ...] = (
        ("added", nodes.added),
        ("removed", nodes.removed),
        ("changed", nodes.changed),
    )
    for verb, found in lists:
        for node in found:
            kind = node.type.lower()
            if "trigger" in kind or kind.endswith("webhook"):
                yield f"trigger {verb}: it starts on other occasions", node.title


def _omitted(comparison: Comparison) -> Iterator[Said]:
    if comparison.omitted:
        yield f"{comparison.omitted} more changes are not listed and were not judged", ""


RULES: tuple[tuple[str, Level, Callable[[Comparison], Iterator[Said]]], ...] = (
    ("kind_changed", "block", _app_field("kind")),
    ("mode_changed", "block", _mode),
    ("input_removed", "block", _inputs("removed: callers send it", _is_gone)),
    ("input_required", "block", _inputs("is newly required: callers do not send it yet", _is_required)),
    ("input_type_changed", "block", _inputs("has another type", _is_retyped)),
    ("dsl_newer", "confirm", _newer),
    ("plugin_added", "confirm", _plugins("is needed now, where this runs", "+")),
    ("plugin_changed", "confirm", _plugins("is needed in another version or build", "~")),
    ("plugin_removed", "confirm", _plugins("is no longer named", "-")),
    ("datasets_changed", "confirm", _datasets),
    ("secret_added", "confirm", _secrets),
    ("secret_exposed", "confirm", _exposed),
    ("changes_omitted", "confirm", _omitted),
    ("secret_value_changed", "warn", _secret_values),
    ("dsl_older", "warn", _older),
    ("form_changed", "warn", _app_field("form")),
    ("input_changed", "warn", _inputs("takes other values", _is_limited)),
    ("output_removed", "warn", _outputs("removed", "-")),
    ("output_changed", "warn", _outputs("changed", "~")),
    ("model_changed", "warn", _models),
    ("environment_added", "warn", _environment_added),
    ("environment_removed", "warn", _environment_removed),
    ("feature_off", "warn", _features),
    ("trigger_changed", "warn", _triggers),
)
MAJOR = frozenset(
    {"kind_changed", "mode_changed", "dsl_newer", "dsl_older", "input_removed", "input_required", "input_type_changed"}
)

"""What is wrong with one Dify app, beyond its graph: version, mode, node types, branches, references, containers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from registry.formats.findings import alike, finding
from registry.formats.graph.check import reached
from registry.formats.graph.model import Graph, Node
from registry.formats.graph.rules import Rules
from registry.formats.kinds.dify.references import Reference, offered, references
from registry.formats.kinds.dify.rules import TRIGGERS
from registry.formats.kinds.dify.view import ENDS
from registry.formats.model import Finding
from registry.formats.release import release
from registry.formats.secrets.masking import short

NEWEST = (0, 7)  # the newest DSL that these checks know
_BUILT_IN = frozenset(
    {"start", "end", "answer", "llm", "knowledge-retrieval", "knowledge-retrieval-v2", "knowledge-index", "if-else"}
    | {"code", "template-transform", "question-classifier", "http-request", "tool", "datasource", "list-operator"}
    | {"variable-aggregator", "variable-assigner", "assigner", "loop", "loop-start", "loop-end", "iteration"}
    | {"iteration-start", "parameter-extractor", "document-extractor", "agent", "human-input"}
    | TRIGGERS
)
_GRAPH_MODES = frozenset({"workflow", "advanced-chat"})
_CONFIG_MODES = frozenset({"chat", "agent-chat", "completion"})
_REFUSED = {"advanced-chat": TRIGGERS | {"end"}, "workflow": frozenset({"answer"})}
_CONTAINERS = frozenset({"iteration", "loop"})
_OPTIONAL_BRANCHES = frozenset({"false", "fail-branch", "__timeout"})  # often meant to end the run
_BLANK = re.compile(r"\**")  # as values of secrets; Dify's own placeholder keeps what the server has
# Where a reference that leads nowhere ends a run. Elsewhere it reads as nothing.
_TOLERANT = frozenset({"variable-aggregator", "variable-assigner", "answer", "end"})


def check_app(value: dict[str, Any], app: Graph, rules: Rules) -> list[Finding]:
    """`value`: the app as parsed; `app`: its view."""
    out = [*_version(app.app["version"]), *_mode(app), *_graph(app), *_entries(app), *_variables(value, app)]
    out += alike(
        "node_type_unknown",
        "confirm",  # a newer Dify, or a plugin of it, may know it
        (node for node in app.nodes if node.type not in _BUILT_IN),
        lambda node: (f"no Dify known here has nodes of type {node.type!r}", node.title),
    )
    out += alike(
        "node_schema_old",
        "warn",
        filter(_is_old, app.nodes),
        lambda node: (f"written in an old form of {node.type} nodes, which newer servers may ignore", node.title),
    )
    runs = reached(app, rules)
    out += _containers(app)
    out += _branches(app, rules)
    return out + _references(app, rules, runs)


def _version(version: Any) -> Iterator[Finding]:
    if version is None:
        yield finding("dsl_version_missing", "confirm", "no DSL version: Dify takes it for 0.1.0", "version")
        return
    if not isinstance(version, str):
        yield finding("dsl_version_invalid", "block", "the DSL version is not text: Dify refuses the import", "version")
        return
    known = release(version)
    if known is None:
        text = f"the DSL version {short(version)!r} is none: Dify refuses the import"
        yield finding("dsl_version_invalid", "block", text, "version")
    elif known[:2] > NEWEST:
        text = f"DSL {short(version)} is newer than {NEWEST[0]}.{NEWEST[1]}, the newest that these checks know"
        yield finding("dsl_version_unknown", "confirm", text, "version")


def _mode(app: Graph) -> Iterator[Finding]:
    if app.app["kind"] == "rag_pipeline":
        return
    mode = app.app.get("app", {}).get("mode")
    if not isinstance(mode, str) or not mode:
        yield finding("mode_missing", "block", "no app.mode: Dify refuses the import", "app.mode")
        return
    if (mode in _CONFIG_MODES and app.model_config is None) or (
        mode in _GRAPH_MODES and app.model_config is not None and not app.nodes
    ):
        needs = "model_config" if mode in _CONFIG_MODES else "workflow"
        yield finding("mode_mismatch", "block", f"a {mode} app without a {needs}: Dify refuses the import", "app.mode")
    refused = _REFUSED.get(mode, frozenset())
    yield from alike(
        "mode_mismatch",
        "block",
        (node for node in app.nodes if node.type in refused),
        lambda node: (f"nodes of type {node.type} do not run in a {mode} app", node.title),
    )


def _graph(app: Graph) -> Iterator[Finding]:
    mode = app.app.get("app", {}).get("mode")
    if "graph" in app.app and not (isinstance(mode, str) and mode in _CONFIG_MODES):
        text = "no workflow.graph: Dify finds no nodes, wherever else they stand"
        yield finding("graph_missing", "block", text, "workflow")
    why = "a number as an id: other tools read it as another id than its text; put it in quotes"
    yield from alike("id_not_text", "warn", (n for n in app.nodes if "id" in n.outer), lambda node: (why, node.title))
    titles = {node.id: node.title for node in app.nodes}
    yield from alike(
        "id_not_text",
        "warn",
        (edge for edge in app.edges if not ENDS.isdisjoint(edge.extra)),
        lambda edge: (why, " -> ".join(titles.get(end, short(end)) for end in (edge.source, edge.target))),
    )


def _entries(app: Graph) -> Iterator[Finding]:
    starts = [node for node in app.nodes if node.type == "start"]
    triggers = [node for node in app.nodes if node.type in TRIGGERS]
    if starts and triggers:
        text = f"a start node and the trigger {triggers[0].title!r} together: Dify publishes no such workflow"
        yield finding("start_and_trigger", "block", text, starts[0].title)
    if app.nodes and not starts and not triggers and app.app["kind"] != "rag_pipeline":
        yield finding("start_missing", "block", "no node to start at: there is no start node and no trigger")


def _variables(value: dict[str, Any], app: Graph) -> Iterator[Finding]:
    if app.conversation and app.app.get("app", {}).get("mode") not in (None, "advanced-chat"):
        text = f"{len(app.conversation)} conversation variables: only advanced-chat apps have conversations"
        yield finding("conversation_variables_unused", "warn", text)
    workflow = value.get("workflow")
    variables = workflow.get("environment_variables") if isinstance(workflow, dict) else None
    yield from alike(
        "secret_value_missing",
        "confirm",
        (variable for variable in variables if _is_blanked(variable)) if isinstance(variables, list) else (),
        lambda variable: (
            "a secret without its value: importing this overwrites the one on the server",
            short(str(variable.get("name"))),
        ),
    )


def _is_blanked(variable: Any) -> bool:
    if not isinstance(variable, dict) or variable.get("value_type") != "secret":
        return False
    value = variable.get("value")
    return value is None or (isinstance(value, str) and _BLANK.fullmatch(value) is not None)


def _is_old(node: Node) -> bool:
    if node.type == "assigner":
        return str(node.config.get("version")) != "2"
    return node.type == "if-else" and "cases" in node.derived


def _containers(app: Graph) -> list[Finding]:
    ids = {node.id for node in app.nodes}
    empty = (
        node for node in app.nodes if node.type in _CONTAINERS and str(node.config.get("start_node_id")) not in ids
    )
    return alike(
        "container_start_missing",
        "block",
        empty,
        lambda node: (f"this {node.type} has no node inside to start at", node.title),
    )


def branch_handles(node: Node) -> dict[str, None] | None:
    """The source handles that a run chooses between, in order. None: it follows every edge out of the node."""
    known: list[str] | None = None
    if node.type == "if-else":
        cases = node.config.get("cases")
        known = [*_ids(cases, "case_id"), "false"] if isinstance(cases, list) else ["true", "false"]
    elif node.type == "question-classifier":
        known = _ids(node.config.get("classes"), "id")
    elif node.type == "human-input":
        known = [*_ids(node.config.get("user_actions"), "id"), "__timeout"]
    if node.config.get("error_strategy") == "fail-branch":
        known = [*(known or ["source"]), "fail-branch"]
    return None if known is None else dict.fromkeys(known)


def _ids(items: Any, key: str) -> list[str]:
    return [str(item.get(key)) for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _branches(app: Graph, rules: Rules) -> list[Finding]:
    nodes = {node.id: node for node in app.nodes}
    handles = {node_id: known for node_id, node in nodes.items() if (known := branch_handles(node)) is not None}
    taken = {(edge.source, edge.source_handle) for edge in app.edges}
    return alike(
        "branch_handle_invalid",
        "block",
        (edge for edge in app.edges if edge.source_handle not in handles.get(edge.source, (edge.source_handle,))),
        lambda edge: (
            f"an edge leaves by {short(edge.source_handle)!r}, a branch that this {nodes[edge.source].type} does not "
            "have: it is never followed",
            nodes[edge.source].title,
        ),
    ) + alike(
        "branch_unconnected",
        "warn",
        (
            (nodes[node_id], handle)
            for node_id, known in handles.items()
            for handle in known
            if (node_id, handle) not in taken and handle not in _OPTIONAL_BRANCHES
        ),
        lambda pair: (f"the branch {rules.branch(*pair)!r} leads nowhere", pair[0].title),
    )


class _Missing(NamedTuple):
    node: Node
    reference: Reference
    known: bool  # what it reads from is there


def _references(app: Graph, rules: Rules, runs: set[str] | None) -> list[Finding]:
    fatal: list[_Missing] = []
    harmless: list[_Missing] = []
    for each in _missing(app, rules):
        ends_runs = each.node.type not in _TOLERANT and (runs is None or each.node.id in runs)
        (fatal if ends_runs else harmless).append(each)

    def say(each: _Missing) -> tuple[str, str]:
        root, name = short(each.reference.root), short(each.reference.name)
        why = "which has no such variable" if each.known else "which is no node"
        return f"reads {name!r} of {root}, {why}", each.node.title

    return alike("reference_missing", "block", fatal, say) + alike("reference_missing", "warn", harmless, say)


def _missing(app: Graph, rules: Rules) -> Iterator[_Missing]:
    names: dict[str, frozenset[str] | None] = {node.id: offered(node) for node in app.nodes}
    declared = {"env": _declared(app.environment), "conversation": _declared(app.conversation)}
    for node in app.nodes:
        for reference in references(node):
            known = reference.root in names or reference.root in rules.roots
            offers = names.get(reference.root, declared.get(reference.root))
            if not known or (offers is not None and reference.name not in offers):
                yield _Missing(node, reference, known)


def _declared(variables: list[Any]) -> frozenset[str]:
    return frozenset(str(variable["name"]) for variable in variables)

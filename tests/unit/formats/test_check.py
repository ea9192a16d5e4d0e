"""What checks find in one content: each code with a case and a near miss, and what the page says of it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from registry import formats
from registry.core.limits import FINDING_CHARS
from registry.formats import inspect
from registry.formats.findings import alike, finding, worst_first
from registry.formats.graph.check import check_graph
from registry.formats.graph.model import Edge, Graph, Node
from registry.formats.graph.rules import Rules
from registry.formats.limits import FINDINGS, FINDINGS_ALIKE
from registry.formats.model import Finding
from registry.formats.secrets.literals import literals, literals_of_text
from registry.formats.verdict import RULES
from tests.unit.formats.flows import flowise_node
from tests.unit.formats.kit import (
    END,
    FIRST,
    ROUTE,
    SECOND,
    START,
    app,
    data,
    dump,
    edge,
    graph,
    llm,
    node,
)

PAGE = Path(__file__).parents[3] / "docs/compare.md"
TOKEN = "sk-" + "a1b2c3d4" * 3

Edit = Callable[[dict[str, Any]], Any]


def sound() -> dict[str, Any]:
    """The kit's app, in which nothing is found."""
    value = app()
    value["workflow"]["conversation_variables"] = []
    return value


def found(edit: Edit) -> list[Finding]:
    value = copy.deepcopy(sound())
    edit(value)
    return list(inspect(dump(value), kind="dify").findings)


def both(*edits: Edit) -> Edit:
    def edit(value: dict[str, Any]) -> None:
        for each in edits:
            each(value)

    return edit


def nodes(*more: dict[str, Any]) -> Edit:
    return lambda value: graph(value)["nodes"].extend(more)


def edges(*more: dict[str, Any]) -> Edit:
    return lambda value: graph(value)["edges"].extend(more)


def without_edge(handle: str) -> Edit:
    def edit(value: dict[str, Any]) -> None:
        graph(value)["edges"] = [e for e in graph(value)["edges"] if e["sourceHandle"] != handle]

    return edit


def prompt(text: str) -> Edit:
    return lambda value: data(value, FIRST)["prompt_template"][0].update(text=text)


def secret(value: str, kind: str = "secret") -> Edit:
    return lambda a: a["workflow"]["environment_variables"][0].update(value=value, value_type=kind)


def mode(name: str) -> Edit:
    return lambda value: value["app"].update(mode=name)


def typed(node_id: str, kind: str) -> Edit:
    return lambda value: data(value, node_id).update(type=kind)


def nothing(value: dict[str, Any]) -> None:
    """The near miss of whatever is not there at all."""


def iteration(start: str) -> Edit:
    """A container that is reached, with one node inside."""
    inside = {**node("2001", "iteration-start", "Inside"), "parentId": "2000"}
    return both(nodes(node("2000", "iteration", "Each", start_node_id=start), inside), edges(edge(FIRST, "2000")))


def lifted(value: dict[str, Any]) -> None:
    value["workflow"] |= value["workflow"].pop("graph")


def empty(value: dict[str, Any]) -> None:
    graph(value).update(nodes=[], edges=[])


def legacy_cases(value: dict[str, Any]) -> None:
    data(value, ROUTE)["conditions"] = data(value, ROUTE).pop("cases")[0]["conditions"]


def pipeline(value: dict[str, Any]) -> None:
    del value["app"]
    value |= {"kind": "rag_pipeline", "rag_pipeline": {"name": "x"}}


def chat(value: dict[str, Any]) -> None:
    del value["workflow"]
    value |= {"app": {"mode": "chat"}, "model_config": {}}


TRIGGER = node("3000", "trigger-schedule", "Nightly")
CASES: list[tuple[str, str, str, Edit, Edit]] = [
    # code, level, where, what has it, what only looks like it
    ("edge_dangling", "block", "End -> 9999", edges(edge(END, "9999")), edges(edge(FIRST, SECOND))),
    ("edge_dangling", "block", "9998 -> End", edges(edge("9998", END)), nothing),
    ("node_id_repeated", "block", "Again", nodes(node(END, "end", "Again")), nodes(node("1005#2", "end", "Other"))),
    ("graph_empty", "warn", "", empty, chat),
    ("cycle", "block", "VIP?", edges(edge(FIRST, ROUTE)), edges(edge(START, FIRST), edge(FIRST, END))),
    ("cycle", "block", "Polite answer", edges(edge(FIRST, FIRST)), nothing),
    ("node_unreachable", "warn", "Alone", nodes(llm("2000", "Alone", "x")), iteration("2001")),
    ("dsl_version_missing", "confirm", "version", lambda a: a.pop("version"), lambda a: a.update(version="0.1.0")),
    ("dsl_version_invalid", "block", "version", lambda a: a.update(version=0.5), lambda a: a.update(version="0.5")),
    (
        "dsl_version_invalid",
        "block",
        "version",
        lambda a: a.update(version="new"),
        lambda a: a.update(version="0.5rc1"),
    ),
    (
        "dsl_version_unknown",
        "confirm",
        "version",
        lambda a: a.update(version="0.8"),
        lambda a: a.update(version="0.7.9"),
    ),
    ("mode_missing", "block", "app.mode", lambda a: a["app"].pop("mode"), pipeline),
    ("mode_missing", "block", "app.mode", lambda a: a.pop("app"), nothing),
    ("mode_mismatch", "block", "End", mode("advanced-chat"), both(mode("advanced-chat"), typed(END, "answer"))),
    ("mode_mismatch", "block", "End", typed(END, "answer"), nothing),
    ("mode_mismatch", "block", "app.mode", mode("chat"), chat),
    ("start_and_trigger", "block", "Start", nodes(TRIGGER), typed(START, "trigger-webhook")),
    ("start_missing", "block", "", typed(START, "code"), typed(START, "trigger-webhook")),
    (
        "conversation_variables_unused",
        "warn",
        "",
        lambda a: a["workflow"].update(conversation_variables=[{"name": "seen"}]),
        lambda a: (
            both(mode("advanced-chat"), typed(END, "answer"))(a)
            or a["workflow"].update(conversation_variables=[{"name": "seen"}])
        ),
    ),
    ("secret_value_missing", "confirm", "TOKEN", secret(""), secret("[__HIDDEN__]")),
    ("secret_value_missing", "confirm", "TOKEN", secret(""), secret("", "string")),
    ("secret_value_missing", "confirm", "TOKEN", secret("*******"), secret("[__HIDDEN__]")),
    ("graph_missing", "block", "workflow", lifted, chat),
    ("graph_missing", "block", "workflow", lambda a: a["workflow"].update(graph=[]), empty),
    ("id_not_text", "warn", "Start", lambda a: graph(a)["nodes"][0].update(id=int(START)), nothing),
    ("id_not_text", "warn", "Start -> VIP?", lambda a: graph(a)["edges"][0].update(source=int(START)), nothing),
    (
        "id_not_text",
        "warn",
        "Start -> VIP?",
        lambda a: graph(a)["edges"][0].update(targetHandle=1),
        lambda a: graph(a)["edges"][0].update(targetHandle=None),
    ),
    ("node_type_unknown", "confirm", "End", typed(END, "quantum"), typed(END, "knowledge-retrieval-v2")),
    (
        "node_schema_old",
        "warn",
        "Set",
        nodes(node("2000", "assigner", "Set")),
        nodes(node("2000", "assigner", "Set", version="2")),
    ),
    ("node_schema_old", "warn", "VIP?", legacy_cases, nothing),
    ("container_start_missing", "block", "Each", iteration("9999"), iteration("2001")),
    (
        "branch_handle_invalid",
        "block",
        "VIP?",
        edges(edge(ROUTE, END, "maybe")),
        edges(edge(FIRST, SECOND, "maybe")),  # followed whatever it says
    ),
    (
        "branch_handle_invalid",
        "block",
        "VIP?",
        edges(edge(ROUTE, END, "fail-branch")),
        both(edges(edge(FIRST, END, "fail-branch")), lambda a: data(a, FIRST).update(error_strategy="fail-branch")),
    ),
    ("branch_unconnected", "warn", "VIP?", without_edge("true"), without_edge("false")),
    (
        "reference_missing",
        "block",
        "Polite answer",
        prompt("{{#9999.text#}}"),
        prompt("{{#1001.vip#}} {{#sys.query#}}"),
    ),
    ("reference_missing", "block", "Polite answer", prompt("{{#env.URL#}}"), prompt("{{#env.LIMIT#}}")),
    (
        "reference_missing",
        "block",
        "Polite answer",
        prompt("{{#1001.age#}}"),
        prompt("{{#1001.sys.files#}} {{#context#}}"),
    ),
    (
        "reference_missing",
        "block",
        "Polite answer",
        lambda a: data(a, FIRST).update(context={"enabled": True, "variable_selector": ["9999", "result"]}),
        lambda a: data(a, FIRST).update(context={"enabled": False, "variable_selector": ["9999", "result"]}),
    ),
    (
        "reference_missing",
        "block",
        "Call",
        both(
            nodes(node("2000", "tool", "Call", tool_parameters={"q": {"type": "variable", "value": ["9999", "x"]}})),
            edges(edge(START, "2000")),
        ),
        both(
            nodes(node("2000", "code", "Call", code="'{{#9999.x#}}'", options=["9999", "x"])),
            edges(edge(START, "2000")),
        ),
    ),
    (
        "reference_missing",
        "warn",
        "End",
        lambda a: data(a, END)["outputs"][0].update(value_selector=["9999", "text"]),
        lambda a: data(a, END)["outputs"][0].update(value_selector=[]),
    ),
    (
        "reference_missing",
        "warn",
        "Alone",
        nodes(llm("2000", "Alone", "{{#9999.text#}}")),
        nodes(llm("2000", "Alone", "{{#1003.text#}}")),
    ),
    (
        "secret_literal",
        "warn",
        "workflow.graph.nodes[Polite answer].data.prompt_template[0].text",
        prompt(f"Call with {TOKEN} now."),
        prompt("Call with sk-... and {{#env.TOKEN#}} now."),
    ),
]


@pytest.mark.parametrize(("code", "level", "where", "bad", "near"), CASES)
def test_each_check_finds_its_fault_and_no_other(code: str, level: str, where: str, bad: Edit, near: Edit) -> None:
    assert (code, level, where) in [(f.code, f.level, f.where) for f in found(bad)]
    assert code not in [f.code for f in found(near)]


def test_nothing_is_found_in_a_sound_app() -> None:
    assert inspect(dump(sound())).findings == ()


def test_findings_say_what_is_wrong() -> None:
    edit = both(edges(edge(FIRST, ROUTE), edge(END, "9999")), prompt("{{#9999.text#}}"))
    assert [f.text for f in found(edit)] == [
        "an edge ends at 9999, which is no node",
        "runs go in a circle: VIP? -> Polite answer -> VIP?",
        "reads 'text' of 9999, which is no node",
    ]


def test_warnings_keep_to_what_parsing_found() -> None:
    value = app()
    del value["version"]
    assert inspect(dump(value)).warnings == ()
    assert inspect(b'{"a": 1, "a": 2}').warnings == ("key 'a' appears twice in one object; the last one counts",)


# Any graph.


def of(*pairs: tuple[str, str], alone: tuple[str, ...] = (), kinds: dict[str, str] | None = None) -> Graph:
    ids = dict.fromkeys([*(end for pair in pairs for end in pair), *alone])
    return Graph(
        nodes=[Node(id=each, type=(kinds or {}).get(each, "step"), title=each.upper(), config={}) for each in ids],
        edges=[Edge(source=a, source_handle="", target=b, target_handle="") for a, b in pairs],
    )


class Strict(Rules):
    start = "begin"
    cycles = False


def test_where_no_node_is_known_to_start_only_lone_ones_are_unreachable() -> None:
    made = of(("a", "b"), alone=("c",))
    assert [(f.code, f.where) for f in check_graph(made, Rules())] == [("node_unreachable", "C")]
    assert check_graph(of(alone=("only",)), Rules()) == []
    assert check_graph(of(("b", "a"), ("a", "b")), Rules()) == []  # a format whose edges may lead back


def test_nodes_behind_an_unreachable_one_are_unreachable_too() -> None:
    made = of(("a", "b"), ("c", "d"), ("d", "b"), kinds={"a": "begin"})
    assert [f.where for f in check_graph(made, Strict())] == ["C", "D"]


def test_a_cycle_is_told_in_the_order_of_its_edges() -> None:
    made = of(("a", "b"), ("b", "c"), ("c", "d"), ("d", "b"), ("d", "e"), kinds={"a": "begin"})
    (only,) = check_graph(made, Strict())
    ring = only.text.removeprefix("runs go in a circle: ").split(" -> ")
    assert ring[0] == ring[-1]
    assert set(pairwise(ring)) == {("B", "C"), ("C", "D"), ("D", "B")}


def test_a_long_cycle_is_cut() -> None:
    names = [f"n{index}" for index in range(5000)]
    (only,) = check_graph(of(*zip(names, [*names[1:], names[0]], strict=True)), Strict())
    assert "4994 more" in only.text


def _comfyui(node_id: Any) -> dict[str, Any]:
    nodes = [{"id": each, "type": "Save", "pos": [0, 0], "inputs": [], "outputs": []} for each in ("1", node_id)]
    return {"nodes": nodes, "links": [], "version": 0.4, "last_node_id": 2}


def _n8n(node_id: str) -> dict[str, Any]:
    made = {"type": "n8n-nodes-base.set", "position": [0, 0], "parameters": {}}
    return {
        "nodes": [made | {"id": each, "name": f"at {n}"} for n, each in enumerate(("1", node_id))],
        "connections": {},
    }


def _subgraphs(node_id: str) -> dict[str, Any]:
    empty: dict[str, Any] = {"name": "x", "nodes": [], "links": [], "inputs": [], "outputs": []}
    return _comfyui(2) | {"definitions": {"subgraphs": [empty | {"id": each} for each in ("1", node_id)]}}


def _flowise(node_id: str) -> dict[str, Any]:
    return {"nodes": [flowise_node(each, "llmChain", {}) for each in ("1", node_id)], "edges": []}


def _langflow(node_id: str) -> dict[str, Any]:
    data = {"type": "Prompt", "node": {"template": {}, "display_name": "P"}}
    return {"data": {"nodes": [{"id": each, "data": data} for each in ("1", node_id)], "edges": []}}


@pytest.mark.parametrize("made", [_comfyui, _subgraphs, _n8n, _flowise, _langflow])
def test_a_repeated_id_is_found_in_every_format_and_is_not_one_that_looks_like_it(
    made: Callable[[str], dict[str, Any]],
) -> None:
    twins, others = (inspect(json.dumps(made(node_id)).encode()) for node_id in ("1", "1#2"))
    assert twins.kind == others.kind != "json"
    assert "node_id_repeated" in [each.code for each in twins.findings]
    assert "node_id_repeated" not in [each.code for each in others.findings]
    assert twins.semantic_digest != others.semantic_digest


def test_many_faults_are_listed_as_a_few_and_counted() -> None:
    made = of(*((f"n{index}", f"n{index + 1}") for index in range(500)), kinds={"n0": "begin"})
    for each in made.edges[:300]:
        each.target = "gone"
    listed = check_graph(made, Strict())
    dangling = [f for f in listed if f.code == "edge_dangling"]
    assert len(dangling) == FINDINGS_ALIKE + 1
    assert dangling[-1].text == f"{300 - FINDINGS_ALIKE} more like these"
    assert sum(f.code == "node_unreachable" for f in listed) == FINDINGS_ALIKE + 1


def test_lists_of_findings_are_bounded_and_worst_first() -> None:
    many = [finding(f"c{index}", ("ok", "warn", "block")[index % 3], "x" * 999, "y" * 999) for index in range(200)]
    short = worst_first(many)
    assert len(short) == FINDINGS
    assert [f.level for f in short[:-1]] == ["block"] * (FINDINGS - 1)
    assert (short[-1].code, short[-1].level, short[-1].text) == ("findings_omitted", "block", "151 more, not listed")
    assert all(max(len(f.text), len(f.where)) <= FINDING_CHARS for f in short)
    assert alike("c", "warn", [], str) == []


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("dify", dump(sound() | {"x": TOKEN})),
        ("comfyui", json.dumps({"3": {"class_type": "X", "inputs": {"text": TOKEN}}}).encode()),
        ("json", json.dumps({"x": TOKEN}).encode()),
        ("toml", f"x = '{TOKEN}'\n".encode()),
        ("yaml", f"x: {TOKEN}\n".encode()),
        ("text", f"call\n{TOKEN}\n".encode()),
    ],
)
def test_every_kind_is_checked_for_literals(kind: str, content: bytes) -> None:
    inspection = inspect(content)
    assert inspection.kind == kind
    assert "secret_literal" in [f.code for f in inspection.findings]
    assert not any(TOKEN in f.text + f.where for f in inspection.findings)


# Literals.


@pytest.mark.parametrize(
    ("value", "where", "shown"),
    [
        ({"a": [{"title": "First"}, {"name": "Call it", "api_key": "aB3-secret"}]}, "a[Call it].api_key", "(secret)"),
        ({"a": [{"x": 1}, {"password": "hunter2"}]}, "a[1].password", "(secret)"),
        ({"key": "X-Api-Key", "value": "aB3-secret"}, "value", "(secret)"),
        ({"api_key": {"type": "constant", "value": "aB3-secret"}}, "api_key.value", "(secret)"),
        ({"url": "https://h/x?key=e885352242081624"}, "url", "https://h/x?key=(secret)"),
        ({"t": f"one\n two {TOKEN}"}, "t", "one two (secret)"),
        ([f"{'x' * 99} {TOKEN} {'y' * 99}"], "[0]", f"{'x' * 39} (secret) {'y' * 39}"),
        (f"Bearer {TOKEN}", "", "Bearer (secret)"),
    ],
)
def test_literals_are_found_where_they_are_and_shown_masked(value: Any, where: str, shown: str) -> None:
    assert [(f.where, f.text) for f in literals(value)] == [(where, f"looks like a secret: {shown}")]


@pytest.mark.parametrize(
    "value",
    [
        {"api_key": ""},
        {"api_key": "{{#env.KEY#}}"},
        {"api_key": "YOUR_API_KEY"},
        {"api_key": "<your key>"},
        {"openai_api_key": "OPENAI_API_KEY"},
        {"api_key": {"type": "variable", "value": ["env", "KEY"]}},
        {"api_key": {"type": "variable", "value": "env.KEY.long"}},
        {"authorization": {"type": "api-key", "config": {"type": "bearer"}}},
        {"credential": "b2f7d0a4-1111-4222-8333-944445555666"},
        {"password": "2"},
        {"max_tokens": 512, "token": 12345678, "secret": True},
        ["token:", "abcdef123456789", "token:"],  # several texts, not one
        ["https://h/x?key=", "abcdef123456789", "https://h/x?key="],
        [],
        None,
        7,
    ],
)
def test_what_only_looks_like_a_literal_is_not_found(value: Any) -> None:
    assert literals(value) == []


def test_values_that_the_format_declares_secret_are_not_literals() -> None:
    assert literals({"a": {"password": "hunter2"}, "password": "hunter2"}, {("a", "password")})[0].where == "password"
    assert found(secret("hunter2-hunter2")) == []


def test_literals_of_plain_text_go_by_line() -> None:
    text = f"first\npassword = 'abcdef123456'\n\n{TOKEN}\n"
    assert [(f.where, f.text) for f in literals_of_text(text)] == [
        ("line 2", "looks like a secret: password = '(secret)'"),
        ("line 4", "looks like a secret: (secret)"),
    ]
    assert literals_of_text("nothing\nhere") == []
    assert len(literals_of_text(f"{TOKEN}\n" * 100)) == FINDINGS_ALIKE + 1


@pytest.mark.parametrize(
    "piece", ["token=", "-eyJ", "eyJ.", "sk-", "Bearer ", "&a-", "?key=", "a://b:", "-----BEGIN ", "{{"]
)
def test_no_pattern_reads_a_hostile_text_again_and_again(piece: str) -> None:
    """Read once it takes a moment, read again from each of its places it would take minutes."""
    text = piece * (200_000 // len(piece))
    literals({"a": text, "b": text + "("})
    literals_of_text(text)


# What it calls.


def test_workflows_published_as_tools_are_required_by_their_name() -> None:
    def tool(node_id: str, **fields: Any) -> dict[str, Any]:
        return node(node_id, "tool", node_id, provider_name="Label", tool_label="Label", **fields)

    value = sound()
    agent = {"tools": {"type": "constant", "value": [{"type": "workflow", "tool_name": "draw", "provider_name": "D"}]}}
    graph(value)["nodes"] += [
        tool("8", provider_type="workflow", provider_id="0ad2-uuid", tool_name="scrape"),
        tool("9", provider_type="workflow", provider_id="0ad2-uuid", tool_name="scrape"),
        tool("10", provider_type="builtin", tool_name="search"),
        node("11", "agent", "Agent", agent_parameters=agent),
    ]
    assert inspect(dump(value)).requires == ("dify-tool:draw", "dify-tool:scrape")
    assert inspect(dump(sound())).requires == ()


# The page.


def codes_in_the_code() -> dict[str, set[str]]:
    """Code -> levels, as the sources have them."""
    known: dict[str, set[str]] = {}
    for source in Path(formats.__file__).parent.rglob("*.py"):
        for code, level in re.findall(r'(?:finding|alike)\(\s*"(\w+)",\s*([^,]+),', source.read_text()):
            known.setdefault(code, set()).update(re.findall(r'"(\w+)"', level))
    for source in (Path(formats.__file__).parents[1] / "server").rglob("*.py"):  # what only a registry can say
        for code, level in re.findall(r'Finding\(\s*code="(\w+)", level="(\w+)"', source.read_text()):
            known.setdefault(code, set()).add(level)
    for code, level, _ in RULES:
        known.setdefault(code, set()).add(level)
    return known


def test_the_page_lists_every_code_with_its_levels() -> None:
    level = "(?:block|confirm|warn)"
    rows = re.findall(rf"^\| `(\w+)` \| ({level}(?:, {level})*) \|", PAGE.read_text(), re.MULTILINE)
    page: dict[str, set[str]] = {}
    for code, levels in rows:
        page.setdefault(code, set()).update(levels.split(", "))
    known = codes_in_the_code()
    assert len(known) > 30
    assert page.keys() == known.keys()
    assert {code: levels - page[code] for code, levels in known.items() if levels - page[code]} == {}

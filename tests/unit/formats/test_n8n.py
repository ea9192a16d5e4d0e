"""n8n workflows compared in words of the workflow; a renamed node is the same node; what is noise."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from registry.formats import Comparison, compare, inspect
from registry.formats.kinds.n8n import N8n
from registry.formats.kinds.n8n.view import view
from registry.formats.model import DependencyChange, ModelName
from registry.formats.reading.document import Document
from tests.unit.formats.kit import as_rows, changes_meaning, says_something

Edit = Callable[[dict[str, Any]], Any]

BASE, CHAIN = "n8n-nodes-base.", "@n8n/n8n-nodes-langchain."
START, FETCH, ROUTE, AGENT, MODEL, TOOL, NOTE = (
    "id-start",
    "id-fetch",
    "id-if",
    "id-agent",
    "id-lm",
    "id-tool",
    "id-note",
)


def node(node_id: str, name: str, kind: str, x: int = 0, **parameters: Any) -> dict[str, Any]:
    return {
        "parameters": parameters,
        "id": node_id,
        "name": name,
        "type": kind,
        "typeVersion": 1,
        "position": [x, 0],
    }


def to(name: str, kind: str = "main", index: int = 0) -> dict[str, Any]:
    return {"node": name, "type": kind, "index": index}


def workflow() -> dict[str, Any]:
    """trigger -> HTTP -> if -> agent (with a model and a tool) or nothing, and a note."""
    picked = {"__rl": True, "mode": "list", "value": "gpt-4o", "cachedResultName": "GPT 4o"}
    condition = {"id": "c-1", "leftValue": "={{ $json.vip }}", "rightValue": "yes", "operator": {"type": "string"}}
    fetch = node(FETCH, "Fetch order", f"{BASE}httpRequest", 1, url="={{ $json.url }}", options={})
    agent = node(AGENT, "Answer", f"{CHAIN}agent", 3, text="={{ $('Fetch order').item.json.body }}")
    return {
        "name": "Orders",
        "nodes": [
            node(
                START,
                "When called",
                f"{BASE}executeWorkflowTrigger",
                workflowInputs={"values": [{"name": "url"}, {"name": "limit", "type": "number"}]},
            ),
            fetch | {"credentials": {"httpBasicAuth": {"id": "7", "name": "Shop"}}, "onError": "continueErrorOutput"},
            node(ROUTE, "VIP?", f"{BASE}if", 2, conditions={"combinator": "and", "conditions": [condition]}),
            agent,
            node(MODEL, "OpenAI", f"{CHAIN}lmChatOpenAi", 4, model=picked, options={"temperature": 0.2}),
            node(TOOL, "Look up", f"{CHAIN}toolWorkflow", 5, workflowId={"__rl": True, "value": "wf42", "mode": "id"}),
            node(NOTE, "Sticky Note", f"{BASE}stickyNote", 9, content="hello", width=300, height=80),
        ],
        "connections": {
            "When called": {"main": [[to("Fetch order")]]},
            "Fetch order": {"main": [[to("VIP?")]]},
            "VIP?": {"main": [[to("Answer")], []]},
            "OpenAI": {"ai_languageModel": [[to("Answer", "ai_languageModel")]]},
            "Look up": {"ai_tool": [[to("Answer", "ai_tool")]]},
        },
        "active": False,
        "settings": {"executionOrder": "v1"},
        "versionId": "v-1",
        "id": "wf1",
        "meta": {"instanceId": "i-1"},
        "pinData": {},
        "tags": [],
    }


def by_id(value: dict[str, Any], node_id: str) -> dict[str, Any]:
    found: dict[str, Any] = next(item for item in value["nodes"] if item.get("id") == node_id)
    return found


def parameters(value: dict[str, Any], node_id: str) -> dict[str, Any]:
    found: dict[str, Any] = by_id(value, node_id)["parameters"]
    return found


def dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def changed(edit: Edit) -> Comparison:
    new = workflow()
    edit(new)
    return compare(dump(workflow()), dump(new))


def rename(value: dict[str, Any], old: str, new: str) -> None:
    """What n8n's editor does: the node, its connections, and expressions that name it."""
    text = json.dumps(value)
    for before, after in ((f'"{old}"', f'"{new}"'), (f"$('{old}')", f"$('{new}')")):
        text = text.replace(before, after)
    value.clear()
    value.update(json.loads(text))


def test_it_is_detected_and_described() -> None:
    found = inspect(dump(workflow()))
    assert found.kind == "n8n"
    assert found.facts == {
        "nodes": "6",
        "edges": "5",
        "name": "Orders",
        "n8n_id": "wf1",
        "active": "false",
        "notes": "1",
        "plugins": "0",
    }


@pytest.mark.parametrize("wrap", [lambda w: [w], lambda w: {"data": w}])
def test_an_exported_list_and_a_reply_hold_the_same_workflow(wrap: Callable[[Any], Any]) -> None:
    plain, wrapped = inspect(dump(workflow())), inspect(dump(wrap(workflow())))
    assert (wrapped.kind, wrapped.facts["wrapped"]) == ("n8n", "true")
    assert wrapped.semantic_digest == plain.semantic_digest
    assert compare(dump(workflow()), dump(wrap(workflow()))).same_semantics


@pytest.mark.parametrize(
    "value",
    [
        {"nodes": [], "connections": {}},
        {"nodes": [{"name": "a", "type": "b"}], "connections": {}},
        {"nodes": [node("1", "a", "b")], "connections": []},
        {"nodes": [node("1", "a", "b")], "edges": []},
        {"nodes": [{"id": "1", "type": "customNode", "position": {"x": 0, "y": 0}, "data": {}}], "connections": {}},
        {"data": {"nodes": [node("1", "a", "b")], "edges": []}},
        [workflow(), workflow()],
    ],
)
def test_others_json_is_left_alone(value: Any) -> None:
    assert inspect(dump(value)).kind == "json"


def test_a_workflow_without_nodes_is_one() -> None:
    assert inspect(dump(workflow() | {"nodes": [], "connections": {}})).kind == "n8n"


NOISE: dict[str, tuple[Edit, str]] = {
    "moved": (lambda w: by_id(w, FETCH).update(position=[7, 7]), "1 node moved"),
    "no position": (lambda w: by_id(w, FETCH).update(position=None), "1 node moved, 1 filled-in default differs"),
    "node order": (lambda w: w["nodes"].reverse(), "order of nodes"),
    "version id": (lambda w: w.update(versionId="v-2"), "1 filled-in default differs"),
    "active": (lambda w: w.update(active=True), "1 filled-in default differs"),
    "pinned data": (lambda w: w.update(pinData={"Answer": [{"json": {}}]}), "1 filled-in default differs"),
    "static data": (lambda w: w.update(staticData=None), "1 filled-in default differs"),
    "instance": (lambda w: w.pop("meta"), "2 filled-in defaults differ"),
    "workflow id": (lambda w: w.update(id="wf2"), "1 filled-in default differs"),
    "disabled false": (lambda w: by_id(w, FETCH).update(disabled=False), "1 filled-in default differs"),
    "notes in flow": (lambda w: by_id(w, FETCH).update(notesInFlow=True), "1 item redrawn"),
    "picked name": (
        lambda w: parameters(w, MODEL)["model"].update(cachedResultName="x"),
        "1 filled-in default differs",
    ),
    "condition id": (
        lambda w: parameters(w, ROUTE)["conditions"]["conditions"][0].update(id="c-2"),
        "1 filled-in default differs",
    ),
    "trailing output": (lambda w: w["connections"]["VIP?"]["main"].pop(), "1 filled-in default differs"),
    "null output": (
        lambda w: w["connections"]["VIP?"]["main"].__setitem__(1, None),
        "1 filled-in default differs",
    ),
    "empty connections": (lambda w: w["connections"].update({"Answer": {}}), "1 filled-in default differs"),
    "implied index": (lambda w: w["connections"]["VIP?"]["main"][0][0].pop("index"), "1 item redrawn"),
    "name": (lambda w: w.update(name="Other"), "1 title or description changed"),
    "tags": (lambda w: w.update(tags=[{"name": "prod"}]), "1 title or description changed"),
    "node notes": (lambda w: by_id(w, FETCH).update(notes="why"), "1 title or description changed"),
    "note": (lambda w: parameters(w, NOTE).update(content="bye"), "1 note changed"),
    "note size": (lambda w: parameters(w, NOTE).update(width=1), "1 item redrawn"),
    "note gone": (lambda w: w["nodes"].pop(), "1 note changed"),
    "renamed": (lambda w: rename(w, "Fetch order", "Get the order"), "1 title or description changed"),
}


@pytest.mark.parametrize("name", NOISE)
def test_noise_changes_the_value_and_not_the_meaning(name: str) -> None:
    edit, said = NOISE[name]
    found = changed(edit)
    assert not found.same_value
    assert found.same_semantics
    assert not changes_meaning(found)
    assert says_something(found)
    assert found.summary == f"no change in what it does: {said}"


MEANING: dict[str, tuple[Edit, str]] = {
    "parameter": (lambda w: parameters(w, FETCH).update(url="https://example.com"), "1 node changed"),
    "type version": (lambda w: by_id(w, FETCH).update(typeVersion=2), "1 node changed"),
    "disabled": (lambda w: by_id(w, FETCH).update(disabled=True), "1 node changed"),
    "retry": (lambda w: by_id(w, FETCH).update(retryOnFail=True, maxTries=3), "1 node changed"),
    "unknown node field": (lambda w: by_id(w, FETCH).update(brandNew=1), "1 node changed"),
    "webhook id": (lambda w: by_id(w, FETCH).update(webhookId="w"), "1 node changed"),
    "account": (lambda w: by_id(w, FETCH)["credentials"]["httpBasicAuth"].update(id="8"), "1 node changed"),
    "condition": (
        lambda w: parameters(w, ROUTE)["conditions"]["conditions"][0].update(rightValue="no"),
        "1 node changed",
    ),
    "temperature": (lambda w: parameters(w, MODEL)["options"].update(temperature=1), "1 node changed"),
    "model": (
        lambda w: parameters(w, MODEL)["model"].update(value="gpt-4.1", cachedResultName="GPT 4.1"),
        "1 node changed; model gpt-4o -> gpt-4.1 in 'OpenAI'",
    ),
    "tool renamed": (lambda w: rename(w, "Look up", "Search"), "1 node changed"),
    "edge": (lambda w: w["connections"]["VIP?"]["main"][1].append(to("Answer")), "1 edge added"),
    "edge gone": (lambda w: w["connections"].pop("Look up"), "1 edge removed"),
    "other output": (lambda w: w["connections"]["VIP?"]["main"].reverse(), "1 edge added, 1 removed"),
    "other input": (lambda w: w["connections"]["VIP?"]["main"][0][0].update(index=1), "1 edge added, 1 removed"),
    "edge field": (lambda w: w["connections"]["VIP?"]["main"][0][0].update(when="x"), "1 setting changed"),
    "input": (
        lambda w: parameters(w, START)["workflowInputs"]["values"].append({"name": "more"}),
        "1 node changed; input more added",
    ),
    "setting": (lambda w: w["settings"].update(timezone="Europe/Berlin"), "1 setting changed"),
    "unknown field": (lambda w: w.update(brandNew={"x": 1}), "1 setting changed"),
    "odd node": (lambda w: w["nodes"].append("no node"), "1 setting changed"),
    "odd connection": (lambda w: w["connections"].update(Answer=3), "1 setting changed"),
    "odd target": (lambda w: w["connections"]["VIP?"]["main"][0].append(3), "1 setting changed"),
    "name not followed": (lambda w: by_id(w, FETCH).update(name="Get"), "1 node changed; 2 edges added, 2 removed"),
}


@pytest.mark.parametrize("name", MEANING)
def test_what_a_workflow_does_is_in_the_semantic_digest_and_the_summary(name: str) -> None:
    edit, said = MEANING[name]
    found = changed(edit)
    assert not found.same_value
    assert not found.same_semantics
    assert changes_meaning(found)
    assert found.summary.startswith(said), found.summary


def test_expressions_are_shown_with_names() -> None:
    def edit(value: dict[str, Any]) -> None:
        rename(value, "Fetch order", "Get the order")
        parameters(value, AGENT)["text"] = "={{ $('Get the order').item.json.title }}"

    (found,) = changed(edit).nodes.changed
    assert [(c.path, c.old, c.new) for c in found.changes] == [
        ("text", "={{ $('Get the order').item.json.body }}", "={{ $('Get the order').item.json.title }}")
    ]


def test_a_name_that_is_not_followed_is_shown() -> None:
    """Expressions that still name the node as it was called no longer find it."""
    found = changed(lambda w: by_id(w, FETCH).update(name="Get"))
    assert [change.title for change in found.nodes.changed] == ["Answer"]
    assert {(e.source_title, e.target_title) for e in found.edges.added} == {("When called", ""), ("", "VIP?")}


SPELLINGS = [
    '={{ $("Fetch order").first().json.a }}',
    "={{ $(`Fetch order`).all() }}",
    '={{ $node["Fetch order"].json.a }}',
    "={{ $items('Fetch order', 0)[0].json }}",
    "={{ $( 'Fetch order' ).item }} and {{ $('VIP?').item }}",
]


@pytest.mark.parametrize("text", SPELLINGS)
def test_every_way_to_name_a_node_is_followed(text: str) -> None:
    old, new = workflow(), workflow()
    for value in (old, new):
        parameters(value, AGENT)["text"] = text
    rename(new, "Fetch order", "Get")
    parameters(new, AGENT)["text"] = text.replace("Fetch order", "Get")
    found = compare(dump(old), dump(new))
    assert (found.same_semantics, found.summary) == (
        True,
        "no change in what it does: 1 title or description changed",
    )
    parameters(new, AGENT)["text"] = text.replace("Fetch order", "Nothing")
    assert not compare(dump(old), dump(new)).same_semantics


def test_dots_quotes_and_code_are_followed() -> None:
    def value(name: str, dotted: str, escaped: str) -> bytes:
        code = node("c", "Code", f"{BASE}code", jsCode=f"return $node.{dotted}.json\n+ $('{escaped}').all()")
        plain = node("t", "Text", f"{BASE}set", prompt=f"say $('{name}')")
        return dump({"nodes": [node("s", dotted, "a.b"), node("q", name, "a.b"), code, plain], "connections": {}})

    old = value("It's", "Start", "It\\'s")
    assert compare(old, value("It's", "Begin", "It\\'s")).summary == (
        "no change in what it does: 1 title or description changed"
    )
    renamed = compare(old, value("It is", "Start", "It is"))
    assert [(n.title, c.path) for n in renamed.nodes.changed for c in n.changes] == [("Text", "prompt")]
    respelled = compare(old, old.replace(b"$node.Start", b'$node[\\"Start\\"]'))
    assert respelled.summary == "no change in what it does: 1 filled-in default differs"
    double = [old.replace(b"$('It\\\\'s')", text) for text in (b"$(`It\\\\'s`)", b"$(`It's`)")]
    assert compare(*double).summary == "no change in what it does: 1 filled-in default differs"


def test_a_name_that_looks_like_an_id_is_no_reference_by_id() -> None:
    old, new = workflow(), workflow()
    parameters(old, AGENT)["text"] = f"={{{{ $('«{FETCH}»').item }}}}"
    parameters(new, AGENT)["text"] = "={{ $('Fetch order').item }}"
    assert not compare(dump(old), dump(new)).same_semantics


@pytest.mark.parametrize("name", ["When called", "Fetch order"])
def test_connections_by_id_are_none_of_the_node(name: str) -> None:
    """n8n does not follow them."""
    text = json.dumps(workflow()["connections"]).replace(
        f'"{name}"', json.dumps(START if name == "When called" else FETCH)
    )
    assert not changed(lambda w: w.update(connections=json.loads(text))).same_semantics


def test_files_without_ids_go_by_name() -> None:
    def without(value: dict[str, Any]) -> dict[str, Any]:
        for item in value["nodes"]:
            del item["id"]
        return value

    old, new = without(workflow()), without(workflow())
    rename(new, "Fetch order", "Get")
    found = compare(dump(old), dump(new))
    assert [(r.old_id, r.new_id) for r in found.nodes.rematched] == [("Fetch order", "Get")]
    assert (found.nodes.added, found.nodes.removed, found.nodes.changed) == ([], [], [])
    assert (found.edges.added, found.edges.removed) == ([], [])


def test_a_graph_with_new_ids_is_recognised() -> None:
    new = json.loads(dump(workflow()).replace(b'"id-', b'"new-'))
    parameters(new, "new-agent")["text"] = "={{ $('VIP?').item.json.body }}"
    found = compare(dump(workflow()), dump(new))
    assert len(found.nodes.rematched) == 6
    assert (found.nodes.added, found.edges.added) == ([], [])
    assert [(n.title, c.old, c.new) for n in found.nodes.changed for c in n.changes] == [
        ("Answer", "={{ $('Fetch order').item.json.body }}", "={{ $('VIP?').item.json.body }}")
    ]


def test_outputs_have_names() -> None:
    rules = {"values": [{"outputKey": "bill", "renameOutput": True}, {"conditions": {}}]}
    categories = {"categories": [{"category": "angry"}]}
    value = workflow()
    value["nodes"] += [
        node("s3", "Sort", f"{BASE}switch", rules=rules, options={"fallbackOutput": "extra"}),
        node("s1", "Old sort", f"{BASE}switch", rules={"rules": [{"value2": "red"}]}),
        node("sx", "Count", f"{BASE}switch", mode="expression", numberOutputs=2),
        node("tc", "Mood", f"{CHAIN}textClassifier", categories=categories, options={"fallback": "other"}),
        node("b1", "Old loop", f"{BASE}splitInBatches"),
        node("b3", "Loop", f"{BASE}splitInBatches") | {"typeVersion": 3},
    ]
    outputs = {"Sort": 3, "Old sort": 1, "Count": 2, "Mood": 2, "Old loop": 2, "Loop": 2, "Fetch order": 3, "VIP?": 3}
    for name, count in outputs.items():
        value["connections"][name] = {"main": [[to("Answer")] for _ in range(count)]}
    edges = compare(dump(workflow() | {"connections": {}}), dump(value)).edges.added
    branches: dict[str, list[str]] = {}
    for edge in edges:
        branches.setdefault(edge.source_title, []).append(edge.branch)
    assert branches == {
        "When called": [""],
        "Fetch order": ["", "on error", "output 2"],
        "VIP?": ["true", "false", "output 2"],
        "OpenAI": ["language model"],
        "Look up": ["tool"],
        "Sort": ["bill", "rule 1", "fallback"],
        "Old sort": ["red"],
        "Count": ["output 0", "output 1"],
        "Mood": ["angry", "other"],
        "Old loop": ["loop", "done"],
        "Loop": ["done", "loop"],
    }


MODELS = [
    (f"{CHAIN}lmChatAnthropic", {"model": "claude-x"}, [("model", "anthropic", "claude-x")]),
    (f"{CHAIN}lmOllama", {"model": "llama"}, [("model", "ollama", "llama")]),
    (f"{CHAIN}lmChatGoogleGemini", {"modelName": "g"}, [("modelName", "googlegemini", "g")]),
    (f"{CHAIN}embeddingsOpenAi", {"model": "e"}, [("model", "openai", "e")]),
    (f"{CHAIN}openAi", {"modelId": {"__rl": True, "value": "o3"}}, [("modelId.value", "openai", "o3")]),
    (f"{CHAIN}openAiTool", {"modelId": {"__rl": True, "value": "o3"}}, [("modelId.value", "openai", "o3")]),
    (f"{BASE}openAi", {"chatModel": "gpt"}, [("chatModel", "openai", "gpt")]),
    (f"{CHAIN}lmChatOpenAi", {"model": "={{ $('A').item }}"}, [("model", "openai", "(expression)")]),
    ("n8n-nodes-acme.lmChatAcme", {"model": "a"}, [("model", "acme", "a")]),
    (f"{BASE}odoo", {"model": "car"}, []),
    (f"{CHAIN}lmChatOpenAi", {"model": {"value": 3}}, []),
]


@pytest.mark.parametrize(("kind", "config", "expected"), MODELS)
def test_models_are_found(kind: str, config: dict[str, Any], expected: list[tuple[str, str, str]]) -> None:
    assert list(N8n.rules.models(kind, config)) == [
        (path, ModelName(provider=provider, name=name)) for path, provider, name in expected
    ]


def test_a_changed_model_is_shown_once() -> None:
    found = changed(lambda w: parameters(w, MODEL)["model"].update(value="gpt-4.1"))
    assert [row.what for row in as_rows(found) if row.what != "verdict"] == ["model"]


def test_community_packages_and_credentials_are_dependencies() -> None:
    def edit(value: dict[str, Any]) -> None:
        value["nodes"].append(node("x", "X", "@acme/n8n-nodes-sky.cloud"))
        value["nodes"].append(node("y", "Y", "n8n-nodes-rain.drop") | {"credentials": {"rainApi": {}}})

    assert changed(edit).dependencies == [
        DependencyChange(name="@acme/n8n-nodes-sky", sign="+"),
        DependencyChange(name="credential rainApi", sign="+"),
        DependencyChange(name="n8n-nodes-rain", sign="+"),
    ]


def test_form_fields_are_inputs() -> None:
    def form(required: bool, *more: str) -> bytes:
        fields: list[dict[str, Any]] = [{"fieldLabel": name} for name in more]
        fields.append({"fieldName": "mail", "fieldLabel": "Your e-mail", "requiredField": required})
        return dump(
            {"nodes": [node("f", "Form", f"{BASE}formTrigger", formFields={"values": fields})], "connections": {}}
        )

    found = compare(form(False), form(True, "Age"))
    assert [(v.scope, v.name, v.sign) for v in found.variables] == [("input", "mail", "~"), ("input", "Age", "+")]
    assert [change.path for change in found.variables[0].changes] == ["required"]
    assert all(change.shown_as == "input" for n in found.nodes.changed for change in n.changes)


def test_own_inputs_are_told_apart_from_the_listed_ones() -> None:
    kind = f"{BASE}formTrigger"
    own = {"nodes": [node("f", "F", kind, formFields={}, inputs=[{"variable": "a", "fieldLabel": "a"}])]}
    listed = {"nodes": [node("f", "F", kind, formFields={"values": [{"fieldLabel": "a"}]})], "connections": {}}
    assert not compare(dump(own | {"connections": {}}), dump(listed)).same_semantics


def _requires(edit: Edit) -> list[str]:
    value = workflow()
    edit(value)
    known = N8n()
    return known.requires(known.read(Document(dump(value))))


def test_called_workflows_are_required() -> None:
    def edit(value: dict[str, Any]) -> None:
        kind = f"{BASE}executeWorkflow"
        value["settings"]["errorWorkflow"] = "oops"
        value["nodes"] += [
            node("1", "a", kind, workflowId="9"),
            node("2", "b", kind, workflowId={"value": "9"}),
            node("3", "c", kind, workflowId="={{ $json.id }}"),
            node("4", "d", kind, source="url", workflowId="10"),
            node("5", "e", kind, workflowId="11") | {"disabled": True},
            node("6", "f", kind, workflowId=["12"]),
            node("7", "g", kind),
        ]

    assert _requires(lambda w: None) == ["n8n:wf42"]
    assert _requires(edit) == ["n8n:9", "n8n:oops", "n8n:wf42"]
    assert _requires(lambda w: w["settings"].update(errorWorkflow="DEFAULT")) == ["n8n:wf42"]
    assert _requires(lambda w: w.update(settings="x")) == ["n8n:wf42"]


def test_a_webhook_with_a_path_does_not_live_at_its_id() -> None:
    def hook(path: str, webhook_id: str) -> bytes:
        item = node("h", "Hook", f"{BASE}webhook", path=path) | {"webhookId": webhook_id}
        return dump({"nodes": [item], "connections": {}})

    assert compare(hook("orders", "a"), hook("orders", "b")).same_semantics
    assert not compare(hook("", "a"), hook("", "b")).same_semantics
    assert not compare(hook("orders/:id", "a"), hook("orders/:id", "b")).same_semantics


def hooked(name: str, kind: str = f"{BASE}webhook", **more: Any) -> bytes:
    return dump({"nodes": [node("h", name, kind, path="orders") | more], "connections": {}})


def test_a_webhook_that_loses_its_id_moves_to_another_address() -> None:
    """Its path then stands below the workflow's id and the node's name."""
    found = compare(hooked("Hook", webhookId="a"), hooked("Hook"))
    assert not found.same_semantics
    assert [(c.sign, c.path, c.old) for n in found.nodes.changed for c in n.changes] == [
        ("+", "node.name", None),
        ("-", "node.webhookId", True),
    ]


@pytest.mark.parametrize("kind", [f"{BASE}webhook", f"{BASE}formTrigger", f"{CHAIN}chatTrigger", f"{CHAIN}mcpTrigger"])
def test_the_name_of_a_webhook_without_an_id_is_part_of_its_address(kind: str) -> None:
    assert not compare(hooked("a", kind), hooked("b", kind)).same_semantics
    assert compare(hooked("a", kind, webhookId="w"), hooked("b", kind, webhookId="w")).same_semantics


@pytest.mark.parametrize(
    ("text", "nodes_too"),
    [
        ("={{ $prevNode.name }}", True),
        ("={{ $prevNode['name'] }}", True),
        ("={{ JSON.stringify($prevNode) }}", True),
        ("={{ $prevNode.runIndex + $prevNode.outputIndex }}", False),
        ("say $prevNode.name", False),
    ],
)
def test_names_of_nodes_are_meaning_where_an_expression_reads_them(text: str, nodes_too: bool) -> None:
    old, new = workflow(), workflow()
    for value in (old, new):
        parameters(value, AGENT)["text"] = text
    rename(new, "Fetch order", "Get the order")
    found = compare(dump(old), dump(new))
    assert found.same_semantics != nodes_too
    assert changes_meaning(found) == nodes_too


@pytest.mark.parametrize(
    ("key", "text", "named"),
    [
        ("text", "={{ $workflow.name }}", True),
        ("text", '={{ $workflow["name"] }}', True),
        ("jsCode", "return $workflow?.name", True),
        ("pythonCode", "return _workflow.name", True),
        ("text", "={{ $workflow.id }} {{ $workflow.active }}", False),
        ("text", "={{ $json.$workflow.name }}", False),
    ],
)
def test_the_workflows_name_is_meaning_where_an_expression_reads_it(key: str, text: str, named: bool) -> None:
    old, new = workflow(), workflow() | {"name": "Other"}
    for value in (old, new):
        parameters(value, AGENT)["options"] = {"list": [{key: text}]}
    found = compare(dump(old), dump(new))
    assert found.same_semantics != named
    assert [(c.path, c.old, c.new) for c in found.app] == ([("name", "Orders", "Other")] if named else [])
    assert inspect(dump(new)).facts["name"] == "Other"


def fanned(*targets: Any, **settings: str) -> bytes:
    value = workflow() | {"settings": settings}
    value["connections"]["VIP?"] = {"main": [list(targets)]}
    return dump(value)


def test_the_order_of_targets_is_meaning_where_n8n_follows_the_list() -> None:
    targets = [to("Answer"), to("Fetch order")]
    for settings, counts in (({}, True), ({"executionOrder": "v0"}, True), ({"executionOrder": "v1"}, False)):
        found = compare(fanned(*targets, **settings), fanned(*reversed(targets), **settings))
        assert (not found.same_semantics) == changes_meaning(found) == counts
        assert (found.summary == "2 settings changed") == counts


@pytest.mark.parametrize("order", ["v0", "v1"])
def test_a_target_that_is_listed_twice_runs_twice(order: str) -> None:
    once, twice = ([to("Answer")] * count for count in (1, 2))
    found = compare(fanned(*once, executionOrder=order), fanned(*twice, executionOrder=order))
    assert not found.same_semantics
    assert [(c.sign, c.path.rpartition(".")[2], c.new) for c in found.changes if "times" in c.path] == [
        ("+", "times", 2)
    ]
    between = [
        fanned(*listed, executionOrder=order) for listed in ([*twice, to("Gone")], [once[0], to("Gone"), once[0]])
    ]
    assert changes_meaning(compare(*between)) == (order == "v0")
    odd = [to("Answer"), to("Answer") | {"when": "x"}]
    assert not compare(fanned(*twice, executionOrder=order), fanned(*odd, executionOrder=order)).same_semantics
    assert not compare(fanned(to("Answer") | {"times": 2}), fanned(*twice)).same_semantics


def test_only_the_names_that_a_config_holds_are_looked_up() -> None:
    class Names(dict[str, str]):
        def items(self) -> Any:
            raise AssertionError("each of the names was looked at")

    names = Names({f"n{index}": f"m{index}" for index in range(9)})
    assert N8n.rules.rename(["=$('«n7»')", "=$('«x»')"], names) == ["=$('«m7»')", "=$('«x»')"]


def test_names_of_accounts_are_shown_and_secrets_are_not() -> None:
    token = "sk-abcdefghijklmnop1234"
    found = changed(lambda w: by_id(w, FETCH)["credentials"]["httpBasicAuth"].update(name="Test shop"))
    assert [(c.path, c.old, c.new) for n in found.nodes.changed for c in n.changes] == [
        ("node.accounts.httpBasicAuth.name", "Shop", "Test shop")
    ]

    def leak(value: dict[str, Any]) -> None:
        by_id(value, FETCH)["credentials"] = {"httpBasicAuth": {"user": "a", "word": "hunter2"}}
        by_id(value, MODEL)["name"] = token
        value["name"] = token
        parameters(value, FETCH)["headers"] = {"values": [{"name": "api_key", "value": "correct-horse"}]}

    encoded = msgspec.json.encode(changed(leak))
    assert not any(secret in encoded for secret in (token.encode(), b"hunter2", b"correct-horse"))
    new = workflow()
    leak(new)
    assert token not in inspect(dump(new)).facts["name"]


def test_nodes_with_one_id_or_one_name_are_all_compared() -> None:
    def twins(second: str) -> bytes:
        items = [node("1", "A", "p.a", x=1, value="one"), node("1", "A", "p.a", x=2, value=second)]
        return dump({"nodes": items, "connections": {"A": {"main": [[to("A"), to("Z")]]}}})

    found = compare(twins("two"), twins("three"))
    assert [(n.id, n.changes[0].path) for n in found.nodes.changed] == [("1#2", "value")]
    assert [edge.key for edge in view(json.loads(twins("two"))).edges] == [
        ("1", "main:0", "1", "main:0"),
        ("1", "main:0", "Z", "main:0"),
    ]


@pytest.mark.parametrize(
    ("kind", "mode", "seen"),
    [
        (f"{CHAIN}toolCode", "", True),
        (f"{BASE}httpRequestTool", "", True),
        (f"{CHAIN}vectorStoreInMemory", "retrieve-as-tool", True),
        (f"{CHAIN}vectorStoreInMemory", "retrieve", False),
    ],
)
def test_names_that_a_model_sees_are_meaning(kind: str, mode: str, seen: bool) -> None:
    old, new = (dump({"nodes": [node("1", name, kind, mode=mode)], "connections": {}}) for name in ("a", "b"))
    assert compare(old, new).same_semantics != seen


ODD: list[Any] = [None, 3, "x", [], {}, [None], {"a": None}, [[]], True]


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_odd_values_anywhere_are_compared(odd: Any) -> None:
    base = workflow()
    for key in base:
        if key not in ("nodes", "connections"):
            _compared(base, base | {key: odd})
    for key in base["connections"]:
        _compared(base, base | {"connections": base["connections"] | {key: odd}})
        _compared(base, base | {"connections": base["connections"] | {key: {"main": odd}}})
        _compared(base, base | {"connections": base["connections"] | {key: {"main": [odd]}}})
        _compared(base, base | {"connections": base["connections"] | {key: {"main": [[odd]]}}})
    for index, item in enumerate(base["nodes"]):
        for key in item:
            changed_nodes = copy.deepcopy(base["nodes"])
            changed_nodes[index][key] = odd
            _compared(base, base | {"nodes": changed_nodes})
        for key in item["parameters"]:
            changed_nodes = copy.deepcopy(base["nodes"])
            changed_nodes[index]["parameters"][key] = odd
            _compared(base, base | {"nodes": changed_nodes})


def _compared(old: Any, new: Any) -> None:
    found = compare(dump(old), dump(new))
    assert found.new is not None
    assert found.new.kind == "n8n"
    assert says_something(found) != found.same_value
    msgspec.json.encode(found)
    as_rows(found)


def test_nodes_know_where_they_are_drawn() -> None:
    graph = view(workflow())
    assert [found.at for found in graph.nodes] == [(float(x), 0.0) for x in range(6)]
    assert graph.notes[0].at == (9.0, 0.0)

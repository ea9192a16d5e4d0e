"""LangFlow flows: what they are taken for, what is noise, what changed in words of the flow, what is secret."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from registry.formats import compare, compare_read, inspect, read, without_secrets
from registry.formats.kinds.langflow import LangFlow, LangFlowRules
from registry.formats.model import ModelName, Rematch, Secret
from registry.formats.secrets.masking import HIDDEN
from registry.formats.secrets.redact import PLACEHOLDER
from registry.formats.values.canonical import canonical
from tests.unit.formats.flows import (
    API_KEY,
    INPUT,
    MODEL,
    OUTPUT,
    PROMPT,
    by_id,
    chatflow,
    dumped,
    edited,
    field,
    fields,
    known,
    langflow,
    langflow_edge,
    langflow_node,
    with_ids,
)
from tests.unit.formats.kit import app, changes_meaning, dump, says_something

Edit = Callable[[dict[str, Any]], Any]


def node(value: dict[str, Any], node_id: str) -> dict[str, Any]:
    return by_id(value["data"], node_id)


def component(value: dict[str, Any], node_id: str) -> dict[str, Any]:
    found: dict[str, Any] = node(value, node_id)["data"]["node"]
    return found


def paths(edit: Edit) -> list[tuple[str, str]]:
    return [(c.sign, c.path) for each in edited(langflow(), edit).nodes.changed for c in each.changes]


def flow(*nodes: dict[str, Any]) -> dict[str, Any]:
    return {"data": {"nodes": list(nodes), "edges": []}}


def test_flows_are_known_by_their_templates() -> None:
    facts = {"name": "Kit", "id": langflow()["id"], "version": "1.4.0", "nodes": "4", "edges": "3", "notes": "1"}
    assert inspect(dumped(langflow())).facts == facts
    named = langflow() | {"endpoint_name": "ask"}
    assert inspect(dumped(named)).facts["endpoint"] == "ask"
    assert inspect(dump(langflow())).kind == "langflow"  # as YAML
    assert inspect(dumped({"data": {"nodes": [], "edges": []}, "endpoint_name": None})).kind == "langflow"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("json", {"data": {"nodes": [], "edges": []}}),
        ("json", langflow()["data"]),
        ("json", {"data": [langflow()["data"]], "endpoint_name": "x"}),
        ("json", {"data": {"nodes": [{"id": "a", "data": {"node": {"template": "x"}}}], "edges": []}}),
        ("dify", app()),
        ("dify", {"data": dump(app()).decode()}),
        ("flowise", chatflow()),
    ],
)
def test_other_formats_are_left_alone(kind: str, value: Any) -> None:
    assert not LangFlow().fits(value)
    assert inspect(dumped(value)).kind == kind


NOISE: dict[str, tuple[Edit, str]] = {
    "moved": (lambda a: node(a, INPUT).update(position={"x": 5, "y": 6}), "1 node moved"),
    "resized": (lambda a: node(a, INPUT).update(measured={"width": 1}), "1 item redrawn"),
    "folded": (lambda a: node(a, INPUT)["data"].update(showNode=False), "1 item redrawn"),
    "viewport": (lambda a: a["data"]["viewport"].update(zoom=2), "viewport moved"),
    "order": (lambda a: a["data"]["nodes"].reverse(), "order of nodes"),
    "edge": (lambda a: a["data"]["edges"][0].update(id="x", animated=True), "1 item redrawn"),
    "types": (lambda a: a["data"]["edges"][0]["data"]["sourceHandle"].update(output_types=["X"]), "1 item redrawn"),
    "field": (lambda a: fields(a, MODEL)["model_name"].update(options=[], info="x"), "1 filled-in default differs"),
    "empty field": (lambda a: fields(a, INPUT).update(new={"show": True}), "1 filled-in default differs"),
    "stamp": (
        lambda a: fields(a, INPUT).update(_frontend_node_flow_id={"value": "x"}),
        "1 filled-in default differs",
    ),
    "outputs": (lambda a: component(a, MODEL)["outputs"].clear(), "1 filled-in default differs"),
    "release": (lambda a: component(a, MODEL).update(lf_version="1.5.0"), "1 filled-in default differs"),
    "not frozen": (lambda a: component(a, MODEL).pop("frozen"), "1 filled-in default differs"),
    "saved by": (lambda a: a.update(last_tested_version="1.5.0", id="x"), "2 filled-in defaults differ"),
    "no endpoint": (lambda a: a.pop("endpoint_name"), "1 filled-in default differs"),
    "display name": (lambda a: component(a, MODEL).update(display_name="GPT"), "1 title or description changed"),
    "name": (lambda a: a.update(name="Other", tags=[]), "2 titles or descriptions changed"),
    "note": (lambda a: component(a, "note-eeeee").update(description="x"), "1 note changed"),
    "color": (lambda a: component(a, "note-eeeee").update(template={"backgroundColor": "pink"}), "1 item redrawn"),
}


@pytest.mark.parametrize("name", NOISE)
def test_noise_is_counted_and_changes_nothing(name: str) -> None:
    edit, said = NOISE[name]
    found = edited(langflow(), edit)
    assert found.same_semantics
    assert not found.same_value
    assert found.summary == f"no change in what it does: {said}"
    assert not changes_meaning(found)


def test_order_says_nothing_about_meaning() -> None:
    new = langflow()
    new["data"]["nodes"].reverse()
    new["data"]["edges"].reverse()
    component(new, MODEL)["template"] = dict(reversed(fields(new, MODEL).items()))
    assert inspect(dumped(new)).semantic_digest == inspect(dumped(langflow())).semantic_digest


MEANING: dict[str, tuple[Edit, list[tuple[str, str]]]] = {
    "value": (lambda a: fields(a, MODEL)["temperature"].update(value=1), [("~", "template.temperature")]),
    "code": (lambda a: fields(a, MODEL)["code"].update(value="x"), [("~", "template.code")]),
    "global": (lambda a: fields(a, MODEL)["api_key"].update(value="OTHER"), [("~", "template.api_key")]),
    "no global": (
        lambda a: fields(a, INPUT)["input_value"].update(load_from_db=True),
        [("+", "load_from_db")],
    ),
    "file": (lambda a: fields(a, INPUT)["files"].update(file_path="g"), [("~", "file_path.files")]),
    "type": (lambda a: fields(a, MODEL)["temperature"].update(type="int"), [("~", "input_type.temperature")]),
    "not passed": (lambda a: fields(a, MODEL)["model_name"].update(show=False), [("+", "not_passed")]),
    "passed": (
        lambda a: fields(a, MODEL)["licence"].update(show=False, override_skip=True, value=API_KEY + "2"),
        [("~", "template.licence.value")],
    ),
    "only by edge": (lambda a: fields(a, MODEL)["model_name"].update(type="other"), [("+", "not_passed")]),
    "component": (lambda a: fields(a, PROMPT).pop("template"), [("-", "input_type"), ("-", "template.template")]),
    "frozen": (lambda a: component(a, MODEL).update(frozen=True), [("+", "frozen")]),
    "tool": (lambda a: component(a, MODEL).update(tool_mode=True), [("+", "node"), ("+", "tool_mode")]),
    "unknown": (lambda a: component(a, MODEL).update(brand_new=1), [("+", "node")]),
    "beside": (lambda a: node(a, MODEL)["data"].update(selected_output="x"), [("+", "data")]),
    "outside": (lambda a: node(a, MODEL).update(brand_new=1), [("+", "node.brand_new")]),
    "container": (lambda a: node(a, MODEL).update(parentId="x"), [("+", "node.parentId")]),
}


@pytest.mark.parametrize("name", MEANING)
def test_what_runs_is_meaning(name: str) -> None:
    edit, expected = MEANING[name]
    assert paths(edit) == expected
    assert not edited(langflow(), edit).same_semantics


def test_how_a_flow_is_called_is_meaning() -> None:
    found = edited(langflow(), lambda value: value.update(endpoint_name="ask", webhook=True, brand_new=1))
    assert [change.path for change in found.app] == ["endpoint_name", "webhook"]
    assert [change.path for change in found.changes] == ["brand_new"]


def test_code_is_shown_by_line() -> None:
    edit: Edit = lambda a: fields(a, MODEL)["code"].update(value="class OpenAIModel:\n    x = 1\n")  # noqa: E731
    change = edited(langflow(), edit).nodes.changed[0].changes[0]
    assert change.diff[-2:] == ["-    pass", "+    x = 1"]


def test_rewiring() -> None:
    def edit(value: dict[str, Any]) -> None:
        value["data"]["edges"][1] = langflow_edge(PROMPT, "prompt", MODEL, "input_value")

    found = edited(langflow(), edit)
    assert not found.same_semantics
    assert [edge.target_handle for edge in found.edges.removed] == ["system_message"]
    assert [(edge.source_handle, edge.target_handle) for edge in found.edges.added] == [("prompt", "input_value")]


def test_handles_in_all_spellings() -> None:
    value = langflow()
    plain, spaced, loop, old, odd = (langflow_edge(MODEL, "text_output", OUTPUT, "input_value") for _ in range(5))
    for edge in (plain, spaced):
        del edge["data"]
    spaced["sourceHandle"] = spaced["sourceHandle"].replace("œ:", "œ: ").replace(",œ", ", œ")
    loop["data"]["targetHandle"] = {"dataType": "Loop", "id": OUTPUT, "name": "item", "output_types": []}
    old |= {"data": {}, "sourceHandle": f"OpenAI|{MODEL}|BaseLLM", "targetHandle": f"BaseLLM|llm|{OUTPUT}"}
    odd |= {"data": 7, "sourceHandle": "{œ", "targetHandle": [1]}
    value["data"]["edges"] = [plain, spaced, loop, old, odd]
    ports = [(edge.source_handle, edge.target_handle) for edge in known(value).read.view.edges]
    assert ports == [
        ("text_output", "input_value"),
        ("text_output", "input_value"),
        ("text_output", "item"),
        ("OpenAI|BaseLLM", "BaseLLM|llm"),
        ("{œ", "[1]"),
    ]


def test_ids_that_were_replaced() -> None:
    """An imported flow has new ids, also inside its handles."""
    names = {node_id: f"{node_id[:-5]}zzzzz" for node_id in (INPUT, PROMPT, MODEL, OUTPUT)}
    new = with_ids(langflow(), names)
    found = compare(dumped(langflow()), dumped(new))
    assert [(each.old_id, each.new_id) for each in found.nodes.rematched] == list(names.items())
    assert found.nodes.rematched[0] == Rematch(
        old_id=INPUT, new_id="ChatInput-zzzzz", type="ChatInput", title="ChatInput"
    )
    assert (found.nodes.changed, found.nodes.added, found.nodes.removed) == ([], [], [])
    assert (found.edges.added, found.edges.removed) == ([], [])
    fields(new, names[MODEL])["temperature"]["value"] = 2
    found = compare(dumped(langflow()), dumped(new))
    assert [change.path for change in found.nodes.changed[0].changes] == ["template.temperature"]


def test_places_and_containers() -> None:
    value = langflow()
    node(value, MODEL)["parentId"] = PROMPT
    nodes = {each.id: each for each in known(value).read.view.nodes}
    assert (nodes[MODEL].at, nodes[MODEL].inside, nodes[INPUT].inside) == ((10.0, 20.0), PROMPT, "")
    found = compare(dumped(value), dumped(with_ids(value, {PROMPT: "Prompt-zzzzz"})))
    assert found.nodes.changed == []


def test_models_with_their_provider() -> None:
    found = edited(langflow(), lambda value: fields(value, MODEL)["model_name"].update(value="gpt-4o"))
    assert (found.models[0].old, found.models[0].new) == (
        ModelName(provider="openai", name="gpt-4o-mini"),
        ModelName(provider="openai", name="gpt-4o"),
    )
    assert found.summary == "1 node changed; model gpt-4o-mini -> gpt-4o in 'OpenAIModel'"


CHOSEN = [{"name": "gpt-4o", "provider": "OpenAI", "metadata": {}}]


@pytest.mark.parametrize(
    ("kind", "values", "path", "expected"),
    [
        ("Agent", {"agent_llm": "Anthropic", "model_name": "claude"}, "template.model_name", ("anthropic", "claude")),
        ("Agent", {"agent_llm": "Custom", "model_name": "claude"}, "", None),
        ("LanguageModelComponent", {"provider": "Groq", "model_name": "m"}, "template.model_name", ("groq", "m")),
        ("OpenAIEmbeddings", {"model": "ada"}, "template.model", ("openai", "ada")),
        ("Agent", {"model": CHOSEN}, "template.model[0]", ("openai", "gpt-4o")),
        ("Agent", {"model": [None, {}, {"name": 1}]}, "", None),
        ("ChatInput", {}, "", None),
    ],
)
def test_models_wherever_they_are(kind: str, values: dict[str, Any], path: str, expected: Any) -> None:
    each = known(flow(langflow_node("a", kind, *(field(name, value) for name, value in values.items()))))
    view = each.read.view.nodes[0]
    model = {path: ModelName(provider=expected[0], name=expected[1])} if expected else {}
    assert dict(LangFlowRules().models(view.type, view.config)) == model


def test_secrets_are_the_passwords_that_are_written_down() -> None:
    content = known(langflow())
    path = ("data", "nodes", 2, "data", "node", "template", "licence", "value")
    assert content.format.secrets(content.read) == [Secret(name="OpenAIModel.licence", path=path, value=API_KEY)]
    odd = langflow()
    node(odd, MODEL)["id"] = []
    content = known(odd)
    assert [secret.path for secret in content.format.secrets(content.read)] == [path]
    harmless: list[Any] = ["", None, "{{key}}", PLACEHOLDER, "****", True, {}, []]
    for value in harmless:
        old = langflow()
        fields(old, MODEL)["licence"]["value"] = value
        content = known(old)
        assert content.format.secrets(content.read) == []


def test_a_password_that_is_a_mapping_is_hidden_and_left_out() -> None:
    new = langflow()
    fields(new, MODEL)["licence"]["value"] = {"k": "one-literal", "more": ["", {"b": "another-literal"}], "n": None}
    content = known(new)
    found = content.format.secrets(content.read)
    assert [(secret.path[-1], secret.value) for secret in found] == [("k", "one-literal"), ("b", "another-literal")]
    redacted = without_secrets(content, b"k" * 32).content
    literals = (API_KEY.encode(), b"one-literal", b"another-literal")
    across = compare(dumped(langflow()), dumped(new), kind_new="json")
    texts = [redacted, *map(msgspec.json.encode, (edited(langflow(), lambda a: a.update(new)), across))]
    assert not any(literal in text for text in texts for literal in literals)


@pytest.mark.parametrize("key", ["display_name", "description"])
def test_words_about_a_tool_are_meaning(key: str) -> None:
    """A component in tool mode is offered to the model of an agent under them."""
    for tool_mode in (True, False):
        old, new = langflow(), langflow()
        for value, words in ((old, "one"), (new, "")):
            component(value, MODEL).update({"tool_mode": tool_mode, key: words})
        found = compare(dumped(old), dumped(new))
        assert found.same_semantics != tool_mode
        assert changes_meaning(found) == tool_mode


def group(key: Any) -> dict[str, Any]:
    inner = langflow()
    fields(inner, MODEL)["licence"]["value"] = key
    outer = langflow_node("group-1", "GroupNode")
    outer["data"]["node"]["flow"] = inner
    return flow(outer)


def test_secrets_of_twins_in_lists_and_in_groups() -> None:
    keys = field("keys", ["open sesame", "", "sesame 2"], password=True)
    nodes = [langflow_node(node_id, "Web", copy.deepcopy(keys)) for node_id in ("a", "b")]
    content = known(flow(*nodes))
    named = [(secret.name, secret.value) for secret in content.format.secrets(content.read)]
    assert named == [
        ("Web (a).keys", "open sesame"),
        ("Web (a).keys#2", "sesame 2"),
        ("Web (b).keys", "open sesame"),
        ("Web (b).keys#2", "sesame 2"),
    ]
    nodes[0]["data"]["node"]["template"]["keys"]["value"][0] = "sesame 3"
    assert b"sesame" not in msgspec.json.encode(compare_read(content, known(flow(*nodes))))

    content = known(group(API_KEY))
    (secret,) = content.format.secrets(content.read)
    value: Any = content.read.value
    for key in secret.path:
        value = value[key]
    assert value == secret.value == API_KEY
    text = msgspec.json.encode(compare_read(content, known(group("other literal")))).decode()
    assert HIDDEN in text
    assert API_KEY not in text
    assert "other literal" not in text


def test_groups_are_compared_by_what_is_in_them() -> None:
    old, new = group(""), group("")
    inner = new["data"]["nodes"][0]["data"]["node"]["flow"]
    inner["data"]["nodes"].reverse()
    inner["data"]["viewport"]["zoom"] = 9
    found = compare(dumped(old), dumped(new))
    assert found.same_semantics
    assert found.layout.derived == 1
    fields(inner, MODEL)["temperature"]["value"] = 2
    change = compare(dumped(old), dumped(new)).nodes.changed[0].changes[0]
    assert change.path == f"flow.nodes.{MODEL}.data.template.temperature"


@pytest.mark.parametrize(
    "edit",
    [
        lambda a: fields(a, MODEL)["licence"].update(value="another-literal"),
        lambda a: fields(a, MODEL)["licence"].update(value=""),
        lambda a: fields(a, MODEL).pop("licence"),
        lambda a: component(a, MODEL).update(template={}),
        lambda a: component(a, MODEL).update(template=7),
        lambda a: node(a, MODEL).update(data={"type": "OpenAIModel"}),
        lambda a: a["data"]["nodes"].pop(2),
        lambda a: fields(a, MODEL)["licence"].pop("password"),  # the new side declares nothing
        lambda a: node(a, MODEL).update(id=[]),  # no node any more, and its fields stay what they are
        lambda a: a["data"]["nodes"].append({"data": copy.deepcopy(node(a, MODEL)["data"])}),
    ],
)
def test_passwords_are_hidden_and_seen_to_change(edit: Edit) -> None:
    found = edited(langflow(), edit)
    assert not found.same_semantics
    new = langflow()
    edit(new)
    across = compare(dumped(langflow()), dumped(new), kind_new="json")  # by value, as is a difference of kinds
    for text in map(msgspec.json.encode, (found, across, inspect(dumped(langflow())))):
        assert API_KEY.encode() not in text
        assert b"another-literal" not in text


def test_a_password_that_was_left_out_is_as_if_absent() -> None:
    old = langflow()
    fields(old, MODEL)["licence"]["value"] = ""
    for value in (None, PLACEHOLDER, "****"):
        new = copy.deepcopy(old)
        fields(new, MODEL)["licence"]["value"] = value
        found = compare(dumped(old), dumped(new))
        assert found.same_semantics
        assert found.summary == "no change in what it does: 1 filled-in default differs"


def test_flows_that_it_runs() -> None:
    nodes = [
        langflow_node("a", "RunFlow", field("flow_name_selected", "Ask"), field("flow_id_selected", "id-1")),
        langflow_node("b", "RunFlow", field("flow_name_selected", ""), field("flow_id_selected", "id-2")),
        langflow_node("c", "SubFlow", field("flow_name", "Ask")),
        langflow_node("d", "FlowTool", field("flow_name", None)),
        langflow_node("e", "Prompt", field("flow_name", "not a flow")),
    ]
    content = known(flow(*nodes))
    assert content.format.requires(content.read) == ["langflow:Ask", "langflow:id-2"]


def test_repeated_ids_and_odd_parts_are_kept_apart() -> None:
    value = langflow()
    value["data"]["nodes"] += [copy.deepcopy(node(value, MODEL)), {"id": "x"}, {"data": {}}, None, 7]
    value["data"]["nodes"] += [{"id": "y", "data": {"node": 7}}, {"id": "z", "data": {"type": 7, "node": {}}}]
    value["data"]["edges"] += [{"source": "a"}, None]
    view = known(value).read.view
    assert [each.id for each in view.nodes if each.type == "OpenAIModel"] == [MODEL, f"{MODEL}#2"]
    assert [len(view.rest["data"][key]) for key in ("nodes", "edges")] == [4, 2]
    assert [each.config for each in view.nodes if each.id in "yz"] == [{"data": {"node": 7}}, {"data": {"type": 7}}]


def test_a_named_kind_is_refused_for_something_else() -> None:
    with pytest.raises(Exception, match="not a LangFlow flow"):
        read(b"{}", "langflow")


def test_every_part_of_a_flow_shows() -> None:
    """Whatever is removed, something says so."""
    whole = langflow()

    def parts(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return [found for key, item in items for found in [(*path, key), *parts(item, (*path, key))]]

    for path in parts(whole):
        new = copy.deepcopy(whole)
        holder: Any = new
        for key in path[:-1]:
            holder = holder[key]
        del holder[path[-1]]
        if LangFlow().fits(new):
            found = compare(dumped(whole), dumped(new))
            assert says_something(found), path
            assert changes_meaning(found) != found.same_semantics, path
            assert canonical(new) != canonical(whole)

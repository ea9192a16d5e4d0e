"""Small flows of Flowise and LangFlow to change one thing in."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from registry.formats import Comparison, Known, compare, read

API_KEY = "literal-key-000"  # of no known shape: hidden only because its field is a password

# Flowise -------------------------------------------------------------------------------------------------------------


def flowise_node(node_id: str, name: str, inputs: dict[str, Any], params: Any = (), **data: Any) -> dict[str, Any]:
    """`params`: names of inputs, or (name, type)."""
    pairs = [(param, "string") if isinstance(param, str) else param for param in params]
    kind = name[:1].upper() + name[1:]
    return {
        "id": node_id,
        "type": "customNode",
        "position": {"x": 10, "y": 20},
        "positionAbsolute": {"x": 10, "y": 20},
        "width": 300,
        "height": 400,
        "selected": False,
        "data": {
            "id": node_id,
            "label": kind,
            "name": name,
            "version": 1,
            "type": kind,
            "category": "Chains",
            "baseClasses": [kind, "BaseChain"],
            "description": f"does {name}",
            "inputParams": [
                {"label": each, "name": each, "type": of, "id": f"{node_id}-input-{each}-{of}"} for each, of in pairs
            ],
            "inputAnchors": [],
            "inputs": inputs,
            "outputs": {},
            "outputAnchors": [
                {"id": f"{node_id}-output-{name}-{kind}|BaseChain", "name": name, "label": kind, "type": kind}
            ],
            "selected": False,
        }
        | data,
    }


def flowise_edge(source: str, target: str, source_handle: str, target_handle: str) -> dict[str, Any]:
    return {
        "source": source,
        "sourceHandle": source_handle,
        "target": target,
        "targetHandle": target_handle,
        "type": "buttonedge",
        "id": f"{source}-{source_handle}-{target}-{target_handle}",
        "data": {"label": ""},
    }


def chatflow() -> dict[str, Any]:
    """A model and a memory, both into a chain; and a note."""
    anchors = [
        {"label": "Language Model", "name": "model", "type": "Base", "id": "conversationChain_0-input-model-Base"},
        {"label": "Memory", "name": "memory", "type": "Memory", "id": "conversationChain_0-input-memory-Memory"},
    ]
    wired = {"model": "{{chatOpenAI_0.data.instance}}", "memory": "{{bufferMemory_0.data.instance}}"}
    chain = flowise_node("conversationChain_0", "conversationChain", wired | {"prompt": "Be polite.\nBe short."})
    chain["data"]["inputAnchors"] = anchors
    model = flowise_node(
        "chatOpenAI_0",
        "chatOpenAI",
        {"modelName": "gpt-4o", "temperature": 0.9, "licence": API_KEY},
        ["modelName", "temperature", ("licence", "password")],
    )
    note = flowise_node("stickyNote_0", "stickyNote", {"note": "hello"}) | {"type": "stickyNote"}
    return {
        "description": "a chat",
        "nodes": [model, flowise_node("bufferMemory_0", "bufferMemory", {"memoryKey": "history"}), chain, note],
        "edges": [
            flowise_edge(
                "chatOpenAI_0",
                "conversationChain_0",
                "chatOpenAI_0-output-chatOpenAI-ChatOpenAI|BaseChain",
                "conversationChain_0-input-model-Base",
            ),
            flowise_edge(
                "bufferMemory_0",
                "conversationChain_0",
                "bufferMemory_0-output-bufferMemory-BufferMemory|BaseChain",
                "conversationChain_0-input-memory-Memory",
            ),
        ],
        "viewport": {"x": 0, "y": 0, "zoom": 1},
    }


def agentflow() -> dict[str, Any]:
    """Start, a condition with two ways on, an iteration with a model in it, a loop back."""
    nodes = [
        flowise_node("startAgentflow_0", "startAgentflow", {"startInputType": "chatInput"}),
        flowise_node(
            "conditionAgentAgentflow_0",
            "conditionAgentAgentflow",
            {
                "conditionAgentScenarios": [{"scenario": "wants a refund"}, {"scenario": "just chats"}],
                "conditionAgentModel": "chatAnthropic",
                "conditionAgentModelConfig": {"modelName": "claude-3-7-sonnet-latest", "temperature": 0.9},
            },
        ),
        flowise_node("iterationAgentflow_0", "iterationAgentflow", {"iterationInput": "[1, 2]"})
        | {"type": "iteration"},
        flowise_node(
            "llmAgentflow_0",
            "llmAgentflow",
            {
                "llmUserMessage": '<p><span class="variable" data-type="mention" data-id="conditionAgentAgentflow_0" '
                'data-label="conditionAgentAgentflow_0">{{ conditionAgentAgentflow_0 }}</span></p>'
            },
        )
        | {"parentNode": "iterationAgentflow_0", "extent": "parent"},
        flowise_node(
            "loopAgentflow_0", "loopAgentflow", {"loopBackToNode": "conditionAgentAgentflow_0-Ask", "maxLoopCount": 5}
        ),
    ]
    for node in nodes:
        name, node_id = node["data"]["name"], node["id"]
        node["data"]["outputAnchors"] = [{"id": f"{node_id}-output-{name}", "label": name, "name": name}]
        if node["type"] == "customNode":
            node["type"] = "agentFlow"
    ways = [{"id": f"conditionAgentAgentflow_0-output-{way}", "label": way, "name": way} for way in (0, 1)]
    nodes[1]["data"]["outputAnchors"] = ways
    steps = [
        ("startAgentflow_0", "conditionAgentAgentflow_0", "startAgentflow"),
        ("conditionAgentAgentflow_0", "iterationAgentflow_0", "0"),
        ("conditionAgentAgentflow_0", "loopAgentflow_0", "1"),
    ]
    return {
        "nodes": nodes,
        "edges": [flowise_edge(one, other, f"{one}-output-{port}", other) for one, other, port in steps],
    }


# LangFlow ------------------------------------------------------------------------------------------------------------


def field(name: str, value: Any, kind: str = "str", **more: Any) -> dict[str, Any]:
    about = {"name": name, "display_name": name.title(), "advanced": False, "show": True, "required": False, "info": ""}
    return about | {"type": kind, "value": value, "load_from_db": False} | more


def langflow_node(node_id: str, kind: str, *fields: dict[str, Any], output: str = "message") -> dict[str, Any]:
    return {
        "id": node_id,
        "type": "genericNode",
        "position": {"x": 10, "y": 20},
        "measured": {"width": 320, "height": 200},
        "selected": False,
        "dragging": False,
        "data": {
            "id": node_id,
            "type": kind,
            "showNode": True,
            "node": {
                "display_name": kind,
                "description": f"does {kind}",
                "base_classes": ["Message"],
                "documentation": "",
                "edited": False,
                "frozen": False,
                "lf_version": "1.4.0",
                "outputs": [{"name": output, "types": ["Message"], "method": "run", "value": "__UNDEFINED__"}],
                "template": {"_type": "Component", "code": field("code", f"class {kind}:\n    pass\n", "code")}
                | {each["name"]: each for each in fields},
            },
        },
    }


def langflow_edge(source: str, output: str, target: str, name: str) -> dict[str, Any]:
    left = {"dataType": source.split("-")[0], "id": source, "name": output, "output_types": ["Message"]}
    right = {"fieldName": name, "id": target, "inputTypes": ["Message"], "type": "str"}
    one, other = (json.dumps(handle, separators=(",", ":")).replace('"', "œ") for handle in (left, right))
    return {
        "id": f"reactflow__edge-{source}{one}-{target}{other}",
        "source": source,
        "sourceHandle": one,
        "target": target,
        "targetHandle": other,
        "animated": False,
        "className": "",
        "data": {"sourceHandle": left, "targetHandle": right},
    }


INPUT, PROMPT, MODEL, OUTPUT = "ChatInput-aaaaa", "Prompt-bbbbb", "OpenAIModel-ccccc", "ChatOutput-ddddd"


def langflow() -> dict[str, Any]:
    """Input and prompt into a model, its answer out; and a note."""
    note = {
        "id": "note-eeeee",
        "type": "noteNode",
        "position": {"x": 0, "y": 0},
        "data": {
            "id": "note-eeeee",
            "type": "note",
            "node": {"description": "hello", "display_name": "", "template": {"backgroundColor": "amber"}},
        },
    }
    nodes = [
        langflow_node(INPUT, "ChatInput", field("input_value", "Hi"), field("files", "", "file", file_path="f/a.txt")),
        langflow_node(PROMPT, "Prompt", field("template", "Be polite.\nBe short.", "prompt"), output="prompt"),
        langflow_node(
            MODEL,
            "OpenAIModel",
            field("model_name", "gpt-4o-mini", options=["gpt-4o", "gpt-4o-mini"]),
            field("temperature", 0.1, "slider"),
            field("licence", API_KEY, password=True),
            field("api_key", "OPENAI_API_KEY", password=True, load_from_db=True),
            output="text_output",
        ),
        langflow_node(OUTPUT, "ChatOutput", field("input_value", "")),
        note,
    ]
    return {
        "name": "Kit",
        "id": "1511c230-d446-43a7-bfc3-539e69ce05b8",
        "description": "a chat",
        "endpoint_name": None,
        "is_component": False,
        "last_tested_version": "1.4.0",
        "tags": ["chat"],
        "data": {
            "nodes": nodes,
            "edges": [
                langflow_edge(INPUT, "message", MODEL, "input_value"),
                langflow_edge(PROMPT, "prompt", MODEL, "system_message"),
                langflow_edge(MODEL, "text_output", OUTPUT, "input_value"),
            ],
            "viewport": {"x": 0, "y": 0, "zoom": 1},
        },
    }


def fields(value: dict[str, Any], node_id: str) -> dict[str, Any]:
    """The template of a LangFlow node."""
    found: dict[str, Any] = by_id(value["data"], node_id)["data"]["node"]["template"]
    return found


# Both ----------------------------------------------------------------------------------------------------------------


def by_id(graph: dict[str, Any], node_id: str) -> dict[str, Any]:
    found: dict[str, Any] = next(node for node in graph["nodes"] if node["id"] == node_id)
    return found


def dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def known(value: Any) -> Known:
    return read(dumped(value))


def edited(value: dict[str, Any], edit: Callable[[dict[str, Any]], Any]) -> Comparison:
    """`value` compared with itself after `edit`."""
    new = copy.deepcopy(value)
    edit(new)
    return compare(dumped(value), dumped(new))


def with_ids(value: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The same flow as a copy of it would be: under new ids, wherever they are written."""
    text = json.dumps(value, ensure_ascii=False)
    for old, new in names.items():
        text = text.replace(old, new)
    renamed: dict[str, Any] = json.loads(text)
    return renamed

"""ComfyUI workflows in both forms: links by name, models by file, subgraphs, and what is noise."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from registry.formats import Comparison, compare, inspect
from registry.formats.kinds.comfyui import ComfyUI
from registry.formats.kinds.comfyui.view import view_api, view_ui
from registry.formats.model import DependencyChange, ModelName
from tests.unit.formats.kit import as_rows, changes_meaning, says_something

Edit = Callable[[dict[str, Any]], Any]

LOADER, POSITIVE, SAMPLER, PREVIEW, REMARK = 4, 6, 3, 9, 12


def node(node_id: int, kind: str, *widgets: Any, inputs: Any = (), outputs: Any = (), **more: Any) -> dict[str, Any]:
    return {
        "id": node_id,
        "type": kind,
        "pos": [node_id * 10, 0],
        "size": [200, 100],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [{"name": name, "type": "*", "link": link} for name, link in inputs],
        "outputs": [{"name": name, "type": "*", "links": links, "slot_index": 0} for name, links in outputs],
        "properties": {"Node name for S&R": kind, "cnr_id": "comfy-core", "ver": "0.3.40"},
        "widgets_values": list(widgets),
        **more,
    }


def ui() -> dict[str, Any]:
    """loader -> prompt -> sampler -> preview, with a note and a group."""
    return {
        "id": "w-1",
        "revision": 0,
        "last_node_id": 12,
        "last_link_id": 4,
        "nodes": [
            node(LOADER, "CheckpointLoaderSimple", "dream.safetensors", outputs=[("MODEL", [1]), ("CLIP", [2])]),
            node(POSITIVE, "CLIPTextEncode", "a cat", inputs=[("clip", 2)], outputs=[("CONDITIONING", [3])]),
            node(
                SAMPLER,
                "KSampler",
                *(42, "fixed", 20, 8, "euler"),
                inputs=[("model", 1), ("positive", 3), ("negative", None)],
                outputs=[("LATENT", [4])],
            ),
            node(PREVIEW, "PreviewImage", inputs=[("images", 4)]),
            node(REMARK, "Note", "hello"),
        ],
        "links": [
            [1, LOADER, 0, SAMPLER, 0, "MODEL"],
            [2, LOADER, 1, POSITIVE, 0, "CLIP"],
            [3, POSITIVE, 0, SAMPLER, 1, "CONDITIONING"],
            [4, SAMPLER, 0, PREVIEW, 0, "IMAGE"],
        ],
        "groups": [{"id": 1, "title": "Sampling", "bounding": [5, 6, 70, 80], "color": "#333"}],
        "config": {},
        "extra": {"ds": {"scale": 1, "offset": [0, 0]}, "frontendVersion": "1.2"},
        "version": 0.4,
    }


def api() -> dict[str, Any]:
    return {
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "dream.safetensors"}},
        "6": {
            "class_type": "CLIPTextEncode",
            "inputs": {"text": "a cat", "clip": ["4", 1]},
            "_meta": {"title": "Positive"},
        },
        "3": {
            "class_type": "KSampler",
            "inputs": {"seed": 42, "steps": 20, "model": ["4", 0], "positive": ["6", 0]},
            "_meta": {"title": "KSampler"},
        },
    }


def by_id(value: dict[str, Any], node_id: int) -> dict[str, Any]:
    found: dict[str, Any] = next(item for item in value["nodes"] if item["id"] == node_id)
    return found


def inner(value: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = value["definitions"]["subgraphs"][0]
    return found


def with_subgraph() -> dict[str, Any]:
    """The workflow with an upscaler of two nodes in a subgraph, between sampler and preview."""
    value = ui()
    value["nodes"].append(node(20, "s-1", inputs=[("in", 5)], outputs=[("out", [4])]))
    value["links"][3] = [4, 20, 0, PREVIEW, 0, "IMAGE"]
    value["links"].append([5, SAMPLER, 0, 20, 0, "IMAGE"])
    slot = {"id": "slot-1", "name": "in", "type": "IMAGE", "linkIds": [1], "pos": [0, 0]}
    ends = {"origin_slot": 0, "target_slot": 0, "type": "*"}
    subgraph = {
        "id": "s-1",
        "name": "Upscale",
        "version": 1,
        "revision": 0,
        "state": {"lastNodeId": 2},
        "config": {},
        "inputNode": {"id": -10, "bounding": [0, 0, 1, 1]},
        "outputNode": {"id": -20, "bounding": [9, 0, 1, 1]},
        "inputs": [slot],
        "outputs": [slot | {"id": "slot-2", "name": "out", "linkIds": [3]}],
        "widgets": [],
        "nodes": [
            node(1, "UpscaleModelLoader", "x4.pth", outputs=[("UPSCALE_MODEL", [2])]),
            node(2, "ImageUpscale", inputs=[("image", 1), ("model", 2)], outputs=[("IMAGE", [3])]),
        ],
        "links": [
            {"id": 1, "origin_id": -10, "target_id": 2, **ends},
            {"id": 2, "origin_id": 1, "target_id": 2, **ends, "target_slot": 1},
            {"id": 3, "origin_id": 2, "target_id": -20, **ends},
        ],
        "groups": [],
        "extra": {},
    }
    return value | {"definitions": {"subgraphs": [subgraph]}}


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def changed(edit: Edit, base: Callable[[], dict[str, Any]] = ui) -> Comparison:
    new = base()
    edit(new)
    return compare(dump(base()), dump(new))


def test_both_forms_are_detected_and_described() -> None:
    found = inspect(dump(ui() | {"extra": {"info": {"name": "Cats"}}}))
    assert found.kind == "comfyui"
    assert found.facts == {"nodes": "4", "edges": "4", "form": "ui", "name": "Cats", "notes": "2", "plugins": "1"}
    found = inspect(dump(api()))
    assert found.kind == "comfyui"
    assert found.facts == {"nodes": "3", "edges": "3", "form": "api"}
    assert inspect(dump(with_subgraph())).facts["subgraphs"] == "1"


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"nodes": [], "links": []},
        {"nodes": [{"id": 1, "type": "x"}], "links": [{"source": 1, "target": 2}]},
        {"nodes": [{"id": "1", "type": "customNode", "position": {"x": 0, "y": 0}, "data": {}}], "edges": []},
        {"1": {"class_type": "A", "inputs": {}}, "2": {"class_type": "A"}},
        {"1": {"class_type": "A", "inputs": []}},
        {"prompt": api()},
        [api()],
    ],
)
def test_others_json_is_left_alone(value: Any) -> None:
    assert inspect(dump(value)).kind == "json"


def test_an_empty_canvas_is_a_workflow() -> None:
    assert inspect(dump(ui() | {"nodes": [], "links": []})).kind == "comfyui"


def _renumbered(value: dict[str, Any]) -> None:
    for item in value["nodes"]:
        for slot in item["inputs"]:
            slot["link"] = slot["link"] and slot["link"] + 50
        for slot in item["outputs"]:
            slot["links"] = [link + 50 for link in slot["links"]]
    for link in value["links"]:
        link[0] += 50


def _more_slots(value: dict[str, Any]) -> None:
    """A newer editor lists widgets as inputs, which shifts the numbers of slots."""
    by_id(value, SAMPLER)["inputs"].insert(0, {"name": "seed", "type": "INT", "widget": {"name": "seed"}, "link": None})
    value["links"][0][4], value["links"][2][4] = 1, 2


def _links_as_mappings(value: dict[str, Any]) -> None:
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    value["links"] = [dict(zip(keys, link, strict=True)) for link in value["links"]]


NOISE: dict[str, tuple[Edit, str]] = {
    "moved": (lambda w: by_id(w, SAMPLER).update(pos=[1, 2]), "1 node moved"),
    "position as mapping": (lambda w: by_id(w, SAMPLER).update(pos={"0": 30, "1": 0}), "1 item redrawn"),
    "size": (lambda w: by_id(w, SAMPLER).update(size=[1, 2], flags={"collapsed": True}), "1 item redrawn"),
    "colour": (lambda w: by_id(w, SAMPLER).update(color="#222", bgcolor="#333"), "1 item redrawn"),
    "order": (lambda w: by_id(w, SAMPLER).update(order=7), "1 item redrawn"),
    "mode": (lambda w: by_id(w, SAMPLER).pop("mode"), "1 filled-in default differs"),
    "node order": (lambda w: w["nodes"].reverse(), "order of nodes"),
    "link order": (lambda w: w["links"].reverse(), "order of edges"),
    "link numbers": (_renumbered, "8 items redrawn"),
    "more slots": (_more_slots, "3 items redrawn, 1 filled-in default differs"),
    "links as mappings": (_links_as_mappings, "4 items redrawn"),
    "link type": (lambda w: w["links"][0].__setitem__(5, "*"), "1 item redrawn"),
    "slot label": (
        lambda w: by_id(w, SAMPLER)["outputs"][0].update(label="out"),
        "1 filled-in default differs",
    ),
    "counters": (lambda w: w.update(last_node_id=99, last_link_id=98), "2 filled-in defaults differ"),
    "workflow id": (lambda w: w.update(id="w-2", revision=3), "2 filled-in defaults differ"),
    "viewport": (lambda w: w["extra"]["ds"].update(scale=2), "viewport moved"),
    "editor": (lambda w: w["extra"].update(frontendVersion="1.3"), "1 filled-in default differs"),
    "no subgraphs": (lambda w: w.update(definitions={"subgraphs": []}), "1 filled-in default differs"),
    "no groups": (lambda w: w.update(groups=[]), "1 note changed, 1 filled-in default differs"),
    "title": (lambda w: by_id(w, SAMPLER).update(title="Sample"), "1 title or description changed"),
    "note": (lambda w: by_id(w, REMARK).update(widgets_values=["bye"]), "1 note changed"),
    "group": (lambda w: w["groups"][0].update(title="Other"), "1 note changed"),
    "group size": (lambda w: w["groups"][0].update(bounding=[1, 2, 3, 4]), "1 item redrawn"),
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
    "widget": (lambda w: by_id(w, SAMPLER)["widgets_values"].__setitem__(2, 30), "1 node changed"),
    "prompt": (lambda w: by_id(w, POSITIVE).update(widgets_values=["a dog"]), "1 node changed"),
    "muted": (lambda w: by_id(w, SAMPLER).update(mode=2), "1 node changed"),
    "bypassed": (lambda w: by_id(w, SAMPLER).update(mode=4), "1 node changed"),
    "property": (lambda w: by_id(w, SAMPLER)["properties"].update(matchTitle="x"), "1 node changed"),
    "unknown node field": (lambda w: by_id(w, SAMPLER).update(brand_new=1), "1 node changed"),
    "model": (
        lambda w: by_id(w, LOADER).update(widgets_values=["real.safetensors"]),
        "1 node changed; model dream.safetensors -> real.safetensors in 'CheckpointLoaderSimple'",
    ),
    "link gone": (lambda w: w["links"].pop(), "1 edge removed"),
    "other output": (lambda w: w["links"][0].__setitem__(2, 1), "1 edge added, 1 removed"),
    "pack version": (
        lambda w: [item["properties"].update(ver="0.3.41") for item in w["nodes"]],
        "plugin comfy-core 0.3.40 -> 0.3.41",
    ),
    "other pack": (
        lambda w: by_id(w, SAMPLER)["properties"].update(cnr_id="fork"),
        "1 node changed; plugin fork added",
    ),
    "schema": (lambda w: w.update(version=1), "version 0.4 -> 1"),
    "extra": (lambda w: w["extra"].update(groupNodes={"x": {}}), "1 setting changed"),
    "model files": (lambda w: w.update(models=[{"name": "a", "url": "b"}]), "1 setting changed"),
    "odd node": (lambda w: w["nodes"].append("no node"), "1 setting changed"),
    "odd link": (lambda w: w["links"].append([1, 2]), "1 setting changed"),
}


@pytest.mark.parametrize("name", MEANING)
def test_what_a_workflow_does_is_in_the_semantic_digest_and_the_summary(name: str) -> None:
    edit, said = MEANING[name]
    found = changed(edit)
    assert not found.same_value
    assert not found.same_semantics
    assert changes_meaning(found)
    assert found.summary.startswith(said), found.summary


def test_links_go_to_named_inputs_and_from_named_outputs() -> None:
    edges = compare(dump(ui() | {"links": []}), dump(ui())).edges.added
    assert [(e.source_title, e.branch, e.target_title, e.target_handle) for e in edges] == [
        ("CheckpointLoaderSimple", "MODEL", "KSampler", "model"),
        ("CheckpointLoaderSimple", "CLIP", "CLIPTextEncode", "clip"),
        ("CLIPTextEncode", "", "KSampler", "positive"),
        ("KSampler", "", "PreviewImage", "images"),
    ]


def test_a_link_to_another_input_is_another_link() -> None:
    def edit(value: dict[str, Any]) -> None:
        slots = by_id(value, SAMPLER)["inputs"]
        slots[1]["link"], slots[2]["link"] = None, 3
        value["links"][2][4] = 2

    edges = changed(edit).edges
    assert [e.target_handle for e in edges.removed + edges.added] == ["positive", "negative"]


def test_an_input_says_which_link_it_has() -> None:
    """Where the number in the link is another one, the editor goes by the input."""
    found = changed(lambda w: w["links"][2].__setitem__(4, 2))
    assert found.summary == "no change in what it does: 1 item redrawn"


def test_inputs_of_one_name_are_told_apart_by_number() -> None:
    def value(first: int, second: int) -> bytes:
        source = node(1, "A", outputs=[("a", [1]), ("b", [2])])
        target = node(2, "B", inputs=[("x", first), ("x", second)])
        links = [[first, 1, 0, 2, 0, "*"], [second, 1, 1, 2, 1, "*"]]
        return dump({"nodes": [source, target], "links": links, "last_node_id": 2})

    assert compare(value(1, 2), value(3, 4)).same_semantics
    edges = compare(value(1, 2), value(1, 2).replace(b"[1, 1, 0,", b"[1, 1, 1,")).edges
    assert [(e.source_handle, e.target_handle) for e in edges.added] == [("1", "0")]


def test_numbers_of_nodes_made_anew_are_recognised() -> None:
    new = ui()
    for item in new["nodes"]:
        item["id"] += 100
    for link in new["links"]:
        link[1], link[3] = link[1] + 100, link[3] + 100
    found = compare(dump(ui()), dump(new))
    assert len(found.nodes.rematched) == 4
    assert (found.nodes.added, found.nodes.changed, found.edges.added) == ([], [], [])


def test_a_subgraph_is_compared_by_its_nodes() -> None:
    def edit(value: dict[str, Any]) -> None:
        subgraph = inner(value)
        subgraph["nodes"][0]["widgets_values"] = ["x8.pth"]
        subgraph["links"][0]["target_slot"] = 1
        subgraph["nodes"][1]["inputs"][0]["link"] = None
        del subgraph["links"][1]

    found = changed(edit, with_subgraph)
    assert found.summary == ("1 node changed; model x4.pth -> x8.pth in 'UpscaleModelLoader'; 1 edge added, 2 removed")
    assert [(n.id, n.type) for n in found.nodes.changed] == [("subgraph s-1/1", "UpscaleModelLoader")]
    (edge,) = found.edges.added
    assert (edge.source_title, edge.branch, edge.target, edge.target_handle) == (
        "Upscale",
        "",
        "subgraph s-1/2",
        "model",
    )


def test_a_subgraph_is_noise_where_a_graph_is() -> None:
    def edit(value: dict[str, Any]) -> None:
        subgraph = inner(value)
        subgraph["nodes"][0]["pos"] = [7, 7]
        subgraph["inputNode"]["bounding"] = [7, 7, 7, 7]
        subgraph["inputs"][0].update(pos=[7, 7], label="image")
        subgraph["state"]["lastNodeId"] = 9
        subgraph["nodes"].reverse()
        subgraph["name"] = "Bigger"

    found = changed(edit, with_subgraph)
    assert found.same_semantics
    assert says_something(found)
    assert not changes_meaning(found)


@pytest.mark.parametrize(
    "edit",
    [
        lambda s: s["inputs"][0].update(name="image"),
        lambda s: s["outputs"].clear(),
        lambda s: s["links"][2].update(origin_id=1),
        lambda s: s.update(widgets=[{"id": "1", "name": "model_name"}]),
        lambda s: s["extra"].update(brand_new=1),
        lambda s: s["nodes"].append(3),
        lambda s: s.update(definitions={"subgraphs": [dict(s, id="s-2")]}),
    ],
)
def test_what_a_subgraph_does_is_meaning(edit: Edit) -> None:
    found = changed(lambda w: edit(inner(w)), with_subgraph)
    assert not found.same_semantics
    assert changes_meaning(found)


def test_nodes_of_a_subgraph_are_drawn_inside_it_and_called_like_it() -> None:
    graph = view_ui(with_subgraph())
    placed = {found.id: (found.inside, found.at, found.title) for found in graph.nodes}
    assert placed["20"] == ("", (200.0, 0.0), "Upscale")
    assert placed["subgraph s-1/2"] == ("subgraph s-1", (20.0, 0.0), "ImageUpscale")
    assert [found.at for found in graph.notes] == [(120.0, 0.0), (5.0, 6.0)]


def test_subgraphs_of_one_id_are_both_compared() -> None:
    def twins(file: str) -> bytes:
        value = with_subgraph()
        twin = copy.deepcopy(inner(value))
        twin["nodes"][0]["widgets_values"] = [file]
        value["definitions"]["subgraphs"].append(twin)
        return dump(value)

    found = compare(twins("a.pth"), twins("b.pth"))
    assert [node.id for node in found.nodes.changed] == ["subgraph s-1#2/1"]


API_MEANING: dict[str, tuple[Edit, str]] = {
    "input": (lambda w: w["3"]["inputs"].update(steps=30), "1 node changed"),
    "link": (lambda w: w["3"]["inputs"].update(positive=["4", 0]), "1 edge added, 1 removed"),
    "output": (lambda w: w["6"]["inputs"].update(clip=["4", 2]), "1 edge added, 1 removed"),
    "to nowhere": (lambda w: w["6"]["inputs"].update(clip=["99", 1]), "1 edge added, 1 removed"),
    "unlinked": (lambda w: w["3"]["inputs"].update(model=[4, 0]), "1 node changed; 1 edge removed"),
    "unknown field": (lambda w: w["3"].update(is_changed=["x"]), "1 node changed"),
    "node": (lambda w: w.update({"7": {"class_type": "X", "inputs": {}}}), "1 node added"),
    "model": (
        lambda w: w["4"]["inputs"].update(ckpt_name="real"),
        "1 node changed; model dream.safetensors -> real in 'CheckpointLoaderSimple'",
    ),
}


@pytest.mark.parametrize("name", API_MEANING)
def test_what_the_api_form_does_is_meaning(name: str) -> None:
    edit, said = API_MEANING[name]
    found = changed(edit, api)
    assert not found.same_semantics
    assert changes_meaning(found)
    assert found.summary.startswith(said), found.summary


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda w: w["6"]["_meta"].update(title="Prompt"), "1 title or description changed"),
        (lambda w: w["6"].pop("_meta"), "1 title or description changed"),
        (lambda w: w["4"].update(_meta={}), "1 filled-in default differs"),
    ],
)
def test_titles_of_the_api_form_are_text(edit: Edit, said: str) -> None:
    found = changed(edit, api)
    assert found.same_semantics
    assert found.summary == f"no change in what it does: {said}"


def test_the_two_forms_of_a_workflow_are_compared() -> None:
    found = compare(dump(ui()), dump(api()))
    assert [(c.path, c.old, c.new) for c in found.app] == [("form", "ui", "api"), ("version", 0.4, None)]
    assert not found.same_semantics


MODELS = [
    ("LoraLoader", {"widgets_values": ["a.safetensors", 1, 1]}, [("widgets_values[0]", "lora", "a.safetensors")]),
    (
        "DualCLIPLoader",
        {"widgets_values": ["a.sft", "b.gguf", "flux"]},
        [("widgets_values[0]", "text encoder", "a.sft"), ("widgets_values[1]", "text encoder", "b.gguf")],
    ),
    ("VAELoader", {"widgets_values": ["taesd"]}, [("widgets_values[0]", "vae", "taesd")]),
    (
        "Power Lora Loader",
        {"widgets_values": [{}, {"on": True, "lora": "dir\\b.safetensors"}]},
        [("widgets_values[1].lora", "file", "dir\\b.safetensors")],
    ),
    ("Detector", {"widgets_values": {"name": "face.ONNX"}}, [("widgets_values.name", "file", "face.ONNX")]),
    ("Loader", {"clip_name2": "t5"}, [("clip_name2", "text encoder", "t5")]),
    ("LoraLoader", {"lora_name": "None"}, []),
    ("CLIPTextEncode", {"text": "a cat\nlike in cat.pt"}, []),
    ("SaveImage", {"widgets_values": ["out.png"]}, []),
    ("", None, []),
]


@pytest.mark.parametrize(("kind", "config", "expected"), MODELS)
def test_models_are_found(kind: str, config: Any, expected: list[tuple[str, str, str]]) -> None:
    assert list(ComfyUI.rules.models(kind, config)) == [
        (path, ModelName(provider=provider, name=name)) for path, provider, name in expected
    ]


def test_a_changed_model_is_shown_once() -> None:
    found = changed(lambda w: by_id(w, LOADER).update(widgets_values=["real.safetensors"]))
    assert [row.what for row in as_rows(found) if row.what != "verdict"] == ["model"]


def test_packs_are_dependencies() -> None:
    def edit(value: dict[str, Any]) -> None:
        by_id(value, POSITIVE)["properties"] = {"aux_id": "someone/pack", "ver": "abc123"}
        value["extra"]["node_versions"] = {"old-pack": "1.0"}

    assert changed(edit).dependencies == [
        DependencyChange(name="old-pack", sign="+", new="1.0"),
        DependencyChange(name="someone/pack", sign="+", new="abc123"),
    ]


def test_versions_of_a_pack_that_nodes_swapped_are_noise() -> None:
    def value(first: str, second: str) -> bytes:
        new = ui()
        for node_id, version in ((LOADER, first), (SAMPLER, second)):
            by_id(new, node_id)["properties"]["ver"] = version
        return dump(new)

    assert compare(value("1", "2"), value("2", "1")).summary == (
        "no change in what it does: 2 filled-in defaults differ"
    )


def test_previews_of_the_last_run_are_noise() -> None:
    def value(preview: str) -> bytes:
        widgets = {"rate": 8, "videopreview": {"params": {"filename": preview}}}
        return dump(ui() | {"nodes": [node(1, "VideoCombine") | {"widgets_values": widgets}], "links": []})

    assert compare(value("a.mp4"), value("b.mp4")).summary == "no change in what it does: 1 filled-in default differs"


def test_tokens_do_not_show() -> None:
    token = "sk-abcdefghijklmnop1234"

    def edit(value: dict[str, Any]) -> None:
        by_id(value, SAMPLER).update(title=token, widgets_values=[token])
        value["extra"]["info"] = {"name": token}
        value["nodes"].append(node(50, token, f"{token}.safetensors"))
        value["links"].append([9, SAMPLER, 0, 50, 0, "*"])

    assert token.encode() not in msgspec.json.encode(changed(edit))
    new = ui()
    edit(new)
    assert token not in str(inspect(dump(new)).facts)


ODD: list[Any] = [None, 3, -1, "x", [], {}, [None], {"id": None}, [[]], True]


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_odd_values_anywhere_are_compared(odd: Any) -> None:
    base = with_subgraph()
    for key in base:
        if key not in ("nodes", "links"):
            _compared(base, base | {key: odd})
    for path in (["nodes"], ["definitions", "subgraphs", 0, "nodes"]):
        items: Any = base
        for step in path:
            items = items[step]
        for index, item in enumerate(items):
            for key in item:
                _compared(base, _set(base, [*path, index, key], odd))
            for key in ("inputs", "outputs"):
                for slot in range(len(item[key])):
                    _compared(base, _set(base, [*path, index, key, slot], odd))
                    _compared(base, _set(base, [*path, index, key, slot, "name"], odd))
    for key in inner(base):
        _compared(base, _set(base, ["definitions", "subgraphs", 0, key], odd))
    for place in range(6):
        _compared(base, _set(base, ["links", 0, place], odd))
    for key in inner(base)["links"][0]:
        _compared(base, _set(base, ["definitions", "subgraphs", 0, "links", 0, key], odd))
    for node_id, field in (("3", "_meta"), ("3", "extra")):
        _compared(api(), _set(api(), [node_id, field], odd))


def _set(base: Any, path: list[Any], odd: Any) -> Any:
    value = copy.deepcopy(base)
    at = value
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = odd
    return value


def _compared(old: Any, new: Any) -> None:
    found = compare(dump(old), dump(new))
    assert found.new is not None
    assert found.new.kind == "comfyui"
    assert says_something(found) != found.same_value
    msgspec.json.encode(found)
    as_rows(found)


def test_the_api_form_is_read_in_one_order() -> None:
    """Keys of a mapping have none: what is drawn and listed does not depend on it."""
    value = api() | {"10": {"class_type": "X", "inputs": {}}}
    turned = dict(reversed(list(value.items())))
    assert [found.id for found in view_api(turned).nodes] == ["3", "4", "6", "10"]
    assert inspect(dump(turned)).semantic_digest == inspect(dump(value)).semantic_digest

"""ComfyUI workflows: the form that its editor saves (fact `form` = ui) and the one that its server runs (api)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from registry.formats.graph.format import GraphFormat
from registry.formats.graph.model import Graph, Node
from registry.formats.graph.rules import Rules
from registry.formats.kinds.comfyui.view import is_api, is_ui, view_api, view_ui
from registry.formats.limits import MODEL_FILE_CHARS
from registry.formats.model import ModelName
from registry.formats.secrets.masking import short
from registry.formats.values.compare import join

_ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".gguf", ".onnx", ".sft")
_BY_FIELD = {
    "ckpt_name": "checkpoint",
    "lora_name": "lora",
    "unet_name": "diffusion model",
    "vae_name": "vae",
    "control_net_name": "controlnet",
    "style_model_name": "style model",
    "gligen_name": "gligen",
    "hypernetwork_name": "hypernetwork",
    "ipadapter_file": "ip-adapter",
    "model_name": "model",
} | {f"clip_name{number}": "text encoder" for number in ("", 1, 2, 3, 4)}
_BY_TYPE = {
    "CheckpointLoader": "checkpoint",
    "CheckpointLoaderSimple": "checkpoint",
    "ImageOnlyCheckpointLoader": "checkpoint",
    "unCLIPCheckpointLoader": "checkpoint",
    "LoraLoader": "lora",
    "LoraLoaderModelOnly": "lora",
    "UNETLoader": "diffusion model",
    "UnetLoaderGGUF": "diffusion model",
    "CLIPLoader": "text encoder",
    "DualCLIPLoader": "text encoder",
    "TripleCLIPLoader": "text encoder",
    "QuadrupleCLIPLoader": "text encoder",
    "CLIPVisionLoader": "vision encoder",
    "VAELoader": "vae",
    "ControlNetLoader": "controlnet",
    "DiffControlNetLoader": "controlnet",
    "StyleModelLoader": "style model",
    "GLIGENLoader": "gligen",
    "HypernetworkLoader": "hypernetwork",
    "UpscaleModelLoader": "upscaler",
}


class ComfyUIRules(Rules):
    def branch(self, source: Node | None, handle: str) -> str:
        """The name of the output. The API form does not tell it."""
        slots = source.config.get("inputs") if source and source.type == "subgraph" else None
        if source and slots is None:
            slots = source.derived.get("outputs")
        if not isinstance(slots, list):
            return "" if handle == "0" else short(f"output {handle}")
        if len(slots) < 2 and handle == "0":
            return ""
        slot = slots[int(handle)] if handle.isdecimal() and int(handle) < len(slots) else None
        name = slot.get("name") if isinstance(slot, dict) else None
        return short(name) if isinstance(name, str) and name else short(f"output {handle}")

    def models(self, node_type: str, config: Any) -> Iterator[tuple[str, ModelName]]:
        """Files of models, by what they are: `checkpoint`, `lora`; `file` where neither node nor field tells."""
        role = _BY_TYPE.get(node_type, "")
        for path, key, text in _texts(config, "", ""):
            known = bool(_BY_FIELD.get(key)) or (role != "" and path == "widgets_values[0]")
            if (known and text not in ("", "None")) or _is_file(text):
                yield path, ModelName(provider=role or _BY_FIELD.get(key, "file"), name=short(text))


class ComfyUI(GraphFormat):
    kind = "comfyui"
    called = "a ComfyUI workflow"
    rules = ComfyUIRules()

    def fits(self, value: Any) -> bool:
        return is_api(value) or is_ui(value)

    def view(self, value: Any) -> Graph:
        return view_api(value) if is_api(value) else view_ui(value)

    def facts(self, value: Any, graph: Graph) -> dict[str, Any]:
        info = graph.text.get("info")
        subgraphs = sum(node.type == "subgraph" for node in graph.nodes)
        return {
            "form": graph.app["form"],
            "name": info.get("name") if isinstance(info, dict) else None,
            "notes": len(graph.notes) or None,
            "plugins": len(graph.dependencies) or None,
            "subgraphs": subgraphs or None,
        }


def _texts(value: Any, path: str, key: str) -> Iterator[tuple[str, str, str]]:
    """Every text below, with its path and its key."""
    if isinstance(value, str):
        yield path, key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, join(path, name), name)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, f"{path}[{index}]", "")


def _is_file(text: str) -> bool:
    return len(text) <= MODEL_FILE_CHARS and "\n" not in text and text.lower().endswith(_ENDINGS)

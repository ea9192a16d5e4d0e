"""Every kind of content. Adding one: a file, or a package, with a `model.Format`, and a line in FORMATS."""

from __future__ import annotations

from registry.formats.kinds.comfyui import ComfyUI
from registry.formats.kinds.data import Json, Toml, Yaml
from registry.formats.kinds.dify import Dify
from registry.formats.kinds.flowise import Flowise
from registry.formats.kinds.langflow import LangFlow
from registry.formats.kinds.n8n import N8n
from registry.formats.kinds.text import Binary, Text
from registry.formats.model import Format

# In order of detection: the first that knows the content takes it.
FORMATS: tuple[Format, ...] = (
    Binary(),
    Dify(),
    LangFlow(),
    Flowise(),
    N8n(),
    ComfyUI(),
    Json(),
    Toml(),
    Yaml(),
    Text(),
)
KINDS: tuple[str, ...] = tuple(sorted(known.kind for known in FORMATS))

"""ComfyUI workflows, in both forms."""

from __future__ import annotations

from registry.formats.kinds.comfyui.adapter import ComfyUI

__all__ = ["ComfyUI"]

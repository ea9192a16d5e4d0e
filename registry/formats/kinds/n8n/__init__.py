"""n8n workflows."""

from __future__ import annotations

from registry.formats.kinds.n8n.adapter import N8n

__all__ = ["N8n"]

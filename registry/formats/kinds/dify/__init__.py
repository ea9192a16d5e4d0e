"""Dify's DSL, 0.1 to 0.7."""

from __future__ import annotations

from registry.formats.kinds.dify.adapter import Dify

__all__ = ["Dify"]

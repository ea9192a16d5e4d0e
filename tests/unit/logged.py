"""What a module logs, whatever other tests have configured."""

from __future__ import annotations

from collections.abc import MutableMapping
from types import ModuleType
from typing import Any

import pytest
import structlog


def logged(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[MutableMapping[str, Any]]:
    """The events of `module.log` from now on."""
    capture = structlog.testing.LogCapture()
    log = structlog.wrap_logger(None, processors=[capture], wrapper_class=structlog.make_filtering_bound_logger(0))
    monkeypatch.setattr(module, "log", log)
    return capture.entries


def said(entries: list[MutableMapping[str, Any]], text: str) -> int:
    """How many of them hold a text."""
    return sum(text in str(entry["event"]) for entry in entries)

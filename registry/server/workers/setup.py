"""What a worker is told of its member's configuration."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

from msgspec import json

from registry.server.config import Config

EXIT_START = 1  # of a worker that cannot start, however often it is tried
RELEASE = metadata.version("workflow-registry")


def encode_config(config: Config) -> bytes:
    return json.encode(config, enc_hook=str)


def decode_config(data: bytes) -> Config:
    return json.decode(data, type=Config, dec_hook=_path)


def _path(kind: type, value: Any) -> Path:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(f"a field of type {kind}")

"""Content, decoded and parsed once however many formats look at it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from registry.core.errors import Invalid
from registry.formats.reading.parse import Parsed, read_json, read_toml, refuse
from registry.formats.reading.yaml_reader import read_yaml

BOM = "\ufeff"


class Document:
    def __init__(self, content: bytes) -> None:
        self.content = content

    @cached_property
    def raw_text(self) -> str | None:
        """The bytes as UTF-8, a byte order mark kept. None: binary."""
        if b"\0" in self.content:
            return None
        try:
            return self.content.decode()
        except UnicodeDecodeError:
            return None

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        text = self.raw_text or ""
        return ("begins with a byte order mark",) if text.startswith(BOM) else ()

    def text(self) -> str:
        """Text without byte order mark. Raises Invalid for binary content."""
        if self.raw_text is None:
            refuse(f"not text: {_why_binary(self.content)}", hint="publish it with kind binary to store it as it is")
        return self.raw_text.removeprefix(BOM)

    def json(self) -> Parsed:
        """Raises Invalid, as yaml() and toml() do."""
        return self._once("json", read_json)

    def yaml(self) -> Parsed:
        return self._once("yaml", read_yaml)

    def toml(self) -> Parsed:
        return self._once("toml", read_toml)

    def tree(self) -> Parsed:
        """JSON if it looks like it, else YAML, of which JSON is nearly a part."""
        if self.text().lstrip()[:1] in ("{", "["):
            try:
                return self.json()
            except Invalid:
                pass
        return self.yaml()

    def _once(self, name: str, reader: Callable[[str], Parsed]) -> Parsed:
        known: dict[str, Parsed | Invalid] = self.__dict__.setdefault("_parsed", {})
        if name not in known:
            try:
                known[name] = reader(self.text())
            except Invalid as error:
                known[name] = error
        found = known[name]
        if isinstance(found, Invalid):
            raise found
        return found


def _why_binary(content: bytes) -> str:
    if b"\0" in content:
        return f"a NUL byte at offset {content.index(0)}"
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8 at offset {error.start}"
    return ""


def is_saved_reply(value: Any) -> bool:
    """The raw reply of an export, `{"data": "<the content>"}`, saved as a file."""
    return isinstance(value, dict) and list(value) == ["data"] and isinstance(value["data"], str)

"""YAML from libyaml's events, one pass and no recursion, so that depth and size are bounded while reading."""

from __future__ import annotations

from typing import Any, NamedTuple

import yaml

from registry.core import limits
from registry.formats.canonical import canonical, number
from registry.formats.limits import NUMBER_CHARS, WARNINGS
from registry.formats.parse import Parsed, refuse, too_deep, too_many

_STANDARD = "tag:yaml.org,2002:"
_MERGE = object()


def read_yaml(text: str) -> Parsed:
    """Raises Invalid with line and column: not YAML, a key that is a list or mapping, past a bound."""
    loader = yaml.CSafeLoader(text)
    try:
        return _Reader(loader).read()
    except yaml.MarkedYAMLError as error:
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark or error.context_mark
        if mark is None:
            refuse(f"not YAML: {problem}")
        refuse(f"not YAML: {problem}", line=mark.line + 1, column=mark.column + 1)
    except yaml.YAMLError as error:
        refuse(f"not YAML: {str(error).splitlines()[0]}")
    finally:
        loader.dispose()


class _Anchored(NamedTuple):
    value: Any
    size: int
    height: int


class _Frame:
    """One open list or mapping."""

    __slots__ = ("anchor", "before", "height", "key", "line", "merged", "odd", "tag", "value")

    def __init__(self, event: Any, value: Any, before: int) -> None:
        self.anchor = event.anchor
        self.tag = event.tag
        self.line = event.start_mark.line + 1
        self.value = value
        self.before = before  # values counted before this one
        self.height = 1
        self.key: Any = None  # of a mapping: the key whose value comes next, in a one-tuple
        self.merged: list[dict[str, Any]] = []
        self.odd: set[str] = set()  # keys that were not text


class _Reader:
    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._stack: list[_Frame] = []
        self._anchors: dict[str, _Anchored] = {}
        self._count = 0
        self._documents: list[Any] = []
        self._warnings: dict[str, None] = {}

    def read(self) -> Parsed:
        next_event = self._loader.get_event
        while True:
            event = next_event()
            kind = type(event)
            if kind is yaml.ScalarEvent:
                self._open_count(1, 1)
                value = self._scalar(event)
                self._anchor(event.anchor, value, 1, 1)
                self._place(value, 1, event)
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                self._open_count(1, 1)
                value = {} if kind is yaml.MappingStartEvent else []
                self._stack.append(_Frame(event, value, self._count - 1))
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                self._close(event)
            elif kind is yaml.AliasEvent:
                self._alias(event)
            elif kind is yaml.DocumentStartEvent:
                self._anchors.clear()
            elif kind is yaml.StreamEndEvent:
                return self._result()

    def _result(self) -> Parsed:
        if not self._documents:
            return Parsed(None)
        if len(self._documents) == 1:
            return Parsed(self._documents[0], tuple(self._warnings))
        self._warn(f"{len(self._documents)} YAML documents in one file")
        return Parsed(self._documents, tuple(self._warnings))

    def _open_count(self, size: int, height: int) -> None:
        self._count += size
        if self._count > limits.PARSE_NODES:
            too_many()
        if len(self._stack) + height > limits.PARSE_DEPTH:
            too_deep()

    def _alias(self, event: Any) -> None:
        found = self._anchors.get(event.anchor)
        mark = event.start_mark
        if found is None:
            inside = any(frame.anchor == event.anchor for frame in self._stack)
            what = "contains itself" if inside else "is not defined before"
            refuse(f"not YAML: the anchor {event.anchor!r} {what}", line=mark.line + 1, column=mark.column + 1)
        self._open_count(found.size, found.height)
        self._place(found.value, found.height, event)

    def _anchor(self, name: str | None, value: Any, size: int, height: int) -> None:
        if name is not None:
            self._anchors[name] = _Anchored(value, size, height)

    def _close(self, event: Any) -> None:
        frame = self._stack.pop()
        value = frame.value
        if frame.merged:
            merged: dict[str, Any] = {}
            for base in frame.merged:
                merged |= base
            value = merged | value
        if frame.tag not in (None, "!") and frame.tag not in (_STANDARD + "map", _STANDARD + "seq"):
            value = self._tagged(frame.tag, value)
        self._anchor(frame.anchor, value, self._count - frame.before, frame.height)
        self._place(value, frame.height, event)

    def _place(self, value: Any, height: int, event: Any) -> None:
        """Put a finished value where it belongs: into the open list or mapping, or at the top."""
        if not self._stack:
            self._documents.append(None if value is _MERGE else value)
            return
        frame = self._stack[-1]
        frame.height = max(frame.height, height + 1)
        if isinstance(frame.value, list):
            frame.value.append("<<" if value is _MERGE else value)
        elif frame.key is None:
            frame.key = (value,)
        else:
            key, frame.key = frame.key[0], None
            self._entry(frame, key, value, event)

    def _entry(self, frame: _Frame, key: Any, value: Any, event: Any) -> None:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if key is _MERGE:
            bases = value if isinstance(value, list) else [value]
            if not all(isinstance(base, dict) for base in bases):
                refuse("not YAML: << needs a mapping or a list of mappings", line=line, column=column)
            frame.merged.extend(reversed(bases))  # the first of a list wins
            return
        if isinstance(key, (dict, list)):
            refuse("not YAML for us: a list or mapping is used as a key", line=line, column=column)
        name = key if isinstance(key, str) else canonical(key)
        odd = not isinstance(key, str)
        if name in frame.value:
            if odd != (name in frame.odd):
                refuse(f"the keys {name} and {name!r} of one mapping are the same as text", line=line, column=column)
            self._warn(f"key {name!r} appears twice in one mapping (near line {line}); the last one counts")
        if odd:
            frame.odd.add(name)
            self._warn(f"key {name} is not text; it is kept as text (near line {line})")
        frame.value[name] = "<<" if value is _MERGE else value

    def _scalar(self, event: Any) -> Any:
        text, tag = event.value, event.tag
        if tag is None or tag == "!":
            if tag == "!" or not event.implicit[0]:
                return text
            tag = self._loader.resolve(yaml.ScalarNode, text, (True, False))
        if not tag.startswith(_STANDARD):
            return self._tagged(tag, text)
        name = tag[len(_STANDARD) :]
        if name == "str":
            return text
        mark = event.start_mark
        try:
            return self._standard(name, text, mark.line + 1)
        except (ValueError, KeyError, IndexError):
            refuse(f"not YAML: {text[:40]!r} is not !!{name}", line=mark.line + 1, column=mark.column + 1)

    def _standard(self, name: str, text: str, line: int) -> Any:
        if name == "null":
            return None
        if name == "bool":
            return yaml.CSafeLoader.bool_values[text.lower()]
        if name in ("int", "float"):
            if len(text) > NUMBER_CHARS:
                raise ValueError(name)
            node = yaml.ScalarNode(_STANDARD + name, text)
            if name == "int":
                return self._loader.construct_yaml_int(node)
            return number(self._loader.construct_yaml_float(node))
        if name == "merge":
            return _MERGE
        if name == "timestamp":
            self._warn(f"the date {text} is kept as text (line {line}); quote it to be sure")
        elif name != "binary":
            self._warn(f"{text[:40]!r} with tag !!{name} is kept as text (line {line})")
        return text

    def _tagged(self, tag: str, value: Any) -> Any:
        short = "!!" + tag[len(_STANDARD) :] if tag.startswith(_STANDARD) else tag
        self._warn(f"the tag {short[:60]} is kept as a mapping; safe YAML loaders refuse it")
        return {short: value}

    def _warn(self, text: str) -> None:
        if len(self._warnings) < WARNINGS:
            self._warnings[text] = None

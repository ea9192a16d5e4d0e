"""YAML from libyaml's events, one pass and no recursion, so that depth and size are bounded while reading."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import yaml

from registry.core import limits
from registry.formats.limits import KEY_CHARS, NUMBER_CHARS, WARNINGS, YAML_DIRECTIVES
from registry.formats.reading.parse import Parsed, refuse, too_deep, too_long, too_many
from registry.formats.secrets.masking import short
from registry.formats.values.canonical import canonical, number

_STANDARD = "tag:yaml.org,2002:"
_QUIET = {_STANDARD + name for name in ("str", "null", "bool", "int", "float", "merge")}  # read without a warning
_DIRECTIVE = re.compile("(?:^|[\n\r\x85\u2028\u2029])%")  # wherever YAML ends lines
_MERGE = object()
_NO_KEY = object()
_UNKNOWN = object()


def read_yaml(text: str) -> Parsed:
    """Raises Invalid with line and column: not YAML, a key that is a list or mapping, past a bound.

    What it says, as an error or a warning, holds no value of the text.
    """
    if len(_DIRECTIVE.findall(text)) > YAML_DIRECTIVES:  # libyaml compares each with all before it
        refuse(f"not YAML for us: more than {YAML_DIRECTIVES} lines begin with %")
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


def _told(name: str) -> str:
    """As `short`, for a name of any length."""
    return short(name[: 2 * KEY_CHARS])


class _Anchored(NamedTuple):
    value: Any
    size: int
    chars: int
    height: int


class _Frame:
    """One open list or mapping."""

    __slots__ = ("anchor", "before", "chars_before", "height", "key", "line", "merged", "odd", "tag", "value")

    def __init__(self, event: Any, value: Any, before: int, chars_before: int) -> None:
        self.anchor = event.anchor
        self.tag = event.tag
        self.line = event.start_mark.line + 1
        self.value = value
        self.before = before  # values counted before this one
        self.chars_before = chars_before
        self.height = 1
        self.key: Any = _NO_KEY  # of a mapping: the key whose value comes next
        self.merged: list[dict[str, Any]] = []
        self.odd: set[str] = set()  # keys that were not text


class _Reader:
    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._stack: list[_Frame] = []
        self._anchors: dict[str, _Anchored] = {}
        self._plain: dict[str, Any] = {}  # values of scalars without quotes: most of them are keys, and repeat
        self._count = 0
        self._chars = 0
        self._documents: list[Any] = []
        self._warnings: dict[str, None] = {}
        self._repeated = False

    def read(self) -> Parsed:
        next_event = self._loader.get_event
        while True:
            event = next_event()
            kind = type(event)
            if kind is yaml.ScalarEvent:
                chars = len(event.value) + len(event.tag or "")
                self._open_count(1, chars, 1)
                value = self._scalar(event)
                if event.anchor is not None:
                    self._anchors[event.anchor] = _Anchored(value, 1, chars, 1)
                self._place(value, 1, event)
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                chars = len(event.tag or "")
                self._open_count(1, chars, 1)
                value = {} if kind is yaml.MappingStartEvent else []
                self._stack.append(_Frame(event, value, self._count - 1, self._chars - chars))
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
            return Parsed(self._documents[0], tuple(self._warnings), self._repeated)
        self._warn(f"{len(self._documents)} YAML documents in one file")
        return Parsed(self._documents, tuple(self._warnings), self._repeated)

    def _open_count(self, size: int, chars: int, height: int) -> None:
        self._count += size
        self._chars += chars
        if self._count > limits.PARSE_NODES:
            too_many()
        if self._chars > limits.PARSE_CHARS:
            too_long()
        if len(self._stack) + height > limits.PARSE_DEPTH:
            too_deep()

    def _alias(self, event: Any) -> None:
        found = self._anchors.get(event.anchor)
        mark = event.start_mark
        if found is None:
            inside = any(frame.anchor == event.anchor for frame in self._stack)
            what = "contains itself" if inside else "is not defined before"
            refuse(f"not YAML: the anchor {_told(event.anchor)!r} {what}", line=mark.line + 1, column=mark.column + 1)
        self._open_count(found.size, found.chars, found.height)
        self._place(found.value, found.height, event)

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
        if frame.anchor is not None:
            size, chars = self._count - frame.before, self._chars - frame.chars_before
            self._anchors[frame.anchor] = _Anchored(value, size, chars, frame.height)
        self._place(value, frame.height, event)

    def _place(self, value: Any, height: int, event: Any) -> None:
        """Put a finished value where it belongs: into the open list or mapping, or at the top."""
        if not self._stack:
            self._documents.append(None if value is _MERGE else value)
            return
        frame = self._stack[-1]
        if frame.height <= height:
            frame.height = height + 1
        if type(frame.value) is list:
            frame.value.append("<<" if value is _MERGE else value)
        elif frame.key is _NO_KEY:
            frame.key = value
        else:
            key, frame.key = frame.key, _NO_KEY
            if type(key) is str and key not in frame.value and value is not _MERGE:
                frame.value[key] = value
            else:
                self._entry(frame, key, value, event)

    def _entry(self, frame: _Frame, key: Any, value: Any, event: Any) -> None:
        """One that needs a closer look: merged, repeated, or with a key that is not text."""
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
            self._repeated = True
            if odd != (name in frame.odd):
                told = _told(name)
                refuse(f"the keys {told} and {told!r} of one mapping are the same as text", line=line, column=column)
            self._warn(f"key {_told(name)!r} appears twice in one mapping (near line {line}); the last one counts")
        if odd:
            frame.odd.add(name)
            self._warn(f"key {_told(name)} is not text; it is kept as text (near line {line})")
        frame.value[name] = "<<" if value is _MERGE else value

    def _scalar(self, event: Any) -> Any:
        text, tag = event.value, event.tag
        if tag is not None and tag != "!":
            return self._explicit(text, tag, event)
        if tag == "!" or not event.implicit[0]:
            return text
        value = self._plain.get(text, _UNKNOWN)
        if value is _UNKNOWN:
            tag = self._loader.resolve(yaml.ScalarNode, text, (True, False))
            value = self._explicit(text, tag, event)
            if tag in _QUIET:
                self._plain[text] = value
        return value

    def _explicit(self, text: str, tag: str, event: Any) -> Any:
        if not tag.startswith(_STANDARD):
            return self._tagged(tag, text)
        name = tag[len(_STANDARD) :]
        if name == "str":
            return text
        mark = event.start_mark
        try:
            return self._standard(name, text, mark.line + 1)
        except (ValueError, KeyError, IndexError):
            refuse(f"not YAML: no valid !!{name}", line=mark.line + 1, column=mark.column + 1)

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
            self._warn(f"a date is kept as text (line {line}); quote it to be sure")
        elif name != "binary":
            self._warn(f"a text with the tag {_told('!!' + name)} is kept as text (line {line})")
        return text

    def _tagged(self, tag: str, value: Any) -> Any:
        name = "!!" + tag[len(_STANDARD) :] if tag.startswith(_STANDARD) else tag
        self._warn(f"the tag {_told(name)} is kept as a mapping; safe YAML loaders refuse it")
        return {name: value}

    def _warn(self, text: str) -> None:
        if len(self._warnings) < WARNINGS:
            self._warnings[text] = None

"""The file of sources: what it may say, and how it is edited without touching what else is in it. Pure.

[[source]]
workflow = "support/triage"            # a file is one workflow
path = "/srv/dify/triage.yml"
every = "10m"
labels = { team = "support" }

[[source]]
namespace = "automation"               # every matching file of a directory is one, named after the file
path = "/srv/n8n/exports"
glob = "*.json"
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import PurePath
from typing import Any

from msgspec import Struct

from registry.core import names
from registry.core.errors import Invalid, Reason
from registry.core.model import SEMVER_LABEL
from registry.source import limits

GLOB = "*.yml,*.yaml,*.json"
_KEYS = frozenset({"path", "workflow", "namespace", "glob", "every", "labels"})
_HEADER = re.compile(r"^[ \t]*\[\[[ \t]*source[ \t]*\]\][ \t]*(#.*)?\r?$", re.MULTILINE)
_EVERY = re.compile(r"([0-9]{1,7})([smhd])", re.ASCII)
_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_AT_LINE = re.compile(r"at line ([0-9]+)")


class Source(Struct, frozen=True, kw_only=True):
    """Of `workflow` and `namespace` one is set: a file, or a directory."""

    path: str  # absolute
    workflow: str = ""
    namespace: str = ""
    glob: str = ""  # of a directory: patterns of file names, comma separated
    every_s: float = limits.EVERY_S
    labels: dict[str, str] = {}

    @property
    def target(self) -> str:
        """What `regctl source add` and `remove` call it: no other source of the file has the same."""
        return self.workflow or self.namespace

    def covers(self, workflow: str) -> bool:
        return workflow == self.workflow or workflow.partition("/")[0] == self.namespace


def checked(source: Source) -> Source:
    """Raises Invalid."""
    if bool(source.workflow) == bool(source.namespace):
        raise _invalid("a source names a workflow or a namespace", 'workflow = "ns/name" for a file, else namespace')
    if source.workflow:
        names.check_workflow(source.workflow)
        if source.glob:
            raise _invalid(f"{source.target} is one file and has a glob", "leave it out, or name a namespace")
    else:
        names.check_name(source.namespace, "namespace")
        if not all(source.glob.split(",")) or "/" in source.glob:
            raise _invalid(f"not patterns of file names: {source.glob!a}", f"write {GLOB}, for one")
    if not PurePath(source.path).is_absolute() or "\0" in source.path:
        raise _invalid(f"not an absolute path: {source.path!a}", "write the whole path, from / on")
    if not source.path.isprintable():
        raise _invalid(f"the path {source.path!a} cannot be written in one line of UTF-8", "rename it")
    if not limits.EVERY_MIN_S <= source.every_s <= limits.EVERY_MAX_S:
        least, most = every_text(limits.EVERY_MIN_S), every_text(limits.EVERY_MAX_S)
        raise _invalid(f"every {every_text(source.every_s)} is out of bounds", f"from {least} to {most}")
    names.check_labels(source.labels)
    if SEMVER_LABEL in source.labels:
        raise _invalid("label semver would be of the first snapshot only", "leave it out; it names one version")
    return source


def parse(text: str) -> tuple[Source, ...]:
    """The sources of a file. Raises Invalid, which names the line where it is known."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _AT_LINE.search(str(error))
        line = int(found[1]) if found else None
        raise _invalid(f"not valid TOML: {error}", "correct it", line=line) from None
    rows = document.pop("source", [])
    if document or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _invalid("it holds something else than [[source]] tables", "see regctl source add --help")
    if len(rows) > limits.SOURCES:
        raise _invalid(f"{len(rows)} sources", f"at most {limits.SOURCES} in one file")
    headers = list(_HEADER.finditer(text))
    sources: dict[str, Source] = {}
    for index, row in enumerate(rows):
        line = text.count("\n", 0, headers[index].start()) + 1 if len(headers) == len(rows) else None
        try:
            source = _source(row)
            if source.target in sources:
                raise _invalid(f"{source.target} has two sources", "remove one of them")
        except Invalid as error:
            where = f"source {index + 1}" + (f" (line {line})" if line else "")
            raise _invalid(f"{where}: {error.message}", error.hint, line=line) from None
        sources[source.target] = source
    return tuple(sources.values())


def parse_every(text: str) -> float:
    """`10m` in seconds. Raises Invalid."""
    found = _EVERY.fullmatch(text)
    if found is None:
        raise _invalid(f"not a time: {text[:80]!a}", "write 30s, 10m, 2h or 1d")
    return float(int(found[1]) * _UNITS_S[found[2]])


def every_text(every_s: float) -> str:
    unit = next((unit for unit in "dhm" if every_s % _UNITS_S[unit] == 0), "s")
    return f"{int(every_s) // _UNITS_S[unit]}{unit}"


def with_source(text: str, source: Source) -> str:
    """The file with one more source. Raises Invalid, also if that would make it another file than meant."""
    before = parse(text)
    if any(each.target == source.target for each in before):
        raise _invalid(f"{source.target} has a source already", f"regctl source remove {source.target}, then add it")
    made = f"{text.rstrip()}\n\n{_block(checked(source))}".lstrip("\n")
    return _as_meant(made, (*before, source))


def without(text: str, target: str) -> str:
    """The file without a source; comments stay, but for those inside of it. Raises Invalid."""
    before = parse(text)
    index = next((index for index, each in enumerate(before) if each.target == target), None)
    if index is None:
        known = ", ".join(each.target for each in before) or "none"
        raise _invalid(f"no source {target}", f"there are: {known}")
    starts = [header.start() for header in _HEADER.finditer(text)]
    if len(starts) != len(before):
        raise _by_hand()
    end = starts[index + 1] if index + 1 < len(starts) else len(text)
    lines = text[starts[index] : end].splitlines(keepends=True)
    while index + 1 < len(starts) and (not lines[-1].strip() or lines[-1].lstrip().startswith("#")):
        lines.pop()  # a comment right before the next source is about that one
    made = text[: starts[index]] + text[starts[index] + sum(map(len, lines)) :].lstrip("\n")
    return _as_meant(made, (*before[:index], *before[index + 1 :]))


def _as_meant(text: str, meant: tuple[Source, ...]) -> str:
    try:
        if parse(text) == meant:
            return text
    except Invalid:
        pass
    raise _by_hand()


def _source(row: dict[str, Any]) -> Source:
    if unknown := sorted(row.keys() - _KEYS):
        raise _invalid(f"unknown: {', '.join(unknown)}", f"known are {', '.join(sorted(_KEYS))}")
    labels = row.get("labels", {})
    texts = [row.get(key, "") for key in sorted(_KEYS - {"labels"})]
    if not isinstance(labels, dict) or not all(isinstance(text, str) for text in (*texts, *labels.values())):
        raise _invalid("something is no text", 'write every = "10m", labels = { team = "support" }')
    every_s = parse_every(row["every"]) if "every" in row else limits.EVERY_S
    fields = {key: row[key] for key in ("path", "workflow", "namespace", "glob") if key in row}
    if "namespace" in fields:
        fields.setdefault("glob", GLOB)
    return checked(Source(**({"path": ""} | fields), every_s=every_s, labels=labels))


def _block(source: Source) -> str:
    fields = {"workflow": source.workflow, "namespace": source.namespace, "path": source.path, "glob": source.glob}
    lines = ["[[source]]", *(f"{key} = {_quoted(value)}" for key, value in fields.items() if value)]
    lines.append(f"every = {_quoted(every_text(source.every_s))}")
    if source.labels:
        pairs = ", ".join(f"{_quoted(key)} = {_quoted(value)}" for key, value in source.labels.items())
        lines.append(f"labels = {{ {pairs} }}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A basic string of TOML: JSON's escapes are among its own."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _by_hand() -> Invalid:
    return _invalid("the file is written in a way that cannot be edited safely", "edit it by hand")


def _invalid(message: str, hint: str, *, line: int | None = None) -> Invalid:
    metadata = {} if line is None else {"line": str(line)}
    return Invalid(Reason.INVALID_REQUEST, message, hint=hint, metadata=metadata)

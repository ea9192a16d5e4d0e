"""Content that is broken, huge, or made to hurt: (content, kind), each at most as large as a member takes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from registry.core.limits import CONTENT_BYTES
from tests.unit.formats import kit

Content = tuple[bytes, str]


def _dify(nodes: list[Any], edges: list[Any], **more: Any) -> bytes:
    graph = {"nodes": nodes, "edges": edges}
    app = {"kind": "app", "version": "0.5.0", "app": {"mode": "workflow", "name": "x"}, "workflow": {"graph": graph}}
    return json.dumps(app | more, separators=(",", ":")).encode()


def _most(make: Callable[[int], bytes], size_bytes: int) -> bytes:
    """As many parts as fit."""
    each = (len(make(2_000)) - len(make(1_000))) / 1_000
    count = int(size_bytes / each)
    while len(content := make(count)) > size_bytes:
        count = int(count * 0.98)
    return content


def _nodes(prefix: str = "", **data: Any) -> Callable[[int], bytes]:
    def make(count: int) -> bytes:
        return _dify([{"id": f"{prefix}{n}", "data": {"type": "llm"} | data} for n in range(count)], [])

    return make


def _ring(count: int) -> bytes:
    nodes = [{"id": str(n), "data": {"type": "llm"}} for n in range(count)]
    return _dify(nodes, [{"source": str(n), "target": str((n + 1) % count)} for n in range(count)])


def _dense(count: int) -> bytes:
    nodes = [{"id": str(n), "data": {"type": "llm"}} for n in range(100)]
    return _dify(nodes, [{"source": str(n % 100), "target": str(n * 7 % 100), "x": n} for n in range(count)])


def _twins(count: int) -> bytes:
    return _dify([{"id": "1", "data": {"type": "llm"}} for _ in range(count)], [{"source": "1", "target": "1"}] * count)


def _bomb(levels: int = 30) -> bytes:
    lines = [b"a0: &a0 [" + b",".join([b"x"] * 10) + b"]\n"]
    lines += [b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, levels)]
    return b"".join(lines)


def cases(size_bytes: int = CONTENT_BYTES) -> Iterator[tuple[str, Content]]:
    app = kit.dump(kit.app())
    yield "truncated app", (app[: len(app) // 2], "dify")
    yield "truncated JSON", (json.dumps(kit.app()).encode()[:-20], "dify")
    yield "10,000 nested lists", (b"[" * 10_000 + b"]" * 10_000, "json")
    yield "10,000 nested lists, detected", (b"[" * 10_000 + b"]" * 10_000, "")
    yield "10,000 nested lists, YAML", (b"- " * 10_000 + b"x", "yaml")
    yield "as many open lists as fit", (b"[" * size_bytes, "")
    yield "as many open mappings as fit", (b'{"a":' * (size_bytes // 5), "")
    yield "alias bomb", (_bomb(), "yaml")
    yield (
        "alias bomb in an app",
        (app + b"bomb:\n" + b"".join(b" " + line for line in _bomb().splitlines(True)), "dify"),
    )
    yield "aliases of itself", (b"a: &a [*a, *a]\n", "yaml")
    yield "NUL bytes", (app.replace(b"Polite", b"Pol\0te"), "dify")
    yield "only NUL bytes", (bytes(size_bytes), "")
    yield "not UTF-8", (app.replace(b"Polite", b"Pol\xff\xfete"), "dify")
    yield "UTF-16", (app.decode().encode("utf-16"), "dify")
    yield "numeric versions", (app.replace(b"version: 0.5.0", b"version: 0.5"), "dify")
    yield "an endless version", (app.replace(b"version: 0.5.0", b"version: " + b"9" * 100_000), "dify")
    yield "a version that is a list", (app.replace(b"version: 0.5.0", b"version: [0, [5], {a: 0}]"), "dify")
    yield "as many nodes as fit", (_most(_nodes(), size_bytes), "")
    yield "a ring of nodes", (_most(_ring, size_bytes), "")
    yield "as many edges as fit", (_most(_dense, size_bytes), "")
    yield "one id for all nodes", (_most(_twins, size_bytes), "")
    yield "as many values as fit", (b"[" + b"0," * (size_bytes // 2 - 2) + b"0]", "json")
    yield "as many empty mappings as fit", (b"[" + b"{}," * (size_bytes // 3 - 2) + b"{}]", "json")
    yield "a YAML list as long as fits", (b"- a\n" * (size_bytes // 4), "yaml")
    yield "one endless line", (b"x" * size_bytes, "")
    yield "many secrets", (_secrets(), "dify")


def _secrets() -> bytes:
    app = kit.app()
    app["workflow"]["environment_variables"] = [
        {"id": str(n), "name": f"S{n}", "value_type": "secret", "value": f"hunter2-{n}"} for n in range(5_000)
    ]
    return json.dumps(app).encode()


def pairs(size_bytes: int = CONTENT_BYTES) -> Iterator[tuple[str, Content, Content]]:
    """Two contents of one workflow: the second is compared with the first."""
    yield "all node ids replaced", (_most(_nodes("a"), size_bytes), ""), (_most(_nodes("b"), size_bytes), "")
    yield (
        "all nodes changed",
        (_most(_nodes(title="t", prompt="a b c"), size_bytes), ""),
        (_most(_nodes(title="t", prompt="c b d"), size_bytes), ""),
    )
    yield "a graph against nothing", (kit.dump(kit.app()), ""), (_most(_ring, size_bytes), "")
    lines = [b"%d" % n for n in range(size_bytes // 7)]
    yield "lines turned round", (b"\n".join(lines), "text"), (b"\n".join(lines[::-1]), "text")
    same = b"a\nb\n" * (size_bytes // 4)
    yield "lines that repeat", (same, "text"), (same[2:] + b"c\n", "text")
    values = list(range(size_bytes // 8))
    yield "values turned round", (json.dumps(values).encode(), "json"), (json.dumps(values[::-1]).encode(), "json")
    long = "word " * (size_bytes // 8)
    prompt = json.dumps({"prompt": long}).encode(), json.dumps({"prompt": long.replace("o", "0", 50_000)}).encode()
    yield "one long prompt", (prompt[0], "json"), (prompt[1], "json")

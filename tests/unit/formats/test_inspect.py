"""What content is taken for, and what is refused."""

from __future__ import annotations

import hashlib
import json

import pytest

from registry import formats
from registry.core import limits
from registry.core.errors import Invalid, Reason
from registry.formats import KINDS, inspect
from registry.formats.limits import WARNINGS
from tests.unit.formats import kit


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b'{"a": 1}', "json"),
        (b"  [1, 2]\n", "json"),
        (b"a: 1\nb: [x]\n", "yaml"),
        (b"- a\n- b\n", "yaml"),
        (b"a = 1\n[b]\nc = 'd: e'\n", "toml"),
        (b"key = 'a: b'\n", "toml"),
        (b"[section]\n", "yaml"),
        (b"just words\n", "text"),
        (b"42\n", "text"),
        (b'"a string"', "text"),
        (b"# only a comment\n", "text"),
        (b"\n", "text"),
        (b"a: b: c\n", "text"),
        (b"a\0b", "binary"),
        (b"\xff\xfe", "binary"),
        (b"caf\xe9", "binary"),
        (b"kind: Deployment\nspec: {}\n", "yaml"),
        (b"app:\n  mode: dark\n", "yaml"),
        (kit.dump(kit.app()), "dify"),
        (json.dumps(kit.app()).encode(), "dify"),
        (b"app: {mode: chat, name: x}\nmodel_config: {model: {}}\n", "dify"),
        (b"kind: rag_pipeline\nworkflow: {}\n", "dify"),
        (b"workflow: {graph: {nodes: [], edges: []}}\n", "dify"),
        (b"app: {mode: workflow}\nworkflow: {nodes: []}\n", "dify"),
    ],
)
def test_detection(content: bytes, kind: str) -> None:
    assert inspect(content).kind == kind


def test_bytes_of_any_kind_can_be_kept_as_text_or_binary() -> None:
    content = kit.dump(kit.app())
    digest = hashlib.sha256(content).hexdigest()
    for kind in ("text", "binary"):
        found = inspect(content, kind=kind)
        assert (found.kind, found.value_digest, found.semantic_digest) == (kind, f"v1:{digest}", f"s1:{digest}")


@pytest.mark.parametrize(
    ("content", "kind", "is_opaque"),
    [
        (b"\xff\xfe", "", True),
        (b"\xff\xfe", "binary", True),
        (b"\xff\xfe", "dify", False),  # to be refused by its format
        (b"text", "binary", False),  # literals that look like secrets are looked for
        (b"text", "", False),
        (b"", "", False),
    ],
)
def test_bytes_that_are_no_text_mean_nothing(content: bytes, kind: str, is_opaque: bool) -> None:
    assert formats.is_opaque(content, kind) == is_opaque


def test_an_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(Invalid) as caught:
        inspect(b"x", kind="spreadsheet")
    assert caught.value.reason is Reason.UNKNOWN_KIND
    assert all(kind in caught.value.hint for kind in KINDS)


@pytest.mark.parametrize("kind", ["", *KINDS])
def test_zero_bytes_are_refused(kind: str) -> None:
    with pytest.raises(Invalid, match="empty content") as caught:
        inspect(b"", kind=kind)
    assert caught.value.reason is Reason.INVALID_CONTENT


@pytest.mark.parametrize(
    ("kind", "content", "line", "column"),
    [
        ("json", b'{\n "a": 1,\n "b" 2}', "3", "6"),
        ("yaml", b"a: 1\nb: [1,\nc: }\n", "3", "4"),
        ("yaml", b"a:\n\t- b\n", "2", "1"),
        ("toml", b"a = 1\nb = = 2\n", "2", "5"),
        ("toml", b"a = 1\nb = [", "2", "1"),
        ("dify", b"app: {\n", "2", "1"),
    ],
)
def test_a_named_kind_that_does_not_parse_says_where(kind: str, content: bytes, line: str, column: str) -> None:
    with pytest.raises(Invalid) as caught:
        inspect(content, kind=kind)
    assert caught.value.reason is Reason.INVALID_CONTENT
    assert (caught.value.metadata["line"], caught.value.metadata["column"]) == (line, column)


@pytest.mark.parametrize("kind", ["json", "yaml", "toml", "dify", "text"])
def test_binary_under_a_text_kind_says_where(kind: str) -> None:
    with pytest.raises(Invalid, match="not UTF-8 at offset 3"):
        inspect(b"abc\xff", kind=kind)
    with pytest.raises(Invalid, match="a NUL byte at offset 1"):
        inspect(b"a\0c", kind=kind)


def test_yaml_that_is_no_app_is_not_dify() -> None:
    with pytest.raises(Invalid, match="not a Dify app"):
        inspect(b"a: 1\n", kind="dify")


def test_a_broken_app_is_refused_with_its_place_and_is_text_only_by_name() -> None:
    content = kit.dump(kit.app()).replace(b"kind: app", b"kind: app: app")
    with pytest.raises(
        Invalid, match="looks like a workflow, and is not YAML: mapping values are not allowed"
    ) as refused:
        inspect(content)
    assert refused.value.metadata["line"]
    found = inspect(content, kind="text")
    assert found.warnings[0].startswith("kept as plain text: not YAML: mapping values are not allowed")
    prompt = inspect(b"{{name}}, write about nodes: and more: please")
    assert prompt.kind == "text"


def test_the_saved_reply_of_an_export_is_the_app_inside() -> None:
    plain = kit.dump(kit.app())
    wrapped = json.dumps({"data": plain.decode()}).encode()
    inside, outside = inspect(plain), inspect(wrapped)
    assert (outside.kind, outside.facts.pop("wrapped")) == ("dify", "true")
    assert "wrapped" not in inside.facts
    assert (outside.value_digest, outside.facts) == (inside.value_digest, inside.facts)
    assert inspect(b"data: |\n  app: {mode: chat}\n  model_config: {}\n").facts["wrapped"] == "true"
    for no_app in (b'{"data": "a: 1"}', b'{"data": "{"}', b'{"data": 1}'):
        assert inspect(no_app).kind == "json"


def test_facts_of_an_app() -> None:
    assert inspect(kit.dump(kit.app())).facts == {
        "mode": "workflow",
        "dsl_version": "0.5.0",
        "name": "Kit",
        "nodes": "5",
        "notes": "1",
        "edges": "5",
        "plugins": "2",
    }


def test_facts_are_short() -> None:
    value = kit.app()
    value["app"]["name"] = "n" * 10_000
    assert len(inspect(kit.dump(value)).facts["name"]) == limits.FACT_CHARS


def test_byte_order_mark_and_line_ends() -> None:
    plain = kit.dump(kit.app())
    marked, windows = b"\xef\xbb\xbf" + plain, plain.replace(b"\n", b"\r\n")
    assert inspect(marked).warnings == ("begins with a byte order mark",)
    assert inspect(marked).value_digest == inspect(plain).value_digest == inspect(windows).value_digest
    assert inspect(b'\xef\xbb\xbf{"a": 1}').value_digest == inspect(b'{"a":1}').value_digest
    assert inspect(b"\xef\xbb\xbf").kind == "text"


def test_one_value_one_digest_whatever_the_syntax() -> None:
    as_json, as_yaml, as_toml = b'{"b": [1.0, true], "a": "x"}', b"a: x\nb:\n  - 1\n  - yes\n", b"b=[1,true]\na='x'"
    digests = {inspect(content).value_digest for content in (as_json, as_yaml, as_toml)}
    assert digests == {"v1:" + hashlib.sha256(b'{"a":"x","b":[1,true]}').hexdigest()}


def test_warnings_are_bounded() -> None:
    found = inspect(b"".join(b"%d: a\n" % number for number in range(500)))
    assert len(found.warnings) == WARNINGS

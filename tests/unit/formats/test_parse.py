"""Values as read, and what no content can do to the reader."""

from __future__ import annotations

import math
import re
import tomllib
from typing import Any

import pytest
import yaml

from registry.core import limits
from registry.core.errors import Invalid
from registry.formats import inspect
from registry.formats.reading.document import Document
from registry.formats.reading.parse import read_json, read_toml
from registry.formats.reading.yaml_reader import read_yaml
from registry.formats.values.canonical import canonical


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: -0x1F\nc: 1_000\nd: 0o17\ne: 1:30\nf: 017",
        "a: yes\nb: Off\nc: TRUE\nd: null\ne: ~\nf:\ng: nope",
        "a: '1'\nb: \"\\u00e9\"\nc: |\n  x\n  y\nd: >-\n  x\n  y\n",
        "base: &b {x: 1, y: 2}\none: {<<: *b, y: 3}\ntwo: {<<: [*b, {x: 9, z: 4}], w: 5}\n",
        "a: &x [1, 2]\nb: *x\nc: {d: *x}",
        "a: !!str 1\nb: !!int '7'\nc: !!float 2.5\nd: !!seq [1]\ne: !!map {a: b}\n",
        "- - - a\n- {}\n- []\n- ''\n",
        "a: 1.5\nb: 6.02e+23\nc: 1e3",
        "? a\n: b\n",
        "# nothing\n",
        "just text",
    ],
)
def test_yaml_reads_as_pyyaml_does(text: str) -> None:
    expected = yaml.safe_load(text)
    assert canonical(read_yaml(text).value) == canonical(expected)


@pytest.mark.parametrize(
    ("text", "value", "warning"),
    [
        ("a: 2026-01-31", {"a": "2026-01-31"}, "a date is kept as text (line 1)"),
        ("a: 2001-12-14t21:59:43.10-05:00", {"a": "2001-12-14t21:59:43.10-05:00"}, "a date is kept"),
        ("1: a\ntrue: b\n~: c", {"1": "a", "true": "b", "null": "c"}, "key 1 is not text"),
        ("a: 1\na: 2", {"a": 2}, "key 'a' appears twice in one mapping (near line 2)"),
        ("a: !Ref b\nc: !Sub [d]", {"a": {"!Ref": "b"}, "c": {"!Sub": ["d"]}}, "the tag !Ref"),
        ("a: !!set {x, y}", {"a": {"!!set": {"x": None, "y": None}}}, "the tag !!set"),
        ("a: =", {"a": "="}, "kept as text"),
        ("a: 1\n---\nb: 2", [{"a": 1}, {"b": 2}], "2 YAML documents"),
    ],
)
def test_yaml_that_is_read_otherwise_says_so(text: str, value: Any, warning: str) -> None:
    parsed = read_yaml(text)
    assert parsed.value == value
    assert any(warning in said for said in parsed.warnings), parsed.warnings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [*x]", "the anchor 'x' contains itself"),
        ("a: *nowhere", "the anchor 'nowhere' is not defined before"),
        ("{[a, b]: c}", "a list or mapping is used as a key"),
        ("1: a\n'1': b", "the keys 1 and '1' of one mapping are the same as text"),
        ("<<: 1\na: 2", "<< needs a mapping"),
        ("a: !!int x", "no valid !!int (line 1, column 4)"),
        ("a: !!bool x", "no valid !!bool"),
        ("a: " + "9" * 401, "no valid !!int"),
        ("a: " + ":".join(["1"] * 300), "no valid !!int"),
        ("a: 'x\n", "found unexpected end of stream"),
        ("a: \x07", "control characters are not allowed"),
        ("a: b\n c: d", "mapping values are not allowed"),
        ("%YAML 9.9\n---\na: b", "found incompatible YAML document"),
    ],
)
def test_yaml_refused(text: str, message: str) -> None:
    with pytest.raises(Invalid, match=re.escape(message)):
        read_yaml(text)


def test_numbers_have_one_spelling_and_nan_is_a_value() -> None:
    assert read_yaml("[1.0, -0.0, 1e+2, .inf, -.Inf]").value == [1, 0, "1e+2", math.inf, -math.inf]
    assert canonical(read_yaml("[.nan]").value) == "[NaN]"
    assert canonical(read_json("[1.0, 1e2, 0.1, 1e300]").value) == "[1,100,0.1,1e+300]"
    assert canonical(read_toml("a = 2.0\nb = nan").value) == '{"a":2,"b":NaN}'
    assert canonical([1, True, 0, False]) == "[1,true,0,false]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('["\\ud800"]', "a lone surrogate"),
        ('{"\\udfff": 1}', "a lone surrogate"),
        ("[NaN]", "NaN is not JSON"),
        ("[-Infinity]", "-Infinity is not JSON"),
        ("[1e999]", "is too large"),
        ("[" + "1" * 5000 + "]", "not JSON"),
        ("[1,]", "not JSON"),
        ("{'a': 1}", "not JSON"),
    ],
)
def test_json_refused(text: str, message: str) -> None:
    with pytest.raises(Invalid, match=re.escape(message)):
        read_json(text)


def test_json_pairs_of_surrogates_and_repeated_keys() -> None:
    assert read_json('["\\ud83d\\ude00"]').value == ["\U0001f600"]
    parsed = read_json('{"a": 1, "b": {"c": 1, "c": 2}}')
    assert parsed.value == {"a": 1, "b": {"c": 2}}
    assert parsed.warnings == ("key 'c' appears twice in one object; the last one counts",)


def test_toml_dates_are_their_iso_text() -> None:
    value = read_toml("a = 1979-05-27T07:32:00Z\nb = 1979-05-27\nc = [07:32:00]").value
    assert value == {"a": "1979-05-27T07:32:00+00:00", "b": "1979-05-27", "c": ["07:32:00"]}


_MIB = 1024 * 1024
_KEY = "sk-" + "a1b2c3d4" * 3
_LEVELS = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 12)
)
_MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{','.join([f'*a{n - 1}'] * 50)}]}}\n" for n in range(1, 9))
_LONG = "a: &a " + "x" * 500_000 + "\nb: [" + "*a," * 2000 + "]\n"
_LONG_INSIDE = "a: &a {k: [" + "x" * 500_000 + "]}\nb:\n" + "- {<<: *a, z: *a}\n" * 1000
_LONG_TAGS = "%TAG !e! tag:" + "x" * 500_000 + "\n---\n" + "- !e!y z\n" * 2000
_DIRECTIVES = "".join(f"%TAG !t{n}! tag:x\n" for n in range(200))
_TALL = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, limits.PARSE_DEPTH + 5))


@pytest.mark.parametrize(
    ("reader", "text", "limit"),
    [
        (Document.json, "[" * _MIB, "PARSE_DEPTH"),
        (Document.yaml, "[" * _MIB, "PARSE_DEPTH"),
        (Document.toml, "a = " + "[" * _MIB, "PARSE_DEPTH"),
        (Document.yaml, "- " * _MIB, "PARSE_DEPTH"),
        (Document.yaml, "{a: " * 300 + "}" * 300, "PARSE_DEPTH"),
        (Document.json, '{"a":' * 300 + "1" + "}" * 300, "PARSE_DEPTH"),
        (Document.toml, "a" + ".a" * 300 + " = 1", "PARSE_DEPTH"),
        (Document.yaml, _TALL, "PARSE_DEPTH"),
        (Document.yaml, _LEVELS, "PARSE_NODES"),
        (Document.yaml, _MERGES, "PARSE_NODES"),
        (Document.yaml, _LONG, "PARSE_CHARS"),
        (Document.yaml, _LONG_INSIDE, "PARSE_CHARS"),
        (Document.yaml, _LONG_TAGS, "PARSE_CHARS"),
    ],
    ids=[
        *("json", "yaml", "toml", "yaml-dashes", "yaml-maps", "json-maps", "toml-keys", "tower", "aliases", "merges"),
        *("long", "long-inside", "long-tags"),
    ],
)
def test_bombs_end_at_a_named_limit(reader: Any, text: str, limit: str) -> None:
    with pytest.raises(Invalid) as caught:
        reader(Document(text.encode()))
    assert caught.value.metadata == {"limit": limit}


@pytest.mark.parametrize(
    "text",
    [
        ".".join(["a"] * 100_000) + " = 1",
        "[" + " . ".join(["a"] * 100_000) + "]",
        "[[" + ".".join(['"a.b"'] * 100_000) + "]]",
        "x = {y = 1, " + ".".join(["'a'"] * 100_000) + " = 1}",
        'x = """\n""\\"""" # ""\n[' + ".".join(["a"] * 100_000) + "]",
    ],
    ids=["key", "header", "tables", "inline", "after-text"],
)
def test_toml_keys_of_many_parts_are_refused_before_they_are_read(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def loads(_: str) -> Any:
        raise AssertionError("it was read")

    monkeypatch.setattr(tomllib, "loads", loads)
    with pytest.raises(Invalid) as caught:
        read_toml(text)
    assert caught.value.metadata == {"limit": "PARSE_DEPTH"}


@pytest.mark.parametrize(
    "text",
    [
        "prose = 'One. Two. " + "Three. " * 300 + "'",
        'prose = "An \\" and ... ' + ". " * 300 + '"',
        'prose = """\nA "quote" and ""two\\"\\"\n' + "dots......" * 300 + '\n"""',
        "prose = '''\nit's ''so''\n" + "dots......" * 300 + "'''",
        "a = 1 # it's " + "." * 300,
        "a = [" + "1.5, " * 300 + "]",
        "a = {" + ", ".join(f"k{n}.x = {n}.5" for n in range(300)) + "}",
    ],
    ids=["literal", "basic", "lines", "literal-lines", "comment", "numbers", "inline"],
)
def test_toml_with_many_dots_elsewhere_is_read(text: str) -> None:
    assert read_toml(text).value == tomllib.loads(text)


@pytest.mark.parametrize("end", ["\n", "\r", "\x85", "\u2028"])
def test_yaml_with_very_many_directives_is_refused_and_a_text_of_such_lines_is_a_text(end: str) -> None:
    text = _DIRECTIVES.replace("\n", end)
    with pytest.raises(Invalid, match="more than 100 lines begin with %"):
        read_yaml(f"{text}---{end}a: b")
    inspection = inspect(text.encode())
    assert (inspection.kind, inspection.warnings) == ("text", ())


def test_yaml_with_percent_signs_and_aliases_is_read() -> None:
    text = "%YAML 1.1\n---\na: &a |\n" + " %line\n" * 300 + "b: [*a, *a]\n"
    assert read_yaml(text).value["b"] == ["%line\n" * 300] * 2


@pytest.mark.parametrize(
    ("reader", "text"),
    [
        (read_yaml, "password: !!foo hunter2"),
        (read_yaml, "password: !!int hunter2"),
        (read_yaml, "password: !!float 1:hunter2"),
        (read_yaml, "password: !!timestamp hunter2"),
        (read_yaml, "password: !!bool hunter2"),
        (read_yaml, "password: !Foo hunter2"),
        (read_yaml, "password: !Foo [hunter2]"),
        (read_yaml, f"password: hunter2\n{_KEY}: 1\n{_KEY}: 2"),
        (read_yaml, f"? !!null {_KEY}\n: 1\n? !!timestamp {_KEY}\n: 2\n? !!timestamp {_KEY}\n: 2"),
        (read_yaml, f"a: *{_KEY}"),
        (read_yaml, f"a: !{_KEY} x"),
        (read_json, f'{{"{_KEY}": 1, "{_KEY}": 2}}'),
        (read_json, '{"password": 123456.7e99999}'),
        (read_toml, f"[{_KEY}]\n[{_KEY}]"),
    ],
)
def test_what_is_said_of_a_text_holds_no_value_of_it(reader: Any, text: str) -> None:
    try:
        said = " ".join(reader(text).warnings)
    except Invalid as error:
        said = error.message
    assert said
    assert not any(part in said for part in ("hunter2", "123456", _KEY))


def test_depth_up_to_the_limit_is_read() -> None:
    deep = "[" * limits.PARSE_DEPTH + "]" * limits.PARSE_DEPTH
    over = f"[{deep}]"
    for reader in (read_json, read_yaml):
        assert canonical(reader(deep).value) == deep
        with pytest.raises(Invalid):
            reader(over)


def test_a_toml_number_that_has_no_text_is_refused() -> None:
    """Python turns hexadecimal digits into a number of any size, and refuses to write it as text."""
    assert read_toml("a = 0x" + "f" * 100).value == {"a": 16**100 - 1}
    with pytest.raises(Invalid, match="digits"):
        read_toml("a = 0x" + "f" * 6000)


def test_yaml_that_repeats_scalars_still_tells_every_date() -> None:
    read = read_yaml("a: 2020-01-01\nb: 2020-01-01\nc: yes\nd: yes\n'yes': 1\n")
    assert read.value == {"a": "2020-01-01", "b": "2020-01-01", "c": True, "d": True, "yes": 1}
    assert [warning.partition("(")[2][:7] for warning in read.warnings] == ["line 1)", "line 2)"]

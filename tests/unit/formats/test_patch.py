"""JSON Patch: what RFC 6902 says of applying, and what a patch of two versions looks like."""

from __future__ import annotations

import json
from typing import Any

import pytest

from registry.formats.values.patch import apply, patch

# RFC 6902, appendix A, by number.
APPENDIX = {
    "A.1": ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
    "A.2": ({"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "qux"}], {"foo": ["bar", "qux", "baz"]}),
    "A.3": ({"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
    "A.4": ({"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["bar", "baz"]}),
    "A.5": (
        {"baz": "qux", "foo": "bar"},
        [{"op": "replace", "path": "/baz", "value": "boo"}],
        {"baz": "boo", "foo": "bar"},
    ),
    "A.6": (
        {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
        [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}],
        {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}},
    ),
    "A.7": (
        {"foo": ["all", "grass", "cows", "eat"]},
        [{"op": "move", "from": "/foo/1", "path": "/foo/3"}],
        {"foo": ["all", "cows", "eat", "grass"]},
    ),
    "A.8": (
        {"baz": "qux", "foo": ["a", 2, "c"]},
        [{"op": "test", "path": "/baz", "value": "qux"}, {"op": "test", "path": "/foo/1", "value": 2.0}],
        {"baz": "qux", "foo": ["a", 2, "c"]},
    ),
    "A.10": (
        {"foo": "bar"},
        [{"op": "add", "path": "/child", "value": {"grandchild": {}}}],
        {"foo": "bar", "child": {"grandchild": {}}},
    ),
    "A.11": ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux", "xyz": 123}], {"foo": "bar", "baz": "qux"}),
    "A.14": ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
    "A.16": (
        {"foo": ["bar"]},
        [{"op": "add", "path": "/foo/-", "value": ["abc", "def"]}],
        {"foo": ["bar", ["abc", "def"]]},
    ),
    "copy": ({"a": [1]}, [{"op": "copy", "from": "/a", "path": "/b"}, {"op": "add", "path": "/b/0", "value": 0}],
             {"a": [1], "b": [0, 1]}),
    "root": ({"a": {"b": 1}}, [{"op": "move", "from": "/a", "path": ""}], {"b": 1}),
    "replace root": ([1], [{"op": "replace", "path": "", "value": None}], None),
    "empty key": ({"": {"": 1}}, [{"op": "replace", "path": "//", "value": 2}], {"": {"": 2}}),
    "null value": ({"a": 1}, [{"op": "add", "path": "/a", "value": None}], {"a": None}),
    "move to itself": ({"a": 1}, [{"op": "move", "from": "/a", "path": "/a"}], {"a": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", APPENDIX)
def test_operations_as_in_the_rfc(name: str) -> None:
    value, operations, expected = APPENDIX[name]
    before = json.dumps(value)
    assert apply(value, operations) == expected
    assert json.dumps(value) == before


@pytest.mark.parametrize(
    ("value", "operation", "said"),
    [
        ({"baz": "qux"}, {"op": "test", "path": "/baz", "value": "bar"}, "/baz is not the value"),
        ({"foo": "bar"}, {"op": "add", "path": "/baz/bat", "value": 1}, "/baz is not there"),
        ({"foo": "bar"}, {"op": "add", "path": "/foo/bat", "value": 1}, "/foo/bat is not there"),
        ({"/": 9, "~1": 10}, {"op": "test", "path": "/~01", "value": "10"}, "/~01 is not the value"),
        ({"a": True}, {"op": "test", "path": "/a", "value": 1}, "/a is not the value"),
        ({"a": {"b~/": 1}}, {"op": "remove", "path": "/a/b~0~1/x"}, "/a/b~0~1/x is not there"),
        ({}, {"op": "remove", "path": "/a"}, "/a is not there"),
        ({}, {"op": "replace", "path": "/a", "value": 1}, "/a is not there"),
        ([1], {"op": "add", "path": "/2", "value": 1}, "/2 is not there"),
        ([1], {"op": "remove", "path": "/1"}, "/1 is not there"),
        ([1], {"op": "remove", "path": "/-"}, "/- is not there"),
        ([1], {"op": "replace", "path": "/00", "value": 1}, "/00 is not there"),
        ([1], {"op": "replace", "path": "/-1", "value": 1}, "/-1 is not there"),
        ([1], {"op": "replace", "path": "/٠", "value": 1}, "is not there"),
        ([1], {"op": "replace", "path": "/1e0", "value": 1}, "/1e0 is not there"),
        ([1], {"op": "remove", "path": "/" + "9" * 5000}, "is not there"),
        ({"a": {}}, {"op": "move", "from": "/a", "path": "/a/b"}, "/a cannot move into itself, to /a/b"),
        ({"a": {}}, {"op": "copy", "from": "/b", "path": "/a"}, "/b is not there"),
        ({}, {"op": "remove", "path": ""}, "the whole value cannot be removed"),
        ({}, {"op": "add", "path": "a", "value": 1}, "not a JSON Pointer"),
        ({}, {"op": "add", "path": "/~2", "value": 1}, "not a JSON Pointer"),
        ({}, {"op": "add", "path": None, "value": 1}, "not a JSON Pointer"),
        ({}, {"op": "add", "path": "/a"}, "no member 'value'"),
        ({}, {"op": "add", "value": 1}, "no member 'path'"),
        ({}, {"path": "/a", "value": 1}, "no member 'op'"),
        ({"a": 1}, {"op": "move", "path": "/a"}, "no member 'from'"),
        ({}, {"op": "spam", "path": "/a", "value": 1}, "'spam' is not an operation"),
        ({}, "add", "not an object"),
    ],
)  # fmt: skip
def test_what_cannot_be_applied_is_named(value: Any, operation: Any, said: str) -> None:
    before = json.dumps(value)
    with pytest.raises(ValueError) as raised:
        apply(value, [{"op": "test", "path": "", "value": value}, operation])
    assert str(raised.value).startswith("operation 1: ")
    assert said in str(raised.value)
    assert json.dumps(value) == before


def test_nothing_is_shared_with_the_result() -> None:
    shared = {"x": 1}
    value = {"a": shared, "b": shared}
    changed = apply(value, [{"op": "replace", "path": "/a/x", "value": 2}])
    assert changed == {"a": {"x": 2}, "b": {"x": 1}}
    assert shared == {"x": 1}


def test_a_changed_field_is_one_replacement_at_its_pointer() -> None:
    old = {"graph": {"nodes": [{"id": "1", "data": {"a/b~c": 1, "text": "one"}}, {"id": "2", "data": {}}]}}
    new = {"graph": {"nodes": [{"id": "1", "data": {"a/b~c": 2, "text": "one"}}, {"id": "2", "data": {}}]}}
    assert patch(old, new) == [{"op": "replace", "path": "/graph/nodes/0/data/a~1b~0c", "value": 2}]


def test_named_items_are_found_after_a_move_and_a_change() -> None:
    old = [{"id": name, "text": f"the text of {name}", "on": True} for name in "abcd"]
    new = [old[3], {**old[0], "on": False}, old[1], {"id": "e", "text": "the text of e"}]
    assert patch(old, new) == [
        {"op": "remove", "path": "/2"},
        {"op": "move", "from": "/2", "path": "/0"},
        {"op": "add", "path": "/3", "value": {"id": "e", "text": "the text of e"}},
        {"op": "replace", "path": "/1/on", "value": False},
    ]


def test_a_renamed_key_is_a_move_unless_its_value_is_short() -> None:
    text = "a text that is long enough"
    assert patch({"a": text, "b": 1, "k": text}, {"c": text, "d": 1, "k": text}) == [
        {"op": "remove", "path": "/b"},
        {"op": "move", "from": "/a", "path": "/c"},
        {"op": "add", "path": "/d", "value": 1},
    ]


def test_what_changed_in_most_parts_is_replaced_as_a_whole() -> None:
    old, new = {"a": list(range(100)), "b": 1}, {"a": list(range(100, 200)), "b": 1}
    assert patch(old, new) == [{"op": "replace", "path": "/a", "value": new["a"]}]
    assert patch({"a": 1}, [1]) == [{"op": "replace", "path": "", "value": [1]}]


def test_numbers_and_booleans_are_not_the_same() -> None:
    assert patch([1, 0], [True, False]) != []
    assert patch({"a": float("nan")}, {"a": float("nan")}) == []


NESTED_LEVELS, WIDE = 190, 20_000


def nested(levels: int, innermost: Any) -> Any:
    value = innermost
    for level in range(levels):
        value = [level, value] if level % 2 else {"k" * 50: value}
    return value


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (nested(NESTED_LEVELS, list(range(WIDE))), nested(NESTED_LEVELS, list(range(1, WIDE)))),
        (nested(NESTED_LEVELS, [0] * WIDE), nested(NESTED_LEVELS, [1] * WIDE)),
        (list(range(WIDE)), [number * 7 % 20_011 for number in range(WIDE)]),
        ([0, 1] * WIDE, [1, 0, 0] * WIDE),
        ([[number] for number in range(WIDE)], [[number] for number in range(WIDE, 0, -1)]),
        ({str(number): number for number in range(WIDE)}, {str(number): number for number in range(5, WIDE)}),
        (
            {"k" * 5000: {str(number): "a text of some length" for number in range(200)}},
            {"k" * 5000: {str(number): "a text of some length" + "!" * (number % 2) for number in range(200)}},
        ),
    ],
    ids=["deep and shifted", "deep and all changed", "shuffled", "repeated", "reversed", "keys", "long keys"],
)
def test_hostile_values_have_a_patch_of_bounded_size(old: Any, new: Any) -> None:
    operations = patch(old, new)
    assert apply(old, operations) == new
    assert len(json.dumps(operations)) <= 20 * len(json.dumps(new))

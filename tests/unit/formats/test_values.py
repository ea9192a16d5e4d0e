"""Differences by path, hidden secrets, cut texts."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from registry.formats import compare, limits
from registry.formats.model import Change
from registry.formats.secrets.masking import HIDDEN, mask
from registry.formats.values.align import line_diff
from registry.formats.values.canonical import same, surely_same
from registry.formats.values.compare import Listing, differences
from registry.formats.values.names import Names


def lines(old: Any, new: Any) -> list[tuple[str, str, Any, Any]]:
    return [(c.sign, c.path, c.old, c.new) for c in differences(old, new, Listing())]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, [("~", "a", 1, 2)]),
        ({"a": 1}, {"a": True}, [("~", "a", 1, True)]),
        ({"a": 1}, {"a": "1"}, [("~", "a", 1, "1")]),
        ({"a": None}, {}, [("-", "a", None, None)]),
        ({}, {"a": {"b": 1}}, [("+", "a", None, {"b": 1})]),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}, [("~", "a.b.c", 1, 2)]),
        ({"a.b": 1, "c d": 1}, {"a.b": 2, "c d": 2}, [("~", '["a.b"]', 1, 2), ("~", '["c d"]', 1, 2)]),
        ({"a": [1]}, {"a": {"b": 1}}, [("~", "a", [1], {"b": 1})]),
        ([1, 2, 3], [1, 9, 2, 3], [("+", "[1]", None, 9)]),
        ([1, 2, 3], [1, 3], [("-", "[1]", 2, None)]),
        ([1, 2, 3], [1, 7, 3], [("~", "[1]", 2, 7)]),
        ([1, 1, 2], [2, 1, 1], [("+", "[0]", None, 2), ("-", "[2]", 2, None)]),
        ([{"x": 1}, {"x": 2}], [{"x": 1}, {"x": 3}], [("~", "[1].x", 2, 3)]),
        (
            [{"id": "a", "v": 1}, {"id": "b", "v": 1}],
            [{"id": "a", "v": 2}, {"id": "b", "v": 1}],
            [("~", "[a].v", 1, 2)],
        ),
        (
            [{"name": "a"}, {"name": "b"}],
            [{"name": "b"}, {"name": "c"}, {"name": "a"}],
            [("+", "[c]", None, {"name": "c"}), ("~", "[order]", ["a", "b"], ["b", "a"])],
        ),
        # ids that were all made anew say nothing: the next name, or the place, decides
        ([{"id": "1", "name": "a", "v": 1}], [{"id": "2", "name": "a", "v": 1}], [("~", "[a].id", "1", "2")]),
        ([{"id": "1"}], [{"id": "2"}], [("~", "[0].id", "1", "2")]),
        ([{"id": "1"}, {"id": "1"}], [{"id": "1"}], [("-", "[1]", {"id": "1"}, None)]),
        (float("nan"), float("nan"), []),
        ({"a": float("inf")}, {"a": float("nan")}, [("~", "a", ".inf", ".nan")]),
        ({"a": 2**70}, {"a": 2**70 + 1}, [("~", "a", str(2**70), str(2**70 + 1))]),
    ],
)
def test_differences(old: Any, new: Any, expected: list[tuple[str, str, Any, Any]]) -> None:
    assert lines(old, new) == expected


@pytest.mark.parametrize(
    ("value", "hidden"),
    [
        ({"api_key": "abc"}, {"api_key": HIDDEN}),
        (
            {"API-KEY": "abc", "db_password": "x", "accessToken": "y"},
            {"API-KEY": HIDDEN, "db_password": HIDDEN, "accessToken": HIDDEN},
        ),
        ({"password": 123456, "token": ["a", "b"]}, {"password": HIDDEN, "token": [HIDDEN, HIDDEN]}),
        ({"credentials": {"user": "u", "pass": "p"}}, {"credentials": {"user": HIDDEN, "pass": HIDDEN}}),
        ({"max_tokens": 512, "token_limit": "9"}, {"max_tokens": 512, "token_limit": "9"}),
        ({"api_key": "{{#env.KEY#}}"}, {"api_key": "{{#env.KEY#}}"}),
        ({"authorization": "Bearer {{#env.KEY#}}"}, {"authorization": "Bearer {{#env.KEY#}}"}),
        ({"secret": ""}, {"secret": ""}),
        ({"secret": "[__HIDDEN__]"}, {"secret": "[__HIDDEN__]"}),
        ({"secret": "********"}, {"secret": "********"}),
        ({"secret": None, "token": True}, {"secret": None, "token": True}),
        ({"name": "X", "value_type": "secret", "value": "abc"}, {"name": "X", "value_type": "secret", "value": HIDDEN}),
        ({"key": "X-Api-Key", "value": "abc"}, {"key": "X-Api-Key", "value": HIDDEN}),
        (
            {"authorization": {"type": "api-key", "config": {"type": "bearer", "api_key": "abc"}}},
            {"authorization": {"type": "api-key", "config": {"type": "bearer", "api_key": HIDDEN}}},
        ),
        ("call with sk-abcdefghijklmnop1234 now", f"call with {HIDDEN} now"),
        ({"sk-abcdefghijklmnop1234": None}, {HIDDEN: None}),
        ("Authorization: Bearer abcdef123456789", f"Authorization: Bearer {HIDDEN}"),
        ("https://host/sse?key=e885352242081624&x=1", f"https://host/sse?key={HIDDEN}&x=1"),
        ("postgres://me:hunter2@db/x", f"postgres://me:{HIDDEN}@db/x"),
        ('password = "abcdef123456"', f'password = "{HIDDEN}"'),
        ("token = make_token(12)", "token = make_token(12)"),
        ("AKIAABCDEFGHIJKLMNOP", HIDDEN),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\nafter", f"{HIDDEN}\nafter"),
        ("The password must be long.", "The password must be long."),
    ],
)
def test_secrets_are_hidden(value: Any, hidden: Any) -> None:
    assert mask(value) == hidden


def test_a_changed_secret_is_listed_and_hidden() -> None:
    found = compare(b'{"api_key": "one-one-one"}', b'{"api_key": "two-two-two"}')
    assert found.changes == [Change(sign="~", path="api_key", old=HIDDEN, new=HIDDEN, masked=True)]
    assert b"one-one" not in msgspec.json.encode(found)
    assert b"two-two" not in msgspec.json.encode(found)


def test_secrets_are_hidden_in_every_form_of_change() -> None:
    secret = "sk-abcdefghijklmnop1234"
    texts = [
        (b"line\n", f"line\nkey {secret}\n".encode()),
        (b"{}", json.dumps({"list": [{"key": secret, "v": 1}]}).encode()),
        (b'{"a": "x\\ny"}', json.dumps({"a": f"x\n{secret}\ny"}).encode()),
        (
            json.dumps({"list": [{"key": secret, "v": 1}]}).encode(),
            json.dumps({"list": [{"key": secret, "v": 2}]}).encode(),
        ),
    ]
    for old, new in texts:
        found = msgspec.json.encode(compare(old, new))
        assert secret.encode() not in found
        assert HIDDEN.encode() in found


def test_long_texts_show_where_they_begin_to_differ() -> None:
    old = "same " * 200 + "left" + " tail" * 200
    new = "same " * 200 + "right" + " tail" * 200
    (change,) = differences(old, new, Listing())
    assert change.old.startswith("…")
    assert "left tail" in change.old
    assert "right tail" in change.new
    assert change.old.endswith(f"({len(old)} characters)")
    assert len(change.new) < limits.VALUE_CHARS + 40


def test_large_structures_are_cut_and_say_so() -> None:
    (change,) = differences({}, {"a": list(range(5000))}, Listing())
    assert change.new.endswith("characters of JSON)")
    assert len(change.new) < limits.STRUCTURE_CHARS + 60


def test_no_change_is_dropped_silently() -> None:
    many = {f"k{index}": index for index in range(limits.CHANGES + 5)}
    found = compare(json.dumps(many).encode(), json.dumps(dict.fromkeys(many, "x")).encode())
    assert len(found.changes) == limits.CHANGES
    assert found.omitted == 5
    assert found.summary == f"{limits.CHANGES} values changed, 5 more"


def test_line_diff_is_unified() -> None:
    old = "".join(f"{number}\n" for number in range(20))
    new = old.replace("5\n", "five\n", 1).replace("7\n", "", 1)
    assert line_diff(old, new) == (
        ["@@ -4,7 +4,6 @@", " 3", " 4", "-5", "+five", " 6", "-7", " 8", " 9"],
        1,
        2,
    )
    assert line_diff("a\n", "b\n")[0] == ["@@ -1,1 +1,1 @@", "-a", "+b"]
    assert line_diff("", "b\n")[0] == ["@@ -1,0 +1,1 @@", "+b"]


def test_a_long_line_diff_counts_what_it_cuts() -> None:
    old, new = "".join(f"a{n}\n" for n in range(300)), "".join(f"b{n}\n" for n in range(300))
    shown, plus, minus = line_diff(old, new)
    assert (plus, minus, len(shown)) == (300, 300, limits.DIFF_LINES + 1)
    assert shown[-1] == f"… {600 - (limits.DIFF_LINES - 1)} more changed lines"


def test_repetitive_lists_end_soon() -> None:
    """Two lists of few distinct items are what makes aligning quadratic: they are paired by place instead."""
    old, new = ["a", "b"] * 3000, ["b", "b", "a"] * 2000
    found = differences(old, new, Listing(changes=10_000))
    assert len(found) == sum(a != b for a, b in zip(old, new, strict=True))


@pytest.mark.parametrize(
    ("old", "new", "summary"),
    [
        (b"a\n", b"a\n", "identical"),
        (b'{"a": 1}', b"a: 1.0\n", "the same value, written differently"),
        (b'{"a": 1, "b": 2}', b'{"a": 3, "c": 2}', "1 value changed, 1 added, 1 removed"),
        (b'{"a": 1, "b": 2}', b'{"a": 1}', "1 removed"),
        (b"a\nb\n", b"a\nc\nd\n", "2 lines added, 1 line removed"),
        (b"a\nb\n", b"a\r\nb\r\n", "only line ends or the byte order mark differ"),
        (b"\0\1", b"\0\1\2", "different bytes, 2 -> 3 bytes"),
        (b"words\n", b"\xff", "different bytes, 6 -> 1 bytes"),
        (b"words\n", b'{"a": 1}', "1 line added, 1 line removed"),
        (b"a = 1\n", b"a: 2\n", "1 value changed"),
    ],
)
def test_summaries_of_plain_contents(old: bytes, new: bytes, summary: str) -> None:
    assert compare(old, new).summary == summary


@pytest.mark.parametrize(
    ("old", "new", "equal"),
    [
        (1, True, False),
        (0, False, False),
        ([1], [True], False),
        ({"a": [0]}, {"a": [False]}, False),
        (1, "1", False),
        (None, [], False),
        ([], {}, False),
        (float("nan"), float("nan"), True),
        ([float("nan")], [float("nan")], True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        (0.1 + 0.2, 0.3, False),
        ("é", "e\u0301", False),
    ],
)
def test_sameness_is_that_of_canonical_values(old: Any, new: Any, equal: bool) -> None:
    names = Names()
    assert same(old, new) is equal
    assert (names.of(old) == names.of(new)) is equal
    assert bool(differences({"x": old}, {"x": new}, Listing())) is not equal
    assert not surely_same(old, new) or equal


def test_what_changed_far_down_is_found() -> None:
    old, new = 1, True
    for _ in range(12):
        old, new = {"k": old, "same": [1, 2]}, {"k": new, "same": [1, 2]}
    assert lines(old, new) == [("~", ".".join("k" * 12), 1, True)]

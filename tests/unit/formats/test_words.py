"""Changed texts by word: exact where they are shown whole, bounded, and empty where they would say nothing."""

from __future__ import annotations

import json
import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.formats import compare, limits
from registry.formats.values.align import Work
from registry.formats.values.words import Word, by_line, sides, text_changes, tokens
from tests.unit.formats.kit import FIRST, changed, data

TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
PROSE = st.lists(st.sampled_from(["the", "model", "answers", ",", " ", "\n", "你", "好", "!"]), max_size=40).map(
    "".join
)


def words(old: str, new: str) -> list[Word]:
    return text_changes(old, new, Work())[1]


def read(pieces: list[Word], side: str) -> str:
    return "".join(text for op, text in pieces if op in ("=", side))


@settings(deadline=None)
@given(TEXT | PROSE)
def test_tokens_are_the_text(text: str) -> None:
    assert "".join(tokens(text)) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Be polite, please.", ["Be", " ", "polite", ",", " ", "please", "."]),
        ("gpt_4o 日本語テスト。", ["gpt_4o", " ", "日", "本", "語", "テ", "ス", "ト", "。"]),
        ("用GPT回答", ["用", "GPT", "回", "答"]),
        ("안녕 세계", ["안녕", " ", "세계"]),
        ("नमस्ते दुनिया", ["नमस्ते", " ", "दुनिया"]),
        ("か\u3099め", ["か\u3099", "め"]),
        ("a👩\u200d💻b", ["a👩\u200d💻b"]),
        ("{{#1001.text#}}", ["{", "{", "#", "1001", ".", "text", "#", "}", "}"]),
    ],
)
def test_what_a_word_is(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


def test_words_of_one_line() -> None:
    assert words("You are a polite assistant.", "You are a short, blunt assistant.") == [
        ("=", "You are a "),
        ("-", "polite"),
        ("+", "short, blunt"),
        ("=", " assistant."),
    ]
    assert words("请用礼貌的语气回答用户提出的每一个具体问题。", "请用简短的语气回答用户提出的每一个具体问题。")[
        :3
    ] == [
        ("=", "请用"),
        ("-", "礼貌"),
        ("+", "简短"),
    ]


@settings(deadline=None)
@given(PROSE, PROSE)
def test_the_words_of_a_line_hold_both_texts(old: str, new: str) -> None:
    old, new = (text.replace("\n", " ")[: limits.WORDS_AROUND_CHARS] for text in (old, new))
    if pieces := words(old, new):
        assert (read(pieces, "-"), read(pieces, "+")) == (old, new)


@settings(deadline=None)
@given(PROSE, PROSE)
def test_the_words_of_lines_hold_the_lines_of_the_diff(old: str, new: str) -> None:
    lines, pieces = text_changes(f"{old}\n.", f"{new}\n.", Work())
    if not pieces or any(op == "@" and not text.startswith("@@") for op, text in pieces):
        return
    for side in "-+":
        shown = [line for line in lines if line[0] in (" ", side)]
        assert read(pieces, side).splitlines() == [line[1:] for line in shown]


def test_words_inside_changed_lines() -> None:
    old = "Rules:\nAlways be polite to the customer.\nUse English.\n"
    new = "Rules:\nAlways be short with the customer.\nNever promise money.\nUse English.\n"
    assert list(by_line(words(old, new))) == [
        ("@", "@@ -1,3 +1,4 @@"),
        (" ", "Rules:"),
        ("~", "Always be [-polite to-]{+short with+} the customer."),
        ("+", "Never promise money."),
        (" ", "Use English."),
    ]
    assert sides(words(old, new)) == (
        "Always be [-polite to-] the customer.",
        "Always be {+short with+} the customer.\nNever promise money.",
    )


def test_lines_that_changed_places_are_not_paired_crosswise() -> None:
    old = "The first rule is about money.\nThe other one says be polite.\n"
    new = "The other one says be very polite.\nThe first rule is about all money.\n"
    pieces = words(old, new)
    assert read(pieces[1:], "-") == old
    assert read(pieces[1:], "+") == new


def test_blank_lines_that_go_are_gone() -> None:
    old, new = "first line of it\n\nlast line of this\n", "first line of it\nlast line of that\n"
    assert list(by_line(words(old, new)))[2:] == [("-", ""), ("~", "last line of [-this-]{+that+}")]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("short", "other"),
        ("nothing of this remains there", "all words have been replaced by others"),
        ("equal texts have no words", "equal texts have no words"),
        ("one\ntwo", "three\nfour"),
    ],
)
def test_no_words_where_they_say_nothing(old: str, new: str) -> None:
    assert words(old, new) == []


def test_long_unchanged_text_is_cut() -> None:
    before, after = "a word " * 500, " and so on" * 500
    pieces = words(f"{before}old{after}", f"{before}new{after}")
    assert [op for op, _ in pieces] == ["@", "=", "-", "+", "=", "@"]
    assert sum(len(text) for _, text in pieces) < 2 * limits.WORDS_AROUND_CHARS + 20


def test_many_changes_are_cut_and_said_to_be() -> None:
    old = " ".join(f"same{number} old{number} same too" for number in range(2000))
    pieces = words(old, re.sub("old", "new", old))
    assert sum(len(text) for _, text in pieces) <= limits.WORDS_CHARS + 3
    assert pieces[-1] == ("@", "…\n")


def test_work_that_runs_out_leaves_the_lines() -> None:
    old, new = "a line\nwith some words here\n", "a line\nwith other words here\n"
    assert text_changes(old, new, Work(10)) == (text_changes(old, new, Work())[0], [])


def test_very_long_texts_are_compared_by_line_only() -> None:
    long = "some words\n" * (limits.WORDS_TEXT_CHARS // 20)
    lines, pieces = text_changes(f"{long}and the last line", f"{long}and the very last line", Work())
    assert (lines[-2:], pieces) == (["-and the last line", "+and the very last line"], [])
    assert words("word " * limits.WORDS_TEXT_CHARS + "a", "word " * limits.WORDS_TEXT_CHARS + "b") == []


def test_hostile_texts_take_bounded_work() -> None:
    work = Work()
    for number in range(300):
        text_changes("a b " * 2000 + str(number), "b a " * 2000, work)
        text_changes("a b\n" * 2000 + str(number), "b a\n" * 2000, work)
    assert work.left > -10 * limits.ALIGN_WORK


def test_secrets_are_hidden_before_words_are_made() -> None:
    old = "Call the service with sk-abcdefghijklmnop1234 and wait."
    new = "Call the service with sk-zyxwvutsrqponmlk9876 and do not wait."
    found = changed(lambda value: None)
    assert found.identical
    found = compare(json.dumps({"prompt": old}).encode(), json.dumps({"prompt": new}).encode())
    (change,) = found.changes
    assert change.masked
    assert read(change.words, "+") == "Call the service with (secret) and do not wait."
    assert b"abcdefghijklmnop1234" not in msgspec.json.encode(found)
    assert b"zyxwvutsrqponmlk9876" not in msgspec.json.encode(found)


def test_prompts_and_text_files_have_words() -> None:
    new = "Be polite to everybody. {{#1001.vip#}}"
    found = changed(lambda value: data(value, FIRST)["prompt_template"][0].update(text=new))
    (change,) = found.nodes.changed[0].changes
    assert ("+", " to everybody") in change.words
    text = compare(b"Answer the question.\nBe polite always.\n", b"Answer the question.\nBe polite today.\n")
    assert list(by_line(text.words))[-1] == ("~", "Be polite [-always-]{+today+}.")

"""Aligning two lists: right always, complete where it is cheap, and bounded where it is not."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.formats.values import align
from registry.formats.values.align import Work, stretches

WORDS = st.lists(st.sampled_from("abcd"), max_size=12)


def rebuilt(old: list[str], new: list[str]) -> tuple[list[str], list[str]]:
    """`new` made of `old` and the stretches, and `old` of `new`."""
    forth, back = list(old), list(new)
    for a, b, c, d in reversed(stretches(old, new)):
        forth[a:b] = new[c:d]
        back[c:d] = old[a:b]
    return forth, back


@settings(deadline=None)
@given(WORDS, WORDS)
def test_stretches_turn_one_list_into_the_other(old: list[str], new: list[str]) -> None:
    assert rebuilt(old, new) == (new, old)
    assert bool(stretches(old, new)) == (old != new)


@pytest.mark.parametrize("work", [0, 5, 50, 500])
def test_stretches_are_right_when_work_runs_out(work: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(align, "ALIGN_WORK", work)
    dice = random.Random(7)
    for _ in range(200):
        old = [dice.choice("abcdefgh") + dice.choice("xy") for _ in range(dice.randrange(20))]
        new = [dice.choice("abcdefgh") + dice.choice("xy") for _ in range(dice.randrange(20))]
        assert rebuilt(old, new) == (new, old)


def test_unique_items_hold_long_lists_together() -> None:
    old = [str(number) for number in range(50_000)]
    new = ["first", *old[:20_000], "middle", *old[20_001:49_000], "last"]
    assert stretches(old, new) == [(0, 0, 0, 1), (20_000, 20_001, 20_001, 20_002), (49_000, 50_000, 49_001, 49_002)]


def test_lists_without_order_in_common_end_soon() -> None:
    old = [str(number) for number in range(50_000)]
    new = [str(number * 7 % 50_021) for number in range(50_000)]
    assert rebuilt(old, new) == (new, old)


def test_work_is_shared_and_without_it_only_unique_items_hold() -> None:
    old, new = list("axbxcx"), list("xaxbxc")
    work = Work(1000)
    assert stretches(old, new, work) == [(0, 0, 0, 1), (5, 6, 6, 6)]
    assert work.left < 1000
    work.left = 0
    assert stretches(old, new, work) == [(0, 0, 0, 1), (1, 2, 2, 3), (3, 4, 4, 5), (5, 6, 6, 6)]


def test_junk_holds_nothing_together() -> None:
    assert stretches(list("a b"), list("c d")) == [(0, 1, 0, 1), (2, 3, 2, 3)]
    assert stretches(list("a b"), list("c d"), junk=str.isspace) == [(0, 3, 0, 3)]

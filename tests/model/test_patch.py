"""A patch turns the old value into the new one, whatever they are."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from registry.formats import limits
from registry.formats.values.canonical import canonical, number
from registry.formats.values.patch import apply, patch

KEYS = st.sampled_from(["a", "b", "c", "id", "", "/", "~", "~1", "0", "-", "ключ"]) | st.text(max_size=3)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**300, 10**301)
    | st.floats().map(number)
    | st.text(max_size=30)
    | st.sampled_from(["a text of more than twenty characters", 0, 1, True, ""])
)
VALUES = st.recursive(LEAVES, lambda v: st.lists(v, max_size=6) | st.dictionaries(KEYS, v, max_size=5), max_leaves=30)
NAMED = st.lists(
    st.fixed_dictionaries({"id": st.sampled_from("abcdefgh"), "v": st.integers(0, 2)}),
    max_size=8,
    unique_by=lambda item: item["id"],
)


@st.composite
def edited(draw: st.DrawFn) -> tuple[Any, Any]:
    """A value, and the same with parts of it replaced, dropped, added, moved or repeated."""
    old = draw(VALUES)

    def edit(value: Any) -> Any:
        if draw(st.integers(0, 5)) == 0:
            return draw(VALUES)
        if isinstance(value, dict):
            out = {key: edit(item) for key, item in value.items() if draw(st.integers(0, 4))}
            return {draw(KEYS) if draw(st.integers(0, 4)) == 0 else key: item for key, item in out.items()}
        if isinstance(value, list):
            out_list = [edit(item) for item in value if draw(st.integers(0, 4))]
            return draw(st.permutations(out_list)) if draw(st.booleans()) else out_list * draw(st.integers(1, 2))
        return value

    return old, edit(old)


def check(old: Any, new: Any) -> None:
    before = canonical(old)
    operations = patch(old, new)
    assert canonical(apply(old, operations)) == canonical(new)
    assert canonical(old) == before
    assert bool(operations) == (before != canonical(new))


@settings(max_examples=150, deadline=None)
@given(VALUES, VALUES)
def test_a_patch_between_any_two_values(old: Any, new: Any) -> None:
    check(old, new)


@settings(max_examples=200, deadline=None)
@given(edited())
def test_a_patch_between_versions_of_one_value(pair: tuple[Any, Any]) -> None:
    check(*pair)


@settings(max_examples=100, deadline=None)
@given(NAMED, NAMED)
def test_a_patch_between_lists_of_named_items(old: list[Any], new: list[Any]) -> None:
    check(old, new)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=14), st.lists(st.integers(0, 4), max_size=14))
def test_a_patch_between_lists_of_repeated_items(old: list[int], new: list[int]) -> None:
    check([[number, "wide enough"] for number in old], [[number, "wide enough"] for number in new])


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_a_value_is_its_own_copy(value: Any) -> None:
    assert patch(value, copy.deepcopy(value)) == []


@settings(max_examples=100, deadline=None)
@given(edited())
def test_a_patch_stays_in_proportion_to_the_new_value(pair: tuple[Any, Any]) -> None:
    old, new = pair
    operations = patch(old, new)
    assert len(operations) * limits.PATCH_STEP_CHARS <= 2 * len(canonical(new)) + 5 * limits.PATCH_STEP_CHARS

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.core import limits, needs
from registry.core.errors import Invalid, Reason
from registry.core.needs import Need

# Each before the next.
ORDER = [
    "0.9", "1.0.dev3", "1.0.0-alpha", "1.0a1", "1.0.0-beta.2", "1.0b10", "1.0rc1", "v1.0-rc.2", "1.0", "1.0-1",
    "1.0.post1", "1.0.1", "1.9", "1.10.0rc1", "1.10", "2", "2026.11.23",
]  # fmt: skip
SAME = [
    ("1.9", "1.9.0"),
    ("v1.9", "1.9"),
    ("1.9+cu12", "1.9"),
    ("1.0-rc.1", "1.0rc1"),
    ("1.0RC1", "1.0-c-1"),
    ("0", "0.0"),
]
NUMBERS = st.lists(st.integers(0, 30), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("text", "need"),
    [
        ("dify>=1.9", Need("dify", ">=", "1.9")),
        ("dsl<0.6", Need("dsl", "<", "0.6")),
        ("plugin:langgenius/openai", Need("plugin:langgenius/openai")),
        ("plugin:langgenius/openai!=0.2.6", Need("plugin:langgenius/openai", "!=", "0.2.6")),
        ("cap:gpu", Need("cap:gpu")),
        ("agent==v0.2-rc.1+build", Need("agent", "==", "v0.2-rc.1+build")),
        ("a>1", Need("a", ">", "1")),
        ("a<=1", Need("a", "<=", "1")),
    ],
)
def test_a_need_is_a_name_or_a_name_with_a_version(text: str, need: Need) -> None:
    assert needs.parse(text) == need
    assert str(need) == text


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "dify >= 1.9", "dify>=", ">=1.9", "dify>=x", "dify=1.9", "dify=>1.9", "dify>=1.9,<2", "dify>=1.9\n",
        "dify>=1..9", "Ä", "a" * (limits.NEED_CHARS + 1), "dify>=1." + "9" * 19, "dify>=1.9 ", "dify>>1", "/x",
        "dify!1",
    ],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        needs.parse(text)
    assert refused.value.reason is Reason.INVALID_REQUEST
    assert "dify>=1.9" in refused.value.hint


def test_versions_have_an_order() -> None:
    for place, version in enumerate(ORDER):
        for other in ORDER[:place]:
            assert needs.unmet([f"x>{other}"], {"x": version}) == [], (version, other)
            assert needs.unmet([f"x<={other}"], {"x": version}), (version, other)


@pytest.mark.parametrize(("one", "other"), SAME)
def test_versions_that_are_the_same(one: str, other: str) -> None:
    assert needs.unmet([f"x=={one}", f"x>={one}", f"x<={one}"], {"x": other}) == []
    assert len(needs.unmet([f"x!={one}", f"x>{one}", f"x<{one}"], {"x": other})) == 3


def test_what_is_not_met_is_said_in_words() -> None:
    facts = {"dify": "1.8.1", "cap:gpu": "", "agent": "0.2.0", "dsl": "unknown"}
    assert needs.unmet(["agent>=0.2", "cap:gpu"], facts) == []
    assert needs.unmet(["dify>=1.9", "plugin:a/b", "cap:gpu>=2", "dsl<0.6", "later~=1"], facts) == [
        "needs dify>=1.9, and 1.8.1 is here",
        "needs plugin:a/b, and nothing is known of plugin:a/b here",
        "needs cap:gpu>=2, and which version of cap:gpu is here is not known",
        "needs dsl<0.6, and 'unknown' is no version that can be compared",
        "needs 'later~=1', which this release cannot judge",
    ]
    assert needs.unmet(["dsl"], facts) == []
    assert needs.unmet([], {}) == []


@given(NUMBERS, NUMBERS, st.sampled_from(["==", "!=", ">=", "<=", ">", "<"]))
def test_numbers_compare_as_numbers(want: list[int], have: list[int], operator: str) -> None:
    length = max(len(want), len(have))
    padded_want, padded_have = (each + [0] * (length - len(each)) for each in (want, have))
    expected = {
        "==": padded_have == padded_want,
        "!=": padded_have != padded_want,
        ">=": padded_have >= padded_want,
        "<=": padded_have <= padded_want,
        ">": padded_have > padded_want,
        "<": padded_have < padded_want,
    }[operator]
    unmet = needs.unmet([f"x{operator}{'.'.join(map(str, want))}"], {"x": ".".join(map(str, have))})
    assert (not unmet) is expected


@given(st.text(), st.dictionaries(st.text(), st.text(), max_size=3))
def test_whatever_is_said_is_judged_or_refused(text: str, facts: dict[str, str]) -> None:
    try:
        assert str(needs.parse(text)) == text
    except Invalid:
        assert needs.unmet([text], facts), "what cannot be judged is not met"


TEXTS = st.from_regex(r"v?[0-9]{1,3}(\.[0-9]{1,3}){0,3}(-?(rc|beta|a|dev|post|x)\.?[0-9]{0,2})?", fullmatch=True)


@given(TEXTS, TEXTS, TEXTS)
def test_the_order_is_total(one: str, two: str, three: str) -> None:
    def at_most(left: str, right: str) -> bool:
        return not needs.unmet([f"x<={right}"], {"x": left})

    assert at_most(one, two) or at_most(two, one)
    assert (at_most(one, two) and at_most(two, one)) is (not needs.unmet([f"x=={two}"], {"x": one}))
    if at_most(one, two) and at_most(two, three):
        assert at_most(one, three)

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.core.errors import Invalid, Reason
from registry.core.references import DigestPrefix, Named, Newest, Number, Reference, Semver, Target, parse, parse_target


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("ns/name", Newest()),
        ("ns/name@3", Number(3)),
        ("ns/name@active", Named("active")),
        ("ns/name@active~1", Named("active", 1)),
        ("ns/name@canary~12", Named("canary", 12)),
        ("ns/name@sha256:ab12cd", DigestPrefix("sha256:ab12cd")),
        ("ns/name@sha256:" + "ab" * 32, DigestPrefix("sha256:" + "ab" * 32)),
        ("ns/name@v1.4.0", Semver("1.4.0")),
        ("ns/name@1.4.0", Semver("1.4.0")),
        ("ns/name@v1.4.0-rc.1", Semver("1.4.0-rc.1")),
    ],
)
def test_the_grammar(text: str, target: Target) -> None:
    reference = parse(text)
    assert reference == Reference("ns/name", target)
    assert parse(str(reference)) == reference


def test_upper_case_digests_are_the_same() -> None:
    assert parse_target("sha256:AB12CD") == DigestPrefix("sha256:ab12cd")


@pytest.mark.parametrize(
    "target",
    [
        "0", "-1", "03x", "1.2", "v1", "active~", "active~0", "active~-1", "active~x", "active~1~1", "~1", "a b", "@",
        "sha256:", "sha256:ab12c", "sha256:xyzxyz", "sha256:" + "a" * 65, "md5:ab12cd", "9" * 30, "٣", "active\n",
        "3\n", "active~9999999999",
    ],
)  # fmt: skip
def test_not_targets(target: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_target(target)
    assert caught.value.reason is Reason.INVALID_REFERENCE
    assert "active~1" in caught.value.hint


@pytest.mark.parametrize("text", ["", "name", "ns/name/x", "@3", "ns@3", "ns/näme@3"])
def test_not_workflows(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(text)
    assert caught.value.reason is Reason.INVALID_NAME


def test_an_at_without_a_target_is_a_mistake() -> None:
    with pytest.raises(Invalid) as caught:
        parse("ns/name@")
    assert caught.value.reason is Reason.INVALID_REFERENCE


@given(st.text(max_size=40))
def test_any_text_is_a_reference_or_invalid(text: str) -> None:
    try:
        reference = parse(text)
    except Invalid:
        return
    assert parse(str(reference)) == reference

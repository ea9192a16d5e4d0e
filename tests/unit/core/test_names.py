from __future__ import annotations

from collections.abc import Callable

import pytest

from registry.core import limits, names
from registry.core.errors import Invalid, Reason


@pytest.mark.parametrize("name", ["a", "A1", "edge-1", "_x", "-x", "1", "v1.2.3", "a.b_c-d", "x" * 63])
def test_names(name: str) -> None:
    assert names.check_agent(name) == name
    assert names.check_workflow(f"{name}/{name}") == f"{name}/{name}"


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a b", "a\n", "a\0", "a/b", "a@b", "a~1", "a:b", "x" * 64, "ä", "工作", "１"]
)
def test_not_names(name: str) -> None:
    for check in (names.check_agent, lambda name: names.check_workflow(f"ns/{name}"), names.check_pointer):
        with pytest.raises(Invalid) as caught:
            check(name)
        assert caught.value.reason is Reason.INVALID_NAME
        assert "allowed are 1 to 63 of A-Z a-z 0-9 . _ -" in caught.value.hint


@pytest.mark.parametrize("name", ["triage", "a/b/c", "/b", "a/", "/", "", "a//b", "a/b/"])
def test_a_workflow_is_namespace_and_name(name: str) -> None:
    with pytest.raises(Invalid, match="namespace/name"):
        names.check_workflow(name)


def test_the_first_character_outside_ascii_is_named() -> None:
    with pytest.raises(Invalid, match=r"U\+0430 is outside ASCII"):
        names.check_workflow("support/tri\u0430ge")


def test_a_long_name_is_shown_shortened() -> None:
    with pytest.raises(Invalid) as caught:
        names.check_workflow("x" * 10_000)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["active", "a", "canary-2", "v", "version", "v1beta", "Vx.1", "stable_v2", "sha256"])
def test_pointers(name: str) -> None:
    assert names.check_pointer(name) == name


@pytest.mark.parametrize("name", ["1", "1a", "_a", "-a", "v1", "V2", "v1.2", "v1.2.3", "v1.2.3-rc.1", "v1.2.3_x.y"])
def test_pointers_start_with_a_letter_and_do_not_look_like_versions(name: str) -> None:
    with pytest.raises(Invalid, match="starts with a letter"):
        names.check_pointer(name)


def test_labels() -> None:
    names.check_labels({"ring": "canary", "team": "", "note": "日本語 text 👍🏽"})
    names.check_labels({f"k{number}": "" for number in range(limits.LABELS)})
    for labels, reason in [
        ({f"k{number}": "" for number in range(limits.LABELS + 1)}, Reason.TOO_LARGE),
        ({"a b": ""}, Reason.INVALID_NAME),
        ({"a": "x" * (limits.LABEL_VALUE_CHARS + 1)}, Reason.TOO_LARGE),
        ({"a": "two\nlines"}, Reason.INVALID_REQUEST),
        ({"a": "\x1b[31m"}, Reason.INVALID_REQUEST),
    ]:
        with pytest.raises(Invalid) as caught:
            names.check_labels(labels)
        assert caught.value.reason is reason


@pytest.mark.parametrize("check", [names.check_site, names.check_principal])
def test_site_and_principal_may_be_empty(check: Callable[[str], str]) -> None:
    assert check("") == ""


def test_principals_are_what_certificates_say() -> None:
    assert names.check_principal("CN=Ada Lovelace,O=Ünï") == "CN=Ada Lovelace,O=Ünï"
    with pytest.raises(Invalid):
        names.check_principal("x" * (limits.PRINCIPAL_CHARS + 1))


def test_digests() -> None:
    digest = "sha256:" + "0a" * 32
    assert names.check_digest(digest) == digest
    for wrong in ("0a" * 32, "sha256:" + "0A" * 32, digest + "0", digest[:-1], "sha1:" + "0a" * 32, digest + "\n"):
        with pytest.raises(Invalid):
            names.check_digest(wrong)


def test_semver_labels_have_one_key_with_and_without_v() -> None:
    assert names.semver_key("v1.4.0") == names.semver_key("1.4.0") == "1.4.0"
    assert names.semver_key("v1.0.0-rc.1+b.5") == "1.0.0-rc.1+b.5"
    for wrong in ("", "1", "1.2", "v1.2.x", "01.2.3", "1.2.3.4", "1.2.3 ", "1.2.3-" + "x" * 200):
        with pytest.raises(Invalid):
            names.semver_key(wrong)

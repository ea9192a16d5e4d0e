"""Secret values that are not kept are compared by their fingerprints."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from registry import formats
from registry.formats import Comparison, Known
from registry.formats.changelog import entry
from registry.formats.model import SecretChange
from registry.formats.render import rows
from registry.formats.secrets.redact import PLACEHOLDER
from registry.formats.unified import unified
from tests.unit.formats import kit

KEY = b"k" * 32
CHANGED = "secret value environment.TOKEN changed"


def version(values: dict[str, str], prompt: str = "Be polite.", x: int = 0) -> tuple[Known, dict[str, str]]:
    """What a registry keeps of an app with these secret environment variables: content and fingerprints."""
    app = kit.app()
    app["workflow"]["environment_variables"] = [
        {"id": name, "name": name, "value_type": "secret", "value": value} for name, value in values.items()
    ]
    llm = next(node for node in app["workflow"]["graph"]["nodes"] if node["id"] == kit.FIRST)
    llm["data"]["prompt_template"][0]["text"] = prompt
    llm["position"]["x"] = x
    content, prints, _ = formats.without_secrets(formats.read(kit.dump(app)), KEY)
    return formats.read(content), prints


def compared(old: tuple[Known, dict[str, str]], new: tuple[Known, dict[str, str]]) -> Comparison:
    return formats.compare_read(old[0], new[0], old[1], new[1])


def codes(comparison: Comparison) -> list[str]:
    return [reason.code for reason in comparison.verdict.reasons]


ONE = {"TOKEN": "one-value-of-it"}
TWO = {"TOKEN": "another-value-of-it"}


@pytest.mark.parametrize(
    ("new", "summary"),
    [
        (version(TWO), f"{CHANGED}; otherwise identical"),
        (version(TWO, x=77), f"{CHANGED}; 1 node moved"),
        (version(TWO, "Be kind."), f"1 node changed; {CHANGED}"),
    ],
)
def test_another_value_is_a_change_whatever_else_changed(new: Any, summary: str) -> None:
    comparison = compared(version(ONE), new)
    assert comparison.summary == summary
    assert comparison.secrets == [SecretChange(name="environment.TOKEN", sign="~")]
    assert codes(comparison) == ["secret_value_changed"]
    assert (comparison.verdict.level, comparison.verdict.change) == ("warn", "medium")


def test_written_differently_is_not_all_that_is_said() -> None:
    old, new = version(ONE), version(TWO)
    rewritten = formats.read(new[0].read.content + b"\n# the end\n")
    assert compared(old, (rewritten, new[1])).summary == f"{CHANGED}; otherwise the same value, written differently"


def test_the_same_value_is_no_change() -> None:
    comparison = compared(version(ONE), version(ONE))
    assert (comparison.summary, comparison.secrets, codes(comparison)) == ("identical", [], [])
    assert comparison.verdict.change == "none"


def test_a_value_where_there_was_none_and_the_way_back() -> None:
    empty = version({"TOKEN": ""})
    for old, new, sign, verb in ((empty, version(ONE), "+", "added"), (version(ONE), empty, "-", "removed")):
        comparison = compared(old, new)
        assert [(each.name, each.sign) for each in comparison.secrets] == [("environment.TOKEN", sign)]
        assert f"secret value environment.TOKEN {verb}" in comparison.summary
        assert "secret_value_changed" in codes(comparison)


def test_a_variable_that_came_with_its_value_is_said_once() -> None:
    comparison = compared(version(ONE), version(ONE | {"NEW": "a-value-of-this"}))
    assert comparison.secrets == []
    assert codes(comparison) == ["secret_added"]
    assert compared(version(ONE | {"NEW": "a-value-of-this"}), version(ONE)).secrets == []


def test_a_placeholder_without_a_fingerprint_may_be_the_same_value() -> None:
    """As of content that was fetched, edited and published again."""
    unknown = version({"TOKEN": PLACEHOLDER})
    assert unknown[1] == {}
    for old, new in ((version(ONE), unknown), (unknown, version(ONE))):
        assert compared(old, new).summary == "the same value, written differently"
        assert compared(old, new).secrets == []


def test_every_output_says_it_and_none_the_value() -> None:
    comparison = compared(version(ONE), version(TWO))
    decoded = msgspec.json.decode(msgspec.json.encode(comparison))
    assert decoded["secrets"] == [{"name": "environment.TOKEN", "sign": "~"}]
    (row,) = [row for row in rows(decoded) if row.what == "secret value"]
    assert row == ("~", "secret value", "environment.TOKEN", "(secret)", "(secret), another one")
    text, changelog = unified(decoded), entry(decoded, version="2", date="", author="", message="")
    assert "@@ secret values @@\n-environment.TOKEN: (secret)\n+environment.TOKEN: (secret), another one\n" in text
    assert "# warn: medium change\n" in text
    assert "### Changed\n\n- secret value `environment.TOKEN`" in changelog
    shown = (str(decoded), str(rows(decoded)), text, changelog)
    assert not any(value in each for each in shown for value in (*ONE.values(), *TWO.values()))


def test_a_comparison_of_an_older_release_has_no_secrets() -> None:
    decoded = msgspec.json.decode(msgspec.json.encode(compared(version(ONE), version(TWO))))
    del decoded["secrets"]
    assert not any(row.what == "secret value" for row in rows(decoded))
    assert "@@ secret values @@" not in unified(decoded)
    assert "- secret value" not in entry(decoded, version="2", date="", author="", message="")


def test_many_are_counted_in_the_summary_and_all_are_listed() -> None:
    names = [f"TOKEN{number:02}" for number in range(30)]
    old, new = (version({name: f"{side}-value-of-{name}" for name in names}) for side in ("old", "new"))
    comparison = compared(old, new)
    assert len(comparison.secrets) == 30
    assert "28 more secret values" in comparison.summary

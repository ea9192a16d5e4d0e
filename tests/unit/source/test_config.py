"""The file of sources: what it may say, and edits that keep the rest of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.core.errors import Invalid
from registry.source import config, limits
from registry.source.config import Source

TRIAGE = Source(path="/srv/triage.yml", workflow="support/triage", every_s=30, labels={"team": "support"})
EXPORTS = Source(path="/srv/n8n", namespace="automation", glob="*.json", every_s=7200)
BY_HAND = """# what people wrote

[[source]]   # the important one
workflow = "support/triage"
path = "/srv/triage.yml"   # from Dify
every = "30s"
[source.labels]
team = "support"

# n8n writes these
[[source]]
namespace = "automation"
path = "/srv/n8n"
glob = "*.json"
every = "2h"
"""


def test_a_file_is_read_with_its_defaults():
    text = '[[source]]\nnamespace = "support"\npath = "/srv"\n'
    assert config.parse(text) == (Source(path="/srv", namespace="support", glob=config.GLOB, every_s=600),)
    assert config.parse(BY_HAND) == (TRIAGE, EXPORTS)
    assert config.parse("") == ()


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('[[source]]\npath = "/a"\nworkflow = \n', 3, "not valid TOML"),
        ('[[source]]\npath = "/a"\nworkflow = "a/b"\n\n[[source]]\npath = "/c"\nworkflow = "a b/c"\n', 5, "a b/c"),
        ('\n[[source]]\npath = "a"\nworkflow = "a/b"\n', 2, "not an absolute path"),
        ('[[source]]\npath = "/a"\n', 1, "a workflow or a namespace"),
        ('[[source]]\npath = "/a"\nworkflow = "a/b"\nnamespace = "a"\n', 1, "a workflow or a namespace"),
        ('[[source]]\npath = "/a"\nworkflow = "a/b"\nglob = "*"\n', 1, "glob"),
        ('[[source]]\npath = "/a"\nnamespace = "a"\nglob = "x/*"\n', 1, "patterns"),
        ('[[source]]\npath = "/a"\nnamespace = "a"\nglob = ""\n', 1, "patterns"),
        ('[[source]]\npath = "/a"\nnamespace = "."\n', 1, "namespace"),
        ('[[source]]\npath = "/a"\nworkflow = "a/b"\nevery = "10"\n', 1, "not a time"),
        ('[[source]]\npath = "/a"\nworkflow = "a/b"\nevery = "0s"\n', 1, "from 1s to 30d"),
        ('[[source]]\npath = "/a"\nworkflow = "a/b"\nevery = "31d"\n', 1, "from 1s to 30d"),
        ('[[source]]\npath = "/a"\nworkflow = "a/b"\nevery = 10\n', 1, "no text"),
        ('[[source]]\npath = "/a"\nworkflow = "a/b"\nlabels = { semver = "v1.0.0" }\n', 1, "semver"),
        ('[[source]]\npath = "/a"\nworkflow = "a/b"\nwatch = "x"\n', 1, "unknown: watch"),
        ('[[source]]\npath = "/a\\u0007"\nworkflow = "a/b"\n', 1, "one line"),
        ('[[source]]\npath = "/a"\nworkflow = "a/b"\n[[source]]\npath = "/c"\nworkflow = "a/b"\n', 4, "two sources"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text, line, words):
    with pytest.raises(Invalid) as caught:
        config.parse(text)
    assert words in str(caught.value)
    assert f"line {line}" in str(caught.value)
    assert caught.value.metadata["line"] == str(line)


@pytest.mark.parametrize("text", ["x = 1\n", "source = 1\n", "source = [1]\n"])
def test_something_else_is_no_file_of_sources(text):
    with pytest.raises(Invalid, match="something else"):
        config.parse(text)


def test_more_sources_than_allowed_are_refused():
    block = '[[source]]\npath = "/a"\nworkflow = "a/{}"\n'
    assert len(config.parse("".join(map(block.format, range(limits.SOURCES))))) == limits.SOURCES
    with pytest.raises(Invalid, match="at most 1000"):
        config.parse("".join(map(block.format, range(limits.SOURCES + 1))))


def test_an_added_source_stands_at_the_end_and_the_rest_stays():
    added = Source(path="/srv/x y.yml", workflow="support/answer", labels={"a": 'quo"te', "b": "ü"})
    text = config.with_source(BY_HAND, added)
    assert text.startswith(BY_HAND)
    assert config.parse(text) == (TRIAGE, EXPORTS, added)


def test_a_second_source_of_a_target_is_refused():
    with pytest.raises(Invalid, match="has a source already; regctl source remove support/triage"):
        config.with_source(BY_HAND, TRIAGE)


def test_a_removed_source_takes_its_tables_with_it_and_leaves_the_comments_of_others():
    left = config.without(BY_HAND, "support/triage")
    assert config.parse(left) == (EXPORTS,)
    assert left.startswith("# what people wrote")
    assert "# n8n writes these\n[[source]]" in left
    assert "team" not in left
    assert config.parse(config.without(left, "automation")) == ()


def test_removing_what_is_not_there_says_what_is():
    with pytest.raises(Invalid, match="no source support/x; there are: support/triage, automation"):
        config.without(BY_HAND, "support/x")


@pytest.mark.parametrize(
    "text",
    [
        'source = [{ path = "/a", workflow = "a/b" }]\n',
        '[[source]]\nworkflow = "a/b"\npath = "/a"\nlabels = { t = """\n[[source]]\n""" }\n',
    ],
)
def test_a_file_that_cannot_be_edited_safely_is_left_to_people(text):
    with pytest.raises(Invalid):
        config.without(text, "a/b")


def test_an_array_written_inline_is_not_added_to():
    with pytest.raises(Invalid, match="edit it by hand"):
        config.with_source('source = [{ path = "/a", workflow = "a/b" }]\n', TRIAGE)


NAMES = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,10}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=20)
SOURCES = st.builds(
    lambda ns, name, path, every, labels, is_file: Source(
        path="/" + path,
        workflow=f"{ns}/{name}" if is_file else "",
        namespace="" if is_file else ns,
        glob="" if is_file else config.GLOB,
        every_s=every,
        labels=labels,
    ),
    NAMES,
    NAMES,
    TEXTS.filter(str.isprintable),
    st.integers(1, 30 * 86_400).map(float),
    st.dictionaries(NAMES.filter(lambda key: key != "semver"), TEXTS, max_size=3),
    st.booleans(),
)


@settings(max_examples=25)
@given(st.lists(SOURCES, max_size=5, unique_by=lambda each: each.target), st.randoms())
def test_what_is_added_is_read_and_what_is_removed_is_gone(sources, random):
    text = "# kept\n"
    for source in sources:
        text = config.with_source(text, source)
    assert config.parse(text) == tuple(sources)
    left = list(sources)
    while left:
        gone = random.choice(left)
        left.remove(gone)
        text = config.without(text, gone.target)
        assert config.parse(text) == tuple(left)
    assert text.strip() == "# kept"

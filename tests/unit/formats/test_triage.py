"""The workflow that the repository ships: valid versions, and a bad one that its probe finds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from examples.triage import probe
from registry.formats import compare, inspect

PLACE = Path(probe.__file__).parent


def read(name: str) -> bytes:
    return (PLACE / name).read_bytes()


@pytest.mark.parametrize("name", ["v1.yml", "v2.yml", "v3.yml"])
def test_versions_are_apps_of_twelve_nodes_or_more(name: str) -> None:
    found = inspect(read(name))
    assert (found.kind, found.warnings) == ("dify", ())
    assert (found.facts["mode"], found.facts["dsl_version"]) == ("advanced-chat", "0.5.0")
    assert int(found.facts["nodes"]) >= 12


def test_the_probe_passes_good_versions_and_names_the_faults_of_the_bad_one() -> None:
    assert probe.check(yaml.safe_load(read("v1.yml"))) == []
    assert probe.check(yaml.safe_load(read("v2.yml"))) == []
    assert probe.check(yaml.safe_load(read("v3.yml"))) == [
        "'Classify' leads nowhere for the class 'Shipping: where a parcel is, a new address'",
        "'Draft refund answer' reads 'summary' of 1762000000707, which is no node",
    ]


def test_the_probe_as_a_command() -> None:
    for name, code in (("v1.yml", 0), ("v3.yml", 1), ("README.md", 1), ("absent.yml", 1)):
        command = [sys.executable, str(PLACE / "probe.py"), str(PLACE / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert (done.returncode, done.stderr) == (code, "")
        assert done.stdout.strip()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("target: '1762000000404'", "target: '17'", "an edge has the target 17, which is no node"),
        ("read: 10", "read: 600", "'Look up order' waits longer than 30 s for an answer"),
        (
            "{{#env.ORDERS_TOKEN#}}",
            "{{#env.TOKEN#}}",
            "'Look up order' reads 'TOKEN' of env, which has no such variable",
        ),
        ("sourceHandle: 'false'", "sourceHandle: 'true'", "'Refundable?' leads nowhere for else"),
        ("sourceHandle: fail-branch", "sourceHandle: source", "'Look up order' leads nowhere for failure"),
    ],
)
def test_the_probe_finds_other_faults(old: str, new: str, message: str) -> None:
    text = read("v1.yml").decode()
    assert old in text
    assert message in probe.check(yaml.safe_load(text.replace(old, new)))


def test_comparing_the_versions_reads_like_their_story() -> None:
    assert compare(read("v1.yml"), read("v2.yml")).summary == (
        "1 node added, 4 changed; model gpt-4o-mini -> gpt-4.1-mini in 'Classify'; 2 edges added, 1 removed; "
        "plugin langgenius/openai 0.2.6 -> 0.2.8"
    )
    assert [node.title for node in compare(read("v2.yml"), read("v3.yml")).nodes.removed] == ["Read order"]

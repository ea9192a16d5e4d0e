"""docs/RAFT.md argues with tests: each one that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "RAFT.md").read_text()))
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    defined = set(re.findall(r"def (test_\w+)\(", "\n".join(sources)))
    assert len(named) > 40
    assert named - defined == set()


def test_every_file_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", (ROOT / "docs" / "RAFT.md").read_text()))
    there = {path.name for path in (ROOT / "tests").rglob("*.py")} | {
        path.name for path in (ROOT / "cluster").rglob("*.py")
    }
    assert {Path(name).name for name in named} <= there
    assert all((ROOT / name).exists() for name in named if "/" in name)

"""Real Dify files: where they are, and what is known of them. Tests that need them skip without them."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORPUS = Path(os.environ.get("REGISTRY_CORPUS") or ROOT / "../shared/data").resolve() / "dify"

needs_corpus = pytest.mark.skipif(
    not CORPUS.is_dir(), reason="the corpus of real Dify files is not there; set REGISTRY_CORPUS to its directory"
)


def manifest() -> list[dict[str, str]]:
    """One row a file: `file`, `mode`, `dsl_version`, `nodes`, `wrapped`, `origin`, ..."""
    with (CORPUS / "MANIFEST.tsv").open(newline="") as table:
        return list(csv.DictReader(table, delimiter="\t"))


def histories() -> dict[str, list[Path]]:
    """Successive versions of each workflow, by name."""
    return {folder.name: sorted(folder.iterdir()) for folder in sorted((CORPUS / "histories").iterdir())}

"""Which generation counts: CURRENT names its directory, and that name says in which format its rows are.

    N      format 1: rows without checksums
    N.v2   format 2: rows as lmdb_rows.py stores them
    N.v3   format 3: with a write-ahead log beside them

Number and format are one name, so that one renaming settles both. A release that knows only format 1 finds no number
in CURRENT and starts nothing.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import lmdb

from cluster.kv.generation import sync_directory

CURRENT = "CURRENT"
NEW = CURRENT + ".new"
FIRST = 1
SEALED = 2
FORMAT = 3

_NAME = re.compile(r"(\d{1,18})(?:\.v(\d{1,9}))?", re.ASCII)


def name_of(number: int) -> str:
    return f"{number}.v{FORMAT}"


def number_of(name: str) -> int:
    """0: not the name of a generation."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else 0


def format_of(name: str) -> int:
    match = _NAME.fullmatch(name)
    return int(match[2] or 1) if match else 0


def current(root: Path) -> str:
    """The name of the generation that counts; of the first one in a new directory. Raises lmdb.CorruptedError."""
    try:
        name = (root / CURRENT).read_text("ascii", "replace").strip()
    except FileNotFoundError:
        there = names(root)
        if any(number_of(name) != FIRST for name in there) or len(there) > 1:
            raise lmdb.CorruptedError(f"{root} has lost its {CURRENT}, which tells which of {there} counts") from None
        return there[0] if there else name_of(FIRST)
    if not number_of(name):
        raise lmdb.CorruptedError(f"{root / CURRENT} is damaged: it names no generation")
    return name


def names(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir() if number_of(entry.name))


def point(root: Path, name: str) -> None:
    """Make this generation the one that counts: before the rename the old one does, after it the new one."""
    with open(root / NEW, "w") as file:
        file.write(f"{name}\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(root / NEW, root / CURRENT)
    sync_directory(root)

"""Fences: bytes that a workflow must not run again, and from feature level 2 on whatever means the same."""

from __future__ import annotations

import re
from dataclasses import dataclass

from msgspec import structs

from registry.core.model import Version
from registry.core.state import State, View

_MEANING = re.compile(r"[a-z0-9]{1,16}:[0-9a-z]{1,128}", re.ASCII)


@dataclass(frozen=True)
class Fence:
    version: int  # a fenced one; the oldest
    is_twin: bool  # has other bytes and means the same

    @property
    def how(self) -> str:
        return f"{'means the same' if self.is_twin else 'has the same bytes'} as version {self.version}"


def meaning(semantic_digest: str) -> str:
    """The digest, if it is one that can be compared; empty: two of them say nothing."""
    return semantic_digest if _MEANING.fullmatch(semantic_digest) else ""


def mean_the_same(one: Version, other: Version) -> bool:
    """By the same rules."""
    return one.semantic_digest == other.semantic_digest and meaning(one.semantic_digest) != ""


def find(state: View, workflow: str, digest: str, semantic_digest: str, *, level: int) -> Fence | None:
    """Why bytes must not run in this workflow, if so. A version that was fenced below level 2 fences its bytes only."""
    row = state.digest(workflow, digest)
    if row is not None and row.fenced:
        return Fence(row.fenced[0], is_twin=False)
    meant = meaning(semantic_digest) if level >= 2 else ""
    numbers = state.fences(workflow, meant) if meant else ()
    return Fence(numbers[0], is_twin=True) if numbers else None


def keep(state: State, version: Version, *, level: int) -> None:
    """Keep account of the fenced ones among the versions with the same bytes, and with the same meaning."""
    row = state.digest(version.workflow, version.digest)
    if row is None:
        raise KeyError(f"digest {version.digest} of {version.workflow} is missing")
    state.put_digest(version.workflow, version.digest, structs.replace(row, fenced=_with(row.fenced, version)))
    meant = meaning(version.semantic_digest) if level >= 2 else ""
    if meant:
        state.put_fences(version.workflow, meant, _with(state.fences(version.workflow, meant), version))


def _with(numbers: tuple[int, ...], version: Version) -> tuple[int, ...]:
    others = [number for number in numbers if number != version.number]
    return tuple(sorted([*others, version.number] if version.status == "fenced" else others))

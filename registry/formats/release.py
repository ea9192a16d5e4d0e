"""Versions of formats, such as `0.5.0`, in order."""

from __future__ import annotations

import re

_RELEASE = re.compile(
    r"v?(\d{1,9})(?:\.(\d{1,9}))?(?:\.(\d{1,9}))?(?:[.\-+_]?[a-z0-9][a-z0-9.\-+_]{0,99})?", re.IGNORECASE
)


def release(version: object) -> tuple[int, int, int] | None:
    """Major, minor and micro. None: this is no version."""
    found = _RELEASE.fullmatch(str(version).strip()) if isinstance(version, (str, int, float)) else None
    if found is None:
        return None
    major, minor, micro = (int(part or 0) for part in found.groups())
    return major, minor, micro

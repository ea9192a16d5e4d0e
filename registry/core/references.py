"""References: how people and programs name a version.

ns/name                  the workflow: its newest version
ns/name@3                number
ns/name@active           pointer
ns/name@active~1         what the pointer named one switch ago
ns/name@sha256:ab12cd    digest, whole or a unique prefix of at least 6 hex digits
ns/name@v1.4.0           label semver
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from registry.core import names
from registry.core.errors import Invalid, Reason

DIGEST_PREFIX_CHARS = 6
NUMBER_MAX = 2**63 - 1
GRAMMAR = "write 3, active, active~1, sha256:ab12cd or v1.4.0"


@dataclass(frozen=True)
class Newest:
    def __str__(self) -> str:
        return "newest"


@dataclass(frozen=True)
class Number:
    number: int

    def __str__(self) -> str:
        return str(self.number)


@dataclass(frozen=True)
class Named:
    """What a pointer names (`back` 0) or named `back` switches ago."""

    pointer: str
    back: int = 0

    def __str__(self) -> str:
        return f"{self.pointer}~{self.back}" if self.back else self.pointer


@dataclass(frozen=True)
class DigestPrefix:
    """`digest` starts with sha256: and holds 6 to 64 lower-case hex digits."""

    digest: str

    def __str__(self) -> str:
        return self.digest


@dataclass(frozen=True)
class Semver:
    """`key` in the form of names.semver_key."""

    key: str

    def __str__(self) -> str:
        return f"v{self.key}"


Target = Newest | Number | Named | DigestPrefix | Semver


@dataclass(frozen=True)
class Reference:
    workflow: str
    target: Target

    def __str__(self) -> str:
        return self.workflow if self.target == Newest() else f"{self.workflow}@{self.target}"


def parse(text: str) -> Reference:
    """`ns/name` or `ns/name@target`. Raises Invalid: INVALID_NAME, INVALID_REFERENCE."""
    workflow, at, target = text.partition("@")
    names.check_workflow(workflow)
    if at and not target:
        raise _invalid(text)
    return Reference(workflow, parse_target(target))


def parse_target(text: str) -> Target:
    """The part after the `@`; empty: the newest. Raises Invalid: INVALID_REFERENCE, INVALID_NAME."""
    if not text:
        return Newest()
    if text.isascii() and text.isdigit():
        number = int(text) if len(text) <= len(str(NUMBER_MAX)) else 0
        if not 1 <= number <= NUMBER_MAX:
            raise _invalid(text)
        return Number(number)
    if text.startswith("sha256:"):
        if not re.fullmatch(rf"sha256:[0-9a-fA-F]{{{DIGEST_PREFIX_CHARS},64}}", text):
            raise _invalid(text)
        return DigestPrefix(text.lower())
    if names.SEMVER.fullmatch(text):
        return Semver(names.semver_key(text))
    pointer, tilde, back = text.partition("~")
    if tilde and not re.fullmatch(r"[1-9][0-9]{0,8}", back):
        raise _invalid(text)
    try:
        return Named(names.check_pointer(pointer), int(back or 0))
    except Invalid:
        raise _invalid(text) from None


def _invalid(text: str) -> Invalid:
    return Invalid(Reason.INVALID_REFERENCE, f"not a reference: {text[:200]!a}", hint=GRAMMAR)

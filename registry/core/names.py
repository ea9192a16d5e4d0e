"""Names and their grammar. Everything here raises errors.Invalid and says what is allowed.

name       1 to 63 of A-Z a-z 0-9 . _ -, and not a dot first
workflow   name/name
pointer    a name that starts with a letter and does not look like a version (v1.4.0) or a digest
label      key: a name; value: up to 128 characters of one line
scope      of a policy: * for all workflows, namespace/* or a workflow
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from registry.core import limits
from registry.core.errors import Invalid, Reason

NAME = re.compile(rf"[A-Za-z0-9_-][A-Za-z0-9._-]{{0,{limits.NAME_CHARS - 1}}}", re.ASCII)
SEMVER = re.compile(
    r"v?((?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?)", re.ASCII
)
_LIKE_A_VERSION = re.compile(r"[vV]?[0-9]+(\.[0-9]+)*([.+-].*)?", re.ASCII)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
ALLOWED = f"allowed are 1 to {limits.NAME_CHARS} of A-Z a-z 0-9 . _ - and no dot first"


def check_name(name: str, what: str) -> str:
    """`name`, if it is one; `what` says in the error what was named."""
    if not NAME.fullmatch(name):
        raise _invalid(name, what, f"{what}: {ALLOWED}")
    return name


@lru_cache(limits.NAMES_REMEMBERED)
def check_workflow(name: str) -> str:
    parts = name.split("/")
    if len(parts) != 2 or not all(NAME.fullmatch(part) for part in parts):
        raise _invalid(name, "workflow", f"write namespace/name, for each {ALLOWED}")
    return name


@lru_cache(limits.NAMES_REMEMBERED)
def check_pointer(name: str) -> str:
    if not NAME.fullmatch(name) or not name[0].isalpha() or _LIKE_A_VERSION.fullmatch(name):
        raise _invalid(name, "pointer", f"it starts with a letter and is no version such as v1.2.3; {ALLOWED}")
    return name


def check_scope(scope: str) -> str:
    namespace, slash, name = scope.partition("/")
    if scope == "*" or (slash and name == "*" and NAME.fullmatch(namespace)):
        return scope
    if len(scope.split("/")) != 2 or not all(NAME.fullmatch(part) for part in scope.split("/")):
        raise _invalid(scope, "scope", f"write *, namespace/* or namespace/name, for each {ALLOWED}")
    return scope


def check_agent(name: str) -> str:
    return check_name(name, "agent")


def check_site(name: str) -> str:
    """Empty: none."""
    return check_name(name, "site") if name else name


@lru_cache(limits.NAMES_REMEMBERED)
def check_principal(name: str) -> str:
    """Who asks, as a certificate or an operator names them: one line. Empty: not said."""
    return check_line(name, "principal", limits.PRINCIPAL_CHARS)


def check_line(text: str, what: str, chars: int) -> str:
    """Text of one line, in any language, at most so many characters."""
    if _CONTROL.search(text):
        raise Invalid(Reason.INVALID_REQUEST, f"{what} holds control characters", hint="write it in one line")
    return check_text(text, what, chars)


def check_text(text: str, what: str, chars: int) -> str:
    """Text in any language, at most so many characters."""
    if len(text) > chars:
        raise Invalid(
            Reason.TOO_LARGE,
            f"{what} has {len(text)} characters",
            hint=f"at most {chars} are kept; shorten it",
            metadata={"limit": str(chars)},
        )
    return text


def check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > limits.LABELS:
        raise Invalid(
            Reason.TOO_LARGE,
            f"{len(labels)} labels",
            hint=f"at most {limits.LABELS} are kept",
            metadata={"limit": str(limits.LABELS)},
        )
    for key, value in labels.items():
        check_name(key, "label key")
        check_line(value, f"label {key}", limits.LABEL_VALUE_CHARS)


def check_digest(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise Invalid(
            Reason.INVALID_REFERENCE, f"not a digest: {_shown(digest)}", hint="sha256: and 64 lower-case hex digits"
        )
    return digest


def semver_key(text: str) -> str:
    """The value of a label `semver` without its `v`: v1.4.0 and 1.4.0 are the same version."""
    match = SEMVER.fullmatch(text)
    if match is None or len(text) > limits.LABEL_VALUE_CHARS:
        raise _invalid(text, "label semver", "write v1.4.0 or 1.4.0-rc.1")
    return match.group(1)


def _invalid(name: str, what: str, hint: str) -> Invalid:
    message = f"not a valid {what} name: {_shown(name)}" if name else f"the {what} name is empty"
    if not name.isascii():
        character = next(character for character in name if not character.isascii())
        message += f" (U+{ord(character):04X} is outside ASCII)"
    return Invalid(Reason.INVALID_NAME, message, hint=hint)


def _shown(text: str) -> str:
    return ascii(text if len(text) <= limits.NAME_CHARS * 2 else text[: limits.NAME_CHARS * 2] + "...")

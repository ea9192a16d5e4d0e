"""What applying a command decided. Remembered under its request id, so that a retry gets the same answer."""

from __future__ import annotations

from msgspec import Struct, msgpack

from registry.core.model import Pointer, Policy, StatusChange, Version


class Founded(Struct, frozen=True, kw_only=True, tag="founded"):
    revision: int
    cluster_id: str


class EpochBegun(Struct, frozen=True, kw_only=True, tag="epoch_begun"):
    revision: int
    epoch: int


class Published(Struct, frozen=True, kw_only=True, tag="published", omit_defaults=True):
    revision: int
    version: Version
    created: bool
    notes: tuple[str, ...] = ()  # for people: "means the same as version 3"


class Switched(Struct, frozen=True, kw_only=True, tag="switched"):
    revision: int
    pointers: tuple[Pointer, ...]
    status_changes: tuple[StatusChange, ...] = ()
    notes: tuple[str, ...] = ()


class Marked(Struct, frozen=True, kw_only=True, tag="marked"):
    revision: int
    version: Version
    previous_status: str


class Labelled(Struct, frozen=True, kw_only=True, tag="labelled"):
    revision: int
    version: Version


class PolicySet(Struct, frozen=True, kw_only=True, tag="policy_set"):
    revision: int
    scope: str
    policy: Policy


class KeyKept(Struct, frozen=True, kw_only=True, tag="key_kept"):
    revision: int


class Acknowledged(Struct, frozen=True, kw_only=True, tag="acknowledged"):
    revision: int


class Rejected(Struct, frozen=True, kw_only=True, tag="rejected"):
    """Decided: no. `reason` is one of errors.Reason; nothing changed."""

    revision: int
    reason: str
    message: str
    hint: str = ""
    metadata: dict[str, str] = {}


Outcome = (
    Founded | EpochBegun | Published | Switched | Marked | Labelled | PolicySet | KeyKept | Acknowledged | Rejected
)


class Remembered(Struct, frozen=True, kw_only=True):
    """What a request id has decided, and a fingerprint of what it asked."""

    sequence: int
    fingerprint: bytes
    outcome: Outcome


encode = msgpack.Encoder().encode
decode = msgpack.Decoder(Outcome).decode

"""Who belongs to the cluster. Values only; the rules of changing them are in membership.py.

A configuration stands in the log as a whole, under kind entries.CONFIGURATION: the newest one in a member's log counts
as soon as it is there, committed or not (Ongaro, Consensus, section 4.1). Encoded as MessagePack maps: a field may be
added with a default, never renamed.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, msgpack

Role = Literal["voter", "observer"]


class MemberRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One process with its data directory.

    `id` is what Raft knows it by and is never given twice: a founder's is its name, that of one that joined is name and
    incarnation. `incarnation` is that of the data directory; a founder's is empty until a leader has heard it.
    """

    id: str
    name: str
    incarnation: str = ""
    peer_address: str
    api_address: str = ""
    datacenter: str = ""
    role: Role = "voter"


class Configuration(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`cluster` names the history that the members share: another one's are refused. `removed` has the newest
    incarnations that were removed, `level` is the feature level that entries are applied at."""

    cluster: str = ""
    members: tuple[MemberRecord, ...] = ()
    removed: tuple[str, ...] = ()
    level: int = 1

    def get(self, id: str) -> MemberRecord | None:
        return next((member for member in self.members if member.id == id), None)

    @property
    def voters(self) -> frozenset[str]:
        return frozenset(member.id for member in self.members if member.role == "voter")

    def is_removed(self, id: str, incarnation: str) -> bool:
        """A founder that no leader had heard is removed by its id."""
        return id in self.removed or incarnation in self.removed

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(member.id for member in self.members)


NOBODY = Configuration()  # of a member that has not been admitted, or knows nothing yet

_encoder = msgpack.Encoder()
encode = _encoder.encode
decode = msgpack.Decoder(Configuration).decode


def founding(cluster: str, peer_addresses: dict[str, str], level: int = 1) -> Configuration:
    """What founders agree on before they have met."""
    members = tuple(
        MemberRecord(id=name, name=name, peer_address=address) for name, address in sorted(peer_addresses.items())
    )
    return Configuration(cluster=cluster, members=members, level=level)


def joined_id(name: str, incarnation: str) -> str:
    return f"{name}/{incarnation}"

"""Who is let in at the peer port, as a table; the sockets are in tests/integration/test_cluster_peers.py."""

from __future__ import annotations

import pytest
from msgspec import structs

from cluster import messages as m
from cluster.configuration import NOBODY, Configuration, founding
from cluster.handshake import judge, split_address
from tests.unit.cluster.replica_bench import configured, record

HELLO = m.Hello(
    oldest_protocol=m.OLDEST_PROTOCOL,
    protocol=m.PROTOCOL,
    cluster="bench",
    id="b",
    name="b",
    incarnation="of b",
    to="a",
    peer_address="b:1",
    api_address="",
    datacenter="",
    role="voter",
    level=1,
)
ABC = configured("abc")
MET = founding("bench", {"a": "a:1", "b": "b:1"})
GONE = structs.replace(ABC, removed=("of x", "y"))
JOINED = structs.replace(ABC, members=(*ABC.members, record("d/1", "observer")))
NEWER = structs.replace(ABC, level=3)

OLD = {"oldest_protocol": m.OLDEST_PROTOCOL - 1, "protocol": m.OLDEST_PROTOCOL - 1}
LATER = {"oldest_protocol": m.PROTOCOL + 1, "protocol": m.PROTOCOL + 5}
BOTH = {"oldest_protocol": m.OLDEST_PROTOCOL - 1, "protocol": m.PROTOCOL + 5}
STRANGER = {"cluster": "", "id": "d/1", "name": "d", "incarnation": "1"}


@pytest.mark.parametrize(
    ("configuration", "changes", "known", "why"),
    [
        (ABC, {}, "", ""),
        (ABC, {}, "of b", ""),
        # protocols
        (ABC, OLD, "", "it speaks protocols"),
        (ABC, LATER, "", "it speaks protocols"),
        (ABC, BOTH, "", ""),
        # whom it means
        (ABC, {"to": "c"}, "", "it dialled c, this is a: check the addresses"),
        (ABC, {"to": ""}, "", ""),
        # which cluster
        (ABC, {"cluster": "other"}, "", "it belongs to another cluster"),
        (ABC, {"id": "z", "name": "z"}, "", "z is not in this member's configuration"),
        # which data directory
        (ABC, {"incarnation": "other"}, "", "b has another data directory than before"),
        (MET, {"incarnation": "other"}, "", ""),  # a founder that was never heard
        (MET, {"incarnation": "other"}, "of b", "b has another data directory than before"),
        (ABC, {"incarnation": "other"}, "other", "b has another data directory than before"),  # the record counts
        # who was removed
        (GONE, {"id": "x", "name": "x", "incarnation": "of x"}, "", "x was removed from this cluster"),
        (GONE, {"id": "x/of x", "name": "x", "incarnation": "of x", "cluster": ""}, "", "x was removed"),
        (GONE, {"id": "y", "name": "y", "incarnation": "of y"}, "", "y was removed from this cluster"),
        (GONE, {"id": "x/2", "name": "x", "incarnation": "2", "cluster": ""}, "", ""),
        # who wants to join, or is a member that this one does not know yet
        (ABC, STRANGER, "", ""),
        (ABC, {**STRANGER, "cluster": "bench"}, "", ""),
        (ABC, {**STRANGER, "cluster": "other"}, "", "it belongs to another cluster"),
        (JOINED, STRANGER, "", ""),  # admitted, and it does not know it yet
        (ABC, {"cluster": ""}, "", "b votes here and does not know it"),
        (JOINED, {**STRANGER, "id": "d/2", "incarnation": "2"}, "", ""),  # one that lost its data, and waits
        # names, ids, addresses
        (ABC, {"id": "b/other"}, "", "b/other is not an id of b"),
        (ABC, {"name": "c"}, "", "b is not an id of c"),
        (ABC, {"peer_address": "nonsense"}, "", "its peer address is not HOST:PORT: 'nonsense'"),
        (ABC, {"peer_address": "b:0"}, "", "its peer address is not HOST:PORT"),
        # levels
        (NEWER, {"level": 3}, "", ""),
        (NEWER, {"level": 2}, "", "its release knows feature level 2; 3 is in force"),
        (NEWER, STRANGER, "", ""),  # refused when somebody wants to admit it
    ],
)
def test_who_is_let_in(configuration: Configuration, changes: dict[str, str | int], known: str, why: str) -> None:
    refusal = judge(structs.replace(HELLO, **changes), "a", configuration, known, ())
    assert refusal.startswith(why) if why else refusal == ""


def test_a_member_that_has_not_joined_lets_in_whom_it_asked_and_questions() -> None:
    assert judge(HELLO, "a", NOBODY, "", {"b": "b:1"}) == ""
    assert judge(HELLO, "a", NOBODY, "", {}) == "this member has not joined a cluster yet"
    assert judge(structs.replace(HELLO, to=""), "a", NOBODY, "", {}) == ""


@pytest.mark.parametrize(
    ("address", "parts"),
    [("h:1", ("h", 1)), ("127.0.0.1:65535", ("127.0.0.1", 65535)), ("[::1]:7400", ("::1", 7400))],
)
def test_an_address_is_host_and_port(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize("address", ["", "h", "h:", ":1", "h:0", "h:65536", "h:x", "h:-1", "h:1 "])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match="not HOST:PORT"):
        split_address(address)

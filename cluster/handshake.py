"""Whether a peer belongs here, by what it says of itself when it connects. Pure."""

from __future__ import annotations

from collections.abc import Container

from cluster import messages as m
from cluster.configuration import NOBODY, Configuration


def judge(hello: m.Hello, me: str, configuration: Configuration, known: str, learned: Container[str]) -> str:
    """Why a peer is refused; empty: it is not. `known`: the incarnation that it had before, if that was heard. Pure."""
    if hello.protocol < m.OLDEST_PROTOCOL or hello.oldest_protocol > m.PROTOCOL:
        spoken = f"{m.OLDEST_PROTOCOL} to {m.PROTOCOL}"
        return f"it speaks protocols {hello.oldest_protocol} to {hello.protocol}, this member {spoken}"
    if configuration.is_removed(hello.id, hello.incarnation):
        return f"{hello.name} was removed from this cluster; to come back it needs an empty data directory and --join"
    if hello.to and hello.to != me:
        return f"it dialled {hello.to}, this is {me}: check the addresses"
    if hello.id not in (hello.name, f"{hello.name}/{hello.incarnation}"):
        return f"{hello.id} is not an id of {hello.name}"
    try:
        split_address(hello.peer_address)
    except ValueError as error:
        return f"its peer address is {error}"
    if configuration == NOBODY:  # this member asks to join, and knows only those that it asked
        return "" if hello.id in learned or not hello.to else "this member has not joined a cluster yet"
    if hello.cluster and hello.cluster != configuration.cluster:
        return "it belongs to another cluster, or to what this one was before a restore or a forced recovery"
    record = configuration.get(hello.id)
    if record is None:
        if hello.cluster and hello.id == hello.name:
            return f"{hello.name} is not in this member's configuration"
        return ""
    if (record.incarnation or known or hello.incarnation) != hello.incarnation:
        return (
            f"{hello.name} has another data directory than before: its log is lost, or it runs twice. A member that "
            f"lost its data is replaced: start it with --join, then `regctl cluster replace {hello.name}`"
        )
    if record.role == "voter" and not hello.cluster:  # whoever is promoted has had its configuration for long
        return f"{hello.name} votes here and does not know it: its log is lost, or this is somebody else"
    if hello.level < configuration.level:
        return f"its release knows feature level {hello.level}; {configuration.level} is in force: use a newer one"
    return ""


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port`. Raises ValueError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"not HOST:PORT: {address!r}")
    return host.strip("[]"), int(port)

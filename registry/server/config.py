"""What a member is told at start: flags, over REGISTRY_* of the environment, over a TOML file.

Everything here is pure but `read_toml`; `main` turns a ConfigError into one line on stderr and exit 2.
"""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.limits import CATCH_UP_BYTES_S, LOCAL, RESERVE_BYTES, WIDE_AREA, Timing
from registry.core import limits
from registry.core.errors import Invalid
from registry.core.names import check_name
from registry.server.limits import RESERVE_LEAST_BYTES, WORKERS

OPTIONS = frozenset(
    {
        "name", "data_dir", "listen", "peer_listen", "http_listen", "advertise", "peer_advertise", "cluster",
        "join", "observer", "datacenter", "tls_cert", "tls_key", "tls_ca", "insecure", "content_limit",
        "large_content_limit", "timing", "catch_up_rate", "reserve", "workers",
    }
)  # fmt: skip

TIMINGS: Mapping[str, Timing] = {"local": LOCAL, "wide": WIDE_AREA}


class ConfigError(Exception):
    """What is wrong with the configuration and what to write instead."""


@dataclass(frozen=True)
class Address:
    """HOST:PORT; an IPv6 host stands in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_wildcard(self) -> bool:
        """Bound to every interface: good to listen on, useless to advertise."""
        try:
            return ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return False


@dataclass(frozen=True)
class Tls:
    """Files in PEM: this member's certificate and key, and the authority that signed everyone's."""

    cert: Path
    key: Path
    ca: Path


@dataclass(frozen=True)
class Config:
    name: str
    data_dir: Path
    listen: Address
    peer_listen: Address
    http_listen: Address
    advertise: Address | None  # none: where it listens, once bound
    peer_advertise: Address | None
    founding: Mapping[str, str]  # peer addresses by name, of --cluster; empty: not given
    join: tuple[str, ...]  # peer addresses of members of the cluster to join; empty: not given
    observer: bool  # it does not want to vote
    datacenter: str
    tls: Tls | None
    content_limit_bytes: int  # of what is read
    large_content_limit_bytes: int  # of what comes in chunks
    timing: Timing
    catch_up_bytes_s: int
    reserve_bytes: int  # with less left to write, writes are refused
    workers: int  # processes that serve the API beside this one; 0: it serves it


def parse_address(text: str, what: str) -> Address:
    """HOST:PORT or [IPV6]:PORT. Raises ConfigError that names the flag `what`."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigError(f"{what}: write an IPv6 address in brackets, like [::1]:7400, not {text!r}")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ConfigError(f"{what}: expected HOST:PORT, got {text!r}")
    return Address(host, int(port))


def parse_cluster(text: str) -> dict[str, str]:
    """`n1=HOST:PORT,n2=HOST:PORT` to peer addresses by name. Raises ConfigError."""
    members: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, address = item.partition("=")
        if not equals:
            raise ConfigError(f"--cluster: expected NAME=HOST:PORT, got {item!r}")
        _checked_name(name, "--cluster")
        if name in members:
            raise ConfigError(f"--cluster: member {name!r} stands there twice")
        members[name] = str(parse_address(address, f"--cluster {name}"))
    if len(set(members.values())) != len(members):
        raise ConfigError("--cluster: two members have the same peer address")
    return members


def parse_join(text: str) -> tuple[str, ...]:
    """`HOST:PORT,HOST:PORT` to peer addresses. Raises ConfigError."""
    parts = filter(None, (part.strip() for part in text.split(",")))
    return tuple(dict.fromkeys(str(parse_address(part, "--join")) for part in parts))


def read_toml(path: Path) -> dict[str, Any]:
    """Options by name from a TOML file. `cluster` may be a table. Raises ConfigError."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config: cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config: {path} is not valid TOML: {error}") from error
    values = {key.replace("-", "_"): value for key, value in values.items()}
    if unknown := sorted(values.keys() - OPTIONS):
        raise ConfigError(f"--config: {path} has unknown options: {', '.join(unknown)}")
    if isinstance(values.get("cluster"), dict):
        values["cluster"] = ",".join(f"{name}={address}" for name, address in values["cluster"].items())
    for key, value in values.items():
        if isinstance(value, dict | list):
            raise ConfigError(f"--config: {path}: {key} must be one value")
    return values


def build(
    *,
    name: str,
    data_dir: str,
    listen: str,
    peer_listen: str,
    http_listen: str,
    advertise: str = "",
    peer_advertise: str = "",
    cluster: str = "",
    join: str = "",
    observer: bool = False,
    datacenter: str = "",
    tls_cert: str = "",
    tls_key: str = "",
    tls_ca: str = "",
    insecure: bool = False,
    content_limit: int = limits.CONTENT_BYTES,
    large_content_limit: int = limits.LARGE_CONTENT_BYTES,
    timing: str = "local",
    catch_up_rate: int = CATCH_UP_BYTES_S,
    reserve: int = RESERVE_BYTES,
    workers: int = 0,
) -> Config:
    """A checked Config. Raises ConfigError."""
    _checked_name(name, "--name")
    if datacenter:
        _checked_name(datacenter, "--datacenter")
    founding = parse_cluster(cluster)
    if founding and name not in founding:
        raise ConfigError(f"--cluster does not name this member ({name}); it names {', '.join(founding)}")
    contacts = parse_join(join)
    if founding and contacts:
        raise ConfigError("--cluster founds a cluster, --join enters one that exists: give one of them")
    if founding and observer:
        raise ConfigError("--observer goes with --join: those who found a cluster vote")
    if timing not in TIMINGS:
        raise ConfigError(f"--timing: expected {' or '.join(TIMINGS)}, got {timing!r}")
    if catch_up_rate < 1:
        raise ConfigError(f"--catch-up-rate: {catch_up_rate} bytes a second would never get a member level")
    if not 1 <= content_limit <= limits.CONTENT_BYTES_CEILING:
        raise ConfigError(
            f"--content-limit: {content_limit} is outside 1 to {limits.CONTENT_BYTES_CEILING} bytes (one log entry)"
        )
    if not 1 <= large_content_limit <= limits.LARGE_CONTENT_BYTES_CEILING:
        raise ConfigError(
            f"--large-content-limit: {large_content_limit} is outside 1 to {limits.LARGE_CONTENT_BYTES_CEILING} bytes"
        )
    if reserve < RESERVE_LEAST_BYTES:
        raise ConfigError(
            f"--reserve: {reserve} bytes would be written before anybody knows; {RESERVE_LEAST_BYTES} at least"
        )
    if not 0 <= workers <= WORKERS:
        raise ConfigError(f"--workers: {workers} is outside 0 to {WORKERS}; about one for each core that is to spare")
    binds = {
        "--listen": parse_address(listen, "--listen"),
        "--peer-listen": parse_address(peer_listen, "--peer-listen"),
        "--http-listen": parse_address(http_listen, "--http-listen"),
    }
    if not binds["--peer-listen"].port:
        raise ConfigError("--peer-listen: the other members must know the port; 0 is none")
    fixed_ports = [(address.host, address.port) for address in binds.values() if address.port]
    if len(set(fixed_ports)) != len(fixed_ports):
        raise ConfigError("--listen, --peer-listen and --http-listen must differ")
    tls = _tls(tls_cert, tls_key, tls_ca)
    if tls is None and not insecure:
        for flag, address in binds.items():
            if not address.is_loopback:
                raise ConfigError(
                    f"{flag} {address}: anyone who reaches it could switch what is live; "
                    "give --tls-cert, --tls-key and --tls-ca, or --insecure if the network is yours alone"
                )
    return Config(
        name=name,
        data_dir=Path(data_dir),
        listen=binds["--listen"],
        peer_listen=binds["--peer-listen"],
        http_listen=binds["--http-listen"],
        advertise=_advertised(advertise, binds["--listen"], "--advertise", "--listen"),
        peer_advertise=_peer_advertised(peer_advertise, founding.get(name), binds["--peer-listen"]),
        founding=founding,
        join=contacts,
        observer=observer,
        datacenter=datacenter,
        tls=tls,
        content_limit_bytes=content_limit,
        large_content_limit_bytes=large_content_limit,
        timing=TIMINGS[timing],
        catch_up_bytes_s=catch_up_rate,
        reserve_bytes=reserve,
        workers=workers,
    )


def peer_address(name: str, peer_listen: str, peer_advertise: str) -> str:
    """Where the others reach a member that is started with these. Raises ConfigError."""
    _checked_name(name, "--name")
    bound = parse_address(peer_listen, "--peer-listen")
    return str(_peer_advertised(peer_advertise, None, bound) or bound)


def _checked_name(name: str, what: str) -> None:
    try:
        check_name(name, "member")
    except Invalid as error:
        raise ConfigError(f"{what}: {error}") from error


def _tls(cert: str, key: str, ca: str) -> Tls | None:
    given = {"--tls-cert": cert, "--tls-key": key, "--tls-ca": ca}
    missing = [flag for flag, value in given.items() if not value]
    if len(missing) == len(given):
        return None
    if missing:
        raise ConfigError(f"TLS needs certificate, key and authority; missing: {', '.join(missing)}")
    for flag, value in given.items():
        if not Path(value).is_file():
            raise ConfigError(f"{flag}: no file at {value}")
    return Tls(Path(cert), Path(key), Path(ca))


def _advertised(text: str, bound: Address, flag: str, listen_flag: str) -> Address | None:
    if text:
        address = parse_address(text, flag)
        if address.is_wildcard or not address.port:
            raise ConfigError(f"{flag} {text}: others cannot call it; give an address they reach this member at")
        return address
    if bound.is_wildcard:
        raise ConfigError(f"{listen_flag} {bound} is every interface; say with {flag} HOST:PORT how others reach it")
    return None


def _peer_advertised(text: str, in_cluster: str | None, bound: Address) -> Address | None:
    """--cluster already says how the others reach this member."""
    if in_cluster is None:
        return _advertised(text, bound, "--peer-advertise", "--peer-listen")
    if text and text != in_cluster:
        raise ConfigError(
            f"--peer-advertise {text} is not what --cluster says of this member ({in_cluster}); --cluster only founds: "
            "leave it out to start a member that has moved"
        )
    return parse_address(in_cluster, "--cluster")

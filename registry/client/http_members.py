"""Which member an HTTP client asks next, and how soon. Pure but for the reading of certificates."""

from __future__ import annotations

import math
import os
import ssl
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random
from urllib.parse import urlsplit

from registry.client import limits
from registry.client.values import TlsConfig
from registry.core.errors import Invalid, Reason

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Address:
    host: str
    port: int
    tls: bool

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}"


def is_http(endpoint: str) -> bool:
    """Whether an endpoint names a member's HTTP face."""
    return endpoint.strip().startswith(("http://", "https://"))


def parse(endpoint: str) -> Address:
    """`http://HOST:PORT` or `https://HOST:PORT`. Raises Invalid."""
    try:
        parts = urlsplit(endpoint.strip())
        port = parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:
        parts, port = urlsplit(""), 0
    bare = not (parts.path.strip("/") or parts.query or parts.fragment or parts.username or parts.password)
    if parts.scheme not in PORTS or not parts.hostname or not port or not bare:
        raise Invalid(
            Reason.INVALID_REQUEST,
            f"not an HTTP endpoint: {endpoint[:200]!a}",
            hint="write http://HOST:PORT, e.g. http://127.0.0.1:7402, or https://HOST:PORT",
        )
    return Address(parts.hostname, port, parts.scheme == "https")


def context(addresses: Collection[Address], tls: TlsConfig | None) -> ssl.SSLContext | None:
    """For the https ones; without `tls` the system's authorities check the members. Raises Invalid."""
    if not any(address.tls for address in addresses):
        if tls is not None:
            raise Invalid(
                Reason.INVALID_REQUEST, "TLS files are given, but no endpoint is https://", hint="write https://"
            )
        return None
    tls = tls or TlsConfig()
    if (tls.cert is None) != (tls.key is None):
        raise Invalid(Reason.INVALID_REQUEST, "a TLS certificate and its key go together", hint="give both or none")
    try:
        made = ssl.create_default_context(cafile=tls.ca)
        if tls.cert is not None:
            made.load_cert_chain(tls.cert, tls.key)
    except OSError as problem:  # an ssl.SSLError is an OSError
        files = ", ".join(file for file in (tls.ca, tls.cert, tls.key) if file)
        raise Invalid(
            Reason.INVALID_REQUEST, f"cannot use {files}: {problem.strerror or problem}", hint="TLS needs PEM files"
        ) from None
    made.set_alpn_protocols(["http/1.1"])
    return made


def stamp(tls: TlsConfig | None) -> list[tuple[int, int, int] | None]:
    """Another one once a file was replaced or written. None: of one that is not there."""
    return [] if tls is None else [_stamp(file) for file in (tls.ca, tls.cert, tls.key) if file]


def _stamp(file: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


@dataclass
class _Standing:
    failures: int = 0  # in a row
    ready_at: float = -math.inf


class Members:
    """Whoever answered last is asked again; who failed is left for another, and asked later and later."""

    def __init__(self, endpoints: Sequence[str], random: Random) -> None:
        addresses = list(dict.fromkeys(parse(endpoint) for endpoint in endpoints))
        if not addresses:
            raise Invalid(Reason.INVALID_REQUEST, "no endpoint given", hint="name at least one as http://HOST:PORT")
        random.shuffle(addresses)  # so that many clients do not all ask the first
        self._random = random
        self._standing = {address: _Standing() for address in addresses}
        self._current = addresses[0]

    @property
    def addresses(self) -> tuple[Address, ...]:
        return tuple(self._standing)

    def next(self, tried: Collection[Address], now_s: float) -> tuple[Address, float] | None:
        """The best member that is not in `tried`, and the seconds until it may be asked; None: all were tried."""
        left = [address for address in self._standing if address not in tried]
        if not left:
            return None
        ready_at = {address: max(self._standing[address].ready_at, now_s) for address in left}
        best = min(left, key=lambda address: (ready_at[address], address != self._current))
        return best, ready_at[best] - now_s

    def answered(self, address: Address) -> None:
        self._standing[address] = _Standing()
        self._current = address

    def turn(self) -> None:
        """To another one, so that a member that came back gets its share, and nobody hears for ever from one that is
        cut off."""
        others = [address for address in self.addresses if address != self._current]
        self._current = self._random.choice(others or self.addresses)

    def failed(self, address: Address, now_s: float, *, retry_s: float = 0.0) -> None:
        """`retry_s`: as the member asked for; it is not asked sooner, and not by all in the same instant."""
        standing = self._standing[address]
        standing.failures += 1
        first, longest = limits.HTTP_RETRY_S
        wait_s = min(longest, first * 2.0 ** min(standing.failures - 1, 32)) * self._random.uniform(0.5, 1.0)
        asked_s = min(retry_s, limits.HTTP_RETRY_MAX_S) * self._random.uniform(1.0, 1.5)
        standing.ready_at = now_s + max(wait_s, asked_s)

    def blame(self, address: Address, now_s: float) -> None:
        """What it announced could not be had from any member: that is held against it, and not against the others."""
        self._standing = {each: _Standing() for each in self._standing if each != address} | {
            address: self._standing[address]
        }
        self._current = next(iter(self._standing))
        self.failed(address, now_s)

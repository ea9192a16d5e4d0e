"""Requests and replies of the HTTP port, as values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

import msgspec

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Request:
    method: bytes
    path: str
    query: str
    headers: Mapping[bytes, bytes]  # those that are looked at, names in lower case
    body: bytes
    keep_alive: bool

    @property
    def is_head(self) -> bool:
        return self.method == b"HEAD"


@dataclass(frozen=True)
class Response:
    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


class Work(Protocol):
    """What will answer an exchange later."""

    def cancel(self) -> object:
        """The client has left; nothing is to be answered any more."""
        ...


Failed = Callable[[str, Exception], Response]  # the route, what its handler raised


def refusal(
    status: HTTPStatus, text: str, *, reason: str = "", hint: str = "", metadata: Mapping[str, str] | None = None
) -> Response:
    """An error as JSON: {error, reason, hint, ...metadata}. `retry_ms` in it is said in the head too."""
    known = {"error": text, "reason": reason, "hint": hint}
    body = {name: value for name, value in known.items() if value}
    body |= {name: value for name, value in (metadata or {}).items() if name not in known}
    headers: tuple[tuple[str, str], ...] = ()
    if retry_ms := body.get("retry_ms"):
        headers = (("retry-after", str(math.ceil(int(retry_ms) / 1000))),)
    return Response(status, msgspec.json.encode(body), JSON, headers)


def encoded(response: Response, *, keep_alive: bool, size_bytes: int | None = None) -> bytes:
    """`size_bytes`: of a body that is written apart, or not at all."""
    more = "".join(f"{name}: {value}\r\n" for name, value in response.headers)
    head = (
        f"HTTP/1.1 {response.status.value} {response.status.phrase}\r\n"
        f"content-type: {response.content_type}\r\n"
        f"content-length: {len(response.body) if size_bytes is None else size_bytes}\r\n"
        f"cache-control: no-store\r\n{more}"
        f"{'' if keep_alive else 'connection: close' + chr(13) + chr(10)}\r\n"
    )
    return head.encode("latin-1") + (response.body if size_bytes is None else b"")

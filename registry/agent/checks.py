"""One question to something that should work: a command, an HTTP address, a gRPC health service, a port."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from registry.agent import http, limits, runner
from registry.agent.runner import Result

URLS = ("http://", "https://")
GRPC = ("grpc://", "grpcs://")
TCP = "tcp://"


def check_target(target: str) -> None:
    """`http(s)://...`, `grpc(s)://HOST:PORT[/SERVICE]`, `tcp://HOST:PORT`, or else a command. Raises ValueError."""
    if target.startswith(URLS):
        http.check_url(target)
    elif target.startswith((*GRPC, TCP)):
        _address(target)


async def ask(target: str, environment: Mapping[str, str], *, timeout_s: float, contains: str = "") -> Result:
    """`contains`: a text that the first limits.PROBE_BODY_BYTES of an HTTP reply must hold."""
    try:
        if target.startswith(URLS):
            return await _ask_http(target, contains, timeout_s)
        if target.startswith(GRPC):
            return await _ask_grpc(target, timeout_s)
        if target.startswith(TCP):
            return await _ask_tcp(target, timeout_s)
    except ValueError as problem:
        return Result(False, str(problem))
    return await runner.run(target, environment, timeout_s=timeout_s)


async def _ask_http(url: str, contains: str, timeout_s: float) -> Result:
    wanted = limits.PROBE_BODY_BYTES if contains else limits.OUTPUT_BYTES
    try:
        reply = await http.request("GET", url, timeout_s=timeout_s, body_bytes=wanted)
    except http.NoReply as problem:
        return Result(False, str(problem))
    said = " ".join(reply.body[: limits.OUTPUT_BYTES].decode("utf-8", "replace").split())
    if not 200 <= reply.status < 400:
        return Result(False, f"HTTP status {reply.status}: {said}" if said else f"HTTP status {reply.status}")
    if contains.encode() not in reply.body:
        return Result(False, f"HTTP status {reply.status} without {contains!r} in it: {said}")
    return Result(True, "")


async def _ask_grpc(target: str, timeout_s: float) -> Result:
    """grpc.health.v1. grpcs: TLS with the roots of this machine."""
    host, port, service = _address(target)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    options = (
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),  # every question makes its own connection
        ("grpc.min_reconnect_backoff_ms", round(timeout_s * 1000)),  # also how long one connection is tried
        ("grpc.max_receive_message_length", limits.PROBE_BODY_BYTES),
    )
    if target.startswith("grpcs://"):
        channel = grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(), options)
    else:
        channel = grpc.aio.insecure_channel(address, options)
    async with channel:
        try:
            stub = health_pb2_grpc.HealthStub(channel)
            reply = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.aio.AioRpcError as problem:
            return Result(False, f"{problem.code().name}: {(problem.details() or '')[: limits.OUTPUT_BYTES]}")
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    return Result(True, "") if status == "SERVING" else Result(False, f"health is {status}")


async def _ask_tcp(target: str, timeout_s: float) -> Result:
    host, port, _ = _address(target)
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return Result(False, f"no connection within {timeout_s:g} s")
    except OSError as problem:
        return Result(False, str(problem) or type(problem).__name__)
    writer.transport.abort()
    return Result(True, "")


def _address(target: str) -> tuple[str, int, str]:
    """Host, port and what follows them. Raises ValueError."""
    form = "HOST:PORT/SERVICE, or without /SERVICE" if target.startswith(GRPC) else "HOST:PORT"
    scheme = target.partition("://")[0]
    problem = f"{target[:200]!r}: write {scheme}://{form}"
    try:
        parts = urlsplit(target)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(problem) from None
    service = parts.path.removeprefix("/")
    if not host or port is None or "@" in parts.netloc or parts.query or (service and scheme == "tcp"):
        raise ValueError(problem)
    return host, port, service

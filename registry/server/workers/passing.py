"""Calls that only the member can answer, passed on by workers as they came: one code for all of them, at both ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from registry.server import rpc
from registry.server.workers import answering
from registry.server.workers.remote import RemoteCluster

METRICS = "/metrics"  # as a method: what the member says there


def answered(
    service: ServiceDescriptor, operations: Mapping[str, rpc.Unary | rpc.Stream]
) -> tuple[dict[str, answering.Unary], dict[str, answering.Stream]]:
    """The member's end: unary and streaming ones, by full name."""
    unary: dict[str, answering.Unary] = {}
    streams: dict[str, answering.Stream] = {}
    for method in service.methods:
        if method.server_streaming:
            streams[method.full_name] = _stream(method, operations[method.name])
        else:
            unary[method.full_name] = _unary(method, operations[method.name])
    return unary, streams


def passed_on(service: ServiceDescriptor, member: RemoteCluster) -> dict[str, rpc.Unary | rpc.Stream]:
    """The worker's end: the operations of `service`, by name."""
    return {method.name: _passed_on(method, member) for method in service.methods}


def _unary(method: MethodDescriptor, operation: Any) -> answering.Unary:
    request_class = GetMessageClass(method.input_type)

    async def answer(request: bytes, timeout_s: float) -> bytes:
        reply = await operation(request_class.FromString(request), timeout_s)
        data: bytes = reply.SerializeToString()
        return data

    return answer


def _stream(method: MethodDescriptor, operation: Any) -> answering.Stream:
    request_class = GetMessageClass(method.input_type)

    async def answer(request: bytes) -> AsyncGenerator[bytes, None]:
        async with aclosing(operation(request_class.FromString(request))) as replies:
            async for reply in replies:
                yield reply.SerializeToString()

    return answer


def _passed_on(method: MethodDescriptor, member: RemoteCluster) -> rpc.Unary | rpc.Stream:
    reply_class, name = GetMessageClass(method.output_type), method.full_name

    async def call(request: Any, timeout_s: float) -> Any:
        return reply_class.FromString(await member.ask(name, request.SerializeToString(), timeout_s))

    async def stream(request: Any) -> AsyncIterator[Any]:
        async with aclosing(member.stream(name, request.SerializeToString())) as replies:
            async for data in replies:
                yield reply_class.FromString(data)

    return stream if method.server_streaming else call

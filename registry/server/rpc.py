"""One road for every call: deadline in, reply or status out, counted. Handlers know messages, not gRPC."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2

from cluster.kv.api import Damaged
from registry.core.errors import Invalid, Reason, RegistryError, Unavailable
from registry.server import limits, status
from registry.server.feed import busy
from registry.server.metrics import Metrics
from registry.server.repair import Repairs

Unary = Callable[[Any, float], Awaitable[Any]]  # request, timeout_s -> reply
Parse = Callable[[bytes], Any]
Stream = Callable[[Any], AsyncIterator[Any]]  # request -> replies, until the caller leaves
ALWAYS_SERVED = frozenset({"GetStatus"})  # also by a process that is no member
log = structlog.get_logger()


class Rpc:
    """Serves operations as the rpcs of a service, all under the same rules."""

    def __init__(self, metrics: Metrics, repairs: Repairs | None = None) -> None:
        """`repairs`: told of damaged rows that calls meet."""
        self._metrics = metrics
        self._repairs = repairs or Repairs()
        self._draining = False
        self._running = 0
        self.held: Unavailable | None = None
        self.show: Callable[[], None] = lambda: None  # what callers were told is seen by the calls that follow

    def drain(self) -> None:
        """Refuse calls that arrive from now on: the member is leaving."""
        self._draining = True

    def hold(self, because: Unavailable | None) -> None:
        """Refuse calls while this process has nothing to answer them with. None: serve them."""
        self.held = because

    def check(self, method: str) -> None:
        """At the beginning of a call. Raises Unavailable while those of this method are refused."""
        if self._draining:
            raise shutting_down()
        if self.held is not None and method not in ALWAYS_SERVED:
            raise self.held
        self.show()

    def _check_running(self) -> None:
        """gRPC bounds each acceptor alone."""
        if self._running > limits.CONCURRENT_CALLS:
            raise busy(f"{limits.CONCURRENT_CALLS:,} calls are running already")

    def handler(
        self,
        service: ServiceDescriptor,
        operations: Mapping[str, Unary | Stream],
        *,
        default_s: float = limits.CALL_S,
    ) -> grpc.GenericRpcHandler[Any, Any]:
        """All rpcs of `service` by name. default_s: of calls without a deadline. Raises KeyError if one is missing."""
        handlers = {method.name: self._method(method, operations[method.name], default_s) for method in service.methods}
        return grpc.method_handlers_generic_handler(service.full_name, handlers)

    def _method(self, method: MethodDescriptor, operation: Any, default_s: float) -> grpc.RpcMethodHandler[Any, Any]:
        parse = partial(_parsed, GetMessageClass(method.input_type))
        serialize = GetMessageClass(method.output_type).SerializeToString
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(method.name, operation, parse), response_serializer=serialize
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method.name, operation, parse, default_s), response_serializer=serialize
        )

    def failed(self, method: str, error: Exception) -> status_pb2.Status:
        """The status of a failed call. Of damaged data, which another member has whole, callers are told so; what is no
        error of ours either is to be explained in the log, under a number."""
        if isinstance(error, Damaged):
            error = self._repairs.failure(error)
        if isinstance(error, RegistryError):
            return status.rich(error)
        incident = secrets.token_hex(4)
        log.error("call failed inside", method=method, incident=incident, exc_info=error)
        return status.internal(incident)

    def _unary(
        self, name: str, operation: Unary, parse: Parse, default_s: float
    ) -> Callable[[bytes, Any], Awaitable[Any]]:
        count = self._metrics.call

        async def call(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            started = time.perf_counter()
            code = "CANCELLED"
            self._running += 1
            try:
                self._check_running()
                self.check(name)
                reply = await operation(parse(data), budget_s(context.time_remaining(), default_s))
                code = "OK"
                return reply
            except Exception as error:  # noqa: BLE001 - the edge: nothing but a status leaves
                failure = self.failed(name, error)
                code = status.code_of(failure).name
                await status.abort(context, failure)
            finally:
                self._running -= 1
                count(name, code, time.perf_counter() - started)

        return call

    def _stream(self, name: str, operation: Stream, parse: Parse) -> Callable[[bytes, Any], AsyncIterator[Any]]:
        async def call(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            started = time.perf_counter()
            code = "CANCELLED"
            self._running += 1
            try:
                self._check_running()
                self.check(name)
                async for reply in operation(parse(data)):
                    yield reply
                code = "OK"
            except Exception as error:  # noqa: BLE001
                failure = self.failed(name, error)
                code = status.code_of(failure).name
                await status.abort(context, failure)
            finally:
                self._running -= 1
                self._metrics.call(name, code, time.perf_counter() - started)

        return call


def _parsed(message: type[Message], data: bytes) -> Message:
    """gRPC's own deserializing would answer with UNKNOWN and our class names."""
    try:
        return message.FromString(data)
    except DecodeError as error:
        raise Invalid(
            Reason.INVALID_REQUEST, "the request is no message of this call", hint="use the API's .proto files"
        ) from error


def budget_s(remaining_s: float | None, default_s: float = limits.CALL_S) -> float:
    """How long a call may wait for the cluster, so that its answer still reaches the caller in time."""
    if remaining_s is None:
        return default_s
    return min(max(remaining_s - min(limits.REPLY_MARGIN_S, remaining_s / 10), 0.0), limits.CALL_MAX_S)


def not_admitted() -> Unavailable:
    return Unavailable(
        Reason.NOT_ADMITTED,
        "this process is not admitted to a cluster yet; nothing was done",
        hint="ask a member; `regctl cluster status` there shows the command that admits this one",
    )


def shutting_down() -> Unavailable:
    return Unavailable(Reason.SHUTTING_DOWN, "this member is stopping; nothing was done", hint="ask another member")

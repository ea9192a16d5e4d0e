"""A member on a real socket that answers by a script: what clients see of faults, without a cluster behind."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from registry.core.errors import Reason
from registry.v1 import agent_pb2, agent_pb2_grpc, cluster_pb2, cluster_pb2_grpc, registry_pb2, registry_pb2_grpc


@dataclass
class World:
    """What the members of one test share: pointers, and the outcomes of request ids."""

    pointers: dict[tuple[str, str], registry_pb2.Pointer] = field(default_factory=dict)
    outcomes: dict[str, Any] = field(default_factory=dict)
    changes: list[registry_pb2.Change] = field(default_factory=list)
    revision: int = 0
    leader: str = ""


@dataclass(frozen=True)
class Fail:
    """End the call with this status. `reason` None: a plain gRPC status. `first_do`: after doing what was asked."""

    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    reason: str | None = None
    message: str = "scripted"
    metadata: dict[str, str] = field(default_factory=dict)
    first_do: bool = False

    def status(self) -> status_pb2.Status:
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        if self.reason is not None:
            detail = any_pb2.Any()
            detail.Pack(
                error_details_pb2.ErrorInfo(reason=self.reason, domain="workflow-registry", metadata=self.metadata)
            )
            status.details.append(detail)
        return status


NO_QUORUM = Fail(reason=Reason.NO_QUORUM)
UNKNOWN = Fail(grpc.StatusCode.ABORTED, Reason.OUTCOME_UNKNOWN)
Handler = Callable[[Any], Any]


class Member:
    """`script["Switch"]` holds the faults of the next switches; with none left they succeed. `gate`: calls of an
    rpc named in `held` wait for it, after they were noted in `calls`."""

    def __init__(self, world: World, name: str = "n1") -> None:
        self.world = world
        self.name = name
        self.address = ""
        self.script: defaultdict[str, deque[Fail]] = defaultdict(deque)
        self.always: dict[str, Fail] = {}
        self.answers: dict[str, Handler] = {}
        self.calls: list[tuple[str, Any]] = []
        self.held: set[str] = set()
        self.gate = asyncio.Event()
        self.arrived = asyncio.Condition()
        self.addresses: list[str] = []
        self._server: grpc.aio.Server | None = None

    async def start(self, address: str = "127.0.0.1:0") -> Member:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        registry_pb2_grpc.add_RegistryServiceServicer_to_server(_Servicer(self), self._server)
        agent_pb2_grpc.add_AgentServiceServicer_to_server(_Servicer(self), self._server)
        cluster_pb2_grpc.add_ClusterServiceServicer_to_server(_Servicer(self), self._server)
        port = self._server.add_insecure_port(address)
        self.address = f"127.0.0.1:{port}"
        await self._server.start()
        return self

    async def stop(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(None)

    def count(self, rpc: str) -> int:
        return sum(name == rpc for name, _ in self.calls)

    async def wait_for_calls(self, rpc: str, count: int) -> None:
        async with self.arrived:
            await self.arrived.wait_for(lambda: self.count(rpc) >= count)

    def info(self) -> registry_pb2.ReplyInfo:
        return registry_pb2.ReplyInfo(
            revision=self.world.revision, served_by=self.name, cluster_id="c1", epoch=1, leader=self.world.leader
        )

    async def serve(self, rpc: str, request: Any, context: Any) -> Any:
        self.calls.append((rpc, request))
        async with self.arrived:
            self.arrived.notify_all()
        if rpc in self.held:
            await self.gate.wait()
        fault = self.script[rpc].popleft() if self.script[rpc] else self.always.get(rpc)
        if fault is not None:
            if fault.first_do:
                self.do(rpc, request)
            trailers = (("grpc-status-details-bin", fault.status().SerializeToString()),) if fault.reason else ()
            await context.abort(fault.code, fault.message, trailers)
        if rpc == "Batch":
            return registry_pb2.BatchResponse(results=[self._operation(each) for each in request.operations])
        return self.do(rpc, request)

    def _operation(self, operation: registry_pb2.Operation) -> registry_pb2.OperationResult:
        kind = operation.WhichOneof("operation")
        assert kind is not None
        rpc = "".join(part.title() for part in kind.split("_"))
        if self.script[f"Batch.{rpc}"]:
            return registry_pb2.OperationResult(error=self.script[f"Batch.{rpc}"].popleft().status())
        field = "switch" if kind == "rollback" else kind
        return registry_pb2.OperationResult(**{field: self.do(rpc, getattr(operation, kind))})

    def do(self, rpc: str, request: Any) -> Any:
        if rpc in self.answers:
            return self.answers[rpc](request)
        return getattr(self, f"_do_{rpc.lower()}")(request)

    def _do_switch(self, request: registry_pb2.SwitchRequest) -> registry_pb2.SwitchResponse:
        if request.request_id not in self.world.outcomes:
            self.world.revision += 1
            pointers = [self._moved(move, request) for move in request.moves]
            self.world.outcomes[request.request_id] = registry_pb2.SwitchResponse(pointers=pointers)
            self.world.changes.append(
                registry_pb2.Change(revision=self.world.revision, action="switch", pointers=pointers)
            )
        reply = registry_pb2.SwitchResponse()
        reply.CopyFrom(self.world.outcomes[request.request_id])
        reply.info.CopyFrom(self.info())
        return reply

    def _moved(self, move: registry_pb2.Move, request: registry_pb2.SwitchRequest) -> registry_pb2.Pointer:
        key = (move.workflow, move.pointer)
        old = self.world.pointers.get(key, registry_pb2.Pointer())
        self.world.pointers[key] = registry_pb2.Pointer(
            workflow=move.workflow,
            pointer=move.pointer,
            version=int(move.target or 1),
            previous_version=old.version,
            generation=old.generation + 1,
            revision=self.world.revision,
            reason=request.reason,
            principal=request.principal,
        )
        return self.world.pointers[key]

    def _do_getpointer(self, request: registry_pb2.GetPointerRequest) -> registry_pb2.GetPointerResponse:
        pointer = self.world.pointers.get((request.workflow, request.pointer))
        return registry_pb2.GetPointerResponse(info=self.info(), pointer=pointer)

    def _do_publish(self, request: registry_pb2.PublishRequest) -> registry_pb2.PublishResponse:
        version = registry_pb2.Version(
            workflow=request.workflow, number=1, size_bytes=len(request.content), labels=request.labels
        )
        return registry_pb2.PublishResponse(info=self.info(), version=version, created=True)

    def _do_listworkflows(self, request: registry_pb2.ListWorkflowsRequest) -> registry_pb2.ListWorkflowsResponse:
        return registry_pb2.ListWorkflowsResponse(info=self.info())

    def _do_poll(self, request: agent_pb2.PollRequest) -> agent_pb2.PollResponse:
        return agent_pb2.PollResponse(info=self.info())

    def _do_acknowledge(self, request: agent_pb2.AcknowledgeRequest) -> agent_pb2.AcknowledgeResponse:
        self.world.outcomes[request.request_id] = request
        return agent_pb2.AcknowledgeResponse(info=self.info())

    def _do_getstatus(self, request: cluster_pb2.GetStatusRequest) -> cluster_pb2.GetStatusResponse:
        members = [
            cluster_pb2.MemberStatus(name=f"n{number}", address=address, alive=True, role="voter")
            for number, address in enumerate(self.addresses, 1)
        ]
        return cluster_pb2.GetStatusResponse(info=self.info(), members=members, term=1)


class _Servicer:
    """Every rpc of the three services: unary ones by Member.serve, Watch as a stream of what is known, then open."""

    def __init__(self, member: Member) -> None:
        self._member = member

    def __getattr__(self, rpc: str) -> Any:
        async def handle(request: Any, context: Any) -> Any:
            return await self._member.serve(rpc, request, context)

        return handle

    async def Watch(self, request: registry_pb2.WatchRequest, context: Any) -> Any:
        member = self._member
        member.calls.append(("Watch", request))
        if member.script["Watch"]:
            fault = member.script["Watch"].popleft()
            trailers = (("grpc-status-details-bin", fault.status().SerializeToString()),) if fault.reason else ()
            await context.abort(fault.code, fault.message, trailers)
        changes = [change for change in member.world.changes if change.revision >= request.from_revision]
        yield registry_pb2.WatchResponse(info=member.info(), changes=changes)
        if member.script["Watch.later"]:
            fault = member.script["Watch.later"].popleft()
            await context.abort(fault.code, fault.message)
        await member.gate.wait()

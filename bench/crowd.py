"""Many agents in one process, each on its own connection, as cheap as they can be: they must not be what is measured.

    python -m bench.crowd '{"address": "127.0.0.1:7402", "count": 1000, ...}'

Lines on stdin are orders, lines on stdout what became of them, both JSON:
    {"order": "poll", "generation": G, "digest": D, "kept": [...]}   everyone polls with this -> {"polled": count}
    {"order": "tell"}   once everyone has been told something ->
        {"last_s": when, by time.monotonic, "bytes": in all, "frames_bytes": content among them,
         "cpu_s": of this process, "failed": attempts at members, so far}
Agents whose wait ends in vain poll again by themselves. With "others", addresses of further members, they are the
client that real agents use, attached to "address" and free to leave it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import resource
import ssl
import sys
import time
from typing import Any, cast

import grpc
import msgspec
import uvloop

from registry.agent import limits
from registry.agent.backoff import delay_s
from registry.client.http import HttpClient
from registry.client.http_members import Address, parse
from registry.core.delivery import Holding, Poll
from registry.core.errors import RegistryError
from registry.v1 import agent_pb2, agent_pb2_grpc

CONNECT_AT_ONCE = 100
NICE = 5  # real agents are on machines of their own


class Order(msgspec.Struct):
    order: str
    generation: int = 0
    digest: str = ""
    kept: tuple[str, ...] = ()


class Crowd(msgspec.Struct):
    """`wait_ms`: from, to. `tls`: files of authority, certificate and key; empty: without. By gRPC: `channels` that the
    agents share, 0: each its own; and `spread_s`, over which an order's polls come."""

    address: str
    count: int
    workflow: str
    wait_ms: tuple[int, int] = (45_000, 60_000)
    inline_bytes: int = 0
    grpc: bool = False
    channels: int = 0
    spread_s: float = 0.0
    tls: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


class Told:
    """What the agents have heard."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.alike = b""  # the reply that came last: most are the same, and need no second look
        self.alike_frames_bytes = 0
        self.failed = 0  # members that did not answer, one after the other
        self._begin()
        self.all = asyncio.Event()

    def _begin(self) -> None:
        self.heard = self.bytes = self.frames_bytes = 0
        self.last_s = 0.0

    def hear(self, size_bytes: int, frames_bytes: int) -> None:
        self.heard += 1
        self.bytes += size_bytes
        self.frames_bytes += frames_bytes
        if self.heard == self._count:
            self.last_s = time.monotonic()
            self.all.set()

    def begin(self) -> None:
        self._begin()
        self.all.clear()


class HttpAgent(asyncio.Protocol):
    def __init__(self, crowd: Crowd, name: str, told: Told) -> None:
        self._crowd, self._name, self._told = crowd, name, told
        self._transport: asyncio.Transport
        self._request = b""
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def poll(self, order: Order) -> None:
        holding = Holding(
            workflow=self._crowd.workflow, generation=order.generation, digest=order.digest, kept=order.kept
        )
        poll = Poll(
            agent=self._name,
            session="s1",
            epoch=1,
            follows=(holding,),
            wait_ms=random.randint(*self._crowd.wait_ms),
            inline_bytes=self._crowd.inline_bytes,
        )
        body = msgspec.json.encode(poll)
        head = f"POST /v1/poll HTTP/1.1\r\nhost: {self._crowd.address}\r\ncontent-length: {len(body)}\r\n\r\n"
        self._request = head.encode() + body
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if data == self._told.alike:
            self._told.hear(len(data), self._told.alike_frames_bytes)
            return
        if self._received:
            data = self._received + data
        head, _, body = data.partition(b"\r\n\r\n")
        at = head.find(b"content-length: ")
        if at < 0 or len(body) < int(head[at + 16 :].split(b"\r", 1)[0]):
            self._received = data
            return
        self._received = b""
        if b'"instructions"' in body:
            frames_bytes = len(body.partition(b"}\n")[2]) if b"vnd.registry.poll" in head else 0
            self._told.alike, self._told.alike_frames_bytes = data, frames_bytes
            self._told.hear(len(data), frames_bytes)
        elif head.startswith(b"HTTP/1.1 200 "):
            self._transport.write(self._request)  # in vain: again, and its wait is as good as another
        else:
            print(body.decode(errors="replace"), file=sys.stderr)

    def connection_lost(self, exc: Exception | None) -> None:
        print(f"{self._name} lost its connection: {exc}", file=sys.stderr)


class GrpcAgent:
    def __init__(self, crowd: Crowd, name: str, told: Told, channel: grpc.aio.Channel) -> None:
        self._crowd, self._name, self._told = crowd, name, told
        self._stub: Any = agent_pb2_grpc.AgentServiceStub(channel)  # type: ignore[no-untyped-call]
        self._task: asyncio.Task[None]

    def poll(self, order: Order) -> None:
        self._task = asyncio.create_task(self._poll(order))

    async def _poll(self, order: Order) -> None:
        holding = agent_pb2.Follow(
            workflow=self._crowd.workflow, generation=order.generation, digest=order.digest, kept=order.kept
        )
        request = agent_pb2.PollRequest(
            agent=self._name, session="s1", epoch=1, follows=[holding], inline_bytes=self._crowd.inline_bytes
        )
        await asyncio.sleep(random.uniform(0, self._crowd.spread_s))
        while True:
            request.wait_ms = random.randint(*self._crowd.wait_ms)
            reply = await self._stub.Poll(request, timeout=90.0, wait_for_ready=True)
            if reply.instructions:
                frames_bytes = sum(len(each.content) for each in reply.instructions)
                self._told.hear(reply.ByteSize(), frames_bytes)
                return


class Attached(random.Random):
    """Prefers one member, and leaves the order of the others to chance."""

    def __init__(self, first: Address) -> None:
        super().__init__()
        self._first = first

    def shuffle(self, x: Any) -> None:
        super().shuffle(x)
        x.sort(key=lambda address: address != self._first)


class ClientAgent:
    """Polls and tries again as registry.agent.Agent does."""

    def __init__(self, crowd: Crowd, name: str, told: Told, turn: asyncio.Semaphore) -> None:
        self._crowd, self._name, self._told, self._turn = crowd, name, told, turn
        self._random = Attached(parse(f"http://{crowd.address}"))
        endpoints = [f"http://{address}" for address in (crowd.address, *crowd.others)]
        self._client = HttpClient(endpoints, random=self._random, on_failed_attempt=self._failed)
        self._task: asyncio.Task[None]

    def _failed(self, address: str, error: RegistryError) -> None:
        self._told.failed += 1

    def poll(self, order: Order) -> None:
        self._task = asyncio.create_task(self._poll(order))

    async def _poll(self, order: Order) -> None:
        holding = Holding(
            workflow=self._crowd.workflow, generation=order.generation, digest=order.digest, kept=order.kept
        )
        poll = Poll(agent=self._name, session="s1", epoch=1, follows=(holding,), inline_bytes=self._crowd.inline_bytes)
        async with self._turn:  # to connect
            await self._client.poll(poll, timeout_s=limits.POLL_SLACK_S)
        failures = 0
        while True:
            waiting = msgspec.structs.replace(poll, wait_ms=random.randint(*self._crowd.wait_ms))
            began_s = time.monotonic()
            try:
                reply, _ = await self._client.poll(waiting, timeout_s=limits.POLL_SLACK_S)
            except RegistryError as error:
                print(f"{self._name}: {error}", file=sys.stderr)
            else:
                if reply.instructions:
                    self._told.hear(0, 0)
                    return
            failures = 0 if time.monotonic() - began_s >= limits.POLL_HELD_S else failures + 1
            if failures:
                await asyncio.sleep(delay_s(failures, limits.POLL_BACKOFF_S, self._random))


async def _agents(crowd: Crowd, told: Told) -> list[HttpAgent | GrpcAgent | ClientAgent]:
    names = [f"edge-{number}" for number in range(crowd.count)]
    if crowd.others:
        gc.disable()  # a real agent has not thousands of clients to look through
        os.nice(NICE)
        turn = asyncio.Semaphore(CONNECT_AT_ONCE)
        return [ClientAgent(crowd, name, told, turn) for name in names]
    if crowd.grpc:
        channels = [_channel(crowd.address) for _ in range(crowd.channels or crowd.count)]
        return [GrpcAgent(crowd, name, told, channels[at % len(channels)]) for at, name in enumerate(names)]
    context = None
    if crowd.tls:
        authority, certificate, key = crowd.tls
        context = ssl.create_default_context(cafile=authority)
        context.load_cert_chain(certificate, key)
    loop = asyncio.get_running_loop()
    host, _, port = crowd.address.rpartition(":")
    agents: list[HttpAgent | GrpcAgent | ClientAgent] = []
    for start in range(0, len(names), CONNECT_AT_ONCE):
        made = await asyncio.gather(
            *(
                loop.create_connection(lambda name=name: HttpAgent(crowd, name, told), host, int(port), ssl=context)
                for name in names[start : start + CONNECT_AT_ONCE]
            )
        )
        agents += [agent for _, agent in made]
    return agents


def _channel(address: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])


async def main(crowd: Crowd) -> None:
    told = Told(crowd.count)
    agents = await _agents(crowd, told)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    _say({"connected": len(agents)})
    while line := await orders.readline():
        order = msgspec.json.decode(line, type=Order)
        if order.order == "poll":
            told.begin()
            for agent in agents:
                agent.poll(order)
            _say({"polled": len(agents)})
        else:
            await told.all.wait()
            sizes = {"bytes": told.bytes, "frames_bytes": told.frames_bytes}
            _say({"last_s": told.last_s, **sizes, "cpu_s": _cpu_s(), "failed": told.failed})


def _say(what: dict[str, float]) -> None:
    print(msgspec.json.encode(what).decode(), flush=True)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    uvloop.run(main(msgspec.json.decode(sys.argv[1], type=Crowd)))

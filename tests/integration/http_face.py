"""A member's HTTP face over a dictionary, on a real socket, which can be told to lie from now on."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from msgspec import structs

from registry.core import frames
from registry.core.commands import Ack
from registry.core.delivery import Instruction, Poll
from registry.core.limits import CONTENT_BYTES_CEILING
from tests.integration.lying_member import LyingMember, Request, Say, lying, polled, refused, reply

WORKFLOW = "support/triage"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Face:
    """`lie` answers a request in its stead. `inline`: content comes inside replies to polls."""

    def __init__(self, *, inline: bool = True) -> None:
        self.cluster_id, self.epoch, self.revision = "c1", 1, 0
        self.lie: Say | None = None
        self.inline = inline
        self.acks: list[Ack] = []
        self.polls: list[Poll] = []
        self.fetched: list[int] = []  # versions
        self.cut_after = 1 << 40  # bytes of one content; then it hangs up
        self.sent: list[int] = []  # bytes of each content
        self.member: LyingMember
        self.contents: dict[str, list[bytes]] = {}  # versions, from 1
        self._instructions: dict[tuple[str, str], Instruction] = {}
        self._changed = asyncio.Condition()

    @property
    def endpoint(self) -> str:
        return self.member.endpoint

    async def live(self, data: bytes, *, workflow: str = WORKFLOW, **changes: Any) -> Instruction:
        """Publishes and switches."""
        versions = self.contents.setdefault(workflow, [])
        versions.append(data)
        return await self.switch(len(versions), workflow=workflow, **changes)

    async def switch(self, version: int, *, workflow: str = WORKFLOW, **changes: Any) -> Instruction:
        made = self.prepared(version, workflow=workflow, **changes)
        self._instructions[workflow, "active"] = made
        await self.wake()
        return made

    def prepared(self, version: int, *, workflow: str = WORKFLOW, **changes: Any) -> Instruction:
        """What the switch would tell."""
        before = self._instructions.get((workflow, "active"))
        data = self.contents[workflow][version - 1]
        self.revision += 1
        made = Instruction(
            workflow=workflow,
            pointer="active",
            generation=before.generation + 1 if before else 1,
            version=version,
            digest=digest_of(data),
            size_bytes=len(data),
            base_digest=before.digest if before else "",
            min_revision=self.revision,
        )
        return structs.replace(made, **changes)

    async def wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until_acked(self, phase: str, generation: int) -> Ack:
        async with self._changed:
            while True:
                for ack in self.acks:
                    if (ack.phase, ack.generation) == (phase, generation):
                        return ack
                await self._changed.wait()

    async def __call__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        if self.lie is not None:
            await self.lie(request, writer)
        else:
            await self.honestly(request, writer)

    async def honestly(self, request: Request, writer: asyncio.StreamWriter) -> None:
        if request.path == "/v1/poll":
            await self._poll(msgspec.json.decode(request.body, type=Poll), writer)
        elif request.path == "/v1/acks":
            self.acks += msgspec.json.decode(request.body, type=list[Ack])
            writer.write(reply(b'{"revision": 1}'))
            await self.wake()
        else:
            await self._content(request, writer)

    async def _poll(self, poll: Poll, writer: asyncio.StreamWriter) -> None:
        self.polls.append(poll)
        if poll.cluster_id not in ("", self.cluster_id):
            writer.write(refused(409, "CLUSTER_MISMATCH"))
            return
        found: list[tuple[Instruction, bytes]] = []
        try:
            async with asyncio.timeout(poll.wait_ms / 1000 or 0.001), self._changed:
                while not (found := self._different(poll)) and self.lie is None:
                    await self._changed.wait()
        except TimeoutError:
            pass
        if self.lie is not None:
            await self.lie(Request("POST", "/v1/poll", {}, msgspec.json.encode(poll)), writer)
            return
        content = b"".join(frame for _, frame in found)
        instructions = [instruction for instruction, _ in found]
        writer.write(polled(*instructions, cluster_id=self.cluster_id, epoch=self.epoch, frames=content))

    def _different(self, poll: Poll) -> list[tuple[Instruction, bytes]]:
        found = []
        for follow in poll.follows:
            made = self._instructions.get((follow.workflow, follow.pointer))
            if made is None or (self.epoch == poll.epoch and made.generation <= follow.generation):
                continue
            data, frame = self.contents[made.workflow][made.version - 1], b""
            if made.digest == follow.digest or made.digest in follow.kept:
                made = structs.replace(made, how="have")
            elif self.inline and len(data) <= poll.inline_bytes:
                base = next((each for each in self.contents[made.workflow] if digest_of(each) == follow.digest), b"")
                frame = frames.pack_over(base, data, 3) if base else frames.pack(data, 3)
                how, over = ("delta", digest_of(base)) if base else ("full", "")
                made = structs.replace(made, how=how, delta_base=over, content_bytes=len(frame))
            found.append((made, frame))
        return found

    async def _content(self, request: Request, writer: asyncio.StreamWriter) -> None:
        url = urlsplit(request.path)
        workflow, _, version = url.path.removeprefix("/v1/content/").rpartition("/")
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        versions = self.contents.get(workflow, [])
        if not 0 < int(version) <= len(versions):
            writer.write(refused(404, "VERSION_NOT_FOUND"))
            return
        self.fetched.append(int(version))
        data = versions[int(version) - 1]
        digest = f"x-registry-digest: {digest_of(data)}"
        base = next((each for each in versions if digest_of(each) == query.get("base")), b"")
        if asked := re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", "")):
            start = int(asked[1])
            if start >= len(data):
                writer.write(refused(416, "INVALID_REQUEST"))
                return
            span = f"content-range: bytes {start}-{len(data) - 1}/{len(data)}"
            await self._send(writer, reply(data[start:], span, digest, status="206 Partial Content"))
        elif query.get("form") != "compact" or len(data) > CONTENT_BYTES_CEILING:
            await self._send(writer, reply(data, "x-registry-encoding: raw", digest))
        elif base:
            made = ("x-registry-encoding: delta", f"x-registry-base: {digest_of(base)}")
            await self._send(writer, reply(frames.pack_over(base, data, 3), *made, digest))
        else:
            await self._send(writer, reply(frames.pack(data, 3), "x-registry-encoding: zstd", digest))

    async def _send(self, writer: asyncio.StreamWriter, message: bytes) -> None:
        body = len(message.partition(b"\r\n\r\n")[2])
        self.sent.append(min(body, self.cut_after))
        if body > self.cut_after:
            writer.write(message[: self.cut_after - body])
            await writer.drain()
            writer.close()
        else:
            writer.write(message)


@asynccontextmanager
async def faces(count: int = 1, *, inline: bool = True) -> AsyncIterator[list[Face]]:
    async with AsyncExitStack() as stack:
        made = [Face(inline=inline) for _ in range(count)]
        for face in made:
            face.member = await stack.enter_async_context(lying(face))
        yield made

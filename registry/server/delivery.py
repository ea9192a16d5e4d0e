"""What an agent should have, against what it says it has: the answers to polls, made once for all who need the same.

Small answers come from memory: the newest pointers are kept until they move, and with them, serialized, what each kind
of agent is told of them. Content that goes along is packed first, beside the loop where that is long; polls wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

import structlog
from msgspec import json, structs

from cluster.kv.api import Damaged, Snapshots
from registry.core import frames, limits, names
from registry.core.delivery import Holding, Instruction, Poll, PollReply
from registry.core.errors import Conflict, Invalid, Reason, RegistryError
from registry.core.model import Pointer, Registry
from registry.server.contents import Compact, Contents
from registry.server.feed import Feed, PointerKey
from registry.server.hub import Hub, Waiter
from registry.server.limits import AGE_TOLD_MS, BUILDS, INLINED, PIECES_BYTES, TARGETS
from registry.server.repair import Repairs
from registry.store import queries
from registry.store.state import Rows

HAVE, FETCH = "have", "fetch"
_PIECE_BYTES = 2048  # beside its content
_HOLDING_BYTES = 512
_RAW_LEVEL = 1
log = structlog.get_logger()


class Piece:
    """One instruction, and its JSON; `frame`: what follows it, of `delta` and `full`. `reply` is for whoever serves it:
    a whole reply of this alone, in their own form."""

    __slots__ = ("frame", "instruction", "json", "reply")

    def __init__(self, instruction: Instruction, frame: bytes = b"") -> None:
        self.instruction = instruction
        self.frame = frame
        self.json = json.encode(instruction)
        self.reply: object = None


class Target:
    """A pointer as it is now, and what was made of it: `pieces` by `have`, `fetch`, or what lies under the content."""

    __slots__ = ("digest", "generation", "instruction", "key", "pieces")

    def __init__(self, rows: Rows, pointer: Pointer) -> None:
        version = rows.version(pointer.workflow, pointer.version)
        if version is None:
            raise KeyError(f"version {pointer.version} of {pointer.workflow} is missing")
        base = rows.version(pointer.workflow, pointer.previous_version) if pointer.previous_version else None
        self.key: PointerKey = pointer.workflow, pointer.pointer
        self.generation = pointer.generation
        self.digest = version.digest
        self.instruction = Instruction(
            workflow=pointer.workflow,
            pointer=pointer.pointer,
            generation=pointer.generation,
            version=version.number,
            digest=version.digest,
            size_bytes=version.size_bytes,
            base_digest=base.digest if base else "",
            needs=version.needs,
            reason=pointer.reason,
            rollback=pointer.rollback,
            min_revision=pointer.revision,
            not_before_ms=pointer.not_before_ms,
            deadline_ms=pointer.deadline_ms,
        )
        self.pieces: dict[str, Piece] = {}


class Ask:
    """A poll, checked, as it is kept while it waits."""

    __slots__ = ("epoch", "follows", "inline_bytes", "keys", "size_bytes")

    def __init__(self, poll: Poll, keys: tuple[PointerKey, ...], follows: Sequence[Holding]) -> None:
        self.epoch = poll.epoch
        self.inline_bytes = min(max(poll.inline_bytes, 0), limits.INLINE_BYTES)
        self.keys = keys
        self.follows = [(holding.generation, holding.digest, holding.kept) for holding in follows]
        self.size_bytes = sum(_HOLDING_BYTES + sum(map(len, holding.kept)) for holding in follows)


class Build:
    """Content being packed, and the polls that wait for it."""

    __slots__ = ("waiters",)

    def __init__(self) -> None:
        self.waiters: list[Waiter] = []


class Delivery:
    """`built`: pieces made so far. One per process; `environment`, `feed` and `contents` are all that it reads.
    `age_ms`: since this member heard the leader."""

    def __init__(
        self,
        *,
        environment: Snapshots,
        feed: Feed,
        hub: Hub,
        contents: Contents,
        repairs: Repairs | None = None,
        age_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        self.built = 0
        self._environment, self._feed, self._hub, self._contents = environment, feed, hub, contents
        self._repairs = repairs or Repairs()
        self._age_ms = age_ms
        self._targets: dict[PointerKey, Target] = {}
        self._epoch = 0  # that the targets are of
        self._pieces_bytes = 0
        self._builds: dict[tuple[Target, str], Build] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._head: tuple[Registry | None, bytes, bytes] = None, b"", b""  # what replies to that state begin with
        feed.follow(self._moved)

    def ask(self, poll: Poll) -> Ask:
        """The poll, checked. Raises Invalid, Conflict(CLUSTER_MISMATCH)."""
        names.check_agent(poll.agent)
        names.check_site(poll.site)
        if poll.labels:
            names.check_labels(poll.labels)
        if poll.facts:
            _check_facts(poll.facts)
        names.check_line(poll.session, "session", limits.NAME_CHARS)
        _at_most(len(poll.follows), limits.FOLLOWS, "pointers in one poll")
        follows: dict[PointerKey, Holding] = {}
        for holding in poll.follows:
            key = holding.workflow, holding.pointer
            target = self._targets.get(key)
            if target is not None:
                key = target.key  # one copy for all who wait
            else:
                names.check_workflow(holding.workflow)
                names.check_pointer(holding.pointer)
            if holding.digest:
                names.check_digest(holding.digest)
            _at_most(len(holding.kept), limits.KEPT, f"kept versions of {holding.workflow}")
            follows[key] = holding
        self._check_cluster(poll.cluster_id)
        return Ask(poll, tuple(follows), list(follows.values()))

    def answer(self, ask: Ask) -> list[Piece] | Build:
        """What differs from what the agent has, by this member's own state; a member behind the agent's epoch has
        nothing to say. Build: content of it is being packed; ask again when that wakes its `waiters`."""
        found, build = self._steadily(ask, builds=True)
        return found if build is None else build

    def answer_now(self, ask: Ask) -> list[Piece]:
        """As `answer`; content that would have to be packed first is to be fetched."""
        return self._steadily(ask, builds=False)[0]

    def known(self, ask: Ask) -> Piece | None:
        """The answer to one that follows one pointer, where it was made before: all agents but the first of their kind
        get it. None: look closer, with `answer`."""
        if len(ask.keys) != 1:
            return None
        target = self._targets.get(ask.keys[0])
        epoch = self._feed.registry.epoch
        if target is None or self._epoch != epoch or ask.epoch != epoch:
            return None
        generation, digest, kept = ask.follows[0]
        if target.generation <= generation:
            return None
        if target.digest == digest or target.digest in kept:
            return target.pieces.get(HAVE)
        if not ask.inline_bytes:
            return target.pieces.get(FETCH)
        piece = target.pieces.get(digest)
        return piece if piece is not None and 0 < len(piece.frame) <= ask.inline_bytes else None

    def _steadily(self, ask: Ask, *, builds: bool) -> tuple[list[Piece], Build | None]:
        """Of one state: a look may commit what moves a pointer that was looked at before, and that is told to those
        who wait already."""
        while True:
            seen = self._feed.registry
            answer = self._differing(ask, builds=builds)
            if seen is self._feed.registry:
                return answer

    def _differing(self, ask: Ask, *, builds: bool) -> tuple[list[Piece], Build | None]:
        epoch = self._feed.registry.epoch
        if ask.epoch > epoch:
            return [], None
        found: list[Piece] = []
        building: Build | None = None
        inlined = 0
        for key, (generation, digest, kept) in zip(ask.keys, ask.follows, strict=True):
            target = self._targets.get(key) or self._load(key)
            if target is None or (epoch == ask.epoch and target.generation <= generation):
                continue
            if self._epoch != epoch:  # the snapshot was ahead of the feed: it will tell
                return [], None
            if target.digest == digest or target.digest in kept:
                found.append(self._piece(target, HAVE))
                continue
            if ask.inline_bytes and inlined < INLINED:
                piece = target.pieces.get(digest)
                if piece is None and builds and (build := self._build(target, digest)) is not None:
                    building = building or build
                    inlined += 1
                    continue
                if piece is not None and 0 < len(piece.frame) <= ask.inline_bytes:
                    inlined += 1
                    found.append(piece)
                    continue
            found.append(self._piece(target, FETCH))
        return found, building

    def reply(self, pieces: Iterable[Piece]) -> bytes:
        """core.delivery.PollReply as JSON."""
        registry, bare, opened = self._head
        if registry is not self._feed.registry:
            registry = self._feed.registry
            head = PollReply(cluster_id=registry.cluster_id, epoch=registry.epoch, revision=registry.revision)
            bare = json.encode(head)
            opened = bare[:-1] + b',"instructions":['
            self._head = registry, bare, opened
        told = b",".join([piece.json for piece in pieces])
        if told:
            return opened + told + b"]}"
        age_ms = self._age_ms()
        return bare if age_ms < AGE_TOLD_MS else bare[:-1] + b',"age_ms":%d}' % age_ms

    def _moved(self, touched: Iterable[PointerKey] | None) -> None:
        if self._feed.closed:
            self._hub.close()
            return
        if touched is None:
            self._forget()
        else:
            for key in touched:
                if (target := self._targets.pop(key, None)) is not None:
                    self._pieces_bytes -= sum(_size_bytes(piece) for piece in target.pieces.values())
        self._hub.wake(touched)

    def _forget(self) -> None:
        self._targets.clear()
        self._pieces_bytes = 0

    def _load(self, key: PointerKey) -> Target | None:
        """In one look, of which the epoch is too: another process may read ahead of its feed."""
        with self._environment.peek() as reader:
            rows = Rows(reader)
            pointer = rows.pointer(*key)
            if pointer is None:
                return None
            target = Target(rows, pointer)
            epoch = rows.registry().epoch
        if epoch != self._epoch or len(self._targets) >= TARGETS:
            self._forget()
            self._epoch = epoch
        self._targets[key] = target
        return target

    def _piece(self, target: Target, how: str, packed: Compact | None = None) -> Piece:
        """`have` or `fetch`; with `packed`, content over what the agent runs, whose digest is in `how`."""
        piece = target.pieces.get(how)
        if piece is not None:
            return piece
        if packed is None:
            piece = Piece(structs.replace(target.instruction, how=HAVE if how == HAVE else FETCH))
        else:
            told = structs.replace(
                target.instruction,
                how="delta" if packed.encoding == "delta" else "full",
                delta_base=packed.base_digest,
                content_bytes=len(packed.data),
            )
            piece = Piece(told, packed.data)
        self.built += 1
        if self._targets.get(target.key) is target:
            self._keep(target, how, piece)
        return piece

    def _keep(self, target: Target, how: str, piece: Piece) -> None:
        """Past the bound all are forgotten: what is still needed is soon made again."""
        if self._pieces_bytes + _size_bytes(piece) > PIECES_BYTES:
            for each in self._targets.values():
                each.pieces.clear()
            self._pieces_bytes = 0
        target.pieces[how] = piece
        self._pieces_bytes += _size_bytes(piece)

    def _build(self, target: Target, base: str) -> Build | None:
        """None: too many are being built."""
        key = target, base
        build = self._builds.get(key)
        if build is None and len(self._builds) < BUILDS:
            build = self._builds[key] = Build()
            task = asyncio.create_task(self._pack(target, base))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return build

    async def _pack(self, target: Target, base: str) -> None:
        """Whatever becomes of it, those who wait are answered: to be told to fetch, they learn there why."""
        packed: Compact | None = None
        try:
            packed = await self._compact(target, base)
        except Damaged as damage:
            self._repairs.note(str(damage))
        except RegistryError as error:
            log.info("content is not sent along", workflow=target.key[0], digest=target.digest, reason=error.reason)
        finally:
            self._piece(target, base, packed)
            self._hub.again(self._builds.pop((target, base)).waiters)

    async def _compact(self, target: Target, base: str) -> Compact | None:
        """None: there is no small form."""
        with self._environment.peek() as reader:
            rows = Rows(reader)
            version = rows.version(target.key[0], target.instruction.version)
            if version is None:
                return None
            stored = queries.stored_content(reader, version)
            if stored.encoding == "chunks":
                return None
            chain = self._contents.chain(rows, target.digest, stored)
            is_ours = base and rows.digest(target.key[0], base) is not None
            over = self._contents.base(rows, base) if is_ours else None
        packed = await self._contents.compact(chain, over)
        if packed.encoding == "raw" and len(packed.data) <= limits.INLINE_BYTES:  # too little for a frame to pay
            packed = Compact("zstd", "", frames.pack(packed.data, _RAW_LEVEL))
        return packed if len(packed.data) <= limits.INLINE_BYTES else None

    def _check_cluster(self, cluster_id: str) -> None:
        ours = self._feed.registry.cluster_id
        if cluster_id and ours and cluster_id != ours:
            raise Conflict(
                Reason.CLUSTER_MISMATCH,
                f"this is cluster {ours}, the agent follows cluster {cluster_id[: limits.NAME_CHARS]!a}",
                hint="correct the agent's endpoints, or give it a new state directory to follow this cluster",
                metadata={"cluster_id": ours},
            )


def _size_bytes(piece: Piece) -> int:
    return _PIECE_BYTES + 2 * len(piece.frame)


def _check_facts(facts: Mapping[str, str]) -> None:
    _at_most(len(facts), limits.FACTS, "facts")
    for name, value in facts.items():
        names.check_line(name, "fact", limits.FACT_CHARS)
        names.check_line(value, "fact", limits.FACT_CHARS)


def _at_most(count: int, most: int, what: str) -> None:
    if count > most:
        raise Invalid(
            Reason.TOO_LARGE, f"{count} {what}", hint=f"at most {most} are taken", metadata={"limit": str(most)}
        )

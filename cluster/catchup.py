"""How a member gets what the log of the others no longer has. Sans I/O.

A state is fetched in chunks that the receiver asks for one by one, from any member that has it, into an environment
beside its own; only a complete and verified one is installed (`Replica.install`), in one step. A lost answer is asked
for again; a source that falls silent or has let go of its snapshot is left, and another one is asked, from the start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from cluster import messages as m
from cluster import snapshot
from cluster.journal import OWN, Journal, applied_in
from cluster.kv.api import Environment, Reader
from cluster.limits import (
    FETCH_LOST_S,
    FETCH_RETRY_S,
    FETCH_SILENCE_S,
    FETCH_SYNC_BYTES,
    SNAPSHOT_IDLE_S,
    SNAPSHOTS,
    Flow,
)
from cluster.snapshot import SnapshotError

Post = Callable[[str, m.Message], None]
NEVER = float("inf")
log = logging.getLogger("cluster.catchup")


@dataclass
class _Given:
    """A state kept for one peer, and the log behind it."""

    number: int
    index: int
    index_term: int
    reader: Reader
    tables: tuple[str, ...]
    held: ExitStack
    used_at: float


class Giver:
    """Gives states to others, all of them together at most `bytes_s` bytes a second."""

    def __init__(
        self,
        *,
        environment: Environment,
        journal: Journal,
        flow: Flow,
        bytes_s: float,
        first_number: int,
        now: Callable[[], float],
        post: Post,
    ) -> None:
        self._environment, self._journal, self._flow, self._bytes_s = environment, journal, flow, bytes_s
        self._now, self._post = now, post
        self._tables = tuple(table for table in environment.tables if table not in OWN)
        self._given: dict[str, _Given] = {}
        self._asked: dict[str, m.FetchRows] = {}  # in order of asking
        self._number = first_number  # not from 0: a receiver of before a restart must not meet another state
        self._free_at = now()  # when the bytes given so far have been paid for

    def oldest_index(self) -> int:
        """Entries behind it are still needed by those who fetch."""
        return min((given.index for given in self._given.values()), default=2**62)

    def on_fetch(self, peer: str, message: m.Fetch, term: int) -> None:
        if self._journal.applied < max(message.at_least, 2):  # the log's first entry is never applied
            return
        if peer not in self._given and len(self._given) >= SNAPSHOTS:
            return
        given = self._given.get(peer)
        if given is None or given.index < message.at_least:
            given = self._keep(peer)
        header = snapshot.header_of(given.reader, given.tables, b"")
        self._post(peer, m.Fetched(given.number, term, given.index, given.index_term, header))

    def _keep(self, peer: str) -> _Given:
        self.forget(peer)
        held = ExitStack()
        reader = held.enter_context(self._environment.snapshot())
        self._number += 1
        index = applied_in(reader)
        # Not the empty ones: an older release does not know the tables that came since, and does not need to.
        tables = tuple(table for table in self._tables if reader.count(table))
        given = _Given(self._number, index, self._journal.term_at(index), reader, tables, held, self._now())
        self._given[peer] = given
        return given

    def on_rows(self, peer: str, message: m.FetchRows) -> None:
        self._asked[peer] = message

    def give(self) -> None:
        """Answer what was asked, as far as the rate allows."""
        now = self._now()
        for peer in [peer for peer, given in self._given.items() if now - given.used_at > SNAPSHOT_IDLE_S]:
            self.forget(peer)
        while self._asked and self._free_at <= now:
            peer = next(iter(self._asked))
            message, given = self._asked.pop(peer), self._given.get(peer)
            chunk = None
            if given and given.number == message.snapshot:
                given.used_at = now
                chunk = self._read(given, message.after)
                if chunk:
                    self._free_at = max(self._free_at, now) + _size_bytes(chunk) / self._bytes_s
            self._post(peer, m.FetchedRows(message.snapshot, chunk))

    def _read(self, given: _Given, after: snapshot.Position | None) -> snapshot.Chunk | None:
        try:
            return snapshot.read_chunk(given.reader, given.tables, after, self._flow.chunk_bytes)
        except SnapshotError:
            return None

    def next_wakeup(self) -> float:
        due = self._free_at if self._asked else NEVER
        return min([due, *(given.used_at + SNAPSHOT_IDLE_S for given in self._given.values())])

    def forget(self, peer: str) -> None:
        self._asked.pop(peer, None)
        if given := self._given.pop(peer, None):
            given.held.close()

    def close(self) -> None:
        for peer in list(self._given):
            self.forget(peer)


@dataclass
class _Coming:
    """A state on its way here."""

    source: str
    fetched: m.Fetched
    incoming: Environment
    loader: snapshot.Loader
    after: snapshot.Position | None = None
    unsynced_bytes: int = 0
    size_bytes: int = 0


@dataclass(frozen=True)
class Complete:
    """A whole state, durable beside the member's own."""

    fetched: m.Fetched
    incoming: Environment


Work = Callable[[], None]


@dataclass
class Fetcher:
    """Fetches one state at a time. `in_background(work, then)` runs `work` beside the loop and `then` on it."""

    environment: Environment
    now: Callable[[], float]
    post: Post
    in_background: Callable[[Work, Work], None]
    complete: Callable[[Complete], None]
    _wanted: int = field(default=0, init=False)  # index; 0: nothing
    _asked_at: float = field(default=float("-inf"), init=False)
    _heard_at: float = field(default=float("-inf"), init=False)
    _coming: _Coming | None = field(default=None, init=False)
    _syncing: bool = field(default=False, init=False)  # an incoming environment, beside the loop: it must stay

    @property
    def wanted(self) -> int:
        return self._wanted

    @property
    def coming(self) -> int:
        """The index of the state on its way here; 0: none is."""
        return self._coming.fetched.index if self._coming else 0

    def want(self, at_least: int) -> None:
        """Until `settle`: a state at this index or a later one is needed. The last word counts: another leader's log
        may begin earlier, and it may not commit more before this member follows."""
        self._wanted = at_least

    def settle(self) -> None:
        """Nothing is needed any more."""
        self._wanted = 0
        self._drop()

    def ask(self, choose: Callable[[], str | None]) -> None:
        """Called in every tick: ask somebody, ask again, or give up a silent source."""
        now = self.now()
        if not self._wanted:
            return
        coming = self._coming
        if self._syncing:
            return
        if coming and now - self._heard_at < FETCH_SILENCE_S:
            if now - self._asked_at >= FETCH_RETRY_S:
                self._ask_rows(coming)
            return
        self._drop()
        if now - self._asked_at >= FETCH_RETRY_S:
            self._asked_at = now
            if source := choose():
                self.post(source, m.Fetch(self._wanted))

    def disconnected(self, peer: str) -> None:
        """What was asked of it may be lost; it may be gone for good."""
        if self._coming and self._coming.source == peer:
            self._heard_at = min(self._heard_at, self.now() - FETCH_SILENCE_S + FETCH_LOST_S)

    def next_wakeup(self) -> float:
        return self._asked_at + FETCH_RETRY_S if self._wanted and not self._syncing else NEVER

    def describe(self) -> str:
        if not self._wanted:
            return ""
        if not self._coming:
            return f"a state at {self._wanted} or later; nobody has begun to send one"
        return f"the state at {self._coming.fetched.index} from {self._coming.source}: {self._coming.size_bytes} bytes"

    def on_fetched(self, peer: str, message: m.Fetched) -> None:
        if self._coming or self._syncing or message.index < self._wanted or not self._wanted:
            return None
        if own := sorted(set(OWN) & set(message.header.rows)):
            return self.refuse(f"it has what is a member's own: {', '.join(own)}")
        incoming = self.environment.incoming()
        try:
            self._coming = _Coming(peer, message, incoming, snapshot.Loader(incoming, message.header))
        except SnapshotError as error:
            return self.refuse(str(error))
        self._heard_at = self.now()
        self._ask_rows(self._coming)
        return None

    def on_rows(self, peer: str, message: m.FetchedRows) -> None:
        coming = self._coming
        if not coming or self._syncing or coming.source != peer or coming.fetched.snapshot != message.snapshot:
            return None
        chunk = message.chunk
        if chunk is None:
            return self.refuse("its source has let go of it")
        if chunk.after != coming.after:  # asked twice, answered twice
            return None
        self._heard_at = self.now()
        try:
            coming.loader.add(chunk)
            if chunk.last:
                coming.loader.finish()
        except SnapshotError as error:
            return self.refuse(str(error))
        coming.after = chunk.end
        coming.size_bytes += _size_bytes(chunk)
        coming.unsynced_bytes += _size_bytes(chunk)
        if not chunk.last and coming.unsynced_bytes < FETCH_SYNC_BYTES:
            self._ask_rows(coming)
            return None
        coming.unsynced_bytes, self._syncing = 0, True
        self.in_background(coming.incoming.sync, lambda: self._synced(coming, last=chunk.last))
        return None

    def refuse(self, because: str) -> None:
        """What came is of no use; it is asked for again, of whoever has it then."""
        log.warning("a fetched state was given up: %s", because)
        self._drop()

    def _drop(self) -> None:
        coming, self._coming = self._coming, None
        if coming and not self._syncing:
            coming.incoming.close()

    def _synced(self, coming: _Coming, *, last: bool) -> None:
        self._syncing = False
        if self._coming is not coming:
            return coming.incoming.close()
        self._heard_at = self.now()
        if last:
            self._coming = None
            self.complete(Complete(coming.fetched, coming.incoming))
        else:
            self._ask_rows(coming)
        return None

    def _ask_rows(self, coming: _Coming) -> None:
        self._asked_at = self.now()
        self.post(coming.source, m.FetchRows(coming.fetched.snapshot, coming.after))


def _size_bytes(chunk: snapshot.Chunk) -> int:
    return sum(len(key) + len(value) for _, key, value in chunk.rows)

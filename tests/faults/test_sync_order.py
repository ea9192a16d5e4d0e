"""Killing a process keeps what it wrote in the page cache and shows nothing about syncing. This does: three real
members run under a shim that records the order of their system calls, and no promise may leave before a complete,
synced commit made after its cause:

    append with entries received -> commit -> acknowledgement sent
    vote request received        -> commit -> vote sent
    append sent by the leader    -> commit, and an acknowledgement received -> answer to the client sent
"""

from __future__ import annotations

import operator
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from struct import Struct

import pytest

from cluster import messages as m
from registry.cli.local_cluster import free_ports

HERE = Path(__file__).parent
WRITES = 20
PATIENCE_S = 20.0
_HEAD = Struct("<cii")
_CHECKPOINT_STEPS = {("", "W"): "W", ("WF", "W"): "W", ("W", "F"): "WF", ("WF", "D"): "WFD"}
_LOG_STEPS = {("", "A"): "A", ("A", "L"): "AL"}


@dataclass(frozen=True)
class Commit:
    """A record written to the write-ahead log and synced; or, in the file of the tables, data written, synced, and the
    page that makes it current written through a synchronous descriptor."""


@dataclass(frozen=True)
class Event:
    """`what`: a message between members, a line to the client, or a commit."""

    direction: str  # R received, S sent, empty for a commit
    what: m.Message | str | Commit


def events_of(log: bytes) -> list[Event]:
    events: list[Event] = []
    streams: dict[tuple[int, str], bytearray] = {}
    checkpoint, logged, offset = "", "", 0
    while offset < len(log):
        tag, fd, size = _HEAD.unpack_from(log, offset)
        kind, payload = tag.decode(), log[offset + _HEAD.size : offset + _HEAD.size + size]
        offset += _HEAD.size + size
        if kind in "WFD":
            checkpoint = _CHECKPOINT_STEPS.get((checkpoint, kind), checkpoint)
            if checkpoint == "WFD":
                events.append(Event("", Commit()))
                checkpoint = ""
        elif kind in "AL":
            logged = _LOG_STEPS.get((logged, kind), logged)
            if logged == "AL":
                events.append(Event("", Commit()))
                logged = ""
        elif kind == "C":
            streams.pop((fd, "R"), None)
            streams.pop((fd, "S"), None)
        else:
            stream = streams.setdefault((fd, kind), bytearray())
            stream += payload
            events += [Event(kind, what) for what in _taken(stream)]
    return events


def _taken(stream: bytearray) -> Iterator[m.Message | str]:
    """What is complete in a stream: frames of members, lines to the client. Handshakes are passed over."""
    while stream:
        if stream.startswith((b"done ", b"leader", b"propose ")):
            line, found, rest = stream.partition(b"\n")
            if not found:
                return
            yield line.decode()
            stream[:] = rest
            continue
        if stream.startswith(m.MAGIC):
            del stream[: len(m.MAGIC)]
        if len(stream) < 4 or len(stream) < (end := 4 + m.body_size(bytes(stream[:4]))):
            return
        body = bytes(stream[4:end])
        del stream[:end]
        if body[1:7] != b"\xa5hello" and body[1:9] != b"\xa7welcome":
            yield m.decode_message(body)


def acknowledges(append: m.Append) -> Callable[[object], bool]:
    last = append.previous_index + len(append.entries)
    return lambda what: isinstance(what, m.AppendReply) and what.success and what.next_index > last


def carries(text: bytes) -> Callable[[object], bool]:
    return lambda what: isinstance(what, m.Append) and any(text in entry for _, entry in what.entries)


class Trace:
    """What one process did, and which of its promises left too early."""

    def __init__(self, events: list[Event]) -> None:
        self._events = events
        self.broken: list[str] = []
        self.seen: Counter[str] = Counter()
        for at, event in enumerate(events):
            match event:
                case Event("R", m.Append(entries=[_, *_]) as append):
                    self._promised("acknowledgement", at, self._first(at, "S", acknowledges(append)))
                case Event("R", m.RequestVote(term=term)):
                    self._promised("vote", at, self._first(at, "S", partial(operator.eq, m.Vote(term))))
                case Event("S", str(line)) if line.startswith("done "):
                    self._answered(at, line.removeprefix("done ").encode())

    def _answered(self, at: int, text: bytes) -> None:
        append_at = self._first(0, "S", carries(text))
        if append_at is None:
            return  # not the leader: it only passes the answer on
        append = self._events[append_at].what
        assert isinstance(append, m.Append)
        acknowledged_at = self._first(append_at, "R", acknowledges(append))
        if acknowledged_at is None or acknowledged_at > at:
            self.broken.append(f"answer before an acknowledgement: {text.decode()}")
        self._promised("answer", append_at, at)

    def _promised(self, kind: str, cause_at: int, promise_at: int | None) -> None:
        if promise_at is None:
            return
        self.seen[kind] += 1
        if not any(isinstance(event.what, Commit) for event in self._events[cause_at:promise_at]):
            self.broken.append(f"{kind} before a synced commit: {self._events[promise_at].what}")

    def _first(self, start: int, direction: str, wanted: Callable[[object], bool]) -> int | None:
        places = range(start, len(self._events))
        return next(
            (at for at in places if self._events[at].direction == direction and wanted(self._events[at].what)), None
        )


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to build the shim with")
    library = tmp_path_factory.mktemp("shim") / "syscall_order.so"
    source = HERE / "syscall_order.c"
    subprocess.run(["gcc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


class Client:
    def __init__(self, port: int) -> None:
        self._port = port

    def ask(self, line: str) -> str:
        with socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE_S) as connection:
            connection.sendall(line.encode() + b"\n")
            with connection.makefile() as answers:
                return answers.readline().strip()


@contextmanager
def members(shim: Path, directory: Path, fault: str) -> Iterator[dict[str, Client]]:
    names = "abc"
    ports = free_ports(6)
    voters = [f"{name}=127.0.0.1:{port}" for name, port in zip(names, ports[:3], strict=True)]
    (directory / "order").mkdir()
    environment = os.environ | {
        "LD_PRELOAD": str(shim),
        "SYSCALL_ORDER_DIR": str(directory / "order"),
        "ORDER_FAULT": fault,
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.faults.order_member", name, str(port), str(directory / name), *voters],
            cwd=HERE.parents[1],
            env=environment,
        )
        for name, port in zip(names, ports[3:], strict=True)
    ]
    try:
        yield {name: Client(port) for name, port in zip(names, ports[3:], strict=True)}
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def leader_of(clients: dict[str, Client]) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            told = {client.ask("leader").removeprefix("leader").strip() for client in clients.values()}
        except OSError:
            told = set()
        if len(told) == 1 and (leader := told.pop()) in clients:
            return leader
        time.sleep(0.02)
    pytest.fail("no leader")


def observe(shim: Path, directory: Path, fault: str = "") -> tuple[list[str], Counter[str]]:
    """Writes one at a time, most through the leader, some through a follower. What left too early, and how many
    promises of each kind were looked at."""
    with members(shim, directory, fault) as clients:
        leader = leader_of(clients)
        follower = min(name for name in clients if name != leader)
        for number in range(WRITES):
            through = follower if number % 5 == 4 else leader
            assert clients[through].ask(f"propose write-{number:04}.") == f"done write-{number:04}."
    traces = [Trace(events_of(log.read_bytes())) for log in (directory / "order").iterdir()]
    assert len(traces) == 3
    return [line for trace in traces for line in trace.broken], sum((trace.seen for trace in traces), Counter[str]())


def test_no_promise_leaves_before_the_sync_of_what_it_promises(shim: Path, tmp_path: Path) -> None:
    broken, seen = observe(shim, tmp_path)
    assert broken == []
    assert seen["acknowledgement"] >= WRITES  # at least one follower each
    assert seen["vote"] >= 1
    assert seen["answer"] >= WRITES * 4 // 5


@pytest.mark.parametrize("fault", ["unsynced", "late"])
def test_the_test_can_fail(shim: Path, tmp_path: Path, fault: str) -> None:
    broken, seen = observe(shim, tmp_path, fault)
    assert seen["acknowledgement"] >= WRITES
    early = {line.split(" before ")[0] for line in broken}
    assert {"acknowledgement", "vote"} <= early

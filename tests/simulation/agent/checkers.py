"""What must hold at every instant of a simulated agent's machine."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from registry.agent.config import AgentConfig, FollowSpec
from registry.agent.guards import digest_of
from registry.agent.home import Home
from registry.agent.journal import Failure, Record
from registry.agent.targets.exec_ import ExecSpec
from registry.agent.transitions import State
from registry.core import needs
from registry.core.commands import Ack
from tests.simulation.agent.disk import Disk
from tests.simulation.agent.machine import Machine
from tests.simulation.agent.registry import Key, Registry, Switch

WRITTEN_S = 0.1  # between what is said and its file in the outbox
RESTARTS = 10  # within one unproven installation
SWAPS = 15  # of one generation, unless it is confirmed: the agent's restarts within one installation, and some


def _proves(record: Record, digest: str) -> bool:
    return not record.shown and record.running is not None and record.running.digest == digest


class Violation(Exception):
    """A promise was broken."""


@dataclass
class Seen:
    """Of one follow."""

    spec: FollowSpec
    record: Record  # as it is on disk
    durable: Record  # as it would be after a loss of power
    directory: str  # of the record
    told: tuple[Record, str | None]  # the newest of `lately`
    live: str | None = None  # the digest that PATH leads to
    confirmed: tuple[int, int] = (0, 0)  # the newest (epoch, generation), durably
    swaps: Counter[tuple[int, int]] = field(default_factory=Counter)
    lately: list[tuple[float, Record, str | None]] = field(default_factory=list)  # until when; record, live
    refused: dict[tuple[int, int], Failure] = field(default_factory=dict)


class Checkers:
    """Called by the disk, the machine and the network. Violations are kept as well as raised: production code may
    catch what is raised inside of it."""

    def __init__(
        self,
        config: AgentConfig,
        registry: Registry,
        machine: Machine,
        disk: Disk,
        wall_ms: Callable[[], int],
        now_s: Callable[[], float],
    ) -> None:
        self.violation = ""
        self.damaged: set[str] = set()  # digests whose bytes on disk the simulator has damaged
        self.damaged_records: set[Path] = set()
        self._mended: dict[str, Path] = {}  # damaged before and written anew: a loss of power may undo that
        self.acks: dict[Key, Ack] = {}  # the newest that the registry has of each follow
        self.heard_count = self.swaps = self.confirmations = self.reverts = 0
        self.latest_ms = wall_ms()
        self._jumps: list[tuple[float, int]] = []  # when and by how much the clock was set forward
        self._config = config
        self._registry = registry
        self._machine = machine
        self._disk = disk
        self._wall_ms = wall_ms
        self._now_s = now_s
        self._home = Home(config.state_dir)
        self._acks: dict[tuple[str, int], Ack] = {}
        self.follows = {(spec.workflow, spec.pointer): self._unseen(spec) for spec in config.follows}

    def fail(self, what: str) -> None:
        self.violation = self.violation or what
        raise Violation(what)

    def jumped(self, by_ms: int) -> None:
        self._jumps.append((self._now_s(), max(0, by_ms)))

    # What the disk says

    def changed(self, path: str) -> None:
        """A directory entry was replaced or removed."""
        with self._disk.aside():
            self._changed(path)

    def _changed(self, path: str) -> None:
        own = str(self._home.directory)
        if not path.startswith(own):
            self.look()
        elif path.startswith(f"{own}/follows/") and os.path.exists(path):
            self._record_written(msgspec.json.decode(Path(path).read_bytes(), type=Record))
        elif path.startswith(f"{own}/outbox/") and os.path.exists(path):
            self._ack_written(msgspec.json.decode(Path(path).read_bytes(), type=Ack))
        elif path.startswith(f"{own}/objects/") and os.path.exists(path):
            self._content_written(Path(path))

    def synced(self, directory: str) -> None:
        """Its entries are durable."""
        for seen in self.follows.values():
            if directory == seen.directory:
                seen.durable = record = seen.record
                if record.state is State.CONFIRM and record.target is not None:
                    seen.confirmed = max(seen.confirmed, (record.target.epoch, record.target.generation))

    def look(self, *, settled: bool = False) -> None:
        """At what every follow shows. `settled`: nothing was swapped by the agent; the machine has just come back."""
        for key, seen in self.follows.items():
            live = self.live(seen)
            if live == seen.live:
                continue
            if not settled:
                self._swapped(key, seen, live)
            seen.live = live
            self._remember(seen)
            if live is not None and not any(live == each.digest for each in self._registry.acknowledged.get(key, ())):
                self.fail(f"{key[0]} shows {live[:20]}, which no acknowledged switch names")
            if live is None and seen.confirmed > (0, 0):
                self.fail(f"{key[0]} shows nothing any more")

    def live(self, seen: Seen) -> str | None:
        """The digest of what is shown, and exactly that; None: nothing."""
        if isinstance(seen.spec.target, ExecSpec):
            return self._machine.live.get((seen.spec.workflow, seen.spec.pointer)) or None
        path = str(seen.spec.path)
        if not os.path.islink(path):
            return None
        parent = os.path.dirname(os.readlink(path))
        named = os.path.basename(parent).replace("-", ":", 1)
        if named not in self.damaged:
            with self._disk.aside():
                found = digest_of(Path(path).read_bytes()) if os.path.exists(path) else "nothing"
            if found != named:
                self.fail(f"{os.path.basename(path)} leads to {found[:20]} below the name {named[:20]}")
        return named

    def restarted(self) -> None:
        """After a crash: what is on disk now, which may be less than before."""
        with self._disk.aside():
            self._restarted()

    def _restarted(self) -> None:
        for digest, path in self._mended.items():
            if not path.exists() or digest_of(path.read_bytes()) != digest:
                self.damaged.add(digest)
        for seen in self.follows.values():
            path = self._record_path(seen.spec)
            if path in self.damaged_records:
                continue
            if not path.exists():
                if seen.durable.fence > (0, 0):
                    self.fail(f"the record of {seen.spec.name} is gone")
                continue
            seen.record = msgspec.json.decode(path.read_bytes(), type=Record)
            if seen.record.fence < seen.durable.fence:
                self.fail(f"{seen.spec.name} goes back from {seen.durable.fence} to {seen.record.fence}")
        self.look(settled=True)

    def forget(self, key: Key) -> None:
        """The simulator destroyed the record of this follow."""
        seen = self.follows[key]
        seen.record = seen.durable = self._fresh(seen.spec)
        seen.confirmed = (0, 0)

    def is_swapping(self) -> bool:
        return any(seen.record.state in (State.INSTALL, State.REVERT) for seen in self.follows.values())

    def _record_path(self, spec: FollowSpec) -> Path:
        return self._home.directory / "follows" / spec.workflow / f"{spec.pointer}.json"

    def _record_written(self, record: Record) -> None:
        seen = self.follows[record.workflow, record.pointer]
        if record.fence < seen.record.fence:
            self.fail(f"{record.workflow} goes back from {seen.record.fence} to {record.fence}")
        if record.restarts > RESTARTS and record.state in (State.INSTALL, State.RELOAD, State.PROBE):
            self.fail(f"{record.workflow} still tries {record.fence} after {record.restarts} restarts")
        if record.state is State.CONFIRM and seen.record.state is not State.CONFIRM:
            self._confirmed(seen, record)
        if record.state is State.REVERT and seen.record.state is not State.REVERT:
            self.reverts += 1
        if record.state is State.REFUSE and record.target is not None and record.failure is not None:
            fence = record.target.epoch, record.target.generation
            if fence not in seen.refused or not seen.refused[fence].is_final:
                seen.refused[fence] = record.failure
        seen.record = record
        self._remember(seen)

    def _confirmed(self, seen: Seen, record: Record) -> None:
        self.confirmations += 1
        if record.target is None or record.running is None:
            raise Violation(f"{record.workflow} confirms nothing")
        fence = record.target.epoch, record.target.generation
        before = seen.record.running
        repaired = before is not None and before.digest == record.running.digest
        if fence < seen.confirmed and not repaired:
            self.fail(f"{record.workflow} goes back from {seen.confirmed} to {fence}")

    # What is swapped

    def _swapped(self, key: Key, seen: Seen, live: str | None) -> None:
        self.swaps += 1
        record = seen.record
        if record.state is State.INSTALL and record.target is not None and live == record.target.digest:
            self._installed(key, seen)
        elif record.state is State.REVERT:
            if live != (record.last_good.digest if record.last_good else None):
                self.fail(f"{key[0]} goes back to {live}, which is not the last good version")
        elif record.running is None or live != record.running.digest:
            self.fail(f"{key[0]} is swapped to {(live or 'nothing')[:20]} in {record.state}, not on disk as a step")

    def _installed(self, key: Key, seen: Seen) -> None:
        target, record = seen.record.target, seen.record
        if target is None:
            return
        fence = target.epoch, target.generation
        repaired = record.running is not None and record.running.digest == target.digest
        if fence <= record.fence and not repaired:
            self.fail(f"{key[0]} installs {fence}, and has acted on {record.fence}")
        if not repaired and not self._find(key, fence, target.digest):
            self.fail(f"{key[0]} installs {target.digest[:20]} as {fence}, which was not acknowledged")
        seen.swaps[fence] += 1
        if seen.swaps[fence] > SWAPS:
            self.fail(f"{key[0]} installs {fence} again and again")
        if unmet := needs.unmet(target.needs, self._config.facts):
            self.fail(f"{key[0]} installs {fence} with {unmet}")
        took_ms = 25_000 if isinstance(seen.spec.target, ExecSpec) else 100  # since the deadline was looked at
        if target.deadline_ms and self._wall_ms() - self._jumped_ms(took_ms) > target.deadline_ms + took_ms:
            self.fail(f"{key[0]} installs {fence} after its deadline")
        if self.latest_ms < target.not_before_ms:
            self.fail(f"{key[0]} installs {fence} before its time")

    def _jumped_ms(self, took_ms: int) -> int:
        """How far the clock was set forward since the deadline was looked at."""
        return sum(by_ms for at_s, by_ms in self._jumps if at_s >= self._now_s() - took_ms / 1000)

    def _find(self, key: Key, fence: tuple[int, int], digest: str) -> Switch | None:
        found = self._registry.acknowledged.get(key, ())
        return next((each for each in found if ((each.epoch, each.generation), each.digest) == (fence, digest)), None)

    def _content_written(self, path: Path) -> None:
        digest = path.parent.name.replace("-", ":", 1)
        if digest_of(path.read_bytes()) != digest:
            self.fail(f"other bytes are kept below {digest[:20]}")
        if digest in self.damaged:
            self.damaged.discard(digest)
            self._mended[digest] = path

    # What is told

    def commanded(self, command: str, key: Key, digest: str) -> None:
        """A hook, a probe or an exec target's command runs for `digest`; or `installed`: an exec target has changed."""
        seen = self.follows[key]
        if command == "installed":
            self.look()
        elif command in ("reload", "probe", "smoke") and digest not in self.damaged:
            live = self.live(seen)
            if live != (digest or None) and seen.record.state != State.RESTORE:
                self.fail(f"{command} of {digest[:20]} while {key[0]} shows {(live or 'nothing')[:20]}")

    def _ack_written(self, ack: Ack) -> None:
        key = ack.workflow, ack.pointer
        seen = self.follows[key]
        live, record = self.live(seen), seen.record
        if not ack.running_digest or ack.running_digest in self.damaged:
            return
        if ack.phase == "confirmed":
            if not any(_proves(each, ack.running_digest) for each, _ in self._lately(seen)):
                self.fail(
                    f"{key[0]}: generation {ack.running_generation} is told as confirmed, and is not ({record.state})"
                )
            hooks = self._config.hooks_of(seen.spec)
            if hooks.probe is not None and (key, ack.running_digest) not in self._machine.proven:
                self.fail(f"{key[0]}: {ack.running_digest[:20]} is told as confirmed, and no probe succeeded")
        lately = self._lately(seen)
        states = {record.state, *(each.state for each, _ in lately)}
        doubtful = not states.isdisjoint({State.INSTALL, State.REVERT}) or ack.code == "REVERT_FAILED"
        lives = {live, *(each for _, each in lately)}
        if ack.running_digest not in lives and not doubtful and not isinstance(seen.spec.target, ExecSpec):
            self.fail(f"{key[0]}: {ack.phase} tells {ack.running_digest[:20]}, and {(live or 'nothing')[:20]} is shown")

    def _remember(self, seen: Seen) -> None:
        """What is told now may have been written down a moment before it changed."""
        now_s = self._now_s()
        seen.lately = [each for each in seen.lately if each[0] > now_s - WRITTEN_S]
        seen.lately.append((now_s, *seen.told))
        seen.told = seen.record, seen.live

    def _lately(self, seen: Seen) -> list[tuple[Record, str | None]]:
        """What has been so until a moment ago, and what is."""
        after_s = self._now_s() - WRITTEN_S
        return [seen.told, *((record, live) for until_s, record, live in seen.lately if until_s > after_s)]

    def heard(self, acks: Sequence[Ack]) -> None:
        """The registry has these."""
        for ack in acks:
            self.heard_count += 1
            known = self._acks.setdefault((ack.incarnation, ack.sequence), ack)
            if known != ack:
                self.fail(f"two acknowledgements with sequence {ack.sequence}")
            key = ack.workflow, ack.pointer
            if key not in self.acks or ack.sequence > self.acks[key].sequence:
                self.acks[key] = ack

    def _unseen(self, spec: FollowSpec) -> Seen:
        record = self._fresh(spec)
        return Seen(spec, record, record, str(self._record_path(spec).parent), (record, None))

    def _fresh(self, spec: FollowSpec) -> Record:
        return Record(workflow=spec.workflow, pointer=spec.pointer, path=spec.target.place)

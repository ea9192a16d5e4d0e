"""Looks at sources when they are due, and publishes what has changed and settled.

A publish is noted on disk with its request id before it is asked for, and its outcome after: whatever ends this process
between the two, the next one asks for the same again, and there is one version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal, Protocol

from msgspec import Struct, structs

from registry.client import Published
from registry.core.errors import Reason, RegistryError
from registry.core.limits import MESSAGE_CHARS
from registry.source import files, limits, plan
from registry.source.config import Source
from registry.source.files import Look
from registry.source.home import Note


class Publish(Protocol):
    """As Client.publish. Raises RegistryError."""

    async def __call__(
        self, workflow: str, content: bytes, *, message: str, labels: dict[str, str], snapshot: str, request_id: str
    ) -> Published: ...


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of what a run did. refused: not asked again for these bytes. waits: asked again later."""

    event: Literal["published", "unchanged", "refused", "waits", "gone", "problem"]
    text: str
    workflow: str = ""
    path: str = ""
    version: int = 0
    digest: str = ""
    reason: str = ""


class Notes(Protocol):
    def notes(self) -> dict[str, Note]: ...
    def save(self, notes: dict[str, Note]) -> None: ...


@dataclass
class _Candidate:
    """A file that is not as it was noted."""

    source: Source
    path: str
    at_s: float  # when it is looked at next
    look: Look | None = None  # the newest; one that is equal to the one before has settled
    unsettled: int = 0
    failures: int = 0
    said: str = ""  # why it waits, as it was told


class Watcher:
    """`clock`: seconds that only rise. `tell` gets every event once. `stop` set: a beat ends after the publish that it
    is at. Not for two tasks at a time."""

    def __init__(
        self,
        home: Notes,
        publish: Publish,
        *,
        host: str,
        clock: Callable[[], float],
        new_request_id: Callable[[], str],
        tell: Callable[[Event], None],
        stop: asyncio.Event,
    ) -> None:
        self._home = home
        self._publish = publish
        self._host = host
        self._clock = clock
        self._new_request_id = new_request_id
        self._tell = tell
        self._notes = home.notes()
        self._saved = dict(self._notes)
        self._sources: tuple[Source, ...] = ()
        self._due_s: dict[str, float] = {}  # by target
        self._candidates: dict[str, _Candidate] = {}  # by workflow
        self._told: dict[tuple[str, str], set[str]] = {}  # problems, by target, and path if they are of one file
        self.stop = stop
        self.failure: RegistryError | None = None  # the newest publish that waits or was refused

    @property
    def settling(self) -> bool:
        """Whether something changed has not been asked for yet."""
        return any(not candidate.failures for candidate in self._candidates.values())

    @property
    def waiting(self) -> int:
        """Publishes without an outcome."""
        return sum(candidate.failures > 0 for candidate in self._candidates.values())

    def watch(self, sources: Iterable[Source]) -> None:
        """From the next beat on these, and no others. What is new or changed among them is due at once."""
        before = {source.target: source for source in self._sources}
        self._sources = tuple(sources)
        same = {source.target for source in self._sources if before.get(source.target) == source}
        self._due_s = {target: due_s for target, due_s in self._due_s.items() if target in same}
        self._told = {about: told for about, told in self._told.items() if about[0] in same}
        self._candidates = {w: each for w, each in self._candidates.items() if each.source.target in same}
        covered = {w: note for w, note in self._notes.items() if any(each.covers(w) for each in self._sources)}
        self._notes = covered

    async def beat(self) -> float:
        """One round; in how many seconds the next one has something to do. Raises OSError when notes cannot be saved:
        nothing is published without."""
        for source in self._sources:
            if self._due_s.get(source.target, self._clock()) <= self._clock():
                self._due_s[source.target] = self._clock() + source.every_s
                await self._search(source)
        settled: list[tuple[str, _Candidate, Look]] = []
        for workflow, candidate in sorted(self._candidates.items(), key=lambda each: each[1].at_s):
            if self.stop.is_set() or len(settled) == limits.BATCH or candidate.at_s > self._clock():
                break
            if (look := await self._settled(workflow, candidate)) is not None:
                settled.append((workflow, candidate, look))
        await self._publish_all(settled)
        times = [*self._due_s.values(), *(candidate.at_s for candidate in self._candidates.values())]
        return max(min(times, default=float("inf")) - self._clock(), limits.BEAT_MIN_S)

    async def _search(self, source: Source) -> None:
        """Makes candidates of what is not as it was noted."""
        try:
            found = await asyncio.to_thread(files.matching, source.path, source.glob) if source.namespace else []
        except OSError as error:
            self._problems(source, [f"{source.path} cannot be read: {error.strerror}; nothing of it is published"])
            return
        taken = {each.workflow for each in self._sources if each.workflow}
        paths, problems = plan.files_of(source, found, taken)
        stamps = await asyncio.to_thread(files.stamps, paths.values())
        here = {workflow: path for workflow, path in paths.items() if stamps[path] is not None}
        for workflow, path in here.items():
            note = self._notes.get(workflow)
            known = note is not None and (note.path, note.stamp) == (path, stamps[path]) and not note.asked
            waiting = self._candidates.get(workflow)
            if known:
                self._candidates.pop(workflow, None)
            elif waiting is None or waiting.path != path:
                self._candidates[workflow] = _Candidate(source, path, self._clock())
        if len(found) <= limits.FILES:
            self._miss(source, found, here, taken)
        if source.workflow and not here and source.workflow not in self._notes:
            problems.append(f"{source.path} is not there; nothing is published")
        for about in [about for about in self._told if about[0] == source.target and about[1] not in here.values()]:
            if about[1]:
                del self._told[about]
        self._problems(source, problems)

    def _miss(self, source: Source, found: Sequence[str], here: dict[str, str], taken: set[str]) -> None:
        """Tells what is gone, and forgets files of a directory. One that comes back is published as if it were new: if
        its bytes are still the newest version, that stores nothing."""
        others = taken - {source.workflow}
        known = {*self._notes, *self._candidates} - here.keys() - others
        for workflow in sorted(each for each in known if source.covers(each)):
            self._candidates.pop(workflow, None)
            note = self._notes.get(workflow)
            if note is not None and not note.is_gone and PurePath(note.path).name not in found:
                if source.namespace:
                    del self._notes[workflow]
                else:
                    self._notes[workflow] = structs.replace(note, stamp=(), is_gone=True)
                text = f"{note.path} is gone; {workflow} stays as it is"
                self._tell(Event(event="gone", text=text, workflow=workflow, path=note.path))

    async def _settled(self, workflow: str, candidate: _Candidate) -> Look | None:
        """The newest look at it, if it is equal to the one before."""
        try:
            look = await asyncio.to_thread(files.look, candidate.path)
        except OSError as error:
            del self._candidates[workflow]  # until its source is due again
            if not isinstance(error, FileNotFoundError):
                text = f"{candidate.path} cannot be read: {error.strerror}; it is tried again when it is due"
                self._problems(candidate.source, [text], candidate.path)
            return None
        if look == candidate.look:
            return look
        candidate.unsettled += 1
        if candidate.unsettled > limits.UNSETTLED:
            del self._candidates[workflow]
            text = f"{candidate.path} is still being written; it is looked at again when it is due"
            self._problems(candidate.source, [text], candidate.path)
            return None
        candidate.look, candidate.at_s = look, self._clock() + limits.SETTLE_S
        return None

    async def _publish_all(self, settled: Sequence[tuple[str, _Candidate, Look]]) -> None:
        asked: list[tuple[str, _Candidate, Look]] = []
        for workflow, candidate, look in settled:
            note = self._notes.get(workflow) or Note(path=candidate.path)
            if not look.digest:
                limit = f"{limits.FILE_BYTES:,} bytes"
                self._refuse(workflow, candidate, look, f"it is larger than {limit}, the most a source may have")
            elif note.digest == look.digest and not note.asked:
                self._note(workflow, structs.replace(note, path=candidate.path, stamp=look.stamp, is_gone=False))
            else:
                request_id = note.request_id if note.asked == look.digest else self._new_request_id()
                self._notes[workflow] = structs.replace(
                    note, path=candidate.path, asked=look.digest, request_id=request_id
                )
                asked.append((workflow, candidate, look))
        self._save()
        for workflow, candidate, look in asked:
            if self.stop.is_set() or not await self._ask(workflow, candidate, look):
                break  # a registry that cannot be reached is not asked for each file
        self._save()

    async def _ask(self, workflow: str, candidate: _Candidate, look: Look) -> bool:
        """False: no outcome; it is asked for again later."""
        try:
            data = await asyncio.to_thread(files.read, candidate.path, look.digest)
        except OSError:
            data = None
        if data is None:
            candidate.look, candidate.at_s = None, self._clock()
            return True
        try:
            published = await self._publish(
                workflow,
                data,
                message=f"changed on {self._host}: {candidate.path}"[:MESSAGE_CHARS],
                labels=candidate.source.labels,
                snapshot="periodic",
                request_id=self._notes[workflow].request_id,
            )
        except RegistryError as error:
            self.failure = error
            if plan.is_final(error):
                self._refuse(workflow, candidate, look, str(error), error.reason)
                return True
            self._wait(workflow, candidate, error)
            return False
        self._note(
            workflow,
            Note(path=candidate.path, stamp=look.stamp, digest=look.digest, version=published.number),
        )
        name = f"{workflow}@{published.number}"
        self._tell(
            Event(
                event="published" if published.created else "unchanged",
                text=f"published {name}: {candidate.path} changed"
                if published.created
                else f"{name} has the bytes of {candidate.path} already",
                workflow=workflow,
                path=candidate.path,
                version=published.number,
                digest=published.digest,
            )
        )
        return True

    def _wait(self, workflow: str, candidate: _Candidate, error: RegistryError) -> None:
        candidate.failures += 1
        wait_s = plan.backoff_s(candidate.failures)
        candidate.at_s = self._clock() + wait_s
        if plan.spends_request_id(error):
            self._notes[workflow] = structs.replace(self._notes[workflow], request_id=self._new_request_id())
        if candidate.said != error.reason:
            candidate.said = error.reason
            text = f"{candidate.path} is not published yet: {error}; tried again in {wait_s:g} s, then less often"
            self._tell(Event(event="waits", text=text, workflow=workflow, path=candidate.path, reason=error.reason))

    def _refuse(
        self, workflow: str, candidate: _Candidate, look: Look, why: str, reason: str = Reason.TOO_LARGE
    ) -> None:
        self._note(workflow, Note(path=candidate.path, stamp=look.stamp, digest=look.digest, refused=why))
        text = f"{candidate.path} is not published: {why}. It is not tried again until the file changes"
        self._tell(
            Event(event="refused", text=text, workflow=workflow, path=candidate.path, digest=look.digest, reason=reason)
        )

    def _note(self, workflow: str, note: Note) -> None:
        self._notes[workflow] = note
        candidate = self._candidates.pop(workflow)
        self._told.pop((candidate.source.target, candidate.path), None)

    def _problems(self, source: Source, problems: Sequence[str], path: str = "") -> None:
        """Tells those that were not there the time before."""
        told = self._told.get((source.target, path), set())
        for text in dict.fromkeys(problems):
            if text not in told:
                self._tell(Event(event="problem", text=text, path=path))
        self._told[source.target, path] = set(problems)

    def _save(self) -> None:
        if self._notes != self._saved:
            self._home.save(self._notes)
            self._saved = dict(self._notes)

"""The rules of the registry once more, as plainly as possible: lists and dicts, nothing indexed, nothing in bytes.

Written from the rules, not from registry/core. Answers are short tuples; the model compares them with the outcomes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import structs

from registry.core.commands import Found, Mark, Move, Publish, Switch

Answer = tuple[object, ...]
UNUSABLE = ("failed", "fenced", "archived")


@dataclass
class OracleVersion:
    digest: str
    semver: str
    status: str = "candidate"


@dataclass
class OracleSwitch:
    version: int
    previous: int
    rollback: bool


@dataclass
class Oracle:
    window: int
    cluster_id: str = ""
    revision: int = 0
    kinds: dict[str, str] = field(default_factory=dict)
    versions: dict[str, list[OracleVersion]] = field(default_factory=dict)
    pointers: dict[tuple[str, str], list[OracleSwitch]] = field(default_factory=dict)
    remembered: list[tuple[str, object, Answer]] = field(default_factory=list)  # id, what was asked, answer
    forgotten: list[str] = field(default_factory=list)

    def apply(self, command: Found | Publish | Switch | Mark) -> Answer:
        asked = repr(structs.replace(command, time_ms=0))
        for request_id, known, answer in self.remembered:
            if request_id == command.request_id:
                return answer if known == asked else ("rejected", "REQUEST_REUSED")
        # Ids of the test sort by time, two of one time do not occur.
        if any(command.request_id <= old for old in self.forgotten):
            return ("rejected", "REQUEST_EXPIRED")
        answer = self.decide(command)
        self.remembered.append((command.request_id, asked, answer))
        if len(self.remembered) > self.window:
            self.forgotten.append(self.remembered.pop(0)[0])
        return answer

    def decide(self, command: Found | Publish | Switch | Mark) -> Answer:
        if isinstance(command, Found):
            if not self.cluster_id:
                self.cluster_id = command.cluster_id
                self.revision += 1
            return ("founded", self.cluster_id)
        if isinstance(command, Publish):
            return self.publish(command)
        if isinstance(command, Switch):
            return self.switch(command)
        return self.mark(command)

    def publish(self, command: Publish) -> Answer:
        versions = self.versions.get(command.workflow, [])
        if versions and self.kinds[command.workflow] != command.kind:
            return ("rejected", "KIND_MISMATCH")
        if self.fenced(command.workflow, command.digest):
            return ("rejected", "DIGEST_FENCED")
        if versions and versions[-1].digest == command.digest:
            return ("published", len(versions), False)
        semver = command.labels.get("semver", "").removeprefix("v")
        if semver and any(version.semver == semver for version in versions):
            return ("rejected", "LABEL_TAKEN")
        self.kinds[command.workflow] = command.kind
        self.versions.setdefault(command.workflow, []).append(OracleVersion(command.digest, semver))
        self.revision += 1
        return ("published", len(self.versions[command.workflow]), True)

    def switch(self, command: Switch) -> Answer:
        leaving = {
            (move.workflow, self.pointers[move.workflow, move.pointer][-1].version)
            for move in command.moves
            if (move.workflow, move.pointer) in self.pointers
        }
        targets: list[int] = []
        for move in command.moves:
            target = self.target(command, move, {number for name, number in leaving if name == move.workflow})
            if isinstance(target, str):
                return ("rejected", target)
            targets.append(target)
        named = {(move.workflow, target) for move, target in zip(command.moves, targets, strict=True)}
        failed = set()
        if command.rollback and not command.keep_status:
            for workflow, number in leaving - named:
                version = self.versions[workflow][number - 1]
                if version.status in ("candidate", "stable"):
                    version.status = "failed"
                    failed.add((workflow, number))
        generations = []
        for move, target in zip(command.moves, targets, strict=True):
            history = self.pointers.setdefault((move.workflow, move.pointer), [])
            history.append(OracleSwitch(target, history[-1].version if history else 0, command.rollback))
            generations.append(len(history))
        self.revision += 1
        return ("switched", tuple(targets), tuple(generations), frozenset(failed))

    def target(self, command: Switch, move: Move, leaving: set[int]) -> int | str:
        """The number, or the reason why not."""
        if move.workflow not in self.versions:
            return "WORKFLOW_NOT_FOUND"
        history = self.pointers.get((move.workflow, move.pointer), [])
        if move.expected_generation not in (None, len(history)):
            return "GENERATION_MISMATCH"
        if command.rollback and not history:
            return "POINTER_NOT_FOUND"
        if not move.target:
            return self.pick(move.workflow, history, leaving)
        if move.target > len(self.versions[move.workflow]):
            return "VERSION_NOT_FOUND"
        status = self.standing(move.workflow, move.target)
        if status in UNUSABLE and not command.force:
            return f"VERSION_{status.upper()}"
        return move.target

    def pick(self, workflow: str, history: list[OracleSwitch], leaving: set[int]) -> int | str:
        run = 0
        while run < len(history) and history[-1 - run].rollback:
            run += 1
        left = leaving | {switch.previous for switch in history[len(history) - run :]}
        live_before = [switch.version for switch in reversed(history) if switch.version not in left]
        stable = [number for number in live_before if self.standing(workflow, number) == "stable"]
        usable = [number for number in live_before if self.standing(workflow, number) not in UNUSABLE]
        return (stable + usable + ["NO_ROLLBACK_TARGET"])[0]

    def mark(self, command: Mark) -> Answer:
        versions = self.versions.get(command.workflow)
        if versions is None:
            return ("rejected", "WORKFLOW_NOT_FOUND")
        if command.version > len(versions):
            return ("rejected", "VERSION_NOT_FOUND")
        version = versions[command.version - 1]
        for (workflow, _), history in self.pointers.items():
            if workflow != command.workflow:
                continue
            named = history[-1].version
            if command.status == "archived" and named == command.version:
                return ("rejected", "VERSION_IN_USE")
            if command.status == "fenced" and versions[named - 1].digest == version.digest:
                return ("rejected", "VERSION_IN_USE")
        previous, version.status = version.status, command.status
        self.revision += previous != command.status
        return ("marked", previous, command.status)

    def standing(self, workflow: str, number: int) -> str:
        version = self.versions[workflow][number - 1]
        return "fenced" if self.fenced(workflow, version.digest) else version.status

    def fenced(self, workflow: str, digest: str) -> bool:
        return any(
            version.digest == digest and version.status == "fenced" for version in self.versions.get(workflow, [])
        )

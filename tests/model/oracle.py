"""The rules of the registry once more, as plainly as possible: lists and dicts, nothing indexed, nothing in bytes.

Written from the rules, not from registry/core. Answers are short tuples; the model compares them with the outcomes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import structs

from registry.core.commands import (
    SINCE_LEVEL_2,
    BeginEpoch,
    Found,
    Hold,
    Label,
    Mark,
    Move,
    Publish,
    Purge,
    SetPolicy,
    Switch,
)
from registry.core.model import Content
from tests.model import content_oracle

Remembered = Found | BeginEpoch | Publish | Switch | Mark | Label | SetPolicy | Hold | Purge
Asked = Remembered | content_oracle.About
Answer = tuple[object, ...]
UNUSABLE = ("failed", "fenced", "archived")
REPEATED = ("VERDICT_OUTDATED", "BASE_OUTDATED", "CHUNKS_MISSING", "NOT_INDEXED")
VERDICTS = ["ok", "warn", "confirm", "block"]


@dataclass
class OracleVersion:
    digest: str
    meaning: str
    labels: dict[str, str]
    parents: tuple[int, ...]
    needs: tuple[str, ...] = ()
    status: str = "candidate"
    fences_meaning: bool = False
    snapshot: str = "published"
    hold: str = ""
    removed: str = ""  # retention or purge
    revision: int = 0

    @property
    def semver(self) -> str:
        return self.labels.get("semver", "").removeprefix("v")


@dataclass
class OracleSwitch:
    version: int
    previous: int
    rollback: bool
    window: tuple[int, int]


@dataclass
class Oracle:
    window: int
    level: int = 1
    cluster_id: str = ""
    epoch: int = 1
    revision: int = 0
    kinds: dict[str, str] = field(default_factory=dict)
    versions: dict[str, list[OracleVersion]] = field(default_factory=dict)
    pointers: dict[tuple[str, str], list[OracleSwitch]] = field(default_factory=dict)
    policies: dict[str, dict[str, str]] = field(default_factory=dict)
    remembered: list[tuple[str, object, Answer]] = field(default_factory=list)  # id, what was asked, answer
    forgotten: list[str] = field(default_factory=list)
    contents: dict[str, Content] = field(default_factory=dict)
    chunks: set[str] = field(default_factory=set)
    purged: set[str] = field(default_factory=set)
    backups: set[int] = field(default_factory=set)  # by revision
    is_indexed: bool = False

    def apply(self, command: Asked) -> Answer:
        if self.level == 1 and isinstance(command, SINCE_LEVEL_2):
            return ("rejected", "LEVEL_TOO_LOW")
        if self.level == 1 and isinstance(command, Publish) and (command.content.base or command.content.chunks):
            return ("rejected", "LEVEL_TOO_LOW")
        if not isinstance(command, Remembered):
            return content_oracle.decide(self, command)
        asked = repr(structs.replace(command, time_ms=0))
        if isinstance(command, Publish):  # what a member found in the content is not what was asked
            content = Content(encoding="raw", data=b"", size_bytes=0)
            asked = repr(structs.replace(command, time_ms=0, findings=(), literals=(), content=content))
        if isinstance(command, Switch):
            moves = [structs.replace(move, verdict="", verdict_from=0) for move in command.moves]
            asked = repr(structs.replace(command, time_ms=0, moves=tuple(moves)))
        for request_id, known, answer in self.remembered:
            if request_id == command.request_id:
                return answer if known == asked else ("rejected", "REQUEST_REUSED")
        # Ids of the test sort by time, two of one time do not occur.
        if any(command.request_id <= old for old in self.forgotten) and not isinstance(command, BeginEpoch):
            return ("rejected", "REQUEST_EXPIRED")
        answer = self.decide(command)
        if answer[0] == "rejected" and answer[1] in REPEATED:
            return answer
        self.remembered.append((command.request_id, asked, answer))
        if len(self.remembered) > self.window:
            self.forgotten.append(self.remembered.pop(0)[0])
        return answer

    def decide(self, command: Remembered) -> Answer:
        if isinstance(command, Found):
            if not self.cluster_id:
                self.cluster_id = command.cluster_id
                self.revision += 1
            return ("founded", self.cluster_id)
        if isinstance(command, BeginEpoch):
            self.revision += 1
            self.epoch = max(self.epoch + 1, command.at_least)
            return ("epoch", self.epoch)
        if isinstance(command, Publish):
            return self.publish(command)
        if isinstance(command, Switch):
            return self.switch(command)
        if isinstance(command, Label):
            return self.label(command)
        if isinstance(command, SetPolicy):
            return self.set_policy(command)
        if isinstance(command, Mark):
            return self.mark(command)
        return content_oracle.decide(self, command)

    def publish(self, command: Publish) -> Answer:
        versions = self.versions.get(command.workflow, [])
        if versions and self.kinds[command.workflow] != command.kind:
            return ("rejected", "KIND_MISMATCH")
        if command.digest in self.purged:
            return ("rejected", "CONTENT_PURGED")
        if self.fenced(command.workflow, command.digest, command.semantic_digest):
            return ("rejected", "DIGEST_FENCED")
        if versions and versions[-1].digest == command.digest and not versions[-1].removed:
            return ("published", len(versions), False, 0)
        parents: tuple[int, ...] = (len(versions),) if versions else ()
        notes = 0
        if self.level >= 2:
            if any(parent > len(versions) for parent in command.parents):
                return ("rejected", "VERSION_NOT_FOUND")
            parents = command.parents or parents
            if self.policy(command.workflow, "checks") == "refuse" and command.findings:
                return ("rejected", "CHECKS_FAILED")
            if self.policy(command.workflow, "literals") == "refuse" and command.literals:
                return ("rejected", "SECRETS_FOUND")
            if versions and versions[-1].meaning == command.semantic_digest and not versions[-1].removed:
                notes = 1
                if self.policy(command.workflow, "unchanged") == "refuse":
                    return ("rejected", "SAME_SEMANTICS")
        semver = command.labels.get("semver", "").removeprefix("v")
        if semver and any(version.semver == semver for version in versions):
            return ("rejected", "LABEL_TAKEN")
        if unfit := content_oracle.unfit(self, command):
            return ("rejected", unfit)
        self.kinds[command.workflow] = command.kind
        self.revision += 1
        version = OracleVersion(
            command.digest,
            command.semantic_digest,
            command.labels,
            parents,
            command.needs,
            snapshot=command.snapshot,
            revision=self.revision,
        )
        self.versions.setdefault(command.workflow, []).append(version)
        self.contents.setdefault(command.digest, command.content)
        return ("published", len(self.versions[command.workflow]), True, notes)

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
            window = (command.not_before_ms, command.deadline_ms)
            history.append(OracleSwitch(target, history[-1].version if history else 0, command.rollback, window))
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
        if self.versions[move.workflow][move.target - 1].removed:
            return "CONTENT_REMOVED"
        status = self.standing(move.workflow, move.target)
        if status in UNUSABLE and not command.force:
            return f"VERSION_{status.upper()}"
        worst = self.policy(move.workflow, "verdict")
        if self.level >= 2 and not command.force and worst != "block":
            if command.rollback:
                return move.target if any(past.version == move.target for past in history) else "VERDICT_REFUSED"
            if not move.verdict or move.verdict_from != (history[-1].version if history else 0):
                return "VERDICT_OUTDATED"
            if VERDICTS.index(move.verdict) > VERDICTS.index(worst):
                return "VERDICT_REFUSED"
        return move.target

    def pick(self, workflow: str, history: list[OracleSwitch], leaving: set[int]) -> int | str:
        run = 0
        while run < len(history) and history[-1 - run].rollback:
            run += 1
        left = leaving | {switch.previous for switch in history[len(history) - run :]}
        live_before = [
            switch.version
            for switch in reversed(history)
            if switch.version not in left and not self.versions[workflow][switch.version - 1].removed
        ]
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
            if command.status == "fenced" and self.level >= 2 and versions[named - 1].meaning == version.meaning:
                return ("rejected", "VERSION_IN_USE")
        previous = version.status
        if previous != command.status:
            if self.level >= 2 and not allowed(previous, command.status):
                return ("rejected", "STATUS_TRANSITION")
            version.status = command.status
            version.fences_meaning = command.status == "fenced" and self.level >= 2
            self.revision += 1
        return ("marked", previous, command.status)

    def label(self, command: Label) -> Answer:
        versions = self.versions.get(command.workflow)
        if versions is None:
            return ("rejected", "WORKFLOW_NOT_FOUND")
        if command.version > len(versions):
            return ("rejected", "VERSION_NOT_FOUND")
        version = versions[command.version - 1]
        after = {**version.labels, **command.labels}
        for key in command.remove:
            after.pop(key, None)
        if after == version.labels:
            return ("labelled", after)
        immutable = ["semver", *self.policy(command.workflow, "immutable_labels").split(",")]
        for key in version.labels:
            if after.get(key) != version.labels[key] and key in immutable:
                return ("rejected", "LABEL_IMMUTABLE")
        semver = after.get("semver", "").removeprefix("v")
        if semver and any(other.semver == semver for other in versions if other is not version):
            return ("rejected", "LABEL_TAKEN")
        version.labels = after
        self.revision += 1
        return ("labelled", after)

    def set_policy(self, command: SetPolicy) -> Answer:
        before = self.policies.get(command.scope, {})
        after = {field: value for field, value in {**before, **command.fields}.items() if value}
        self.policies[command.scope] = after
        self.revision += after != before
        return ("policy", after)

    def policy(self, workflow: str, field: str) -> str:
        """What holds for a workflow."""
        value = {"unchanged": "allow", "checks": "warn", "literals": "warn", "verdict": "block"}.get(field, "")
        for scope in ("*", workflow.split("/")[0] + "/*", workflow):
            value = self.policies.get(scope, {}).get(field, value)
        return value

    def standing(self, workflow: str, number: int) -> str:
        version = self.versions[workflow][number - 1]
        return "fenced" if self.fenced(workflow, version.digest, version.meaning) else version.status

    def fenced(self, workflow: str, digest: str, meaning: str) -> bool:
        return any(
            version.status == "fenced"
            and (version.digest == digest or (version.fences_meaning and version.meaning == meaning))
            for version in self.versions.get(workflow, [])
        )


def allowed(previous: str, status: str) -> bool:
    if "candidate" in (previous, status) or (previous, status) == ("archived", "fenced"):
        return True
    return previous in ("stable", "failed") and status in ("failed", "fenced", "archived")

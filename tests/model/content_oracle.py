"""What the oracle knows of contents: who has them, what they rest on, what retention and purges make of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.core.commands import Collect, Hold, Index, NoteBackup, Publish, Purge, PutChunk, Repack, Retain
from registry.core.encoding import fingerprint
from registry.core.model import Content

if TYPE_CHECKING:
    from tests.model.oracle import Answer, Oracle

About = Hold | Retain | Purge | PutChunk | Collect | Repack | Index | NoteBackup
CLASSES = ("published", "manual", "periodic", "terminal")


def decide(oracle: Oracle, command: About) -> Answer:
    if isinstance(command, Hold):
        return hold(oracle, command)
    if isinstance(command, Retain):
        return retain(oracle, command)
    if isinstance(command, Purge):
        return purge(oracle, command)
    if isinstance(command, PutChunk):
        oracle.chunks.add(command.digest)
        return ("chunk",)
    if isinstance(command, Collect):
        unused = {digest for digest in command.digests if digest in oracle.chunks and not uses(oracle, digest)}
        oracle.chunks -= unused
        return ("collected", len(unused))
    if isinstance(command, Repack):
        return repack(oracle, command)
    if isinstance(command, NoteBackup):
        oracle.backups.add(command.backup.revision)
        return ("noted",)
    oracle.is_indexed = True
    return ("indexed", True)


def uses(oracle: Oracle, chunk: str) -> int:
    return sum(chunk in content.chunks for content in oracle.contents.values())


def unfit(oracle: Oracle, command: Publish) -> str:
    """Why new content cannot be stored as it is packed; empty: it can."""
    if command.digest in oracle.contents:
        return ""
    if command.content.encoding == "delta" and not fits_base(oracle, command.content):
        return "BASE_OUTDATED"
    return "" if oracle.chunks.issuperset(command.content.chunks) else "CHUNKS_MISSING"


def fits_base(oracle: Oracle, content: Content) -> bool:
    base = oracle.contents.get(content.base)
    return base is not None and not base.chunks and base.depth == content.depth - 1


def repack(oracle: Oracle, command: Repack) -> Answer:
    before, after = oracle.contents.get(command.digest), command.content
    if before is None or before.chunks or fingerprint(before) != command.was or before.size_bytes != after.size_bytes:
        return ("repacked", False)
    if after.base and not fits_base(oracle, after):
        return ("repacked", False)
    if after.depth > before.depth and any(other.base == command.digest for other in oracle.contents.values()):
        return ("repacked", False)
    oracle.contents[command.digest] = after
    return ("repacked", True)


def hold(oracle: Oracle, command: Hold) -> Answer:
    versions = oracle.versions.get(command.workflow)
    if versions is None:
        return ("rejected", "WORKFLOW_NOT_FOUND")
    if command.version > len(versions):
        return ("rejected", "VERSION_NOT_FOUND")
    version = versions[command.version - 1]
    if command.hold and version.removed:
        return ("rejected", "CONTENT_REMOVED")
    after = command.reason if command.hold else ""
    oracle.revision += version.hold != after
    version.hold = after
    return ("held", after)


def kept(oracle: Oracle, workflow: str, number: int) -> bool:
    """Whether any rule but age keeps a version that has its content."""
    versions = oracle.versions[workflow]
    version = versions[number - 1]
    last, days = oracle.policy(workflow, "keep_last"), oracle.policy(workflow, "keep_days")
    if not (last or days) or "all" in (last, days):
        return True
    if number == len(versions) or version.status == "stable" or version.hold or version.labels:
        return True
    for (name, _), history in oracle.pointers.items():
        if name == workflow:
            now = history[-1].version
            if number in (now, oracle.pick(workflow, history, {now})):
                return True
    if not last:
        return False
    counts = dict.fromkeys(CLASSES, int(last)) if last.isdigit() else dict(part.split("=") for part in last.split(","))
    if version.snapshot not in counts:
        return True
    newer = [other for other in versions[number:] if other.snapshot == version.snapshot and not other.removed]
    return len(newer) < int(counts[version.snapshot])


def holders(oracle: Oracle, digest: str) -> set[tuple[str, int]]:
    return {
        (workflow, number)
        for workflow, versions in oracle.versions.items()
        for number, version in enumerate(versions, start=1)
        if version.digest == digest and not version.removed
    }


def retain(oracle: Oracle, command: Retain) -> Answer:
    versions = oracle.versions.get(command.workflow)
    if versions is None:
        return ("rejected", "WORKFLOW_NOT_FOUND")
    if not oracle.is_indexed:
        return ("rejected", "NOT_INDEXED")
    asked = {number for number in command.versions if number <= len(versions) and not versions[number - 1].removed}
    is_judged = oracle.policy(command.workflow, "keep_days") == command.keep_days
    leaving = {number for number in asked if is_judged and not kept(oracle, command.workflow, number)}
    while True:
        gone = {
            version.digest
            for version in versions
            if holders(oracle, version.digest) <= {(command.workflow, number) for number in leaving}
            and version.digest in oracle.contents
        }
        needed = {content.base for digest, content in oracle.contents.items() if digest not in gone} & gone
        if not needed:
            break
        leaving -= {number for number in leaving if versions[number - 1].digest in needed}
    for number in leaving:
        versions[number - 1].removed = "retention"
    for digest in gone:
        drop(oracle, digest)
    oracle.revision += bool(leaving)
    return ("retained", frozenset(leaving), frozenset(asked - leaving))


def drop(oracle: Oracle, digest: str) -> None:
    content = oracle.contents.pop(digest)
    oracle.chunks -= {chunk for chunk in content.chunks if not uses(oracle, chunk)}


def purge(oracle: Oracle, command: Purge) -> Answer:
    versions = oracle.versions.get(command.workflow)
    if versions is None:
        return ("rejected", "WORKFLOW_NOT_FOUND")
    if command.version > len(versions):
        return ("rejected", "VERSION_NOT_FOUND")
    if not oracle.is_indexed:
        return ("rejected", "NOT_INDEXED")
    digest = versions[command.version - 1].digest
    if digest != command.digest:
        return ("rejected", "AMBIGUOUS_REFERENCE")
    if digest in oracle.purged:
        return ("rejected", "CONTENT_REMOVED")
    found = holders(oracle, digest)
    if any((name, history[-1].version) in found for (name, _), history in oracle.pointers.items()):
        return ("rejected", "VERSION_IN_USE")
    if any(content.base == digest for content in oracle.contents.values()):
        return ("rejected", "BASE_OUTDATED")
    found.add((command.workflow, command.version))
    for workflow, number in found:
        oracle.versions[workflow][number - 1].removed = "purge"
    if digest in oracle.contents:
        drop(oracle, digest)
    oracle.purged.add(digest)
    oracle.revision += 1
    ever = [each.revision for every in oracle.versions.values() for each in every if each.digest == digest]
    return ("purged", frozenset(found), frozenset(each for each in oracle.backups if each >= min(ever)))

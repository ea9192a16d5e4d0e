"""A cluster begun anew out of one state: of a backup, or of a lone survivor's data directory. Offline.

The state's environment becomes that of the only voter of a new history. What its log holds and nobody may have
committed stays in it: a majority may have acknowledged it, and the lone voter will commit it. The members of before
are cut off: the configuration has another token, which both sides compare in their handshake, and their incarnations
count as removed, so that a process that still runs is told to end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import structs

from cluster import entries
from cluster.configuration import NOBODY, Configuration, MemberRecord
from cluster.journal import Journal, applied_in
from cluster.kv.api import Environment
from cluster.limits import REMOVED_REMEMBERED
from cluster.snapshot import Chunk, Header, Loader, SnapshotError


class RefoundError(Exception):
    """Why this state must not become a cluster. Nothing was changed."""


def load(environment: Environment, header: Header, chunks: Iterable[Chunk], *, index: int, term: int) -> None:
    """Put a state that is applied up to `index`, by an entry of `term`, into an empty environment, with a log that
    goes on from there. Raises SnapshotError, whatever the iterator raises too; then the environment is still empty."""
    incoming = environment.incoming()
    loader = Loader(incoming, header)
    for chunk in chunks:
        loader.add(chunk)
    loader.finish()
    with incoming.snapshot() as reader:
        if applied_in(reader) != index:
            raise SnapshotError(f"the state is applied up to {applied_in(reader)}, and was said to be up to {index}")
    Journal(environment).prepare(incoming, index, term)
    environment.replace(incoming)


def refound(environment: Environment, record: MemberRecord, cluster: str, commands: Sequence[bytes]) -> None:
    """Make `record` the only member and voter, under the token `cluster`, which no history had before; when it starts,
    it elects itself and applies its log to the end, at last `commands`. One durable step: it is done or it is not.

    Raises RefoundError: the environment holds no state, or one that differs from the others' or was removed.
    """
    journal = Journal(environment)
    previous = journal.configuration
    if previous == NOBODY or not len(journal):
        raise RefoundError("there is no state of a cluster here")
    if journal.damaged:
        raise RefoundError(f"this state is damaged: {journal.damaged}")
    if journal.diverged:
        raise RefoundError(
            f"this state differs from that of the other members, as was found at log index {journal.diverged}"
        )
    if {record.id, record.incarnation} & set(previous.removed):
        raise RefoundError(f"{record.name} was removed from the cluster")
    term = max(journal.getCurrentTerm(), journal.term_at(journal.last)) + 1
    journal.setCurrentTerm(term, None)
    journal.add(entries.pack_configuration(_alone(previous, record, cluster)), journal.last + 1, term)
    journal.add(entries.pack(commands), journal.last + 1, term)
    environment.commit()


def _alone(previous: Configuration, record: MemberRecord, cluster: str) -> Configuration:
    others = (other.incarnation or other.id for other in previous.members if other.id != record.id)
    removed = tuple(dict.fromkeys((*previous.removed, *others)))[-REMOVED_REMEMBERED:]
    members = (structs.replace(record, role="voter"),)
    return structs.replace(previous, cluster=cluster, members=members, removed=removed)

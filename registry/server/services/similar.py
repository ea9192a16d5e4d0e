"""A first version has no ancestor; another workflow of its namespace may look much like it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection
from itertools import islice
from operator import itemgetter

from registry.core import frames
from registry.core.errors import RegistryError
from registry.core.model import Workflow
from registry.server.limits import (
    SIMILAR_BYTES,
    SIMILAR_DEPTH,
    SIMILAR_NEW,
    SIMILAR_SKETCHES,
    SIMILAR_TRIED,
    SIMILAR_WORKFLOWS,
)
from registry.server.services.reads import Reads
from registry.store import content, packing, sketches
from registry.store.content import Chain
from registry.store.sketches import Sketch
from registry.store.state import Rows

_TRY_LEVEL = 3


class Similar:
    """Of one member. Sketches are made as first versions come, some at a time, and kept."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads
        self._known: OrderedDict[str, tuple[str, Sketch]] = OrderedDict()  # by workflow: of the content with a digest

    async def find(self, workflow: str, kind: str, data: bytes, avoid: Collection[str]) -> Chain | None:
        """What to pack `data` over: a content of another workflow of the same namespace and kind, if one is alike."""
        if len(data) > SIMILAR_BYTES:
            return None
        namespace = workflow.partition("/")[0]
        with self._reads.peek() as reader:
            rows = Rows(reader)
            others = [each for each in islice(rows.workflows(f"{namespace}/"), SIMILAR_WORKFLOWS) if each.kind == kind]
            new = self._new(rows, others)
        if not others:
            return None
        asked, made = await asyncio.to_thread(_sketched, data, new)
        self._keep(made)
        alike = sketches.most_alike(asked, self._sketches(others), SIMILAR_TRIED)
        with self._reads.peek() as reader:
            rows = Rows(reader)
            chains = {name: _chain(rows, self._known[name][0]) for name in alike}
        for name in [name for name, chain in chains.items() if chain is None]:
            del self._known[name]  # removed meanwhile, or deeper now
        usable = [chain for chain in chains.values() if chain is not None and chain.digest not in avoid]
        return await asyncio.to_thread(_best, data, usable) if usable else None

    def _new(self, rows: Rows, workflows: list[Workflow]) -> dict[str, Chain | None]:
        """Contents without a sketch so far, by workflow; a few of them, so that nobody waits for many. None: this one
        has nothing to offer."""
        new: dict[str, Chain | None] = {}
        left_bytes = SIMILAR_BYTES
        for workflow in workflows:
            if len(new) == SIMILAR_NEW or left_bytes <= 0:
                break
            if workflow.name not in self._known:
                new[workflow.name] = chain = _representative(rows, workflow)
                left_bytes -= chain.work_bytes if chain is not None else 0
        return new

    def _keep(self, made: dict[str, tuple[str, Sketch]]) -> None:
        self._known |= made
        while len(self._known) > SIMILAR_SKETCHES:
            self._known.popitem(last=False)

    def _sketches(self, workflows: list[Workflow]) -> dict[str, Sketch]:
        for each in workflows:
            if each.name in self._known:
                self._known.move_to_end(each.name)
        return {each.name: self._known[each.name][1] for each in workflows if each.name in self._known}


def _representative(rows: Rows, workflow: Workflow) -> Chain | None:
    """Of the newest version, or of the first where that is too deep to begin another history over it."""
    for number in (workflow.versions, 1):
        version = rows.version(workflow.name, number)
        chain = _chain(rows, version.digest) if version else None
        if chain is not None:
            return chain
    return None


def _chain(rows: Rows, digest: str) -> Chain | None:
    row = rows.content(digest)
    if row is None or not packing.is_base(row) or row.depth > SIMILAR_DEPTH or row.size_bytes > SIMILAR_BYTES:
        return None
    try:
        return content.chain(rows, digest, row)
    except RegistryError:  # damaged: for those to say who want these bytes
        return None


def _sketched(data: bytes, new: dict[str, Chain | None]) -> tuple[Sketch, dict[str, tuple[str, Sketch]]]:
    made = {}
    for name, chain in new.items():
        exact = _exact(chain) if chain is not None else None
        made[name] = (chain.digest if chain is not None else "", sketches.sketch(exact or b""))
    return sketches.sketch(data), made


def _best(data: bytes, chains: list[Chain]) -> Chain | None:
    """The one over which it gets smallest, at a glance."""
    unpacked = [(chain, _exact(chain)) for chain in chains]
    sizes = [(len(frames.pack_over(exact, data, _TRY_LEVEL)), chain) for chain, exact in unpacked if exact is not None]
    return min(sizes, key=itemgetter(0))[1] if sizes else None


def _exact(chain: Chain) -> bytes | None:
    try:
        return content.exact(chain)
    except RegistryError:
        return None

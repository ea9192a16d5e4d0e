"""Packing what is published: over contents that this member has, as it sees them."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from registry.core.errors import RegistryError
from registry.core.model import Content
from registry.server.contents import beside
from registry.server.services.reads import Reads
from registry.server.services.similar import Similar
from registry.store import content, packing
from registry.store.content import Chain
from registry.store.state import Rows


class Packer:
    def __init__(self, reads: Reads) -> None:
        self._reads = reads
        self._similar = Similar(reads)

    async def alone(self, data: bytes) -> Content:
        return await beside(len(data), lambda: content.encode(data))

    async def packed(
        self,
        workflow: str,
        kind: str,
        digest: str,
        data: bytes,
        *,
        parents: Collection[int] = (),
        avoid: Collection[str] = (),
    ) -> Content:
        """As small as it gets as the next version of `workflow`, without any of the bases `avoid`. Where the bytes are
        stored already: as they are."""
        with self._reads.peek() as reader:
            rows = Rows(reader)
            known = rows.workflow(workflow)
            number = known.versions + 1 if known else 1
            tried = packing.bases(rows, workflow, number, parents, {*avoid, digest})
            found = [self._reads.contents.base(rows, each) for each in (digest, *tried)]
        stored, over = found[0], [each for each in found[1:] if each is not None]
        if stored is not None and stored.row.base not in avoid and await self._has(stored, data):
            return stored.row
        if known is None and (alike := await self._similar.find(workflow, kind, data, {*avoid, digest})) is not None:
            over.append(alike)
        return await self._reads.contents.pack(data, over)

    async def _has(self, stored: Chain, data: bytes) -> bool:
        with suppress(RegistryError):
            return await self._reads.contents.exact(stored) == data
        return False

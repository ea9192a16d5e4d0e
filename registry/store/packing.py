"""Over which other content a content is packed.

Version n over version n - 16^k, where 16^k is the highest power of 16 that divides n - 1. Most versions lie over the
one before them, every 16th over the one 16 before, and so on: from any version few steps lead to the first one, and no
other has to stand alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from msgspec import structs

from registry.core import limits
from registry.core.errors import RegistryError
from registry.core.model import Content
from registry.store import content
from registry.store.content import Base, Chain
from registry.store.state import Rows

_STRIDE = 16
_LOOKED_AT = 32  # versions, for one whose content can be a base
_HOLDERS = 4  # workflows with the same bytes whose versions are tried
_WORTH_BYTES, _WORTH_PART = 64, 0.05  # what packing again must save


def ancestor(number: int) -> int:
    """The version that this version lies over; 0: none."""
    if number <= 1:
        return 0
    step = 1
    while (number - 1) % (step * _STRIDE) == 0:
        step *= _STRIDE
    return number - step


def bases(
    rows: Rows, workflow: str, number: int, parents: Collection[int] = (), avoid: Collection[str] = ()
) -> list[str]:
    """Digests of the contents that version `number` of a workflow may lie over, none of `avoid`: of its ancestor, or of
    the nearest older version where that one cannot be used, and of its first parent."""
    found = next(_usable(rows, workflow, ancestor(number), avoid), "")
    beside = [next(_usable(rows, workflow, parent, avoid, most=1), "") for parent in islice(parents, 1)]
    return [each for each in dict.fromkeys([found, *beside]) if each]


def _usable(rows: Rows, workflow: str, newest: int, avoid: Collection[str], most: int = _LOOKED_AT) -> Iterator[str]:
    for version in islice(rows.versions(workflow, newest + 1), most):
        if version.digest not in avoid and is_base(rows.content(version.digest)):
            yield version.digest


def is_base(row: Content | None) -> bool:
    return row is not None and row.encoding != "chunks" and row.depth < limits.DELTA_DEPTH and row.size_bytes > 0


class Repacking(NamedTuple):
    """One content and what it may be packed over, read in one snapshot. Packing takes up to seconds, and no I/O."""

    stored: Chain
    over: tuple[Chain, ...]

    def better(self) -> Content | None:
        """As small as it gets, settled; None: it does not get smaller by 5 % and 64 bytes. Raises CORRUPT_CONTENT."""
        before = self.stored.row
        largest = max(each.row.size_bytes for each in (self.stored, *self.over))
        after = self._packed(content.SETTLED_LEVEL if largest <= content.SETTLED_BYTES else content.PUBLISH_LEVEL)
        saved = content.cost_bytes(before) - content.cost_bytes(after)
        if saved < max(_WORTH_BYTES, _WORTH_PART * content.cost_bytes(before)):
            return None
        return structs.replace(after, settled=True)

    def again(self) -> Content:
        """Raises CORRUPT_CONTENT."""
        return self._packed(content.PUBLISH_LEVEL)

    def _packed(self, level: int) -> Content:
        data = content.exact(self.stored)
        over = []
        for each in self.over:
            with suppress(RegistryError):  # damaged: for those to say who want these bytes
                over.append(Base(each.digest, content.exact(each), each.row.depth))
        return content.pack(data, over, level)


def repacking(rows: Rows, digest: str, avoid: Collection[str] = ()) -> Repacking:
    """To pack a content again, for a Repack: as small as it gets, or (`avoid`) without contents that go. Of a workflow
    the oldest versions first: what others lie over cannot become deeper. Raises as content.chain."""
    stored = content.chain(rows, digest)
    # Other contents may lie over this one: it must not become deeper than they allow, nor lie over one of them.
    most = stored.row.depth - 1 if any(rows.deltas(digest)) else limits.DELTA_DEPTH - 1
    avoid = {*avoid, digest}
    tried = [stored.row.base] if stored.row.base and stored.row.base not in avoid else []
    for workflow, number in islice(rows.holders(digest), _HOLDERS):
        version = rows.version(workflow, number)
        tried += bases(rows, workflow, number, version.parents if version else (), avoid)
    over = []
    for each in dict.fromkeys(tried):
        with suppress(RegistryError):
            over.append(content.chain(rows, each))
    return Repacking(stored, tuple(each for each in over if each.row.depth <= most))

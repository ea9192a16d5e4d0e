"""follow(): the current bytes of a pointer, for programs that need nothing else of an agent."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from random import Random

from registry.agent import limits
from registry.agent.api import Poll
from registry.agent.following import Following, Standing, session
from registry.agent.http_adapter import connected
from registry.agent.last_good import LastGood
from registry.client import TlsConfig
from registry.core import limits as core_limits
from registry.core import names
from registry.core.model import DEFAULT_POINTER


class FollowState(StrEnum):
    LIVE = "live"  # a member said lately that this is current
    STALE = "stale"  # no member has for a while, or not yet
    ERROR = "error"  # a newer version is named, or another cluster answers, and it is refused: see `problem`


@dataclass(frozen=True)
class Current:
    """What the pointer names. `state`, `age_s` and `problem` say how things stand when they are asked, not when the
    bytes came."""

    data: bytes = field(repr=False)
    workflow: str
    pointer: str
    version: int
    epoch: int
    generation: int
    digest: str
    reason: str
    rollback: bool
    _standing: Standing = field(repr=False, compare=False)

    @property
    def state(self) -> FollowState:
        if self._standing.problem:
            return FollowState.ERROR
        return FollowState.LIVE if self.age_s <= self._standing.stale_after_s else FollowState.STALE

    @property
    def age_s(self) -> float:
        """Seconds since a member said what is current; inf: not known."""
        standing = self._standing
        return max(0.0, standing.clock_s() - standing.contact_s) if standing.contact_s else math.inf

    @property
    def problem(self) -> str:
        """Why something newer is not taken: `CODE: in words`; empty: nothing is known of such."""
        return self._standing.problem


async def follow(
    workflow: str,
    *,
    endpoints: Sequence[str] | str,
    name: str,
    cache: Path,
    pointer: str = DEFAULT_POINTER,
    site: str = "",
    labels: Mapping[str, str] | None = None,
    facts: Mapping[str, str] | None = None,
    tls: TlsConfig | None = None,
    allow_cached: bool = True,
    ack: bool = True,
    max_bytes: int = core_limits.CONTENT_BYTES_CEILING,
    stale_after_s: float = limits.STALE_AFTER_S,
    clock_s: Callable[[], float] = time.time,
    random: Random | None = None,
) -> AsyncGenerator[Current, None]:
    """The current bytes of a pointer, and again whenever it is switched; for ever.

        async for current in follow("support/triage", endpoints=["http://127.0.0.1:7402"], name="worker-7",
                                    cache=Path("triage.last-good")):
            graph = json.loads(current.data)

    `endpoints`: of members, http:// or https:// addresses or HOST:PORT (gRPC). `cache`: a file of this follow alone,
    which holds the last good bytes, their generation and epoch. With `allow_cached` they are yielded first, also
    without any network; otherwise not before a member has said that they are current. Nothing is yielded that is not on
    the disk, whose digest differs, that is larger than max_bytes, whose needs `facts` (core.needs) do not meet, or that
    is below the (epoch, generation) yielded before; what is refused is reported, and the follow goes on.

    Coming back for the next one says that this one was taken: it is reported as confirmed then (`ack`). The registry is
    asked while the next one is awaited, not in between. Leave it early through contextlib.aclosing.

    Raises Invalid and ConfigError for arguments that make no sense.
    """
    names.check_workflow(workflow)
    names.check_pointer(pointer)
    names.check_agent(name)
    names.check_site(site)
    names.check_labels(labels or {})
    standing = Standing(clock_s, stale_after_s)
    poll = Poll(
        agent=name,
        session=session(),
        site=site,
        labels=dict(labels or {}),
        facts={"agent": version("workflow-registry"), **(facts or {})},
        inline_bytes=core_limits.INLINE_BYTES,
    )
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(connected(endpoints, name=name, tls=tls))
        following = Following(api, workflow, pointer, poll, cache.absolute(), standing, max_bytes, random or Random())
        await following.open()
        good = following.good if allow_cached else None
        while True:
            if good is not None:
                yield _current(good, standing)
                if ack:
                    following.report("confirmed", good.kept.generation)
            good = await following.next(after=good)


def _current(good: LastGood, standing: Standing) -> Current:
    kept = good.kept
    return Current(
        data=good.data,
        workflow=kept.workflow,
        pointer=kept.pointer,
        version=kept.version,
        epoch=kept.epoch,
        generation=kept.generation,
        digest=kept.digest,
        reason=kept.reason,
        rollback=kept.rollback,
        _standing=standing,
    )

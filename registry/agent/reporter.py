"""Says in acknowledgements what one follow runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Protocol

import structlog

from registry.agent import limits
from registry.agent.api import Ack
from registry.agent.backoff import delay_s
from registry.agent.config import AgentConfig, FollowSpec
from registry.agent.outbox import Outbox
from registry.core import limits as core_limits


class Shown(Protocol):
    """An installed version, or the target of an instruction."""

    @property
    def generation(self) -> int: ...
    @property
    def version(self) -> int: ...
    @property
    def digest(self) -> str: ...


class Reporter:
    def __init__(
        self,
        spec: FollowSpec,
        config: AgentConfig,
        outbox: Outbox,
        *,
        incarnation: str,
        random: Random,
        clock_ms: Callable[[], int],
    ) -> None:
        self._spec = spec
        self._config = config
        self._outbox = outbox
        self._incarnation = incarnation
        self._random = random
        self._clock_ms = clock_ms
        self._log = structlog.get_logger(__name__).bind(follow=spec.name)

    async def report(
        self,
        phase: str,
        generation: int,
        running: Shown | None,
        *,
        code: str = "",
        detail: str = "",
        patient: bool = True,
    ) -> None:
        """Returns when the acknowledgement is in the outbox; a disk that refuses is asked again. Not `patient`: raises
        OSError then."""
        ack = Ack(
            agent=self._config.name,
            incarnation=self._incarnation,
            sequence=0,
            site=self._config.site,
            labels=self._config.labels,
            workflow=self._spec.workflow,
            pointer=self._spec.pointer,
            generation=generation,
            phase=phase,
            code=code,
            detail=detail[: core_limits.DETAIL_CHARS],
            running_generation=running.generation if running else 0,
            running_version=running.version if running else 0,
            running_digest=running.digest if running else "",
            time_ms=self._clock_ms(),
        )
        failures = 0
        while True:
            try:
                return await self._outbox.add(ack)
            except OSError as problem:
                if not patient:
                    raise
                failures += 1
                self._log.error("acknowledgement cannot be kept yet", error=str(problem))
                await asyncio.sleep(delay_s(failures, limits.DISK_BACKOFF_S, self._random))

"""Asks whether the version that is live works, several times, and then the smoke tests. The tally is pure."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from registry.agent import limits
from registry.agent.checks import ask
from registry.agent.runner import Result


@dataclass(frozen=True)
class ProbeSpec:
    """`target`: as checks.check_target says; empty: only the smoke tests. `failures` and `successes` are counted in a
    row. `contains`: a text that an HTTP reply must hold. `smoke`: more targets, each of which must succeed once when
    `target` has."""

    target: str = ""
    interval_s: float = limits.PROBE_INTERVAL_S
    start_delay_s: float = limits.PROBE_START_DELAY_S
    timeout_s: float = limits.PROBE_TIMEOUT_S
    failures: int = limits.PROBE_FAILURES
    successes: int = limits.PROBE_SUCCESSES
    contains: str = ""
    smoke: tuple[str, ...] = ()
    smoke_timeout_s: float = limits.SMOKE_TIMEOUT_S


@dataclass(frozen=True)
class Tally:
    """Results in a row, the newest kind only."""

    successes: int = 0
    failures: int = 0

    def add(self, succeeded: bool) -> Tally:
        return Tally(successes=self.successes + 1) if succeeded else Tally(failures=self.failures + 1)

    def verdict(self, spec: ProbeSpec) -> bool | None:
        """True: confirm. False: revert. None: ask again."""
        if self.successes >= spec.successes:
            return True
        return False if self.failures >= spec.failures else None


async def probe(spec: ProbeSpec, environment: Mapping[str, str]) -> Result:
    """Asks until the tally decides; then each smoke test once. Cancelling it kills what it runs."""
    await asyncio.sleep(spec.start_delay_s)
    result = await _until_decided(spec, environment) if spec.target else Result(True, "")
    for number, test in enumerate(spec.smoke, 1):
        if not result.succeeded:
            break
        result = await ask(test, environment, timeout_s=spec.smoke_timeout_s)
        if not result.succeeded:
            named = f"smoke test {number} of {len(spec.smoke)} ({test[: limits.SMOKE_NAME_CHARS]})"
            result = Result(False, f"{named}: {result.detail}")
    return result


async def _until_decided(spec: ProbeSpec, environment: Mapping[str, str]) -> Result:
    tally = Tally()
    while True:
        result = await ask(spec.target, environment, timeout_s=spec.timeout_s, contains=spec.contains)
        tally = tally.add(result.succeeded)
        if (verdict := tally.verdict(spec)) is not None:
            return (
                result if verdict else Result(False, f"{tally.failures} failures in a row, the last: {result.detail}")
            )
        await asyncio.sleep(spec.interval_s)

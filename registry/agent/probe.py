"""Asks whether the version that PATH shows works: a command or an HTTP address, several times. The tally is pure."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from registry.agent import limits, runner
from registry.agent.runner import Result


@dataclass(frozen=True)
class ProbeSpec:
    """`target` is a shell command or an http(s) address. `failures` and `successes` are counted in a row."""

    target: str
    interval_s: float = limits.PROBE_INTERVAL_S
    start_delay_s: float = limits.PROBE_START_DELAY_S
    timeout_s: float = limits.PROBE_TIMEOUT_S
    failures: int = limits.PROBE_FAILURES
    successes: int = limits.PROBE_SUCCESSES

    @property
    def is_http(self) -> bool:
        return self.target.startswith(("http://", "https://"))


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
    """Asks until the tally decides. Cancelling it kills what it runs."""
    await asyncio.sleep(spec.start_delay_s)
    tally = Tally()
    while True:
        result = await _once(spec, environment)
        tally = tally.add(result.succeeded)
        if (verdict := tally.verdict(spec)) is not None:
            return (
                result if verdict else Result(False, f"{tally.failures} failures in a row, the last: {result.detail}")
            )
        await asyncio.sleep(spec.interval_s)


async def _once(spec: ProbeSpec, environment: Mapping[str, str]) -> Result:
    if not spec.is_http:
        return await runner.run(spec.target, environment, timeout_s=spec.timeout_s)
    try:
        async with asyncio.timeout(spec.timeout_s):
            status = await _http_status(spec.target)
    except TimeoutError:
        return Result(False, f"no answer within {spec.timeout_s:g} s")
    except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as problem:
        return Result(False, str(problem) or type(problem).__name__)
    return Result(200 <= status < 400, f"HTTP status {status}")


async def _http_status(url: str) -> int:
    """One GET, as far as the status line."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    host = parts.hostname or ""
    port = parts.port or (443 if secure else 80)
    context = ssl.create_default_context() if secure else None
    reader, writer = await asyncio.open_connection(host, port, ssl=context, limit=limits.PROBE_HEAD_BYTES)
    try:
        place = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        request = (
            f"GET {place} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: registry-agent\r\nConnection: close\r\n\r\n"
        )
        writer.write(request.encode("latin-1"))
        line = await reader.readuntil(b"\r\n")
    finally:
        writer.close()
    words = line.split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ValueError(f"not an HTTP reply: {line[:80]!r}")
    return int(words[1])

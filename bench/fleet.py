"""Real agents with file targets, many in one process; they end with its stdin.

    python -m bench.fleet '{"faces": ["http://127.0.0.1:7402"], "directory": "...", "first": 0, "count": 500, ...}'

`start` runs such processes. Agent N shows the workflow at DIRECTORY/N/live.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import resource
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import structlog
import uvloop

from bench.resources import Meter
from registry.agent import Agent, AgentConfig, FileSpec, FollowSpec, connected

SITES = 4


class Fleet(msgspec.Struct):
    """The agents numbered from `first` on. `faces`: HTTP addresses of members."""

    faces: tuple[str, ...]
    directory: str
    workflow: str
    first: int
    count: int


class Fleets:
    """`paths`: what each agent shows."""

    def __init__(self, directory: Path, count: int, processes: Sequence[asyncio.subprocess.Process]) -> None:
        self.paths = [_path(directory, number) for number in range(count)]
        self._pids = [process.pid for process in processes]

    def meter(self) -> Meter:
        return Meter(self._pids)

    def installed_s(self) -> float:
        """When the last of them showed what it shows now: unix time, to a tick of the kernel."""
        return max(path.lstat().st_ctime_ns for path in self.paths) / 1e9


@asynccontextmanager
async def start(
    faces: Sequence[str], directory: Path, workflow: str, count: int, processes: int
) -> AsyncIterator[Fleets]:
    """`count` agents, spread evenly over so many processes."""
    bounds = [count * number // processes for number in range(processes + 1)]
    async with AsyncExitStack() as stack:
        running = [
            await stack.enter_async_context(_process(Fleet(tuple(faces), str(directory), workflow, first, end - first)))
            for first, end in itertools.pairwise(bounds)
        ]
        yield Fleets(directory, count, running)


@asynccontextmanager
async def _process(fleet: Fleet) -> AsyncIterator[asyncio.subprocess.Process]:
    command = (sys.executable, "-m", "bench.fleet", msgspec.json.encode(fleet).decode())
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


def _path(directory: Path, number: int) -> Path:
    return directory / str(number) / "live"


async def main(fleet: Fleet) -> None:
    ended = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(ended), sys.stdin)
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as running:
        agents = []
        for number in range(fleet.first, fleet.first + fleet.count):
            path = _path(Path(fleet.directory), number)
            config = AgentConfig(
                name=f"edge-{number}",
                site=f"site-{number % SITES}",
                state_dir=path.parent / "state",
                follows=(FollowSpec(fleet.workflow, "active", FileSpec(path)),),
            )
            api = await stack.enter_async_context(connected(fleet.faces, name=config.name))
            agents.append(Agent(config, api))
            running.create_task(agents[-1].run())
        await ended.read()
        for agent in agents:
            agent.stop()


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    uvloop.run(main(msgspec.json.decode(sys.argv[1], type=Fleet)))

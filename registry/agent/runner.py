"""Runs the user's commands: each in its own process group, killed as a group at the time limit."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from registry.agent import limits


class Result(NamedTuple):
    succeeded: bool
    detail: str  # of a failure: exit code or time limit, and the end of the output
    later: bool = False  # it ended with LATER_EXIT_CODE
    output: str = ""  # of a success: its end


class _Tail:
    """Reads a pipe while the command runs and remembers the last bytes. The command's own background children may keep
    the pipe open, so its end is not waited for."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._data = b""
        os.set_blocking(descriptor, False)

    def drain(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while chunk := os.read(self._descriptor, 64 * 1024):
                self._data = (self._data + chunk)[-limits.OUTPUT_BYTES :]
        except BlockingIOError:
            return
        loop.remove_reader(self._descriptor)

    def text(self) -> str:
        return " ".join(self._data.decode("utf-8", "replace").split())


async def run(
    command: str, environment: Mapping[str, str], *, timeout_s: float, stdin: Path = Path(os.devnull)
) -> Result:
    """`sh -c command` with `environment` on top of the agent's own. Success is exit code 0 within timeout_s."""
    loop = asyncio.get_running_loop()
    reading, writing = os.pipe()
    tail = _Tail(reading)
    try:
        with stdin.open("rb") as given:
            process = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", command,
                stdin=given, stdout=writing, stderr=writing,
                env={**os.environ, **environment}, start_new_session=True,
            )  # fmt: skip
    except (OSError, ValueError) as problem:  # a ValueError: some text of it cannot be given to a process
        os.close(reading)
        return Result(False, f"cannot be started: {getattr(problem, 'strerror', problem)}")
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    loop.add_reader(reading, tail.drain)
    finished = later = False
    try:
        async with asyncio.timeout(timeout_s):
            exit_code = await process.wait()
        finished = True
        tail.drain()
        if exit_code == 0:
            return Result(True, "", output=tail.text())
        later = exit_code == limits.LATER_EXIT_CODE
        why = f"exit code {exit_code}" if exit_code > 0 else f"killed by signal {-exit_code}"
    except TimeoutError:
        tail.drain()
        why = f"not finished within {timeout_s:g} s, killed"
    finally:
        if not finished:
            _kill_group(process.pid)
            await process.wait()
        loop.remove_reader(reading)
        os.close(reading)
    output = tail.text()
    return Result(False, f"{why}: {output}" if output else why, later=later)


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return

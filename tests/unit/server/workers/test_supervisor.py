"""When a member takes a worker for dead."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from registry.server import limits
from registry.server.workers.supervisor import _Worker


class Process:
    returncode = None
    killed = 0

    def kill(self) -> None:
        self.killed += 1


@pytest.fixture
async def worker() -> _Worker:
    process: Any = Process()
    workers: Any = SimpleNamespace(answering=lambda link: None)
    return _Worker(1, process, workers)


async def test_a_worker_that_says_nothing_is_killed_in_the_end(worker: _Worker) -> None:
    for _ in range(round(limits.WORKER_START_S / limits.LINK_BEAT_S)):
        worker.check()
    assert not worker.why
    worker.check()
    assert "no sign of life" in worker.why


async def test_a_member_that_stood_still_does_not_blame_its_workers(
    worker: _Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.check()
    later_s = time.monotonic() + 2 * limits.WORKER_START_S
    monkeypatch.setattr(time, "monotonic", lambda: later_s)
    worker.check()
    assert not worker.why

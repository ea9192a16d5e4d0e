"""Untrusted content in real worker processes: limits, crashes, ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from registry.core import limits
from registry.core.errors import Invalid, Reason, Refused, Unavailable
from registry.formats import Inspection, compare, inspect
from registry.server import inspector as module
from registry.server.inspect_worker import CompareJob, JudgeJob, Prepared, PrepareJob
from registry.server.inspector import Inspector
from tests.unit.formats import kit

WAIT_S = 20.0
HEAVY = json.dumps([[n, n % 7] for n in range(60_000)]).encode()
APP = kit.dump(kit.app()).replace(b"hunter2-hunter2", b"''")


def alive(pid: int) -> bool:
    """Whether the process runs: a dead one that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def gone(pid: int) -> None:
    async with asyncio.timeout(WAIT_S):
        while alive(pid):
            await asyncio.sleep(0.01)


async def look(inspector: Inspector, content: bytes, kind: str = "") -> Inspection:
    found = await inspector.prepare(PrepareJob(content, kind))
    assert isinstance(found, Prepared)
    return found.inspection


async def test_answers_are_those_of_the_formats() -> None:
    async with Inspector() as inspector:
        assert await look(inspector, APP) == inspect(APP)
        assert (await look(inspector, b"a = 1", "text")).kind == "text"
        other = APP.replace(b"Be polite", b"Be kind")
        compared = await inspector.compare(CompareJob(APP, other))
        expected = compare(APP, other)
        assert compared.summary == expected.summary
        assert json.loads(compared.comparison_json)["nodes"]["changed"][0]["title"] == "Polite answer"


async def test_bytes_that_mean_nothing_need_no_worker() -> None:
    inspector = Inspector()  # not started
    for kind in ("", "binary"):
        assert await look(inspector, b"\xff\x00", kind) == inspect(b"\xff\x00")
    changed = await inspector.prepare(PrepareJob(b"\xff\x01", parent=b"\xff\x00", kind_parent="binary"))
    assert isinstance(changed, Prepared)
    assert changed.summary == compare(b"\xff\x00", b"\xff\x01").summary
    for parsed in (PrepareJob(b"a"), PrepareJob(b"\xff", parent=APP, kind_parent="dify")):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await inspector.prepare(parsed)


async def test_many_at_once_on_two_workers_keep_their_answers_apart() -> None:
    async with Inspector(workers=2) as inspector:
        assert len(set(inspector.pids)) == 2
        contents = [json.dumps({"n": n}).encode() for n in range(60)]
        found = await asyncio.gather(*(look(inspector, content) for content in contents))
        assert [one.value_digest for one in found] == [inspect(content).value_digest for content in contents]


async def test_errors_cross_the_pipe_whole() -> None:
    async with Inspector() as inspector:
        with pytest.raises(Invalid) as caught:
            await look(inspector, b'{"a": 1,\n]', "json")
        assert caught.value.reason is Reason.INVALID_CONTENT
        assert caught.value.metadata == {"line": "2", "column": "1"}
        with pytest.raises(Invalid, match="unknown kind") as caught:
            await look(inspector, b"x", "word")
        assert "dify" in caught.value.hint
        assert (await look(inspector, b"x")).kind == "text"


async def test_a_job_past_its_time_is_ended_and_the_next_one_served() -> None:
    async with Inspector(time_limit_s=0.0) as inspector:
        (pid,) = inspector.pids
        with pytest.raises(Invalid) as inspected:
            await look(inspector, APP)
        with pytest.raises(Refused) as compared:
            await inspector.compare(CompareJob(APP, APP))
        await gone(pid)
    assert inspected.value.reason is Reason.INVALID_CONTENT
    assert compared.value.reason is Reason.COMPARE_LIMIT
    for error in (inspected.value, compared.value):
        assert error.metadata == {"limit": "PARSE_TIME_S"}
        assert "longer than 0 s" in error.message


async def test_a_job_past_its_memory_is_refused_and_the_next_one_served() -> None:
    # Nearly as many values as may be parsed: they do not fit into this worker.
    wide = b"[" + b",".join([b'{"a":1}'] * 490_000) + b"]"
    assert inspect(wide).kind == "json"
    async with Inspector(memory_bytes=100 * limits.MIB) as inspector:
        (pid,) = inspector.pids
        with pytest.raises(Invalid) as caught:
            await look(inspector, wide)
        assert caught.value.metadata == {"limit": "PARSE_MEMORY_BYTES"}
        assert "more than 100 MiB" in caught.value.message
        assert (await look(inspector, APP)).kind == "dify"
        assert inspector.pids != [pid]
        await gone(pid)


async def test_bombs_are_answered_by_a_worker_that_lives_on() -> None:
    aliases = b"a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + b"".join(
        b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, 12)
    )
    async with Inspector() as inspector:
        pids = inspector.pids
        for bomb in (b"[" * limits.MIB, b"- " * limits.MIB, b'{"a":' * limits.MIB, aliases):
            found = await look(inspector, bomb)
            assert found.kind == "text"
            assert "kept as plain text" in found.warnings[0]
        assert inspector.pids == pids


async def test_a_worker_that_died_while_idle_is_replaced_unseen() -> None:
    async with Inspector() as inspector:
        (pid,) = inspector.pids
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(WAIT_S):
            while inspector.pids:
                await asyncio.sleep(0.01)
        assert (await look(inspector, APP)).kind == "dify"
        assert inspector.pids != [pid]


async def test_a_worker_killed_in_the_middle_of_a_job_is_said() -> None:
    async with Inspector() as inspector:
        (pid,) = inspector.pids
        os.kill(pid, signal.SIGSTOP)  # so that the job is surely under way
        job = asyncio.create_task(inspector.compare(CompareJob(APP, APP)))
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(Refused, match=r"its worker ended \(signal 9\)"):
            await job
        assert (await look(inspector, APP)).kind == "dify"


async def test_a_caller_that_goes_away_leaves_no_answer_for_the_next() -> None:
    async with Inspector() as inspector:
        (pid,) = inspector.pids
        os.kill(pid, signal.SIGSTOP)
        job = asyncio.create_task(look(inspector, b"not for you"))
        await asyncio.sleep(0)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        await gone(pid)
        assert (await look(inspector, APP)).kind == "dify"


async def test_what_was_read_is_forgotten_when_asked() -> None:
    """By workers that are idle at once, by one that works when its job is done."""
    async with Inspector(workers=2) as inspector:
        before = inspector.pids
        job = asyncio.create_task(look(inspector, HEAVY, "json"))
        await asyncio.sleep(0)
        await inspector.forget()
        assert (await job).kind == "json"
        for pid in before:
            await gone(pid)
        assert await look(inspector, APP) == inspect(APP)
        kept = inspector.pids
        assert await look(inspector, APP) == inspect(APP)
        assert set(kept) <= set(inspector.pids)  # once is enough


async def test_waiting_jobs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INSPECT_WAITING", 3)
    async with Inspector() as inspector:
        (pid,) = inspector.pids
        os.kill(pid, signal.SIGSTOP)
        jobs = [asyncio.create_task(look(inspector, APP)) for _ in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable) as caught:
            await look(inspector, APP)
        assert caught.value.reason is Reason.BUSY
        os.kill(pid, signal.SIGCONT)
        assert {one.kind for one in await asyncio.gather(*jobs)} == {"dify"}


async def test_waiting_contents_are_bounded_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INSPECT_WAITING_BYTES", 2 * len(APP))
    async with Inspector() as inspector:
        (pid,) = inspector.pids
        os.kill(pid, signal.SIGSTOP)
        running = asyncio.create_task(look(inspector, APP))
        await asyncio.sleep(0)
        large = asyncio.create_task(look(inspector, APP + b"#" * 4 * len(APP)))  # alone, it may wait
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="1 contents wait") as caught:
            await look(inspector, b"a: 1")
        assert caught.value.reason is Reason.BUSY
        assert int(caught.value.metadata["retry_ms"]) > 0
        large.cancel()  # its bytes are free again
        await asyncio.gather(large, return_exceptions=True)
        waiting = [asyncio.create_task(look(inspector, each)) for each in (b"a: 1", APP)]
        await asyncio.sleep(0)
        half = APP[: len(APP) // 2 + 1]  # there is room for one side
        with pytest.raises(Unavailable, match="2 contents wait"):
            await inspector.compare(CompareJob(half, half))
        os.kill(pid, signal.SIGCONT)
        assert [one.kind for one in await asyncio.gather(running, *waiting)] == ["dify", "yaml", "dify"]


async def test_closing_ends_the_workers_and_the_jobs() -> None:
    inspector = Inspector()
    await inspector.start()
    (pid,) = inspector.pids
    os.kill(pid, signal.SIGSTOP)
    jobs = [asyncio.create_task(look(inspector, APP)) for _ in range(2)]
    await asyncio.sleep(0)
    await inspector.close()
    await inspector.close()
    for error in await asyncio.gather(*jobs, return_exceptions=True):
        assert isinstance(error, Unavailable)
        assert error.reason is Reason.SHUTTING_DOWN
    with pytest.raises(Unavailable):
        await look(inspector, APP)
    await gone(pid)


ORPHAN = """
import asyncio
from registry.server.inspect_worker import PrepareJob
from registry.server.inspector import Inspector

async def main():
    inspector = Inspector()
    await inspector.start()
    await inspector.prepare(PrepareJob(b"a: 1"))
    print(*inspector.pids, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_no_worker_survives_a_killed_member() -> None:
    member = await asyncio.create_subprocess_exec(sys.executable, "-c", ORPHAN, stdout=asyncio.subprocess.PIPE)
    assert member.stdout is not None
    worker = int(await member.stdout.readline())
    assert alive(worker)
    member.kill()
    await member.wait()
    await gone(worker)


async def test_the_loop_runs_on_while_a_worker_is_busy() -> None:
    async with Inspector() as inspector:
        job = asyncio.create_task(look(inspector, HEAVY))
        turns = 0
        while not job.done():
            await asyncio.sleep(0)
            turns += 1
        assert (await job).kind == "json"
        assert turns > 10  # a parse on the loop would be one


async def test_a_parent_past_its_time_takes_only_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker is ended over the comparison; what was published is looked at by the next one."""
    async with Inspector() as inspector:
        (pid,) = inspector.pids
        os.kill(pid, signal.SIGSTOP)
        job = asyncio.create_task(inspector.prepare(PrepareJob(b'{"a": 2}', parent=b'{"a": 1}', kind_parent="json")))
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        found = await job
        assert isinstance(found, Prepared)
        assert found.inspection == inspect(b'{"a": 2}')
        assert (found.summary, found.verdict) == ("", None)
        assert "signal 9" in found.not_compared


async def test_verdicts_cross_the_pipe_whole() -> None:
    other = APP.replace(b"Be polite", b"Be kind")
    async with Inspector() as inspector:
        assert await inspector.judge(JudgeJob(other, "dify", APP, "dify")) == compare(APP, other).verdict
        with pytest.raises(Invalid):
            await inspector.judge(JudgeJob(other, "dify", b"no app", "dify"))

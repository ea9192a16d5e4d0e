"""The main job with real processes: three members, six agents in two sites, a bad version, a dead leader.

    make demo        (or: python -m examples.demo [--keep DIR])

Every number it prints was measured in that run.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from registry.cli.local_cluster import LocalCluster
from registry.client import Client
from registry.core.model import Pointer, Version

WORKFLOW = "support/triage"
TRIAGE = Path(__file__).parent / "triage"
SITES = {"eu-1": 3, "us-1": 3}
READY_S, FOLLOW_S = 60.0, 30.0
LOOK_S = 0.002  # how often the files of the agents are looked at
DONE, FOLLOWS, BAD = "[green]●[/green]", "[blue]↳[/blue]", "[red]✗[/red]"

console = Console(highlight=False, width=min(110, Console().width) if sys.stdout.isatty() else 100)


class Timeline:
    """What happened, when, and how long it took."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def chapter(self, title: str) -> None:
        console.print(f"\n[bold]{title}[/bold]")

    def say(self, what: str, took_s: float | None = None, *, mark: str = DONE) -> None:
        at = f"{time.monotonic() - self._started:6.1f} s"
        took = "" if took_s is None else f"  [cyan]{took_s * 1000:,.0f} ms[/cyan]"
        console.print(f"[dim]{at}[/dim]  {mark} {what}{took}")


class Fleet:
    """Real registry-agent processes; what they run is read from their files, not asked of them."""

    def __init__(self, directory: Path, endpoints: list[str]) -> None:
        self._directory, self._endpoints = directory, endpoints
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.sites: dict[str, str] = {}

    def start(self) -> None:
        probe = shlex.join([sys.executable, str(TRIAGE / "probe.py")]) + ' "$REGISTRY_PATH"'
        for site, count in SITES.items():
            for number in range(1, count + 1):
                name = f"{site}-edge-{number}"
                home = self._directory / name
                home.mkdir()
                self.sites[name] = site
                command = [
                    *(sys.executable, "-m", "registry.agent.main", "--name", name, "--site", site),
                    *("--endpoints", ",".join(self._endpoints), "--state-dir", str(home / "state")),
                    *("--follow", f"{WORKFLOW}={self.path(name)}"),
                    *("--probe", probe, "--probe-interval", "0.1", "--probe-timeout", "10"),
                ]
                with (home / "log").open("wb") as log:
                    self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log, cwd=home)

    def path(self, name: str) -> Path:
        return self._directory / name / "triage.yml"

    def running(self) -> dict[str, str]:
        """Agent to digest of the file it shows now."""
        found = {}
        for name in self.sites:
            try:
                content = self.path(name).read_bytes()
            except FileNotFoundError:
                continue
            found[name] = f"sha256:{hashlib.sha256(content).hexdigest()}"
        return found

    def stop(self) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        for name, process in self._processes.items():
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                console.print(f"[red]{name} did not stop and was killed[/red]")


class Demo:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.timeline = Timeline()
        self.cluster = LocalCluster(directory / "members", 3)
        self.versions: dict[int, Version] = {}
        self.numbers: list[tuple[str, float]] = []

    async def play(self) -> None:
        say, chapter = self.timeline.say, self.timeline.chapter
        chapter("Three members")
        began = time.monotonic()
        await self.cluster.start()
        say("three members are up and have a leader", time.monotonic() - began)
        self.fleet = Fleet(self.directory, list(self.cluster.endpoints))
        async with Client(self.cluster.endpoints, principal="demo") as self.client:
            status = await self.client.status()
            say(f"{status.leader} leads term {status.term}; cluster {status.info.cluster_id[:8]}")
            await self.publish_three()
            await self.go_live()
            await self.bad_version()
            await self.roll_back()
            await self.lose_the_leader()
            await self.epilogue()

    async def publish_three(self) -> None:
        self.timeline.chapter("Publish")
        messages = {1: "first", 2: "clearer prompts, a smaller model", 3: "merge the billing branch"}
        for number, message in messages.items():
            content = (TRIAGE / f"v{number}.yml").read_bytes()
            began = time.monotonic()
            version = await self.client.publish(WORKFLOW, content, message=message)
            took_s = time.monotonic() - began
            self.versions[number] = version
            facts = f"{version.size_bytes:,} bytes, {version.facts.get('nodes', '?')} nodes, {version.digest[:19]}"
            self.timeline.say(f'{WORKFLOW}@{version.number} "{message}": {facts}', took_s)
        for older, newer in ((1, 2), (2, 3)):
            began = time.monotonic()
            comparison = await self.client.compare(WORKFLOW, older, WORKFLOW, newer)
            took_s = time.monotonic() - began
            self.timeline.say(f"compare @{older} @{newer}: {comparison.summary}", took_s)

    async def go_live(self) -> None:
        self.timeline.chapter("Go live")
        began = time.monotonic()
        pointer = await self.switch(1, "go live")
        self.fleet.start()
        count = len(self.fleet.sites)
        self.timeline.say(f"{count} agents start in {len(SITES)} sites and follow {WORKFLOW}:active", mark=FOLLOWS)
        await self.followed(pointer, began)
        await self.client.mark(WORKFLOW, 1, "stable", reason="a week without complaints")
        began = time.monotonic()
        shown_s, confirmed_s = await self.followed(await self.switch(2, "better prompts"), began)
        self.numbers.append(("switch, until the last of six agents shows it on disk", shown_s))
        self.numbers.append(("switch, until the last of six agents has probed and confirmed it", confirmed_s))
        await self.client.mark(WORKFLOW, 2, "stable", reason="tests passed")

    async def switch(self, number: int, reason: str) -> Pointer:
        began = time.monotonic()
        pointer = await self.client.switch(WORKFLOW, number, reason=reason)
        self.timeline.say(f"switch active to @{number}, generation {pointer.generation}", time.monotonic() - began)
        return pointer

    async def followed(self, pointer: Pointer, began: float) -> tuple[float, float]:
        """Seconds from `began` until every agent's file shows the target, and until every one has confirmed it."""
        count = len(self.fleet.sites)
        await self.until(lambda: _all(self.fleet.running(), pointer.digest, count), "the agents' files")
        shown_s = time.monotonic() - began
        self.timeline.say(f"all {count} agents show @{pointer.version} on disk", shown_s, mark=FOLLOWS)
        await self.until_async(lambda: self.all_report(pointer.generation, "current"), "confirmations")
        confirmed_s = time.monotonic() - began
        self.timeline.say("all have probed and confirmed it", confirmed_s, mark=FOLLOWS)
        return shown_s, confirmed_s

    async def bad_version(self) -> None:
        self.timeline.chapter("A bad version goes live")
        good = self.versions[2]
        began = time.monotonic()
        pointer = await self.switch(3, "ship it")
        await self.until_async(lambda: self.all_report(pointer.generation, "nacked"), "nacks")
        took_s = time.monotonic() - began
        self.timeline.say("every probe failed three times; every agent has gone back by itself", took_s, mark=BAD)
        assert _all(self.fleet.running(), good.digest, len(self.fleet.sites)), "an agent does not run @2"
        agent = await anext(aiter(self.client.agents(WORKFLOW)))
        self.timeline.say(f"{agent.agent} says {agent.code}: {agent.detail.strip().splitlines()[-1]}", mark=BAD)
        await self.who_runs_what()

    async def roll_back(self) -> None:
        self.timeline.chapter("3 a.m.")
        fetched_before = await asyncio.to_thread(self.content_fetches)
        began = time.monotonic()
        pointer = await self.client.rollback(WORKFLOW, reason="triage drops billing tickets")
        took_s = time.monotonic() - began
        self.numbers.append(("rollback, committed by a majority and answered", took_s))
        back = f"back on @{pointer.version}, generation {pointer.generation}"
        self.timeline.say(f"regctl rollback {WORKFLOW}: {back}", took_s)
        await self.until_async(lambda: self.all_report(pointer.generation, "current"), "confirmations")
        took_s = time.monotonic() - began
        self.numbers.append(("rollback, until the last of six agents has confirmed it", took_s))
        self.timeline.say("all agents have confirmed it", took_s, mark=FOLLOWS)
        fetched = await asyncio.to_thread(self.content_fetches) - fetched_before
        self.timeline.say(f"content fetched for it, as the members counted: {fetched} times", mark=FOLLOWS)
        failed = await self.client.version(WORKFLOW, 3)
        self.timeline.say(f"@3 is now marked {failed.status}: nobody switches to it without --force")

    def content_fetches(self) -> int:
        """From every member's /metrics."""
        total = 0
        for member in self.cluster.members.values():
            with urllib.request.urlopen(f"http://{member.http_address}/metrics", timeout=5) as reply:
                for line in reply.read().decode().splitlines():
                    if line.startswith("registry_call_seconds_count") and 'method="GetContent"' in line:
                        total += int(float(line.rsplit(" ", 1)[1]))
        return total

    async def lose_the_leader(self) -> None:
        self.timeline.chapter("The leader dies")
        leader = (await self.client.status()).leader
        self.cluster[leader].kill()
        began = time.monotonic()
        self.timeline.say(f"kill -9 {leader}", mark=BAD)
        pointer = await self.client.switch(WORKFLOW, 1, reason="forward without the leader")
        took_s = time.monotonic() - began
        self.numbers.append(("kill -9 of the leader, until the first switch without it", took_s))
        status = await self.client.status()
        self.timeline.say(
            f"{status.leader} leads term {status.term}; switched to @1, generation {pointer.generation}", took_s
        )
        await self.followed(pointer, began)
        began = time.monotonic()
        await self.followed(await self.switch(2, "and back again"), began)
        began = time.monotonic()
        await self.cluster.restart(leader)
        await self.until_async(lambda: self.has_caught_up(leader), f"{leader} to catch up")
        self.timeline.say(f"{leader} is back and has everything", time.monotonic() - began)

    async def epilogue(self) -> None:
        self.timeline.chapter("Who runs what")
        await self.who_runs_what()
        table = Table("generation", "version", "what", "who", "why", box=None, header_style="dim")
        async for change in self.client.history(WORKFLOW, "active"):
            for pointer in change.pointers:
                table.add_row(
                    str(pointer.generation), f"@{pointer.version}", change.action, change.principal, change.reason
                )
        self.timeline.chapter("What happened to active, newest first")
        console.print(table)
        self.timeline.chapter("Measured in this run")
        for what, took_s in self.numbers:
            console.print(f"  [cyan]{took_s * 1000:8,.0f} ms[/cyan]  {what}")

    async def who_runs_what(self) -> None:
        table = Table("agent", "site", "runs", "state", "age", box=None, header_style="dim")
        async for row in self.client.agents(WORKFLOW):
            state = f"[red]{row.state}: {row.code}[/red]" if row.code else f"[green]{row.state}[/green]"
            table.add_row(row.agent, row.site, f"@{row.version}", state, f"{row.age_ms / 1000:.1f} s")
        console.print(table)

    # ---- waiting
    async def all_report(self, generation: int, state: str) -> bool:
        rows = [row async for row in self.client.agents(WORKFLOW)]
        ready = [row for row in rows if row.target_generation == generation and row.state == state]
        return len(ready) == len(self.fleet.sites)

    async def has_caught_up(self, name: str) -> bool:
        status = await self.client.status()
        return all(member.alive and member.lag == 0 for member in status.members if member.name == name)

    async def until(self, reached: Callable[[], bool], what: str) -> None:
        async def ask() -> bool:
            return reached()

        await self.until_async(ask, what)

    async def until_async(self, reached: Callable[[], Awaitable[bool]], what: str) -> None:
        deadline = time.monotonic() + FOLLOW_S
        while not await reached():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {FOLLOW_S:.0f} s for {what}; logs are in {self.directory}")
            await asyncio.sleep(LOOK_S)

    async def stop(self) -> None:
        if hasattr(self, "fleet"):
            self.fleet.stop()
        await self.cluster.stop()


def _all(running: dict[str, str], digest: str, count: int) -> bool:
    return len(running) == count and set(running.values()) == {digest}


async def run(directory: Path) -> None:
    demo = Demo(directory)
    try:
        await demo.play()
    finally:
        await demo.stop()
    demo.timeline.say("everything stopped, nothing left behind")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", metavar="DIR", help="work in DIR and keep data and logs")
    options = parser.parse_args()
    directory = Path(options.keep or tempfile.mkdtemp(prefix="workflow-registry-demo-")).absolute()
    directory.mkdir(exist_ok=True)
    console.print("[bold]workflow-registry[/bold]: publish, compare, switch, roll back, and agents that follow")
    try:
        asyncio.run(run(directory))
    except KeyboardInterrupt:
        return 130
    finally:
        if not options.keep:
            shutil.rmtree(directory, ignore_errors=True)
    console.print(
        "\n[bold]Try next[/bold]\n"
        "  source .venv/bin/activate\n"
        "  regctl dev                                      a local cluster to play with\n"
        "  regctl publish support/triage examples/triage/v1.yml -m first\n"
        "  regctl switch support/triage@1 --reason 'go live'\n"
        "  regctl compare examples/triage/v2.yml examples/triage/v3.yml\n"
        "  regctl --help"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

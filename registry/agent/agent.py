"""An edge agent: one poll for all follows, one machine for each."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from random import Random
from typing import Any

import structlog
from msgspec import structs

from registry.agent import guards, limits
from registry.agent.acts import Shared
from registry.agent.api import Poll, Polled, RegistryApi
from registry.agent.backoff import delay_s
from registry.agent.config import AgentConfig, ConfigError
from registry.agent.follower import Follower
from registry.agent.guards import Identity, Trust
from registry.agent.home import AgentFile, Home, HomeError
from registry.agent.journal import Record
from registry.agent.outbox import Outbox
from registry.agent.status import status
from registry.agent.targets.make import make_target, obstacle
from registry.agent.transitions import Code
from registry.core import limits as core_limits
from registry.core.errors import Reason, RegistryError

log = structlog.get_logger(__name__)


class Agent:
    """Follows pointers and keeps what they name at paths of this machine.

        async with Client(["127.0.0.1:7400"]) as client:
            await Agent(config, ClientApi(client)).run()  # until stop()

    `clock_ms`: unix time, information only. `new_id` names the incarnation of a new state directory.
    """

    def __init__(
        self,
        config: AgentConfig,
        api: RegistryApi,
        *,
        random: Random | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self.config = config
        self._api = api
        self._random = random or Random()
        self._clock_ms = clock_ms
        self._new_id = new_id
        self._home = Home(config.state_dir)
        self._followers: dict[tuple[str, str], Follower] = {}
        self._facts: dict[str, str] = {}
        self._session = ""
        self._standing_due_ms = 0  # unix: a machine may have slept in between
        self._untold: set[tuple[str, str]] = set()  # follows whose standing is to be told
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Makes `run` return soon: running steps finish, the rest goes on at the next start."""
        self._stopping.set()
        for follower in self._followers.values():
            follower.stop()

    def status(self) -> dict[str, Any]:
        """As `registry-agent status`. Raises HomeError before the first run."""
        home = Home(self.config.state_dir)
        home.open_agent()
        return status(home, self._clock_ms() / 1000)

    async def run(self) -> None:
        """Runs until `stop`. Needs no registry to start: PATHs show the last good versions before the first contact.
        Raises HomeError (state directory) and ConfigError (a path that belongs to somebody else)."""
        held = self._home.lock()
        try:
            self._open()
            await self._run()
        finally:
            os.close(held)

    def _open(self) -> None:
        config, home = self.config, self._home
        known = home.open_agent()
        if known is not None and known.agent != config.name:
            raise HomeError(
                f"the state directory {home.directory} belongs to agent {known.agent}, not to {config.name}; "
                "give each agent its own"
            )
        for follow in config.follows:
            record = home.load_record(follow.workflow, follow.pointer)
            if (record is None or record.running is None) and (problem := obstacle(follow, home)):
                raise ConfigError(problem)
        self._session = self._new_id()
        known = known or AgentFile(agent=config.name, incarnation=self._new_id())
        follows = tuple((follow.workflow, follow.pointer) for follow in config.follows)
        home.save_agent(structs.replace(known, follows=follows))

    async def _run(self) -> None:
        outbox = Outbox(self._home, self._api, self._random)
        self._make_followers(outbox)
        log.info("agent runs", agent=self.config.name, follows=[follow.name for follow in self.config.follows])
        async with asyncio.TaskGroup() as tasks:
            learning = await self._start_learning(tasks)
            sending = tasks.create_task(outbox.run())
            polling = tasks.create_task(self._poll())
            following = [tasks.create_task(follower.run()) for follower in self._followers.values()]
            await self._stopping.wait()
            polling.cancel()
            learning.cancel()
            _, late = await asyncio.wait(following, timeout=limits.STOP_GRACE_S)
            for task in late:
                task.cancel()
            await outbox.wait_sent(timeout_s=limits.STOP_FLUSH_S)
            sending.cancel()
        log.info("agent stopped", agent=self.config.name, acknowledgements_waiting=len(outbox))

    def _make_followers(self, outbox: Outbox) -> None:
        home = self._home
        followed = {(follow.workflow, follow.pointer) for follow in self.config.follows}
        home.drop_arriving_except(followed)
        records = {(record.workflow, record.pointer): record for record in home.records()}
        others: set[str] = set()  # content of what is not followed any more: its PATH is still there
        for name, record in records.items():
            if name not in followed:
                others |= record.digests()

        paths = [follow.path for follow in self.config.follows if follow.path is not None]

        def prune() -> None:
            needed = (follower.record.digests() for follower in self._followers.values())
            home.drop_content_except(others.union(*needed), paths)

        shared = Shared(
            config=self.config,
            home=home,
            api=self._api,
            outbox=outbox,
            fetches=asyncio.Semaphore(limits.FETCHES_AT_ONCE),
            random=self._random,
            clock_ms=self._clock_ms,
            facts={**self.config.facts, "agent": version("workflow-registry")},
            prune=prune,
        )
        self._facts = guards.stated(shared.facts)
        for spec in self.config.follows:
            name = (spec.workflow, spec.pointer)
            fresh = Record(workflow=spec.workflow, pointer=spec.pointer, path=spec.target.place)
            target = make_target(spec, home, agent=self.config.name, random=self._random, clock_ms=self._clock_ms)
            self._followers[name] = Follower(spec, records.get(name, fresh), target, shared)
            if self._stopping.is_set():
                self._followers[name].stop()

    # Polling

    async def _poll(self) -> None:
        """State, not events: says what is here, hears what should be. For ever."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            started = loop.time()
            fruitful = False
            try:
                if fruitful := await self._take(await self._poll_once()):
                    await self._settle()
            except RegistryError as problem:
                if problem.reason is Reason.CLUSTER_MISMATCH:
                    await self._set_trouble(f"{Code.CLUSTER_MISMATCH}: {problem.message}")
                log.info("no contact", error=str(problem))
            except (TimeoutError, OSError) as problem:
                log.info("no contact", error=str(problem) or type(problem).__name__)
            held = loop.time() - started >= limits.POLL_HELD_S
            failures = 0 if fruitful or held else failures + 1
            if failures:
                await asyncio.sleep(delay_s(failures, limits.POLL_BACKOFF_S, self._random))

    async def _settle(self) -> None:
        """Most installations take less than this wait; the next poll is not outdated then while it still waits."""
        resting = asyncio.gather(*(follower.resting.wait() for follower in self._followers.values()))
        with suppress(TimeoutError):
            async with asyncio.timeout(limits.POLL_SETTLE_S):
                await resting

    async def _start_learning(self, tasks: asyncio.TaskGroup) -> asyncio.Task[None]:
        """A target that does not answer holds up nothing else."""
        learned = asyncio.Event()
        learning = tasks.create_task(self._learn_facts(learned))
        with suppress(TimeoutError):
            async with asyncio.timeout(limits.FACTS_START_S):
                await learned.wait()
        return learning

    async def _learn_facts(self, learned: asyncio.Event) -> None:
        """Of this machine and of all targets, at times. For ever; `learned` is set after the first time."""
        told: dict[Follower, Mapping[str, str]] = {}

        async def ask(follower: Follower) -> None:
            told[follower] = await follower.learn_facts()
            self._facts = guards.stated({name: value for facts in told.values() for name, value in facts.items()})

        while True:
            await asyncio.gather(*(ask(follower) for follower in self._followers.values()))
            learned.set()
            await asyncio.sleep(limits.FACTS_EVERY_S)

    async def _poll_once(self) -> Polled:
        identity = self._home.agent.identity
        wait_s = limits.POLL_WAIT_S * self._random.uniform(1 - limits.POLL_JITTER, 1)
        poll = Poll(
            agent=self.config.name,
            cluster_id=identity.cluster_id,
            epoch=identity.epoch,
            session=self._session,
            site=self.config.site,
            labels=self.config.labels,
            facts=self._facts,
            follows=tuple(follower.holding(identity.epoch) for follower in self._followers.values()),
            wait_ms=round(wait_s * 1000),
            inline_bytes=core_limits.INLINE_BYTES,
        )
        async with asyncio.timeout(wait_s + 2 * limits.POLL_SLACK_S):
            return await self._api.poll(poll, timeout_s=limits.POLL_SLACK_S)

    async def _take(self, polled: Polled) -> bool:
        """Hands instructions to their follows. Whether anything new came."""
        reply, own, home = polled.reply, self._home.agent.identity, self._home
        trust = guards.judge_reply(own, reply.cluster_id, reply.epoch)
        if trust is Trust.FOREIGN:
            await self._set_trouble(
                f"{Code.CLUSTER_MISMATCH}: a member of cluster {reply.cluster_id} answered, this agent belongs to "
                f"{own.cluster_id}; nothing of it is installed. Check --endpoints, or start with a new --state-dir"
            )
            return False
        if trust is Trust.OLD_EPOCH:
            log.warning("member of an older epoch ignored", epoch=reply.epoch, own=own.epoch)
            return False
        if reply.age_ms <= limits.STALE_AFTER_S * 1000:  # a member that is cut off knows nothing newer
            home.touch_contact(self._clock_ms() / 1000)
        if trust is not Trust.SAME:
            identity = Identity(cluster_id=reply.cluster_id, epoch=reply.epoch)
            home.save_agent(structs.replace(home.agent, identity=identity))
            log.info("identity of the cluster", trust=trust.value, cluster_id=reply.cluster_id, epoch=reply.epoch)
        await self._set_trouble("")
        if trust is Trust.RESYNC:  # the reply compared with generations of the old epoch: ask again, having nothing
            return True
        self._note_silence()
        taken = False
        for instruction in reply.instructions:
            name = (instruction.workflow, instruction.pointer)
            if follower := self._followers.get(name):
                told = structs.replace(instruction, epoch=reply.epoch)
                if follower.offer(told, polled.frames.get(name, b"")):
                    taken = True
                    self._untold.discard(name)  # it tells itself how that ends
        await self._tell_standing(reply.epoch)
        return taken

    def _note_silence(self) -> None:
        """With the first contact of this run or after a long time, all is to be told: the registry may have forgotten
        this agent."""
        now_ms = self._clock_ms()
        if now_ms >= self._standing_due_ms:
            self._untold |= self._followers.keys()
        after_s = limits.STANDING_AFTER_S * self._random.uniform(1, 1 + limits.STANDING_JITTER)
        self._standing_due_ms = now_ms + round(after_s * 1000)

    async def _tell_standing(self, epoch: int) -> None:
        """How follows stand, once each: between installations, where it is on disk. What was acted on in another epoch
        has no place in this one."""
        for name in sorted(self._untold):
            follower = self._followers[name]
            if follower.resting.is_set():
                self._untold.discard(name)
                if follower.record.epoch == epoch:
                    await follower.report_standing()

    async def _set_trouble(self, trouble: str) -> None:
        """What is wrong between this agent and the cluster as a whole, kept for `status` and told once."""
        agent = self._home.agent
        if agent.trouble == trouble:
            return
        self._home.save_agent(structs.replace(agent, trouble=trouble))
        if not trouble:
            self._untold |= self._followers.keys()
            return
        log.error("cluster refused", trouble=trouble)
        code, _, detail = trouble.partition(": ")
        for follower in self._followers.values():
            await follower.report_standing(code, detail)

"""An edge agent: one poll for all follows, one machine for each."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Callable
from random import Random
from typing import Any

import structlog
from msgspec import structs

from registry.agent import guards, limits
from registry.agent.api import PollReply, RegistryApi
from registry.agent.backoff import delay_s
from registry.agent.config import AgentConfig, ConfigError
from registry.agent.follower import Follower, Shared
from registry.agent.guards import Identity, Trust
from registry.agent.home import AgentFile, Home, HomeError
from registry.agent.journal import Record
from registry.agent.mending import occupied
from registry.agent.outbox import Outbox
from registry.agent.status import status
from registry.agent.transitions import Code
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
            if (record is None or record.running is None) and not home.is_ours(follow.path):
                raise ConfigError(occupied(follow))
        known = known or AgentFile(agent=config.name, incarnation=self._new_id())
        follows = tuple((follow.workflow, follow.pointer) for follow in config.follows)
        home.save_agent(structs.replace(known, follows=follows))

    async def _run(self) -> None:
        outbox = Outbox(self._home, self._api, self._random)
        self._make_followers(outbox)
        log.info("agent runs", agent=self.config.name, follows=[follow.name for follow in self.config.follows])
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(outbox.run())
            polling = tasks.create_task(self._poll())
            following = [tasks.create_task(follower.run()) for follower in self._followers.values()]
            await self._stopping.wait()
            polling.cancel()
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

        def prune() -> None:
            needed = (follower.record.digests() for follower in self._followers.values())
            home.drop_content_except(others.union(*needed))

        shared = Shared(
            config=self.config,
            home=home,
            api=self._api,
            outbox=outbox,
            fetches=asyncio.Semaphore(limits.FETCHES_AT_ONCE),
            random=self._random,
            clock_ms=self._clock_ms,
            prune=prune,
        )
        for spec in self.config.follows:
            name = (spec.workflow, spec.pointer)
            fresh = Record(workflow=spec.workflow, pointer=spec.pointer, path=str(spec.path))
            self._followers[name] = Follower(spec, records.get(name, fresh), shared)
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
                fruitful = await self._take(await self._poll_once())
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

    async def _poll_once(self) -> PollReply:
        identity = self._home.agent.identity
        wait_s = limits.POLL_WAIT_S * self._random.uniform(1 - limits.POLL_JITTER, 1)
        async with asyncio.timeout(wait_s + limits.POLL_SLACK_S):
            return await self._api.poll(
                cluster_id=identity.cluster_id,
                epoch=identity.epoch,
                agent=self.config.name,
                site=self.config.site,
                labels=self.config.labels,
                follows=[follower.holding(identity.epoch) for follower in self._followers.values()],
                wait_s=wait_s,
            )

    async def _take(self, reply: PollReply) -> bool:
        """Hands instructions to their follows. Whether anything new came."""
        own, home = self._home.agent.identity, self._home
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
        home.touch_contact(self._clock_ms() / 1000)
        if trust is not Trust.SAME:
            identity = Identity(cluster_id=reply.cluster_id, epoch=reply.epoch)
            home.save_agent(structs.replace(home.agent, identity=identity))
            log.info("identity of the cluster", trust=trust.value, cluster_id=reply.cluster_id, epoch=reply.epoch)
        await self._set_trouble("")
        if trust is Trust.RESYNC:  # the reply compared with generations of the old epoch: ask again, having nothing
            return True
        taken = False
        for instruction in reply.instructions:
            follower = self._followers.get((instruction.workflow, instruction.pointer))
            taken |= follower is not None and follower.offer(instruction)
        return taken

    async def _set_trouble(self, trouble: str) -> None:
        """What is wrong between this agent and the cluster as a whole, kept for `status` and told once."""
        agent = self._home.agent
        if agent.trouble == trouble:
            return
        self._home.save_agent(structs.replace(agent, trouble=trouble))
        if trouble:
            log.error("cluster refused", trouble=trouble)
        code, _, detail = trouble.partition(": ")
        for follower in self._followers.values():
            await follower.report_standing(code, detail)

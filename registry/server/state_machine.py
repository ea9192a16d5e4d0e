"""The registry under the cluster: committed commands into the store, and word to those who wait."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

from cluster.kv.api import Environment, Transaction
from registry.core import commands, machine, outcomes
from registry.core.errors import Reason
from registry.core.model import Registry
from registry.server.feed import Feed, PointerKey
from registry.store import queries
from registry.store.state import StoreState

Removed = Callable[[str, int], None]  # cause, versions


def _nobody(cause: str, versions: int) -> None: ...


class RegistryStateMachine:
    """cluster.api.StateMachine. What it raises is a defect or a damaged disk, and ends the process. `removed` is told,
    once it is committed, how many versions lost their content to `retention` or a `purge`; or that purged bytes came
    again and were `refused`: they are in the log."""

    def __init__(self, feed: Feed, environment: Environment, removed: Removed = _nobody) -> None:
        self._feed = feed
        self._environment = environment
        self._tell_removed = removed
        self._registry: Registry | None = None  # as of the open transaction
        self._touched: set[PointerKey] = set()
        self._reported: defaultdict[PointerKey, set[str]] = defaultdict(set)  # agents, also those that were forgotten
        self._removed: Counter[str] = Counter()
        self._forgets = False  # the newest command applied was a purge, or brought purged bytes
        self._refused_purged = False

    def apply(self, transaction: Transaction, command: bytes, level: int) -> bytes:
        state = StoreState(transaction, level=level)
        decoded = commands.decode(command)
        outcome = machine.apply(state, decoded, level=level)
        self._note_reports(decoded)
        self._registry = state.registry()
        self._forgets = False
        match outcome:
            case outcomes.Switched():
                self._touched.update((pointer.workflow, pointer.pointer) for pointer in outcome.pointers)
            case outcomes.Retained():
                self._removed["retention"] += len(outcome.removed)
            case outcomes.Purged():
                self._removed["purge"] += len(outcome.removed)
                self._forgets = True
            case outcomes.Rejected(reason=Reason.CONTENT_PURGED):
                self._refused_purged = self._forgets = True  # proposed before the purge: its entry holds the bytes
        return outcomes.encode(outcome)

    def _note_reports(self, command: commands.Command) -> None:
        match command:
            case commands.Acknowledge():
                for ack in command.acks:
                    self._reported[ack.workflow, ack.pointer].add(ack.agent)
            case commands.ForgetAgents():
                for agent in command.agents:
                    for row in agent.rows:
                        self._reported[row].add(agent.agent)

    def forget_log(self) -> bool:
        forgets, self._forgets = self._forgets, False
        return forgets

    def committed(self) -> None:
        if self._registry is None:
            return
        registry, touched, reported, removed = self._registry, self._touched, self._reported, self._removed
        self._begin()
        if registry.epoch != self._feed.registry.epoch:  # no generation that agents have counts any more
            self._feed.replaced(registry)
        else:
            self._feed.publish(registry, touched, reported)
        for cause, versions in removed.items():
            self._tell_removed(cause, versions)
        if self._refused_purged:
            self._refused_purged = False
            self._tell_removed("refused", 0)

    def installed(self) -> None:
        self._begin()
        with self._environment.peek() as reader:
            registry = queries.registry(reader)
        self._feed.replaced(registry)
        self._tell_removed("purge", 0)  # the state may know of some

    def _begin(self) -> None:
        self._registry, self._touched, self._reported, self._removed = None, set(), defaultdict(set), Counter()

"""The registry under the cluster: committed commands into the store, and word to those who wait."""

from __future__ import annotations

from cluster.kv.api import Environment, Transaction
from registry.core import commands, machine, outcomes
from registry.core.model import Registry
from registry.server.feed import Feed, PointerKey
from registry.store import queries
from registry.store.state import StoreState


class RegistryStateMachine:
    """cluster.api.StateMachine. What it raises is a defect or a damaged disk, and ends the process."""

    def __init__(self, feed: Feed, environment: Environment) -> None:
        self._feed = feed
        self._environment = environment
        self._registry: Registry | None = None  # as of the open transaction
        self._touched: set[PointerKey] = set()

    def apply(self, transaction: Transaction, command: bytes, level: int) -> bytes:
        state = StoreState(transaction)
        outcome = machine.apply(state, commands.decode(command), level=level)
        self._registry = state.registry()
        if isinstance(outcome, outcomes.Switched):
            self._touched.update((pointer.workflow, pointer.pointer) for pointer in outcome.pointers)
        return outcomes.encode(outcome)

    def committed(self) -> None:
        if self._registry is None:
            return
        registry, touched = self._registry, self._touched
        self._registry, self._touched = None, set()
        if registry.epoch != self._feed.registry.epoch:  # no generation that agents have counts any more
            self._feed.replaced(registry)
        else:
            self._feed.publish(registry, touched)

    def installed(self) -> None:
        self._registry, self._touched = None, set()
        with self._environment.snapshot() as reader:
            registry = queries.registry(reader)
        self._feed.replaced(registry)

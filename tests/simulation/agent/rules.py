"""Guards of the agent, each of which can be taken away, and a seed that shows it then. Which one does changes with
registry/agent and with the simulator: look for others with

python -m tests.simulation.agent.rules RULE [--seeds N] [--base SEED]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from registry.agent import guards, journal, transitions
from registry.agent.api import Instruction
from registry.agent.follower import Follower, Offer
from registry.agent.guards import Identity, Trust, judge_reply
from registry.agent.home import Home
from registry.agent.journal import Outcome, Record
from registry.agent.transitions import Code, Event, State
from tests.simulation.agent.play import Run

Patch = tuple[Any, str, Any]
TRIES = 40
save_record = Home.save_record


class Rule(NamedTuple):
    """`violation`: words of what is broken without it, by `seed` or one of the TRIES that follow. `lying_disk`: instead
    of a patch, syncs of directories are only acknowledged."""

    seed: int
    violation: str
    patches: tuple[Patch, ...] = ()
    lying_disk: bool = False


def _differs(record: Record, instruction: Instruction) -> bool:
    return (instruction.epoch, instruction.generation) != record.fence


def _take_others(self: Follower, instruction: Instruction, frame: bytes = b"") -> bool:
    if not _differs(self.record, instruction):
        return False
    self._pending = Offer(instruction, frame)
    self._news.set()
    return True


def _trust_all(own: Identity, cluster_id: str, epoch: int) -> Trust:
    trust = judge_reply(own, cluster_id, epoch)
    return Trust.SAME if trust is Trust.FOREIGN else trust


def _unless_installing(home: Home, record: Record) -> None:
    if record.state is not State.INSTALL:
        save_record(home, record)


RULES: dict[str, Rule] = {
    "digest": Rule(30, "other bytes are kept below", ((guards, "judge_bytes", lambda *_: Outcome(Event.DONE)),)),
    "fence": Rule(6, "and has acted on", ((guards, "is_newer", _differs), (Follower, "offer", _take_others))),
    "cluster": Rule(30, "was not acknowledged", ((guards, "judge_reply", _trust_all),)),
    "step": Rule(32, "not on disk as a step", ((Home, "save_record", _unless_installing),)),
    "sync": Rule(32, "is gone", lying_disk=True),
    "needs": Rule(29, "with ['needs", ((guards, "judge_needs", lambda *_: None),)),
    "deadline": Rule(24, "after its deadline", ((guards, "judge_time", lambda *_: None),)),
    "doubt": Rule(18, "not settled", ((journal, "PERMANENT", transitions.PERMANENT | {Code.INVALID_INSTRUCTION}),)),
    "whole": Rule(28, "not settled", ((Home, "has_content", lambda home, digest: home.content_path(digest).exists()),)),
}


@contextmanager
def without(rule: str) -> Iterator[None]:
    patches = RULES[rule].patches
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    try:
        for owner, name, value in patches:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def play(rule: str, seed: int) -> str:
    """What is violated without the rule."""

    def knob(world: Any) -> None:
        world.disk.syncs_directories = not RULES[rule].lying_disk

    with without(rule):
        return Run(seed, knob=knob).play().violation


def shown(rule: str) -> str:
    """What is violated without the rule; empty: none of the seeds shows it."""
    first, words = RULES[rule].seed, RULES[rule].violation
    played = (play(rule, seed) for seed in range(first, first + TRIES))
    return next((violated for violated in played if words in violated), "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rule", choices=RULES)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--base", type=int, default=0)
    options = parser.parse_args()
    found = 0
    for seed in range(options.base, options.base + options.seeds):
        if (violated := play(options.rule, seed)) and not Run(seed).play().violation:
            found += 1
            print(f"{seed}: {violated[:160]}", flush=True)
    print(f"{found} of {options.seeds} seeds show it")
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())

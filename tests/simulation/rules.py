"""Each rule of cluster/ can be switched off here, and only here: a test shows that a checker then finds a violation.

A rule is the text that makes it, in the one function that has it, and what stands there without it. `without` compiles
the function anew; production code has no switch. A rule whose text is gone fails loudly.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType

from cluster.applying import Applying
from cluster.configuration import Configuration
from cluster.damage import Damage
from cluster.governor import Governor
from cluster.guards import Guard
from cluster.journal import Journal
from cluster.progress import Progress
from cluster.proposals import Proposals
from cluster.reads import Reads, Rounds
from cluster.recovery import Recovery
from cluster.replica import Replica
from cluster.tail import Source


@dataclass(frozen=True)
class Rule:
    says: str
    owner: type
    function: str
    text: str
    without: str


RULES = {
    "sync": Rule(
        "promises leave after the sync of what they promise",
        *(Replica, "advance"),
        "if self.engine.leads() and any(map(_is_awaited, self._outbox)):\n        self._flush(only=EARLY)",
        "self._flush()",
    ),
    "lowterm": Rule(
        "an append of a lower term is answered with the higher one",
        *(Guard, "_hear", "self._post(peer, m.HigherTerm(term))", "pass"),
    ),
    "skip": Rule(
        "a follower skips the entries that it has, and truncates only at a conflict",
        *(Guard, "_follow", "while kept < len(entries) and", "while False and"),
    ),
    "committed": Rule(
        "an append that starts below the commit index is answered with success at the commit index",
        *(Guard, "_follow", "if previous < commit:", "if False:"),
    ),
    "clamp": Rule(
        "the commit index taken is at most what the message verified",
        *(Guard, "_succeed"),
        "min(message.commit_index, max(verified, self.engine.commit_index()))",
        "message.commit_index",
    ),
    "barrier": Rule(
        "a rejection counts once",
        *(Progress, "rejected", "if number <= self._barrier:", "if False:"),
    ),
    "floor": Rule(
        "a rejection never moves to or below what is matched",
        *(Guard, "_on_append_reply", "next_index = max(next_index, engine.match_index(peer) + 1)", "pass"),
    ),
    "progress": Rule(
        "after a success sending goes on where it was",
        *(Guard, "_on_append_reply", "if message.success and (go_on :=", "if False and (go_on :="),
    ),
    "prevote": Rule(
        "no term is raised before a majority would vote",
        *(Guard, "may_elect", "if now < self._transfer_until", "if True or now < self._transfer_until"),
    ),
    "sticky": Rule(
        "a voter that hears a leader refuses votes",
        *(Guard, "hears_leader", "return self.engine.leads() or", "return False and"),
    ),
    "dedupe": Rule(
        "a voter counts once a term",
        *(Guard, "_on_vote", " and peer not in self._counted[1]", ""),
    ),
    "votersonly": Rule(
        "only voters of the configuration are counted",
        *(Guard, "_on_vote", "peer in self.voters and ", ""),
    ),
    "memvote": Rule(
        "votes are answered also to candidates that the own configuration does not know",
        *(Guard, "_on_request_vote"),
        "if message.transfer or not self.hears_leader():",
        "if peer in self.voters and (message.transfer or not self.hears_leader()):",
    ),
    "appended": Rule(
        "a configuration counts from its append on, committed or not",
        *(Journal, "_choose_configuration", "self._configurations[-1] if self._configurations else", "None or"),
    ),
    "owncommit": Rule(
        "membership changes only after an entry of the own term is committed",
        *(Governor, "change_members", "not replica.own_term_committed()", "False"),
    ),
    "onechange": Rule(
        "one membership change at a time",
        *(Governor, "change_members", "if pending or", "if"),
    ),
    "retain": Rule(
        "a fetched state never replaces a log that holds its last entry",
        *(Recovery, "install", "or journal.holds(fetched.index, fetched.index_term)", ""),
    ),
    "installterm": Rule(
        "a fetched state brings its sender's term along",
        *(Recovery, "install", "if fetched.term > engine.term():", "if False:"),
    ),
    "installnewer": Rule(
        "a fetched state at or below the commit index is dropped",
        *(Recovery, "_is_needed", " and complete.fetched.index > engine.commit_index()", ""),
    ),
    "torn": Rule(
        "of a tick that met damage nothing is kept but the mark",
        *(Damage, "mark", "self._environment.abort()", "pass"),
    ),
    "inrepair": Rule(
        "a member in repair answers nothing and takes no entries",
        *(Replica, "_receive", "case _ if self.recovery.in_repair:", "case _ if False:"),
    ),
    "atrest": Rule(
        "a member in repair never campaigns",
        *(Replica, "advance", "if not self.recovery.in_repair:", "if True:"),
    ),
    "asnew": Rule(
        "a state that repairs is at least as new as the damaged one",
        *(Recovery, "tick", "self.fetcher.want(replica.journal.applied)", "self.fetcher.want(1)"),
    ),
    "keeprest": Rule(
        "what follows the state that repairs stays in the log",
        *(Recovery, "install", "keep_rest=held", "keep_rest=False"),
    ),
    "room": Rule(
        "a follower whose disk is nearly full takes no entries",
        *(Guard, "_on_append", "if beyond and not self._takes_entries():", "if False:"),
    ),
    "start": Rule(
        "it takes the entry that starts a term",
        *(Guard, "_on_append", "entry != NO_OP for", "True for"),
    ),
    "lifesign": Rule(
        "a peer that fetches a state answers every heartbeat",
        *(Guard, "_live", "self._reply(peer, 1, success=False, reset=False)", "pass"),
    ),
    "readnoop": Rule(
        "reads wait for a committed entry of the leader's own term",
        *(Reads, "lead", "self._rounds.waiting and own_term_committed", "self._rounds.waiting"),
    ),
    "readround": Rule(
        "reads wait until a majority has confirmed the leader's term",
        *(Rounds, "_close_if_confirmed", "if self._is_majority(self._open[number][2]):", "if True:"),
    ),
    "readterm": Rule(
        "a voter confirms only a term that is not below its own",
        *(Replica, "_on_read_probe", "if message.term >= term:", "if True:"),
    ),
    "heartbeat": Rule(
        "a heartbeat verifies nothing of the log",
        *(Guard, "_on_heartbeat", "self._succeed(peer, message, commit)"),
        "self._succeed(peer, message, self._journal.last)",
    ),
    "hint": Rule(
        "after a conflict the leader is pointed to the first index of its term",
        *(Guard, "_follow", "self._hint = self._first_of_term(previous)", "pass"),
    ),
    "silence": Rule(
        "a peer that is held and silent is sent everything again",
        *(Guard, "_send_append", "elif progress.is_silent(now, self._timing.silence_s):", "elif False:"),
    ),
    "novote": Rule(
        "who has no vote never campaigns",
        *(Guard, "may_elect", "if self._name not in self.voters:", "if False:"),
    ),
    "withdraw": Rule(
        "who gives up on what was taken is not told that it will not happen",
        *(Proposals, "withdraw", "return not proposal.taken", "return True"),
    ),
    "unanswered": Rule(
        "what a leader took and never answered may have happened",
        *(Proposals, "give_up", "self._fail([self._forwarded.pop(call)[1]],"),
        "self.settle(self._forwarded.pop(call)[1], NotAttempted()) and (",
    ),
    "calls": Rule(
        "calls are numbered from a random number on in every life of a process",
        *(Replica, "__init__", "self._calls = rng.getrandbits(48)", "self._calls = 0 * rng.getrandbits(48)"),
    ),
    "needed": Rule(
        "trimming keeps what follows a state that somebody fetches",
        *(Journal, "trim", "min(self.applied - self.first - most_entries, needed - self.first)"),
        "self.applied - self.first - most_entries",
    ),
    "source": Rule(
        "an observer takes only what its source answers",
        *(Source, "on_tailed", "if peer != self.id or not self._waiting:", "if False:"),
    ),
    "tailed": Rule(
        "who votes takes entries from a leader only",
        *(Recovery, "on_tailed", "if not replica.tails or not", "if not"),
    ),
    "compare": Rule(
        "a member whose state differs from the others' ends",
        *(Applying, "compare", "if self.comparison.is_wrong(", "if False and self.comparison.is_wrong("),
    ),
    "removed": Rule(
        "a removed member is told so when it connects, and ends",
        *(Configuration, "is_removed", "return id in self.removed or incarnation in self.removed", "return False"),
    ),
    "leave": Rule(
        "a leader does not remove itself",
        *(Governor, "_take", "if replica.id not in decided.voters:", "if False:"),
    ),
}  # fmt: skip


@contextmanager
def without(name: str) -> Iterator[None]:
    """The rule is off, in this process, until the block ends."""
    rule = RULES[name]
    original = rule.owner.__dict__[rule.function]
    source = textwrap.dedent(inspect.getsource(original))
    assert source.count(rule.text) == 1, (
        f"{name}: {rule.text!r} stands {source.count(rule.text)} times in {rule.function}"
    )
    namespace = dict(vars(sys.modules[original.__module__]))
    # `__class__` of a zero-argument super() would be lost; none of these functions uses one.
    exec(compile(source.replace(rule.text, rule.without), f"<without {name}>", "exec"), namespace)
    changed = namespace[rule.function]
    assert isinstance(changed, FunctionType)
    setattr(rule.owner, rule.function, changed)
    try:
        yield
    finally:
        setattr(rule.owner, rule.function, original)

"""Contacts of agents against the sessions that really ran: who shares a name is found, who restarts is not suspected.

Up to three machines use one name. A machine polls, restarts (a session that was never there before) or ends. Its
contacts wait at a member and come in order of time, some of them again.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from registry.core.commands import Contact
from registry.core.model import LastContact
from tests.unit.core.kit import Machine

NAME = "edge-1"


class Contacts(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.memory = Machine()
        self.now_ms = 0
        self.begun = 1
        self.running = [1]  # session of each machine
        self.polled: list[Contact] = []  # since the last flush
        self.sent: list[Contact] = []
        self.heard: list[int] = []  # sessions, as they were heard of
        self.shared = False  # two machines ran at once, ever

    @rule(which=st.integers(0, 2))
    def poll(self, which: int) -> None:
        self.now_ms += 1
        session = self.running[which % len(self.running)]
        self.polled.append(Contact(agent=NAME, time_ms=self.now_ms, session=f"s{session}"))

    @rule()
    def report(self) -> None:
        """At once, and without a session. A report is a contact too."""
        self.now_ms += 1
        self.memory.acknowledge(contacts=(Contact(agent=NAME, time_ms=self.now_ms),))
        self.polled = []  # older by now

    @rule(which=st.integers(0, 2))
    def restart(self, which: int) -> None:
        self.begun += 1
        self.running[which % len(self.running)] = self.begun

    @precondition(lambda self: len(self.running) < 3)
    @rule()
    def clone(self) -> None:
        self.begun += 1
        self.running.append(self.begun)
        self.shared = True

    @precondition(lambda self: len(self.running) > 1)
    @rule()
    def end_one(self) -> None:
        self.running.pop()

    @rule(parts=st.integers(1, 3))
    def flush(self, parts: int) -> None:
        size = -(-len(self.polled) // parts) or 1
        for start in range(0, len(self.polled), size):
            self.memory.acknowledge(contacts=tuple(self.polled[start : start + size]))
        self.heard += [int(each.session[1:]) for each in self.polled]
        self.sent, self.polled = self.polled or self.sent, []

    @rule()
    def flush_again(self) -> None:
        """Nobody knew whether it was recorded."""
        before = self.memory.dump()
        if self.sent:
            self.memory.acknowledge(contacts=tuple(self.sent))
        assert self.memory.dump() == before

    @invariant()
    def twins_are_said_when_a_session_came_back_and_never_of_one_machine(self) -> None:
        row = self.memory.rows.contact(NAME)
        runs = [session for at, session in enumerate(self.heard) if not at or self.heard[at - 1] != session]
        came_back = any(runs[at] == runs[at - 2] for at in range(2, len(runs)))
        assert (row.twins_ms > 0) == came_back
        if not self.shared:
            assert not row.twins_ms
        if self.heard:
            assert row.session == f"s{runs[-1]}"
            assert row.previous_session == (f"s{runs[-2]}" if len(runs) > 1 else "")
        assert row.twins_ms <= row.time_ms <= self.now_ms

    def teardown(self) -> None:
        rows = list(self.memory.rows.contacts()) if hasattr(self, "memory") else []
        assert rows in ([], [(NAME, self.memory.rows.contact(NAME))])
        assert LastContact() not in [row for _, row in rows]


TestContacts = Contacts.TestCase
TestContacts.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)

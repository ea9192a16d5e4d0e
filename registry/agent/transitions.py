"""How one follow gets from an instruction to a confirmed or a reverted version. What decides is in TRANSITIONS.

Theory of operation
-------------------
A *state* names the act that is under way; an *event* is how that act ended. `decide` looks the pair up, takes the
first row whose guard holds, and says the next state and the act to start. It knows no clock, no disk and no network:
the follower (follower.py) performs acts and feeds their events back.

    idle -> guard -> fetch -> verify -> stage -> install -> reload -> probe -> confirm -> idle
              |                                     |          |        |
              +-- kept on disk: no fetch ---------->+          +--------+--> revert -> restore -> refuse -> idle

Durable steps. Before an act starts, the record of the follow with the new state is on disk (JOURNALED). GUARD and
VERIFY only look, so nothing is written for them. After a crash the record is read back and RESTARTED is fed: what had
not touched PATH is dropped (the next poll offers it again), what may have touched PATH is done again, and because
every act can be repeated this is safe at every instant. RESTARTS bounds how often a version may take the agent down
with it.

Proof. From the swap until CONFIRM the version that PATH shows is `shown` but not proven. Whatever goes wrong while
something unproven is shown ends in REVERT, also when the trouble belongs to a newer instruction that superseded it.
A version that was reverted is remembered (REFUSE) and never tried again under the same generation.

Superseding. A newer generation that arrives in the middle is looked at as soon as the running act is safe to leave:
FETCH and PROBE are interrupted, STAGE is left when it ends. INSTALL and RELOAD lead to PROBE, which is interrupted,
or to CONFIRM; that, REVERT, RESTORE and REFUSE always finish first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    IDLE = "idle"
    GUARD = "guard"  # may this be installed, and is it already here?
    FETCH = "fetch"
    VERIFY = "verify"  # digest and length of the fetched bytes
    STAGE = "stage"  # write the bytes below their digest
    INSTALL = "install"  # swap PATH
    RELOAD = "reload"
    PROBE = "probe"
    CONFIRM = "confirm"
    REVERT = "revert"  # swap PATH back to the last good version
    RESTORE = "restore"  # reload after the swap back
    REFUSE = "refuse"  # remember and report the failure


class Event(StrEnum):
    OFFERED = "offered"  # an instruction newer than everything acted on
    DAMAGED = "damaged"  # the bytes that PATH shows are gone or differ from their digest
    RESTARTED = "restarted"
    SUPERSEDED = "superseded"  # a newer instruction waits, and it is safe to leave
    STALE = "stale"  # guard: not above what was acted on
    SHOWN = "shown"  # guard: PATH shows these bytes, proven
    KEPT = "kept"  # guard: the bytes are on disk
    MISSING = "missing"  # guard: the bytes must be fetched
    DONE = "done"
    FAILED = "failed"


class Act(StrEnum):
    WAIT = "wait"
    JUDGE = "judge"
    FETCH = "fetch"
    FETCH_LATER = "fetch later"
    CHECK_BYTES = "check bytes"
    STORE_BYTES = "store bytes"
    SWAP = "swap"
    RUN_RELOAD = "run reload"
    RUN_PROBE = "run probe"
    REPORT_CONFIRMED = "report confirmed"
    SWAP_BACK = "swap back"
    SWAP_BACK_LATER = "swap back later"
    RELOAD_BACK = "reload back"
    RELOAD_BACK_LATER = "reload back later"
    REPORT_REFUSED = "report refused"


class Code(StrEnum):
    """Why a generation was refused or reverted, as acknowledgements and `status` say it."""

    CLUSTER_MISMATCH = "CLUSTER_MISMATCH"
    INVALID_INSTRUCTION = "INVALID_INSTRUCTION"
    FETCH_FAILED = "FETCH_FAILED"
    DIGEST_MISMATCH = "DIGEST_MISMATCH"
    LENGTH_MISMATCH = "LENGTH_MISMATCH"
    STAGE_FAILED = "STAGE_FAILED"
    INSTALL_FAILED = "INSTALL_FAILED"
    PATH_OCCUPIED = "PATH_OCCUPIED"
    RELOAD_FAILED = "RELOAD_FAILED"
    PROBE_FAILED = "PROBE_FAILED"
    RESTARTS_EXCEEDED = "RESTARTS_EXCEEDED"
    REVERT_FAILED = "REVERT_FAILED"
    INTERRUPTED = "INTERRUPTED"


# The version itself was tried and is bad: only a higher generation is looked at again. Everything else may pass.
PERMANENT = frozenset(
    {
        Code.INVALID_INSTRUCTION,
        Code.RELOAD_FAILED,
        Code.PROBE_FAILED,
        Code.RESTARTS_EXCEEDED,
        Code.REVERT_FAILED,
    }
)

# GUARD and VERIFY only look; the record on disk stays that of the state before.
JOURNALED = frozenset(State) - {State.GUARD, State.VERIFY}

# Left for a newer instruction: at once, or when the act is done.
INTERRUPTIBLE = frozenset({State.FETCH, State.PROBE})
LEFT_WHEN_DONE = frozenset({State.STAGE})


@dataclass(frozen=True)
class Facts:
    """What guards look at."""

    shown: bool  # PATH shows a version that is not proven
    has_reload: bool
    has_probe: bool
    attempts_left: bool  # of the act of this state
    restarts_left: bool  # of the agent within this installation


class Guard(StrEnum):
    ALWAYS = ""
    SHOWN = "unproven shown"
    HAS_RELOAD = "reload configured"
    HAS_PROBE = "probe configured"
    SHOWN_AND_RELOAD = "unproven shown, reload configured"
    ATTEMPTS_LEFT = "attempts left"
    RESTARTS_LEFT = "restarts left"


HOLDS: dict[Guard, Callable[[Facts], bool]] = {
    Guard.ALWAYS: lambda facts: True,
    Guard.SHOWN: lambda facts: facts.shown,
    Guard.HAS_RELOAD: lambda facts: facts.has_reload,
    Guard.HAS_PROBE: lambda facts: facts.has_probe,
    Guard.SHOWN_AND_RELOAD: lambda facts: facts.shown and facts.has_reload,
    Guard.ATTEMPTS_LEFT: lambda facts: facts.attempts_left,
    Guard.RESTARTS_LEFT: lambda facts: facts.restarts_left,
}


class Row(NamedTuple):
    state: State
    event: Event
    guard: Guard
    next: State
    act: Act


_S, _E, _G, _A = State, Event, Guard, Act

# fmt: off
TRANSITIONS: tuple[Row, ...] = tuple(Row(*row) for row in (
    # state       event           guard               next          act
    (_S.IDLE,     _E.OFFERED,     _G.ALWAYS,          _S.GUARD,     _A.JUDGE),
    (_S.IDLE,     _E.DAMAGED,     _G.ALWAYS,          _S.FETCH,     _A.FETCH),
    (_S.IDLE,     _E.RESTARTED,   _G.ALWAYS,          _S.IDLE,      _A.WAIT),

    (_S.GUARD,    _E.STALE,       _G.SHOWN,           _S.REVERT,    _A.SWAP_BACK),
    (_S.GUARD,    _E.STALE,       _G.ALWAYS,          _S.IDLE,      _A.WAIT),
    (_S.GUARD,    _E.FAILED,      _G.SHOWN,           _S.REVERT,    _A.SWAP_BACK),
    (_S.GUARD,    _E.FAILED,      _G.ALWAYS,          _S.REFUSE,    _A.REPORT_REFUSED),
    (_S.GUARD,    _E.SHOWN,       _G.ALWAYS,          _S.CONFIRM,   _A.REPORT_CONFIRMED),
    (_S.GUARD,    _E.KEPT,        _G.ALWAYS,          _S.INSTALL,   _A.SWAP),
    (_S.GUARD,    _E.MISSING,     _G.ALWAYS,          _S.FETCH,     _A.FETCH),

    (_S.FETCH,    _E.DONE,        _G.ALWAYS,          _S.VERIFY,    _A.CHECK_BYTES),
    (_S.FETCH,    _E.FAILED,      _G.ATTEMPTS_LEFT,   _S.FETCH,     _A.FETCH_LATER),
    (_S.FETCH,    _E.FAILED,      _G.SHOWN,           _S.REVERT,    _A.SWAP_BACK),
    (_S.FETCH,    _E.FAILED,      _G.ALWAYS,          _S.REFUSE,    _A.REPORT_REFUSED),
    (_S.FETCH,    _E.SUPERSEDED,  _G.ALWAYS,          _S.GUARD,     _A.JUDGE),
    (_S.FETCH,    _E.RESTARTED,   _G.SHOWN,           _S.REVERT,    _A.SWAP_BACK),
    (_S.FETCH,    _E.RESTARTED,   _G.ALWAYS,          _S.IDLE,      _A.WAIT),

    (_S.VERIFY,   _E.DONE,        _G.ALWAYS,          _S.STAGE,     _A.STORE_BYTES),
    (_S.VERIFY,   _E.FAILED,      _G.ATTEMPTS_LEFT,   _S.FETCH,     _A.FETCH_LATER),
    (_S.VERIFY,   _E.FAILED,      _G.SHOWN,           _S.REVERT,    _A.SWAP_BACK),
    (_S.VERIFY,   _E.FAILED,      _G.ALWAYS,          _S.REFUSE,    _A.REPORT_REFUSED),

    (_S.STAGE,    _E.DONE,        _G.ALWAYS,          _S.INSTALL,   _A.SWAP),
    (_S.STAGE,    _E.FAILED,      _G.SHOWN,           _S.REVERT,    _A.SWAP_BACK),
    (_S.STAGE,    _E.FAILED,      _G.ALWAYS,          _S.REFUSE,    _A.REPORT_REFUSED),
    (_S.STAGE,    _E.SUPERSEDED,  _G.ALWAYS,          _S.GUARD,     _A.JUDGE),
    (_S.STAGE,    _E.RESTARTED,   _G.SHOWN,           _S.REVERT,    _A.SWAP_BACK),
    (_S.STAGE,    _E.RESTARTED,   _G.ALWAYS,          _S.IDLE,      _A.WAIT),

    (_S.INSTALL,  _E.DONE,        _G.HAS_RELOAD,      _S.RELOAD,    _A.RUN_RELOAD),
    (_S.INSTALL,  _E.DONE,        _G.HAS_PROBE,       _S.PROBE,     _A.RUN_PROBE),
    (_S.INSTALL,  _E.DONE,        _G.ALWAYS,          _S.CONFIRM,   _A.REPORT_CONFIRMED),
    (_S.INSTALL,  _E.FAILED,      _G.ALWAYS,          _S.REVERT,    _A.SWAP_BACK),
    (_S.INSTALL,  _E.RESTARTED,   _G.RESTARTS_LEFT,   _S.INSTALL,   _A.SWAP),
    (_S.INSTALL,  _E.RESTARTED,   _G.ALWAYS,          _S.REVERT,    _A.SWAP_BACK),

    (_S.RELOAD,   _E.DONE,        _G.HAS_PROBE,       _S.PROBE,     _A.RUN_PROBE),
    (_S.RELOAD,   _E.DONE,        _G.ALWAYS,          _S.CONFIRM,   _A.REPORT_CONFIRMED),
    (_S.RELOAD,   _E.FAILED,      _G.ALWAYS,          _S.REVERT,    _A.SWAP_BACK),
    (_S.RELOAD,   _E.RESTARTED,   _G.RESTARTS_LEFT,   _S.RELOAD,    _A.RUN_RELOAD),
    (_S.RELOAD,   _E.RESTARTED,   _G.ALWAYS,          _S.REVERT,    _A.SWAP_BACK),

    (_S.PROBE,    _E.DONE,        _G.ALWAYS,          _S.CONFIRM,   _A.REPORT_CONFIRMED),
    (_S.PROBE,    _E.FAILED,      _G.ALWAYS,          _S.REVERT,    _A.SWAP_BACK),
    (_S.PROBE,    _E.SUPERSEDED,  _G.ALWAYS,          _S.GUARD,     _A.JUDGE),
    (_S.PROBE,    _E.RESTARTED,   _G.RESTARTS_LEFT,   _S.PROBE,     _A.RUN_PROBE),
    (_S.PROBE,    _E.RESTARTED,   _G.ALWAYS,          _S.REVERT,    _A.SWAP_BACK),

    (_S.CONFIRM,  _E.DONE,        _G.ALWAYS,          _S.IDLE,      _A.WAIT),
    (_S.CONFIRM,  _E.RESTARTED,   _G.ALWAYS,          _S.CONFIRM,   _A.REPORT_CONFIRMED),

    (_S.REVERT,   _E.DONE,        _G.SHOWN_AND_RELOAD, _S.RESTORE,  _A.RELOAD_BACK),
    (_S.REVERT,   _E.DONE,        _G.ALWAYS,          _S.REFUSE,    _A.REPORT_REFUSED),
    (_S.REVERT,   _E.FAILED,      _G.ATTEMPTS_LEFT,   _S.REVERT,    _A.SWAP_BACK_LATER),
    (_S.REVERT,   _E.FAILED,      _G.ALWAYS,          _S.REFUSE,    _A.REPORT_REFUSED),
    (_S.REVERT,   _E.RESTARTED,   _G.ATTEMPTS_LEFT,   _S.REVERT,    _A.SWAP_BACK),
    (_S.REVERT,   _E.RESTARTED,   _G.ALWAYS,          _S.REFUSE,    _A.REPORT_REFUSED),

    (_S.RESTORE,  _E.DONE,        _G.ALWAYS,          _S.REFUSE,    _A.REPORT_REFUSED),
    (_S.RESTORE,  _E.FAILED,      _G.ATTEMPTS_LEFT,   _S.RESTORE,   _A.RELOAD_BACK_LATER),
    (_S.RESTORE,  _E.FAILED,      _G.ALWAYS,          _S.REFUSE,    _A.REPORT_REFUSED),
    (_S.RESTORE,  _E.RESTARTED,   _G.ATTEMPTS_LEFT,   _S.RESTORE,   _A.RELOAD_BACK),
    (_S.RESTORE,  _E.RESTARTED,   _G.ALWAYS,          _S.REFUSE,    _A.REPORT_REFUSED),

    (_S.REFUSE,   _E.DONE,        _G.ALWAYS,          _S.IDLE,      _A.WAIT),
    (_S.REFUSE,   _E.RESTARTED,   _G.ALWAYS,          _S.REFUSE,    _A.REPORT_REFUSED),
))

# How the act of each state can end. A pair that is not here cannot happen, and `decide` fails hard on it.
_RESTART = frozenset({_E.RESTARTED})
_ENDS = frozenset({_E.DONE, _E.FAILED})
POSSIBLE: dict[State, frozenset[Event]] = {
    _S.IDLE: _RESTART | {_E.OFFERED, _E.DAMAGED},
    _S.GUARD: frozenset({_E.STALE, _E.FAILED, _E.SHOWN, _E.KEPT, _E.MISSING}),
    _S.FETCH: _ENDS | _RESTART | {_E.SUPERSEDED},
    _S.VERIFY: _ENDS,
    _S.STAGE: _ENDS | _RESTART | {_E.SUPERSEDED},
    _S.INSTALL: _ENDS | _RESTART,
    _S.RELOAD: _ENDS | _RESTART,
    _S.PROBE: _ENDS | _RESTART | {_E.SUPERSEDED},
    _S.CONFIRM: _RESTART | {_E.DONE},
    _S.REVERT: _ENDS | _RESTART,
    _S.RESTORE: _ENDS | _RESTART,
    _S.REFUSE: _RESTART | {_E.DONE},
}
# fmt: on


class ImpossibleTransition(RuntimeError):
    """A bug: an act ended in a way that its state does not know."""


_ROWS: dict[tuple[State, Event], tuple[Row, ...]] = {
    pair: tuple(row for row in TRANSITIONS if (row.state, row.event) == pair)
    for pair in {(row.state, row.event) for row in TRANSITIONS}
}


def decide(state: State, event: Event, facts: Facts) -> Row:
    """The first row of (state, event) whose guard holds. Raises ImpossibleTransition."""
    for row in _ROWS.get((state, event), ()):
        if HOLDS[row.guard](facts):
            return row
    raise ImpossibleTransition(f"{event} in {state} with {facts}")

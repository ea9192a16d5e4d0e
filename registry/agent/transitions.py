"""How one follow gets from an instruction to a confirmed or a reverted version. What decides is in TRANSITIONS.

Theory of operation
-------------------
A *state* names the act that is under way; an *event* is how that act ended. `decide` looks the pair up, takes the
first row whose guard holds, and says the next state and the act to start. It knows no clock, no disk and no network:
the follower (follower.py) has acts performed (acts.py) and feeds their events back.

    idle -> guard -> fetch -> verify -> stage -> check -> install -> reload -> probe -> confirm -> post -> idle
              |        ^                  ^ |      ^         |          |        |
              +-> unpack: bytes that came +-+      |         +----------+--------+-> revert -> restore -> refuse -> idle
              |           with the reply    |      |
              +-- kept on disk -------------+------+
              +-- too early --> hold <------+   (and from there to guard again)

Durable steps. Before an act starts, the record of the follow with the new state is on disk (JOURNALED). GUARD,
UNPACK, VERIFY and CHECK change nothing here, so nothing is written for them. After a crash the record is read back and
RESTARTED is fed: what had not touched the target is dropped (the next poll offers it again), what may have touched it
is done again, and because every act can be repeated this is safe at every instant. RESTARTS bounds how often a version
may take the agent down with it.

Proof. From the swap until CONFIRM the version that the target shows is `shown` but not proven. Whatever goes wrong
while something unproven is shown ends in REVERT, also when the trouble belongs to a newer instruction that superseded
it. A version that was reverted is remembered (REFUSE) and never tried again under the same generation.

Superseding. A newer generation that arrives in the middle is looked at as soon as the running act is safe to leave:
FETCH, HOLD, CHECK and PROBE are interrupted, STAGE is left when it ends. INSTALL and RELOAD lead to PROBE, which is
interrupted, or to CONFIRM; that, POST, REVERT, RESTORE and REFUSE always finish first. What may not be installed yet
does not take over while something unproven is shown.

Time. HOLD ends when the clock of this machine has passed `not_before`; then GUARD looks at everything again.

Trying again. FAILED is for good, or ends this try; LATER means that it may pass by itself: it is tried again, ever more
slowly, and a bounded number of times. NOT_YET is the pre-check hook's word that now is not the moment: it is asked for
as long as it says so, and the deadline allows. What is unproven and shown is left for the last good version first.
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
    UNPACK = "unpack"  # the bytes that came with the reply; their digest and length
    VERIFY = "verify"  # digest and length of the fetched bytes
    STAGE = "stage"  # write the bytes below their digest
    HOLD = "hold"  # until it may be installed
    CHECK = "check"  # the pre-check hook, then the target: could it be installed?
    INSTALL = "install"  # make the target show it
    RELOAD = "reload"
    PROBE = "probe"
    CONFIRM = "confirm"
    POST = "post"  # the post hook
    REVERT = "revert"  # make the target show the last good version
    RESTORE = "restore"  # reload after the swap back
    REFUSE = "refuse"  # remember and report the failure


class Event(StrEnum):
    OFFERED = "offered"  # an instruction newer than everything acted on
    DAMAGED = "damaged"  # the bytes of what runs are gone or differ from their digest
    RESTARTED = "restarted"
    STUCK = "stuck"  # something unproven is still shown: the step back was given up
    SUPERSEDED = "superseded"  # a newer instruction waits, and it is safe to leave
    STALE = "stale"  # guard: not above what was acted on
    SHOWN = "shown"  # guard: the target shows these bytes, proven
    KEPT = "kept"  # guard: the bytes are on disk
    CARRIED = "carried"  # guard: they came with the reply
    MISSING = "missing"  # guard: the bytes must be fetched
    DONE = "done"
    NOT_YET = "not yet"  # check: the pre-check hook asks to wait
    LATER = "later"  # failed, and may pass by itself
    FAILED = "failed"


class Act(StrEnum):
    WAIT = "wait"
    JUDGE = "judge"
    FETCH = "fetch"
    FETCH_LATER = "fetch later"
    UNPACK = "unpack"
    CHECK_BYTES = "check bytes"
    STORE_BYTES = "store bytes"
    AWAIT_TIME = "await time"
    CHECK = "check"
    CHECK_LATER = "check later"
    SWAP = "swap"
    SWAP_LATER = "swap later"
    RUN_RELOAD = "run reload"
    RUN_RELOAD_LATER = "run reload later"
    RUN_PROBE = "run probe"
    REPORT_CONFIRMED = "report confirmed"
    RUN_POST = "run post"
    SWAP_BACK = "swap back"
    SWAP_BACK_LATER = "swap back later"
    RELOAD_BACK = "reload back"
    RELOAD_BACK_LATER = "reload back later"
    REPORT_REFUSED = "report refused"


class Code(StrEnum):
    """Why a generation was refused or reverted, as acknowledgements and `status` say it."""

    CLUSTER_MISMATCH = "CLUSTER_MISMATCH"
    INVALID_INSTRUCTION = "INVALID_INSTRUCTION"
    NOT_PINNED = "NOT_PINNED"
    EXPIRED = "EXPIRED"
    INCOMPATIBLE = "INCOMPATIBLE"
    BASE_MISMATCH = "BASE_MISMATCH"  # only in the log: full content is taken
    FETCH_FAILED = "FETCH_FAILED"
    DIGEST_MISMATCH = "DIGEST_MISMATCH"
    LENGTH_MISMATCH = "LENGTH_MISMATCH"
    STAGE_FAILED = "STAGE_FAILED"
    CHECK_FAILED = "CHECK_FAILED"
    INSTALL_FAILED = "INSTALL_FAILED"
    PATH_OCCUPIED = "PATH_OCCUPIED"
    DRIFTED = "DRIFTED"
    MODE_MISMATCH = "MODE_MISMATCH"
    DSL_TOO_NEW = "DSL_TOO_NEW"
    PLUGINS_MISSING = "PLUGINS_MISSING"
    SECRETS_MISSING = "SECRETS_MISSING"
    NEEDS_CONFIRMATION = "NEEDS_CONFIRMATION"
    READ_BACK_DIFFERS = "READ_BACK_DIFFERS"
    TARGET_FAILED = "TARGET_FAILED"
    TOO_LARGE = "TOO_LARGE"
    RELOAD_FAILED = "RELOAD_FAILED"
    PROBE_FAILED = "PROBE_FAILED"
    RESTARTS_EXCEEDED = "RESTARTS_EXCEEDED"
    REVERT_FAILED = "REVERT_FAILED"
    INTERRUPTED = "INTERRUPTED"


# What was announced makes no sense or could not be had: another member may announce something else, so it is asked for
# anew. Nothing of it counts, least of all its generation.
DOUBTED = frozenset({Code.INVALID_INSTRUCTION, Code.FETCH_FAILED, Code.DIGEST_MISMATCH, Code.LENGTH_MISMATCH})

# Said of the version, or by the target for good: only a higher generation is looked at again.
PERMANENT = frozenset(
    {
        Code.CHECK_FAILED,
        Code.DRIFTED,
        Code.MODE_MISMATCH,
        Code.DSL_TOO_NEW,
        Code.PLUGINS_MISSING,
        Code.SECRETS_MISSING,
        Code.NEEDS_CONFIRMATION,
        Code.READ_BACK_DIFFERS,
        Code.TARGET_FAILED,
        Code.TOO_LARGE,
        Code.RELOAD_FAILED,
        Code.PROBE_FAILED,
        Code.RESTARTS_EXCEEDED,
        Code.REVERT_FAILED,
    }
)
# Said of this machine and its configuration: looked at again when they change, which is at a restart, or when the facts
# are others. Everything else may pass and is tried again.
STANDING = frozenset({Code.NOT_PINNED, Code.EXPIRED, Code.INCOMPATIBLE})

# These change nothing here; the record on disk stays that of the state before.
JOURNALED = frozenset(State) - {State.GUARD, State.UNPACK, State.VERIFY, State.CHECK}

# Left for a newer instruction: at once, or when the act is done.
INTERRUPTIBLE = frozenset({State.FETCH, State.HOLD, State.CHECK, State.PROBE})
LEFT_WHEN_DONE = frozenset({State.STAGE})
LEFT_BEFORE = frozenset({Act.SWAP_BACK_LATER})  # between attempts


@dataclass(frozen=True)
class Facts:
    """What guards look at."""

    shown: bool  # the target shows a version that is not proven
    early: bool  # the instruction may not be installed yet
    has_reload: bool
    has_probe: bool
    has_post: bool
    attempts_left: bool  # of the act of this state
    restarts_left: bool  # of the agent within this installation


class Guard(StrEnum):
    ALWAYS = ""
    SHOWN = "unproven shown"
    EARLY = "too early"
    HAS_RELOAD = "reload configured"
    HAS_PROBE = "probe configured"
    HAS_POST = "post hook configured"
    SHOWN_AND_RELOAD = "unproven shown, reload configured"
    ATTEMPTS_LEFT = "attempts left"
    RESTARTS_LEFT = "restarts left"


HOLDS: dict[Guard, Callable[[Facts], bool]] = {
    Guard.ALWAYS: lambda facts: True,
    Guard.SHOWN: lambda facts: facts.shown,
    Guard.EARLY: lambda facts: facts.early,
    Guard.HAS_RELOAD: lambda facts: facts.has_reload,
    Guard.HAS_PROBE: lambda facts: facts.has_probe,
    Guard.HAS_POST: lambda facts: facts.has_post,
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
    (_S.IDLE,     _E.STUCK,       _G.ALWAYS,          _S.REVERT,    _A.SWAP_BACK),
    (_S.IDLE,     _E.RESTARTED,   _G.ALWAYS,          _S.IDLE,      _A.WAIT),

    (_S.GUARD,    _E.STALE,       _G.SHOWN,           _S.REVERT,    _A.SWAP_BACK),
    (_S.GUARD,    _E.STALE,       _G.ALWAYS,          _S.IDLE,      _A.WAIT),
    (_S.GUARD,    _E.FAILED,      _G.SHOWN,           _S.REVERT,    _A.SWAP_BACK),
    (_S.GUARD,    _E.FAILED,      _G.ALWAYS,          _S.REFUSE,    _A.REPORT_REFUSED),
    (_S.GUARD,    _E.SHOWN,       _G.ALWAYS,          _S.CONFIRM,   _A.REPORT_CONFIRMED),
    (_S.GUARD,    _E.KEPT,        _G.EARLY,           _S.HOLD,      _A.AWAIT_TIME),
    (_S.GUARD,    _E.KEPT,        _G.ALWAYS,          _S.CHECK,     _A.CHECK),
    (_S.GUARD,    _E.CARRIED,     _G.ALWAYS,          _S.UNPACK,    _A.UNPACK),
    (_S.GUARD,    _E.MISSING,     _G.ALWAYS,          _S.FETCH,     _A.FETCH),

    (_S.UNPACK,   _E.DONE,        _G.ALWAYS,          _S.STAGE,     _A.STORE_BYTES),
    (_S.UNPACK,   _E.FAILED,      _G.ALWAYS,          _S.FETCH,     _A.FETCH),

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

    (_S.STAGE,    _E.DONE,        _G.EARLY,           _S.HOLD,      _A.AWAIT_TIME),
    (_S.STAGE,    _E.DONE,        _G.ALWAYS,          _S.CHECK,     _A.CHECK),
    (_S.STAGE,    _E.FAILED,      _G.SHOWN,           _S.REVERT,    _A.SWAP_BACK),
    (_S.STAGE,    _E.FAILED,      _G.ALWAYS,          _S.REFUSE,    _A.REPORT_REFUSED),
    (_S.STAGE,    _E.SUPERSEDED,  _G.ALWAYS,          _S.GUARD,     _A.JUDGE),
    (_S.STAGE,    _E.RESTARTED,   _G.SHOWN,           _S.REVERT,    _A.SWAP_BACK),
    (_S.STAGE,    _E.RESTARTED,   _G.ALWAYS,          _S.IDLE,      _A.WAIT),

    (_S.HOLD,     _E.DONE,        _G.ALWAYS,          _S.GUARD,     _A.JUDGE),
    (_S.HOLD,     _E.SUPERSEDED,  _G.ALWAYS,          _S.GUARD,     _A.JUDGE),
    (_S.HOLD,     _E.RESTARTED,   _G.ALWAYS,          _S.HOLD,      _A.AWAIT_TIME),

    (_S.CHECK,    _E.DONE,        _G.ALWAYS,          _S.INSTALL,   _A.SWAP),
    (_S.CHECK,    _E.NOT_YET,     _G.SHOWN,           _S.REVERT,    _A.SWAP_BACK),
    (_S.CHECK,    _E.NOT_YET,     _G.ALWAYS,          _S.CHECK,     _A.CHECK_LATER),
    (_S.CHECK,    _E.LATER,       _G.ATTEMPTS_LEFT,   _S.CHECK,     _A.CHECK_LATER),
    (_S.CHECK,    _E.LATER,       _G.SHOWN,           _S.REVERT,    _A.SWAP_BACK),
    (_S.CHECK,    _E.LATER,       _G.ALWAYS,          _S.REFUSE,    _A.REPORT_REFUSED),
    (_S.CHECK,    _E.FAILED,      _G.SHOWN,           _S.REVERT,    _A.SWAP_BACK),
    (_S.CHECK,    _E.FAILED,      _G.ALWAYS,          _S.REFUSE,    _A.REPORT_REFUSED),
    (_S.CHECK,    _E.SUPERSEDED,  _G.ALWAYS,          _S.GUARD,     _A.JUDGE),

    (_S.INSTALL,  _E.DONE,        _G.HAS_RELOAD,      _S.RELOAD,    _A.RUN_RELOAD),
    (_S.INSTALL,  _E.DONE,        _G.HAS_PROBE,       _S.PROBE,     _A.RUN_PROBE),
    (_S.INSTALL,  _E.DONE,        _G.ALWAYS,          _S.CONFIRM,   _A.REPORT_CONFIRMED),
    (_S.INSTALL,  _E.LATER,       _G.ATTEMPTS_LEFT,   _S.INSTALL,   _A.SWAP_LATER),
    (_S.INSTALL,  _E.LATER,       _G.ALWAYS,          _S.REVERT,    _A.SWAP_BACK),
    (_S.INSTALL,  _E.FAILED,      _G.ALWAYS,          _S.REVERT,    _A.SWAP_BACK),
    (_S.INSTALL,  _E.RESTARTED,   _G.RESTARTS_LEFT,   _S.INSTALL,   _A.SWAP),
    (_S.INSTALL,  _E.RESTARTED,   _G.ALWAYS,          _S.REVERT,    _A.SWAP_BACK),

    (_S.RELOAD,   _E.DONE,        _G.HAS_PROBE,       _S.PROBE,     _A.RUN_PROBE),
    (_S.RELOAD,   _E.DONE,        _G.ALWAYS,          _S.CONFIRM,   _A.REPORT_CONFIRMED),
    (_S.RELOAD,   _E.LATER,       _G.ATTEMPTS_LEFT,   _S.RELOAD,    _A.RUN_RELOAD_LATER),
    (_S.RELOAD,   _E.LATER,       _G.ALWAYS,          _S.REVERT,    _A.SWAP_BACK),
    (_S.RELOAD,   _E.FAILED,      _G.ALWAYS,          _S.REVERT,    _A.SWAP_BACK),
    (_S.RELOAD,   _E.RESTARTED,   _G.RESTARTS_LEFT,   _S.RELOAD,    _A.RUN_RELOAD),
    (_S.RELOAD,   _E.RESTARTED,   _G.ALWAYS,          _S.REVERT,    _A.SWAP_BACK),

    (_S.PROBE,    _E.DONE,        _G.ALWAYS,          _S.CONFIRM,   _A.REPORT_CONFIRMED),
    (_S.PROBE,    _E.FAILED,      _G.ALWAYS,          _S.REVERT,    _A.SWAP_BACK),
    (_S.PROBE,    _E.SUPERSEDED,  _G.ALWAYS,          _S.GUARD,     _A.JUDGE),
    (_S.PROBE,    _E.RESTARTED,   _G.RESTARTS_LEFT,   _S.PROBE,     _A.RUN_PROBE),
    (_S.PROBE,    _E.RESTARTED,   _G.ALWAYS,          _S.REVERT,    _A.SWAP_BACK),

    (_S.CONFIRM,  _E.DONE,        _G.HAS_POST,        _S.POST,      _A.RUN_POST),
    (_S.CONFIRM,  _E.DONE,        _G.ALWAYS,          _S.IDLE,      _A.WAIT),
    (_S.CONFIRM,  _E.RESTARTED,   _G.ALWAYS,          _S.CONFIRM,   _A.REPORT_CONFIRMED),

    (_S.POST,     _E.DONE,        _G.ALWAYS,          _S.IDLE,      _A.WAIT),
    (_S.POST,     _E.RESTARTED,   _G.RESTARTS_LEFT,   _S.POST,      _A.RUN_POST),
    (_S.POST,     _E.RESTARTED,   _G.ALWAYS,          _S.IDLE,      _A.WAIT),

    (_S.REVERT,   _E.DONE,        _G.SHOWN_AND_RELOAD, _S.RESTORE,  _A.RELOAD_BACK),
    (_S.REVERT,   _E.DONE,        _G.ALWAYS,          _S.REFUSE,    _A.REPORT_REFUSED),
    (_S.REVERT,   _E.FAILED,      _G.ATTEMPTS_LEFT,   _S.REVERT,    _A.SWAP_BACK_LATER),
    (_S.REVERT,   _E.FAILED,      _G.ALWAYS,          _S.REFUSE,    _A.REPORT_REFUSED),
    (_S.REVERT,   _E.SUPERSEDED,  _G.ALWAYS,          _S.GUARD,     _A.JUDGE),
    (_S.REVERT,   _E.RESTARTED,   _G.RESTARTS_LEFT,   _S.REVERT,    _A.SWAP_BACK),
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
    _S.IDLE: _RESTART | {_E.OFFERED, _E.DAMAGED, _E.STUCK},
    _S.GUARD: frozenset({_E.STALE, _E.FAILED, _E.SHOWN, _E.KEPT, _E.CARRIED, _E.MISSING}),
    _S.FETCH: _ENDS | _RESTART | {_E.SUPERSEDED},
    _S.UNPACK: _ENDS,
    _S.VERIFY: _ENDS,
    _S.STAGE: _ENDS | _RESTART | {_E.SUPERSEDED},
    _S.HOLD: _RESTART | {_E.DONE, _E.SUPERSEDED},
    _S.CHECK: _ENDS | {_E.NOT_YET, _E.LATER, _E.SUPERSEDED},
    _S.INSTALL: _ENDS | _RESTART | {_E.LATER},
    _S.RELOAD: _ENDS | _RESTART | {_E.LATER},
    _S.PROBE: _ENDS | _RESTART | {_E.SUPERSEDED},
    _S.CONFIRM: _RESTART | {_E.DONE},
    _S.POST: _RESTART | {_E.DONE},
    _S.REVERT: _ENDS | _RESTART | {_E.SUPERSEDED},
    _S.RESTORE: _ENDS | _RESTART,
    _S.REFUSE: _RESTART | {_E.DONE},
}
# fmt: on


class ImpossibleTransition(RuntimeError):
    """A bug: an act ended in a way that its state does not know."""


# What is gone on with after a restart; what else was under way is dropped, or undone.
RESUMED = frozenset(row.state for row in TRANSITIONS if row.event is Event.RESTARTED and row.next is row.state) - {
    State.IDLE
}

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

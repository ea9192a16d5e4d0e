"""Every bound and period of the cluster, in one place. Sizes in bytes, times in seconds."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB

COMMAND_BYTES = 8 * MIB + 64 * KIB  # one command; the product's content ceiling and its envelope fit
GATHER_BYTES = 1 * MIB  # commands gathered into one log entry (or one larger command alone)
ENTRY_BYTES = COMMAND_BYTES + GATHER_BYTES
APPEND_BYTES = 1 * MIB  # entries in one append message (or one larger entry alone)
FRAME_BYTES = ENTRY_BYTES + APPEND_BYTES + 1 * MIB  # one frame between members
WINDOW_BYTES = 4 * MIB  # sent to a peer and not acknowledged
SEND_BUFFER_BYTES = 64 * MIB  # unsent towards one peer; past it the connection is dropped
LOG_CACHE_BYTES = 16 * MIB  # newest log entries held in memory
PROPOSALS = 10_000  # commands waiting or in flight in one member
PROPOSALS_BYTES = 64 * MIB
HELLO_BYTES = 4 * KIB  # before the handshake is done
READS = 100_000  # barriers waiting in one member
PEER_CONNECTIONS = 64  # inbound, handshake done or not

HANDSHAKE_S = 5.0
CONNECT_S = 2.0
RECONNECT_MIN_S = 0.05
RECONNECT_MAX_S = 1.0
USER_TIMEOUT_MS = 5_000  # TCP gives up on an unacknowledged send
TIMER_SLACK_S = 0.001  # a deadline has surely passed when its timer fires
REPORT_S = 0.5  # members tell each other how far they have applied


@dataclass(frozen=True)
class Flow:
    """How much is sent to one peer; the simulator runs with much less."""

    append_bytes: int = APPEND_BYTES
    window_bytes: int = WINDOW_BYTES


FLOW = Flow()


@dataclass(frozen=True)
class Timing:
    """Raft's periods. The engine demands election_min_s > 3 heartbeat_s."""

    heartbeat_s: float
    election_min_s: float
    election_max_s: float
    step_down_s: float  # a leader without a majority's answers gives up after this
    pre_vote_s: float  # a pre-vote round is asked again after this
    silence_s: float  # a held-back peer is tried again after this


LOCAL = Timing(
    heartbeat_s=0.06,
    election_min_s=0.3,
    election_max_s=0.6,
    step_down_s=0.9,
    pre_vote_s=0.15,
    silence_s=1.0,
)

"""Every bound and period of the cluster, in one place. Sizes in bytes, times in seconds."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB

COMMAND_BYTES = 8 * MIB + 64 * KIB  # one command; the product's content ceiling and its envelope fit
GATHER_BYTES = 1 * MIB  # commands gathered into one log entry (or one larger command alone)
GATHER_QUIET_S = 0.003  # without another command, and an entry waits no more for callers that may come back
GATHER_S = 0.03  # after they were told something: then they will not
ENTRY_BYTES = COMMAND_BYTES + GATHER_BYTES
APPEND_BYTES = 1 * MIB  # entries in one append message (or one larger entry alone)
FRAME_BYTES = ENTRY_BYTES + APPEND_BYTES + 1 * MIB  # one frame between members
WINDOW_BYTES = 4 * MIB  # sent to a peer and not acknowledged
SEND_BUFFER_BYTES = 64 * MIB  # unsent towards one peer; past it the connection is dropped
LOG_CACHE_BYTES = 16 * MIB  # newest log entries held in memory
PROPOSALS = 10_000  # commands waiting or in flight in one member
PROPOSALS_BYTES = 64 * MIB
HELLO_BYTES = 4 * KIB  # before the handshake is done
WELCOME_BYTES = 64 * KIB  # the answer, with the members
READS = 100_000  # barriers waiting in one member

MEMBERS = 64
VOTERS = 9  # each more costs latency and buys little
REMOVED_REMEMBERED = 1000  # incarnations that are told so when they come back
CANDIDATES = 64  # processes that wait to be admitted, remembered by one member
PEER_CONNECTIONS = MEMBERS + CANDIDATES + 64  # inbound, the last ones for handshakes
PROMOTE_LAG = 1000  # entries that an observer may be behind when it becomes a voter
CHUNK_BYTES = 256 * KIB  # rows in one chunk of a state on its way (or one larger row alone)
WAL_BYTES = 8 * MIB  # of commits in the write-ahead log: past them, or the seconds, they go into the tables' file
WAL_ROW_BYTES = 1 * KIB  # so many for each row at least: one of a few bytes may change a page, of four times as much
WAL_SHARE = 8  # of the reserve, at most: what waits must find its room
CHECKPOINT_S = 1.0
LOAD_COMMIT_BYTES = 2 * MIB  # rows of a state on its way in, held in memory until they are committed

HANDSHAKE_S = 5.0
JOIN_S = 1.0  # between two questions for admission
CONNECT_S = 2.0
RECONNECT_MIN_S = 0.05
RECONNECT_MAX_S = 1.0
USER_TIMEOUT_MS = 5_000  # TCP gives up on an unacknowledged send
REPLY_TURNS = 12  # of the loop, in which the replies to those who were told leave a member: a commit holds them up
REPLY_TURNS_S = 0.005  # and no longer than that
TIMER_SLACK_S = 0.001  # a deadline has surely passed when its timer fires
REPORT_S = 0.5  # members tell each other how far they have applied
REPORTS_ALIVE = 4  # of these periods without a report and a member counts as dead

CATCH_UP_BYTES_S = 64 * MIB  # of state that one member gives to others
FETCH_SYNC_BYTES = 8 * MIB  # of a fetched state not yet synced: the disk is shared, and other syncs wait behind this
FETCH_RETRY_S = 0.5  # a state is asked for again, of somebody
FETCH_SILENCE_S = 5.0  # a source that does not answer is given up
FETCH_LOST_S = 2 * RECONNECT_MAX_S  # one whose connection is lost: it may be back, and go on
SNAPSHOTS = 4  # states given to others at once
SNAPSHOT_IDLE_S = 30.0  # kept for a peer that does not go on, together with the log behind it
ROOM_LOOK_S = 0.1  # between two looks at how much more can be written: less than writing the reserve takes
RESERVE_BYTES = 64 * MIB  # less headroom than this, and a member says that it has no room
COMPACTION_COPIES = 5  # of what has changed since the one before, until the rest is copied between two ticks
COMPACTION_TOUCHED = 1_000_000  # rows that change during a copy, some 200 MB of keys; past it the copy is given up
COMPACTION_ROWS = 2000  # changed during a copy: so few are copied between two ticks
TAIL_AGE_S = 3.0  # a source that has not heard of the leader for so long is left for another


@dataclass(frozen=True)
class Flow:
    """How much is sent at once and how much is kept; the simulator runs with much less."""

    append_bytes: int = APPEND_BYTES
    window_bytes: int = WINDOW_BYTES
    chunk_bytes: int = 512 * KIB  # of a state that is fetched; an ordinary message waits behind one
    log_entries: int = 100_000  # kept behind what is applied, so that a member that was away needs no state
    log_bytes: int = 512 * MIB  # and no more than this
    trim_entries: int = 500  # deleted in one tick: far more than it appends, and hardly felt by who waits for it
    digest_every: int = 1024  # entries between two comparisons of states


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

# For round trips of around 100 ms between voters. A heartbeat more often than a round trip tells nothing new, and an
# election must outlast a lost connection and the setting up of another one.
WIDE_AREA = Timing(
    heartbeat_s=0.2,
    election_min_s=1.0,
    election_max_s=2.0,
    step_down_s=3.0,
    pre_vote_s=0.4,
    silence_s=2.0,
)

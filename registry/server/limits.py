"""Bounds of one member process, times in seconds. What concerns the registry's data is in `registry.core.limits`."""

from __future__ import annotations

from registry.core.limits import MESSAGE_BYTES

# Calls
CALL_S = 10.0  # a call without a deadline of its own
CALL_MAX_S = 60.0  # a longer deadline waits no longer than this for the cluster
BARRIER_LATE_S = 0.1  # a barrier that takes longer keeps those who came since waiting no more: another one begins
REPLY_MARGIN_S = 0.05  # kept of a deadline, so that the answer arrives before the caller gives up
CONCURRENT_CALLS = 32_768  # pollers and watchers included
ACCEPTORS = 16  # of calls, in one process; more bring little
ERROR_BYTES = 768  # of a message or metadata value of a failed call: trailers past 8 KiB are refused by gRPC
BUSY_RETRY_MS = 1000

PING_MIN_MS = 5_000  # keepalive of clients, no more often

# Agents
CONTACT_FLUSH_S = 15.0
CONTACTS_WAITING = 100_000  # agents remembered between two flushes; past it a contact waits for the agent's next poll
ACKS_GATHER_S = 0.01  # reports of agents that arrive this close together share a command
ACKS_WAITING = 16_384  # reports gathered for commands not yet sent
POLLS_BYTES = 256 * 1024 * 1024  # kept for polls that wait
WAKE_SLICE = 256  # polls woken in one go on the loop, or pointers that they follow
WHEEL_TICK_S = 0.25  # how late the deadline of a poll may be noticed
TARGETS = 20_000  # pointers whose newest switch is kept in memory
PIECES_BYTES = 64 * 1024 * 1024  # of answers made for them, likewise
AGE_TOLD_MS = 1000  # since the leader was heard: less is not told to who polled by HTTP in vain
BUILDS = 256  # contents packed at once for polls that wait; past it agents are told to fetch
BUILD_S = 2.0  # a poll that does not wait is answered without content that takes longer to be packed
INLINED = 16  # contents in one answer

# The fleet
CONFIRMATIONS_WATCHES = 32  # switches followed on one member; each keeps the names of its agents
CONFIRMATIONS_WAIT_S = 3600.0
CONFIRMATIONS_GATHER_S = 0.02  # reports that arrive this close together are counted together
CONFIRMATIONS_MESSAGE_S = 0.2  # between two messages, but for the last one
CONFIRMATIONS_BEAT_S = 5.0  # between two messages, though nothing has changed
CONFIRMATIONS_AGAIN_S = 5.0  # between two readings of all agents
CONFIRMATIONS_REST = 20  # times what the last one took, at least
CONFIRMATIONS_SLICE = 250  # agents that reported, counted in one go on the loop
CONFIRMATIONS_SHOWN = 20  # agents named in one message
SUMMARY_SITES = 20_000  # workflows, pointers and sites in one reply
AGENT_GAUGES_AGAIN_S = 5.0  # between two counts for /metrics
AGENT_GAUGES_REST = 20  # times what the last one took, at least
AGENT_GAUGES_IDLE_S = 120.0  # nobody has looked at /metrics for so long: nothing is counted
AGENT_GAUGES_SITES = 2000  # workflows, pointers and sites shown; those with most agents

# Content
INLINE_BYTES = 64 * 1024  # larger content is packed in a thread
OPAQUE_INLINE_BYTES = 512 * 1024  # of bytes that mean nothing, and of their parent: more is hashed in a thread
INLINE_WORK_BYTES = 1024 * 1024  # produced on the way to exact bytes; more is unpacked in a thread
HOT_BYTES = 32 * 1024 * 1024  # of exact contents, kept in memory
COMPACT_BYTES = 16 * 1024 * 1024  # of contents packed for those who have another one, likewise
SIMILAR_WORKFLOWS = 200  # of the namespace, among which a first version looks for one that is alike
SIMILAR_NEW = 10  # of them looked at for the first time
SIMILAR_TRIED = 4  # packed over, to see which is best
SIMILAR_DEPTH = 8  # of a content that another history may begin over
SIMILAR_BYTES = 1024 * 1024  # of such a content, and looked at for the first time by one publish
SIMILAR_SKETCHES = 1000  # kept
PACK_ATTEMPTS = 3  # of one publish: what it was packed over may change meanwhile; the last one stands alone
CHUNKS_UNDER_WAY = 64  # of large content, taken and not yet committed, and so many being given; past it: BUSY
LARGE_AT_ONCE = 2  # large contents whose chunks are looked at; further publishes wait in order
READ_CONTENTS = 8  # kept parsed by a worker; parsed content takes up to some sixty times its bytes
READ_CONTENTS_BYTES = 2 * 1024 * 1024  # of them together
INSPECT_WAITING = 256  # jobs that wait for a worker
INSPECT_WAITING_BYTES = 64 * 1024 * 1024  # of content in them together; one alone may have more
NOTE_NAMES = 5  # named in a note before "and 3 more"
REFUSAL_REASONS = 5  # of a verdict, in the refusal of a switch
VERDICT_ATTEMPTS = 64  # a pointer that moves meanwhile makes a verdict void; each costs a log entry
VERDICT_BACKOFF_S = 0.01  # at most, before the next one: members that race for a pointer must not go in step

WATCH_BYTES = 1024 * 1024  # of changes in one message
PAGE_BYTES = 4 * 1024 * 1024  # a longer page is cut: its token goes on from there

# HTTP
HTTP_CONNECTIONS = 32_768
HTTP_BACKLOG = 4096  # agents of a member that died come together
HTTP_HEAD_BYTES = 16 * 1024
HTTP_BODY_BYTES = 2 * 1024 * 1024  # a poll of FOLLOWS pointers with KEPT versions each takes 1.6 MB
HTTP_BODIES_BYTES = 64 * 1024 * 1024  # of all requests under way
HTTP_PARSED_BYTES = 1024  # looked at in one go: no more requests than fit in it wait for the answer to an earlier one
HTTP_SERVED = 16  # of one connection, in one go on the loop
HTTP_PIPELINED_BYTES = 64 * 1024  # that came before the answer to an earlier request; more is read once there is time
HTTP_UNREAD_BYTES = 1024 * 1024  # answers a client has not read yet
HTTP_WHOLE_BYTES = 64 * 1024  # a longer answer to a poll goes out piece by piece, as it is read
HTTP_SENDING_BYTES = 256 * 1024 * 1024  # of such answers that are not read yet, on all connections; past it: BUSY
HTTP_AHEAD_BYTES = 64 * 1024  # of one client, written under TLS
HTTP_HANDSHAKE_S = 10.0  # of TLS
HTTP_IDLE_S = 30.0  # for the whole of one request, however its bytes trickle, and until the first one
HTTP_KEEP_S = 90.0  # between two requests
HTTP_STALL_S = 30.0  # a client that takes nothing for so long is left
HTTP_SWEEP_S = 0.5  # between two looks at deadlines of connections
HTTP_FINISH_LOOK_S = 0.02
HTTP_STREAMS = 64  # large contents being sent at once
HTTP_WRITE_BYTES = 256 * 1024  # of content, written in one go
CONTENT_WAIT_S = 5.0  # for the revision that a reader of content was told

# Backups and recovery
BACKUPS = 4  # given at once by one member
BACKUP_CHUNK_BYTES = 128 * 1024  # of rows, read in one go on the loop
BACKUP_MESSAGE_BYTES = 512 * 1024
ANSWER_S = 2.0  # a member that is asked whether it still runs, before another one is made the whole cluster
NOTE_STALE_S = 1.0  # a backup of a cluster that may have no quorum waits so long for its note
BACKUP_STALL_S = 60.0  # a caller that takes nothing for so long is left, and its snapshot with it

# Upkeep, by the leader
UPKEEP_INTERVAL_S = 5.0  # between two rounds
UPKEEP_SLICE_S = 0.005  # of reading in one go on the loop
UPKEEP_REST_S = 0.02  # between two slices, and between two proposals
UPKEEP_TIMEOUT_S = 10.0  # of one proposal
COLLECT_INTERVAL_S = 300.0
CHUNK_ABANDONED_S = 3600.0  # unused for so long under one leader: whoever sent it has given up
CHUNKS_WATCHED = 100_000  # unused ones; more wait for a later round
RETENTION_INTERVAL_S = 3600.0
EXPIRY_INTERVAL_S = 3600.0
EXPIRY_FIRST_S = 3600.0  # after a member began to lead or had no majority: so long there was time to hear of agents
EXPIRY_WATCHED = 10_000  # silent agents looked at in one go
RETENTION_FIRST_S = 600.0  # after a member began to lead: a change of leaders must not cut short who reads a dry run
RETAINED_SHOWN = 1000  # versions in one reply
PURGE_ATTEMPTS = 8  # contents may be packed upon the purged one meanwhile
PURGE_AGENTS = 100  # named in one reply
REPACK_AFTER_S = 300.0  # a content is packed again once it is this old
REPACK_REST_S = 0.2  # between two
REPACK_IDLE_REVISIONS = 50  # changes since the last round: fewer leave time for packing
COMPACT_RETRY_S = 60.0  # after a purge, where a database could not be compacted

# Looking after the data
SCRUB_INTERVAL_S = 24 * 3600.0  # of a member's own scrubs; each comes up to a quarter of it earlier
SCRUB_SLICE_S = 0.002  # of reading in one go on the loop
SCRUB_REST = 3.0  # times what a slice took, until the next one: a quarter of one core at most
SCRUB_KEPT_BYTES = 32 * 1024 * 1024  # of unpacked contents, which others lie over
SCRUB_DAMAGE = 100  # found by one scrub; then it ends
PROGRESS_S = 1.0  # between two messages about how far a scrub or a compaction is
REPAIR_LOOK_S = 1.0  # between two looks whether the others can go on without a member that is to be repaired
REPAIR_TURN_S = 3.0  # between members that repair themselves: longer than it takes to see that one is away
RESERVE_LEAST_BYTES = 8 * 1024 * 1024  # less would not take what may still be written before anybody knows

# Workers
WORKERS = 64
LINK_MESSAGE_BYTES = MESSAGE_BYTES + 64 * 1024  # one between a member and a worker: a command, a call, a reply
LINK_UNREAD_BYTES = 128 * 1024 * 1024  # that the other side has not read yet; past it, it is given up
LINK_AHEAD = 4  # messages of a passed-on stream that the caller has not taken
LINK_MARGIN_S = 1.0  # beyond a deadline: the member has not answered
LINK_BEAT_S = 0.25  # between two signs of life, of the member and of a worker
MEMBER_SILENT_S = 10.0  # a worker that has not heard of its member is not alive either
WORKER_START_S = 60.0  # until its first sign of life; past it, and past the next, a worker is killed
WORKER_SILENT_S = 20.0
WORKER_AGAIN_MIN_S = 0.1  # until one that ended is started again; twice as long each time
WORKER_AGAIN_MAX_S = 10.0
WORKER_STARTS = 3  # of one that never served, when a member starts; then the member gives up
WORKER_STOP_S = 4.0  # beyond the grace, to close everything else
WORKER_SETTLED_S = 30.0  # one that ran for so long is started again soon

# Life
PORT_WAIT_S = 1.0  # for a port that is in use: by workers of a member that was killed a moment ago
PORT_LOOK_S = 0.05
LEVEL_SETTLES_S = 5.0  # after the start of a member: the feature level may still rise by itself
LEVEL_LOOK_S = 0.02
READINESS_INTERVAL_S = 0.25  # how soon health follows the loss of a leader
FOUND_TIMEOUT_S = 5.0
GRACE_S = 30.0  # running calls, after SIGTERM
HANDOVER_S = 5.0
STOP_S = 10.0  # closing everything else

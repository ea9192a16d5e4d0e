"""Bounds of one member process, times in seconds. What concerns the registry's data is in `registry.core.limits`."""

from __future__ import annotations

# Calls
CALL_S = 10.0  # a call without a deadline of its own
CALL_MAX_S = 60.0  # a longer deadline waits no longer than this for the cluster
REPLY_MARGIN_S = 0.05  # kept of a deadline, so that the answer arrives before the caller gives up
CONCURRENT_CALLS = 32_768  # pollers and watchers included
ERROR_BYTES = 768  # of a message or metadata value of a failed call: trailers past 8 KiB are refused by gRPC
BUSY_RETRY_MS = 1000

PING_MIN_MS = 5_000  # keepalive of clients, no more often

# Agents
CONTACT_FLUSH_S = 15.0
CONTACTS_WAITING = 100_000  # agents remembered between two flushes; past it a contact waits for the agent's next poll
ACKS_GATHER_S = 0.01  # reports of agents that arrive this close together share a command
ACKS_WAITING = 16_384  # reports gathered for commands not yet sent

# Content
INLINE_BYTES = 64 * 1024  # larger content is packed and unpacked in a thread
READ_CONTENTS = 8  # kept parsed by a worker; parsed content takes up to some sixty times its bytes
READ_CONTENTS_BYTES = 2 * 1024 * 1024  # of them together
NOTE_NAMES = 5  # named in a note before "and 3 more"
REFUSAL_REASONS = 5  # of a verdict, in the refusal of a switch
VERDICT_ATTEMPTS = 64  # a pointer that moves meanwhile makes a verdict void; each costs a log entry
VERDICT_BACKOFF_S = 0.01  # at most, before the next one: members that race for a pointer must not go in step

WATCH_BYTES = 1024 * 1024  # of changes in one message
PAGE_BYTES = 4 * 1024 * 1024  # a longer page is cut: its token goes on from there

# HTTP
HTTP_CONNECTIONS = 1024
HTTP_HEAD_BYTES = 16 * 1024
HTTP_BODY_BYTES = 0  # nothing served here takes a body
HTTP_UNREAD_BYTES = 1024 * 1024  # answers a client has not read yet
HTTP_IDLE_S = 30.0

# Backups and recovery
BACKUPS = 4  # given at once by one member
BACKUP_CHUNK_BYTES = 128 * 1024  # of rows, read in one go on the loop
BACKUP_MESSAGE_BYTES = 512 * 1024
ANSWER_S = 2.0  # a member that is asked whether it still runs, before another one is made the whole cluster
BACKUP_STALL_S = 60.0  # a caller that takes nothing for so long is left, and its snapshot with it

# Life
LEVEL_SETTLES_S = 3.0  # after the start of a member: the feature level may still rise
LEVEL_LOOK_S = 0.02
READINESS_INTERVAL_S = 0.25  # how soon health follows the loss of a leader
FOUND_TIMEOUT_S = 5.0
GRACE_S = 30.0  # running calls, after SIGTERM
HANDOVER_S = 5.0
STOP_S = 10.0  # closing everything else

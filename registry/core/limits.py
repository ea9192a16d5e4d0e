"""Every bound of the product, in one place. Past one: a clear error, nothing lost.

Sizes in bytes, times in seconds.
"""

KIB = 1024
MIB = 1024 * KIB

# The highest level of what commands mean that this release can apply; the log says which one is in force. Raised by one
# whenever apply would decide otherwise than before; the old meaning stays for entries below it.
FEATURE_LEVEL = 2

# Names
NAME_CHARS = 63  # of a namespace, a workflow, a pointer, a label key, an agent, a site
LABEL_VALUE_CHARS = 128
LABELS = 32
MESSAGE_CHARS = 4096  # publish message
REASON_CHARS = 1024
DETAIL_CHARS = 1024  # of a nack
PRINCIPAL_CHARS = 128
FACT_CHARS = 256
FACTS = 32
PARENTS = 16
REQUIRES = 64
REQUIRES_CHARS = 256
NEEDS = 32  # of one version
NEED_CHARS = 128
SECRETS = 256  # values left out of one content
SECRET_NAME_CHARS = 256
FINGERPRINT_KEY_BYTES = 32
SUMMARY_CHARS = 512
FINDINGS = 20  # carried by one publish, and so many masked literals
FINDING_CHARS = 300
PATTERNS_CHARS = 512  # of immutable labels, in one policy
DEPENDENTS = 1000  # workflows in one impact
SEARCHED = 1000  # versions looked at for one page of a search: it runs on the loop

# Content
CONTENT_BYTES = 1 * MIB  # registryd --content-limit raises it up to:
CONTENT_BYTES_CEILING = 8 * MIB  # one log entry; larger content needs chunks
LARGE_CONTENT_BYTES = 64 * MIB  # registryd --large-content-limit raises it up to:
LARGE_CONTENT_BYTES_CEILING = 1024 * MIB
CHUNK_BYTES = 512 * KIB  # of exact bytes; all but the last one of a content have this size
CHUNKS = LARGE_CONTENT_BYTES_CEILING // CHUNK_BYTES  # of one content
DELTA_DEPTH = 64  # deltas to undo until a content stands alone
PARSE_DEPTH = 200
PARSE_NODES = 1_000_000  # values in one document, aliases expanded
PARSE_CHARS = 16 * MIB  # characters of its texts and tags, aliases expanded
PARSE_TIME_S = 10.0
PARSE_MEMORY_BYTES = 1024 * MIB

# Commands
MOVES = 64  # pointers in one atomic switch
ACKS = 256  # in one acknowledge
CONTACTS = 5000  # in one acknowledge
FORGOTTEN = 500  # agents and rows of agents, counted together, in one forgetting
BATCH_OPERATIONS = 256
RETAINED = 200  # versions in one retain
COLLECTED = 200  # chunks in one collect
INDEXED = 250  # versions looked at by one index, but a whole workflow at least
BACKUPS_NOTED = 1000  # the oldest are forgotten
RETENTION_SEARCHED = 20_000  # versions that one retain counts; what is not reached is kept
RETENTION_AGENTS = 50_000  # of one workflow; where there are more, everything is kept
RETENTION_CHUNKS = 2 * CHUNKS  # let go of by one retain; what is past it waits for the next one
PURGED = 10_000  # versions with the same bytes in one purge
MISSING_SHOWN = 20  # digests in one rejection
POINTERS_SHOWN = 5  # likewise
KEEP_LAST = 10_000  # of one class: apply counts them
KEEP_DAYS = 36_500
KEEP_CHARS = 128
FOLLOWS = 1000  # pointers one poll follows
KEPT = 16  # digests on an agent's disk that one poll names, for each of them
INLINE_BYTES = 64 * KIB  # of one content inside the reply to a poll
REQUESTS_REMEMBERED = 100_000  # outcomes kept for retries
POINTERS = 100  # of one workflow
ROLLBACK_SWITCHES = 10_000  # a rollback looks back at most this many switches
CLOCK_AHEAD_S = 10.0  # a request id made this far in the future is refused

TIME_MAX_MS = 253_402_300_799_999  # the last moment of the year 9999: calendars know none after it

# Reading
PAGE_DEFAULT = 100
PAGE_MAX = 1000
POLL_WAIT_S = 60.0
AGENT_SILENT_S = 120.0  # two polls and the time until contacts are recorded
AGENT_TWINS_S = 600.0  # for so long after they were seen last, two agents with one name are spoken of
WATCH_BATCH = 256  # changes in one message
WATCH_HEARTBEAT_S = 15.0

# Memory of one process, for speed alone
NAMES_REMEMBERED = 4096  # found good: the same ones come again and again, and every member checks every command
ROWS_REMEMBERED = 512  # decoded, of a kind: who proposes a switch, applies it or delivers it reads the same ones

# gRPC
MESSAGE_BYTES = CONTENT_BYTES_CEILING + 1 * MIB
WATCHERS = 1000  # streams one member serves
POLLERS = 20_000  # waiting polls one member serves

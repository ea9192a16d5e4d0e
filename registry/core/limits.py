"""Every bound of the product, in one place. Past one: a clear error, nothing lost.

Sizes in bytes, times in seconds.
"""

KIB = 1024
MIB = 1024 * KIB

# The highest level of what commands mean that this release can apply; the log says which one is in force. Raised by one
# whenever apply would decide otherwise than before; the old meaning stays for entries below it.
FEATURE_LEVEL = 1

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

# Content
CONTENT_BYTES = 1 * MIB  # registryd --content-limit raises it up to:
CONTENT_BYTES_CEILING = 8 * MIB  # one log entry; larger content needs chunks
PARSE_DEPTH = 200
PARSE_NODES = 1_000_000  # values in one document, aliases expanded
PARSE_TIME_S = 10.0
PARSE_MEMORY_BYTES = 1024 * MIB

# Commands
MOVES = 64  # pointers in one atomic switch
ACKS = 256  # in one acknowledge
CONTACTS = 5000  # in one acknowledge
BATCH_OPERATIONS = 256
FOLLOWS = 1000  # pointers one poll follows
REQUESTS_REMEMBERED = 100_000  # outcomes kept for retries
POINTERS = 100  # of one workflow
ROLLBACK_SWITCHES = 10_000  # a rollback looks back at most this many switches
CLOCK_AHEAD_S = 10.0  # a request id made this far in the future is refused

# Reading
PAGE_DEFAULT = 100
PAGE_MAX = 1000
POLL_WAIT_S = 60.0
AGENT_SILENT_S = 120.0  # two polls and the time until contacts are recorded
WATCH_BATCH = 256  # changes in one message
WATCH_HEARTBEAT_S = 15.0

# gRPC
MESSAGE_BYTES = CONTENT_BYTES_CEILING + 1 * MIB
WATCHERS = 1000  # streams one member serves
POLLERS = 20_000  # waiting polls one member serves

"""Every bound and timeout of the client, in one place. Sizes in bytes, times in seconds."""

from registry.core.limits import KIB, MIB

# One call
TIMEOUT_S = 10.0  # of a whole call, retries included; callers choose theirs
ATTEMPT_S = 1.0  # of one attempt: how long a member that hangs without a word keeps its callers
# with less time left there is no further attempt: a member keeps 0.05 s of a deadline to answer in, and a try in
# that rest would turn its "nothing was done" into an unknown outcome
ATTEMPT_MIN_S = 0.1
BACKOFF_FIRST_S = 0.02  # after every known member failed once
BACKOFF_MAX_S = 0.5
BACKOFF_GROWTH = 1.5
POLL_GRACE_S = 5.0  # a poll may take its wait and this
POLL_AGE_S = 10.0  # a member that has not heard the leader for so long is left for another, after a poll in vain

CONFIRMATIONS_WAIT_S = 3600.0  # a member follows a switch for so long; then it is asked anew
CONFIRMATIONS_SILENCE_S = 15.0  # a member that follows a switch says something within this
BACKUP_SILENCE_S = 30.0  # a member that gives a backup sends something within this
MAINTENANCE_SILENCE_S = 30.0  # and one that scrubs or compacts

# Large content
CHUNKS_IN_FLIGHT = 4  # sent or asked for at once, and so many in memory
CHUNK_TIMEOUT_S = 30.0  # of one chunk, retries included: half a megabyte over a thin line
UPLOAD_ROUNDS = 3  # chunks that were collected before the publish are sent again so often
PUBLISH_BYTES_S = 16 * MIB  # a member that is asked to publish large content looks at all of it, at least this fast

# Members
MEMBERS = 64  # addresses kept, given and learned
LEADER_DISTRUST_S = 1.0  # a member that failed this recently is not asked first, whoever calls it the leader
LEARN_AGAIN_S = 1.0  # after a failure, ask a living member for the others this much later
STATUS_TIMEOUT_S = 1.0

# Coalescing, per member
BATCHES_IN_FLIGHT = 4
BATCH_BYTES = 1 * MIB
COALESCED_BYTES = 64 * KIB  # a larger operation goes alone
WAITING = 10_000  # operations waiting for a batch

# Connections
CONNECT_TIMEOUT_MS = 2_000
RECONNECT_FIRST_MS = 50
RECONNECT_MAX_MS = 500
KEEPALIVE_MS = 20_000
KEEPALIVE_TIMEOUT_MS = 5_000

# HTTP: what a member may send, however it means it
HTTP_HEAD_BYTES = 16 * KIB
HTTP_HEADERS = 64
HTTP_ERROR_BYTES = 64 * KIB
HTTP_BUFFER_BYTES = 256 * KIB  # of a body, arrived and not taken yet: past it no more is read
HTTP_PART_BYTES = 64  # what a part of a body costs beside its bytes
HTTP_REPLY_BYTES = 64 * KIB  # JSON of a reply to a poll: this
HTTP_REPLY_FOLLOW_BYTES = 32 * KIB  # and this for each pointer followed
HTTP_FRAMES_BYTES = 4 * MIB  # content inside the reply to a poll
HTTP_FRAME_SLACK_BYTES = 64 * KIB  # a frame may exceed what is in it by so much: what cannot be compressed
HTTP_OVERLAP_BYTES = 64 * KIB  # of a file that is gone on with: asked for again, and compared
HTTP_CONNECT_S = 5.0
HTTP_LOOKUPS = 4  # of names at once, in one process
HTTP_CALL_S = 60.0  # of one member, for all but polls and large content
HTTP_SPARE_S = 5.0  # a connection beside the one that polls is closed after this long without use
HTTP_TURN = 1 / 8  # of the polls that ended without news, after which another member is asked: load finds its level
HTTP_SPREAD_S = 2.0  # polls that were cut off together ask the next member within this time
HTTP_RETRY_S = (0.1, 10.0)  # until a member that failed is asked again: first, longest
HTTP_RETRY_MAX_S = 60.0  # however long a member says that it is busy
HTTP_KEEPALIVE_S = 20
HTTP_KEEPALIVE_PROBE_S = 5
HTTP_KEEPALIVE_PROBES = 3

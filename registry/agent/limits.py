"""Every bound and timeout of the agent. Sizes in bytes, times in seconds. The registry's are in core.limits."""

from registry.core import limits as core_limits

# Polling
POLL_WAIT_S = 60.0  # the longest a poll is held, shortened by up to POLL_JITTER so that agents do not return in step
POLL_JITTER = 0.25
POLL_SLACK_S = 10.0  # past the wait, until a reply counts as lost
POLL_HELD_S = 1.0  # a poll that was held this long is no failure, even if nothing came
POLL_SETTLE_S = 0.5  # after a reply, for what it brought to be installed: then the next poll says what runs
POLL_BACKOFF_S = (0.2, 10.0)  # first, longest
FRAME_BYTES = core_limits.INLINE_BYTES + 4 * core_limits.KIB  # of bytes that come with a reply; larger ones are ignored
STALE_AFTER_S = 90.0  # without contact
STANDING_AFTER_S = 600.0  # without contact, until what runs is told again: the registry may have forgotten it
STANDING_JITTER = 0.25  # longer, so that agents do not tell it all at once
FACTS_EVERY_S = 60.0  # how often targets are asked what they are
FACTS_TIMEOUT_S = 10.0
FACTS_START_S = 2.0  # how long a start waits for them
CONTACT_EVERY_S = 1.0  # how coarse the last contact is kept on disk

# One installation
FETCHES_AT_ONCE = 4  # content in memory at one time
FETCH_TIMEOUT_S = 60.0  # without anything new
FETCH_ATTEMPTS = 5
FETCH_BACKOFF_S = (0.2, 5.0)
HOLD_OFF_S = (2.0, 60.0)  # after a refusal that may pass (no network, disk full), until it is tried again
CLOCK_EVERY_S = 5.0  # how often the clock is read while an installation waits for its time
CHECK_ATTEMPTS = 5  # of a target that says "later"
CHECK_BACKOFF_S = (1.0, 60.0)  # also between the questions to a pre-check hook that says so
INSTALL_ATTEMPTS = 5
INSTALL_BACKOFF_S = (0.5, 10.0)
RELOAD_ATTEMPTS = 10  # that end with "later"
RELOAD_BACKOFF_S = (0.5, 10.0)
REVERT_ATTEMPTS = 30  # two minutes at least: the bad version may have made the target restart
REVERT_BACKOFF_S = (0.2, 10.0)
RESTORE_ATTEMPTS = 5  # of the reload after the step back
RESTORE_BACKOFF_S = (0.2, 5.0)
RESTARTS = 10  # of the agent within one unproven installation, until it is reverted; then within one step back
KEPT_VERSIONS = 5  # on disk for each follow: a rollback to one of them costs no content bytes
DISK_BACKOFF_S = (0.5, 30.0)  # when a step cannot be made durable

# Commands and probes
PRE_CHECK_TIMEOUT_S = 30.0
RELOAD_TIMEOUT_S = 30.0
POST_TIMEOUT_S = 30.0
LATER_EXIT_CODE = 75  # EX_TEMPFAIL: of a hook that wants to be asked again
OUTPUT_BYTES = 768  # the end of a command's output, for the nack
PROBE_INTERVAL_S = 2.0
PROBE_START_DELAY_S = 0.0
PROBE_TIMEOUT_S = 5.0
PROBE_FAILURES = 3  # in a row: revert
PROBE_SUCCESSES = 1  # in a row: confirm
PROBE_BODY_BYTES = 64 * 1024  # of an HTTP reply, in which a text is looked for
SMOKE_TESTS = 32
SMOKE_TIMEOUT_S = 30.0  # for each
SMOKE_NAME_CHARS = 100  # of one, in a nack

# HTTP
HTTP_HEAD_BYTES = 16 * 1024  # of a reply
HTTP_BLOCK_BYTES = 256 * 1024  # of content at a time

# Targets
PRIVATE_BYTES = 1024 * 1024  # of a file with secrets, keys or passwords
DIRECTORY_SETS = 100  # of links in one directory, with the one in use
DIRECTORY_KEPT_S = 60.0  # for who is still inside a set that was replaced
EXEC_TIMEOUT_S = 60.0
CALLBACK_TIMEOUT_S = 30.0  # for one POST and its answer
CALLBACK_ATTEMPTS = 30  # of one delivery, then it is dead
CALLBACK_BACK_S = 60.0  # how long a step back is tried in one go: the address may be restarting
CALLBACK_BACKOFF_S = (0.5, 10.0)
CALLBACKS_KEPT = 20  # rows of one follow
CALLBACK_SAID_BYTES = 300  # of an answer, in a nack

# Acknowledgements
OUTBOX_ACKS = 2048
ACK_TIMEOUT_S = 10.0
ACK_BACKOFF_S = (0.5, 30.0)
SEQUENCES_RESERVED = 1000  # taken from disk at a time; a restart skips the rest

# Stopping
STOP_GRACE_S = 10.0  # for a running step to finish
STOP_FLUSH_S = 2.0  # for the outbox

# Dify
DIFY_CALL_S = 60.0
DIFY_IMPORT_S = 180.0  # servers may ask their marketplace meanwhile
DIFY_REPLY_BYTES = 32 * 1024 * 1024
DIFY_CONTENT_BYTES = 10 * 1024 * 1024  # of one app: what Dify itself takes from an address
DIFY_PLUGIN_PAGES = 40  # of 256 plugins
DIFY_SAID_CHARS = 300  # of what a server says, in a nack
DIFY_MARKED_NAME_CHARS = 20

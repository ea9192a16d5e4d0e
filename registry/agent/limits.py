"""Every bound and timeout of the agent. Sizes in bytes, times in seconds. The registry's are in core.limits."""

# Polling
POLL_WAIT_S = 60.0  # the longest a poll is held, shortened by up to POLL_JITTER so that agents do not return in step
POLL_JITTER = 0.25
POLL_SLACK_S = 10.0  # past the wait, until a reply counts as lost
POLL_HELD_S = 1.0  # a poll that was held this long is no failure, even if nothing came
POLL_BACKOFF_S = (0.2, 10.0)  # first, longest
STALE_AFTER_S = 90.0  # without contact
CONTACT_EVERY_S = 1.0  # how coarse the last contact is kept on disk

# One installation
FETCHES_AT_ONCE = 4  # content in memory at one time
FETCH_TIMEOUT_S = 60.0  # without anything new
FETCH_ATTEMPTS = 5
FETCH_BACKOFF_S = (0.2, 5.0)
HOLD_OFF_S = (2.0, 60.0)  # after a refusal that may pass (no network, disk full), until it is tried again
REVERT_ATTEMPTS = 5
REVERT_BACKOFF_S = (0.2, 5.0)
RESTARTS = 10  # of the agent within one unproven installation, until it is reverted
KEPT_VERSIONS = 5  # on disk for each follow: a rollback to one of them costs no content bytes
DISK_BACKOFF_S = (0.5, 30.0)  # when a step cannot be made durable

# Commands and probes
RELOAD_TIMEOUT_S = 30.0
OUTPUT_BYTES = 768  # the end of a command's output, for the nack
PROBE_INTERVAL_S = 2.0
PROBE_START_DELAY_S = 0.0
PROBE_TIMEOUT_S = 5.0
PROBE_FAILURES = 3  # in a row: revert
PROBE_SUCCESSES = 1  # in a row: confirm
PROBE_HEAD_BYTES = 16 * 1024  # of an HTTP reply, to its status line

# Acknowledgements
OUTBOX_ACKS = 2048
ACK_TIMEOUT_S = 10.0
ACK_BACKOFF_S = (0.5, 30.0)
SEQUENCES_RESERVED = 1000  # taken from disk at a time; a restart skips the rest

# Stopping
STOP_GRACE_S = 10.0  # for a running step to finish
STOP_FLUSH_S = 2.0  # for the outbox

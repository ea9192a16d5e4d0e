"""Every bound and timeout of watched sources. Sizes in bytes, times in seconds."""

from registry.core.limits import LARGE_CONTENT_BYTES, MIB

SOURCES = 1000  # in one file of sources
CONFIG_BYTES = 1 * MIB  # of that file
FILES = 1000  # of one directory
FILE_BYTES = LARGE_CONTENT_BYTES  # of one file, read at once

EVERY_S = 600.0  # between looks at one source, unless it says otherwise:
EVERY_MIN_S = 1.0
EVERY_MAX_S = 30 * 86_400.0

SETTLE_S = 1.0  # between two looks that must be equal: a half-written export is no version
UNSETTLED = 10  # looks that found something else than the one before, until the file is left to the next time
BATCH = 50  # files published between two notes of what was done
BEAT_MIN_S = 0.5
BEAT_MAX_S = 2.0  # the file of sources is looked at so often
BACKOFF_S = (5.0, 600.0)  # first, longest, after a publish that may succeed later
ONCE_WAITING = 3  # publishes without an outcome that end a run --once: the registry cannot be reached, probably

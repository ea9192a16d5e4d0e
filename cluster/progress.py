"""How far one peer is, as the leader sees it: numbering, what is in flight, when to hold back. Pure.

The engine keeps nextIndex and matchIndex; this keeps what it lacks. Each append has a number that the reply echoes. A
rejection counts only if its append was sent after the last rejection that counted (the barrier): older ones speak of a
log that has been corrected since. After a success the engine would send everything in flight again; `acknowledged`
returns where to go on instead. Past a window of bytes unacknowledged the peer is held: heartbeats only, until
acknowledgements open half of the window or a second passes in silence. A peer that needs entries below the log's start
is installing: heartbeats only, until it answers one with success.
"""

from __future__ import annotations

from collections import deque


class Progress:
    def __init__(self, window_bytes: int) -> None:
        self._window_bytes = window_bytes
        self._number = 0
        self._barrier = 0
        self._sent_to = 0  # highest index sent
        self._flight: deque[tuple[int, int]] = deque()  # (last index, bytes) of what is not acknowledged
        self._flight_bytes = 0
        self._held_from = 0  # first index held back; 0: not held
        self._moved_at = 0.0  # last progress
        self.installing = False

    def begin_term(self) -> None:
        self.forget_flight()
        self._sent_to = 0
        self.installing = False

    def install(self) -> None:
        self.installing = True
        self.forget_flight()

    def installed(self, next_index: int) -> None:
        """The peer has what is below `next_index`; rejections of before speak of another log."""
        self.installing = False
        self._barrier, self._sent_to = self._number, next_index - 1
        self.forget_flight()

    def forget_flight(self) -> None:
        self._flight.clear()
        self._flight_bytes = 0
        self._held_from = 0

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def is_silent(self, now: float, silence_s: float) -> bool:
        """Held, and without progress for long: what was sent may be lost."""
        return self._held_from > 0 and now - self._moved_at > silence_s

    def restart(self, match_index: int, now: float) -> int:
        """Forget what was sent; the index to go on from. Every log has entry 1."""
        self.forget_flight()
        self._moved_at, self._sent_to = now, max(match_index, 1)
        return self._sent_to + 1

    def must_hold(self, previous_index: int, size_bytes: int) -> bool:
        full = self._flight_bytes + size_bytes > self._window_bytes
        if not self._held_from and size_bytes and self._flight and full:
            self._held_from = previous_index + 1
        return self._held_from > 0

    def sent(self, last_index: int, size_bytes: int, now: float) -> None:
        self._sent_to = last_index
        if size_bytes:
            if not self._flight:
                self._moved_at = now
            self._flight.append((last_index, size_bytes))
            self._flight_bytes += size_bytes

    def rejected(self, number: int, next_index: int) -> bool:
        """Whether this rejection counts; `next_index` is where sending goes on then."""
        if number <= self._barrier:
            return False
        self._barrier, self._sent_to = self._number, next_index - 1
        self.forget_flight()
        return True

    def acknowledged(self, index: int, now: float) -> int:
        """A success up to `index`: where sending goes on, or 0 while the peer is held."""
        moved = not self._flight
        while self._flight and self._flight[0][0] <= index:
            self._flight_bytes -= self._flight.popleft()[1]
            self._moved_at, moved = now, True
        self._sent_to = max(self._sent_to, index)
        if self._held_from:
            # An answer that acknowledges nothing in flight opens nothing: what it waits for may be lost, and then only
            # silence brings it back.
            if not moved or self._flight_bytes >= self._window_bytes / 2:
                return 0
            self._sent_to = max(self._held_from - 1, index)
            self._held_from = 0
        return self._sent_to + 1
